//! The envelope of an attempt: what its runner has to know, and whether that is not too
//! much to be sent.

use crate::condition;
use crate::files;
use crate::limits::ceiling;
use crate::run::{Attempt, Run};
use crate::transition::{step_seconds, values};
use loopy_contract::manifest::{Contract, Manifest, Sandbox, Workflow};
use loopy_contract::price::price;
use loopy_contract::report::{
    Envelope, Failure, Feedback, MAX_ENVELOPE_BYTES, PROTOCOL, wire_bytes,
};
use std::collections::{BTreeMap, BTreeSet};

/// Seconds between heartbeats.
const HEARTBEAT_SECONDS: u64 = 20;

/// Seconds between parts of a transcript.
const TRANSCRIPT_SECONDS: u64 = 5;

/// How many of what a step reads are named when it is too much.
const NAMED: usize = 3;

/// An envelope without what has to be read for it.
pub(crate) struct Bare<'m> {
    /// All but the environment and the skills.
    pub(crate) envelope: Envelope,
    /// The sandbox whose environment it gets, by its name.
    pub(crate) sandbox: (&'m str, &'m Sandbox),
    /// The skills it gets.
    pub(crate) skills: &'m [String],
}

/// The envelope of an attempt, as far as run and manifest say.
///
/// # Errors
/// What the manifest lacks, as a sentence.
pub(crate) fn bare<'m>(
    manifest: &'m Manifest,
    run: &Run,
    step: &str,
    attempt: u32,
) -> Result<Bare<'m>, String> {
    let missing = |what: &str| format!("{what} of {}/{step}", run.workflow);
    let plan = manifest.workflows.get(&run.workflow);
    let name = step;
    let step = plan
        .and_then(|plan| plan.steps.get(name))
        .ok_or_else(|| missing("no definition"))?;
    let agent = step
        .agent
        .as_ref()
        .and_then(|name| manifest.registry.agents.get(name))
        .ok_or_else(|| missing("no agent"))?;
    let sandbox = agent
        .sandbox
        .as_ref()
        .and_then(|name| manifest.registry.sandboxes.get_key_value(name))
        .ok_or_else(|| missing("no sandbox"))?;

    let record = run.attempt(name, attempt);
    let mut values = plan.map_or_else(BTreeMap::new, |plan| values(plan, run));
    let item = step.each.as_ref().and_then(|each| {
        let list = condition::field(&values, &each.over.producer, &each.over.field);
        let index = usize::try_from(record?.item?).ok()?;
        Some((each.name.clone(), list.get(index)?.clone()))
    });
    values.retain(|producer, _| producer == "event" || step.after.contains(producer));
    values.extend(item);
    let untrusted: BTreeSet<String> = if run.event.source.untrusted() {
        values.keys().cloned().collect()
    } else {
        BTreeSet::new()
    };
    let emits = step
        .emits
        .iter()
        .map(|event| {
            let contract = manifest.registry.events.get(event).cloned();
            (event.clone(), contract.unwrap_or_else(Contract::default))
        })
        .collect();
    let budget = step.budget.as_ref();
    let envelope = Envelope {
        protocol: PROTOCOL,
        run: run.id.0.clone(),
        workflow: run.workflow.clone(),
        step: name.to_owned(),
        attempt,
        harness: agent.harness,
        model: agent.model.clone(),
        tools: agent.tools.clone(),
        body: step.body.clone(),
        refs: step.refs.clone(),
        values,
        untrusted,
        output: step.output_contract(),
        emits,
        emits_optional: step.emits_when.keys().cloned().collect(),
        env: BTreeMap::new(),
        repos: sandbox.1.repos.clone(),
        files: plan.map_or_else(Vec::new, |plan| files::handed(plan, run, step)),
        keeps: step.keeps.clone(),
        skills: BTreeMap::new(),
        skill_files: BTreeMap::new(),
        seconds: step_seconds(Some(step)),
        usd: ceiling(budget, record),
        turns: budget.and_then(|budget| budget.turns),
        tokens: budget.and_then(|budget| budget.tokens),
        price: agent
            .model
            .as_ref()
            .and_then(|model| price(&manifest.registry.prices, model)),
        iteration: record.map_or(1, |record| record.iteration),
        heartbeat_seconds: HEARTBEAT_SECONDS,
        transcript_seconds: TRANSCRIPT_SECONDS,
        last_failure: record.and_then(|this| last_failure(run, name, this)),
        feedback: plan.and_then(|plan| feedback(plan, run, name)),
    };
    Ok(Bare {
        envelope,
        sandbox: (sandbox.0, sandbox.1),
        skills: &agent.skills,
    })
}

/// Why an envelope cannot be sent, if it is too large.
pub(crate) fn too_large(envelope: &Envelope) -> Option<String> {
    let bytes = wire_bytes(envelope);
    if bytes <= MAX_ENVELOPE_BYTES {
        return None;
    }
    let mut parts: Vec<(usize, String)> = envelope
        .values
        .iter()
        .map(|(producer, value)| (wire_bytes(value), format!("`{producer}`")))
        .collect();
    parts.sort_by(|a, b| b.cmp(a));
    let parts: Vec<String> = parts
        .into_iter()
        .take(NAMED)
        .map(|(bytes, what)| format!("{what} {bytes}"))
        .collect();
    Some(format!(
        "what the step is handed has {bytes} bytes, and a runner can be sent {MAX_ENVELOPE_BYTES} \
         ({}); have the steps before it put out less, and hand large data on as `files`",
        parts.join(", ")
    ))
}

/// What went wrong the last time at the same piece of work.
fn last_failure(run: &Run, step: &str, this: &Attempt) -> Option<Failure> {
    let attempts = &run.steps.get(step)?.attempts;
    let before = attempts.iter().rev().find(|other| {
        other.number < this.number && (other.iteration, other.item) == (this.iteration, this.item)
    })?;
    before.failure.clone()
}

/// What the step that has a loop put out before it went back to this one.
fn feedback(plan: &Workflow, run: &Run, step: &str) -> Option<Feedback> {
    plan.steps.iter().find_map(|(name, other)| {
        let back = other.r#loop.as_ref()?;
        let output = run.steps.get(name)?.previous.clone()?;
        (back.to == step).then(|| Feedback {
            step: name.clone(),
            output,
        })
    })
}
