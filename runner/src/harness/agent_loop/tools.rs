//! The tools of the loop: `read`, `edit`, `bash`, `test` and `finish`.
//!
//! The test command is what stands in the step's body in a block fenced as `test`.
//! Without one the model names it with its first `test`, if it has `bash`, too, and
//! it stays the same from then on: what is measured does not change on the way.
//! An agent's `tools` narrow the set; `finish` is always there.

use super::super::{Job, broken, failure};
use super::Clock;
use super::files;
use super::metric::{Metric, Reader};
use super::model::{Tool, ToolCall};
use super::shell::Shell;
use crate::outcome::{check, declares_any, wanted_schema};
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The tools, besides `finish`.
const NAMES: [&str; 4] = ["read", "edit", "bash", "test"];
/// How often the agent may mend an outcome that breaks the step's contract.
const MENDS: u32 = 2;
/// Seconds of a command that does not say.
const SECONDS: u64 = 120;
/// Seconds of the tests, where nothing is said.
const TEST_SECONDS: u64 = 900;
/// The most that a command can ask for.
const MOST_SECONDS: u64 = 3600;

/// What came of a call.
pub(super) struct Done {
    /// What the model reads.
    pub(super) text: String,
    /// It did not work.
    pub(super) error: bool,
    /// What is the same when the same comes again.
    pub(super) identity: String,
    /// It may have changed the workspace.
    pub(super) changes: bool,
    /// What the tests said.
    pub(super) metric: Option<Metric>,
    /// The step's outcome.
    pub(super) outcome: Option<Outcome>,
}

impl Done {
    fn of(result: Result<String, String>) -> Self {
        let error = result.is_err();
        let text = result.unwrap_or_else(|wrong| wrong);
        Self {
            identity: text.clone(),
            text,
            error,
            changes: false,
            metric: None,
            outcome: None,
        }
    }

    fn wrong(text: impl Into<String>) -> Self {
        Self::of(Err(text.into()))
    }
}

/// The tools of one attempt.
pub(super) struct Toolbox<'a> {
    job: &'a Job<'a>,
    clock: Clock,
    shell: Shell,
    allowed: Vec<&'static str>,
    test: Option<String>,
    /// The step names the test command, not the model.
    test_is_given: bool,
    mends: u32,
}

#[derive(Deserialize)]
struct Command {
    command: Option<String>,
    seconds: Option<u64>,
}

impl<'a> Toolbox<'a> {
    /// The tools that the agent may use.
    ///
    /// # Errors
    /// The agent has a tool that there is not, or the body's test command cannot be
    /// used.
    pub(super) fn new(job: &'a Job<'a>, clock: Clock) -> Result<Self, Failure> {
        let mut allowed: Vec<&'static str> = Vec::new();
        for wanted in &job.envelope.tools {
            let known = NAMES
                .into_iter()
                .chain(["finish"])
                .find(|name| name.eq_ignore_ascii_case(wanted));
            match known {
                Some(name) => allowed.push(name),
                None => {
                    return Err(failure(
                        FailureClass::Crash,
                        format!(
                            "the harness `loop` has no tool `{wanted}`; an agent's `tools` can name {}",
                            NAMES.join(", ")
                        ),
                    ));
                }
            }
        }
        if allowed.is_empty() {
            allowed = NAMES.to_vec();
        }
        let test =
            test_command(job.envelope).map_err(|wrong| failure(FailureClass::Crash, wrong))?;
        Ok(Self {
            job,
            clock,
            shell: Shell::default(),
            allowed,
            test_is_given: test.is_some(),
            test,
            mends: 0,
        })
    }

    /// The tools as the model is told of them, the same for all of the attempt.
    pub(super) fn offered(&self) -> Vec<Tool> {
        let mut offered = Vec::new();
        let mut offer = |name: &'static str, description: String, schema: Value| {
            if name == "finish" || self.allowed.contains(&name) {
                offered.push(Tool {
                    name,
                    description,
                    schema,
                });
            }
        };
        offer(
            "read",
            "Lines of a file in the workspace, or the names in a folder.".to_owned(),
            files::read_schema(),
        );
        offer(
            "edit",
            "Replaces an exact text in a file, or makes a new file.".to_owned(),
            files::edit_schema(),
        );
        offer(
            "bash",
            "Runs a command in the workspace. A long output is shortened for you, and kept whole \
             in a file. What it leaves running in the background is ended with it."
                .to_owned(),
            command_schema("the command", &["command"], SECONDS),
        );
        match self.test.as_ref().filter(|_| self.test_is_given) {
            Some(test) => offer(
                "test",
                format!("Measures where you are. Runs: {test}"),
                command_schema("not needed: the command is fixed", &[], TEST_SECONDS),
            ),
            None if self.allowed.contains(&"bash") => offer(
                "test",
                "Runs the tests, or whatever measures your progress: its counts of tests, a \
                 number on its last line, or its exit code. The command that you name first \
                 stays the same from then on."
                    .to_owned(),
                command_schema(
                    "the command; needed once, and fixed from then on",
                    &[],
                    TEST_SECONDS,
                ),
            ),
            None => {}
        }
        offer(
            "finish",
            "Hands over the outcome and ends the work. Call it once, when the work is done."
                .to_owned(),
            wanted_schema(self.job.envelope),
        );
        offered
    }

    /// Does what the model asks for.
    ///
    /// # Errors
    /// The attempt cannot go on: there is no shell, or the outcome was not mended.
    pub(super) async fn call(&mut self, call: &ToolCall) -> Result<Done, Failure> {
        let input = match &call.input {
            Ok(input) => input,
            Err(wrong) => return Ok(Done::wrong(wrong.as_str())),
        };
        let name = call.name.as_str();
        if name == "finish" {
            return self.finish(input);
        }
        if !self.allowed.contains(&name) {
            return Ok(Done::wrong(format!(
                "there is no tool `{name}` for this agent; it has {}, finish",
                self.allowed.join(", ")
            )));
        }
        match name {
            "read" => Ok(Done::of(files::read(self.job, input))),
            "edit" => {
                let mut done = Done::of(files::edit(self.job, input));
                done.changes = !done.error;
                Ok(done)
            }
            _ => {
                let command = match Command::deserialize(input) {
                    Ok(command) => command,
                    Err(error) => return Ok(Done::wrong(error.to_string())),
                };
                if name == "bash" {
                    self.bash(command).await
                } else {
                    self.test(command).await
                }
            }
        }
    }

    async fn bash(&mut self, wanted: Command) -> Result<Done, Failure> {
        let Some(command) = wanted.command.filter(|command| !command.trim().is_empty()) else {
            return Ok(Done::wrong("there is no `command`"));
        };
        let limit = self.limit(wanted.seconds.unwrap_or(SECONDS));
        let ran = self.shell.run(self.job, &command, limit, |_| ()).await?;
        Ok(Done {
            error: ran.code != Some(0),
            identity: ran.identity,
            changes: true,
            ..Done::of(Ok(ran.shown))
        })
    }

    async fn test(&mut self, wanted: Command) -> Result<Done, Failure> {
        let named = wanted.command.filter(|command| !command.trim().is_empty());
        let command = match (&self.test, named) {
            (Some(fixed), Some(named)) if fixed.trim() != named.trim() => {
                return Ok(Done::wrong(format!(
                    "the test command is fixed, and was not run; it is: {fixed}"
                )));
            }
            (Some(fixed), _) => fixed.clone(),
            (None, _) if !self.allowed.contains(&"bash") => {
                return Ok(Done::wrong(
                    "the step names no test command, and without `bash` you cannot name one",
                ));
            }
            (None, Some(named)) => named,
            (None, None) => {
                return Ok(Done::wrong(
                    "name the `command` that runs the tests; it is fixed from then on",
                ));
            }
        };
        let limit = self.limit(wanted.seconds.unwrap_or(TEST_SECONDS));
        let mut reader = Reader::default();
        let ran = self
            .shell
            .run(self.job, &command, limit, |line| reader.line(line))
            .await?;
        // One that cannot be found or started, or does not end, measures nothing.
        if !matches!(ran.code, None | Some(126 | 127)) {
            self.test = Some(command);
        }
        let metric = reader.end(ran.code);
        let measured = if ran.code.is_some() {
            metric.words()
        } else {
            format!("{}, {}", metric.words(), ran.how)
        };
        Ok(Done {
            error: false,
            identity: format!("{} {}", ran.how, metric.identity()),
            changes: true,
            metric: Some(metric),
            ..Done::of(Ok(format!("{}\n[measured: {measured}]", ran.shown)))
        })
    }

    fn finish(&mut self, input: &Value) -> Result<Done, Failure> {
        let envelope = self.job.envelope;
        let nothing = json!({});
        let handed = if declares_any(envelope) {
            input
        } else {
            &nothing
        };
        let violations = match check(envelope, handed) {
            Ok(outcome) => {
                return Ok(Done {
                    outcome: Some(outcome),
                    ..Done::of(Ok("The outcome is taken.".to_owned()))
                });
            }
            Err(violations) => violations,
        };
        if self.mends == MENDS {
            return Err(broken(
                &format!(
                    "the agent's outcome breaks the step's contract, after {MENDS} requests to mend it"
                ),
                &violations,
            ));
        }
        self.mends += 1;
        Ok(Done::wrong(format!(
            "The outcome was not accepted:\n- {}\n\nMend it, and call `finish` again with all its members.",
            violations.join("\n- ")
        )))
    }

    fn limit(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds.clamp(1, MOST_SECONDS)).min(self.clock.left())
    }
}

fn command_schema(what: &str, required: &[&str], seconds: u64) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": {
            "command": {"type": "string", "description": what},
            "seconds": {
                "type": "integer", "minimum": 1, "maximum": MOST_SECONDS,
                "description": format!("how long it may take, {seconds} if left out"),
            },
        },
        "additionalProperties": false,
    })
}

/// The command that the body names in a block fenced as `test`.
fn test_command(envelope: &Envelope) -> Result<Option<String>, String> {
    let mut found: Option<String> = None;
    let mut lines = envelope.body.lines();
    while let Some(line) = lines.next() {
        let Some((fence, info)) = opening(line) else {
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| !closes(line, fence))
            .collect();
        if info.split_whitespace().next() != Some("test") {
            continue;
        }
        let block = block.join("\n").trim().to_owned();
        if let Some(reference) = envelope.refs.iter().find(|r| block.contains(&r.raw)) {
            return Err(format!(
                "the `test` block of the step's body holds {}; a value is never put into a command, \
                 so let the block run a script of the repository",
                reference.raw
            ));
        }
        if block.is_empty() || found.is_some() {
            return Err(
                "the step's body needs one `test` block with one command, or none at all"
                    .to_owned(),
            );
        }
        found = Some(block);
    }
    Ok(found)
}

/// The fence that a line opens, and what is said beside it.
fn opening(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches(' ');
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = line.find(|c| c != mark).unwrap_or(line.len());
    (length >= 3).then(|| line.split_at(length))
}

fn closes(line: &str, fence: &str) -> bool {
    let line = line.trim();
    line.starts_with(fence) && line.trim_start_matches(&fence[..1]).is_empty()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn command(body: &str) -> Result<Option<String>, String> {
        let envelope: Envelope = serde_json::from_value(json!({
            "protocol": 1, "run": "r", "workflow": "w", "step": "s", "attempt": 1,
            "harness": "loop", "model": "m", "tools": [], "body": body,
            "refs": [{"producer": "event", "field": "x", "raw": "{{ event.x }}"}],
            "values": {}, "untrusted": [], "output": {"fields": {}}, "emits": {},
            "env": {}, "repos": [], "skills": {}, "seconds": 60, "usd": null, "turns": null,
            "heartbeat_seconds": 5, "last_failure": null,
        }))
        .unwrap();
        test_command(&envelope)
    }

    #[test]
    fn the_test_command_stands_in_a_block_of_its_own() {
        assert_eq!(command("Fix it.\n\n```sh\nls\n```\n"), Ok(None));
        let body =
            "Fix {{ event.x }}.\n\n```sh\n# ```test\n```\n\n````test\ncargo test\n````\n\nGo.";
        assert_eq!(command(body), Ok(Some("cargo test".to_owned())));
        assert_eq!(command("~~~test\na\nb"), Ok(Some("a\nb".to_owned())));
    }

    #[test]
    fn a_value_never_gets_into_the_test_command() {
        let wrong = command("```test\nmake {{ event.x }}\n```").unwrap_err();
        assert!(wrong.contains("{{ event.x }}"), "{wrong}");
        assert!(command("```test\n```").is_err());
        assert!(command("```test\na\n```\n```test\nb\n```").is_err());
    }
}
