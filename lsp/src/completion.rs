//! What may be written at a place in a step file.

use crate::hover::type_of;
use crate::workspace::Asked;
use gen_lsp_types::{CompletionItem, CompletionItemKind, Range, TextEdit};
use loopy_compiler::{
    FieldEntry, Index, Slot, StepEntry, builtin_events, cursor, step_keys, tick_fields,
};
use loopy_contract::manifest::Trigger;
use std::collections::{BTreeMap, BTreeSet};

/// The candidates, in no given order; none where names mean nothing.
pub(crate) fn complete(asked: &Asked<'_>) -> Vec<CompletionItem> {
    let Some((workflow, step)) = step_of(asked.file) else {
        return Vec::new();
    };
    let Some(cursor) = cursor(asked.text, asked.offset) else {
        return Vec::new();
    };
    let index = asked.index;
    let steps = index.workflows.get(workflow);
    let candidates = match &cursor.slot {
        Slot::Key => step_keys()
            .iter()
            .map(|key| Candidate::new(*key, CompletionItemKind::Keyword, about(key)))
            .collect(),
        Slot::Agent => agents(index),
        Slot::Event => events(index),
        Slot::Trigger => triggers(index),
        Slot::Step => steps
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != step)
            .map(|(name, entry)| Candidate::new(name, CompletionItemKind::Module, outputs(entry)))
            .collect(),
        Slot::Producer => producers(steps, step),
        Slot::Field(producer) => fields(index, steps, producer),
    };
    let range = Range {
        start: asked.lines.position(cursor.word_start),
        end: asked.lines.position(asked.offset),
    };
    candidates
        .into_iter()
        .map(|candidate| candidate.item(&range))
        .collect()
}

struct Candidate {
    label: String,
    kind: CompletionItemKind,
    detail: String,
}

impl Candidate {
    fn new(label: impl Into<String>, kind: CompletionItemKind, detail: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            kind,
            detail: detail.into(),
        }
    }

    fn item(self, range: &Range) -> CompletionItem {
        let edit = TextEdit {
            range: *range,
            new_text: self.label.clone(),
        };
        CompletionItem {
            label: self.label,
            kind: Some(self.kind),
            detail: Some(self.detail).filter(|detail| !detail.is_empty()),
            text_edit: Some(edit.into()),
            ..CompletionItem::default()
        }
    }
}

/// Workflow and step of a step file.
fn step_of(file: &str) -> Option<(&str, &str)> {
    let (workflow, step) = file.strip_prefix("workflows/")?.split_once('/')?;
    Some((workflow, step.strip_suffix(".md")?))
}

/// What a key of the frontmatter is for.
fn about(key: &str) -> &'static str {
    match key {
        "on" => "the event or schedule that starts the workflow",
        "after" => "the steps that have to succeed first",
        "agent" => "who does the work",
        "output" => "the fields the step puts out, and their types",
        "emits" => "the events the step makes",
        "budget" => "limits on time, dollars, tokens and turns",
        "when" => "the condition without which the step is skipped",
        "each" => "the list of which every item gets a sandbox of its own",
        "retry" => "how often to try again, and after what",
        "approve" => "a person has to agree",
        "concurrency" => "how many runs may be under way at once",
        "loop" => "back to an earlier step until a condition holds",
        _ => "",
    }
}

fn agents(index: &Index) -> Vec<Candidate> {
    let agents = index.agents.iter();
    agents
        .map(|(name, agent)| {
            let parts: Vec<&str> = agent
                .harness
                .into_iter()
                .chain(agent.model.as_deref())
                .collect();
            Candidate::new(name, CompletionItemKind::Class, parts.join(" "))
        })
        .collect()
}

fn events(index: &Index) -> Vec<Candidate> {
    let own = index
        .events
        .iter()
        .filter(|(_, event)| event.place.is_some());
    own.map(|(name, event)| {
        let fields: Vec<&str> = event.fields.keys().map(String::as_str).collect();
        Candidate::new(name, CompletionItemKind::Event, fields.join(", "))
    })
    .collect()
}

fn triggers(index: &Index) -> Vec<Candidate> {
    let mut candidates = events(index);
    candidates.extend(
        builtin_events()
            .map(|name| Candidate::new(name, CompletionItemKind::Event, "a built-in event")),
    );
    candidates.push(Candidate::new(
        "cron(\"0 9 * * *\")",
        CompletionItemKind::Snippet,
        "a schedule",
    ));
    candidates
}

fn outputs(entry: &StepEntry) -> String {
    let names: Vec<&str> = entry.outputs.keys().map(String::as_str).collect();
    names.join(", ")
}

type Steps<'i> = Option<&'i BTreeMap<String, StepEntry>>;

/// `event` and the direct predecessors: nothing else can be referred to. While
/// those cannot be read, any other step may be one.
fn producers(steps: Steps<'_>, step: &str) -> Vec<Candidate> {
    let mut candidates = vec![Candidate::new(
        "event",
        CompletionItemKind::Variable,
        "what started the workflow",
    )];
    let Some(steps) = steps else {
        return candidates;
    };
    let own = steps.get(step);
    let after: BTreeSet<&String> = own.into_iter().flat_map(|own| &own.after).collect();
    let item = own.and_then(|own| own.item.as_ref());
    candidates.extend(item.map(|item| {
        let about = "an item of the list in `each`";
        Candidate::new(item, CompletionItemKind::Variable, about)
    }));
    let is_read = own.is_some_and(|own| own.trigger.is_some() || !own.after.is_empty());
    candidates.extend(
        steps
            .iter()
            .filter(|(name, _)| *name != step && (!is_read || after.contains(name)))
            .map(|(name, entry)| Candidate::new(name, CompletionItemKind::Module, outputs(entry))),
    );
    candidates
}

fn fields(index: &Index, steps: Steps<'_>, producer: &str) -> Vec<Candidate> {
    let candidates = |fields: &BTreeMap<String, FieldEntry>| -> Vec<Candidate> {
        let fields = fields.iter();
        fields
            .map(|(name, field)| Candidate::new(name, CompletionItemKind::Field, type_of(field)))
            .collect()
    };
    let steps = steps.into_iter();
    if producer != "event" {
        let step = steps.flat_map(|steps| steps.get(producer)).next();
        return step
            .map(|step| candidates(&step.outputs))
            .unwrap_or_default();
    }
    let trigger = steps.flatten().find_map(|(_, step)| step.trigger.as_ref());
    match trigger {
        Some(Trigger::Event { event, .. }) => index
            .events
            .get(event)
            .map(|event| candidates(&event.fields))
            .unwrap_or_default(),
        Some(Trigger::Cron { .. }) => candidates(&tick_fields()),
        None => Vec::new(),
    }
}
