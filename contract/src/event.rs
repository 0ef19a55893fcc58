//! An event as it travels: on the bus, in a queue, in a run.

use crate::ids::{CascadeId, EventId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest name of an event, in characters (UTF-16): EventBridge takes no longer
/// `DetailType`.
pub const MAX_EVENT_NAME: usize = 128;

/// One registered event with its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Unique for ever; the key of all de-duplication.
    pub id: EventId,
    /// The registered name (`PullRequest`), or `cron:<workflow>/<step>`.
    pub name: String,
    /// The fields, as the event's contract declares them.
    pub fields: Map<String, Value>,
    /// Where it came from.
    pub source: Source,
    /// When it was made.
    pub emitted_at: Timestamp,
    /// The event that began the chain this one belongs to.
    pub cascade: CascadeId,
    /// How many events lie between this one and the beginning of its cascade.
    pub depth: u32,
}

impl Event {
    /// An event that begins a cascade of its own.
    pub fn root(
        id: EventId,
        name: String,
        fields: Map<String, Value>,
        source: Source,
        emitted_at: Timestamp,
    ) -> Self {
        let cascade = CascadeId(id.0.clone());
        Self {
            id,
            name,
            fields,
            source,
            emitted_at,
            cascade,
            depth: 0,
        }
    }
}

/// Who made an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A sensor, from a webhook delivery or a poll.
    Sensor {
        /// The sensor's name.
        sensor: String,
        /// The delivery it was made of.
        delivery: String,
    },
    /// A step of a run.
    Step {
        /// The run's id.
        run: String,
        /// The step's name in its workflow.
        step: String,
    },
    /// A schedule.
    Cron {
        /// `<workflow>/<step>`.
        step: String,
    },
    /// A person, with `loopy trigger`.
    Hand,
    /// A person, who had it happen again.
    Replay {
        /// The event that it repeats.
        event: String,
        /// Where that one came from.
        source: Box<Source>,
    },
}

impl Source {
    /// Whether text in the fields may have been written by a stranger. Such
    /// text is data in a prompt, never instruction. What a step emitted is
    /// derived from what it read, so only schedules and people are trusted.
    pub fn untrusted(&self) -> bool {
        match self {
            Self::Sensor { .. } | Self::Step { .. } => true,
            Self::Cron { .. } | Self::Hand => false,
            Self::Replay { source, .. } => source.untrusted(),
        }
    }
}
