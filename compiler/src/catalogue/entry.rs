//! Reads a file of the catalogue. An entry is a kind of delivery; it makes an
//! event for the kind and one for each of its actions.
//!
//! ```yaml
//! kind: header x-github-event   # where the kind stands: a header, or a place in the body
//! action: /action               # where the action stands; without it, behind the kind's dot
//! hooks: [repository, app]       # which kinds of webhooks carry it, where there are several
//! common: { repo: str /repository/full_name }    # fields of all events
//! events:
//!   - kind: pull_request
//!     subject: a pull request
//!     actions: [opened, labeled]    # PullRequest, PullRequestOpened, PullRequestLabeled
//!     fields: { title: str /pull_request/title }  # a type, and places in the body
//! ```

use super::{BuiltIn, Loaded};
use crate::types;
use crate::yaml;
use loopy_contract::mapping::{Check, Reading, Take};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Where a field is found and what it then is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) type_text: String,
    pub(super) reading: Reading,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    kind: String,
    action: Option<String>,
    /// What kinds of webhooks carry a delivery, where the service has several.
    #[serde(default)]
    hooks: Vec<String>,
    #[serde(default)]
    common: BTreeMap<String, FieldText>,
    events: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// What stands where the kind stands.
    kind: Option<String>,
    /// The name behind the prefix; made from the kind when left out.
    name: Option<String>,
    /// What it is about.
    subject: String,
    /// What kinds of webhooks carry it, where that is not what the file says of all.
    hooks: Option<Vec<String>>,
    /// What may stand where the action stands. Each makes an event.
    #[serde(default)]
    actions: Actions,
    /// The one action that this event is; it takes the place of the event that
    /// the kind's entry makes.
    action: Option<String>,
    #[serde(default)]
    when: Vec<When>,
    /// Whether it has nothing of the common fields.
    #[serde(default)]
    bare: bool,
    /// The common fields it does not have.
    #[serde(default)]
    without: Vec<String>,
    fields: BTreeMap<String, FieldText>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Actions {
    /// The name of the event follows from the action.
    Plain(Vec<String>),
    /// By action, what the event's name ends with.
    Named(BTreeMap<String, String>),
}

impl Actions {
    fn are_none(&self) -> bool {
        match self {
            Self::Plain(actions) => actions.is_empty(),
            Self::Named(actions) => actions.is_empty(),
        }
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::Plain(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    at: Option<String>,
    header: Option<String>,
    is: Option<Vec<Value>>,
    present: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FieldText {
    /// `TYPE PLACE…`
    Short(String),
    Long(LongField),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongField {
    r#type: String,
    at: Option<String>,
    /// Of each item of the list there, the text at this place.
    each: Option<String>,
    /// The length of the list there.
    count: Option<String>,
    /// Whether something is there.
    present: Option<String>,
    or: Option<Value>,
}

/// Reads a file.
///
/// # Errors
/// A sentence for the one who edits it.
pub(super) fn load(prefix: &str, text: &str) -> Result<Loaded, String> {
    let document = yaml::parse(text, 1).map_err(|problem| problem.message)?;
    let root = document.root.ok_or("the file is empty")?;
    let json = root.to_json().map_err(|problem| problem.message)?;
    let file: File = serde_json::from_value(json).map_err(|error| error.to_string())?;
    let common = read_fields(&file.common)?;
    let mut events: BTreeMap<String, BuiltIn> = BTreeMap::new();
    // An event of its own counts before one that follows from its kind.
    let (own, general): (Vec<&Entry>, Vec<&Entry>) =
        file.events.iter().partition(|entry| entry.action.is_some());
    for entry in own {
        for event in entry.events(prefix, &file, &common)? {
            events.insert(event.name.clone(), event);
        }
    }
    let own: BTreeSet<String> = events.keys().cloned().collect();
    for entry in general {
        for event in entry.events(prefix, &file, &common)? {
            let name = event.name.clone();
            if !own.contains(&name) && events.insert(name.clone(), event).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
    }
    Ok(Loaded {
        title: file.title,
        about: file.about,
        events: events.into_values().collect(),
    })
}

impl Entry {
    fn events(
        &self,
        prefix: &str,
        file: &File,
        common: &BTreeMap<String, Field>,
    ) -> Result<Vec<BuiltIn>, String> {
        let name = match (&self.name, &self.kind) {
            (Some(name), _) => name.clone(),
            (None, Some(kind)) => camel(kind),
            (None, None) => return Err(format!("{}: it has no name and no kind", self.subject)),
        };
        let fields = self
            .all_fields(file, common)
            .map_err(|why| format!("{name}: {why}"))?;
        let mut checks = Vec::new();
        for when in &self.when {
            checks.push(when.check().map_err(|why| format!("{name}: {why}"))?);
        }
        let actions: Vec<(&str, String)> = match &self.actions {
            Actions::Plain(actions) => {
                let actions = actions.iter();
                actions
                    .map(|action| (action.as_str(), camel(action)))
                    .collect()
            }
            Actions::Named(actions) => {
                let actions = actions.iter();
                actions
                    .map(|(action, ending)| (action.as_str(), ending.clone()))
                    .collect()
            }
        };
        let hooks = self.hooks.as_ref().unwrap_or(&file.hooks);
        let event = |ending: &str, about: String, of: Vec<Check>| BuiltIn {
            name: format!("{prefix}{name}{ending}"),
            about,
            hooks: hooks.clone(),
            when: of.into_iter().chain(checks.iter().cloned()).collect(),
            fields: fields.clone().into_iter().collect(),
        };
        let subject = &self.subject;
        if let Some(action) = &self.action {
            return Ok(vec![event(
                "",
                subject.clone(),
                self.of(file, &[action.as_str()]),
            )]);
        }
        let known: Vec<&str> = actions.iter().map(|(action, _)| *action).collect();
        let about = match known.is_empty() {
            true => subject.clone(),
            false => format!("{subject}: any action"),
        };
        // Where actions have a place of their own, those that are not listed count too.
        let any: &[&str] = if file.action.is_some() { &[] } else { &known };
        let mut events = vec![event("", about, self.of(file, any))];
        for (action, ending) in &actions {
            let about = format!("{subject}: {}", action.replace(['_', '.'], " "));
            events.push(event(ending, about, self.of(file, &[*action])));
        }
        Ok(events)
    }

    /// The checks for the kind and for one of `actions`, or for any.
    fn of(&self, file: &File, actions: &[&str]) -> Vec<Check> {
        let Some(kind) = &self.kind else {
            return Vec::new();
        };
        let check = |place: &str, values: Vec<String>| match place.strip_prefix("header ") {
            Some(header) => Check::Header {
                name: header.to_owned(),
                one_of: values,
            },
            None => Check::Value {
                at: place.to_owned(),
                one_of: values.into_iter().map(Value::from).collect(),
            },
        };
        let texts = |actions: &[&str]| actions.iter().map(|action| (*action).to_owned()).collect();
        match &file.action {
            Some(place) => {
                let mut checks = vec![check(&file.kind, vec![kind.clone()])];
                if !actions.is_empty() {
                    checks.push(check(place, texts(actions)));
                }
                checks
            }
            None if actions.is_empty() => vec![check(&file.kind, vec![kind.clone()])],
            None => {
                let kinds = actions.iter().map(|action| format!("{kind}.{action}"));
                vec![check(&file.kind, kinds.collect())]
            }
        }
    }

    fn all_fields(
        &self,
        file: &File,
        common: &BTreeMap<String, Field>,
    ) -> Result<BTreeMap<String, Field>, String> {
        let mut fields = match self.bare {
            true => BTreeMap::new(),
            false => common.clone(),
        };
        if let Some(at) = &file.action
            && !self.actions.are_none()
        {
            let text = FieldText::Short(format!("str {at}"));
            fields.insert("action".to_owned(), text.read()?);
        }
        for name in &self.without {
            if fields.remove(name).is_none() {
                return Err(format!("`{name}` is no common field"));
            }
        }
        fields.extend(read_fields(&self.fields)?);
        Ok(fields)
    }
}

impl When {
    fn check(&self) -> Result<Check, String> {
        match self {
            Self {
                at: Some(at),
                header: None,
                is: Some(values),
                present: None,
            } => Ok(Check::Value {
                at: at.clone(),
                one_of: values.clone(),
            }),
            Self {
                at: Some(at),
                header: None,
                is: None,
                present: Some(present),
            } => Ok(match present {
                true => Check::Present { at: at.clone() },
                false => Check::Value {
                    at: at.clone(),
                    one_of: vec![Value::Null],
                },
            }),
            Self {
                at: None,
                header: Some(header),
                is: Some(values),
                present: None,
            } => {
                let texts = values.iter().filter_map(Value::as_str).map(str::to_owned);
                Ok(Check::Header {
                    name: header.clone(),
                    one_of: texts.collect(),
                })
            }
            Self { at, header, .. } => Err(format!(
                "a check has `at` with `is` or `present`, or `header` with `is`: {at:?} {header:?}"
            )),
        }
    }
}

fn read_fields(fields: &BTreeMap<String, FieldText>) -> Result<BTreeMap<String, Field>, String> {
    let fields = fields.iter();
    fields
        .map(|(name, text)| match text.read() {
            Ok(field) => Ok((name.clone(), field)),
            Err(why) => Err(format!("field `{name}`: {why}")),
        })
        .collect()
}

impl FieldText {
    fn read(&self) -> Result<Field, String> {
        let (type_text, places, take, default) = match self {
            Self::Short(text) => {
                let (type_text, places) = text
                    .split_once(" /")
                    .ok_or_else(|| format!("`{text}` is no type with a place behind it"))?;
                (type_text, format!("/{places}"), None, None)
            }
            Self::Long(long) => {
                let (places, take) = match long {
                    LongField {
                        at: Some(at),
                        each,
                        count: None,
                        present: None,
                        ..
                    } => (at, each.clone().map(Take::Each)),
                    LongField {
                        count: Some(at),
                        at: None,
                        each: None,
                        present: None,
                        ..
                    } => (at, Some(Take::Count)),
                    LongField {
                        present: Some(at),
                        at: None,
                        each: None,
                        count: None,
                        ..
                    } => (at, Some(Take::Presence)),
                    _ => return Err("it has one of `at`, `count` and `present`".to_owned()),
                };
                (long.r#type.as_str(), places.clone(), take, long.or.clone())
            }
        };
        let (schema, _) =
            types::from_text(type_text).ok_or_else(|| format!("`{type_text}` is no type"))?;
        let is_text = schema.get("type").is_some_and(|kind| kind == "string");
        let only = schema.get("enum").and_then(Value::as_array);
        Ok(Field {
            type_text: type_text.to_owned(),
            reading: Reading {
                at: places.split_whitespace().map(str::to_owned).collect(),
                take: take.unwrap_or(if is_text { Take::Text } else { Take::Value }),
                only: only.cloned().unwrap_or_default(),
                default,
            },
        })
    }
}

/// `pull_request` as `PullRequest`.
fn camel(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .flat_map(|word| {
            let mut letters = word.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            first.into_iter().chain(letters)
        })
        .collect()
}
