//! The run that a command names, and what can be wrong with what is asked of it.

use crate::place::{Opened, PlaceError};
use loopy_contract::ids::RunId;
use loopy_engine::ports::PortError;
use loopy_engine::run::Run;

/// Why a command about runs broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunsError {
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The state cannot be got at.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A value for an input cannot be read.
    #[error("{option}: {why}")]
    Edit {
        /// The option as given.
        option: String,
        /// What is wrong with it.
        why: String,
    },
    /// The run has no such step.
    #[error("run {run} has no step `{step}`; it has {}", .known.join(", "))]
    NoStep {
        /// The run.
        run: RunId,
        /// What was asked for.
        step: String,
        /// What there is.
        known: Vec<String>,
    },
}

impl From<PortError> for RunsError {
    fn from(error: PortError) -> Self {
        Self::Place(error.into())
    }
}

impl RunsError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoRun(_) => Some("`loopy runs list` shows the runs there are".to_owned()),
            Self::Place(error) => error.hint(),
            Self::Edit { .. } => {
                Some("as in --field event.name=Ada or --set plan.count=3".to_owned())
            }
            Self::NoStep { .. } => None,
        }
    }
}

/// The run with this id.
///
/// # Errors
/// [`RunsError::NoRun`] when there is none.
pub(crate) async fn found(opened: &Opened, id: &str) -> Result<Run, RunsError> {
    let id = RunId(id.to_owned());
    let found = opened.run(&id).await?;
    found.ok_or(RunsError::NoRun(id))
}
