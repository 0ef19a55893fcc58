//! Checks how the steps of a workflow hang together.

use crate::diagnostic::{Code, Report, Span};
use crate::nearest::did_you_mean;
use crate::step::{StepDraft, TriggerDraft, WorkflowDraft, Workflows};
use std::collections::{BTreeMap, BTreeSet};

impl WorkflowDraft {
    /// The one step with a trigger, if there is exactly one and it is readable.
    pub(crate) fn entry(&self) -> Option<&StepDraft> {
        let mut entries = self.steps.values().filter(|step| step.has_trigger());
        let first = entries.next()?;
        (entries.next().is_none() && matches!(first.trigger, TriggerDraft::Read(..)))
            .then_some(first)
    }
}

impl StepDraft {
    fn has_trigger(&self) -> bool {
        !matches!(self.trigger, TriggerDraft::None)
    }

    fn trigger_span(&self) -> Option<Span> {
        match &self.trigger {
            TriggerDraft::Read(_, span) => Some(*span),
            _ => None,
        }
    }
}

/// Checks each workflow.
pub(crate) fn check(workflows: &Workflows, report: &mut Report) {
    for (name, workflow) in &workflows.by_name {
        let Some(first) = workflow.all_steps().next() else {
            continue;
        };
        check_entry(name, workflow, first, report);
        for step in workflow.all_steps() {
            check_wiring(name, workflow, step, report);
            check_loop(name, workflow, step, report);
        }
        if let Some(cycle) = cycle(workflow) {
            let path = cycle.join(" -> ");
            report.add(
                Code::E106,
                &first.file,
                Span::START,
                format!("the steps of workflow `{name}` wait for each other in a circle: {path}"),
            );
        }
    }
}

fn check_entry(name: &str, workflow: &WorkflowDraft, first: &StepDraft, report: &mut Report) {
    let entries: Vec<&StepDraft> = workflow
        .all_steps()
        .filter(|step| matches!(step.trigger, TriggerDraft::Read(..)))
        .collect();
    if entries.len() > 1 {
        let names: Vec<&str> = entries.iter().map(|step| step.name.as_str()).collect();
        let span = first.trigger_span().unwrap_or(Span::START);
        report
            .add(
                Code::E102,
                &first.file,
                span,
                format!(
                    "workflow `{name}` has several steps with `on`: {}",
                    names.join(", ")
                ),
            )
            .hint("keep `on` in one of them and give the others `after`, or make two workflows");
    }
    // A step that could not be read may be the one.
    let may_have = !workflow.broken.is_empty() || workflow.all_steps().any(StepDraft::has_trigger);
    if entries.is_empty() && !may_have {
        report
            .add(
                Code::E102,
                &first.file,
                Span::START,
                format!("workflow `{name}` has no step with `on`"),
            )
            .hint("give the first step an `on`, with an event or a schedule");
    }
}

fn check_wiring(name: &str, workflow: &WorkflowDraft, step: &StepDraft, report: &mut Report) {
    match (&step.trigger, step.has_after) {
        (TriggerDraft::None, false) => {
            report
                .add(
                    Code::E103,
                    &step.file,
                    Span::START,
                    format!("step `{}` has neither `on` nor `after`", step.name),
                )
                .hint("the first step of a workflow has `on`, all others have `after`");
        }
        (TriggerDraft::Read(_, span), true) => {
            report
                .add(
                    Code::E104,
                    &step.file,
                    *span,
                    format!("step `{}` has both `on` and `after`", step.name),
                )
                .hint("the first step of a workflow has `on`, all others have `after`");
        }
        _ => {}
    }
    for (target, span) in &step.after {
        if !workflow.steps.contains_key(target) && !workflow.broken.contains(target) {
            report
                .add(
                    Code::E105,
                    &step.file,
                    *span,
                    format!("workflow `{name}` has no step `{target}`"),
                )
                .hint_if(did_you_mean(
                    target,
                    workflow.steps.keys().map(String::as_str),
                ));
        }
    }
}

/// A loop leads back to the step itself or to one that it waits for.
fn check_loop(name: &str, workflow: &WorkflowDraft, step: &StepDraft, report: &mut Report) {
    let Some(draft) = &step.forms.r#loop else {
        return;
    };
    let to = draft.to.as_str();
    if workflow.broken.contains(to) {
        return;
    }
    if !workflow.steps.contains_key(to) {
        let near = did_you_mean(to, workflow.steps.keys().map(String::as_str));
        report
            .add(
                Code::E124,
                &step.file,
                draft.to_span,
                format!("workflow `{name}` has no step `{to}`"),
            )
            .hint_if(near);
        return;
    }
    // The steps that this one waits for, however far back.
    let mut before: BTreeSet<&str> = BTreeSet::from([step.name.as_str()]);
    let mut open = vec![step];
    // One of them that could not be read may wait for any.
    let mut is_known = true;
    while let Some(next) = open.pop() {
        for (earlier, _) in &next.after {
            is_known &= !workflow.broken.contains(earlier);
            if before.insert(earlier) {
                open.extend(workflow.steps.get(earlier).map(Box::as_ref));
            }
        }
    }
    if is_known && !before.contains(to) {
        report
            .add(
                Code::E124,
                &step.file,
                draft.to_span,
                format!("step `{}` does not come after step `{to}`", step.name),
            )
            .hint("a loop goes back to the step itself or to one that it waits for");
    }
}

/// The first circle in the `after` graph, in the order the steps run, or none.
fn cycle(workflow: &WorkflowDraft) -> Option<Vec<&str>> {
    /// How far a step has been looked at.
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        OnPath,
        Done,
    }
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    for start in workflow.steps.keys() {
        if seen.contains_key(start.as_str()) {
            continue;
        }
        // The way from `start` here, each with the predecessors still to visit.
        // No recursion: a chain of steps may be long.
        let mut path: Vec<(&str, std::slice::Iter<'_, (String, Span)>)> = Vec::new();
        let enter = |name: &'_ str| workflow.steps.get_key_value(name);
        if let Some((name, step)) = enter(start) {
            seen.insert(name, Seen::OnPath);
            path.push((name, step.after.iter()));
        }
        while let Some((current, rest)) = path.last_mut() {
            let Some((target, _)) = rest.next() else {
                seen.insert(current, Seen::Done);
                path.pop();
                continue;
            };
            let Some((name, step)) = enter(target) else {
                continue;
            };
            match seen.get(name.as_str()) {
                None => {
                    seen.insert(name, Seen::OnPath);
                    path.push((name, step.after.iter()));
                }
                Some(Seen::Done) => {}
                Some(Seen::OnPath) => {
                    let from = path
                        .iter()
                        .position(|(on_path, _)| on_path == name)
                        .unwrap_or(0);
                    let mut circle: Vec<&str> = path
                        .get(from..)
                        .unwrap_or_default()
                        .iter()
                        .map(|(name, _)| *name)
                        .collect();
                    circle.push(name);
                    // `after` points backwards.
                    circle.reverse();
                    return Some(circle);
                }
            }
        }
    }
    None
}
