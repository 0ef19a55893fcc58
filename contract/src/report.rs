//! The report protocol, between `loopy-runner` in a sandbox and the engine.
//!
//! All requests carry `Authorization: Bearer <token>`; the token is good for
//! one run, step and attempt. Below the report URL, names written as
//! [`AttemptPath`] says:
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/runs/{run}/steps/{step}/attempts/{n}/envelope` | [`Envelope`] |
//! | `POST …/heartbeat` with [`Heartbeat`] | [`HeartbeatReply`] |
//! | `POST …/transcript` with [`TranscriptPart`] | [`TranscriptReply`] |
//! | `POST …/files` with [`FilesPart`] | [`FilesReply`] |
//! | `POST …/fetch` with [`FilesAsk`] | [`FilesBytes`] |
//! | `POST …/skill` with [`SkillAsk`] | [`FilesBytes`] |
//! | `POST …/result` with [`StepResult`] | [`ResultReply`] |
//!
//! Files that a later step asks for are a pack: a gzipped tar of regular files. It
//! is sent in parts before the result that names it; a later step's runner fetches
//! it in the same parts.
//!
//! Errors are JSON [`Refusal`]s: 401 for a wrong token, 404 for an unknown run,
//! 410 once the attempt is over (the runner stops), 413 for a body past
//! [`MAX_RESULT_BYTES`], 5xx for anything worth another try.

pub use crate::failure::FailureClass;

use crate::manifest::{Contract, Harness, Ref, Repo};
use crate::price::Price;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The version both sides speak; an envelope with another one is refused.
pub const PROTOCOL: u32 = 1;

/// The largest result body that is accepted, in bytes.
pub const MAX_RESULT_BYTES: usize = 256 * 1024;

/// The most text of one [`TranscriptPart`], in bytes.
pub const MAX_TRANSCRIPT_PART: usize = 128 * 1024;

/// The longest transcript of an attempt, in bytes.
pub const MAX_TRANSCRIPT_BYTES: u64 = 16 * 1024 * 1024;

/// The largest envelope that is sent, in [`wire_bytes`]. A function's URL answers with
/// 6 MB (6,291,556 bytes) at most, what is around the body included; at home it is the
/// same, so that what works there works in a stack.
pub const MAX_ENVELOPE_BYTES: usize = 6_000_000;

/// How long a value is in the answer of a function: JSON, as a text in JSON, where each
/// quote and backslash becomes two bytes.
pub fn wire_bytes(value: &impl Serialize) -> usize {
    let mut counter = WireCounter(0);
    // It takes whatever is written to it, and what is sent are JSON values.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Counts what is written to it.
struct WireCounter(usize);

impl io::Write for WireCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let doubled = bytes.iter().filter(|byte| matches!(byte, b'"' | b'\\'));
        self.0 += bytes.len() + doubled.count();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the launcher sets in the runner's environment, and nothing else.
pub mod launch_env {
    /// The report URL, or `file:///path` of a file that holds it. The file is
    /// read before each request, so an engine may move while a step runs.
    pub const REPORT_URL: &str = "LOOPY_REPORT_URL";
    /// The bearer token.
    pub const TOKEN: &str = "LOOPY_TOKEN";
    /// The key that [`TOKEN`] is sealed with ([`seal`](crate::seal)); not set where it
    /// is not sealed.
    pub const TOKEN_KEY: &str = "LOOPY_TOKEN_KEY";
    /// The run's id.
    pub const RUN: &str = "LOOPY_RUN_ID";
    /// The step's name in its workflow.
    pub const STEP: &str = "LOOPY_STEP";
    /// The attempt's number.
    pub const ATTEMPT: &str = "LOOPY_ATTEMPT";
    /// The directory to work in; created when missing.
    pub const WORKSPACE: &str = "LOOPY_WORKSPACE";
    /// The directory with mirrors of repositories, each under its
    /// [`mirror_name`](crate::repository::mirror_name), for clones to begin with. Not
    /// set where there is none.
    pub const MIRRORS: &str = "LOOPY_MIRRORS";
    /// [`Limits`](super::Limits) as JSON. Not set where the provider sees to them.
    pub const LIMITS: &str = "LOOPY_LIMITS";
}

/// What the processes of an attempt may take together, for the runner to see to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// How many there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}

/// The path of one attempt's endpoint below the report URL. Run and step are
/// named after files, so they may hold any character; see [`AttemptPath`].
pub fn attempt_path(run: &str, step: &str, attempt: u32, leaf: &str) -> String {
    format!(
        "/v1/runs/{}/steps/{}/attempts/{attempt}/{leaf}",
        segment(run),
        segment(step)
    )
}

/// What [`attempt_path`] put together.
///
/// A name is one segment of the path: letters, digits, `-`, `_` and dots that are
/// not at its start stand for themselves, each other byte is `~` and two lower-case
/// hex digits, and a lone `~` is the empty name. Percent-encoding would not do: what
/// lies between runner and engine may decode it, and resolves `.` and `..` even when
/// they are encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptPath {
    /// The run's id.
    pub run: String,
    /// The step's name.
    pub step: String,
    /// Counted from 1.
    pub attempt: u32,
    /// `envelope`, `heartbeat`, `transcript`, `files`, `fetch`, `skill` or `result`;
    /// anything else is for the reader to refuse.
    pub leaf: String,
}

impl AttemptPath {
    /// Takes a path apart; `None` when it is not one that [`attempt_path`] gives.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
        let ["runs", run, "steps", step, "attempts", attempt, leaf] = parts.as_slice() else {
            return None;
        };
        let parsed = Self {
            run: name(run)?,
            step: name(step)?,
            attempt: attempt.parse().ok()?,
            leaf: (*leaf).to_owned(),
        };
        // One attempt has one path: `01` and `+1` are numbers too.
        let Self { run, step, .. } = &parsed;
        (attempt_path(run, step, parsed.attempt, leaf) == path).then_some(parsed)
    }
}

/// A name as a segment of a path.
fn segment(name: &str) -> String {
    if name.is_empty() {
        return "~".to_owned();
    }
    let mut segment = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_')
            || (byte == b'.' && index > 0)
        {
            segment.push(char::from(byte));
        } else {
            segment.push('~');
            segment.push_str(&hex::encode([byte]));
        }
    }
    segment
}

/// The name that a segment stands for; `None` when [`segment`] does not give it,
/// so that each name has one path.
fn name(written: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(written.len());
    if written != "~" {
        let mut parts = written.split('~');
        bytes.extend_from_slice(parts.next()?.as_bytes());
        for part in parts {
            let (digits, rest) = part.split_at_checked(2)?;
            bytes.extend(hex::decode(digits).ok()?);
            bytes.extend_from_slice(rest.as_bytes());
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (segment(&name) == written).then_some(name)
}

/// Everything a runner needs to know about its attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The run's id.
    pub run: String,
    /// The workflow's name.
    pub workflow: String,
    /// The step's name in it.
    pub step: String,
    /// Counted from 1.
    pub attempt: u32,
    /// What drives the work.
    pub harness: Harness,
    /// The model, where the harness has one.
    pub model: Option<String>,
    /// Tools the agent may use; empty means all.
    pub tools: Vec<String>,
    /// The step's body, references not yet filled in.
    pub body: String,
    /// The references in the body.
    pub refs: Vec<Ref>,
    /// What the references stand for, by producer: a map of fields, or, for a
    /// step with `each`, the list of its outputs. The name that `each` gives an
    /// item stands for the item.
    pub values: BTreeMap<String, Value>,
    /// The producers whose values may hold a stranger's text.
    pub untrusted: BTreeSet<String>,
    /// What the step has to put out.
    pub output: Contract,
    /// What it has to emit, by event name.
    pub emits: BTreeMap<String, Contract>,
    /// Of those, the ones it may leave out: a condition, looked at once the
    /// result is there, decides whether they count.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub emits_optional: BTreeSet<String>,
    /// The sandbox's environment variables. Secrets; never logged.
    pub env: BTreeMap<String, String>,
    /// Repositories to clone into the workspace.
    pub repos: Vec<Repo>,
    /// The packs of earlier steps to unpack into the workspace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<HandedFiles>,
    /// The files that later steps ask for, as [`crate::files::Pattern`]s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<String>,
    /// Skills by name: path inside the skill to base64 of the file's bytes.
    pub skills: BTreeMap<String, BTreeMap<String, String>>,
    /// Where those would make the envelope too large, they are asked for: skills by
    /// name, path inside the skill to how many bytes the file has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skill_files: BTreeMap<String, BTreeMap<String, u64>>,
    /// Seconds the attempt may take from now.
    pub seconds: u64,
    /// Dollars it may spend, if capped.
    pub usd: Option<f64>,
    /// Model turns it may take, if capped.
    pub turns: Option<u32>,
    /// Model tokens it may use, if capped.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// What the model's tokens cost, where that is known and the harness may need
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// The round of a `loop` this attempt belongs to; counted from 1.
    #[serde(default = "first")]
    pub iteration: u32,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u64,
    /// Seconds between parts of the transcript, while there is something to send.
    #[serde(default = "transcript_seconds")]
    pub transcript_seconds: u64,
    /// What went wrong in the attempt before this one.
    pub last_failure: Option<Failure>,
    /// What the step that sent the work back put out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
}

/// Files of one attempt at an earlier step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedFiles {
    /// The step; its files go into a folder of this name.
    pub step: String,
    /// For a step with `each`, the item: they go into a folder of this name in
    /// that folder. Counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// Which of the files in the pack are meant.
    pub paths: Vec<String>,
    /// The pack.
    pub pack: Pack,
}

/// A pack of files, by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Lower-case hex SHA-256 of its bytes.
    pub sha256: String,
    /// How many those are; [`crate::files::MAX_PACK_BYTES`] at most.
    pub size: u64,
}

/// Why a `loop` went back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// The step that has the `loop`.
    pub step: String,
    /// What it put out in the round before.
    pub output: Value,
}

fn transcript_seconds() -> u64 {
    10
}

fn first() -> u32 {
    1
}

/// A sign of life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counted from 1.
    pub sequence: u64,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The attempt is no longer wanted: end the harness and exit.
    pub stop: bool,
}

/// The next lines of an attempt's transcript.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptPart {
    /// Bytes of the transcript before it. Sent twice, it is the same part.
    pub offset: u64,
    /// Whole lines of JSON, secrets removed; [`MAX_TRANSCRIPT_PART`] at most.
    pub text: String,
}

/// The answer to a part of a transcript.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptReply {}

/// The next bytes of the pack of files that an attempt hands on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPart {
    /// Bytes of the pack before it, a multiple of [`crate::files::PACK_PART`]. Sent
    /// twice, it is the same part.
    pub offset: u64,
    /// Base64 of the bytes; [`crate::files::PACK_PART`] at most.
    pub data: String,
}

/// The answer to a part of a pack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesReply {}

/// Asks for a part of a pack that the envelope names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesAsk {
    /// The step whose files they are.
    pub step: String,
    /// The item, for a step with `each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// Where the part begins.
    pub offset: u64,
}

/// Asks for a part of a skill's file that the envelope names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkillAsk {
    /// The skill.
    pub skill: String,
    /// The path inside it.
    pub path: String,
    /// Where the part begins, a multiple of [`crate::files::PACK_PART`].
    pub offset: u64,
}

/// A part of a pack or of a skill's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesBytes {
    /// Base64 of the bytes.
    pub data: String,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Success with its outputs, or failure with its reason.
    pub outcome: Outcome,
    /// What the harness reported it used.
    pub usage: Usage,
    /// Milliseconds the harness ran.
    pub duration_ms: u64,
    /// The files that a success hands on; nothing where no file was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Pack>,
}

/// Success or failure of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// The step did its work.
    Succeeded {
        /// The declared output fields.
        output: Map<String, Value>,
        /// The payload of each declared event.
        emits: BTreeMap<String, Map<String, Value>>,
    },
    /// It did not.
    Failed(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub class: FailureClass,
    /// A sentence for people, secrets removed.
    pub message: String,
}

/// What an attempt used, as its harness reported it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Dollars; `None` when the harness gives no figure.
    pub usd: Option<f64>,
    /// Tokens read, cache reads and writes included.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Model turns.
    pub turns: u32,
}

/// The answer to a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultReply {
    /// False when this attempt's result had been taken before.
    pub taken: bool,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A sentence, without secrets.
    pub error: String,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn bytes_are_counted_as_a_function_answers_them() {
        let value = serde_json::json!({"a": "\"quoted\" \\ \n \u{1} é", "b": [1, null, "x"]});
        let body = value.to_string();
        let answered = serde_json::to_string(&body).unwrap();
        // But for the quotes around it.
        assert_eq!(wire_bytes(&value) + 2, answered.len());
    }

    #[test]
    fn plain_names_stand_for_themselves() {
        assert_eq!(
            attempt_path("greet-1a2b", "scan_deps-1.2", 3, "envelope"),
            "/v1/runs/greet-1a2b/steps/scan_deps-1.2/attempts/3/envelope"
        );
    }

    #[test]
    fn every_name_comes_back_and_no_two_have_one_path() {
        let mut names: Vec<String> = [
            "",
            ".",
            "..",
            "...",
            ".w",
            "a.",
            "a/b",
            "../x",
            "100% ?#",
            "%2e",
            "%2F",
            "~",
            "~~",
            "~2e",
            "a b",
            "a+b",
            "é",
            "日本",
            "a\nb",
            "a;b=c",
            "\\",
            "\u{1f600}~",
        ]
        .map(str::to_owned)
        .into();
        names.extend((1..0x300_u32).filter_map(char::from_u32).map(String::from));
        let mut paths = BTreeSet::new();
        names.sort();
        names.dedup();
        for name in &names {
            let path = attempt_path(name, name, 7, "result");
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
            assert!(path.chars().all(allowed), "{path}");
            assert!(path.split('/').all(|part| !part.starts_with('.')), "{path}");
            let found = AttemptPath::parse(&path).unwrap();
            assert_eq!((&found.run, &found.step), (name, name));
            assert_eq!((found.attempt, found.leaf.as_str()), (7, "result"));
            assert!(paths.insert(path));
        }
    }

    #[test]
    fn what_is_no_path_of_an_attempt_is_not_read_as_one() {
        for path in [
            "/v1/runs/r/steps/s/attempts/1",
            "/v1/runs/r/steps/s/attempts/one/result",
            "/v1/runs/r/steps/a/b/attempts/1/result",
            "/v1/runs//steps/s/attempts/1/result",
            "/v1/runs/r/steps/./attempts/1/result",
            "/v1/runs/r/steps/a%20b/attempts/1/result",
            "/v1/runs/r/steps/~61/attempts/1/result",
            "/v1/runs/r/steps/~2F/attempts/1/result",
            "/v1/runs/r/steps/~2/attempts/1/result",
            "/v1/runs/r/steps/~~/attempts/1/result",
            "/v1/runs/r/steps/~ff/attempts/1/result",
            "/v1/runs/r/steps/~é/attempts/1/result",
            "/v2/runs/r/steps/s/attempts/1/result",
            "",
        ] {
            assert_eq!(AttemptPath::parse(path), None, "{path}");
        }
    }
}
