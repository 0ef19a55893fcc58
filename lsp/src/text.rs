//! Places in a text: the protocol counts UTF-16 code units, the compiler
//! characters, and both meet at byte offsets.

use gen_lsp_types::{Position, Range};
use loopy_compiler::Span;

/// A text whose lines are known.
pub(crate) struct Lines<'t> {
    text: &'t str,
    /// Where the protocol's lines start; `\n`, `\r\n` and `\r` end one.
    starts: Vec<usize>,
    /// Where the compiler's lines start; only `\n` ends one.
    newlines: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn of(text: &'t str) -> Self {
        let (mut starts, mut newlines) = (vec![0], vec![0]);
        let bytes = text.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' => {
                    starts.push(at + 1);
                    newlines.push(at + 1);
                }
                b'\r' if bytes.get(at + 1) != Some(&b'\n') => starts.push(at + 1),
                _ => {}
            }
        }
        Self {
            text,
            starts,
            newlines,
        }
    }

    /// Where a byte stands.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset) - 1;
        let start = self.starts.get(line).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Position {
            line: number(line),
            character: number(before.encode_utf16().count()),
        }
    }

    /// The byte at a place. A place past its line's end means that end, one past
    /// the last line the end of the text, one inside a character its beginning.
    pub(crate) fn offset(&self, position: &Position) -> usize {
        let line = usize::try_from(position.line).unwrap_or(usize::MAX);
        let Some(start) = self.starts.get(line).copied() else {
            return self.text.len();
        };
        let rest = self.text.get(start..).unwrap_or_default();
        let mut units = 0;
        for (at, c) in rest.char_indices() {
            units += c.len_utf16();
            if matches!(c, '\n' | '\r') || number(units) > position.character {
                return start + at;
            }
        }
        self.text.len()
    }

    /// The range of a span. What a span has beyond its line is left out.
    pub(crate) fn range(&self, span: Span) -> Range {
        let line = usize::try_from(span.line.max(1) - 1).unwrap_or(usize::MAX);
        let Some(start) = self.newlines.get(line).copied() else {
            let end = self.position(self.text.len());
            return Range { start: end, end };
        };
        let rest = self.text.get(start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let byte = |chars: u32| {
            let chars = usize::try_from(chars).unwrap_or(usize::MAX);
            let found = line.char_indices().nth(chars);
            start + found.map_or(line.len(), |(at, _)| at)
        };
        let first = span.column.max(1) - 1;
        Range {
            start: self.position(byte(first)),
            end: self.position(byte(first.saturating_add(span.length))),
        }
    }

    /// The compiler's line and column of a byte, both counted from 1.
    pub(crate) fn line_and_column(&self, offset: usize) -> (u32, u32) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.newlines.partition_point(|start| *start <= offset);
        let start = self.newlines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        (number(line), number(before.chars().count()) + 1)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether a place lies in a span or at its end, where a cursor stands that has
/// just typed it.
pub(crate) fn touches(span: Span, (line, column): (u32, u32)) -> bool {
    span.line == line && (span.column..=span.column.saturating_add(span.length)).contains(&column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(line: u32, character: u32) -> Position {
        Position { line, character }
    }

    #[test]
    fn places_count_utf16_units() {
        let text = "a\r\né\u{1f600}b\rc\n";
        let lines = Lines::of(text);
        let places = [
            (0, position(0, 0)),
            (3, position(1, 0)),
            (5, position(1, 1)),
            (9, position(1, 3)),
            (10, position(1, 4)),
            (11, position(2, 0)),
            (13, position(3, 0)),
        ];
        for (offset, place) in places {
            assert_eq!(lines.position(offset), place, "{offset}");
            assert_eq!(lines.offset(&place), offset, "{offset}");
        }
        // Between the two halves of the emoji; past a line; past the text.
        assert_eq!(lines.offset(&position(1, 2)), 5);
        assert_eq!(lines.offset(&position(0, 99)), 1);
        assert_eq!(lines.offset(&position(99, 0)), text.len());
        assert_eq!(lines.offset(&position(u32::MAX, u32::MAX)), text.len());
        assert_eq!(lines.line_and_column(9), (2, 3));
    }

    #[test]
    fn spans_become_ranges() {
        let lines = Lines::of("x\n\u{1f600}ab\r\n");
        let span = |line, column, length| Span {
            line,
            column,
            length,
        };
        let range = lines.range(span(2, 2, 2));
        assert_eq!((range.start, range.end), (position(1, 2), position(1, 4)));
        let range = lines.range(span(2, 3, u32::MAX));
        assert_eq!((range.start, range.end), (position(1, 3), position(1, 4)));
        let range = lines.range(span(9, 9, 9));
        assert_eq!((range.start, range.end), (position(2, 0), position(2, 0)));
        assert_eq!(Lines::of("").range(Span::START).end, position(0, 0));
    }
}
