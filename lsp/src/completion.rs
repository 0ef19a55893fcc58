//! What may be written at a place: in a step file, the registry or a sensor.

use crate::hover::{shortened, type_of};
use crate::workspace::Asked;
use gen_lsp_types::{CompletionItem, CompletionItemKind, Range, TextEdit};
use loopy_compiler::{
    Code, FieldEntry, Index, Severity, Slot, StepEntry, catalogue, cursor, step_keys, tick_fields,
};
use loopy_contract::manifest::Trigger;
use std::collections::BTreeMap;

/// The candidates, in no given order; none where names mean nothing.
pub(crate) fn complete(asked: &Asked<'_>) -> Vec<CompletionItem> {
    let Some(cursor) = cursor(asked.file, asked.text, asked.offset) else {
        return Vec::new();
    };
    let index = asked.index;
    let candidates = match &cursor.slot {
        Slot::Key(keys) => words(keys, CompletionItemKind::Keyword),
        Slot::Value(values) => words(values, CompletionItemKind::Value),
        Slot::Agent => agents(index),
        Slot::Sandbox => sandboxes(index),
        Slot::Skill => skills(index),
        Slot::Event => events(index),
        Slot::Trigger => triggers(index),
        Slot::Workflow => workflows(index),
        Slot::Warning => warnings(),
        Slot::Step | Slot::Files | Slot::Producer | Slot::Field(_) => in_step(asked, &cursor.slot),
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

/// What only the other steps of the workflow can say.
fn in_step(asked: &Asked<'_>, slot: &Slot) -> Vec<Candidate> {
    let Some((workflow, step)) = step_of(asked.file) else {
        return Vec::new();
    };
    let steps = asked.index.workflows.get(workflow);
    match slot {
        Slot::Producer => producers(steps, step),
        Slot::Field(producer) => fields(asked.index, steps, producer),
        Slot::Files => predecessors(steps, step)
            .map(|(name, _)| {
                let about = "files of this step";
                Candidate::new(format!("{name}/"), CompletionItemKind::Folder, about)
            })
            .collect(),
        _ => steps
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != step)
            .map(|(name, entry)| Candidate::new(name, CompletionItemKind::Module, outputs(entry)))
            .collect(),
    }
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

/// Words of the language. What the keys of a step are for is told.
fn words(words: &[&str], kind: CompletionItemKind) -> Vec<Candidate> {
    let of_step = words == step_keys();
    let about = |word| if of_step { about(word) } else { "" };
    let words = words.iter().copied();
    words
        .map(|word| Candidate::new(word, kind, about(word)))
        .collect()
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
        "files" => "files of earlier steps that it finds in its workspace",
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

fn sandboxes(index: &Index) -> Vec<Candidate> {
    let sandboxes = index.sandboxes.iter();
    sandboxes
        .map(|(name, entry)| Candidate::new(name, CompletionItemKind::Class, &entry.provider))
        .collect()
}

fn skills(index: &Index) -> Vec<Candidate> {
    let skills = index.skills.iter();
    skills
        .map(|(name, skill)| {
            let about = skill.description.as_deref().unwrap_or_default();
            Candidate::new(name, CompletionItemKind::Module, shortened(about))
        })
        .collect()
}

fn workflows(index: &Index) -> Vec<Candidate> {
    let workflows = index.workflows.keys();
    workflows
        .map(|name| Candidate::new(name, CompletionItemKind::Module, "a workflow"))
        .collect()
}

/// The codes that can be turned off.
fn warnings() -> Vec<Candidate> {
    let codes = Code::ALL.iter();
    codes
        .filter(|code| code.severity() == Severity::Warning)
        .map(|code| Candidate::new(code.short(), CompletionItemKind::Constant, code.title()))
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
    let builtin = catalogue::providers().iter().flat_map(|of| of.events());
    candidates.extend(
        builtin.map(|event| Candidate::new(&event.name, CompletionItemKind::Event, &event.about)),
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
    let item = own.and_then(|own| own.item.as_ref());
    candidates.extend(item.map(|item| {
        let about = "an item of the list in `each`";
        Candidate::new(item, CompletionItemKind::Variable, about)
    }));
    candidates.extend(
        predecessors(Some(steps), step)
            .map(|(name, entry)| Candidate::new(name, CompletionItemKind::Module, outputs(entry))),
    );
    candidates
}

/// The direct predecessors; while they cannot be read, any other step.
fn predecessors<'i>(
    steps: Steps<'i>,
    step: &str,
) -> impl Iterator<Item = (&'i String, &'i StepEntry)> {
    let own = steps.and_then(|steps| steps.get(step));
    let is_read = own.is_some_and(|own| own.trigger.is_some() || !own.after.is_empty());
    let after = own.map(|own| own.after.as_slice()).unwrap_or_default();
    steps
        .into_iter()
        .flatten()
        .filter(move |(name, _)| *name != step && (!is_read || after.contains(name)))
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
