//! What became of an event: for each workflow that starts on it, whether it did,
//! and why not.

use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, RunId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An accepted event and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event.
    pub event: Event,
    /// When it was first looked at.
    pub recorded_at: Timestamp,
    /// By workflow; empty when no workflow starts on it.
    pub outcomes: BTreeMap<String, EventOutcome>,
}

/// What one workflow did with an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventOutcome {
    /// When that was decided.
    pub at: Timestamp,
    /// What was decided.
    pub decision: Decision,
}

/// What a workflow can do with an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Decision {
    /// It started.
    Started {
        /// The run.
        run: RunId,
    },
    /// The trigger's `when` does not hold.
    Filtered {
        /// The condition as it is written.
        condition: String,
    },
    /// The trigger waits for the events to settle.
    Waiting {
        /// Until this moment, unless another one comes.
        until: Timestamp,
    },
    /// Another one came before the events had settled.
    Superseded {
        /// The one that counts instead.
        by: EventId,
    },
    /// A limit of the project does not allow it.
    Refused {
        /// Which, as a sentence.
        because: String,
    },
}

impl Decision {
    /// The name in listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Filtered { .. } => "filtered",
            Self::Waiting { .. } => "waiting",
            Self::Superseded { .. } => "superseded",
            Self::Refused { .. } => "refused",
        }
    }

    /// The reason as a sentence for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::Started { run } => format!("started {run}"),
            Self::Filtered { condition } => format!("`when: {condition}` does not hold"),
            Self::Waiting { until } => {
                format!("waits until {until:.0} for another such event to come")
            }
            Self::Superseded { by } => format!("{by} came after it and counts instead"),
            Self::Refused { because } => because.clone(),
        }
    }
}

impl EventRecord {
    /// Adds what is known now. A run that was started stays started, whatever a
    /// redelivery finds later; and what was decided stays so, whoever comes to
    /// write last.
    pub fn merge(&mut self, newer: &Self) {
        for (workflow, outcome) in &newer.outcomes {
            let starts = matches!(outcome.decision, Decision::Started { .. });
            let stays = self
                .outcomes
                .get(workflow)
                .is_some_and(|known| match known.decision {
                    Decision::Started { .. } => true,
                    Decision::Waiting { .. } => false,
                    Decision::Filtered { .. }
                    | Decision::Superseded { .. }
                    | Decision::Refused { .. } => !starts,
                });
            if !stays {
                self.outcomes.insert(workflow.clone(), outcome.clone());
            }
        }
    }
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only those with this name.
    pub name: Option<String>,
    /// Only those that were recorded then or later.
    pub since: Option<Timestamp>,
    /// Only those that were recorded before this moment.
    pub until: Option<Timestamp>,
    /// At most this many, newest first.
    pub limit: usize,
}

impl EventFilter {
    /// Whether the record is one of them, its number apart.
    pub fn takes(&self, record: &EventRecord) -> bool {
        let (name, at) = (&record.event.name, record.recorded_at);
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}
