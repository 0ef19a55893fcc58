//! What travels through the queues. A message names its cause; all else is in
//! the run it names, so a message can be delivered late, twice or out of order.

use crate::run::{Question, SandboxRef};
use crate::transition::{Command, Edits};
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The queues every home has; each has a dead-letter queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueName {
    /// Accepted webhook deliveries and poll ticks, for `sensor`.
    Deliveries,
    /// Events with subscribers and cron ticks, for `start`.
    Events,
    /// Step hand-offs, for `step`.
    Steps,
    /// Timers, what people ask of runs, and sandboxes to stop, for `watch`.
    Watch,
}

impl QueueName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Deliveries, Self::Events, Self::Steps, Self::Watch];

    /// The name in logs, tables and the template.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Events => "events",
            Self::Steps => "steps",
            Self::Watch => "watch",
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often a message is received at most; one that fails that often is
/// dead-lettered.
pub const MAX_RECEIVES: u32 = 5;

/// How long a message rests after its `receives`-th failure (counted from 1):
/// short first, as most trouble passes in an instant, and over six minutes in
/// all, to outlast a service that restarts. After the last there is nothing to
/// wait for.
pub fn redelivery_delay(receives: u32) -> Duration {
    Duration::from_secs(match receives {
        0 | 1 => 1,
        2 => 10,
        3 => 60,
        4 => 300,
        MAX_RECEIVES.. => 0,
    })
}

/// A message, by what it asks for. On a queue it is this type's JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// An accepted webhook delivery.
    Delivery(Delivery),
    /// A poll sensor is due.
    Poll {
        /// The sensor's name.
        sensor: String,
        /// RFC 3339.
        scheduled_at: Timestamp,
    },
    /// An event with at least one subscriber.
    Event(Event),
    /// A schedule is due.
    Cron {
        /// `<workflow>/<step>`.
        step: String,
        /// RFC 3339.
        scheduled_at: Timestamp,
    },
    /// A step's turn.
    Handoff {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// Counted from 1.
        attempt: u32,
    },
    /// A step's turn, when a queue cannot delay it for so long.
    Wake {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// Counted from 1.
        attempt: u32,
    },
    /// It is time to look at an attempt's limit.
    TimeLimit {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// Counted from 1.
        attempt: u32,
        /// How often it was looked at before. One that comes twice is known by
        /// it, and does not begin a second row of looks.
        #[serde(default)]
        check: u32,
    },
    /// An attempt's sandbox ended.
    Ended {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// Counted from 1.
        attempt: u32,
        /// What its provider says of it.
        why: String,
    },
    /// It is time for an answer to a step's question.
    Unanswered {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// The round it asked in; counted from 1.
        iteration: u32,
        /// What it asked.
        question: Question,
    },
    /// No such event came after this one for as long as a trigger waits.
    Settled {
        /// The workflow whose trigger waits.
        workflow: String,
        /// The event.
        event: EventId,
    },
    /// Somebody asks something of a run.
    Command {
        /// The run.
        run: RunId,
        /// What.
        command: Command,
    },
    /// Somebody has a run gone over again.
    Again(Again),
    /// A sandbox is no longer needed.
    Stop {
        /// Which.
        sandbox: SandboxRef,
    },
}

impl Message {
    /// The queue it belongs to.
    pub fn queue(&self) -> QueueName {
        match self {
            Self::Delivery(_) | Self::Poll { .. } => QueueName::Deliveries,
            Self::Event(_) | Self::Cron { .. } | Self::Again(_) => QueueName::Events,
            Self::Handoff { .. } => QueueName::Steps,
            Self::Wake { .. }
            | Self::TimeLimit { .. }
            | Self::Ended { .. }
            | Self::Unanswered { .. }
            | Self::Settled { .. }
            | Self::Command { .. }
            | Self::Stop { .. } => QueueName::Watch,
        }
    }
}

/// A run that goes over another one again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Again {
    /// The new run.
    pub id: RunId,
    /// The one before it.
    pub original: RunId,
    /// The step it is taken up at; from the beginning when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is changed of its inputs.
    #[serde(default)]
    pub edits: Edits,
    /// Begin with the manifest that new runs begin with, not with the one that
    /// the run before it had.
    #[serde(default)]
    pub latest: bool,
    /// Who asks.
    pub by: String,
}

/// A webhook delivery whose signature held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The provider's delivery id, or a hash of path and body.
    pub id: String,
    /// The path it was posted to.
    pub path: String,
    /// `POST`.
    pub method: String,
    /// The raw query string.
    pub query: String,
    /// Header names in lower case; without authorization and cookies.
    pub headers: BTreeMap<String, String>,
    /// The raw body.
    pub body: Body,
    /// When it was accepted.
    pub received_at: Timestamp,
}

/// Raw bytes, kept readable where they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Valid UTF-8, as it came.
    Text(String),
    /// Anything else, in base64.
    Base64(String),
}
