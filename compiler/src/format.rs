//! Brings `registry.yml` and the frontmatter of steps into one layout. Pure:
//! text in, text out.
//!
//! What is touched: the order of the keys that the language knows (names that
//! people give keep their order, and so does whatever is inside a JSON Schema),
//! two blanks a level, one blank behind a colon and inside braces, runs of blank
//! lines, blanks at the end of a line, and the form of flow collections: one
//! that fits on a line of 100 characters is on one line, a longer one is written
//! by lines. Comments move with the entry they stand above or behind; those at
//! the very top stay there.
//!
//! What is not: the body of a step, byte for byte; how a value is spelled and
//! quoted; anchors and tags; the kind of line end. A flow collection that has a
//! comment in it stays as it is.
//!
//! The result is read again before it is given out. When it would mean
//! anything else, or the text has a form that is not laid out here (keys behind
//! `?`, several lines of anchors), the text stays as it is.

mod layout;
mod order;
mod tree;

use crate::diagnostic::{Code, Diagnostic, Severity, Span};
use crate::sources::{File, Sources};
use crate::yaml::{self, Node, Value};
use crate::{compile, frontmatter, registry, step};
use order::Order;
use std::collections::BTreeMap;

/// Whether a path, relative to the project's root with `/`, is that of a file
/// which has a layout: `registry.yml` or a step.
pub fn takes(path: &str) -> bool {
    path == registry::FILE || step::step_name(path).is_some()
}

/// Lays out all files of a project that have a layout, by path: the new text, or
/// `None` when it is what is there already, or what [`compile`] has to say of a
/// file that cannot be read.
pub fn all(
    sources: &Sources,
) -> impl Iterator<Item = (&str, Result<Option<String>, Vec<Diagnostic>>)> {
    sources
        .below("")
        .filter(|(path, _)| takes(path))
        .map(|(path, source)| {
            let formatted = match source.text() {
                Err(_) => Err(unreadable(path, source.clone())),
                Ok(text) => file(path, text).map(|new| (new != text).then_some(new)),
            };
            (path, formatted)
        })
}

/// Lays out the file at `path`, relative to the project's root with `/`. A file
/// that has no layout is given back as it is.
///
/// # Errors
/// What [`compile`] has to say of a file that cannot be read.
pub fn file(path: &str, text: &str) -> Result<String, Vec<Diagnostic>> {
    let formatted = if path == registry::FILE {
        document(text, &order::REGISTRY)
    } else if step::step_name(path).is_some() {
        step(text)
    } else {
        Some(text.to_owned())
    };
    formatted.ok_or_else(|| unreadable(path, File::Bytes(text.into())))
}

fn step(text: &str) -> Option<String> {
    let framed = frontmatter::split(text).ok()?;
    let yaml = document(framed.yaml, &order::STEP)?;
    let mut lines = text.split_inclusive('\n');
    let fence = lines.next().unwrap_or_default();
    let rest = text.get(fence.len() + framed.yaml.len()..)?;
    // Blanks around a fence mean nothing.
    let fence_end = rest.find('\n').map_or(rest.len(), |at| at + 1);
    let (closing, body) = rest.split_at(fence_end);
    let bare = |fence: &str| fence.replace([' ', '\t'], "");
    let formatted = [bare(fence), yaml, bare(closing), body.to_owned()].concat();
    let again = frontmatter::split(&formatted).ok();
    let holds = again.is_some_and(|again| again.body == framed.body);
    Some(if holds { formatted } else { text.to_owned() })
}

/// Lays out one YAML document; `None` when it cannot be read.
fn document(text: &str, order: &Order) -> Option<String> {
    let before = yaml::parse(text, 1).ok()?;
    if !before.problems.is_empty() {
        return None;
    }
    let Some(before) = before.root.filter(|root| !root.is_null()) else {
        return Some(text.to_owned());
    };
    before.as_map()?;
    let unix = text.replace("\r\n", "\n");
    let is_windows = unix.len() != text.len();
    let candidate = |sorts: bool| {
        let bare = unix.strip_prefix('\u{feff}').unwrap_or(&unix);
        if bare.contains(['\r', '\u{feff}']) {
            return None;
        }
        let tree = tree::read(bare).ok()?;
        let mark = unix.get(..unix.len() - bare.len())?;
        let laid = mark.to_owned() + &layout::lay_out(bare, &tree, order, sorts).ok()?;
        let laid = if is_windows {
            laid.replace('\n', "\r\n")
        } else {
            laid
        };
        let after = yaml::parse(&laid, 1).ok()?;
        let holds = after.problems.is_empty() && is_same(&before, &after.root?);
        holds.then_some(laid)
    };
    // An alias must not come before its anchor, so not every order is possible.
    let laid = candidate(true).or_else(|| candidate(false));
    Some(laid.unwrap_or_else(|| text.to_owned()))
}

/// A key and its value.
type Entry = (Node, Node);

/// Whether two values mean the same: the order of a map's keys does not count.
fn is_same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Scalar(a, a_means), Value::Scalar(b, b_means)) => {
            // Not-a-number is no number, not even itself.
            a == b && format!("{a_means:?}") == format!("{b_means:?}")
        }
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            let (leaves, others) = by_key(a);
            let (more_leaves, more_others) = by_key(b);
            let is_same_entry =
                |(x, y): (&Entry, &Entry)| is_same(&x.0, &y.0) && is_same(&x.1, &y.1);
            leaves.len() == more_leaves.len()
                && others.len() == more_others.len()
                && leaves.keys().eq(more_leaves.keys())
                && leaves
                    .into_values()
                    .zip(more_leaves.into_values())
                    .all(is_same_entry)
                && others.into_iter().zip(more_others).all(is_same_entry)
        }
        _ => false,
    }
}

/// The entries whose key is a leaf, by its text, and the rest.
fn by_key(entries: &[Entry]) -> (BTreeMap<&str, &Entry>, Vec<&Entry>) {
    let (mut leaves, mut others) = (BTreeMap::new(), Vec::new());
    for entry in entries {
        match &entry.0.value {
            Value::Scalar(text, _) => {
                leaves.insert(text.as_str(), entry);
            }
            _ => others.push(entry),
        }
    }
    (leaves, others)
}

/// What the compiler says of a file that cannot be read.
fn unreadable(path: &str, source: File) -> Vec<Diagnostic> {
    let sources = Sources::of(path, source);
    let mut diagnostics = compile(&sources).diagnostics;
    diagnostics.retain(|found| found.file == path && matches!(found.code, Code::E001 | Code::E101));
    if diagnostics.is_empty() {
        let code = if path == registry::FILE {
            Code::E001
        } else {
            Code::E101
        };
        diagnostics.push(Diagnostic {
            code,
            severity: Severity::Error,
            file: path.to_owned(),
            span: Span::START,
            message: "the file cannot be read".to_owned(),
            hint: None,
        });
    }
    diagnostics
}
