//! Where the transcript of an attempt is kept, alike in every home.

use loopy_contract::ids::{RunId, derive};

/// The attempt whose transcript it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptOf {
    /// The run's id.
    pub run: RunId,
    /// The step's name in its workflow.
    pub step: String,
    /// Counted from 1.
    pub attempt: u32,
}

impl TranscriptOf {
    /// The folder of all transcripts of a run. Runs and steps are named after files
    /// and may hold any character, so what is derived from them stands here.
    pub fn folder(run: &RunId) -> String {
        derive(&["transcripts", run.as_str()], 32)
    }

    /// The name in that folder.
    pub fn name(&self) -> String {
        format!(
            "{}-{}",
            derive(&["transcript", &self.step], 16),
            self.attempt
        )
    }
}
