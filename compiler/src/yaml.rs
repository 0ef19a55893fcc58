//! Reads YAML into a tree that knows where each node stands.
//!
//! The dialect is the YAML 1.2 core schema (`on`, `yes` and dates are plain
//! text), with anchors and `<<` merges, one document, no duplicate keys. One
//! form is taken beyond YAML: `enum[a, b]` and `list[T]` with whatever is in the
//! brackets, even inside flow collections, where plain text may not hold any. Depth and size are
//! bounded, so no input can exhaust the stack or the memory.

use crate::diagnostic::{Span, number};
use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// How deep collections may nest, aliases followed. JSON readers give up at 128.
const MAX_DEPTH: usize = 64;

/// How many nodes a document may have, aliases followed.
const MAX_NODES: usize = 100_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A leaf: its text as written, and what that means.
    Scalar(String, Scalar),
    /// `[a, b]`
    List(Vec<Node>),
    /// `{ a: b }`, in the order written.
    Map(Vec<(Node, Node)>),
}

/// What a leaf means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text,
}

/// Something wrong at a place.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) span: Span,
    pub(crate) message: String,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Document {
    /// `None` when there is nothing but blanks and comments.
    pub(crate) root: Option<Node>,
    /// Duplicate keys; the first of each was kept.
    pub(crate) problems: Vec<Problem>,
}

impl Node {
    /// The text of a text leaf.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, Scalar::Text) => Some(text),
            _ => None,
        }
    }

    /// The text of any leaf but null, as written.
    pub(crate) fn as_written(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(_, Scalar::Null) => None,
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(_, Scalar::Null))
    }

    /// The number of a numeric leaf; never infinite, never not-a-number.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match self.value {
            // Amounts and counts; nobody writes one past 2^53.
            #[expect(clippy::cast_precision_loss, reason = "amounts stay far below 2^53")]
            Value::Scalar(_, Scalar::Int(int)) => Some(int as f64),
            Value::Scalar(_, Scalar::Float(float)) if float.is_finite() => Some(float),
            _ => None,
        }
    }

    pub(crate) fn as_map(&self) -> Option<&[(Node, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What kind of value this is, in words for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(_, Scalar::Null) => "nothing",
            Value::Scalar(_, Scalar::Bool(_)) => "a truth value",
            Value::Scalar(_, Scalar::Int(_) | Scalar::Float(_)) => "a number",
            Value::Scalar(_, Scalar::Text) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// The place of what JSON does not have: keys that are no text, infinity,
    /// not-a-number.
    pub(crate) fn to_json(&self) -> Result<serde_json::Value, Problem> {
        use serde_json::Value as Json;
        Ok(match &self.value {
            Value::Scalar(_, Scalar::Null) => Json::Null,
            Value::Scalar(_, Scalar::Bool(bool)) => Json::Bool(*bool),
            Value::Scalar(_, Scalar::Int(int)) => Json::from(*int),
            Value::Scalar(text, Scalar::Float(float)) => serde_json::Number::from_f64(*float)
                .map(Json::Number)
                .ok_or_else(|| Problem {
                    span: self.span,
                    message: format!("`{text}` is no number that JSON can hold"),
                })?,
            Value::Scalar(text, Scalar::Text) => Json::String(text.clone()),
            Value::List(items) => {
                Json::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?)
            }
            Value::Map(entries) => {
                let mut map = serde_json::Map::new();
                for (key, value) in entries {
                    let name = key.as_written().ok_or_else(|| Problem {
                        span: key.span,
                        message: format!("a key has to be text; this is {}", key.kind()),
                    })?;
                    map.insert(name.to_owned(), value.to_json()?);
                }
                Json::Object(map)
            }
        })
    }
}

/// The value of `key` in a map's entries.
pub(crate) fn get<'a>(entries: &'a [(Node, Node)], key: &str) -> Option<&'a Node> {
    entries
        .iter()
        .find(|(k, _)| k.as_text() == Some(key))
        .map(|(_, value)| value)
}

/// Reads one document. `first_line` is the line of the file that `text` starts
/// at.
///
/// # Errors
/// The first place where the text is not YAML, or past a bound.
pub(crate) fn parse(text: &str, first_line: u32) -> Result<Document, Problem> {
    let hidden = hide_type_brackets(text);
    let restores = matches!(hidden, Cow::Owned(_));
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder {
        lines: Lines::of(text, first_line),
        restores,
        open: Vec::new(),
        root: None,
        anchors: BTreeMap::new(),
        nodes: 0,
        documents: 0,
        problems: Vec::new(),
    };
    for next in Parser::new_from_str_with_options(&hidden, options) {
        let (event, span) = next.map_err(|error| Problem {
            span: builder.lines.span(error.marker().index(), 1),
            message: error.info(),
        })?;
        let length = span.end.index().saturating_sub(span.start.index());
        let place = builder.lines.span(span.start.index(), length);
        builder.take(event, place)?;
    }
    Ok(Document {
        root: builder.root,
        problems: builder.problems,
    })
}

/// A collection whose end has not come yet.
struct Open {
    node: Node,
    /// The key that waits for its value.
    key: Option<Node>,
    /// The keys so far, to find the second of two.
    seen: HashSet<String>,
    /// The values of `<<`, merged in at the end: what is written wins.
    merges: Vec<Node>,
    anchor: usize,
}

/// Where the lines of a text begin. YAML's own count knows other line ends, and
/// goes past the end of the text.
struct Lines {
    first_line: u32,
    /// The character each line begins at, and at last the one behind the text.
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str, first_line: u32) -> Self {
        let mut starts = vec![0];
        let mut count = 0;
        for line in text.split_inclusive('\n') {
            count += line.chars().count();
            starts.push(count);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            starts.pop();
        }
        // Behind the last line, as if it were ended.
        starts.push(count + 1);
        Self { first_line, starts }
    }

    /// The place of up to `length` characters from the one at `index`, on its line.
    fn span(&self, index: usize, length: usize) -> Span {
        let end = self.starts.last().copied().unwrap_or_default();
        let index = index.min(end.saturating_sub(1));
        let line = self.starts.partition_point(|start| *start <= index);
        let start_of = |line: usize| self.starts.get(line).copied().unwrap_or(end);
        let left = start_of(line).saturating_sub(1).saturating_sub(index);
        Span {
            line: number(line - 1).saturating_add(self.first_line),
            column: number(index - start_of(line - 1)).saturating_add(1),
            length: number(length.min(left)).max(1),
        }
    }
}

struct Builder {
    lines: Lines,
    restores: bool,
    open: Vec<Open>,
    root: Option<Node>,
    /// Finished anchored nodes with their depth and number of nodes.
    anchors: BTreeMap<usize, (Node, usize, usize)>,
    nodes: usize,
    documents: usize,
    problems: Vec<Problem>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "there is more than one YAML document".to_owned();
                    return Err(Problem { span, message });
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text = self.restore(text);
                let scalar = resolve(&text, style, tag.as_deref());
                let node = Node {
                    value: Value::Scalar(text, scalar),
                    span,
                };
                self.finish(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.start(Value::List(Vec::new()), span, anchor);
            }
            Event::MappingStart(_, anchor, _) => {
                self.start(Value::Map(Vec::new()), span, anchor);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(mut open) = self.open.pop() {
                    if let Value::Map(entries) = &mut open.node.value {
                        for node in std::mem::take(&mut open.merges) {
                            merge(entries, &mut open.seen, node);
                        }
                    }
                    self.finish(open.node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let Some((node, depth, nodes)) = self.anchors.get(&anchor) else {
                    let message = "an alias stands inside the value it stands for".to_owned();
                    return Err(Problem { span, message });
                };
                // Counted before it is copied: a few lines of aliases can stand
                // for more nodes than there is memory.
                if self.open.len() + depth > MAX_DEPTH {
                    return Err(too_deep(span));
                }
                if self.nodes.saturating_add(*nodes) > MAX_NODES {
                    return Err(too_large(span));
                }
                self.nodes += nodes;
                let node = Node {
                    value: node.value.clone(),
                    span,
                };
                self.attach(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, value: Value, span: Span, anchor: usize) {
        let node = Node { value, span };
        self.open.push(Open {
            node,
            key: None,
            seen: HashSet::new(),
            merges: Vec::new(),
            anchor,
        });
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if self.open.len() > MAX_DEPTH {
            return Err(too_deep(node.span));
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(too_large(node.span));
        }
        if anchor != 0 {
            let (depth, nodes) = measure(&node);
            // Keeping an anchored node costs its size too.
            self.nodes = self.nodes.saturating_add(nodes);
            if self.nodes > MAX_NODES {
                return Err(too_large(node.span));
            }
            self.anchors.insert(anchor, (node.clone(), depth, nodes));
        }
        self.attach(node);
        Ok(())
    }

    fn attach(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(node),
                Some(key) if key.as_text() == Some("<<") => open.merges.push(node),
                Some(key) => {
                    if let Value::Scalar(written, _) = &key.value
                        && !open.seen.insert(written.clone())
                    {
                        let message = format!("the key `{written}` is given twice");
                        self.problems.push(Problem {
                            span: key.span,
                            message,
                        });
                    } else {
                        entries.push((key, node));
                    }
                }
            },
            Value::Scalar(..) => {}
        }
    }

    fn restore(&self, text: Cow<'_, str>) -> String {
        if self.restores {
            show_type_brackets(&text)
        } else {
            text.into_owned()
        }
    }
}

fn too_deep(span: Span) -> Problem {
    Problem {
        span,
        message: format!("values nest deeper than {MAX_DEPTH} levels"),
    }
}

fn too_large(span: Span) -> Problem {
    Problem {
        span,
        message: format!("there are more than {MAX_NODES} values"),
    }
}

/// Depth and number of nodes of a finished node.
fn measure(node: &Node) -> (usize, usize) {
    let children: Vec<&Node> = match &node.value {
        Value::Scalar(..) => return (1, 1),
        Value::List(items) => items.iter().collect(),
        Value::Map(entries) => entries
            .iter()
            .flat_map(|(key, value)| [key, value])
            .collect(),
    };
    children
        .into_iter()
        .map(measure)
        .fold((1, 1), |(depth, nodes), (below, count)| {
            (depth.max(below + 1), nodes + count)
        })
}

/// Adds the entries of `<<: value` that are not there yet.
fn merge(entries: &mut Vec<(Node, Node)>, seen: &mut HashSet<String>, value: Node) {
    match value.value {
        Value::Map(more) => {
            for (key, value) in more {
                if let Value::Scalar(written, _) = &key.value
                    && seen.insert(written.clone())
                {
                    entries.push((key, value));
                }
            }
        }
        Value::List(maps) => maps.into_iter().for_each(|map| merge(entries, seen, map)),
        Value::Scalar(..) => {}
    }
}

/// The meaning of a leaf in the core schema.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Scalar {
    match tag {
        // An unknown tag leaves the text as it is.
        Some(tag) => match tag.core_suffix() {
            Some("null" | "bool" | "int" | "float") => plain(text),
            _ => Scalar::Text,
        },
        None if style == ScalarStyle::Plain => plain(text),
        None => Scalar::Text,
    }
}

fn plain(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        _ => number_of(text).unwrap_or(Scalar::Text),
    }
}

fn number_of(text: &str) -> Option<Scalar> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok().map(Scalar::Int);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i64::from_str_radix(digits, 8).ok().map(Scalar::Int);
    }
    if unsigned.chars().all(|c| c.is_ascii_digit() || c == '_') && !unsigned.ends_with('_') {
        let digits = text.replace('_', "");
        let int = digits
            .strip_prefix('+')
            .unwrap_or(&digits)
            .parse()
            .ok()
            .map(Scalar::Int);
        // Past 64 bits it is still a number.
        return int.or_else(|| digits.parse().ok().map(Scalar::Float));
    }
    let looks = unsigned
        .chars()
        .all(|c| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-'));
    if looks && unsigned.contains(|c: char| c.is_ascii_digit()) {
        return text.parse().ok().map(Scalar::Float);
    }
    None
}

/// What stands for a character of a type that YAML must not see. These code points
/// are no characters and mean nothing in any text.
const HIDDEN: [(char, char); 6] = [
    ('[', '\u{fdd0}'),
    (']', '\u{fdd1}'),
    (',', '\u{fdd2}'),
    ('{', '\u{fdd3}'),
    ('}', '\u{fdd4}'),
    (':', '\u{fdd5}'),
];

/// Replaces the brackets and commas of each `enum[…]` and `list[…]`, one
/// character by one, so that no position moves. Wherever that was not a type
/// (in a quoted string, in a comment) nothing is lost, as all of it is put back.
pub(crate) fn hide_type_brackets(text: &str) -> Cow<'_, str> {
    let has_types = text.contains("enum[") || text.contains("list[");
    if !has_types || text.contains(|c| HIDDEN.iter().any(|(_, hidden)| *hidden == c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = next_type(rest) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (name, body) = from.split_at("enum".len());
        out.push_str(name);
        let end = closing(body);
        let (body, after) = body.split_at(end.unwrap_or(1));
        if end.is_some() {
            out.extend(body.chars().map(|c| {
                HIDDEN
                    .iter()
                    .find(|(shown, _)| *shown == c)
                    .map_or(c, |(_, hidden)| *hidden)
            }));
        } else {
            out.push_str(body);
        }
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where the next `enum[` or `list[` that is a word of its own begins.
fn next_type(text: &str) -> Option<usize> {
    text.match_indices('[').find_map(|(bracket, _)| {
        let before = text.get(..bracket)?;
        let name = before
            .strip_suffix("enum")
            .or_else(|| before.strip_suffix("list"))?;
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        (!name.ends_with(is_word)).then_some(name.len())
    })
}

/// Just behind the bracket that closes the one `text` starts with. A type is
/// short, so a missing bracket does not cost a search through the whole file.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices().take(1024) {
        match c {
            '[' => depth += 1,
            ']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn show_type_brackets(text: &str) -> String {
    text.chars()
        .map(|c| {
            HIDDEN
                .iter()
                .find(|(_, hidden)| *hidden == c)
                .map_or(c, |(shown, _)| *shown)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn json_of(text: &str) -> serde_json::Value {
        parse(text, 1).unwrap().root.unwrap().to_json().unwrap()
    }

    #[test]
    fn the_core_schema_leaves_on_yes_and_dates_alone() {
        assert_eq!(
            json_of("{ on: yes, b: 2026-11-21, c: 0o14, d: 1_000, e: 1e3, f: ~, g: +7, h: 1.2.3 }"),
            json!({"on": "yes", "b": "2026-11-21", "c": 12, "d": 1000, "e": 1000.0, "f": null, "g": 7, "h": "1.2.3"})
        );
    }

    #[test]
    fn types_stand_in_flow_maps_with_positions_kept() {
        let text = "out: { v: enum[pass, list[x]]?, n: str } # enum[a, b\n";
        assert_eq!(
            json_of(text),
            json!({"out": {"v": "enum[pass, list[x]]?", "n": "str"}})
        );
        let root = parse(text, 1).unwrap().root.unwrap();
        let out = get(root.as_map().unwrap(), "out").unwrap();
        let n = get(out.as_map().unwrap(), "n").unwrap();
        assert_eq!((n.span.line, n.span.column), (1, 36));
    }

    #[test]
    fn merges_give_way_and_duplicates_are_told() {
        let text = "a: &a { x: 1, y: 2 }\nb: { x: 3, <<: *a }\nc: { <<: *a, x: 4 }\nc: 5\n";
        let document = parse(text, 1).unwrap();
        assert_eq!(document.problems.len(), 1);
        assert_eq!(document.problems[0].span.line, 4);
        assert_eq!(
            document.root.unwrap().to_json().unwrap(),
            json!({"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"y": 2, "x": 4}})
        );
    }

    #[test]
    fn places_lie_in_the_text() {
        let place = |text, index, length| {
            let span = Lines::of(text, 1).span(index, length);
            (span.line, span.column, span.length)
        };
        assert_eq!(place("", 7, 7), (1, 1, 1));
        assert_eq!(place("é\nab\n", 2, 9), (2, 1, 2));
        assert_eq!(place("é\nab\n", 9, 9), (3, 1, 1));
        assert_eq!(place("é\nab", 3, 1), (2, 2, 1));
        assert_eq!(place("é\nab", 9, 1), (2, 3, 1));
        assert_eq!(place("a\r\n", 1, 5), (1, 2, 1));
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..20 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![below; 10].join(",")
            ));
        }
        assert!(parse(&bomb, 1).unwrap_err().message.contains("more than"));
        assert!(parse(&"[".repeat(100_000), 1).is_err());
        assert!(parse(&"- ".repeat(100_000), 1).is_err());
        assert!(parse("a: &a [*a]", 1).is_err());
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for level in 1..200 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(parse(&chain, 1).unwrap_err().message.contains("deeper"));
    }
}
