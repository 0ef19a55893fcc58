//! A run: the state of all its steps, its history, and the effects that are
//! committed but not yet known to be performed. A run is data; nothing is
//! replayed to rebuild it.

use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{ManifestHash, RunId};
use loopy_contract::report::{Failure, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The version of the stored shape; readers migrate older ones.
pub const RUN_SCHEMA: u32 = 1;

/// One run of one workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`RUN_SCHEMA`] of the build that wrote it.
    pub schema: u32,
    /// Derived from workflow and event.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// The manifest it began with and keeps.
    pub manifest: ManifestHash,
    /// The event that started it.
    pub event: Event,
    /// Where it stands.
    pub status: RunStatus,
    /// Steps by name.
    pub steps: BTreeMap<String, StepRun>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it did what it did, oldest first.
    pub history: Vec<HistoryLine>,
    /// Effects committed and not yet known to be performed, in order.
    pub pending: Vec<Pending>,
}

impl Run {
    /// Dollars spent by all attempts, failed ones included.
    pub fn cost_usd(&self) -> f64 {
        self.steps
            .values()
            .flat_map(|step| &step.attempts)
            .filter_map(|attempt| attempt.usage.as_ref()?.usd)
            // Not `sum`: that of nothing is -0.0.
            .fold(0.0, |sum, usd| sum + usd)
    }

    /// The line a listing shows.
    pub fn summary(&self) -> RunSummary {
        RunSummary {
            id: self.id.clone(),
            workflow: self.workflow.clone(),
            status: self.status.name().to_owned(),
            event: self.event.name.clone(),
            event_id: self.event.id.0.clone(),
            cascade: self.event.cascade.0.clone(),
            created_at: self.created_at,
            ended_at: self.ended_at,
            cost_usd: self.cost_usd(),
        }
    }
}

/// What a listing shows of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run's id.
    pub id: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// [`RunStatus::name`].
    pub status: String,
    /// Name of the event that started it.
    pub event: String,
    /// Id of that event.
    pub event_id: String,
    /// The cascade it belongs to.
    pub cascade: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Dollars spent so far.
    pub cost_usd: f64,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunStatus {
    /// At least one step is not over.
    Running,
    /// Every step succeeded or was skipped.
    Succeeded,
    /// A step failed for good; what else was running has been stopped.
    Failed {
        /// The step that failed.
        step: String,
        /// Why.
        failure: Failure,
    },
}

impl RunStatus {
    /// The name in listings and indexes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRun {
    /// Where it stands.
    pub state: StepState,
    /// What each attempt came to, oldest first; the last may be under way.
    pub attempts: Vec<Attempt>,
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StepState {
    /// For the steps named in its `after`.
    Waiting,
    /// Handed off; the attempt has not begun.
    Queued {
        /// Counted from 1.
        attempt: u32,
    },
    /// A sandbox is being launched.
    Launching {
        /// Counted from 1.
        attempt: u32,
    },
    /// The runner has been started.
    Running {
        /// Counted from 1.
        attempt: u32,
        /// Where it works.
        sandbox: SandboxRef,
    },
    /// Its result was taken.
    Succeeded {
        /// The attempt whose result it is.
        attempt: u32,
        /// The declared fields.
        output: Map<String, Value>,
    },
    /// It failed for good.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It will not run.
    Skipped {
        /// Why not.
        because: String,
    },
}

impl StepState {
    /// The name in listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued { .. } => "queued",
            Self::Launching { .. } => "launching",
            Self::Running { .. } => "running",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }
}

/// One attempt at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    /// When its turn came.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// What it used, once it reported.
    pub usage: Option<Usage>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// Where it worked, once launched.
    pub sandbox: Option<SandboxRef>,
}

/// A launched sandbox, as the run remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRef {
    /// `local`, `daytona`, …
    pub provider: String,
    /// The provider's id for it.
    pub id: String,
}

/// A line that answers "why did this run, wait, skip or stop?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// What happened, as a short name (`step_started`).
    pub kind: String,
    /// To which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// In which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// A sentence for people.
    pub note: String,
}

/// An effect that is committed and not yet known to be performed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Key of the input that caused it ([`crate::transition::Input::key`]).
    pub cause: String,
    /// What to do.
    pub effect: Effect,
}

/// Something to do in the world once the state that asks for it is durable.
/// Each is idempotent: its key derives from run, step and attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    /// Put the step's turn into the queue.
    Handoff {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// Arm the attempt's time limit.
    ArmTimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// When it is over.
        at: Timestamp,
    },
    /// Launch the attempt's sandbox.
    Launch {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// Put an emitted event on the bus.
    Publish {
        /// The event.
        event: Event,
    },
    /// Disarm the attempt's time limit.
    DisarmTimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// Have the sandbox stopped.
    Stop {
        /// Which.
        sandbox: SandboxRef,
    },
}
