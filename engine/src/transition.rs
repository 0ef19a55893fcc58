//! The heart: what happens to a run when something happens. Pure: no IO, no
//! clock, no randomness. An input that does not fit where the run stands (it
//! came twice, or too late) changes nothing.
//!
//! | file | what |
//! |---|---|
//! | `begin` | a new run, and one that goes over another again |
//! | `flow` | which steps may start, `when`, `each`, `loop`, approvals, the end |
//! | `attempt` | one attempt: its turn, its result, its failure, another try |
//! | `command` | what people ask of a run |
//! | `record` | how changes are written down: effects, history, states |

mod attempt;
mod begin;
mod command;
mod flow;
mod record;

pub use attempt::{
    DEFAULT_STEP_SECONDS, HEARTBEAT_LIMIT_SECONDS, LAUNCH_GRACE_SECONDS, MAX_LOST, QUEUE_LIMIT,
    first_look, launch_token, step_seconds,
};
pub use begin::{Edits, again, begin};
pub use flow::{MAX_ITEMS, WIDTH, body, values};
pub use record::cause;

use crate::run::{Effect, Grant, Pending, Question, Run};
use jiff::Timestamp;
use loopy_contract::manifest::{Manifest, Workflow};
use loopy_contract::report::{Failure, StepResult};
use serde::{Deserialize, Serialize};

/// The cause of the effects of [`begin`].
pub const START: &str = "start";

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The start was delivered (again): nothing but the first effects.
    Start,
    /// A step's turn came.
    Handoff {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What the project's limits say to it.
        admission: Admission,
    },
    /// An attempt's sandbox cannot be launched.
    LaunchFailed {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Why.
        message: String,
        /// The same would come of each further try: there is none, whatever the step's
        /// `retry` says.
        for_good: bool,
    },
    /// The runner reported.
    Result {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What it came to.
        result: StepResult,
    },
    /// It is time to look at an attempt's limit.
    TimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// How often it was looked at before.
        check: u32,
        /// The last sign of life of its runner.
        beat: Option<Timestamp>,
    },
    /// An attempt's sandbox ended without a report.
    Lost {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What its provider says of it, if it says anything.
        why: Option<String>,
    },
    /// Nobody answered a step's question in time.
    Unanswered {
        /// The step.
        step: String,
        /// The round it asked in.
        iteration: u32,
        /// What it asked.
        question: Question,
    },
    /// Somebody asked for something.
    Command(Command),
}

/// What the project's limits say to an attempt whose turn came.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// It may begin, with what it was granted; nothing where no limit applies.
    Granted(Option<Grant>),
    /// It waits, with its place in the order.
    Wait {
        /// What it was granted so far, and where it waits.
        grant: Grant,
        /// What for, as a sentence.
        reason: String,
    },
    /// It can never begin.
    Refused(Failure),
    /// It is one too many, and those are dropped.
    Dropped {
        /// Why, as a sentence.
        reason: String,
    },
}

/// What somebody asks of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Unique; the same command may be delivered more than once.
    pub id: String,
    /// Who asks: a person, or `loopy` itself.
    pub by: String,
    /// For what.
    pub order: Order,
}

/// What can be asked of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// End it now.
    Cancel {
        /// Why, as a sentence; may be empty.
        #[serde(default)]
        because: String,
    },
    /// Begin nothing new.
    Pause,
    /// Go on.
    Resume,
    /// Answer a step's question.
    Answer {
        /// The step; the one that asks, when absent.
        #[serde(default)]
        step: Option<String>,
        /// Whether it goes on.
        approve: bool,
    },
}

impl Input {
    /// What the effects of this input are filed under. All inputs of one attempt
    /// share a cause, so that the redelivery of any of them performs what a
    /// crash left undone.
    pub fn cause(&self) -> String {
        match self {
            Self::Start => START.to_owned(),
            Self::Handoff { step, attempt, .. }
            | Self::LaunchFailed { step, attempt, .. }
            | Self::Result { step, attempt, .. }
            | Self::TimeLimit { step, attempt, .. }
            | Self::Lost { step, attempt, .. } => record::cause(step, *attempt),
            Self::Unanswered {
                step,
                iteration,
                question,
            } => format!("{}/{step}/{iteration}", question.name()),
            Self::Command(command) => format!("command/{}", command.id),
        }
    }
}

/// Applies `input` at `now`. Gives back the run and whether it changed; an
/// unchanged run needs no commit.
pub fn transition(manifest: &Manifest, mut run: Run, input: &Input, now: Timestamp) -> (Run, bool) {
    let Some(plan) = manifest.workflows.get(&run.workflow) else {
        return (run, false);
    };
    let scene = Scene {
        manifest,
        plan,
        now,
        cause: input.cause(),
    };
    drop_performed(&mut run, input);
    let changed = match input {
        Input::Start => false,
        Input::Handoff {
            step,
            attempt,
            admission,
        } => scene.handoff(&mut run, step, *attempt, admission),
        Input::LaunchFailed {
            step,
            attempt,
            message,
            for_good,
        } => scene.launch_failed(&mut run, step, *attempt, message, *for_good),
        Input::Result {
            step,
            attempt,
            result,
        } => scene.result(&mut run, step, *attempt, result),
        Input::TimeLimit {
            step,
            attempt,
            check,
            beat,
        } => scene.time_limit(&mut run, step, *attempt, *check, *beat),
        Input::Lost { step, attempt, why } => scene.lost(&mut run, step, *attempt, why.as_deref()),
        Input::Unanswered {
            step,
            iteration,
            question,
        } => scene.unanswered(&mut run, step, *iteration, *question),
        Input::Command(command) => scene.command(&mut run, command),
    };
    if changed {
        scene.advance(&mut run);
        // Whatever was dropped meanwhile: those of this cause, old and new.
        let (mut mine, mut all): (Vec<Pending>, Vec<Pending>) = std::mem::take(&mut run.pending)
            .into_iter()
            .partition(|pending| pending.cause == scene.cause);
        mine.sort_by_key(|pending| rank(&pending.effect));
        all.append(&mut mine);
        run.pending = all;
        record::forget_old(&mut run, now);
    }
    (run, changed)
}

/// The order in which effects are performed. What makes the run go on comes
/// first. `DisarmTimeLimit` stands last: as long as it is pending, the timer
/// brings a driver back to what a crash left undone.
fn rank(effect: &Effect) -> u8 {
    match effect {
        Effect::ArmTimeLimit { .. } | Effect::ArmApproval { .. } | Effect::Wake { .. } => 0,
        Effect::Publish { .. } => 1,
        Effect::Handoff { .. } | Effect::Launch { .. } => 2,
        Effect::Release { .. } => 3,
        Effect::Stop { .. } => 4,
        Effect::DisarmTimeLimit { .. } | Effect::DisarmApproval { .. } => 5,
    }
}

/// What a transition works with beside the run.
struct Scene<'a> {
    manifest: &'a Manifest,
    plan: &'a Workflow,
    now: Timestamp,
    /// What the effects are filed under.
    cause: String,
}

/// An input proves that the effects it came from were performed, and with each
/// all before it that have the same cause, because effects are performed in order.
fn drop_performed(run: &mut Run, input: &Input) {
    let (step, attempt, launched) = match input {
        Input::Handoff { step, attempt, .. } => (step, *attempt, false),
        Input::LaunchFailed { step, attempt, .. } | Input::Result { step, attempt, .. } => {
            (step, *attempt, true)
        }
        Input::Start
        | Input::TimeLimit { .. }
        | Input::Lost { .. }
        | Input::Unanswered { .. }
        | Input::Command(_) => return,
    };
    let is_proven = |pending: &Pending| match &pending.effect {
        Effect::Handoff {
            step: s,
            attempt: n,
            ..
        } => (s, *n) == (step, attempt),
        Effect::Launch {
            step: s,
            attempt: n,
        } => launched && (s, *n) == (step, attempt),
        _ => false,
    };
    while let Some(last) = run.pending.iter().position(is_proven)
        && let Some(cause) = run.pending.get(last).map(|pending| pending.cause.clone())
    {
        let mut index = 0;
        run.pending.retain(|pending| {
            let performed = index <= last && pending.cause == cause;
            index += 1;
            !performed
        });
    }
}
