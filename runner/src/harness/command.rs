//! `command`: the step's body is a shell script.
//!
//! It runs by `/bin/sh -e` in the workspace. A reference `{{ a.b }}` in its text
//! becomes `${LOOPY_A_B}` and the value goes into that variable, so a value is
//! never read as script. It behaves like any variable: put double quotes around
//! it; single quotes keep the shell from reading it. `$LOOPY_INPUTS` names a
//! JSON file with all values by producer and field; a reference `{{ a }}` is
//! `${LOOPY_A}`. When a `loop` came back to this step, `$LOOPY_FEEDBACK` names a
//! JSON file that says why: `{"step": "review", "output": {…}}`, the step that
//! sent the work back and what it put out. When the attempt before this one
//! failed, `$LOOPY_LAST_FAILURE` names one with its `class` and `message`. Else
//! these variables are not set.
//!
//! `$LOOPY_OUTPUT` names the file the script writes its outcome to, as JSON:
//! `{"output": {…}, "emits": {"Event": {…}}}`. A step that emits nothing, and
//! has no output field called `output` or `emits`, may write its output fields
//! bare.

use super::{Drive, Job, LAST_WORDS, broken, failure};
use crate::outcome::{check, needed_events, needs_any};
use crate::redact::tail;
use crate::template::{Piece, pieces, text, value};
use loopy_contract::report::{
    Envelope, Failure, FailureClass, MAX_RESULT_BYTES, Outcome, launch_env,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// The variable with the path to write the outcome to.
const OUTPUT: &str = "LOOPY_OUTPUT";
/// The variable with the path of all values.
const INPUTS: &str = "LOOPY_INPUTS";
/// The variable with the path of why a loop came back.
const FEEDBACK: &str = "LOOPY_FEEDBACK";
/// The variable with the path of what went wrong in the attempt before.
const LAST_FAILURE: &str = "LOOPY_LAST_FAILURE";
/// What one variable can hold on Linux, its name and end included.
const LONGEST_VARIABLE: usize = 128 * 1024;

/// The `command` harness.
pub(super) struct CommandHarness;

impl Drive for CommandHarness {
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        let script = Script::render(job.envelope, job.environment)?;
        let script_file = job.control.file("script.sh");
        let inputs_file = job.control.file("inputs.json");
        let output_file = job.control.file("output.json");
        let feedback_file = job.control.file("feedback.json");
        let feedback = job.envelope.feedback.as_ref();
        let mut files = vec![
            (&script_file, script.text),
            (&inputs_file, json!(job.envelope.values).to_string()),
        ];
        files.extend(feedback.map(|feedback| (&feedback_file, json!(feedback).to_string())));
        let failure_file = job.control.file("last-failure.json");
        let last_failure = job.envelope.last_failure.as_ref();
        files.extend(last_failure.map(|failure| (&failure_file, json!(failure).to_string())));
        for (path, content) in files {
            std::fs::write(path, content).map_err(|error| {
                failure(
                    FailureClass::Sandbox,
                    format!("cannot write {}: {error}", path.display()),
                )
            })?;
        }

        let mut shell = job.command("/bin/sh");
        shell
            .arg("-e")
            .arg(&script_file)
            .envs(script.variables)
            .env(OUTPUT, &output_file)
            .env(INPUTS, &inputs_file)
            .envs(feedback.map(|_| (FEEDBACK, &feedback_file)))
            .envs(last_failure.map(|_| (LAST_FAILURE, &failure_file)));
        let ended = job
            .processes
            .run(
                shell,
                &[],
                |line| job.transcript.line("stdout", line),
                |line| job.transcript.line("stderr", line),
            )
            .await
            .map_err(|error| {
                failure(
                    FailureClass::Sandbox,
                    format!("cannot start /bin/sh: {error}"),
                )
            })?;
        if !ended.status.success() {
            let words = tail(ended.last_words(), LAST_WORDS);
            let said = if words.is_empty() {
                "it said nothing"
            } else {
                words
            };
            return Err(failure(
                FailureClass::Crash,
                format!("the script {}: {said}", ended.how()),
            ));
        }
        outcome(job.envelope, &output_file)
    }
}

/// A script ready to run.
#[derive(Debug)]
struct Script {
    text: String,
    variables: BTreeMap<String, String>,
}

impl Script {
    fn render(
        envelope: &Envelope,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        let names = names(envelope, environment);
        let mut script = Self {
            text: String::new(),
            variables: BTreeMap::new(),
        };
        for piece in pieces(&envelope.body, &envelope.refs) {
            match piece {
                Piece::Text(text) => script.text.push_str(text),
                Piece::Value(reference) => {
                    let key = (reference.producer.as_str(), reference.field.as_str());
                    let Some(name) = names.get(&key) else {
                        continue;
                    };
                    let text = text(value(envelope, reference).as_ref());
                    let refused = |why: &str| {
                        failure(
                            FailureClass::Crash,
                            format!(
                                "the value of {} {why}, which an environment variable cannot hold; read it from the file ${INPUTS} instead",
                                reference.raw
                            ),
                        )
                    };
                    if text.contains('\0') {
                        return Err(refused("has a NUL character"));
                    }
                    if name.len() + text.len() + 2 > LONGEST_VARIABLE {
                        return Err(refused(&format!("has {} bytes", text.len())));
                    }
                    script.text.push_str(&format!("${{{name}}}"));
                    script.variables.insert(name.clone(), text);
                }
            }
        }
        Ok(script)
    }
}

/// A variable for each reference: `LOOPY_`, producer and field (if any) in capitals. A
/// name that is taken gets a number; the order is that of producer and field,
/// so it does not depend on where they stand in the text.
fn names<'e>(
    envelope: &'e Envelope,
    environment: &BTreeMap<String, String>,
) -> BTreeMap<(&'e str, &'e str), String> {
    let mut taken: BTreeSet<String> = environment.keys().cloned().collect();
    taken.extend(
        [
            OUTPUT,
            INPUTS,
            FEEDBACK,
            LAST_FAILURE,
            crate::processes::MARKER,
            launch_env::REPORT_URL,
            launch_env::TOKEN,
            launch_env::RUN,
            launch_env::STEP,
            launch_env::ATTEMPT,
            launch_env::WORKSPACE,
        ]
        .map(str::to_owned),
    );
    let wanted: BTreeSet<(&str, &str)> = envelope
        .refs
        .iter()
        .map(|r| (r.producer.as_str(), r.field.as_str()))
        .collect();
    let mut names = BTreeMap::new();
    for (producer, field) in wanted {
        let joint = if field.is_empty() { "" } else { "_" };
        let base: String = format!("LOOPY_{producer}{joint}{field}")
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect();
        let mut name = base.clone();
        let mut number = 2;
        while !taken.insert(name.clone()) {
            name = format!("{base}_{number}");
            number += 1;
        }
        names.insert((producer, field), name);
    }
    names
}

/// Reads and checks what the script wrote.
fn outcome(envelope: &Envelope, file: &Path) -> Result<Outcome, Failure> {
    let missing = || {
        let mut wanted: Vec<String> = envelope
            .output
            .fields
            .keys()
            .map(|name| format!("the output `{name}`"))
            .collect();
        wanted.extend(needed_events(envelope).map(|name| format!("the event `{name}`")));
        failure(
            FailureClass::Output,
            format!(
                "the script wrote nothing to ${OUTPUT}, and the step declares {}",
                wanted.join(", ")
            ),
        )
    };
    let written = match std::fs::File::open(file) {
        Ok(opened) => {
            let mut bytes = Vec::new();
            // One byte past the limit is enough to know.
            opened
                .take(MAX_RESULT_BYTES as u64 + 1)
                .read_to_end(&mut bytes)
                .map(|_| bytes)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let written = written.map_err(|error| {
        failure(
            FailureClass::Output,
            format!("cannot read what the script wrote to ${OUTPUT}: {error}"),
        )
    })?;
    if written.len() > MAX_RESULT_BYTES {
        return Err(failure(
            FailureClass::Output,
            format!(
                "the script wrote more than {MAX_RESULT_BYTES} bytes to ${OUTPUT}; put out less, or a link to it"
            ),
        ));
    }
    if written.iter().all(u8::is_ascii_whitespace) {
        if needs_any(envelope) {
            return Err(missing());
        }
        return check(envelope, &json!({}))
            .map_err(|violations| broken("the outcome", &violations));
    }
    let value: Value = serde_json::from_slice(&written).map_err(|error| {
        failure(
            FailureClass::Output,
            format!("what the script wrote to ${OUTPUT} is not JSON: {error}"),
        )
    })?;
    let value = if is_bare(envelope, &value) {
        json!({ "output": value })
    } else {
        value
    };
    check(envelope, &value).map_err(|violations| {
        broken(
            &format!("what the script wrote to ${OUTPUT} breaks the step's contract"),
            &violations,
        )
    })
}

/// Whether `value` can only be the output fields themselves.
fn is_bare(envelope: &Envelope, value: &Value) -> bool {
    let wrapper = ["output", "emits"];
    envelope.emits.is_empty()
        && !wrapper
            .iter()
            .any(|name| envelope.output.fields.contains_key(*name))
        && value
            .as_object()
            .is_some_and(|members| !wrapper.iter().any(|name| members.contains_key(*name)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn envelope(refs: &[(&str, &str)]) -> Envelope {
        let body: String = refs
            .iter()
            .map(|(p, f)| format!("{{{{ {p}.{f} }}}} "))
            .collect();
        let refs: Vec<Value> = refs
            .iter()
            .map(|(p, f)| json!({"producer": p, "field": f, "raw": format!("{{{{ {p}.{f} }}}}")}))
            .collect();
        serde_json::from_value(json!({
            "protocol": 1, "run": "r", "workflow": "w", "step": "s", "attempt": 1,
            "harness": "command", "model": null, "tools": [], "body": body, "refs": refs,
            "values": {"a_b": {"c": "one"}, "a": {"b_c": true}, "run": {"id": null}, "x": {"y-z": "\u{0}"}},
            "untrusted": [], "output": {"fields": {"n": {"type": "integer"}}}, "emits": {},
            "env": {}, "repos": [], "skills": {}, "seconds": 60, "usd": null, "turns": null,
            "heartbeat_seconds": 5, "last_failure": null,
        }))
        .unwrap()
    }

    #[test]
    fn names_that_would_meet_are_told_apart() {
        let envelope = envelope(&[("a_b", "c"), ("a", "b_c"), ("run", "id"), ("a_b", "c")]);
        let script = Script::render(&envelope, &BTreeMap::new()).unwrap();
        assert_eq!(
            script.text,
            "${LOOPY_A_B_C_2} ${LOOPY_A_B_C} ${LOOPY_RUN_ID_2} ${LOOPY_A_B_C_2} "
        );
        assert_eq!(script.variables["LOOPY_A_B_C_2"], "one");
        assert_eq!(script.variables["LOOPY_A_B_C"], "true");
        assert_eq!(script.variables["LOOPY_RUN_ID_2"], "null");
    }

    #[test]
    fn a_reference_without_a_field_has_the_name_of_its_producer() {
        let mut envelope = envelope(&[("a", "b_c")]);
        envelope.body = "{{ feedback }} {{ a }}".to_owned();
        envelope.refs = serde_json::from_value(json!([
            {"producer": "feedback", "field": "", "raw": "{{ feedback }}"},
            {"producer": "a", "field": "", "raw": "{{ a }}"},
        ]))
        .unwrap();
        let script = Script::render(&envelope, &BTreeMap::new()).unwrap();
        assert_eq!(script.text, "${LOOPY_FEEDBACK_2} ${LOOPY_A}");
        assert_eq!(script.variables["LOOPY_A"], r#"{"b_c":true}"#);
        assert_eq!(script.variables["LOOPY_FEEDBACK_2"], "");
    }

    #[test]
    fn a_value_no_variable_can_hold_is_refused() {
        let failed = Script::render(&envelope(&[("x", "y-z")]), &BTreeMap::new()).unwrap_err();
        assert!(
            failed.message.contains("LOOPY_INPUTS"),
            "{}",
            failed.message
        );
    }

    #[test]
    fn bare_fields_are_taken_only_where_nothing_else_is_possible() {
        let mut envelope = envelope(&[]);
        assert!(is_bare(&envelope, &json!({"n": 1})));
        assert!(!is_bare(&envelope, &json!({"output": {"n": 1}})));
        envelope.output.fields.insert("output".into(), json!({}));
        assert!(!is_bare(&envelope, &json!({"n": 1})));
    }
}
