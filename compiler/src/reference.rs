//! Checks that every registered name means something: events, agents,
//! sandboxes, skills.

use crate::catalogue::namespace;
use crate::diagnostic::{Code, Report, Span};
use crate::nearest::did_you_mean;
use crate::registry::{self, RegistryDraft};
use crate::sensor::SensorDraft;
use crate::step::{StepDraft, TriggerDraft, Workflows};
use loopy_contract::files::MAX_SKILL_BYTES;
use loopy_contract::manifest::Trigger;
use std::collections::{BTreeMap, BTreeSet};

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
    sizes: &BTreeMap<&str, u64>,
    report: &mut Report,
) {
    for (name, entry) in &registry.agents.entries {
        check_size(name, &entry.body.skills, sizes, report);
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

/// Checks that the skills of an agent are not more than can be handed to it.
fn check_size(
    agent: &str,
    skills: &[(String, Span)],
    sizes: &BTreeMap<&str, u64>,
    report: &mut Report,
) {
    let size = |skill: &str| sizes.get(skill).copied().unwrap_or_default();
    // One that is named twice is handed over once.
    let named: BTreeSet<&str> = skills.iter().map(|(skill, _)| skill.as_str()).collect();
    let all: u64 = named.iter().map(|skill| size(skill)).sum();
    let largest = skills.iter().max_by_key(|(skill, _)| size(skill));
    let Some((skill, span)) = largest.filter(|_| all > MAX_SKILL_BYTES) else {
        return;
    };
    report
        .add(
            Code::E510,
            registry::FILE,
            *span,
            format!(
                "the skills of agent `{agent}` have {all} bytes, and those of one agent may have {MAX_SKILL_BYTES}"
            ),
        )
        .hint(format!(
            "the largest is `{skill}` with {}; clone large data with `repos` in the sandbox",
            size(skill)
        ));
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
