//! `loopy docs events`: the events that come with Loopy, and what each holds.

use loopy_compiler::catalogue::{BuiltIn, Provider, provider, providers};
use loopy_contract::mapping::{Check, Reading, Take};
use serde_json::{Value, json};
use std::fmt::Write;

/// All of them, in lines for people.
pub(super) fn list(chosen: &[&Provider]) -> String {
    let pages = chosen.iter().map(|provider| {
        let mut out = format!("{}  {}\n", provider.title(), arrival(provider));
        for line in wrapped(provider.about()) {
            let _ = writeln!(out, "{line}");
        }
        out.push('\n');
        let names = provider.events().iter().map(|event| event.name.len());
        let width = names.max().unwrap_or_default();
        for event in provider.events() {
            let _ = write!(out, "  {:width$}  {}", event.name, event.about);
            if let Some(needed) = event.beyond_repository() {
                let _ = write!(out, " (needs {needed})");
            }
            out.push('\n');
        }
        out
    });
    pages.collect::<Vec<_>>().join("\n")
}

/// All of them, for programs.
pub(super) fn list_json(chosen: &[&Provider]) -> Value {
    let providers = chosen.iter().map(|provider| {
        let events = provider.events().iter();
        let events: Vec<_> = events
            .map(|event| json!({ "name": event.name, "about": event.about, "hooks": event.hooks }))
            .collect();
        json!({
            "name": provider.name,
            "title": provider.title(),
            "about": provider.about(),
            "path": provider.path,
            "verify": provider.verify.name(),
            "secret": provider.verify.secret_variable(),
            "events": events,
        })
    });
    json!({ "providers": providers.collect::<Vec<_>>() })
}

/// One of them, in lines for people.
pub(super) fn page(provider: &Provider, event: &BuiltIn) -> String {
    let mut out = format!("{}: {}\n\n", event.name, event.about);
    let _ = writeln!(out, "{}: {}\n\nwhen", provider.title(), arrival(provider));
    for check in &event.when {
        let _ = writeln!(out, "  {}", condition(check));
    }
    if let Some(needed) = event.beyond_repository() {
        let _ = writeln!(out, "\nneeds {needed}: no repository's webhook carries it");
    }
    let fields: Vec<_> = event.fields().collect();
    let names = fields.iter().map(|field| field.name.len());
    let types = fields.iter().map(|field| field.type_text.len());
    let (names, types) = (names.max().unwrap_or(0), types.max().unwrap_or(0));
    out.push_str("\nfields\n");
    for field in &fields {
        let (name, of, found) = (field.name, field.type_text, found(field.reading));
        let _ = writeln!(out, "  {name:names$}  {of:types$}  {found}");
    }
    out.push_str("\nexample\n");
    for line in example(event).lines() {
        let _ = writeln!(out, "  {line}");
    }
    out
}

/// One of them, for programs.
pub(super) fn page_json(provider: &Provider, event: &BuiltIn) -> Value {
    let fields = event.fields().map(|field| {
        let optional = field.type_text.ends_with('?');
        let type_text = field.type_text.trim_end_matches('?');
        let found = field.reading;
        json!({ "name": field.name, "type": type_text, "optional": optional, "found": found })
    });
    json!({
        "name": event.name,
        "about": event.about,
        "provider": provider.name,
        "path": provider.path,
        "verify": provider.verify.name(),
        "secret": provider.verify.secret_variable(),
        "hooks": event.hooks,
        "when": event.when,
        "fields": fields.collect::<Vec<_>>(),
        "example": example(event),
    })
}

/// What `name` means: a provider, or an event of one.
pub(super) enum Named {
    /// All events of a provider.
    Provider(&'static Provider),
    /// One event.
    Event(&'static Provider, &'static BuiltIn),
    /// Nothing; these may have been meant.
    Nothing(Vec<String>),
}

/// Finds what is meant by `name`.
pub(super) fn named(name: &str) -> Named {
    let same = |of: &&Provider| {
        of.name.eq_ignore_ascii_case(name) || of.prefix.trim_end_matches('.') == name
    };
    if let Some(found) = providers().iter().find(same) {
        return Named::Provider(found);
    }
    let Some(of) = provider(name) else {
        let names = providers().iter().map(|of| of.name.to_owned());
        return Named::Nothing(names.collect());
    };
    match of.event(name) {
        Some(event) => Named::Event(of, event),
        None => Named::Nothing(of.near(name).into_iter().map(str::to_owned).collect()),
    }
}

fn arrival(provider: &Provider) -> String {
    let secret = provider.verify.secret_variable().unwrap_or_default();
    format!("POST {}, signed with {secret}", provider.path)
}

fn condition(check: &Check) -> String {
    match check {
        Check::Header { name, one_of } => format!("header {name} is {}", one_of.join(" or ")),
        Check::Value { at, one_of } => {
            let values = one_of.iter().map(|value| match value {
                Value::Null => "absent".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            format!("{at} is {}", values.collect::<Vec<_>>().join(" or "))
        }
        Check::Present { at } => format!("{at} is there"),
    }
}

fn found(reading: &Reading) -> String {
    let places = reading.at.join(", else ");
    let mut text = match &reading.take {
        Take::Value | Take::Text => places,
        Take::Count => format!("how many {places} has"),
        Take::Presence => format!("whether {places} is there"),
        Take::Each(at) if at.is_empty() => format!("all of {places}"),
        Take::Each(at) => format!("{at} of all of {places}"),
    };
    if let Some(default) = &reading.default {
        let _ = write!(text, ", else {default}");
    }
    text
}

/// The head of a step that waits for the event.
fn example(event: &BuiltIn) -> String {
    let text = |name: &str| {
        let mut fields = event.fields();
        fields.any(|field| field.name == name && field.type_text == "str")
    };
    let filter = [
        "repo", "branch", "channel", "project", "status", "state", "currency",
    ];
    let on = match filter.into_iter().find(|name| text(name)) {
        Some(field) => format!("{{ event: {}, when: event.{field} == \"…\" }}", event.name),
        None => event.name.clone(),
    };
    format!("---\non: {on}\nagent: Worker\n---\n")
}

/// A text in lines of at most 90 letters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 90 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
