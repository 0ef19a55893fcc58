//! A run: the state of all its steps, its history, and the effects that are
//! committed but not yet known to be performed. A run is data; nothing is
//! replayed to rebuild it.

mod stored;

pub use stored::{StoredRunError, read};

use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{ManifestHash, RunId};
use loopy_contract::report::{Failure, Pack, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the stored shape; [`read`] brings older ones up to it.
pub const RUN_SCHEMA: u32 = 2;

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
    /// The run it goes over again, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Where it stands.
    pub status: RunStatus,
    /// Steps by name.
    pub steps: BTreeMap<String, StepRun>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Commands that were taken, by id, so that each is taken once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub commands: BTreeSet<String>,
    /// Why it did what it did, oldest first.
    pub history: Vec<HistoryLine>,
    /// Effects committed and not yet known to be performed, in order.
    pub pending: Vec<Pending>,
}

/// What a run goes over again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The run before it.
    pub run: RunId,
    /// The step it was taken up at; from the beginning when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
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

    /// The record of an attempt.
    pub fn attempt(&self, step: &str, attempt: u32) -> Option<&Attempt> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        self.steps.get(step)?.attempts.get(index)
    }

    /// Whether this very attempt is being worked on.
    pub fn under_way(&self, step: &str, attempt: u32) -> bool {
        self.unit(step, attempt)
            .is_some_and(|unit| matches!(unit, Unit::Running { .. }))
    }

    /// The piece of work that this attempt is at, while it is.
    pub fn unit(&self, step: &str, attempt: u32) -> Option<&Unit> {
        let StepState::Working { units } = &self.steps.get(step)?.state else {
            return None;
        };
        units.iter().find(|unit| unit.attempt() == Some(attempt))
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
            manifest: short_hash(&self.manifest.0).to_owned(),
        }
    }
}

/// The beginning of a manifest's hash, as listings have it: long enough to tell the
/// versions of a project apart.
pub fn short_hash(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
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
    /// The version of the project that it began with ([`short_hash`] of its manifest);
    /// empty where an older build wrote the line.
    #[serde(default)]
    pub manifest: String,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunStatus {
    /// At least one step is not over.
    Running,
    /// It waits for a person and for nothing else.
    Parked,
    /// A person has stopped it from beginning anything new.
    Paused,
    /// Every step succeeded or was skipped.
    Succeeded,
    /// A step failed for good; what else was running has been stopped.
    Failed {
        /// The step that failed.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// It was ended before its time.
    Cancelled {
        /// By whom or what, as a sentence.
        because: String,
    },
    /// A person did not agree, or nobody answered in time.
    Denied {
        /// The step that had to be agreed to.
        step: String,
        /// By whom or what, as a sentence.
        because: String,
    },
}

impl RunStatus {
    /// The names of all of them, as listings filter by.
    pub const NAMES: [&str; 7] = [
        "running",
        "parked",
        "paused",
        "succeeded",
        "failed",
        "cancelled",
        "denied",
    ];

    /// The name in listings and indexes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Denied { .. } => "denied",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running | Self::Parked | Self::Paused)
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRun {
    /// Where it stands.
    pub state: StepState,
    /// The round of a `loop` it is in; counted from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub iteration: u32,
    /// What it put out in the round before, if a `loop` went back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Value>,
    /// The files that it hands on, once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Kept>,
    /// All attempts at it, oldest first, whatever round or item they belong to;
    /// the first has the number 1.
    pub attempts: Vec<Attempt>,
}

/// The files that a step hands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which it was asked to keep.
    pub paths: Vec<String>,
    /// One for a plain step, one an item for a step with `each`; `None` where there
    /// was no such file.
    pub packs: Vec<Option<KeptPack>>,
}

/// The files of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPack {
    /// The attempt.
    pub attempt: u32,
    /// The run that it belongs to, where that is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RunId>,
    /// The pack.
    pub pack: Pack,
}

fn first() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_first(iteration: &u32) -> bool {
    *iteration == 1
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StepState {
    /// For the steps named in its `after`.
    Waiting,
    /// For a person to agree that it starts.
    AskingBefore {
        /// When the answer is given without one; never when absent.
        until: Option<Timestamp>,
    },
    /// Its work is cut up, and some of it is not done.
    Working {
        /// One for a plain step, one an item for a step with `each`.
        units: Vec<Unit>,
    },
    /// Its work is done; for a person to agree that it counts.
    AskingAfter {
        /// When the answer is given without one; never when absent.
        until: Option<Timestamp>,
        /// All of them succeeded.
        units: Vec<Unit>,
    },
    /// Its result was taken.
    Succeeded {
        /// The declared fields; for a step with `each` the list of them.
        output: Value,
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
    /// It had begun, and the run ended under it.
    Cancelled {
        /// Why.
        because: String,
    },
}

impl StepState {
    /// The name in listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::AskingBefore { .. } | Self::AskingAfter { .. } => "asking",
            Self::Working { units } => working_name(units),
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether those that wait for it may go on.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Skipped { .. })
    }

    /// Whether it waits for a person.
    pub fn is_asking(&self) -> bool {
        matches!(self, Self::AskingBefore { .. } | Self::AskingAfter { .. })
    }
}

/// The name of what the busiest unit does.
fn working_name(units: &[Unit]) -> &'static str {
    let has = |wanted: fn(&Unit) -> bool| units.iter().any(wanted);
    if has(|unit| matches!(unit, Unit::Running { .. })) {
        "running"
    } else if has(|unit| matches!(unit, Unit::Throttled { .. })) {
        "throttled"
    } else if has(|unit| matches!(unit, Unit::Resting { .. })) {
        "resting"
    } else {
        "queued"
    }
}

/// A piece of a step's work that one sandbox does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Unit {
    /// Not handed off: others of its step come first, or the run is paused.
    Idle,
    /// Handed off; the attempt has not begun.
    Queued {
        /// Which.
        attempt: u32,
    },
    /// Before another attempt, after one that failed.
    Resting {
        /// The attempt that comes.
        attempt: u32,
        /// When.
        until: Timestamp,
    },
    /// Its turn has come, and a limit holds it back.
    Throttled {
        /// The attempt that waits.
        attempt: u32,
        /// Since when.
        since: Timestamp,
    },
    /// Launched, or being launched.
    Running {
        /// The attempt.
        attempt: u32,
    },
    /// Its result was taken.
    Succeeded {
        /// The attempt whose result it is.
        attempt: u32,
        /// The declared fields.
        output: Map<String, Value>,
        /// The events to put on the bus when the step is done, by name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        emits: BTreeMap<String, Map<String, Value>>,
        /// The files that it hands on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        files: Option<Pack>,
    },
}

impl Unit {
    /// The attempt it is at, if it has one.
    pub fn attempt(&self) -> Option<u32> {
        match self {
            Self::Idle => None,
            Self::Queued { attempt }
            | Self::Resting { attempt, .. }
            | Self::Throttled { attempt, .. }
            | Self::Running { attempt }
            | Self::Succeeded { attempt, .. } => Some(*attempt),
        }
    }

    /// Whether it takes up one of its step's places.
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Idle | Self::Succeeded { .. })
    }
}

/// One attempt at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counted from 1, over all rounds and items of the step.
    pub number: u32,
    /// The round of a `loop`; counted from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub iteration: u32,
    /// The item of a step with `each`; counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// When it was handed off.
    pub queued_at: Timestamp,
    /// When its turn came.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_at: Option<Timestamp>,
    /// How often its time limit was looked at and found not to be over.
    #[serde(default, skip_serializing_if = "is_none")]
    pub checks: u32,
    /// When it was over.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// What it used, once it reported.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Why it failed, if it did.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Where it works.
    #[serde(default)]
    pub sandbox: Option<SandboxRef>,
    /// What the limits of the project let it have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// What an attempt holds of the project's limits; see [`crate::gate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The gates it was let through or waits at, by key, in order.
    pub gates: Vec<String>,
    /// Until when it holds its part of each gate that let it through. By this
    /// moment it is told from what an attempt that was over already took when a
    /// late message asked once more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Timestamp>,
    /// Reserved millionths of a dollar.
    pub micro_usd: u64,
}

impl Grant {
    /// Until when it holds its part of a gate, if that is known.
    pub fn lease(&self, key: &str) -> Option<Timestamp> {
        let index = self.gates.iter().position(|gate| gate == key)?;
        self.leases.get(index).copied()
    }
}

/// A sandbox, named before it is launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRef {
    /// `local`, `daytona`, …
    pub provider: String,
    /// The client token it is launched under.
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
    /// By which command, where it says why that was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A sentence for people.
    pub note: String,
}

/// An effect that is committed and not yet known to be performed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Key of the input that caused it ([`crate::transition::Input::cause`]).
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
        /// Not before this moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    /// Have the time limit of an attempt looked at.
    ArmTimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// How often it was looked at before.
        #[serde(default)]
        check: u32,
        /// When.
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
    /// Give back what the attempt holds of the project's limits, and wake those
    /// that wait for it.
    Release {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// Let a throttled attempt ask again, in case nobody wakes it.
    Wake {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// Disarm the attempt's time limit.
    DisarmTimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// How often it was looked at.
        #[serde(default)]
        check: u32,
    },
    /// Have the sandbox stopped.
    Stop {
        /// Which.
        sandbox: SandboxRef,
        /// Once more some minutes from now: it may only be coming up.
        #[serde(default)]
        again: bool,
    },
    /// Have a question to a person answered when nobody does.
    ArmApproval {
        /// The step.
        step: String,
        /// The round it asks in.
        iteration: u32,
        /// Whether it asks before or after its work.
        question: Question,
        /// When.
        at: Timestamp,
        /// It came early, so this is another timer, with a key of its own: a
        /// home may know the one that fired for a while.
        #[serde(default)]
        again: bool,
    },
    /// Disarm that.
    DisarmApproval {
        /// The step.
        step: String,
        /// The round it asked in.
        iteration: u32,
        /// Whether it asked before or after its work.
        question: Question,
    },
}

/// What a step asks a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Whether it may start.
    Before,
    /// Whether its output counts.
    After,
}

impl Question {
    /// The name in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}
