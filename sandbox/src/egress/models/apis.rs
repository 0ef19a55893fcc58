//! The model APIs that a sandbox's variables lead to, and what the sandbox is given in
//! place of these variables.
//!
//! A key is kept under its name with a placeholder as its value, so that each tool
//! chooses among its ways to show a key as it would have with the key itself. The
//! proxy then puts the key where the placeholder is.

use reqwest::Url;
use std::collections::BTreeMap;

/// What a request for a model API begins with.
pub(crate) const PREFIX: &str = "/_models/";
/// How the variable of a base URL ends.
const BASE_URL: &str = "_BASE_URL";
/// How the variable of a key ends.
const API_KEY: &str = "_API_KEY";
/// Bytes of a value that cannot stand in another variable by chance.
const SHORTEST_KEY: usize = 6;

/// The shape of an API's requests, answers and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Anthropic's.
    Anthropic,
    /// OpenAI's, and that of all that are compatible with it.
    OpenAi,
}

/// The header that a key goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `x-api-key: KEY`
    ApiKey,
    /// `authorization: Bearer KEY`
    Bearer,
}

/// An API whose variables are known.
struct Known {
    prefix: &'static str,
    form: Form,
    base: &'static str,
    keys: &'static [(&'static str, Place)],
}

const KNOWN: [Known; 7] = [
    Known {
        prefix: "ANTHROPIC",
        form: Form::Anthropic,
        base: "https://api.anthropic.com",
        keys: &[
            ("ANTHROPIC_API_KEY", Place::ApiKey),
            ("ANTHROPIC_AUTH_TOKEN", Place::Bearer),
            ("CLAUDE_CODE_OAUTH_TOKEN", Place::Bearer),
        ],
    },
    Known {
        prefix: "OPENAI",
        form: Form::OpenAi,
        base: "https://api.openai.com/v1",
        keys: &[
            ("OPENAI_API_KEY", Place::Bearer),
            ("CODEX_API_KEY", Place::Bearer),
        ],
    },
    // opencode's, by the names it has for them.
    Known {
        prefix: "DEEPSEEK",
        form: Form::OpenAi,
        base: "https://api.deepseek.com/v1",
        keys: &[("DEEPSEEK_API_KEY", Place::Bearer)],
    },
    Known {
        prefix: "GROQ",
        form: Form::OpenAi,
        base: "https://api.groq.com/openai/v1",
        keys: &[("GROQ_API_KEY", Place::Bearer)],
    },
    Known {
        prefix: "MISTRAL",
        form: Form::OpenAi,
        base: "https://api.mistral.ai/v1",
        keys: &[("MISTRAL_API_KEY", Place::Bearer)],
    },
    Known {
        prefix: "OPENROUTER",
        form: Form::OpenAi,
        base: "https://openrouter.ai/api/v1",
        keys: &[("OPENROUTER_API_KEY", Place::Bearer)],
    },
    Known {
        prefix: "XAI",
        form: Form::OpenAi,
        base: "https://api.x.ai/v1",
        keys: &[("XAI_API_KEY", Place::Bearer)],
    },
];

/// Variables that hold keys of models, or may, and lead to what is spoken neither as
/// Anthropic's API nor as OpenAI's.
const NOT_SERVED: [&str; 7] = [
    "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_FOUNDRY_API_KEY",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AZURE_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_GENERATIVE_AI_API_KEY",
];

/// A sandbox's variables that the proxy can do nothing with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApisError {
    /// A key of an API that is not spoken.
    #[error(
        "`model_keys: proxy` cannot keep {0} out of the sandbox: the proxy speaks to Anthropic's and \
         OpenAI's APIs and to compatible ones; take it out of the env_file, or leave `model_keys` out"
    )]
    NotServed(&'static str),
    /// A base URL that is none.
    #[error("{0} in the sandbox's env_file is not an http:// or https:// URL")]
    BaseUrl(String),
}

/// An API that a sandbox may reach.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Api {
    /// What its variables begin with.
    pub(crate) prefix: String,
    /// What is spoken.
    pub(crate) form: Form,
    /// Where it is; with its `/v1`, if it has one.
    pub(crate) base: Url,
    /// Its keys; a server of one's own may need none.
    pub(crate) keys: Vec<Key>,
}

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The variable that holds it.
    pub(crate) variable: String,
    /// It itself.
    pub(crate) value: String,
    /// Where it goes.
    pub(crate) place: Place,
}

impl Key {
    /// What the sandbox has in its place.
    pub(crate) fn placeholder(&self) -> String {
        format!("loopy-adds-{}", self.variable)
    }
}

impl Api {
    /// What it is called in paths and in the list of calls.
    pub(crate) fn name(&self) -> String {
        self.prefix.to_ascii_lowercase()
    }

    /// What its paths begin with at the proxy. Anthropic's clients differ in whether
    /// the `/v1` is part of the base URL, so it is never part of it here.
    fn path(&self) -> String {
        let end = match self.form {
            Form::Anthropic => "",
            Form::OpenAi => "/v1",
        };
        format!("{PREFIX}{}{end}", self.name())
    }

    fn new(
        prefix: &str,
        form: Form,
        default: Option<&str>,
        keys: Vec<Key>,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, ApisError> {
        let variable = format!("{prefix}{BASE_URL}");
        let given = set(env, &variable);
        // Without either, nobody means it.
        let Some(base) = given.or(default.filter(|_| !keys.is_empty())) else {
            return Ok(None);
        };
        let mut base = base.trim_end_matches('/').to_owned();
        if form == Form::Anthropic && !base.ends_with("/v1") {
            base.push_str("/v1");
        }
        let base = Url::parse(&base)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or(ApisError::BaseUrl(variable))?;
        Ok(Some(Self {
            prefix: prefix.to_owned(),
            form,
            base,
            keys,
        }))
    }
}

/// The APIs that these variables lead to.
///
/// # Errors
/// See [`ApisError`].
pub(crate) fn apis(env: &BTreeMap<String, String>) -> Result<Vec<Api>, ApisError> {
    let mut apis = Vec::new();
    for known in &KNOWN {
        let keys = known
            .keys
            .iter()
            .filter_map(|(variable, place)| key(env, variable, *place))
            .collect();
        apis.extend(Api::new(
            known.prefix,
            known.form,
            Some(known.base),
            keys,
            env,
        )?);
    }
    // One's own, as opencode finds them: by a base URL beside the key.
    for variable in env.keys() {
        let Some(prefix) = variable.strip_suffix(API_KEY) else {
            continue;
        };
        let fits = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
        let named = !prefix.is_empty() && prefix.bytes().all(fits);
        if !named || KNOWN.iter().any(|known| known.prefix == prefix) {
            continue;
        }
        let keys = key(env, variable, Place::Bearer).into_iter().collect();
        apis.extend(Api::new(prefix, Form::OpenAi, None, keys, env)?);
    }
    let served = |variable: &str| {
        let keys = apis.iter().flat_map(|api| &api.keys);
        keys.into_iter().any(|key| key.variable == variable)
    };
    match NOT_SERVED
        .into_iter()
        .find(|variable| set(env, variable).is_some() && !served(variable))
    {
        Some(variable) => Err(ApisError::NotServed(variable)),
        None => Ok(apis),
    }
}

/// Puts placeholders in the place of keys, and the proxy in that of the APIs. `proxy`
/// is its address as a URL, without a path.
pub(crate) fn stand_in(env: &mut BTreeMap<String, String>, apis: &[Api], proxy: &str) {
    for api in apis {
        for key in &api.keys {
            for (variable, value) in env.iter_mut() {
                let same = value.trim() == key.value && key.value.len() >= SHORTEST_KEY;
                if *variable == key.variable || same {
                    *value = key.placeholder();
                }
            }
        }
        env.insert(
            format!("{}{BASE_URL}", api.prefix),
            format!("{proxy}{}", api.path()),
        );
    }
}

fn key(env: &BTreeMap<String, String>, variable: &str, place: Place) -> Option<Key> {
    Some(Key {
        variable: variable.to_owned(),
        value: set(env, variable)?.to_owned(),
        place,
    })
}

fn set<'a>(env: &'a BTreeMap<String, String>, variable: &str) -> Option<&'a str> {
    let value = env.get(variable)?.trim();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(pair).collect()
    }

    fn bases(pairs: &[(&str, &str)]) -> Vec<String> {
        let found = apis(&env(pairs)).unwrap();
        found.iter().map(|api| api.base.to_string()).collect()
    }

    #[test]
    fn the_variables_say_which_apis_there_are() {
        assert_eq!(bases(&[("PATH", "/bin"), ("LINEAR_API_KEY", "x")]), [""; 0]);
        assert_eq!(bases(&[("OPENAI_API_KEY", " ")]), [""; 0]);
        assert_eq!(
            bases(&[("CLAUDE_CODE_OAUTH_TOKEN", "t"), ("CODEX_API_KEY", "k")]),
            ["https://api.anthropic.com/v1", "https://api.openai.com/v1"]
        );
        // With or without its `/v1`, and without a key.
        for base in ["http://gate.test/a", "http://gate.test/a/v1/"] {
            assert_eq!(
                bases(&[("ANTHROPIC_BASE_URL", base)]),
                ["http://gate.test/a/v1"]
            );
        }
        assert_eq!(
            bases(&[
                ("MY_GATE_API_KEY", "k"),
                ("MY_GATE_BASE_URL", "https://gate.test/api/"),
                ("OTHER_BASE_URL", "https://other.test"),
            ]),
            ["https://gate.test/api"]
        );
    }

    #[test]
    fn keys_leave_and_all_else_stays() {
        let mut variables = env(&[
            ("ANTHROPIC_API_KEY", "sk-ant-real"),
            ("ANTHROPIC_AUTH_TOKEN", "token-real"),
            ("COPY", "sk-ant-real"),
            ("MY_GATE_API_KEY", "gate-real"),
            ("MY_GATE_BASE_URL", "https://gate.test"),
            ("GITHUB_TOKEN", "ghs"),
        ]);
        let found = apis(&variables).unwrap();
        stand_in(&mut variables, &found, "http://10.0.0.1:40960");
        assert_eq!(
            variables,
            env(&[
                ("ANTHROPIC_API_KEY", "loopy-adds-ANTHROPIC_API_KEY"),
                ("ANTHROPIC_AUTH_TOKEN", "loopy-adds-ANTHROPIC_AUTH_TOKEN"),
                (
                    "ANTHROPIC_BASE_URL",
                    "http://10.0.0.1:40960/_models/anthropic"
                ),
                ("COPY", "loopy-adds-ANTHROPIC_API_KEY"),
                ("MY_GATE_API_KEY", "loopy-adds-MY_GATE_API_KEY"),
                (
                    "MY_GATE_BASE_URL",
                    "http://10.0.0.1:40960/_models/my_gate/v1"
                ),
                ("GITHUB_TOKEN", "ghs"),
            ])
        );
    }

    #[test]
    fn what_cannot_be_kept_out_is_refused_by_name() {
        let why = |pairs: &[(&str, &str)]| apis(&env(pairs)).err().unwrap().to_string();
        assert!(why(&[("GEMINI_API_KEY", "k")]).contains("GEMINI_API_KEY"));
        for base in ["gate.test", "file:///etc", "http://"] {
            assert!(why(&[("OPENAI_BASE_URL", base)]).contains("OPENAI_BASE_URL"));
        }
        // As a compatible API it can.
        assert_eq!(
            bases(&[
                ("GEMINI_API_KEY", "k"),
                ("GEMINI_BASE_URL", "http://a.test")
            ]),
            ["http://a.test/"]
        );
    }
}
