//! Reads YAML into a tree of places: what stands where, not what it means.

use crate::yaml;
use granit_parser::{Event, Options, Parser, ScalarStyle, StructureStyle};
use std::ops::Range;

/// The text has a form that this does not lay out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Odd;

/// A value, by the bytes it takes up. A block collection has none of its own:
/// it begins where its first entry does.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// Its anchor and its tag, in the order written.
    pub(super) properties: Vec<Range<usize>>,
}

/// What a value looks like.
#[derive(Debug)]
pub(super) enum Kind {
    /// Plain or quoted.
    Scalar,
    /// `|` or `>`; the range is that of the content.
    BlockScalar,
    Alias,
    /// `{ … }`: the keys and values by turns.
    FlowMap(Vec<Node>),
    /// `[ … ]`
    FlowList(Vec<Node>),
    /// `a: …` by lines: the keys and values by turns.
    BlockMap(Vec<Node>),
    /// `- …` by lines.
    BlockList(Vec<Node>),
}

/// The only document of a text.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Option<Node>,
    /// Whether `---` stands before it.
    pub(super) marked: bool,
}

/// Reads a text that [`yaml::parse`] could read.
pub(super) fn read(text: &str) -> Result<Document, Odd> {
    let hidden = yaml::hide_type_brackets(text);
    // Positions are counted in characters; hiding changes none by another.
    let mut offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    offsets.push(text.len());
    let byte = |index: usize| offsets.get(index).copied().unwrap_or(text.len());
    let mut options = Options::default();
    options.emit_comments = false;
    options.emit_anchor_events = true;
    let mut open: Vec<Node> = Vec::new();
    let mut document = Document {
        root: None,
        marked: false,
    };
    for next in Parser::new_from_str_with_options(&hidden, options) {
        let (event, span) = next.map_err(|_| Odd)?;
        let range = byte(span.start.index())..byte(span.end.index());
        let kind = match event {
            Event::DocumentStart(marked, _) => {
                document.marked = marked;
                continue;
            }
            Event::Anchor(..) => {
                // It is told right after its value: the last leaf of a
                // collection, or the collection itself when it has just begun.
                let node = match open.last_mut() {
                    Some(parent) if parent.children().is_empty() => parent,
                    Some(parent) => parent
                        .children_mut()
                        .and_then(|all| all.last_mut())
                        .ok_or(Odd)?,
                    None => document.root.as_mut().ok_or(Odd)?,
                };
                node.properties.push(range);
                node.properties.sort_by_key(|range| range.start);
                continue;
            }
            Event::Alias(_) => Kind::Alias,
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => Kind::BlockScalar,
            Event::Scalar(..) => Kind::Scalar,
            Event::MappingStart(StructureStyle::Flow, ..) => Kind::FlowMap(Vec::new()),
            Event::MappingStart(StructureStyle::Block, ..) => Kind::BlockMap(Vec::new()),
            Event::SequenceStart(StructureStyle::Flow, ..) => Kind::FlowList(Vec::new()),
            Event::SequenceStart(StructureStyle::Block, ..) => Kind::BlockList(Vec::new()),
            Event::SequenceEnd | Event::MappingEnd => {
                let mut node = open.pop().ok_or(Odd)?;
                node.range.end = range.end;
                attach(&mut open, &mut document, node)?;
                continue;
            }
            _ => continue,
        };
        let is_leaf = matches!(kind, Kind::Scalar | Kind::BlockScalar | Kind::Alias);
        let mut properties = Vec::new();
        if let Some(tag) = span.tag_start {
            let start = byte(tag.index());
            let rest = text.get(start..).ok_or(Odd)?;
            let length = rest
                .find(|c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}'))
                .unwrap_or(rest.len());
            properties.push(start..start + length);
        }
        let node = Node {
            kind,
            range,
            properties,
        };
        if is_leaf {
            attach(&mut open, &mut document, node)?;
        } else {
            open.push(node);
        }
    }
    Ok(document)
}

fn attach(open: &mut [Node], document: &mut Document, node: Node) -> Result<(), Odd> {
    match open.last_mut() {
        None => document.root = Some(node),
        Some(parent) => parent.children_mut().ok_or(Odd)?.push(node),
    }
    Ok(())
}

impl Node {
    /// What is in a collection.
    pub(super) fn children(&self) -> &[Self] {
        match &self.kind {
            Kind::FlowMap(all)
            | Kind::FlowList(all)
            | Kind::BlockMap(all)
            | Kind::BlockList(all) => all,
            Kind::Scalar | Kind::BlockScalar | Kind::Alias => &[],
        }
    }

    /// Where it begins, anchor and tag included.
    pub(super) fn start(&self) -> usize {
        self.properties
            .first()
            .map_or(self.range.start, |first| first.start)
    }

    /// Whether nothing is written for it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Scalar) && self.range.is_empty() && self.properties.is_empty()
    }

    fn children_mut(&mut self) -> Option<&mut Vec<Self>> {
        match &mut self.kind {
            Kind::FlowMap(all)
            | Kind::FlowList(all)
            | Kind::BlockMap(all)
            | Kind::BlockList(all) => Some(all),
            Kind::Scalar | Kind::BlockScalar | Kind::Alias => None,
        }
    }
}
