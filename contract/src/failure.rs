//! The kinds of failure, which `retry.on` names and attempts report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of failure, as `retry.on` names them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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
    /// A `loop` came to its end without its condition holding.
    NoProgress,
}

impl FailureClass {
    /// All of them, in the order the documentation lists them.
    pub const ALL: [Self; 7] = [
        Self::Crash,
        Self::Timeout,
        Self::Output,
        Self::Budget,
        Self::Sandbox,
        Self::Lost,
        Self::NoProgress,
    ];

    /// The name as written in a project and shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Output => "output",
            Self::Budget => "budget",
            Self::Sandbox => "sandbox",
            Self::Lost => "lost",
            Self::NoProgress => "no_progress",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}
