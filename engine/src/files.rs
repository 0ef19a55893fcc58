//! Where the files that steps hand on are kept, alike in every home.

use crate::run::KeptPack;
use loopy_contract::ids::{RunId, derive};

/// The pack of files of one attempt, as it is kept for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackOf {
    /// The run that it is kept for, and with which it goes.
    pub run: RunId,
    /// The run whose attempt made it: the same one, or one that it goes over again.
    pub from: RunId,
    /// The step's name in its workflow.
    pub step: String,
    /// The attempt, counted from 1.
    pub attempt: u32,
}

impl PackOf {
    /// The folder of all packs of a run. Runs and steps are named after files and
    /// may hold any character, so what is derived from them stands here.
    pub fn folder(run: &RunId) -> String {
        derive(&["files", run.as_str()], 32)
    }

    /// The name in that folder.
    pub fn name(&self) -> String {
        let of = derive(&["pack", self.from.as_str(), &self.step], 24);
        format!("{of}-{}", self.attempt)
    }
}

impl KeptPack {
    /// Where a run has it.
    pub fn place(&self, run: &RunId, step: &str) -> PackOf {
        PackOf {
            run: run.clone(),
            from: self.from.clone().unwrap_or_else(|| run.clone()),
            step: step.to_owned(),
            attempt: self.attempt,
        }
    }
}
