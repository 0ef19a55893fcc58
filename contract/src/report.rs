//! The report protocol, between `loopy-runner` in a sandbox and the engine.
//!
//! All requests carry `Authorization: Bearer <token>`; the token is good for
//! one run, step and attempt. Below the report URL:
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/runs/{run}/steps/{step}/attempts/{n}/envelope` | [`Envelope`] |
//! | `POST …/heartbeat` with [`Heartbeat`] | [`HeartbeatReply`] |
//! | `POST …/result` with [`StepResult`] | [`ResultReply`] |
//!
//! Errors are JSON [`Refusal`]s: 401 for a wrong token, 404 for an unknown run,
//! 410 once the attempt is over (the runner stops), 413 for a body past
//! [`MAX_RESULT_BYTES`], 5xx for anything worth another try.

use crate::manifest::{Contract, Harness, Ref, Repo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The version both sides speak; an envelope with another one is refused.
pub const PROTOCOL: u32 = 1;

/// The largest result body that is accepted, in bytes.
pub const MAX_RESULT_BYTES: usize = 256 * 1024;

/// What the launcher sets in the runner's environment, and nothing else.
pub mod launch_env {
    /// The report URL, or `file:///path` of a file that holds it. The file is
    /// read before each request, so an engine may move while a step runs.
    pub const REPORT_URL: &str = "LOOPY_REPORT_URL";
    /// The bearer token.
    pub const TOKEN: &str = "LOOPY_TOKEN";
    /// The run's id.
    pub const RUN: &str = "LOOPY_RUN_ID";
    /// The step's name in its workflow.
    pub const STEP: &str = "LOOPY_STEP";
    /// The attempt's number.
    pub const ATTEMPT: &str = "LOOPY_ATTEMPT";
    /// The directory to work in; created when missing.
    pub const WORKSPACE: &str = "LOOPY_WORKSPACE";
}

/// The path of one attempt's endpoint below the report URL.
pub fn attempt_path(run: &str, step: &str, attempt: u32, leaf: &str) -> String {
    format!("/v1/runs/{run}/steps/{step}/attempts/{attempt}/{leaf}")
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
    /// What each reference stands for, by producer and field.
    pub values: BTreeMap<String, Map<String, Value>>,
    /// The producers whose values may hold a stranger's text.
    pub untrusted: BTreeSet<String>,
    /// What the step has to put out.
    pub output: Contract,
    /// What it has to emit, by event name.
    pub emits: BTreeMap<String, Contract>,
    /// The sandbox's environment variables. Secrets; never logged.
    pub env: BTreeMap<String, String>,
    /// Repositories to clone into the workspace.
    pub repos: Vec<Repo>,
    /// Skills by name: path inside the skill to base64 of the file's bytes.
    pub skills: BTreeMap<String, BTreeMap<String, String>>,
    /// Seconds the attempt may take from now.
    pub seconds: u64,
    /// Dollars it may spend, if capped.
    pub usd: Option<f64>,
    /// Model turns it may take, if capped.
    pub turns: Option<u32>,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u64,
    /// What went wrong in the attempt before this one.
    pub last_failure: Option<Failure>,
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

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Success with its outputs, or failure with its reason.
    pub outcome: Outcome,
    /// What the harness reported it used.
    pub usage: Usage,
    /// Milliseconds the harness ran.
    pub duration_ms: u64,
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

/// Kinds of failure, as `retry.on` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The harness or script ended with an error.
    Crash,
    /// A time limit passed.
    Timeout,
    /// The output or an emitted event breaks its schema, or is missing.
    Output,
    /// A spend, turn or token limit was reached.
    Budget,
    /// The sandbox could not be launched or prepared.
    Sandbox,
    /// The sandbox went away without a report.
    Lost,
}

impl FailureClass {
    /// The name as written in a project and shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Output => "output",
            Self::Budget => "budget",
            Self::Sandbox => "sandbox",
            Self::Lost => "lost",
        }
    }
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
