//! Where the files that steps hand on are kept, alike in every home, and which of them a
//! step is handed.

use crate::run::{KeptPack, Run, StepState};
use loopy_contract::ids::{RunId, derive};
use loopy_contract::manifest::{Step, Workflow};
use loopy_contract::report::HandedFiles;
use std::collections::BTreeMap;

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

/// The packs that a step is handed.
pub(crate) fn handed(plan: &Workflow, run: &Run, step: &Step) -> Vec<HandedFiles> {
    let mut paths: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for files in &step.files {
        let of = paths.entry(&files.step).or_default();
        of.push(files.path.clone());
    }
    let mut handed = Vec::new();
    for (from, paths) in paths {
        handed.extend(kept(plan, run, from).map(|(item, kept)| HandedFiles {
            step: from.to_owned(),
            item,
            paths: paths.clone(),
            pack: kept.pack.clone(),
        }));
    }
    handed
}

/// What a step that is done hands on, by item.
pub(crate) fn kept<'r>(
    plan: &Workflow,
    run: &'r Run,
    step: &str,
) -> impl Iterator<Item = (Option<u32>, &'r KeptPack)> {
    let has_each = plan.steps.get(step).is_some_and(|step| step.each.is_some());
    let done = run.steps.get(step);
    let done = done.filter(|step| matches!(step.state, StepState::Succeeded { .. }));
    let packs = done.and_then(|step| Some(step.files.as_ref()?.packs.as_slice()));
    let packs = packs.unwrap_or_default().iter().zip(0_u32..);
    packs.filter_map(move |(kept, item)| Some((has_each.then_some(item), kept.as_ref()?)))
}
