//! Looks for what a project that compiles hardly means: things that nothing
//! uses, and cascades that never end by themselves.

use crate::catalogue::namespace;
use crate::diagnostic::{Code, Report, Span};
use crate::registry::{self, RegistryDraft};
use crate::sensor::SensorDraft;
use crate::step::{StepDraft, TriggerDraft, WorkflowDraft, Workflows};
use loopy_contract::manifest::{Harness, Trigger};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Warns of all that. The project has no errors: a name that is spelled wrong
/// would make the right one look unused.
pub(crate) fn check(
    workflows: &Workflows,
    registry: &RegistryDraft,
    sensors: &[SensorDraft],
    report: &mut Report,
) {
    check_agents(workflows, registry, report);
    check_sandboxes(registry, report);
    check_events(workflows, registry, sensors, report);
    for workflow in workflows.by_name.values() {
        check_outputs(workflow, registry, report);
        check_budgets(workflow, registry, report);
    }
    check_cascades(workflows, report);
}

fn unused(report: &mut Report, code: Code, span: Span, message: String, hint: &str) {
    report
        .add(code, registry::FILE, span, message)
        .hint(format!("{hint}, or remove it"));
}

fn check_agents(workflows: &Workflows, registry: &RegistryDraft, report: &mut Report) {
    let used: BTreeSet<&str> = workflows
        .steps()
        .filter_map(|step| Some(step.agent.as_ref()?.0.as_str()))
        .collect();
    for (name, entry) in &registry.agents.entries {
        if !used.contains(name.as_str()) {
            let message = format!("no step uses the agent `{name}`");
            let hint = format!("write agent: {name} in a step");
            unused(report, Code::W502, entry.span, message, &hint);
        }
    }
}

fn check_sandboxes(registry: &RegistryDraft, report: &mut Report) {
    let agents = registry.agents.entries.values();
    let used: BTreeSet<&str> = agents
        .filter_map(|entry| Some(entry.body.sandbox.as_ref()?.0.as_str()))
        .collect();
    for (name, entry) in &registry.sandboxes.entries {
        if !used.contains(name.as_str()) {
            let message = format!("no agent uses the sandbox `{name}`");
            let hint = format!("write sandbox: {name} in an agent");
            unused(report, Code::W503, entry.span, message, &hint);
        }
    }
}

/// An event that a step emits may be meant for whoever watches the runs. What
/// a sensor makes is only there to start something.
fn check_events(
    workflows: &Workflows,
    registry: &RegistryDraft,
    sensors: &[SensorDraft],
    report: &mut Report,
) {
    let used: BTreeSet<&str> = workflows
        .steps()
        .flat_map(|step| waits_for(step).into_iter().chain(emitted(step)))
        .map(|(event, _)| event)
        .collect();
    let sensed: BTreeMap<&str, &SensorDraft> = sensors
        .iter()
        .rev()
        .map(|draft| (draft.sensor.emits.as_str(), draft))
        .collect();
    for (name, entry) in &registry.events.entries {
        if used.contains(name.as_str()) || namespace(name).is_some() {
            continue;
        }
        let message = match sensed.get(name.as_str()) {
            Some(draft) => format!(
                "sensor `{}` makes the event `{name}`, which starts no workflow",
                draft.sensor.name
            ),
            None => format!("nothing emits the event `{name}`, and no workflow waits for it"),
        };
        let hint = format!("write on: {name} in the first step of a workflow");
        unused(report, Code::W504, entry.span, message, &hint);
    }
}

/// The outputs of a workflow's last steps are its result. Those of the others
/// are there for the steps behind them.
fn check_outputs(workflow: &WorkflowDraft, registry: &RegistryDraft, report: &mut Report) {
    let steps = || workflow.all_steps();
    let followed: BTreeSet<&str> = steps()
        .flat_map(|step| &step.after)
        .map(|(name, _)| name.as_str())
        .collect();
    let read: BTreeSet<(&str, &str)> = steps().flat_map(reads).collect();
    for step in steps().filter(|step| followed.contains(step.name.as_str())) {
        let mut emitted = emitted(step).filter_map(|(event, _)| registry.events.entries.get(event));
        // What a step tells in an event too is read there.
        let told: BTreeSet<&str> = emitted
            .by_ref()
            .flat_map(|entry| entry.body.contract.fields.keys())
            .map(String::as_str)
            .collect();
        for field in step.output.contract.fields.keys() {
            let is_read = |field| read.contains(&(step.name.as_str(), field));
            // The empty field is all of them.
            if is_read(field.as_str()) || is_read("") || told.contains(field.as_str()) {
                continue;
            }
            let message = format!("nothing reads the output `{field}` of step `{}`", step.name);
            let name = &step.name;
            report
                .add(Code::W505, &step.file, step.output.place(field), message)
                .hint(format!(
                    "read it behind `{name}` as {{{{ {name}.{field} }}}}, or remove it"
                ));
        }
    }
}

/// A command uses no model, so that nothing counts what these limits bound.
fn check_budgets(workflow: &WorkflowDraft, registry: &RegistryDraft, report: &mut Report) {
    for step in workflow.all_steps() {
        let Some((name, _)) = step
            .agent
            .as_ref()
            .filter(|_| !step.model_limits.is_empty())
        else {
            continue;
        };
        let agent = registry.agents.entries.get(name);
        let agent = agent.and_then(|entry| entry.body.agent.as_ref());
        if agent.is_none_or(|agent| agent.harness != Harness::Command) {
            continue;
        }
        for (key, span) in &step.model_limits {
            let message = format!(
                "`budget.{key}` has no effect: agent `{name}` runs commands, which use no model"
            );
            report
                .add(Code::W507, &step.file, *span, message)
                .hint("`budget.wall_clock` bounds a command; leave the rest out");
        }
    }
}

/// The event that a step waits for.
fn waits_for(step: &StepDraft) -> Option<(&str, Span)> {
    match &step.trigger {
        TriggerDraft::Read(Trigger::Event { event, .. }, span) => Some((event, *span)),
        _ => None,
    }
}

/// The events that a step emits.
fn emitted(step: &StepDraft) -> impl Iterator<Item = (&str, Span)> {
    step.emits
        .iter()
        .map(|(event, span)| (event.as_str(), *span))
}

/// The fields of steps and events that a step reads.
fn reads(step: &StepDraft) -> impl Iterator<Item = (&str, &str)> {
    let refs = step.refs.iter();
    refs.map(|(reference, _)| (reference.producer.as_str(), reference.field.as_str()))
        .chain(step.forms.references())
}

// Cascades.

/// What sets what off: a workflow its events, an event its workflows.
#[derive(Default)]
struct Cascades<'a> {
    nodes: Vec<Node<'a>>,
    next: Vec<Vec<usize>>,
}

/// A workflow or an event.
#[derive(Clone, Copy)]
enum Node<'a> {
    Workflow(&'a str, &'a WorkflowDraft),
    Event(&'a str),
}

impl<'a> Cascades<'a> {
    fn of(workflows: &'a Workflows) -> Self {
        let mut graph = Self::default();
        let mut events: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, workflow) in &workflows.by_name {
            graph.add(Node::Workflow(name, workflow));
        }
        for (at, workflow) in workflows.by_name.values().enumerate() {
            if let Some((event, _)) = workflow.entry().and_then(waits_for) {
                let event = *events
                    .entry(event)
                    .or_insert_with(|| graph.add(Node::Event(event)));
                graph.next[event].push(at);
            }
        }
        // An event that starts nothing is on no circle.
        for (at, workflow) in workflows.by_name.values().enumerate() {
            let emitted = workflow.all_steps().flat_map(emitted);
            graph.next[at].extend(emitted.filter_map(|(event, _)| events.get(event)));
        }
        graph
    }

    fn add(&mut self, node: Node<'a>) -> usize {
        self.nodes.push(node);
        self.next.push(Vec::new());
        self.nodes.len() - 1
    }

    /// The number of the group each node belongs to: within a group, every node
    /// leads to every other (Tarjan's strongly connected components).
    fn groups(&self) -> Vec<usize> {
        const UNSEEN: usize = usize::MAX;
        let count = self.nodes.len();
        let (mut order, mut low) = (vec![UNSEEN; count], vec![UNSEEN; count]);
        let mut group = vec![UNSEEN; count];
        let (mut seen, mut groups) = (0, 0);
        let mut stack = Vec::new();
        for start in 0..count {
            if order[start] != UNSEEN {
                continue;
            }
            // The way from `start` here, each with the number of ways on that
            // were taken. No recursion: a cascade may be long.
            let mut path = vec![(start, 0)];
            while let Some((node, taken)) = path.last_mut() {
                let node = *node;
                if *taken == 0 {
                    order[node] = seen;
                    low[node] = seen;
                    seen += 1;
                    stack.push(node);
                }
                if let Some(next) = self.next[node].get(*taken).copied() {
                    *taken += 1;
                    if order[next] == UNSEEN {
                        path.push((next, 0));
                    } else if group[next] == UNSEEN {
                        low[node] = low[node].min(order[next]);
                    }
                    continue;
                }
                path.pop();
                if let Some((before, _)) = path.last() {
                    low[*before] = low[*before].min(low[node]);
                }
                if low[node] == order[node] {
                    while let Some(member) = stack.pop() {
                        group[member] = groups;
                        if member == node {
                            break;
                        }
                    }
                    groups += 1;
                }
            }
        }
        group
    }

    /// The shortest way from a node back to it inside its group, both ends
    /// included; `None` when there is none.
    fn circle(&self, start: usize, groups: &[usize]) -> Option<Vec<usize>> {
        let mut from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ahead = VecDeque::from([start]);
        while let Some(node) = ahead.pop_front() {
            for next in self.next[node].iter().copied() {
                if groups[next] != groups[start] {
                    continue;
                }
                if next == start {
                    let before = |at: &usize| from.get(at).copied();
                    let mut path: Vec<usize> = std::iter::successors(Some(node), before).collect();
                    path.reverse();
                    path.push(start);
                    return Some(path);
                }
                from.entry(next).or_insert_with(|| {
                    ahead.push_back(next);
                    node
                });
            }
        }
        None
    }
}

/// Names one circle for each set of workflows that set each other off.
fn check_cascades(workflows: &Workflows, report: &mut Report) {
    let graph = Cascades::of(workflows);
    let groups = graph.groups();
    let mut told = BTreeSet::new();
    for (start, node) in graph.nodes.iter().enumerate() {
        let Node::Workflow(name, workflow) = *node else {
            continue;
        };
        if told.contains(&groups[start]) {
            continue;
        }
        let Some(circle) = graph.circle(start, &groups) else {
            continue;
        };
        told.insert(groups[start]);
        let names: Vec<&str> = circle
            .iter()
            .map(|at| match graph.nodes[*at] {
                Node::Workflow(name, _) | Node::Event(name) => name,
            })
            .collect();
        let first = names.get(1).copied().unwrap_or_default();
        let place = workflow.all_steps().find_map(|step| {
            let (_, span) = emitted(step).find(|(event, _)| *event == first)?;
            Some((step.file.as_str(), span))
        });
        let (file, span) = place.unwrap_or((registry::FILE, Span::START));
        let message = format!(
            "workflow `{name}` can set itself off again: {}",
            way(&names)
        );
        report.add(Code::W506, file, span, message).hint(
            "see that it ends, with a condition on an `emits`; \
             limits: { cascade_spend: { usd: 20 } } bounds what it costs",
        );
    }
}

/// A circle for a message, its middle left out when it is long.
fn way(names: &[&str]) -> String {
    const ENDS: usize = 7;
    let left_out = names.len().saturating_sub(2 * ENDS);
    if left_out == 0 {
        return names.join(" -> ");
    }
    let (first, rest) = names.split_at(ENDS);
    let last = &rest[left_out..];
    format!("{} -> … -> {}", first.join(" -> "), last.join(" -> "))
}

#[cfg(test)]
mod tests {
    use crate::{Code, Sources, compile};
    use std::fmt::Write;

    #[test]
    fn a_long_cascade_costs_little_and_is_told_in_short() {
        let count = 2000;
        let mut sources = Sources::default();
        let mut registry = "sandboxes: { Here: { provider: local } }\n\
             agents: { Shell: { harness: command, sandbox: Here } }\nevents:\n"
            .to_owned();
        for at in 0..count {
            let _ = writeln!(registry, "  E{at}:");
            let next = (at + 1) % count;
            sources.insert(
                format!("workflows/w{at}/run.md"),
                format!("---\non: E{at}\nagent: Shell\nemits: E{next}\n---\nx\n"),
            );
        }
        sources.insert("registry.yml", registry);
        let found = compile(&sources).diagnostics;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].code, Code::W506);
        let message = &found[0].message;
        assert!(message.ends_with("w0 -> E1 -> w1 -> E2 -> w2 -> E3 -> w3 -> … -> w1997 -> E1998 -> w1998 -> E1999 -> w1999 -> E0 -> w0"), "{message}");
    }
}
