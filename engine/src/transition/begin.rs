//! How a run comes about: from an event, or by going over another run again.

use super::{START, Scene};
use crate::run::{Kept, Origin, RUN_SCHEMA, Run, RunStatus, StepRun, StepState};
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Manifest, Workflow};
use loopy_contract::schema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The run that `event` starts in `workflow`, its entry step queued.
/// `None` when the manifest has no such workflow or it has no entry.
pub fn begin(manifest: &Manifest, workflow: &str, event: &Event, now: Timestamp) -> Option<Run> {
    let plan = manifest.workflows.get(workflow)?;
    let mut run = blank(manifest, plan, workflow, event.clone(), now)?;
    let scene = Scene {
        manifest,
        plan,
        now,
        cause: START.to_owned(),
    };
    let text = format!("on {} ({})", event.name, event.id);
    scene.note(&mut run, "run_started", text);
    scene.advance(&mut run);
    Some(run)
}

/// What is changed of the inputs of a run that is gone over again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edits {
    /// Fields of the event, in place of what they were.
    #[serde(default)]
    pub event: Map<String, Value>,
    /// Outputs of steps before the one it is taken up at, by step: a map of
    /// fields in place of what they were.
    #[serde(default)]
    pub outputs: BTreeMap<String, Map<String, Value>>,
}

/// A run that goes over `original` again as `id`: from the beginning, or from
/// one step, with what came before taken over.
///
/// # Errors
/// A sentence about why it cannot.
pub fn again(
    manifest: &Manifest,
    original: &Run,
    id: RunId,
    from: Option<&str>,
    edits: &Edits,
    now: Timestamp,
) -> Result<Run, String> {
    let workflow = original.workflow.as_str();
    let plan = manifest
        .workflows
        .get(workflow)
        .ok_or_else(|| format!("the manifest has no workflow {workflow}"))?;
    let mut event = original.event.clone();
    event.fields.extend(edits.event.clone());
    let contract = manifest.registry.events.get(&event.name);
    if let Some(contract) = contract.filter(|_| !edits.event.is_empty()) {
        let what = format!("event {}", event.name);
        keeps(&what, schema::field_violations(contract, &event.fields))?;
    }
    let mut run = blank(manifest, plan, workflow, event, now)
        .ok_or_else(|| format!("the workflow {workflow} has no entry step"))?;
    run.id = id;
    run.origin = Some(Origin {
        run: original.id.clone(),
        from: from.map(str::to_owned),
    });
    if let Some(from) = from {
        let anew = anew(plan, from)?;
        let names: Vec<String> = run.steps.keys().cloned().collect();
        for name in names.into_iter().filter(|name| !anew.contains(name)) {
            let Some(before) = original.steps.get(&name) else {
                continue;
            };
            let mut state = before.state.clone();
            match &mut state {
                StepState::Succeeded { output } => {
                    if let Some(edit) = edits.outputs.get(&name) {
                        let Value::Object(fields) = output else {
                            return Err(format!(
                                "step {name} put out a list, of which no field can be edited"
                            ));
                        };
                        fields.extend(edit.clone());
                        if let Some(step) = plan.steps.get(&name) {
                            let contract = step.output_contract();
                            let what = format!("the output of step {name}");
                            keeps(&what, schema::field_violations(&contract, fields))?;
                        }
                    }
                }
                StepState::Skipped { .. } => {}
                // What was not done is done now.
                _ => continue,
            }
            let files = taken_over(plan, &anew, &original.id, &name, before)?;
            if let Some(step) = run.steps.get_mut(&name) {
                step.state = state;
                step.files = files;
            }
        }
    }
    for name in edits.outputs.keys() {
        let taken = run.steps.get(name).map(|step| &step.state);
        if !matches!(taken, Some(StepState::Succeeded { .. })) {
            return Err(format!(
                "the output of step {name} cannot be edited: it is not taken over from {}",
                original.id
            ));
        }
    }
    let scene = Scene {
        manifest,
        plan,
        now,
        cause: START.to_owned(),
    };
    let place = from.map_or_else(String::new, |from| format!(" from step {from}"));
    let text = format!("again after {}{place}", original.id);
    scene.note(&mut run, "run_started", text);
    scene.advance(&mut run);
    Ok(run)
}

/// The files that a step which is taken over hands on: those it handed on in
/// `original`, which have to be all that steps ask for that are done anew.
fn taken_over(
    plan: &Workflow,
    anew: &BTreeSet<String>,
    original: &RunId,
    name: &str,
    before: &StepRun,
) -> Result<Option<Kept>, String> {
    let paths = before.files.as_ref().map(|kept| kept.paths.as_slice());
    let kept = |path: &String| paths.is_some_and(|paths| paths.contains(path));
    let asked = anew
        .iter()
        .filter_map(|step| plan.steps.get(step))
        .flat_map(|step| &step.files);
    let mut lost = asked.filter(|files| files.step == name && !kept(&files.path));
    if let Some(lost) = lost.next()
        && matches!(before.state, StepState::Succeeded { .. })
    {
        return Err(format!(
            "the files {} of step {name} were not kept in {original}; take the run up at {name}",
            lost.path
        ));
    }
    let mut files = before.files.clone();
    let packs = files.iter_mut().flat_map(|kept| kept.packs.iter_mut());
    for pack in packs.flatten() {
        pack.from.get_or_insert_with(|| original.clone());
    }
    Ok(files)
}

/// What was edited has to keep its contract, as what was put out has.
fn keeps(what: &str, violations: Vec<String>) -> Result<(), String> {
    if violations.is_empty() {
        return Ok(());
    }
    let violations = violations.join("; ");
    Err(format!("{what} breaks its contract: {violations}"))
}

/// The step and all that wait for it, near or far.
fn anew(plan: &Workflow, from: &str) -> Result<BTreeSet<String>, String> {
    if !plan.steps.contains_key(from) {
        let known: Vec<&str> = plan.steps.keys().map(String::as_str).collect();
        return Err(format!(
            "the workflow has no step {from}; it has {}",
            known.join(", ")
        ));
    }
    Ok(super::flow::after(plan, from))
}

fn blank(
    manifest: &Manifest,
    plan: &Workflow,
    workflow: &str,
    event: Event,
    now: Timestamp,
) -> Option<Run> {
    plan.entry
        .as_ref()
        .filter(|entry| plan.steps.contains_key(*entry))?;
    let steps = plan
        .steps
        .keys()
        .map(|name| {
            let step = StepRun {
                state: StepState::Waiting,
                iteration: 1,
                previous: None,
                files: None,
                attempts: Vec::new(),
            };
            (name.clone(), step)
        })
        .collect();
    Some(Run {
        schema: RUN_SCHEMA,
        id: RunId::derive(workflow, &event.id),
        workflow: workflow.to_owned(),
        manifest: manifest.id(),
        event,
        origin: None,
        status: RunStatus::Running,
        steps,
        created_at: now,
        ended_at: None,
        commands: BTreeSet::new(),
        history: Vec::new(),
        pending: Vec::new(),
    })
}
