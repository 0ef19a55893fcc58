//! What belongs at a cursor in a step file that is still being written. Works on
//! half a line as well as on a whole file, so it reads the text and no tree.

use crate::frontmatter;

/// What may be written at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A key of the frontmatter.
    Key,
    /// An agent's name.
    Agent,
    /// An event's name, or a schedule.
    Trigger,
    /// The name of an event that the project registers.
    Event,
    /// The name of another step of the workflow.
    Step,
    /// The producer of a reference.
    Producer,
    /// A field of this producer.
    Field(String),
}

/// A slot and the word in it that ends at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What may be written.
    pub slot: Slot,
    /// The byte of the text at which the word starts.
    pub word_start: usize,
}

/// What belongs at byte `offset` of a step file; `None` where names mean
/// nothing.
pub fn cursor(text: &str, offset: usize) -> Option<Cursor> {
    let offset = text.floor_char_boundary(offset);
    let before = text.get(..offset)?;
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
    let (key, value_start) = match key_of(line) {
        Some(key) => (key, line_start + key.len() + 1),
        None if line.chars().all(is_word) => {
            return Some(Cursor {
                slot: Slot::Key,
                word_start: line_start,
            });
        }
        None => {
            let before_line = before.get(..line_start)?;
            let key = before_line.lines().rev().find_map(key_of)?;
            (key, line_start)
        }
    };
    in_value(key, before, value_start)
}

/// The key that a line begins with.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(':')?;
    (!key.is_empty() && key.chars().all(is_word)).then_some(key)
}

fn in_value(key: &str, before: &str, value_start: usize) -> Option<Cursor> {
    let value = before.get(value_start..)?;
    let typed = value.len()
        - value
            .trim_end_matches(|c: char| is_word(c) || c == '.')
            .len();
    // The dash of `- name` is no part of a name.
    let word = value.get(value.len() - typed..)?.trim_start_matches('-');
    let word_start = before.len() - word.len();
    let lead = before.get(value_start..word_start)?.trim_end();
    let inner_key = lead.strip_suffix(':').map(|rest| {
        let start = rest.trim_end_matches(is_word).len();
        rest.get(start..).unwrap_or_default()
    });
    let condition = ["when", "until", "each"].into_iter();
    let condition = condition.filter_map(|name| {
        let at = value.rfind(&format!("{name}:"))? + name.len() + 1;
        // A comma or brace ends what a flow map holds.
        let open = value
            .get(at..)
            .is_some_and(|rest| !rest.contains([',', '}']));
        open.then_some(value_start + at)
    });
    let condition = condition.max().or_else(|| {
        let is_condition = matches!(key, "when" | "each");
        is_condition.then_some(value_start)
    });
    if let Some(start) = condition {
        let expression = before.get(start..)?;
        let quoted = expression.matches(['"', '\'']).count() % 2 == 1;
        return if quoted {
            None
        } else {
            reference(before, word_start)
        };
    }
    let slot = match (key, inner_key) {
        ("agent", None) => Slot::Agent,
        ("on", None) if !lead.contains('{') => Slot::Trigger,
        ("on", Some("event")) => Slot::Trigger,
        ("after", None) | ("loop", Some("to")) => Slot::Step,
        ("emits", None) => Slot::Event,
        _ => return None,
    };
    Some(Cursor { slot, word_start })
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
        let found = cursor(&text, offset)?;
        Some((found.slot, text[found.word_start..offset].to_owned()))
    }

    fn front(line: &str) -> Option<(Slot, String)> {
        at(&format!("---\n{line}\n---\né x\n"))
    }

    #[test]
    fn the_frontmatter_takes_keys_and_names() {
        let slot = |slot: Slot, word: &str| Some((slot, word.to_owned()));
        assert_eq!(front("ag|"), slot(Slot::Key, "ag"));
        assert_eq!(front("|"), slot(Slot::Key, ""));
        assert_eq!(front("agent: Co|"), slot(Slot::Agent, "Co"));
        assert_eq!(front("agent:|"), slot(Slot::Agent, ""));
        assert_eq!(front("on: Github.P|"), slot(Slot::Trigger, "Github.P"));
        assert_eq!(front("on: { event: P|"), slot(Slot::Trigger, "P"));
        assert_eq!(front("after: [a, scan-d|"), slot(Slot::Step, "scan-d"));
        assert_eq!(front("after:\n  - a\n  - b|"), slot(Slot::Step, "b"));
        assert_eq!(front("after:\n  -|"), slot(Slot::Step, ""));
        assert_eq!(front("emits: { A|"), slot(Slot::Event, "A"));
        assert_eq!(front("when: a.b == 1 and c|"), slot(Slot::Producer, "c"));
        let field = Slot::Field("a".to_owned());
        assert_eq!(front("emits: { A: { when: a.v|"), slot(field, "v"));
        for nothing in ["output: { a|", "# ag|", "on: { x|", "when: a.b == \"p|"] {
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
