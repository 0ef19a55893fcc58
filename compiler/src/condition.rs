//! Conditions in YAML: the text of a scalar, parsed, with the place in the file
//! of each of its characters.

use crate::diagnostic::Span;
use crate::expression::{self, Expr, Kind};
use crate::yaml::Node;
use loopy_contract::expression::Condition;
use std::ops::Range;

/// Beyond this column, a diagnostic points at the whole value. Finding a column
/// costs a walk along its line, and a line may hold many conditions.
const MAX_COLUMN: u32 = 5_000;

/// A condition that could be parsed.
#[derive(Clone, Debug)]
pub(crate) struct ConditionDraft {
    pub(crate) expr: Expr,
    source: String,
    places: Places,
}

/// Why a value is no condition.
pub(crate) struct Refusal {
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl ConditionDraft {
    /// Parses the text of a scalar.
    ///
    /// # Errors
    /// What is wrong, and where in the file.
    pub(crate) fn read(node: &Node, lines: &Lines<'_>) -> Result<Self, Refusal> {
        let Some(source) = node.as_written() else {
            return Err(Refusal {
                span: node.span,
                message: format!("a condition has to be text, this is {}", node.kind()),
                hint: Some("write when: event.field == \"value\"".to_owned()),
            });
        };
        let places = Places::of(source, node.span, lines);
        match expression::parse(source) {
            Ok(expr) => Ok(Self {
                expr,
                source: source.trim().to_owned(),
                places,
            }),
            Err(refusal) => Err(Refusal {
                span: places.span(&refusal.at),
                message: refusal.message,
                hint: refusal.hint,
            }),
        }
    }

    /// The place of a part of the condition.
    pub(crate) fn span(&self, at: &Range<usize>) -> Span {
        self.places.span(at)
    }

    /// The text, for messages.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The condition as the manifest holds it.
    pub(crate) fn lower(&self) -> Condition {
        Condition {
            source: self.source.clone(),
            expression: self.expr.lower(),
        }
    }

    /// All references in it: producer and field.
    pub(crate) fn references(&self) -> Vec<(&str, &str)> {
        let mut found = Vec::new();
        let mut open = vec![&self.expr];
        while let Some(expr) = open.pop() {
            match &expr.kind {
                Kind::Literal(_) => {}
                Kind::Reference { producer, field } => {
                    found.push((producer.as_str(), field.as_str()));
                }
                Kind::Not(operand) => open.push(operand),
                Kind::And(operands) | Kind::Or(operands) => open.extend(operands),
                Kind::Compare { left, right, .. } => open.extend([&**left, &**right]),
            }
        }
        found
    }
}

/// The lines of a block of YAML, to be found by their number.
pub(crate) struct Lines<'a> {
    first: u32,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// `first` is the number of the block's first line in its file.
    pub(crate) fn of(text: &'a str, first: u32) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            first,
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// The places of the words of a scalar; empty when it cannot be followed.
    pub(crate) fn words(&self, text: &str, scalar: Span) -> Vec<Span> {
        let places = Places::of(text, scalar, self);
        let mut words = Vec::new();
        let mut start = None;
        for (at, c) in text.chars().chain([' ']).enumerate() {
            if !c.is_whitespace() {
                start.get_or_insert(at);
            } else if let Some(start) = start.take() {
                words.push(places.span(&(start..at)));
            }
        }
        words
    }

    /// The text from a place on.
    fn from(&self, span: Span) -> Option<&'a str> {
        let line = usize::try_from(span.line.checked_sub(self.first)?).ok()?;
        let rest = self.text.get(*self.starts.get(line)?..)?;
        let column = usize::try_from(span.column.checked_sub(1)?).ok()?;
        let (at, _) = rest.char_indices().nth(column)?;
        rest.get(at..)
    }
}

/// Where each character of a scalar stands, as YAML may have folded lines and
/// undone escapes.
#[derive(Clone, Debug)]
struct Places {
    whole: Span,
    /// Line and column of each character and of the end; empty when the text
    /// cannot be followed, as behind an alias.
    each: Vec<(u32, u32)>,
}

impl Places {
    fn of(text: &str, whole: Span, lines: &Lines<'_>) -> Self {
        let raw = (whole.column <= MAX_COLUMN)
            .then(|| lines.from(whole))
            .flatten();
        let each = raw.and_then(|raw| follow(text, raw, whole));
        Self {
            whole,
            each: each.unwrap_or_default(),
        }
    }

    fn span(&self, at: &Range<usize>) -> Span {
        let Some(&(line, column)) = self.each.get(at.start) else {
            return self.whole;
        };
        // As far as it stands on that line.
        let behind = self
            .each
            .get(at.start..at.end.min(self.each.len()))
            .unwrap_or_default()
            .iter()
            .take_while(|(l, _)| *l == line)
            .last()
            .map_or(column, |(_, c)| *c);
        Span {
            line,
            column,
            length: behind.saturating_sub(column).saturating_add(1),
        }
    }
}

/// Walks along a scalar as written and as YAML reads it.
fn follow(text: &str, raw: &str, start: Span) -> Option<Vec<(u32, u32)>> {
    let mut cursor = Cursor {
        chars: raw.chars().peekable(),
        line: start.line,
        column: start.column,
    };
    let style = cursor.peek();
    match style {
        Some('"' | '\'') => cursor.next(),
        Some('|' | '>') => cursor.skip(|c| c != '\n'),
        _ => {}
    }
    let mut places = Vec::new();
    for c in text.chars() {
        if !c.is_whitespace() {
            cursor.skip(char::is_whitespace);
        }
        places.push((cursor.line, cursor.column));
        match cursor.peek() {
            Some('\\') if style == Some('"') => cursor.escape(),
            Some('\'') if style == Some('\'') && c == '\'' => {
                cursor.next();
                cursor.next();
            }
            Some(r) if r == c && c != '\n' => cursor.next(),
            Some(r) if r.is_whitespace() && c.is_whitespace() => cursor.skip(char::is_whitespace),
            None if c.is_whitespace() => {}
            _ => return None,
        }
    }
    places.push((cursor.line, cursor.column));
    Some(places)
}

struct Cursor<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    line: u32,
    column: u32,
}

impl Cursor<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) {
        match self.chars.next() {
            Some('\n') => {
                self.line = self.line.saturating_add(1);
                self.column = 1;
            }
            Some(_) => self.column = self.column.saturating_add(1),
            None => {}
        }
    }

    fn skip(&mut self, holds: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&holds) {
            self.next();
        }
    }

    /// Goes past `\"`, `\x41`, `\u0041` or `\U00000041`.
    fn escape(&mut self) {
        self.next();
        let digits = match self.peek() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        for _ in 0..=digits {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::yaml;

    /// Line and column of `needle` in the value of `k`.
    fn place(document: &str, needle: &str) -> (u32, u32, u32) {
        let root = yaml::parse(document, 2).unwrap().root.unwrap();
        let node = yaml::get(root.as_map().unwrap(), "k").unwrap();
        let text = node.as_written().unwrap();
        let places = Places::of(text, node.span, &Lines::of(document, 2));
        let at = text.find(needle).unwrap();
        let at = text.get(..at).unwrap().chars().count();
        let span = places.span(&(at..at + needle.chars().count()));
        (span.line, span.column, span.length)
    }

    #[test]
    fn places_survive_every_style_of_scalar() {
        assert_eq!(place("k: a.b == c", "c"), (2, 11, 1));
        assert_eq!(place("k: a.b ==\n   ä\n     == ccc", "ccc"), (4, 9, 3));
        assert_eq!(place("k: a.b ==\n   ä\n     == ccc", "ä"), (3, 4, 1));
        assert_eq!(place("x: [y]\nk: 'it''s ''me'' cc'", "cc"), (3, 18, 2));
        assert_eq!(place(r#"k: "\"a\" \u0041 \x41 \\ cc""#, "cc"), (2, 26, 2));
        assert_eq!(place("k: >\n  a.b\n  and cc\n", "cc"), (4, 7, 2));
        assert_eq!(place("k: |\n  a.b\n  and cc\n", "cc"), (4, 7, 2));
    }

    #[test]
    fn what_cannot_be_followed_is_pointed_at_as_a_whole() {
        assert_eq!(place("a: &a x.y or z\nk: *a\n", "z"), (3, 4, 2));
    }
}
