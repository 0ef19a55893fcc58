//! A model behind an API: what is asked, what comes back, and one request. What an
//! API's messages look like is its [`Wire`]'s business.
//!
//! The model's id decides which API is meant: `anthropic/…` and `claude-…` are
//! Anthropic's; `openai/…` and every other id go to an API that is compatible with
//! OpenAI's chat completions. The prefixes `anthropic/` and `openai/` are not sent.

use super::anthropic::Anthropic;
use super::conversation::Conversation;
use super::ledger::Spent;
use super::openai::OpenAi;
use crate::redact::head;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of an API's words in a message.
const LONGEST_WORDS: usize = 1000;
/// Bytes of the longest answer that is read.
const LONGEST_BODY: usize = 32 * 1024 * 1024;
/// The longest pause that an API may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A tool that the model may call.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    /// Its name.
    pub(super) name: &'static str,
    /// What it does, for the model.
    pub(super) description: String,
    /// The JSON Schema of its input.
    pub(super) schema: Value,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolCall {
    /// The API's id of the call.
    pub(super) id: String,
    /// The tool.
    pub(super) name: String,
    /// Its input, or why it cannot be read.
    pub(super) input: Result<Value, String>,
}

/// What the model says.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Its message as the API wrote it, to be sent back with the next request.
    pub(super) raw: Value,
    /// Its text.
    pub(super) text: String,
    /// The tools it calls, in order.
    pub(super) calls: Vec<ToolCall>,
    /// It was cut at its longest.
    pub(super) cut: bool,
    /// What it took; `None` when the API does not say.
    pub(super) spent: Option<Spent>,
}

/// The shape of an API's requests and answers.
pub(super) trait Wire {
    /// Where requests go.
    fn url(&self) -> String;
    /// The headers with the key.
    fn headers(&self) -> Vec<(&'static str, String)>;
    /// The body that asks for the next turn.
    fn body(&self, conversation: &Conversation, tools: &[Tool], max_tokens: u64) -> Value;
    /// Reads an answer.
    ///
    /// # Errors
    /// What is not as the API documents it.
    fn read(&self, body: &Value) -> Result<Answer, String>;
    /// What a token costs that is written to the cache, as a multiple of one that
    /// is read.
    fn cache_write(&self) -> f64;
    /// The most tokens of an answer that are worth asking for.
    fn longest_answer(&self) -> u64;
}

/// The variables with keys. What the model runs does not get to see them.
pub(super) const KEYS: [&str; 3] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "OPENAI_API_KEY",
];

/// Why there is no model to ask.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoModel {
    /// The agent does not name one.
    #[error("the agent names no model; give it one, `model: claude-sonnet-4-6` for instance")]
    Unnamed,
    /// There is no key for the API.
    #[error("there is no key for the model `{model}`: set {variables} in the sandbox's env_file")]
    NoKey {
        /// The model.
        model: String,
        /// What may be set.
        variables: &'static str,
    },
    /// This machine cannot make requests.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// What happened, for people.
    pub(super) message: String,
    /// It is worth another try, after this long if the API says so.
    pub(super) again: Option<Option<Duration>>,
    /// The API may have worked on it, and may charge it.
    pub(super) may_cost: bool,
}

/// A model.
pub(super) struct Model {
    wire: Box<dyn Wire>,
    http: reqwest::Client,
}

impl Model {
    /// The model with this id, with keys and addresses from `environment`.
    ///
    /// # Errors
    /// See [`NoModel`].
    pub(super) fn of(
        id: Option<&str>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, NoModel> {
        let id = id.filter(|id| !id.is_empty()).ok_or(NoModel::Unnamed)?;
        let set = |name: &str| {
            environment
                .get(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let no_key = |variables| NoModel::NoKey {
            model: id.to_owned(),
            variables,
        };
        let anthropic = id
            .strip_prefix("anthropic/")
            .or_else(|| id.starts_with("claude-").then_some(id));
        let wire: Box<dyn Wire> = match anthropic {
            Some(name) => Box::new(
                Anthropic::new(
                    name,
                    set("ANTHROPIC_BASE_URL"),
                    set("ANTHROPIC_API_KEY"),
                    set("ANTHROPIC_AUTH_TOKEN"),
                )
                .ok_or_else(|| no_key("ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN"))?,
            ),
            None => Box::new(
                OpenAi::new(
                    id.strip_prefix("openai/").unwrap_or(id),
                    set("OPENAI_BASE_URL"),
                    set("OPENAI_API_KEY"),
                )
                .ok_or_else(|| no_key("OPENAI_API_KEY"))?,
            ),
        };
        let http = reqwest::Client::builder()
            // A redirect would carry the key to a place nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| NoModel::Setup(error.to_string()))?;
        Ok(Self { wire, http })
    }

    /// What a token costs that is written to the cache.
    pub(super) fn cache_write(&self) -> f64 {
        self.wire.cache_write()
    }

    /// The most tokens of an answer that are worth asking for.
    pub(super) fn longest_answer(&self) -> u64 {
        self.wire.longest_answer()
    }

    /// The body that asks for the next turn.
    pub(super) fn body(
        &self,
        conversation: &Conversation,
        tools: &[Tool],
        max_tokens: u64,
    ) -> Value {
        self.wire.body(conversation, tools, max_tokens)
    }

    /// Sends one request, `patience` at most.
    ///
    /// # Errors
    /// Why there is no answer, and whether to try again.
    pub(super) async fn ask(&self, body: &Value, patience: Duration) -> Result<Answer, NoAnswer> {
        let mut request = self
            .http
            .post(self.wire.url())
            .timeout(patience)
            .header("content-type", "application/json")
            .body(body.to_string());
        for (name, value) in self.wire.headers() {
            request = request.header(name, value);
        }
        let broken = |error: reqwest::Error| NoAnswer {
            message: format!("the model's API cannot be reached: {}", causes(&error)),
            again: (!error.is_builder()).then_some(None),
            may_cost: !error.is_builder() && !error.is_connect(),
        };
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        let pause = retry_after(response.headers());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LONGEST_BODY {
                return Err(NoAnswer {
                    message: format!("the model's API answers with more than {LONGEST_BODY} bytes"),
                    again: None,
                    may_cost: true,
                });
            }
        }
        let body: Option<Value> = serde_json::from_slice(&bytes).ok();
        if !status.is_success() {
            let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            return Err(NoAnswer {
                message: format!(
                    "the model's API answers with status {}: {}",
                    status.as_u16(),
                    words(body.as_ref(), &bytes)
                ),
                again: passing.then_some(pause),
                may_cost: false,
            });
        }
        body.ok_or_else(|| "it is not JSON".to_owned())
            .and_then(|body| self.wire.read(&body))
            .map_err(|wrong| NoAnswer {
                message: format!(
                    "the answer of the model's API cannot be read: {wrong}: {}",
                    head(&String::from_utf8_lossy(&bytes), LONGEST_WORDS)
                ),
                again: None,
                may_cost: true,
            })
    }
}

/// What an API says of an error. Both name it `error.message`.
fn words(body: Option<&Value>, bytes: &[u8]) -> String {
    let said = body
        .and_then(|body| body.get("error"))
        .and_then(|error| error.get("message").or(Some(error)))
        .map(|message| {
            message
                .as_str()
                .map_or_else(|| message.to_string(), str::to_owned)
        })
        .unwrap_or_else(|| String::from_utf8_lossy(bytes).trim().to_owned());
    if said.is_empty() {
        "it says nothing".to_owned()
    } else {
        head(&said, LONGEST_WORDS)
    }
}

/// The pause that an API asks for, in seconds; a date is not read.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers
        .get("retry-after")?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .map(|pause| pause.min(LONGEST_PAUSE))
}

/// An error with what caused it, without the URL: it may hold a key.
fn causes(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "no connection".to_owned()
    } else if error.is_builder() {
        "its address cannot be used".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A number in an object, zero when it is not there.
pub(super) fn count(value: &Value, pointer: &str) -> u64 {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(id: &str) -> String {
        let environment = BTreeMap::from(
            [
                ("ANTHROPIC_API_KEY", "a"),
                ("OPENAI_API_KEY", "o"),
                ("OPENAI_BASE_URL", "http://localhost:1/v1/"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let model = Model::of(Some(id), &environment).unwrap();
        let body = model.body(&Conversation::new(String::new(), String::new()), &[], 1);
        format!("{} {}", model.wire.url(), body["model"].as_str().unwrap())
    }

    #[test]
    fn the_id_decides_which_api_is_meant() {
        let anthropic = "https://api.anthropic.com/v1/messages";
        let openai = "http://localhost:1/v1/chat/completions";
        assert_eq!(
            url("claude-sonnet-4-6"),
            format!("{anthropic} claude-sonnet-4-6")
        );
        assert_eq!(url("anthropic/claude-x"), format!("{anthropic} claude-x"));
        assert_eq!(url("openai/gpt-5"), format!("{openai} gpt-5"));
        assert_eq!(url("gpt-5"), format!("{openai} gpt-5"));
        assert_eq!(url("deepseek/chat"), format!("{openai} deepseek/chat"));
    }

    #[test]
    fn a_missing_model_or_key_says_what_to_set() {
        let none = BTreeMap::new();
        let said = |id| Model::of(id, &none).err().unwrap().to_string();
        assert!(said(None).contains("names no model"));
        assert!(said(Some("claude-x")).contains("ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN"));
        assert!(said(Some("gpt-5")).contains("OPENAI_API_KEY"));
    }

    #[test]
    fn errors_are_the_apis_own_words() {
        let error = serde_json::json!({"error": {"message": "overloaded"}});
        assert_eq!(words(Some(&error), b""), "overloaded");
        assert_eq!(words(None, b"<html>"), "<html>");
        assert_eq!(words(None, b""), "it says nothing");
    }
}
