//! Lays out one YAML document anew: takes it apart into entries with their
//! comments, puts the entries in order, and writes them with two blanks a level.

use super::order::Order;
use super::tree::{Document, Kind, Node, Odd};
use std::borrow::Cow;
use std::mem::take;
use std::ops::Range;

/// How many characters a flow collection's line may have.
const WIDTH: usize = 100;

/// A line between entries.
#[derive(Clone, Copy, Debug)]
enum Line<'a> {
    Blank,
    Comment { column: usize, text: &'a str },
}

/// An entry of a map or an item of a list.
#[derive(Debug)]
struct Entry<'a> {
    /// What stands above it.
    above: Vec<Line<'a>>,
    /// The key, anchor and all; `None` in a list.
    key: Option<&'a str>,
    /// The column that it stood at.
    column: usize,
    /// The anchor and tag of a collection that begins on a later line.
    properties: String,
    /// The comment that ends the line of the key, blanks before it included.
    note: Option<&'a str>,
    value: Value<'a>,
}

#[derive(Debug)]
enum Value<'a> {
    Nothing,
    Leaf {
        /// Comments between the key and a value on a later line.
        above: Vec<Line<'a>>,
        node: &'a Node,
        text: &'a str,
        /// The comment behind it.
        note: Option<&'a str>,
    },
    Block(Collection<'a>),
}

#[derive(Debug)]
struct Collection<'a> {
    /// Comments at its top, apart from the first entry.
    head: Vec<Line<'a>>,
    entries: Vec<Entry<'a>>,
    /// Comments at its end.
    foot: Vec<Line<'a>>,
}

/// Lays out `text`, which `document` is the tree of; with `sorts`, in order.
pub(super) fn lay_out(
    text: &str,
    document: &Document,
    order: &Order,
    sorts: bool,
) -> Result<String, Odd> {
    let Some(root) = &document.root else {
        return Err(Odd);
    };
    let mut reader = Reader {
        text,
        at: 0,
        lines: Vec::new(),
    };
    let mut writer = Writer {
        text,
        sorts,
        out: String::new(),
        blank: false,
        fresh: true,
    };
    if document.marked {
        // Directives, and what else stands before the document.
        let mark = reader.mark()?;
        writer.out.push_str(mark.trim_end());
        writer.out.push('\n');
    }
    reader.whole_lines();
    if !root.properties.is_empty() {
        return Err(Odd);
    }
    match &root.kind {
        Kind::BlockMap(_) | Kind::BlockList(_) => {
            let collection = reader.block(root, 0)?;
            reader.end()?;
            writer.collection(&collection, 0, order, false)?;
        }
        Kind::FlowMap(_) | Kind::FlowList(_) => {
            let above = take(&mut reader.lines);
            let (written, note) = reader.leaf(root)?;
            writer.lines(&above, 0);
            writer.gap();
            match writer.flow(root, order) {
                Some(flat) if flat.chars().count() <= WIDTH => {
                    writer.out.push_str(&flat);
                    writer.note(note);
                }
                Some(_) => {
                    if let Some(note) = note {
                        writer.out.push_str(note.trim_start());
                        writer.out.push('\n');
                    }
                    let collection = writer.unfold(root).ok_or(Odd)?;
                    writer.collection(&collection, 0, order, false)?;
                }
                None => {
                    writer.out.push_str(written);
                    writer.note(note);
                }
            }
            let below = take(&mut reader.lines);
            reader.end()?;
            writer.lines(&below, 0);
        }
        Kind::Scalar | Kind::BlockScalar | Kind::Alias => return Err(Odd),
    }
    Ok(writer.out)
}

/// Walks through the text along the tree.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The lines passed that belong to nothing yet.
    lines: Vec<Line<'a>>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn slice(&self, range: Range<usize>) -> Result<&'a str, Odd> {
        self.text.get(range).ok_or(Odd)
    }

    /// Passes everything up to the line `---`.
    fn mark(&mut self) -> Result<&'a str, Odd> {
        let mut end = 0;
        for line in self.text.split_inclusive('\n') {
            end += line.len();
            if line.trim_end() == "---" {
                self.at = end;
                return self.slice(0..end);
            }
            if !line.trim().is_empty() && !line.starts_with(['#', '%']) {
                break;
            }
        }
        Err(Odd)
    }

    /// Nothing but blank lines may be left.
    fn end(&self) -> Result<(), Odd> {
        let is_blank = self.lines.iter().all(|line| matches!(line, Line::Blank));
        if self.rest().is_empty() && is_blank {
            Ok(())
        } else {
            Err(Odd)
        }
    }

    /// Passes blanks, and the comment that ends the line; at the line's end, the
    /// blank lines and comments below too. Gives the comment.
    fn skip(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let inner = rest.get(blanks..line_end).unwrap_or_default();
        let note = (inner.starts_with('#') && blanks > 0)
            .then(|| rest.get(..line_end).unwrap_or_default().trim_end());
        if inner.trim().is_empty() || note.is_some() {
            self.at += (line_end + 1).min(rest.len());
            self.whole_lines();
        } else {
            self.at += blanks;
        }
        note
    }

    /// Passes blank lines and comments, from the beginning of a line.
    fn whole_lines(&mut self) {
        loop {
            let rest = self.rest();
            let line = rest.split_inclusive('\n').next().unwrap_or_default();
            let inner = line.trim_start_matches([' ', '\t']);
            let column = line.len() - inner.len();
            if line.is_empty() {
                return;
            } else if inner.trim().is_empty() {
                self.lines.push(Line::Blank);
            } else if inner.starts_with('#') {
                self.lines.push(Line::Comment {
                    column,
                    text: inner.trim_end(),
                });
            } else {
                self.at += column;
                return;
            }
            self.at += line.len();
        }
    }

    /// Where the current place is in its line.
    fn column(&self) -> usize {
        let before = self.text.get(..self.at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.chars().count()
    }

    /// Reads a block collection whose first entry is here. `least` is the
    /// column that a comment has to stand at to belong to it.
    fn block(&mut self, node: &'a Node, least: usize) -> Result<Collection<'a>, Odd> {
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut children = node.children().iter();
        let mut head = Vec::new();
        let mut edge = least;
        while let Some(child) = children.next() {
            let mut above = take(&mut self.lines);
            let column = self.column();
            if entries.is_empty() {
                edge = column.max(least);
                let has_comment = |lines: &[Line<'_>]| {
                    lines
                        .iter()
                        .any(|line| matches!(line, Line::Comment { .. }))
                };
                if let Some(last) = above.iter().rposition(|line| matches!(line, Line::Blank))
                    && has_comment(above.get(..last).unwrap_or_default())
                {
                    let below = above.split_off(last + 1);
                    head = std::mem::replace(&mut above, below);
                }
            }
            let (key, value) = match node.kind {
                Kind::BlockMap(_) => {
                    let value = children.next().ok_or(Odd)?;
                    (Some(self.key(child)?), value)
                }
                _ => {
                    self.expect('-')?;
                    (None, child)
                }
            };
            entries.push(self.value(above, key, column, value)?);
        }
        // Comments below the last entry are its neighbours' when they stand
        // further out.
        let is_inside = |line: &Line<'_>| match line {
            Line::Blank => true,
            Line::Comment { column, .. } => *column >= edge,
        };
        let inside = self.lines.iter().take_while(|line| is_inside(line)).count();
        let comments = self.lines.get(..inside).unwrap_or_default();
        let end = comments
            .iter()
            .rposition(|line| matches!(line, Line::Comment { .. }))
            .map_or(0, |last| last + 1);
        let outside = self.lines.split_off(end);
        let foot = std::mem::replace(&mut self.lines, outside);
        Ok(Collection {
            head,
            entries,
            foot,
        })
    }

    fn expect(&mut self, wanted: char) -> Result<(), Odd> {
        if self.rest().starts_with(wanted) {
            self.at += wanted.len_utf8();
            Ok(())
        } else {
            Err(Odd)
        }
    }

    /// Passes a key and its colon.
    fn key(&mut self, node: &Node) -> Result<&'a str, Odd> {
        let text = self.slice(node.start()..node.range.end)?;
        let is_plain = matches!(
            node.kind,
            Kind::Scalar | Kind::FlowList(_) | Kind::FlowMap(_)
        );
        if !is_plain || self.at != node.start() || node.range.is_empty() || text.contains('\n') {
            return Err(Odd);
        }
        self.at = node.range.end;
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        self.expect(':')?;
        Ok(text)
    }

    /// Reads the value behind a colon or a dash.
    fn value(
        &mut self,
        above: Vec<Line<'a>>,
        key: Option<&'a str>,
        column: usize,
        node: &'a Node,
    ) -> Result<Entry<'a>, Odd> {
        let mut entry = Entry {
            above,
            key,
            column,
            properties: String::new(),
            note: self.skip(),
            value: Value::Nothing,
        };
        if node.is_empty() {
            return Ok(entry);
        }
        if let Kind::BlockMap(_) | Kind::BlockList(_) = node.kind {
            if let (Some(first), Some(last)) = (node.properties.first(), node.properties.last()) {
                if entry.note.is_some() || !self.lines.is_empty() || self.at != first.start {
                    return Err(Odd);
                }
                entry.properties = self.slice(first.start..last.end)?.to_owned();
                if entry.properties.contains(['\n', '#']) {
                    return Err(Odd);
                }
                self.at = last.end;
                entry.note = self.skip();
            }
            let least = if key.is_some() { column + 1 } else { column };
            entry.value = Value::Block(self.block(node, least)?);
            return Ok(entry);
        }
        let above = take(&mut self.lines);
        let (text, note) = self.leaf(node)?;
        entry.value = Value::Leaf {
            above,
            node,
            text,
            note,
        };
        Ok(entry)
    }

    /// Passes a value that is here, and the comment behind it.
    fn leaf(&mut self, node: &Node) -> Result<(&'a str, Option<&'a str>), Odd> {
        let start = node.start();
        let mut end = node.range.end;
        if let Some(last) = node.properties.last() {
            let apart = self.slice(last.end..node.range.start.max(last.end))?;
            if apart.contains(['\n', '#']) && !matches!(node.kind, Kind::BlockScalar) {
                return Err(Odd);
            }
        }
        if let Kind::BlockScalar = node.kind {
            let written = self.slice(self.at..end.max(self.at))?;
            let header = written.split('\n').next().unwrap_or_default();
            let header = header.split('#').next().unwrap_or_default();
            // The place where it ends may lie in the next line's indentation.
            let content = match written.trim_end_matches([' ', '\t']) {
                content if content.ends_with('\n') => content,
                _ => written,
            };
            let length = if header.contains('+') {
                content.len() - usize::from(content.ends_with('\n'))
            } else {
                let full = content.trim_end_matches([' ', '\t', '\n']).len();
                let line_end = content.get(full..).and_then(|rest| rest.find('\n'));
                line_end.map_or(content.len(), |at| full + at)
            };
            end = self.at + length;
            if node.properties.is_empty() && !header.starts_with(['|', '>']) {
                return Err(Odd);
            }
        } else if self.at != start {
            return Err(Odd);
        }
        let text = self.slice(self.at..end)?;
        self.at = end;
        Ok((text, self.skip()))
    }
}

struct Writer<'a> {
    text: &'a str,
    sorts: bool,
    out: String,
    /// A blank line is due.
    blank: bool,
    /// Nothing has been written in this collection, so no blank line is wanted.
    fresh: bool,
}

impl<'a> Writer<'a> {
    /// Writes the blank line that is due.
    fn gap(&mut self) {
        if self.blank && !self.fresh {
            self.out.push('\n');
        }
        (self.blank, self.fresh) = (false, false);
    }

    fn indent(&mut self, column: usize) {
        self.out.extend(std::iter::repeat_n(' ', column));
    }

    fn lines(&mut self, lines: &[Line<'_>], column: usize) {
        for line in lines {
            match line {
                Line::Blank => self.blank = true,
                Line::Comment { text, .. } => {
                    self.gap();
                    self.indent(column);
                    self.out.push_str(text);
                    self.out.push('\n');
                }
            }
        }
    }

    /// Ends a line, with the comment that ends it.
    fn note(&mut self, note: Option<&str>) {
        self.out.push_str(note.unwrap_or_default());
        self.out.push('\n');
    }

    /// Writes a block collection at `column`. The first entry goes on the
    /// current line when it is `inline`.
    fn collection(
        &mut self,
        collection: &Collection<'_>,
        column: usize,
        order: &Order,
        inline: bool,
    ) -> Result<(), Odd> {
        self.fresh = self.out.is_empty() || !inline && column > 0;
        self.blank = false;
        self.lines(&collection.head, column);
        self.blank |= !collection.head.is_empty();
        for (index, entry) in self
            .sorted(&collection.entries, order)
            .into_iter()
            .enumerate()
        {
            if index > 0 || !inline {
                if index == 0 && collection.head.is_empty() {
                    self.fresh = true;
                }
                self.lines(&entry.above, column);
                self.gap();
                self.indent(column);
            }
            (self.blank, self.fresh) = (false, false);
            self.entry(entry, column, order)?;
        }
        self.lines(&collection.foot, column);
        Ok(())
    }

    fn sorted<'e>(&self, entries: &'e [Entry<'a>], order: &Order) -> Vec<&'e Entry<'a>> {
        let mut sorted: Vec<&Entry<'_>> = entries.iter().collect();
        if self.sorts {
            sorted.sort_by_key(|entry| entry.key.map_or(0, |key| order.rank(key)));
        }
        sorted
    }

    fn entry(&mut self, entry: &Entry<'_>, column: usize, order: &Order) -> Result<(), Odd> {
        let order = match entry.key {
            Some(key) => {
                self.out.push_str(key);
                self.out.push(':');
                order.below(key)
            }
            None => {
                self.out.push('-');
                order.items()
            }
        };
        match &entry.value {
            Value::Nothing => self.note(entry.note),
            Value::Block(collection) => {
                self.block(entry, entry.note, collection, column, order)?;
            }
            Value::Leaf {
                above,
                node,
                text,
                note,
            } => {
                let apart = entry.note.is_some()
                    || above
                        .iter()
                        .any(|line| matches!(line, Line::Comment { .. }));
                if apart {
                    self.note(entry.note);
                    self.fresh = true;
                    self.lines(above, column + 2);
                    self.gap();
                    self.indent(column + 2);
                } else {
                    self.out.push(' ');
                }
                let unfolded = match self.flow(node, order) {
                    None => {
                        let text = self.leaf(node, text, entry.column, column)?;
                        self.out.push_str(&text);
                        None
                    }
                    Some(flat) if self.fits(&flat) || apart => {
                        self.out.push_str(&flat);
                        None
                    }
                    Some(_) => self.unfold(node),
                };
                match unfolded {
                    None => self.note(*note),
                    Some(collection) => {
                        self.out.pop();
                        self.block(entry, *note, &collection, column, order)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the block collection behind a colon or a dash.
    fn block(
        &mut self,
        entry: &Entry<'_>,
        note: Option<&str>,
        collection: &Collection<'_>,
        column: usize,
        order: &Order,
    ) -> Result<(), Odd> {
        let properties = match &entry.value {
            Value::Leaf { node, text, .. } => {
                let length = node.range.start - node.start();
                text.get(..length).unwrap_or_default().trim_end()
            }
            _ => &entry.properties,
        };
        if !properties.is_empty() {
            self.out.push(' ');
            self.out.push_str(properties);
        }
        let first = self.sorted(&collection.entries, order).into_iter().next();
        let has_comments = !collection.head.is_empty()
            || first.is_some_and(|first| {
                first
                    .above
                    .iter()
                    .any(|line| matches!(line, Line::Comment { .. }))
            });
        let inline =
            entry.key.is_none() && note.is_none() && properties.is_empty() && !has_comments;
        if inline {
            self.out.push(' ');
        } else {
            self.note(note);
        }
        self.collection(collection, column + 2, order, inline)
    }

    /// Whether a flow collection ends within the width.
    fn fits(&self, flat: &str) -> bool {
        let line = self.out.rsplit('\n').next().unwrap_or_default();
        line.chars().count() + flat.chars().count() <= WIDTH
    }

    /// A flow collection on one line, when it has no comments in it and no text
    /// of several lines.
    fn flow(&self, node: &Node, order: &Order) -> Option<String> {
        let (open, close) = match node.kind {
            Kind::FlowMap(_) => ('{', '}'),
            Kind::FlowList(_) => ('[', ']'),
            _ => return None,
        };
        let written = self.text.get(node.range.clone())?;
        if !written.starts_with(open) || !written.ends_with(close) {
            return None;
        }
        let mut parts: Vec<(usize, String)> = Vec::new();
        let mut at = node.range.start + 1;
        let mut part = |node: &Node, order: &Order| -> Option<String> {
            let apart = self.text.get(at..node.start())?;
            at = node.range.end.max(at);
            // A comment, or the `?` of a key that stands alone.
            let is_usual = apart
                .chars()
                .all(|c| matches!(c, ' ' | '\t' | '\n' | ',' | ':'));
            if !is_usual {
                return None;
            }
            self.flat(node, order)
        };
        match &node.kind {
            Kind::FlowMap(children) => {
                for pair in children.chunks_exact(2) {
                    let [key, value] = pair else { return None };
                    let name = part(key, order)?;
                    if name.is_empty() || matches!(key.kind, Kind::Alias) {
                        return None;
                    }
                    let value = part(value, order.below(&name))?;
                    let rank = if self.sorts { order.rank(&name) } else { 0 };
                    let space = if value.is_empty() { "" } else { " " };
                    parts.push((rank, format!("{name}:{space}{value}")));
                }
            }
            Kind::FlowList(children) => {
                for child in children {
                    let item = part(child, order.items())?;
                    if item.is_empty() {
                        return None;
                    }
                    parts.push((0, item));
                }
            }
            _ => return None,
        }
        let tail = self.text.get(at..node.range.end - 1)?;
        if !tail
            .chars()
            .all(|c| matches!(c, ' ' | '\t' | '\n' | ',' | ':'))
        {
            return None;
        }
        parts.sort_by_key(|(rank, _)| *rank);
        let inner: Vec<String> = parts.into_iter().map(|(_, part)| part).collect();
        let inner = inner.join(", ");
        let properties = self.text.get(node.start()..node.range.start)?.trim_end();
        let space = if properties.is_empty() { "" } else { " " };
        Some(match node.kind {
            _ if inner.is_empty() => format!("{properties}{space}{open}{close}"),
            Kind::FlowMap(_) => format!("{properties}{space}{{ {inner} }}"),
            _ => format!("{properties}{space}[{inner}]"),
        })
    }

    /// A value inside a flow collection, on one line.
    fn flat(&self, node: &Node, order: &Order) -> Option<String> {
        match node.kind {
            Kind::FlowMap(_) | Kind::FlowList(_) => self.flow(node, order),
            // An anchor or a tag alone would take in the colon behind it.
            Kind::Scalar if node.range.is_empty() && !node.is_empty() => None,
            Kind::Scalar | Kind::Alias => {
                let text = self.text.get(node.start()..node.range.end)?;
                (!text.contains('\n')).then(|| text.to_owned())
            }
            _ => None,
        }
    }

    /// The entries of a flow collection, to be written by lines.
    fn unfold<'n>(&self, node: &'n Node) -> Option<Collection<'n>>
    where
        'a: 'n,
    {
        let text = |node: &Node| self.text.get(node.start()..node.range.end);
        let entry = |key: Option<&'n str>, node: &'n Node| -> Option<Entry<'n>> {
            let value = if node.is_empty() {
                Value::Nothing
            } else {
                Value::Leaf {
                    above: Vec::new(),
                    node,
                    text: text(node)?,
                    note: None,
                }
            };
            Some(Entry {
                above: Vec::new(),
                key,
                column: 0,
                properties: String::new(),
                note: None,
                value,
            })
        };
        let children = node.children();
        let entries: Option<Vec<Entry<'n>>> = match node.kind {
            Kind::FlowMap(_) => children
                .chunks_exact(2)
                .map(|pair| match pair {
                    [key, value] => entry(Some(text(key)?), value),
                    _ => None,
                })
                .collect(),
            _ => children.iter().map(|child| entry(None, child)).collect(),
        };
        Some(Collection {
            head: Vec::new(),
            entries: entries.filter(|entries| !entries.is_empty())?,
            foot: Vec::new(),
        })
    }

    /// A value as it is, its later lines moved along with the entry, which goes
    /// from column `from` to column `to`.
    fn leaf<'t>(
        &self,
        node: &Node,
        text: &'t str,
        from: usize,
        to: usize,
    ) -> Result<Cow<'t, str>, Odd> {
        if !text.contains('\n') {
            return Ok(Cow::Borrowed(text));
        }
        let mut lines = text.split('\n');
        let mut out = lines.next().unwrap_or_default().to_owned();
        let width = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let (old, new) = match node.kind {
            Kind::BlockScalar => {
                let header = out.split('#').next().unwrap_or_default();
                let content = lines.clone().find(|line| !line.trim().is_empty());
                match content {
                    // With a digit, the indentation counts from the entry's.
                    _ if header.contains(|c: char| c.is_ascii_digit()) => (from, to),
                    Some(first) => (width(first), to + 2),
                    None => return Err(Odd),
                }
            }
            _ => (from, to),
        };
        for line in lines {
            out.push('\n');
            let blanks = width(line);
            match node.kind {
                Kind::Scalar => {
                    let line = line.trim_start_matches([' ', '\t']);
                    if !line.is_empty() {
                        out.extend(std::iter::repeat_n(' ', to + 2));
                        out.push_str(line);
                    }
                }
                Kind::BlockScalar if blanks < old => {
                    if !line.trim().is_empty() {
                        return Err(Odd);
                    }
                }
                _ if line.trim().is_empty() && blanks <= old => {}
                _ => {
                    out.extend(std::iter::repeat_n(' ', (new + blanks).saturating_sub(old)));
                    out.push_str(line.get(blanks..).unwrap_or_default());
                }
            }
        }
        Ok(Cow::Owned(out))
    }
}
