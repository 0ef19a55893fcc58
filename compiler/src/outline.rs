//! How a project hangs together, as far as it could be read: what a diagram
//! shows of it, errors or not.

use crate::sensor::SensorDraft;
use crate::step::{StepDraft, TriggerDraft, Workflows};
use loopy_contract::manifest::{SensorTrigger, Trigger};
use std::collections::BTreeMap;

/// The steps of each workflow, and what sets them off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outline {
    /// Steps by workflow and name, those included that could not be read.
    pub workflows: BTreeMap<String, BTreeMap<String, StepOutline>>,
    /// The sensors that could be read, sorted by name.
    pub sensors: Vec<SensorOutline>,
}

/// One step, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutline {
    /// What starts it.
    pub trigger: Option<Trigger>,
    /// The steps it waits for, as written; they may not exist.
    pub after: Vec<String>,
    /// The step it goes back to until a condition holds, as written.
    pub back_to: Option<String>,
    /// The events it emits.
    pub emits: Vec<String>,
    /// The agent's name.
    pub agent: Option<String>,
}

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorOutline {
    /// Its name.
    pub name: String,
    /// What wakes it.
    pub trigger: SensorTrigger,
    /// The event it emits.
    pub emits: String,
}

/// The outline of what was read.
pub(crate) fn of(workflows: &Workflows, sensors: &[SensorDraft]) -> Outline {
    let workflows = workflows.by_name.iter().map(|(name, workflow)| {
        let broken = workflow.broken.iter();
        let broken = broken.map(|name| (name.clone(), StepOutline::default()));
        let read = workflow.steps.iter();
        let read = read.map(|(name, draft)| (name.clone(), step(draft)));
        (name.clone(), broken.chain(read).collect())
    });
    let sensors = sensors.iter().map(|draft| SensorOutline {
        name: draft.sensor.name.clone(),
        trigger: draft.sensor.trigger.clone(),
        emits: draft.sensor.emits.clone(),
    });
    let mut outline = Outline {
        workflows: workflows.collect(),
        sensors: sensors.collect(),
    };
    outline.sensors.sort_by(|a, b| a.name.cmp(&b.name));
    outline
}

fn step(draft: &StepDraft) -> StepOutline {
    let names = |names: &[(String, _)]| names.iter().map(|(name, _)| name.clone()).collect();
    StepOutline {
        trigger: match &draft.trigger {
            TriggerDraft::Read(trigger, _) => Some(trigger.clone()),
            TriggerDraft::None | TriggerDraft::Broken => None,
        },
        after: names(&draft.after),
        back_to: draft.forms.r#loop.as_ref().map(|back| back.to.clone()),
        emits: names(&draft.emits),
        agent: draft.agent.as_ref().map(|(name, _)| name.clone()),
    }
}
