//! How a project hangs together, as far as it could be read: what a diagram
//! shows of it, errors or not.

use crate::condition::ConditionDraft;
use crate::forms::Forms;
use crate::sensor::SensorDraft;
use crate::step::{StepDraft, TriggerDraft, Workflows};
use loopy_contract::manifest::{Approve, Concurrency, FieldRef, SensorTrigger, Trigger};
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
    /// The events it emits.
    pub emits: Vec<String>,
    /// The agent's name.
    pub agent: Option<String>,
    /// What shapes when and how it runs, where something does; in a box, as most
    /// steps have none of it.
    pub forms: Option<Box<FormsOutline>>,
}

/// What shapes when and how a step runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FormsOutline {
    /// The condition without which it is skipped, as written.
    pub when: Option<String>,
    /// The list of which every item gets a sandbox of its own.
    pub each: Option<FieldRef>,
    /// The files of other steps it asks for: the step, which may not exist, and the
    /// path as written.
    pub files: Vec<(String, String)>,
    /// What a person has to agree to.
    pub approve: Option<Approve>,
    /// How many may be under way at once.
    pub concurrency: Option<Concurrency>,
    /// Where it goes back to.
    pub back: Option<BackOutline>,
    /// The conditions of the emitted events that have one, as written.
    pub emits_when: BTreeMap<String, String>,
}

/// A way back to an earlier step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOutline {
    /// The step, as written; it may not exist.
    pub to: String,
    /// The condition that ends it, as written.
    pub until: String,
    /// How often it goes back at most.
    pub max: u32,
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
        emits: names(&draft.emits),
        agent: draft.agent.as_ref().map(|(name, _)| name.clone()),
        forms: Some(forms(&draft.forms))
            .filter(|forms| *forms != FormsOutline::default())
            .map(Box::new),
    }
}

fn forms(forms: &Forms) -> FormsOutline {
    let source = |condition: &ConditionDraft| condition.source().to_owned();
    FormsOutline {
        when: forms.when.read().map(source),
        each: forms.each.as_ref().map(|each| each.over.clone()),
        files: forms
            .files
            .iter()
            .map(|files| (files.step.clone(), files.path.to_string()))
            .collect(),
        approve: forms.approve.clone(),
        concurrency: forms.concurrency.as_ref().map(|c| c.concurrency.clone()),
        back: forms.r#loop.as_ref().map(|back| BackOutline {
            to: back.to.clone(),
            until: source(&back.until),
            max: back.max,
        }),
        emits_when: forms
            .emits_when
            .iter()
            .map(|(event, when)| (event.clone(), source(when)))
            .collect(),
    }
}
