//! What a name means: the text of a hover, and the place of a definition.

use crate::text::touches;
use crate::uri;
use crate::workspace::{Asked, range_in};
use gen_lsp_types::{Hover, Location, MarkupContent, MarkupKind, Uri};
use loopy_compiler::{FieldEntry, Index, Mention, Place, Span, StepEntry, Target, tick_fields};
use loopy_contract::manifest::Trigger;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How many characters of a type or a description are shown.
const MAX_TEXT: usize = 400;

/// How many names a list shows.
const MAX_NAMES: usize = 20;

/// What the name at a place means.
pub(crate) fn hover(asked: &Asked<'_>) -> Option<Hover> {
    let mention = mention(asked)?;
    Some(Hover {
        contents: MarkupContent {
            kind: MarkupKind::Markdown,
            value: describe(asked.index, &mention.target)?,
        }
        .into(),
        range: Some(asked.lines.range(mention.span)),
    })
}

/// Where what a place names is declared.
pub(crate) fn definition(asked: &Asked<'_>) -> Option<Location> {
    let place = place(asked.index, &mention(asked)?.target)?;
    Some(Location {
        uri: Uri(uri::of(&asked.root.join(&place.file))),
        range: range_in(asked.sources, &place.file, place.span),
    })
}

fn mention<'w>(asked: &Asked<'w>) -> Option<&'w Mention> {
    let at = asked.lines.line_and_column(asked.offset);
    let mentions = asked.index.mentions.get(asked.file)?;
    mentions.iter().find(|mention| touches(mention.span, at))
}

fn step<'i>(index: &'i Index, workflow: &str, step: &str) -> Option<&'i StepEntry> {
    index.workflows.get(workflow)?.get(step)
}

fn place(index: &Index, target: &Target) -> Option<Place> {
    let beginning = |entry: &StepEntry| Place {
        file: entry.file.clone(),
        span: Span::START,
    };
    match target {
        Target::Agent(name) => index.agents.get(name).map(|agent| agent.place.clone()),
        Target::Sandbox(name) => index.sandboxes.get(name).map(|entry| entry.place.clone()),
        Target::Skill(name) => index.skills.get(name).map(|skill| Place {
            file: skill.file.clone(),
            span: Span::START,
        }),
        Target::Event(name) => index.events.get(name)?.place.clone(),
        Target::Step { workflow, step: s } => step(index, workflow, s).map(beginning),
        Target::EventField { event, field } => {
            let event = index.events.get(event)?;
            let field = event.fields.get(field).map(|field| field.place.clone());
            field.unwrap_or_else(|| event.place.clone())
        }
        Target::Output {
            workflow,
            step: s,
            field,
        } => {
            let entry = step(index, workflow, s)?;
            let field = entry.outputs.get(field);
            field.map_or_else(|| Some(beginning(entry)), |field| field.place.clone())
        }
        Target::Tick | Target::TickField(_) => None,
    }
}

fn describe(index: &Index, target: &Target) -> Option<String> {
    match target {
        Target::Agent(name) => {
            let agent = index.agents.get(name)?;
            let mut text = format!("**agent** `{name}`\n");
            line(&mut text, "harness", agent.harness);
            line(&mut text, "model", agent.model.as_deref());
            let sandbox = agent.sandbox.as_ref().map(|sandbox| {
                let provider = index.sandboxes.get(sandbox).map(|entry| &entry.provider);
                match provider.filter(|provider| !provider.is_empty()) {
                    Some(provider) => format!("{sandbox}` (`{provider}`)"),
                    None => format!("{sandbox}`"),
                }
            });
            if let Some(sandbox) = sandbox {
                let _ = write!(text, "\n- sandbox: `{sandbox}");
            }
            names(&mut text, "skills", &agent.skills);
            Some(text)
        }
        Target::Sandbox(name) => {
            let sandbox = index.sandboxes.get(name)?;
            let mut text = format!("**sandbox** `{name}`\n");
            let provider = Some(sandbox.provider.as_str());
            line(&mut text, "provider", provider.filter(|p| !p.is_empty()));
            Some(text)
        }
        Target::Skill(name) => {
            let skill = index.skills.get(name)?;
            let mut text = format!("**skill** `{name}`\n");
            if let Some(description) = &skill.description {
                let _ = write!(text, "\n{}", shortened(description));
            }
            Some(text)
        }
        Target::Event(name) => {
            let event = index.events.get(name)?;
            let mut text = match event.place {
                Some(_) => format!("**event** `{name}`\n"),
                None => format!("**built-in event** `{name}`\n"),
            };
            fields(&mut text, "fields", &event.fields);
            names(&mut text, "made by", &event.producers);
            names(&mut text, "starts", &event.consumers);
            Some(text)
        }
        Target::Step { workflow, step: s } => {
            let entry = step(index, workflow, s)?;
            let mut text = format!("**step** `{workflow}/{s}`\n");
            match &entry.trigger {
                Some(Trigger::Event { event, .. }) => line(&mut text, "on", Some(event)),
                Some(Trigger::Cron { expr, tz, .. }) => {
                    let zone = tz.as_deref().unwrap_or("UTC");
                    line(&mut text, "on", Some(&format!("{expr} ({zone})")));
                }
                None => {}
            }
            names(&mut text, "after", &entry.after);
            line(&mut text, "agent", entry.agent.as_deref());
            fields(&mut text, "outputs", &entry.outputs);
            names(&mut text, "emits", &entry.emits);
            Some(text)
        }
        Target::EventField { event, field } => {
            let found = index.events.get(event)?.fields.get(field)?;
            Some(typed(field, found, &format!("event `{event}`")))
        }
        Target::Output {
            workflow,
            step: s,
            field,
        } => {
            let found = step(index, workflow, s)?.outputs.get(field)?;
            Some(typed(field, found, &format!("step `{workflow}/{s}`")))
        }
        Target::Tick => {
            let mut text = "**schedule**\n".to_owned();
            fields(&mut text, "fields of `event`", &tick_fields());
            Some(text)
        }
        Target::TickField(field) => {
            let known = tick_fields();
            Some(typed(field, known.get(field)?, "the schedule's tick"))
        }
    }
}

fn line(text: &mut String, what: &str, value: Option<&str>) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n- {what}: `{value}`");
    }
}

fn names(text: &mut String, what: &str, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let shown: Vec<String> = names
        .iter()
        .take(MAX_NAMES)
        .map(|name| format!("`{name}`"))
        .collect();
    let _ = write!(text, "\n- {what}: {}", shown.join(", "));
    if names.len() > MAX_NAMES {
        let _ = write!(text, " and {} more", names.len() - MAX_NAMES);
    }
}

fn fields(text: &mut String, what: &str, fields: &BTreeMap<String, FieldEntry>) {
    if fields.is_empty() {
        return;
    }
    let _ = write!(text, "\n- {what}:");
    for (name, field) in fields.iter().take(MAX_NAMES) {
        let _ = write!(text, "\n  - `{name}: {}`", type_of(field));
    }
    if fields.len() > MAX_NAMES {
        let _ = write!(text, "\n  - and {} more", fields.len() - MAX_NAMES);
    }
}

fn typed(name: &str, field: &FieldEntry, of: &str) -> String {
    format!("```\n{name}: {}\n```\n\nof {of}", type_of(field))
}

/// The type, cut where it is too long to be read.
pub(crate) fn type_of(field: &FieldEntry) -> String {
    shortened(&field.type_text)
}

/// A text, cut where it is too long to be read.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_TEXT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
