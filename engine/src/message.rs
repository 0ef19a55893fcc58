//! What travels through the queues. A message names its cause; all else is in
//! the run it names, so a message can be delivered late, twice or out of order.

use crate::run::SandboxRef;
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
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
    /// Time limits and sandboxes to stop, for `watch`.
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
    /// An attempt's time is over.
    TimeLimit {
        /// The run.
        run: RunId,
        /// The step's name in its workflow.
        step: String,
        /// Counted from 1.
        attempt: u32,
    },
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
            Self::Event(_) | Self::Cron { .. } => QueueName::Events,
            Self::Handoff { .. } => QueueName::Steps,
            Self::TimeLimit { .. } | Self::Stop { .. } => QueueName::Watch,
        }
    }
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
