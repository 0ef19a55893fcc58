//! What an effect puts into queues, on the bus and into timers. A store that has
//! its queues beside it performs these in the transaction of the commit.

use crate::message::Message;
use crate::run::{Effect, Question, Run};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::Event;
use std::time::Duration;

/// The longest delay a queue takes.
pub const MAX_DELAY: SignedDuration = SignedDuration::from_mins(15);

/// When a sandbox that may only be coming up is stopped once more.
const STOP_AGAIN: Duration = Duration::from_mins(5);

/// Something for a queue, the bus or the timers.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// A message, visible after the delay.
    Send {
        /// The message.
        message: Message,
        /// How long nobody sees it.
        delay: Duration,
    },
    /// A timer to arm.
    Arm {
        /// Arming the same key again changes nothing.
        key: String,
        /// When it fires.
        at: Timestamp,
        /// What it sends then.
        message: Message,
    },
    /// A timer to disarm.
    Disarm {
        /// The key it was armed under.
        key: String,
    },
    /// An event for the bus.
    Publish {
        /// The event.
        event: Event,
    },
}

/// What the effect sends out; `None` for one that does more than that.
pub fn outgoing(run: &Run, effect: &Effect, now: Timestamp) -> Option<Vec<Outgoing>> {
    let id = || run.id.clone();
    let one = |outgoing| Some(vec![outgoing]);
    match effect {
        Effect::Handoff { step, attempt, at } => one(turn(run, step, *attempt, *at, now)),
        // One that cannot begin now is given its turn anew when it can. Armed for
        // a moment that is past, it would fire at once, and bring us here again.
        Effect::Wake { step, attempt, .. } if !run.wants_turn(step, *attempt) => Some(Vec::new()),
        Effect::Wake { step, attempt, at } => one(Outgoing::Arm {
            key: format!("wake/{}/{step}/{attempt}/{}", run.id, at.as_second()),
            at: *at,
            message: Message::Wake {
                run: id(),
                step: step.clone(),
                attempt: *attempt,
            },
        }),
        Effect::ArmTimeLimit {
            step,
            attempt,
            check,
            at,
        } => one(Outgoing::Arm {
            key: limit_key(run, step, *attempt, *check),
            at: *at,
            message: Message::TimeLimit {
                run: id(),
                step: step.clone(),
                attempt: *attempt,
                check: *check,
            },
        }),
        Effect::DisarmTimeLimit {
            step,
            attempt,
            check,
        } => one(Outgoing::Disarm {
            key: limit_key(run, step, *attempt, *check),
        }),
        Effect::ArmApproval {
            step,
            iteration,
            question,
            at,
            again,
        } => one(Outgoing::Arm {
            key: match again {
                false => approval_key(run, step, *iteration, *question),
                true => format!(
                    "{}/{}",
                    approval_key(run, step, *iteration, *question),
                    at.as_second()
                ),
            },
            at: *at,
            message: Message::Unanswered {
                run: id(),
                step: step.clone(),
                iteration: *iteration,
                question: *question,
            },
        }),
        Effect::DisarmApproval {
            step,
            iteration,
            question,
        } => one(Outgoing::Disarm {
            key: approval_key(run, step, *iteration, *question),
        }),
        Effect::Publish { event } => one(Outgoing::Publish {
            event: event.clone(),
        }),
        Effect::Stop { sandbox, again } => {
            let delays = [Some(Duration::ZERO), again.then_some(STOP_AGAIN)];
            let stops = delays.into_iter().flatten().map(|delay| Outgoing::Send {
                message: Message::Stop {
                    sandbox: sandbox.clone(),
                },
                delay,
            });
            Some(stops.collect())
        }
        Effect::Launch { .. } | Effect::Release { .. } => None,
    }
}

/// A step's turn, now or at a moment. What is further off than a queue can delay
/// comes by a timer.
fn turn(run: &Run, step: &str, attempt: u32, at: Option<Timestamp>, now: Timestamp) -> Outgoing {
    let wait = at.map_or(SignedDuration::ZERO, |at| at.duration_since(now));
    let (run_id, step) = (run.id.clone(), step.to_owned());
    match at {
        Some(at) if wait > MAX_DELAY => Outgoing::Arm {
            key: format!("turn/{run_id}/{step}/{attempt}"),
            at,
            message: Message::Wake {
                run: run_id,
                step,
                attempt,
            },
        },
        _ => Outgoing::Send {
            message: Message::Handoff {
                run: run_id,
                step,
                attempt,
            },
            delay: Duration::try_from(wait).unwrap_or_default(),
        },
    }
}

/// The first look at a limit has the key that builds before this one used.
fn limit_key(run: &Run, step: &str, attempt: u32, check: u32) -> String {
    match check {
        0 => format!("{}/{step}/{attempt}", run.id),
        check => format!("{}/{step}/{attempt}/{check}", run.id),
    }
}

fn approval_key(run: &Run, step: &str, iteration: u32, question: Question) -> String {
    format!("{}/{}/{step}/{iteration}", question.name(), run.id)
}
