//! What belongs at a cursor in a file that is still being written. Works on half
//! a line as well as on a whole file, so it reads the text and no tree.

mod registry;
mod sensor;
mod spot;

use crate::forms::{ANSWERS, APPROVE, CONCURRENCY, EMITS, LOOP, ON, RETRY, STRATEGIES};
use crate::frontmatter;
use crate::registry::FILE;
use crate::step::{self, BUDGET_KEYS, KEYS};
use crate::types::NAMES;
use loopy_contract::failure::FailureClass;
use spot::{ITEM, MEMBER};

/// What may be written at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// One of these keys.
    Key(&'static [&'static str]),
    /// One of these words.
    Value(Vec<&'static str>),
    /// An agent's name.
    Agent,
    /// A sandbox's name.
    Sandbox,
    /// A skill's name.
    Skill,
    /// An event's name, or a schedule.
    Trigger,
    /// The name of an event that the project registers.
    Event,
    /// The name of a workflow.
    Workflow,
    /// The name of another step of the workflow.
    Step,
    /// The name of a step that comes before, and a path of its files.
    Files,
    /// The producer of a reference.
    Producer,
    /// A field of this producer.
    Field(String),
    /// The code of a warning.
    Warning,
}

/// A slot and the word in it that ends at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What may be written.
    pub slot: Slot,
    /// The byte of the text at which the word starts.
    pub word_start: usize,
}

/// What belongs at byte `offset` of the file at this path in a project; `None`
/// where names mean nothing.
pub fn cursor(file: &str, text: &str, offset: usize) -> Option<Cursor> {
    let offset = text.floor_char_boundary(offset);
    let before = text.get(..offset)?;
    if file == FILE {
        registry::cursor(before)
    } else if file.starts_with("sensors/") {
        sensor::cursor(file, before)
    } else {
        step::step_name(file)?;
        in_step(text, before)
    }
}

fn in_step(text: &str, before: &str) -> Option<Cursor> {
    match frontmatter::split(text) {
        // The fences are lines of their own; what lies after the second is body.
        Ok(framed) => {
            let lines = before.matches('\n').count();
            let body_line = usize::try_from(framed.body_line).ok()?;
            if lines + 1 >= body_line {
                in_body(before)
            } else if lines == 0 || lines + 2 == body_line {
                None
            } else {
                in_frontmatter(before)
            }
        }
        Err(frontmatter::Unframed::Unclosed) if before.contains('\n') => in_frontmatter(before),
        Err(_) => None,
    }
}

fn in_body(before: &str) -> Option<Cursor> {
    let open = before.rfind("{{")? + 2;
    let inner = before.get(open..)?;
    if inner.contains("}}") {
        return None;
    }
    reference(before, open)
}

/// A reference of which `before` holds the beginning, from byte `from` on.
fn reference(before: &str, from: usize) -> Option<Cursor> {
    let inner = before.get(from..)?;
    let start = from + (inner.len() - inner.trim_start().len());
    let written = before.get(start..)?;
    if !written.chars().all(|c| is_word(c) || c == '.') {
        return None;
    }
    match written.split_once('.') {
        None => Some(Cursor {
            slot: Slot::Producer,
            word_start: start,
        }),
        Some((_, field)) if field.contains('.') => None,
        Some((producer, _)) => Some(Cursor {
            slot: Slot::Field(producer.to_owned()),
            word_start: start + producer.len() + 1,
        }),
    }
}

fn in_frontmatter(before: &str) -> Option<Cursor> {
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.get(line_start..)?;
    if line.trim_start().starts_with('#') || line.contains(" #") {
        return None;
    }
    if let Some(start) = condition(before, line_start) {
        let expression = before.get(start..)?;
        let quoted = expression.matches(['"', '\'']).count() % 2 == 1;
        let is_word = |c: char| is_word(c) || c == '.';
        return if quoted {
            None
        } else {
            reference(before, before.trim_end_matches(is_word).len())
        };
    }
    let from = before.find('\n')? + 1;
    let spot = spot::spot(before, from)?;
    if spot.path == ["concurrency", "key"] {
        return reference(before, spot.word_start);
    }
    let key = spot.takes_key.then(|| key(&spot.path)).flatten();
    let value = || spot.takes_value.then(|| value(&spot.path)).flatten();
    Some(Cursor {
        slot: key.or_else(value)?,
        word_start: spot.word_start,
    })
}

/// Where the condition starts that the text ends in.
fn condition(before: &str, line_start: usize) -> Option<usize> {
    let line = before.get(line_start..)?;
    let (key, value_start) = match key_of(line) {
        Some(key) => (key, line_start + key.len() + 1),
        None if line.chars().all(is_word) => return None,
        None => {
            let before_line = before.get(..line_start)?;
            let key = before_line.lines().rev().find_map(key_of)?;
            (key, line_start)
        }
    };
    let value = before.get(value_start..)?;
    let nested = ["when", "until", "each"].into_iter().filter_map(|name| {
        let at = value.rfind(&format!("{name}:"))? + name.len() + 1;
        // A comma or brace ends what a flow map holds.
        let open = value
            .get(at..)
            .is_some_and(|rest| !rest.contains([',', '}']));
        open.then_some(value_start + at)
    });
    nested.max().or_else(|| {
        let is_condition = matches!(key, "when" | "each");
        is_condition.then_some(value_start)
    })
}

/// The key that a line begins with.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(':')?;
    (!key.is_empty() && key.chars().all(is_word)).then_some(key)
}

/// The keys of the map at a path in a frontmatter.
fn key(path: &[&str]) -> Option<Slot> {
    let keys: &'static [&'static str] = match path {
        [] => &KEYS,
        ["on"] => ON.keys,
        ["emits", _] => EMITS.keys,
        ["budget"] => &BUDGET_KEYS,
        ["budget", "spend"] => &["usd"],
        ["retry"] => RETRY.keys,
        ["approve"] => APPROVE.keys,
        ["concurrency"] => CONCURRENCY.keys,
        ["loop"] => LOOP.keys,
        ["emits"] => return Some(Slot::Event),
        _ => return None,
    };
    Some(Slot::Key(keys))
}

/// What the value at a path in a frontmatter may be.
fn value(path: &[&str]) -> Option<Slot> {
    Some(match path {
        ["agent"] => Slot::Agent,
        ["on"] | ["on", "event"] => Slot::Trigger,
        ["after"] | ["after", ITEM] | ["loop", "to"] => Slot::Step,
        ["files"] | ["files", ITEM] => Slot::Files,
        ["emits"] | ["emits", ITEM] => Slot::Event,
        ["concurrency", "strategy"] => Slot::Value(STRATEGIES.map(|(name, _)| name).to_vec()),
        ["approve", "otherwise"] => Slot::Value(ANSWERS.map(|(name, _)| name).to_vec()),
        ["approve", "before" | "after"] => Slot::Value(vec!["true", "false"]),
        ["retry", "on"] | ["retry", "on", ITEM] => {
            Slot::Value(FailureClass::ALL.map(FailureClass::name).to_vec())
        }
        ["output", field @ ..] => types(field)?,
        _ => return None,
    })
}

/// The types, where this is the path of a field.
fn types(field: &[&str]) -> Option<Slot> {
    if field.is_empty() || field.contains(&MEMBER) {
        return None;
    }
    let forms = ["enum[a, b]", "list[str]"];
    Some(Slot::Value(NAMES.into_iter().chain(forms).collect()))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The slot at the `|`, and the word before it.
    fn at(text: &str) -> Option<(Slot, String)> {
        let offset = text.find('|').unwrap();
        let text = text.replacen('|', "", 1);
        let found = cursor("workflows/w/a.md", &text, offset)?;
        Some((found.slot, text[found.word_start..offset].to_owned()))
    }

    fn front(line: &str) -> Option<(Slot, String)> {
        at(&format!("---\n{line}\n---\né x\n"))
    }

    #[test]
    fn the_frontmatter_takes_keys_and_names() {
        let slot = |slot: Slot, word: &str| Some((slot, word.to_owned()));
        assert_eq!(front("ag|"), slot(Slot::Key(&KEYS), "ag"));
        assert_eq!(front("|"), slot(Slot::Key(&KEYS), ""));
        assert_eq!(front("agent: Co|"), slot(Slot::Agent, "Co"));
        assert_eq!(front("agent:|"), slot(Slot::Agent, ""));
        assert_eq!(front("on: Github.P|"), slot(Slot::Trigger, "Github.P"));
        assert_eq!(front("on: { event: P|"), slot(Slot::Trigger, "P"));
        assert_eq!(front("after: [a, scan-d|"), slot(Slot::Step, "scan-d"));
        assert_eq!(front("after:\n  - a\n  - b|"), slot(Slot::Step, "b"));
        assert_eq!(front("after:\n  -|"), slot(Slot::Step, ""));
        assert_eq!(front("files: bu|"), slot(Slot::Files, "bu"));
        assert_eq!(front("files: [a/*, b/d|"), slot(Slot::Files, "b/d"));
        assert_eq!(front("emits: { A|"), slot(Slot::Event, "A"));
        assert_eq!(front("when: a.b == 1 and c|"), slot(Slot::Producer, "c"));
        let field = Slot::Field("a".to_owned());
        assert_eq!(front("emits: { A: { when: a.v|"), slot(field, "v"));
        assert_eq!(front("on: { x|"), slot(Slot::Key(ON.keys), "x"));
        assert_eq!(front("on:\n  P|"), slot(Slot::Key(ON.keys), "P"));
        assert_eq!(front("after:\n  b|"), slot(Slot::Step, "b"));
        assert_eq!(front("emits: { A: { w|"), slot(Slot::Key(EMITS.keys), "w"));
        let keys = slot(Slot::Key(RETRY.keys), "");
        assert_eq!(front("retry: { max: 2, |"), keys);
        let field = Slot::Field("event".to_owned());
        assert_eq!(front("concurrency: { key: event.r|"), slot(field, "r"));
        let words = Slot::Value(vec!["queue", "cancel-running", "drop"]);
        assert_eq!(
            front("concurrency: { limit: 1, strategy: c|"),
            slot(words, "c")
        );
        for nothing in ["output: { a|", "# ag|", "agent: A b|", "when: a.b == \"p|"] {
            assert_eq!(front(nothing), None, "{nothing}");
        }
        assert_eq!(at("---\nagent: C|"), slot(Slot::Agent, "C"));
        assert_eq!(at("-|--\nagent: C\n---\nx"), None);
        assert_eq!(at("---\nagent: C\n--|-\nx"), None);
        assert_eq!(at("agent: C|"), None);
    }

    #[test]
    fn the_body_takes_references() {
        let body = |text: &str| at(&format!("---\non: A\n---\n{text}"));
        let slot = |slot: Slot, word: &str| Some((slot, word.to_owned()));
        assert_eq!(body("é {{ev|"), slot(Slot::Producer, "ev"));
        assert_eq!(body("{{ | }}"), slot(Slot::Producer, ""));
        let field = |producer: &str| Slot::Field(producer.to_owned());
        assert_eq!(body("{{ a.b }} {{ s-c.f|o }}"), slot(field("s-c"), "f"));
        assert_eq!(body("{{ event.|"), slot(field("event"), ""));
        for nothing in ["x|", "{{ a.b }} |", "{{ a.b.|", "{{ '{|"] {
            assert_eq!(body(nothing), None, "{nothing}");
        }
    }
}
