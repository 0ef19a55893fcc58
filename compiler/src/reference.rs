//! Checks that every name means something: events, agents, sandboxes, skills,
//! and the fields that bodies refer to.

use crate::catalogue::namespace;
use crate::diagnostic::{Code, Report, Span};
use crate::nearest::did_you_mean;
use crate::registry::{self, RegistryDraft};
use crate::sensor::SensorDraft;
use crate::step::{StepDraft, TriggerDraft, WorkflowDraft, Workflows};
use loopy_contract::manifest::{Ref, Trigger};
use std::collections::{BTreeMap, BTreeSet};

/// The fields of a schedule's tick.
const TICK: [&str; 2] = ["scheduled_at", "last_run"];

/// Checks the references in bodies.
pub(crate) fn check_bodies(workflows: &Workflows, registry: &RegistryDraft, report: &mut Report) {
    for workflow in workflows.by_name.values() {
        let trigger = workflow.entry().and_then(|entry| match &entry.trigger {
            TriggerDraft::Read(trigger, _) => Some(trigger),
            _ => None,
        });
        for step in workflow.steps.values() {
            for (reference, span) in &step.refs {
                if reference.producer == "event" {
                    check_event_field(trigger, registry, step, reference, *span, report);
                } else {
                    check_step_field(workflow, step, reference, *span, report);
                }
            }
        }
    }
}

fn check_event_field(
    trigger: Option<&Trigger>,
    registry: &RegistryDraft,
    step: &StepDraft,
    reference: &Ref,
    span: Span,
    report: &mut Report,
) {
    let field = reference.field.as_str();
    match trigger {
        Some(Trigger::Cron { .. }) if !TICK.contains(&field) => {
            report
                .add(
                    Code::E303,
                    &step.file,
                    span,
                    format!("the tick of a schedule has no field `{field}`"),
                )
                .hint(format!("its fields are {}", TICK.join(" and ")));
        }
        Some(Trigger::Event { event, .. }) => {
            // An event that is not registered is reported where it is named.
            let Some(entry) = registry.events.entries.get(event) else {
                return;
            };
            if entry.body.lacks(field) {
                let fields = &entry.body.contract.fields;
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                report
                    .add(
                        Code::E302,
                        &step.file,
                        span,
                        format!("event `{event}` has no field `{field}`"),
                    )
                    .hint_if(did_you_mean(field, names.iter().copied()).or_else(|| {
                        (!names.is_empty()).then(|| format!("its fields are {}", names.join(", ")))
                    }));
            }
        }
        _ => {}
    }
}

fn check_step_field(
    workflow: &WorkflowDraft,
    step: &StepDraft,
    reference: &Ref,
    span: Span,
    report: &mut Report,
) {
    let (producer, field) = (reference.producer.as_str(), reference.field.as_str());
    if !step.after.iter().any(|(name, _)| name == producer) {
        let diagnostic = report.add(
            Code::E304,
            &step.file,
            span,
            format!("`{producer}` is not in `after` of step `{}`", step.name),
        );
        if producer != step.name && workflow.steps.contains_key(producer) {
            diagnostic.hint(format!("add `{producer}` to `after`"));
        } else {
            let known = step
                .after
                .iter()
                .map(|(name, _)| name.as_str())
                .chain(["event"]);
            diagnostic.hint_if(did_you_mean(producer, known));
        }
        return;
    }
    // A predecessor that does not exist is reported where it is named.
    let Some(output) = workflow.steps.get(producer).map(|step| &step.output) else {
        return;
    };
    if output.lacks(field) {
        let names: Vec<&str> = output.contract.fields.keys().map(String::as_str).collect();
        report
            .add(
                Code::E305,
                &step.file,
                span,
                format!("step `{producer}` declares no output `{field}`"),
            )
            .hint(
                did_you_mean(field, names)
                    .unwrap_or_else(|| format!("add it to `output` of step `{producer}`")),
            );
    }
}

/// Checks the agents and events that steps name.
pub(crate) fn check_steps(workflows: &Workflows, registry: &RegistryDraft, report: &mut Report) {
    for step in workflows.steps() {
        if let Some((agent, span)) = &step.agent
            && registry.agents.lacks(agent)
        {
            report
                .add(
                    Code::E501,
                    &step.file,
                    *span,
                    format!("registry.yml lists no agent `{agent}`"),
                )
                .hint_if(did_you_mean(agent, registry.agents.names()));
        }
        for (event, span) in &step.emits {
            if let Some(namespace) = namespace(event) {
                let message = format!(
                    "a step cannot emit `{event}`: `{namespace}` belongs to built-in events"
                );
                report.add(Code::E215, &step.file, *span, message);
            } else {
                check_event(step, event, *span, registry, report);
            }
        }
        if let TriggerDraft::Read(Trigger::Event { event, .. }, span) = &step.trigger
            && namespace(event).is_none()
        {
            check_event(step, event, *span, registry, report);
        }
    }
}

fn check_event(
    step: &StepDraft,
    event: &str,
    span: Span,
    registry: &RegistryDraft,
    report: &mut Report,
) {
    if registry.events.lacks(event) {
        report
            .add(
                Code::E504,
                &step.file,
                span,
                format!("registry.yml lists no event `{event}`"),
            )
            .hint_if(did_you_mean(event, registry.events.names()));
    }
}

/// Checks the names inside the registry.
pub(crate) fn check_registry(
    workflows: &Workflows,
    registry: &RegistryDraft,
    skills: &BTreeSet<&str>,
    report: &mut Report,
) {
    for (name, entry) in &registry.agents.entries {
        if let Some((sandbox, span)) = &entry.body.sandbox
            && registry.sandboxes.lacks(sandbox)
        {
            report
                .add(
                    Code::E502,
                    registry::FILE,
                    *span,
                    format!("agent `{name}` names the sandbox `{sandbox}`, which is not listed"),
                )
                .hint_if(did_you_mean(sandbox, registry.sandboxes.names()));
        }
        for (skill, span) in &entry.body.skills {
            if !skills.contains(skill.as_str()) {
                report
                    .add(
                        Code::E503,
                        registry::FILE,
                        *span,
                        format!("agent `{name}` names the skill `{skill}`, but there is no skills/{skill}/SKILL.md"),
                    )
                    .hint_if(did_you_mean(skill, skills.iter().copied()));
            }
        }
    }
    for (workflow, span) in &registry.limited {
        if !workflows.by_name.contains_key(workflow) {
            report
                .add(
                    Code::E505,
                    registry::FILE,
                    *span,
                    format!("a limit names the workflow `{workflow}`, which does not exist"),
                )
                .hint_if(did_you_mean(
                    workflow,
                    workflows.by_name.keys().map(String::as_str),
                ));
        }
    }
}

/// Warns of events that are waited for and never made.
pub(crate) fn check_producers(
    workflows: &Workflows,
    registry: &RegistryDraft,
    sensors: &[SensorDraft],
    report: &mut Report,
) {
    let mut made: BTreeSet<&str> = sensors
        .iter()
        .map(|draft| draft.sensor.emits.as_str())
        .collect();
    made.extend(
        workflows
            .steps()
            .flat_map(|step| &step.emits)
            .map(|(event, _)| event.as_str()),
    );
    let mut waited: BTreeMap<&str, (&StepDraft, Span)> = BTreeMap::new();
    for step in workflows.steps() {
        if let TriggerDraft::Read(Trigger::Event { event, .. }, span) = &step.trigger {
            waited.entry(event).or_insert((step, *span));
        }
    }
    for (event, (step, span)) in waited {
        if registry.events.entries.contains_key(event) && !made.contains(event) {
            report
                .add(
                    Code::W501,
                    &step.file,
                    span,
                    format!("no sensor and no step makes the event `{event}`"),
                )
                .hint("only `loopy trigger` can start this workflow");
        }
    }
}
