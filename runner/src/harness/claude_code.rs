//! `claude-code`: Anthropic's command-line agent, without a terminal.
//!
//! The prompt goes in by stdin (an argument is bounded), one JSON event a line
//! comes out, the last one being the result. Exit code and `subtype` alone say
//! little: an API error has the subtype `success`, and a run that never called
//! the output tool ends with code 0. So the result is read as a whole.

use super::ending::{no_result, no_start};
use super::mend::Mending;
use super::{Drive, Job, failure};
use crate::outcome::{check, declares_any, wanted_schema};
use crate::prompt;
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome, Usage};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Retries of one API request: ten seconds or so. The tool's own default takes
/// minutes, and the engine has retries too.
const API_RETRIES: &str = "4";
/// How the outcome is handed over.
const HAND_OVER: &str = "When the work is done, hand over its outcome by calling the \
                         StructuredOutput tool once, with these members.";
/// How it is handed over again.
const HAND_OVER_AGAIN: &str =
    "Mend it, and call the StructuredOutput tool again with all its members.";

/// The `claude-code` harness.
pub(super) struct ClaudeCode;

impl Drive for ClaudeCode {
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        let declares = declares_any(job.envelope);
        let schema = declares.then(|| wanted_schema(job.envelope).to_string());
        let mut prompt = prompt::render(job.envelope, HAND_OVER)?;
        let mut session = None;
        let mut mending = Mending::default();
        loop {
            let ended = invoke(job, &prompt, schema.as_deref(), session.as_deref())
                .await?
                .sound()?;
            if !declares {
                return ended.without_output();
            }
            let violations = match &ended.structured_output {
                Some(output) => match check(job.envelope, output) {
                    Ok(outcome) => return Ok(outcome),
                    Err(violations) => violations,
                },
                None => vec![ended.no_output()],
            };
            session = ended.session_id;
            prompt = mending.prompt(job, &violations, session.is_some(), HAND_OVER_AGAIN)?;
        }
    }
}

/// Runs the tool once, in a new session or in `session`.
async fn invoke(
    job: &Job<'_>,
    prompt: &str,
    schema: Option<&str>,
    session: Option<&str>,
) -> Result<ResultEvent, Failure> {
    let envelope = job.envelope;
    let mut claude = job.command("claude");
    claude.args(["-p", "--output-format", "stream-json", "--verbose"]);
    if let Some(model) = &envelope.model {
        claude.arg(format!("--model={model}"));
    }
    if let Some(schema) = schema {
        claude.args(["--json-schema", schema]);
    }
    if let Some(session) = session {
        claude.arg(format!("--resume={session}"));
    }
    // Both caps count for one invocation only, so a later one gets the rest.
    let so_far = job.usage.borrow().clone();
    if let Some(turns) = envelope.turns {
        claude.args([
            "--max-turns",
            &turns.saturating_sub(so_far.turns).max(1).to_string(),
        ]);
    }
    if let Some(usd) = envelope.usd {
        let rest = usd - so_far.usd.unwrap_or_default();
        claude.args(["--max-budget-usd", &rest.to_string()]);
    }
    if envelope.tools.is_empty() {
        claude.arg("--dangerously-skip-permissions");
    } else {
        allow(&mut claude, envelope)?;
    }
    if rustix::process::geteuid().is_root() {
        // Without it the tool refuses to go without permissions as root.
        claude.env("IS_SANDBOX", "1");
    }
    claude.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    if !job.environment.contains_key("CLAUDE_CODE_MAX_RETRIES") {
        claude.env("CLAUDE_CODE_MAX_RETRIES", API_RETRIES);
    }

    let mut stream = Stream::new(job.usage);
    let ended = job
        .processes
        .run(
            claude,
            prompt.as_bytes(),
            |line| {
                job.transcript.line("claude-code", line);
                stream.line(line);
            },
            |line| job.transcript.line("stderr", line),
        )
        .await
        .map_err(|error| no_start("claude", &error, "Claude Code"))?;
    stream.result.ok_or_else(|| no_result("claude", &ended))
}

/// Leaves the agent just these tools: others do not exist for it, and these need
/// no permission. An entry may narrow a tool: `Bash(git log *)`. An agent with
/// skills keeps the tool that loads them.
fn allow(claude: &mut tokio::process::Command, envelope: &Envelope) -> Result<(), Failure> {
    let mut tools = envelope.tools.clone();
    if let Some(tool) = tools
        .iter()
        .find(|tool| tool.is_empty() || tool.starts_with('-'))
    {
        return Err(failure(
            FailureClass::Crash,
            format!("`{tool}` is not the name of a tool"),
        ));
    }
    if !envelope.skills.is_empty() {
        tools.push("Skill".to_owned());
    }
    let names: BTreeSet<&str> = tools
        .iter()
        .map(|tool| tool.split('(').next().unwrap_or(tool))
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    claude
        .args(["--tools", &names.join(",")])
        .arg("--allowedTools")
        .args(&tools);
    Ok(())
}

/// Reads the events as they come.
struct Stream<'a> {
    usage: &'a RefCell<Usage>,
    messages: BTreeSet<String>,
    result: Option<ResultEvent>,
}

impl<'a> Stream<'a> {
    fn new(usage: &'a RefCell<Usage>) -> Self {
        Self {
            usage,
            messages: BTreeSet::new(),
            result: None,
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        match event.get("type").and_then(Value::as_str) {
            Some("assistant") => self.assistant(&event),
            Some("result") => match serde_json::from_value::<ResultEvent>(event) {
                Ok(result) => {
                    result.record(&mut self.usage.borrow_mut());
                    self.result = Some(result);
                }
                Err(error) => tracing::warn!("a result that cannot be read: {error}"),
            },
            _ => {}
        }
    }

    /// One answer of the model comes as several events with one id. The figures
    /// are those at its start; the result corrects them.
    fn assistant(&mut self, event: &Value) {
        let Some(message) = event.get("message") else {
            return;
        };
        let text = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        // The tool makes up messages of its own, to show an error for instance.
        if text("model") == "<synthetic>" || !self.messages.insert(text("id").to_owned()) {
            return;
        }
        let tokens = message.get("usage").map(Tokens::of_api).unwrap_or_default();
        let mut usage = self.usage.borrow_mut();
        usage.turns += 1;
        usage.input_tokens += tokens.input;
        usage.output_tokens += tokens.output;
    }
}

#[derive(Default)]
struct Tokens {
    input: u64,
    output: u64,
}

impl Tokens {
    /// From the `usage` of an API message.
    fn of_api(usage: &Value) -> Self {
        Self::of(
            usage,
            &[
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
            ],
            "output_tokens",
        )
    }

    /// From a model's entry in `modelUsage`.
    fn of_model(usage: &Value) -> Self {
        Self::of(
            usage,
            &[
                "inputTokens",
                "cacheCreationInputTokens",
                "cacheReadInputTokens",
            ],
            "outputTokens",
        )
    }

    fn of(usage: &Value, inputs: &[&str], output: &str) -> Self {
        let count = |name: &str| usage.get(name).and_then(Value::as_u64).unwrap_or_default();
        Self {
            input: inputs.iter().map(|name| count(name)).sum(),
            output: count(output),
        }
    }
}

/// The last event. Fields that this runner does not need are not named, and
/// those that may be absent have a default.
#[derive(Debug, Deserialize)]
struct ResultEvent {
    #[serde(default)]
    subtype: String,
    #[serde(default)]
    is_error: bool,
    result: Option<String>,
    #[serde(default)]
    errors: Vec<Value>,
    session_id: Option<String>,
    total_cost_usd: Option<f64>,
    #[serde(default, rename = "modelUsage")]
    model_usage: Map<String, Value>,
    #[serde(default)]
    permission_denials: Vec<Denial>,
    structured_output: Option<Value>,
    api_error_status: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Denial {
    #[serde(default)]
    tool_name: String,
}

impl ResultEvent {
    /// Cost and `modelUsage` are of the whole session; `usage` is not, and is
    /// zero when the budget ran out.
    fn record(&self, usage: &mut Usage) {
        usage.usd = self.total_cost_usd.or(usage.usd);
        if !self.model_usage.is_empty() {
            usage.input_tokens = 0;
            usage.output_tokens = 0;
            for model in self.model_usage.values() {
                let tokens = Tokens::of_model(model);
                usage.input_tokens += tokens.input;
                usage.output_tokens += tokens.output;
            }
        }
    }

    /// The result itself, unless it tells of an error.
    fn sound(self) -> Result<Self, Failure> {
        if self.subtype == "success" && !self.is_error {
            return Ok(self);
        }
        let (class, what) = match self.subtype.as_str() {
            "error_max_turns" => (FailureClass::Budget, "the agent used all its turns"),
            "error_max_budget_usd" => (FailureClass::Budget, "the agent spent all its budget"),
            "error_max_structured_output_retries" => (
                FailureClass::Output,
                "the agent's output broke its schema each time",
            ),
            // An API error: the text is the API's, the status beside it.
            "success" => (FailureClass::Crash, "the agent could not work"),
            _ => (FailureClass::Crash, "the agent failed"),
        };
        let mut details: Vec<String> = self
            .errors
            .iter()
            .map(|error| {
                error
                    .as_str()
                    .map_or_else(|| error.to_string(), str::to_owned)
            })
            .collect();
        details.extend(self.result.clone().filter(|text| !text.is_empty()));
        if let Some(status) = self
            .api_error_status
            .as_ref()
            .filter(|status| !status.is_null())
        {
            details.push(format!("API status {status}"));
        }
        if details.is_empty() {
            details.push(format!("subtype `{}`", self.subtype));
        }
        Err(failure(class, format!("{what}: {}", details.join("; "))))
    }

    /// The outcome of a step that declares nothing. Nobody can see then whether
    /// the work was done, so a tool that was denied counts as a failure.
    fn without_output(&self) -> Result<Outcome, Failure> {
        match self.denied() {
            Some(denied) => Err(failure(
                FailureClass::Crash,
                format!(
                    "the agent was denied what it tried: {denied}; add it to the agent's `tools`"
                ),
            )),
            None => Ok(Outcome::Succeeded {
                output: Map::new(),
                emits: BTreeMap::new(),
            }),
        }
    }

    /// The violation of an agent that put nothing out.
    fn no_output(&self) -> String {
        let mut text = "it never called the StructuredOutput tool".to_owned();
        if let Some(denied) = self.denied() {
            text.push_str(&format!(", and was denied {denied}"));
        }
        text
    }

    fn denied(&self) -> Option<String> {
        let names: BTreeSet<&str> = self
            .permission_denials
            .iter()
            .map(|denial| denial.tool_name.as_str())
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn result(value: Value) -> ResultEvent {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_error_under_the_name_of_success_is_an_error() {
        let failed = result(json!({
            "subtype": "success", "is_error": true, "result": "API Error: no", "api_error_status": 400,
        }))
        .sound()
        .unwrap_err();
        assert_eq!(failed.class, FailureClass::Crash);
        assert_eq!(
            failed.message,
            "the agent could not work: API Error: no; API status 400"
        );
    }

    #[test]
    fn limits_are_failures_of_the_budget() {
        for subtype in ["error_max_turns", "error_max_budget_usd"] {
            let failed = result(json!({
                "subtype": subtype, "is_error": true, "errors": ["Reached it"],
            }))
            .sound()
            .unwrap_err();
            assert_eq!(failed.class, FailureClass::Budget);
            assert!(
                failed.message.ends_with(": Reached it"),
                "{}",
                failed.message
            );
        }
    }

    #[test]
    fn a_denied_tool_fails_a_step_that_declares_nothing() {
        let denied = result(json!({
            "subtype": "success", "permission_denials": [{"tool_name": "Write"}, {"tool_name": "Write"}],
        }));
        assert!(
            denied
                .without_output()
                .unwrap_err()
                .message
                .contains("tried: Write;")
        );
        assert!(denied.no_output().contains("denied Write"));
    }

    #[test]
    fn the_figures_of_the_result_replace_those_of_the_stream() {
        let usage = RefCell::new(Usage::default());
        let mut stream = Stream::new(&usage);
        let message = json!({"type": "assistant", "message": {
            "id": "m1", "model": "x", "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1},
        }});
        for _ in 0..2 {
            stream.line(message.to_string().as_bytes());
        }
        assert_eq!(
            *usage.borrow(),
            Usage {
                usd: None,
                input_tokens: 15,
                output_tokens: 1,
                turns: 1
            }
        );
        stream.line(b"not json");
        let end = json!({"type": "result", "subtype": "success", "total_cost_usd": 0.5,
            "modelUsage": {"x": {"inputTokens": 20, "cacheReadInputTokens": 2, "outputTokens": 9}}});
        stream.line(end.to_string().as_bytes());
        assert_eq!(
            *usage.borrow(),
            Usage {
                usd: Some(0.5),
                input_tokens: 22,
                output_tokens: 9,
                turns: 1
            }
        );
    }
}
