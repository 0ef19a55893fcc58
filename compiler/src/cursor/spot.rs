//! Where in a YAML text a cursor stands: the keys above it, and whether a key or
//! a value comes there. Reads what is before the cursor and no more, so that it
//! works on half a line; what it does not understand is passed over.

/// The mark of a list's item in a path.
pub(super) const ITEM: &str = "-";

/// The mark of a member of `enum[…]` in a path.
pub(super) const MEMBER: &str = "enum";

/// Where a cursor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot<'t> {
    /// The keys above, outermost first, with [`ITEM`] for those of lists.
    pub(super) path: Vec<&'t str>,
    /// Whether a key of the map at the path may stand here.
    pub(super) takes_key: bool,
    /// Whether the value at the path may stand here.
    pub(super) takes_value: bool,
    /// The byte at which the word that ends here starts.
    pub(super) word_start: usize,
}

/// The place at the end of `text`, whose YAML starts at byte `from`.
pub(super) fn spot(text: &str, from: usize) -> Option<Spot<'_>> {
    let mut scanner = Scanner {
        text,
        block: Vec::new(),
        flow: Vec::new(),
        start: from,
        takes_key: false,
    };
    let mut at = from;
    let mut in_comment = false;
    for line in text.get(from..)?.split_inclusive('\n') {
        in_comment = scanner.line(at, line.trim_end_matches(['\n', '\r']));
        at += line.len();
    }
    if text.get(from..)?.ends_with('\n') || at == from {
        in_comment = scanner.line(at, "");
    }
    if in_comment {
        return None;
    }
    scanner.end()
}

/// A `{` or `[` that is open.
struct Flow<'t> {
    is_map: bool,
    /// The key whose value is being written, or the mark of an item.
    key: Option<&'t str>,
}

struct Scanner<'t> {
    text: &'t str,
    /// The keys that are open outside of braces, with their columns.
    block: Vec<(usize, &'t str)>,
    flow: Vec<Flow<'t>>,
    /// The byte at which the key or value at hand starts.
    start: usize,
    /// Whether the line at hand may still become a key outside of braces.
    takes_key: bool,
}

impl<'t> Scanner<'t> {
    /// Takes a line that starts at byte `at`; whether it ends in a comment.
    fn line(&mut self, at: usize, line: &'t str) -> bool {
        if !self.flow.is_empty() {
            return self.inline(at, line);
        }
        let mut content = line.trim_start_matches(' ');
        let mut column = line.len() - content.len();
        if content.starts_with('#') {
            return true;
        }
        while content == ITEM || content.starts_with("- ") {
            self.close(|open, key| open > column || (open == column && key == ITEM));
            self.block.push((column, ITEM));
            let rest = content.get(1..).unwrap_or_default();
            let inner = rest.trim_start_matches(' ');
            column += 1 + (rest.len() - inner.len());
            content = inner;
        }
        self.start = at + column;
        let key = key_of(content);
        let may_be_key = key.is_some() || content.chars().all(is_word);
        // What closes nothing may go on with the value above.
        if may_be_key {
            self.close(|open, _| open >= column);
        }
        self.takes_key = may_be_key && key.is_none();
        let Some((key, rest)) = key else {
            return self.inline(self.start, content);
        };
        self.block.push((column, key));
        self.inline(at + line.len() - rest.len(), rest)
    }

    fn close(&mut self, is_over: impl Fn(usize, &str) -> bool) {
        while self.block.last().is_some_and(|(at, key)| is_over(*at, key)) {
            self.block.pop();
        }
    }

    /// Takes values, and what stands in braces; whether there is a comment.
    fn inline(&mut self, from: usize, text: &'t str) -> bool {
        self.start = from;
        let mut quote = None;
        let mut before = ' ';
        let mut letters = text.char_indices().peekable();
        while let Some((offset, c)) = letters.next() {
            let at = from + offset;
            let text = self.text.get(self.start..at).unwrap_or_default();
            let written = || text.trim();
            let next = letters.peek().map(|(_, next)| *next);
            match c {
                _ if quote == Some(c) && before != '\\' => quote = None,
                _ if quote.is_some() => {}
                '"' | '\'' if written().is_empty() => quote = Some(c),
                '#' if before.is_whitespace() => return true,
                '{' | '[' if opens(written()) => {
                    let is_map = c == '{';
                    let item = if written() == "enum" { MEMBER } else { ITEM };
                    let key = (!is_map).then_some(item);
                    self.flow.push(Flow { is_map, key });
                    self.start = at + 1;
                }
                '}' | ']' if self.flow.pop().is_some() => self.start = at + 1,
                ',' => {
                    if let Some(flow) = self.flow.last_mut() {
                        self.start = at + 1;
                        if flow.is_map {
                            flow.key = None;
                        }
                    }
                }
                ':' if next.is_none_or(char::is_whitespace) => {
                    let open = self.flow.last_mut();
                    if let Some(flow) = open.filter(|flow| flow.is_map && flow.key.is_none()) {
                        flow.key = Some(written().trim_matches(['"', '\'']));
                        self.start = at + 1;
                    }
                }
                _ => {}
            }
            before = c;
        }
        false
    }

    fn end(self) -> Option<Spot<'t>> {
        let typed = self.text.get(self.start..)?;
        let word = typed.trim_end_matches(is_word).len();
        let lead = typed.get(..word)?.trim();
        if !matches!(lead, "" | "\"" | "'") {
            return None;
        }
        let mut path: Vec<&str> = self.block.iter().map(|(_, key)| *key).collect();
        path.extend(self.flow.iter().filter_map(|flow| flow.key));
        let (takes_key, takes_value) = match self.flow.last() {
            Some(flow) => (flow.key.is_none(), flow.key.is_some()),
            // A value may stand in the line below its key.
            None => (self.takes_key, true),
        };
        Some(Spot {
            path,
            takes_key,
            takes_value,
            word_start: self.start + word,
        })
    }
}

/// The key that a line begins with, and what follows its colon.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let quoted = line.strip_prefix(['"', '\'']);
    let (key, rest) = match quoted {
        Some(inner) => inner.split_once(['"', '\''])?,
        None => {
            let end = line.find(|c: char| !is_word(c)).unwrap_or(line.len());
            line.split_at(end)
        }
    };
    let rest = rest.trim_start_matches(' ').strip_prefix(':')?;
    let is_key = !key.is_empty() && (rest.is_empty() || rest.starts_with([' ', '\t']));
    is_key.then_some((key, rest))
}

/// Whether a bracket behind this word opens something.
fn opens(written: &str) -> bool {
    matches!(written, "" | "list" | "enum")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The path, `key`, `value` or `either`, and the word.
    fn at(text: &str) -> Option<String> {
        let spot = spot(text, 0)?;
        let kind = match (spot.takes_key, spot.takes_value) {
            (true, true) => "either",
            (true, false) => "key",
            _ => "value",
        };
        let word = text.get(spot.word_start..).unwrap();
        Some(format!("{} {kind} {word}", spot.path.join("/")))
    }

    #[test]
    fn the_keys_above_a_place_are_found() {
        let cases = [
            ("", " either "),
            ("ag", " either ag"),
            ("a: 1\nb", " either b"),
            ("a:", "a value "),
            ("a: x", "a value x"),
            ("a: \"x", "a value x"),
            ("a:\n  b: 1\n  ", "a either "),
            ("a:\n  b:\n    c: 1\n  d", "a either d"),
            ("a:\n  b:\n    c: 1\nd: e", "d value e"),
            ("a: # of b\n  c: d", "a/c value d"),
            ("a: { b: c, d", "a key d"),
            ("a: { b: c, d: e", "a/d value e"),
            ("a: { b: { c: 1 }, d: [e, f", "a/d/- value f"),
            ("a: { b: 'x, y', \"d e\": f", "a/d e value f"),
            ("a: {\n  b: c,\n  d: e", "a/d value e"),
            ("a: {\n  b: {},\n}\nc", " either c"),
            ("a:\n- b\n- c", "a/- either c"),
            ("a:\n  - b: 1\n    c: 2\n  - d: x", "a/-/d value x"),
            ("a:\n  - b\n  -", "a/- either "),
            ("a:\n  - { b: c", "a/-/b value c"),
            ("a: { b: list[s", "a/b/- value s"),
            ("a: { b: enum[s", "a/b/enum value s"),
            ("a: list[{ b: list[s", "a/-/b/- value s"),
            ("a: f(x, [y\nb: c", "b value c"),
            ("'a b': c", "a b value c"),
            ("a: gpt-5/x.y", "a value gpt-5/x.y"),
            ("é: ü", "é value ü"),
        ];
        for (text, want) in cases {
            assert_eq!(at(text).as_deref(), Some(want), "{text}");
        }
        for text in ["# a", "a: b # c", "a: b c", "a: \"b c", "a: b # c\n # d"] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
