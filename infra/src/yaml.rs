//! A YAML tree that keeps the order of its keys, so that a generated template
//! reads like the file it was made of, and writes the same bytes every time.

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt::{self, Write as _};

/// The widest a list or map is written on one line, indent included.
const LINE: usize = 100;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value at a path of map keys.
    pub(crate) fn at(&mut self, path: &[&str]) -> Option<&mut Self> {
        path.iter().try_fold(self, |node, key| match node {
            Self::Map(entries) => entries
                .iter_mut()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        })
    }

    /// The entries of a map.
    pub(crate) fn entries(&mut self) -> Option<&mut Vec<(String, Self)>> {
        match self {
            Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list.
    pub(crate) fn items(&mut self) -> Option<&mut Vec<Self>> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// Puts `text` wherever the tree says `Ref: name`.
    pub(crate) fn bind(&mut self, name: &str, text: &str) {
        match self {
            Self::Map(entries) => match entries.as_slice() {
                [(key, Self::Text(target))] if key == "Ref" && target == name => {
                    *self = Self::Text(text.to_owned());
                }
                _ => entries
                    .iter_mut()
                    .for_each(|(_, value)| value.bind(name, text)),
            },
            Self::List(items) => items.iter_mut().for_each(|item| item.bind(name, text)),
            _ => {}
        }
    }

    /// The tree as a YAML document.
    pub(crate) fn write(&self) -> String {
        let mut out = String::new();
        self.block(0, 0, &mut out);
        out
    }

    /// Writes a non-scalar in block style, each line at `indent`.
    fn block(&self, indent: usize, depth: usize, out: &mut String) {
        match self {
            Self::Map(entries) => {
                for (key, value) in entries {
                    // Sections, and what is in them, stand apart.
                    if depth == 0 && !out.is_empty() {
                        out.push('\n');
                    }
                    pad(indent, out);
                    out.push_str(&scalar(key));
                    out.push(':');
                    value.after(indent, depth + 1, out);
                }
            }
            Self::List(items) => {
                for item in items {
                    pad(indent, out);
                    out.push('-');
                    item.after(indent, depth + 1, out);
                }
            }
            _ => {}
        }
    }

    /// Writes what follows `key:` or `-`, up to and with the newline.
    fn after(&self, indent: usize, depth: usize, out: &mut String) {
        let column = out.len() - out.rfind('\n').map_or(0, |newline| newline + 1);
        let room = LINE.saturating_sub(column + 1);
        // The first two levels are sections and resources; those are never
        // squeezed into a line.
        if (depth > 2 || self.is_leaf())
            && let Some(line) = self.line()
            && (line.len() <= room || self.is_leaf())
        {
            let _ = writeln!(out, " {line}");
            return;
        }
        out.push('\n');
        self.block(indent + 2, depth, out);
    }

    fn is_leaf(&self) -> bool {
        match self {
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            _ => true,
        }
    }

    /// The value on one line, if it is simple enough to be read there.
    fn line(&self) -> Option<String> {
        Some(match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Text(text) => scalar(text),
            Self::List(items) => {
                let items: Option<Vec<String>> = items.iter().map(Self::line).collect();
                format!("[{}]", items?.join(", "))
            }
            Self::Map(entries) if entries.is_empty() => "{}".to_owned(),
            Self::Map(entries) if entries.len() <= 3 => {
                let entries: Option<Vec<String>> = entries
                    .iter()
                    .map(|(key, value)| Some(format!("{}: {}", scalar(key), value.line()?)))
                    .collect();
                format!("{{ {} }}", entries?.join(", "))
            }
            Self::Map(_) => return None,
        })
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Text as a plain scalar where every YAML reader takes it for text, and in
/// double quotes (which JSON's escapes are a part of) everywhere else. What is not ASCII
/// is escaped: CloudFormation works with it, and gives a template back with `?` in its
/// place (aws-cloudformation/cloudformation-coverage-roadmap#814).
fn scalar(text: &str) -> String {
    const TAKEN: [&str; 12] = [
        "true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "nil",
    ];
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | ' '))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !TAKEN.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        let mut quoted = String::new();
        for char in Value::from(text).to_string().chars() {
            let code = u32::from(char);
            let _ = match code {
                0..=0x7f => write!(quoted, "{char}"),
                0x80..=0xffff => write!(quoted, "\\u{code:04x}"),
                _ => write!(quoted, "\\U{code:08x}"),
            };
        }
        quoted
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => number
                .as_i64()
                .map_or_else(|| Self::Text(number.to_string()), Self::Int),
            Value::String(text) => Self::Text(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(entries) => Self::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key, Self::from(value)))
                    .collect(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML without floating point numbers")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Int(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
                i64::try_from(value).map(Node::Int).map_err(E::custom)
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_the_same_tree() {
        let text = r##"
z: { Ref: AWS::StackName }
a:
  version: "2012-10-17"
  words: ["yes", "1", "", " x", "a: b", "#", "ü\n\"q\"", "-", "cron(0 9 ? * 2 *)", "on"]
  numbers: [1, -2]
  nothing: null
  flag: false
  empty: {}
  none: []
  deep: [{ a: [{ b: { c: 1 } }], d: 2, e: 3, f: 4 }]
"##;
        let node: Node = serde_saphyr::from_str(text).unwrap();
        let Node::Map(entries) = &node else {
            unreachable!("a map")
        };
        assert_eq!(entries[0].0, "z");
        let written = node.write();
        let again: Node = serde_saphyr::from_str(&written).unwrap();
        assert_eq!(again, node, "{written}");
        assert_eq!(again.write(), written);
    }

    #[test]
    fn bind_replaces_references_and_nothing_else() {
        let mut node: Node =
            serde_saphyr::from_str("{ a: { Ref: X }, b: [{ Ref: Y }, { Ref: X }], c: X }").unwrap();
        node.bind("X", "x");
        let expected: Node = serde_saphyr::from_str("{ a: x, b: [{ Ref: Y }, x], c: X }").unwrap();
        assert_eq!(node, expected);
    }
}
