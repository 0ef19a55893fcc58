//! `opencode`: the open-source command-line agent, without a terminal.
//!
//! The prompt goes in by stdin (an argument is bounded), one JSON event a line
//! comes out, none of them a closing result: the last step's reason says whether
//! the agent was done, and the sum over the steps what it used. The tool tries a
//! failing model API again without end, and tells of it only in its log.

use super::answer::{self, HAND_OVER, HAND_OVER_AGAIN};
use super::ending::no_result;
use super::mend::Mending;
use super::watch::{Read, Watch, patience};
use super::{Drive, Job, failure};
use crate::outcome::declares_any;
use crate::prompt;
use loopy_contract::price::Price;
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The agent with the tools that the step allows.
const AGENT: &str = "loopy";
/// Switches off what the tool looks for elsewhere.
const QUIET: [&str; 4] = [
    "OPENCODE_DISABLE_AUTOUPDATE",
    "OPENCODE_DISABLE_MODELS_FETCH",
    "OPENCODE_DISABLE_LSP_DOWNLOAD",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS",
];
/// The tool's folders, which would else lie in the home.
const FOLDERS: [(&str, &str); 4] = [
    ("XDG_CONFIG_HOME", "config"),
    ("XDG_DATA_HOME", "data"),
    ("XDG_STATE_HOME", "state"),
    ("XDG_CACHE_HOME", "cache"),
];
/// Where it writes what happens in a session, below its data folder.
const JOURNAL: &str = "opencode/opencode.db-wal";
/// The tools of its own, by the name of the permission that each needs.
const TOOLS: [(&str, &str); 13] = [
    ("bash", "bash"),
    ("codesearch", "codesearch"),
    ("edit", "edit"),
    ("glob", "glob"),
    ("grep", "grep"),
    ("list", "list"),
    ("lsp", "lsp"),
    ("read", "read"),
    ("skill", "skill"),
    ("todowrite", "todowrite"),
    ("webfetch", "webfetch"),
    ("websearch", "websearch"),
    ("write", "edit"),
];
/// The tool that starts further agents.
const TASK: &str = "task";

/// The `opencode` harness.
pub(super) struct Opencode;

impl Drive for Opencode {
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        let declares = declares_any(job.envelope);
        let setup = Setup::create(job)?;
        let mut prompt = prompt::render(job.envelope, HAND_OVER)?;
        let mut session = None;
        let mut mending = Mending::default();
        loop {
            let ended = invoke(job, &setup, &prompt, session.as_deref()).await?;
            if !declares {
                return ended.without_output();
            }
            let violations = match answer::outcome(job.envelope, &ended.answer) {
                Ok(outcome) => return Ok(outcome),
                Err(violations) => ended.also_denied(violations),
            };
            session = ended.session;
            prompt = mending.prompt(job, &violations, session.is_some(), HAND_OVER_AGAIN)?;
        }
    }
}

/// What every run of the tool is given.
struct Setup {
    folder: PathBuf,
    config: String,
}

impl Setup {
    fn create(job: &Job<'_>) -> Result<Self, Failure> {
        let config = config(job.envelope, job.environment, patience(job)?)?;
        let folder = job.control.file("opencode");
        for (_, name) in FOLDERS {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(|error| {
                failure(
                    FailureClass::Sandbox,
                    format!("cannot create {}: {error}", path.display()),
                )
            })?;
        }
        Ok(Self {
            folder,
            config: config.to_string(),
        })
    }
}

/// The tool's configuration; it counts before that of a repository. No key is in
/// it, as the agent's commands can read it.
fn config(
    envelope: &Envelope,
    environment: &BTreeMap<String, String>,
    patience: Duration,
) -> Result<Value, Failure> {
    // It does not say what further agents use, so no cap would hold for them.
    let mut permission = json!({ TASK: "deny" });
    let mut config = json!({"autoupdate": false, "share": "disabled"});
    if !envelope.tools.is_empty() {
        permission = permissions(envelope)?;
        config["agent"] = json!({ AGENT: {"mode": "primary", "permission": permission} });
    } else {
        config["permission"] = permission;
    }
    if let Some(model) = &envelope.model {
        let (provider, name) = provider_and_model(model)?;
        config["provider"] =
            json!({ provider: provider_of(provider, name, envelope.price, environment, patience) });
    }
    Ok(config)
}

/// A model as the tool takes it. The provider may be left out where the name of
/// the model tells it.
fn provider_and_model(model: &str) -> Result<(&str, &str), Failure> {
    match model.split_once('/') {
        Some((provider, name)) if !provider.is_empty() && !name.is_empty() => {
            return Ok((provider, name));
        }
        None if model.starts_with("claude-") => return Ok(("anthropic", model)),
        None if model.starts_with("gpt-") || model.starts_with("codex") => {
            return Ok(("openai", model));
        }
        _ => {}
    }
    Err(failure(
        FailureClass::Crash,
        format!(
            "the harness `opencode` takes a model as `provider/model`, and the agent's is `{model}`"
        ),
    ))
}

/// How a provider is reached, and what its model costs. The variables are named
/// after it: `OPENAI_BASE_URL` for `openai`, `MY_GATE_API_KEY` for `my-gate`.
fn provider_of(
    provider: &str,
    model: &str,
    price: Option<Price>,
    environment: &BTreeMap<String, String>,
    patience: Duration,
) -> Value {
    let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let mut options = json!({"headerTimeout": millis, "chunkTimeout": millis});
    let mut known = Map::new();
    let prefix: String = provider
        .chars()
        .map(|c| match c.to_ascii_uppercase() {
            c @ ('A'..='Z' | '0'..='9') => c,
            _ => '_',
        })
        .collect();
    let base_url = environment
        .get(&format!("{prefix}_BASE_URL"))
        .filter(|url| !url.is_empty());
    if let Some(url) = base_url {
        options["baseURL"] = url.trim_end_matches('/').into();
        // These two it knows with an API of their own.
        if !matches!(provider, "openai" | "anthropic") {
            known.insert("npm".to_owned(), "@ai-sdk/openai-compatible".into());
            known.insert("env".to_owned(), json!([format!("{prefix}_API_KEY")]));
        }
    }
    let cost = price.map(|price| {
        json!({"cost": {
            "input": price.input,
            "output": price.output,
            "cache_read": price.cached.unwrap_or(price.input),
        }})
    });
    known.insert("options".to_owned(), options);
    known.insert(
        "models".to_owned(),
        json!({ model: cost.unwrap_or_else(|| json!({})) }),
    );
    known.into()
}

/// Leaves the agent just these tools: others do not exist for it. An entry may
/// narrow a tool: `bash(git log *)`. An agent with skills keeps the tool that
/// loads them.
fn permissions(envelope: &Envelope) -> Result<Value, Failure> {
    let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let skill = (!envelope.skills.is_empty()).then_some("skill");
    for tool in envelope.tools.iter().map(String::as_str).chain(skill) {
        let (name, pattern) = match tool.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')')),
            None => (tool, Some("*")),
        };
        let name = name.trim().to_ascii_lowercase();
        let own = TOOLS
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, permission)| (*permission).to_owned());
        // The tools of an MCP server are `server_tool`.
        let permission = own.or_else(|| name.contains('_').then(|| name.clone()));
        let (Some(permission), Some(pattern)) = (permission, pattern) else {
            let names: Vec<&str> = TOOLS.iter().map(|(name, _)| *name).collect();
            return Err(failure(
                FailureClass::Crash,
                format!(
                    "the harness `opencode` cannot allow `{tool}`; it has {}, each alone or narrowed as in `bash(git log *)`, and the tools of MCP servers, `server_tool`",
                    names.join(", ")
                ),
            ));
        };
        rules
            .entry(permission)
            .or_default()
            .push(pattern.to_owned());
    }
    // The last rule that fits counts; `*` sorts before every letter.
    let mut permissions = Map::new();
    permissions.insert("*".to_owned(), "deny".into());
    for (permission, patterns) in rules {
        let rule = if patterns.iter().any(|pattern| pattern == "*") {
            "allow".into()
        } else {
            let mut rule = Map::new();
            rule.insert("*".to_owned(), "deny".into());
            rule.extend(
                patterns
                    .into_iter()
                    .map(|pattern| (pattern, "allow".into())),
            );
            rule.into()
        };
        permissions.insert(permission, rule);
    }
    Ok(permissions.into())
}

/// What one run of the tool came to.
#[derive(Debug)]
struct Answered {
    /// The last message.
    answer: String,
    /// Why its last step ended.
    reason: String,
    /// The session to go on with.
    session: Option<String>,
    /// The tools that the agent was denied.
    denied: BTreeSet<String>,
}

impl Answered {
    /// The outcome of a step that declares nothing. Nobody can see then whether
    /// the work was done, so a tool that was denied counts as a failure.
    fn without_output(self) -> Result<Outcome, Failure> {
        let why = if !self.denied.is_empty() {
            let denied: Vec<String> = self.denied.into_iter().collect();
            format!(
                "the agent was denied what it tried: {}; add it to the agent's `tools`",
                denied.join(", ")
            )
        } else if self.reason != "stop" {
            format!(
                "opencode ended before the agent was done: its last step ended with `{}`",
                self.reason
            )
        } else {
            return Ok(Outcome::Succeeded {
                output: Map::new(),
                emits: BTreeMap::new(),
            });
        };
        Err(failure(FailureClass::Crash, why))
    }

    /// The violations, and the tools that the agent was denied, as that may be
    /// why.
    fn also_denied(&self, mut violations: Vec<String>) -> Vec<String> {
        violations.extend(
            self.denied
                .iter()
                .map(|tool| format!("the agent was denied the tool {tool}")),
        );
        violations
    }
}

/// Runs the tool once, in a new session or in `session`.
async fn invoke(
    job: &Job<'_>,
    setup: &Setup,
    prompt: &str,
    session: Option<&str>,
) -> Result<Answered, Failure> {
    let mut opencode = job.command("opencode");
    opencode.args(["run", "--format", "json", "--auto"]);
    // Its log tells of requests that it tries again.
    opencode.args(["--print-logs", "--log-level", "WARN"]);
    match session {
        Some(session) => opencode.arg(format!("--session={session}")),
        // Without a title it asks the model for one.
        None => opencode.arg(format!("--title={}", job.envelope.step)),
    };
    if let Some(model) = &job.envelope.model {
        let (provider, name) = provider_and_model(model)?;
        opencode.arg(format!("--model={provider}/{name}"));
    }
    if !job.envelope.tools.is_empty() {
        opencode.args(["--agent", AGENT]);
    }
    opencode
        .env("OPENCODE_CONFIG_CONTENT", &setup.config)
        .envs(QUIET.map(|name| (name, "1")))
        .envs(FOLDERS.map(|(variable, name)| (variable, setup.folder.join(name))));

    let watch = Watch::new(job, "opencode")?;
    let journal = setup.folder.join("data").join(JOURNAL);
    let events = RefCell::new(Events::new(job, journal));
    let ended = watch
        .run(opencode, prompt.as_bytes(), &events, "opencode")
        .await?;
    let events = events.into_inner();
    if let Some(why) = events.failed {
        return Err(failure(
            FailureClass::Crash,
            format!("the agent could not work: {why}"),
        ));
    }
    match events.reason {
        Some(reason) if ended.status.success() => Ok(Answered {
            answer: events.text,
            reason,
            session: events.session,
            denied: events.denied,
        }),
        _ => Err(no_result("opencode", &ended)),
    }
}

/// Reads the events of one run.
struct Events<'a> {
    job: &'a Job<'a>,
    journal: PathBuf,
    /// Bytes of the journal, and when it was written to.
    journal_state: Option<(u64, std::time::SystemTime)>,
    session: Option<String>,
    /// A step has begun and is not finished.
    is_open: bool,
    /// The message whose text is at hand.
    message: String,
    text: String,
    reason: Option<String>,
    failed: Option<String>,
    denied: BTreeSet<String>,
}

impl<'a> Events<'a> {
    fn new(job: &'a Job<'a>, journal: PathBuf) -> Self {
        Self {
            job,
            journal,
            journal_state: None,
            session: None,
            is_open: false,
            message: String::new(),
            text: String::new(),
            reason: None,
            failed: None,
            denied: BTreeSet::new(),
        }
    }

    /// Adds up what a step used. Of the input the tool counts apart what came
    /// from the cache and what went there, and of the output the thoughts.
    fn step(&self, part: &Value) {
        let count = |pointer: &str| {
            part.pointer(pointer)
                .and_then(Value::as_u64)
                .unwrap_or_default()
        };
        let cached = count("/tokens/cache/read");
        let input = count("/tokens/input") + cached + count("/tokens/cache/write");
        let output = count("/tokens/output") + count("/tokens/reasoning");
        let stated = part.get("cost").and_then(Value::as_f64).unwrap_or_default();
        let cost = match self.job.envelope.price {
            Some(price) if stated <= 0.0 => price.usd(input, cached, output),
            _ => stated,
        };
        let mut usage = self.job.usage.borrow_mut();
        usage.turns += 1;
        usage.input_tokens += input;
        usage.output_tokens += output;
        usage.usd = match usage.usd {
            Some(so_far) => Some(so_far + cost),
            // A cost of nothing is that of a model that it has no price of.
            None => (cost > 0.0 || self.job.envelope.price.is_some()).then_some(cost),
        };
    }
}

impl Read for Events<'_> {
    fn line(&mut self, watch: &Watch<'_>, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        if let Some(session) = text("/sessionID") {
            self.session = Some(session.to_owned());
        }
        match text("/type") {
            Some("step_start") => {
                // An answer that breaks off is asked for again, and nothing said.
                if self.is_open {
                    watch.trouble("its answer stopped in the middle");
                }
                self.is_open = true;
                self.message = text("/part/messageID").unwrap_or_default().to_owned();
                self.text.clear();
                self.reason = None;
            }
            Some("text") => {
                watch.answered();
                let message = text("/part/messageID").unwrap_or_default();
                if message == self.message {
                    self.text.push_str(text("/part/text").unwrap_or_default());
                }
            }
            Some("tool_use") => {
                watch.answered();
                let said = text("/part/state/error").unwrap_or_default();
                if is_denial(said) {
                    let tool = text("/part/tool").unwrap_or("(without a name)");
                    self.denied.insert(tool.to_owned());
                }
            }
            Some("step_finish") => {
                watch.answered();
                self.is_open = false;
                let reason = text("/part/reason").unwrap_or_default().to_owned();
                if let Some(part) = event.get("part") {
                    self.step(part);
                }
                if reason == "tool-calls" {
                    watch.goes_on();
                }
                self.reason = Some(reason);
            }
            Some("error") => self.failed = Some(why(&event)),
            _ => {}
        }
    }

    fn error_line(&mut self, watch: &Watch<'_>, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if line.contains("message=\"stream error\"") {
            let why = line
                .split_once("error.error=")
                .map_or(&*line, |(_, why)| why);
            watch.trouble(why.trim().trim_matches('"'));
        }
    }

    fn look(&mut self, watch: &Watch<'_>) {
        let state = journal_state(&self.journal);
        if state != self.journal_state {
            self.journal_state = state;
            watch.heard();
        }
    }
}

fn journal_state(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// Whether a call of a tool failed because the agent may not call it.
fn is_denial(said: &str) -> bool {
    said.contains("a rule which prevents you") || said.contains("rejected permission")
}

/// The message of an `error` event.
fn why(event: &Value) -> String {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let message = text("/error/data/message").or_else(|| text("/error/message"));
    let Some(message) = message else {
        return event.get("error").unwrap_or(event).to_string();
    };
    match event.pointer("/error/data/statusCode") {
        Some(status) if status.is_number() => format!("{message}; API status {status}"),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn envelope(model: &str, tools: &[&str]) -> Envelope {
        serde_json::from_value(json!({
            "protocol": 1, "run": "r", "workflow": "w", "step": "s", "attempt": 1,
            "harness": "opencode", "model": model, "tools": tools, "body": "x", "refs": [],
            "values": {}, "untrusted": [], "output": {"fields": {}}, "emits": {}, "env": {},
            "repos": [], "skills": {"lint": {}}, "seconds": 60, "usd": null, "turns": null,
            "price": {"input": 1.0, "output": 4.0}, "heartbeat_seconds": 5, "last_failure": null,
        }))
        .unwrap()
    }

    fn of(model: &str, tools: &[&str], env: &[(&str, &str)]) -> Result<Value, Failure> {
        let environment = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        config(
            &envelope(model, tools),
            &environment,
            Duration::from_secs(2),
        )
    }

    #[test]
    fn a_provider_is_reached_by_the_variables_named_after_it() {
        let gate = [("MY_GATE_BASE_URL", "https://gate.example/v1/")];
        let config = of("my-gate/big/model", &[], &gate).unwrap();
        assert_eq!(
            config["provider"]["my-gate"],
            json!({
                "npm": "@ai-sdk/openai-compatible", "env": ["MY_GATE_API_KEY"],
                "options": {
                    "baseURL": "https://gate.example/v1",
                    "headerTimeout": 2000, "chunkTimeout": 2000,
                },
                "models": {"big/model": {"cost": {"input": 1.0, "output": 4.0, "cache_read": 1.0}}},
            })
        );
        let own = [("OPENAI_BASE_URL", "https://gate.example/v1")];
        let config = of("openai/gpt-5", &[], &own).unwrap();
        assert_eq!(config["provider"]["openai"].get("npm"), None);
        assert_eq!(
            config["provider"]["openai"]["options"]["baseURL"],
            "https://gate.example/v1"
        );
        let plain = of("groq/x", &[], &[]).unwrap();
        assert_eq!(plain["provider"]["groq"]["options"].get("baseURL"), None);
        for (model, provider) in [("gpt-5", "openai"), ("claude-sonnet-4-5", "anthropic")] {
            let config = of(model, &[], &[]).unwrap();
            assert!(config["provider"][provider]["models"].get(model).is_some());
        }
        for model in ["qwen", "/x", "x/"] {
            let refused = of(model, &[], &[]).unwrap_err();
            assert!(refused.message.contains("provider/model"), "{refused:?}");
        }
    }

    #[test]
    fn tools_become_permissions_and_unknown_ones_are_refused() {
        let tools = [
            "Bash(git log *)",
            "bash(git diff *)",
            "Write",
            "sentry_find",
        ];
        let config = of("a/b", &tools, &[]).unwrap();
        assert_eq!(
            config["agent"][AGENT]["permission"].to_string(),
            r#"{"*":"deny","bash":{"*":"deny","git diff *":"allow","git log *":"allow"},"edit":"allow","sentry_find":"allow","skill":"allow"}"#
        );
        for tool in ["task", "Agent", "bash(ls", ""] {
            let refused = of("a/b", &[tool], &[]).unwrap_err();
            assert!(refused.message.contains("opencode"), "{refused:?}");
        }
    }

    #[test]
    fn an_error_says_what_and_its_status() {
        let event = json!({"type": "error", "error": {
            "name": "APIError", "data": {"message": "asleep", "statusCode": 400},
        }});
        assert_eq!(why(&event), "asleep; API status 400");
        assert_eq!(why(&json!({"error": {"name": "X"}})), r#"{"name":"X"}"#);
    }

    #[test]
    fn a_run_that_stopped_early_is_no_success() {
        let answered = |reason: &str, denied: &[&str]| Answered {
            answer: String::new(),
            reason: reason.to_owned(),
            session: None,
            denied: denied.iter().map(|tool| (*tool).to_owned()).collect(),
        };
        assert!(answered("stop", &[]).without_output().is_ok());
        let early = answered("length", &[]).without_output().unwrap_err();
        assert!(early.message.contains("`length`"), "{early:?}");
        let denied = answered("stop", &["bash"]).without_output().unwrap_err();
        assert!(denied.message.contains("tried: bash;"), "{denied:?}");
    }
}
