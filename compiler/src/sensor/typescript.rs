//! TypeScript sensors: the literal `export const sensorRegistry = { … }` of a
//! file, whose keys are the sensors' names.
//!
//! Only that literal is read, so this is a tokenizer and no parser: it needs no
//! recursion, and no syntax that the language grows can surprise it.

use super::{Argument, Declared, Found, Overlooked, Unreadable};
use crate::diagnostic::Span;

/// What an entry may have.
pub(super) const KEYS: [&str; 6] = ["emits", "webhook", "poll", "verify", "onChange", "run"];

/// The name of the literal.
const REGISTRY: &str = "sensorRegistry";

/// How files end that may hold the same literal, and that nobody reads for one.
const ELSEWHERE: [&str; 7] = ["mts", "cts", "tsx", "js", "mjs", "cjs", "jsx"];

/// A piece of the source, with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// An identifier, keyword or number.
    Word(String),
    /// A string or template without substitutions, its escapes resolved.
    Text(String),
    /// A template with substitutions, or a regular expression.
    Opaque,
    Punctuation(char),
}

/// The sensors of one file.
pub(super) fn read(path: &str, text: &str) -> Result<Found, Unreadable> {
    let tokens = tokens(text)?;
    let found = exported(&tokens);
    if let Some((is_read, name)) = found {
        let rest = tokens.get(name + 1..).unwrap_or_default();
        let Some(name) = tokens.get(name) else {
            return Ok(Found::default());
        };
        if is_read {
            return Ok(Reader { path, text }.registry(name, rest)?.into());
        }
        return Ok(Found {
            overlooked: vec![Overlooked {
                span: Span::in_text(text, name.start, name.end),
                message: format!("`{REGISTRY}` is exported in a way that is not read"),
                hint: "write it out where it is exported: `export const sensorRegistry = { … }`",
            }],
            ..Found::default()
        });
    }
    Ok(Found::default())
}

/// What looks like sensors in a file with another ending.
pub(super) fn elsewhere(ending: &str, text: &str) -> Option<Overlooked> {
    if !ELSEWHERE.contains(&ending) {
        return None;
    }
    let tokens = tokens(text).ok()?;
    let (_, name) = exported(&tokens)?;
    let name = tokens.get(name)?;
    Some(Overlooked {
        span: Span::in_text(text, name.start, name.end),
        message: format!("`{REGISTRY}` is not read in a file that ends in `.{ending}`"),
        hint: "rename the file, so that it ends in `.ts`",
    })
}

/// Where the name of the literal is exported, and whether as `export const`.
fn exported(tokens: &[Token]) -> Option<(bool, usize)> {
    let mut depth = 0_usize;
    let mut other = None;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Punctuation('{' | '(' | '[') => depth += 1,
            Kind::Punctuation('}' | ')' | ']') => depth = depth.saturating_sub(1),
            Kind::Word(ref word) if depth == 0 && word == "export" => {
                let rest = tokens.get(at + 1..).unwrap_or_default();
                match rest {
                    [open, list @ ..] if is(open, '{') => {
                        let mut list = list.iter().take_while(|token| !is(token, '}'));
                        let named = list.position(|token| is_word(token, REGISTRY));
                        other = other.or(named.map(|named| (false, at + 2 + named)));
                    }
                    [keyword, name, ..] if is_word(name, REGISTRY) => {
                        if is_word(keyword, "const") {
                            return Some((true, at + 2));
                        }
                        let keywords = ["let", "var", "function"];
                        if keywords.iter().any(|one| is_word(keyword, one)) {
                            other = other.or(Some((false, at + 2)));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    other
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn unreadable(&self, token: &Token, message: impl Into<String>) -> Unreadable {
        let span = Span::in_text(self.text, token.start, token.end);
        Unreadable {
            span,
            message: message.into(),
        }
    }

    /// Reads from behind the name `sensorRegistry`.
    fn registry(&self, name: &Token, tokens: &[Token]) -> Result<Vec<Declared>, Unreadable> {
        // Over a type annotation, which may itself hold braces and arrows.
        let mut depth = 0_usize;
        let equals = tokens
            .iter()
            .enumerate()
            .position(|(at, token)| match token.kind {
                Kind::Punctuation('{' | '(' | '[' | '<') => {
                    depth += 1;
                    false
                }
                Kind::Punctuation('}' | ')' | ']' | '>') => {
                    depth = depth.saturating_sub(1);
                    false
                }
                Kind::Punctuation('=') => {
                    depth == 0 && tokens.get(at + 1).is_none_or(|next| !is(next, '>'))
                }
                _ => false,
            });
        let value = equals
            .and_then(|at| tokens.get(at + 1..))
            .unwrap_or_default();
        if !value.first().is_some_and(|token| is(token, '{')) {
            return Err(self.unreadable(name, "`sensorRegistry` has to be an object literal"));
        }
        let mut sensors = Vec::new();
        for (key, value) in self.properties(value)? {
            let name = match &key.kind {
                Kind::Word(name) | Kind::Text(name) => name.clone(),
                _ => return Err(self.unreadable(key, "the name of a sensor has to be literal")),
            };
            if !value.first().is_some_and(|token| is(token, '{')) {
                let message = format!("sensor `{name}` has to be an object literal");
                return Err(self.unreadable(key, message));
            }
            let properties = self.properties(value)?;
            let argument = |wanted: &str| self.argument(&properties, wanted);
            sensors.push(Declared {
                span: Span::in_text(self.text, key.start, key.end),
                emits: argument("emits"),
                webhook: argument("webhook"),
                poll: argument("poll"),
                verify: argument("verify"),
                on_change: self.flag(&properties, "onChange"),
                unknown: self.unknown(&properties),
                module: self.path.to_owned(),
                function: Some(name.clone()),
                name,
            });
        }
        Ok(sensors)
    }

    /// The properties of the object literal that `tokens` start with: each key
    /// with the tokens of its value, none for a shorthand or a method.
    fn properties<'t>(
        &self,
        tokens: &'t [Token],
    ) -> Result<Vec<(&'t Token, &'t [Token])>, Unreadable> {
        let mut properties = Vec::new();
        let mut at = 1;
        while let Some(key) = tokens.get(at) {
            if is(key, '}') {
                return Ok(properties);
            }
            if let Some(next) = tokens.get(at + 1)
                && is_modifier(key, next)
            {
                at += 1;
                continue;
            }
            if is(key, '.') || is(key, '[') {
                return Err(self.unreadable(
                    key,
                    "`sensorRegistry` has to be written out: no `...`, no `[key]`",
                ));
            }
            let mut depth = 0_usize;
            let rest = tokens.get(at + 1..).unwrap_or_default();
            let length = rest.iter().position(|token| {
                if depth == 0 && (is(token, ',') || is(token, '}')) {
                    return true;
                }
                match token.kind {
                    Kind::Punctuation('{' | '(' | '[') => depth += 1,
                    Kind::Punctuation('}' | ')' | ']') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                false
            });
            let Some(length) = length else { break };
            let (inside, after) = rest.split_at(length);
            let value = match inside.split_first() {
                Some((colon, value)) if is(colon, ':') => value,
                _ => &[],
            };
            properties.push((key, value));
            at += 1 + length + usize::from(after.first().is_some_and(|token| is(token, ',')));
        }
        match tokens.first() {
            Some(open) => Err(self.unreadable(open, "the `{` is never closed")),
            None => Ok(properties),
        }
    }

    /// What no sensor has.
    fn unknown(&self, properties: &[(&Token, &[Token])]) -> Vec<(String, Span)> {
        let keys = properties.iter().map(|(key, _)| *key);
        keys.filter(|key| !KEYS.iter().any(|known| names(key, known)))
            .map(|key| {
                let name = match &key.kind {
                    Kind::Word(name) | Kind::Text(name) => name,
                    _ => self.text.get(key.start..key.end).unwrap_or_default(),
                };
                let span = Span::in_text(self.text, key.start, key.end);
                (name.to_owned(), span)
            })
            .collect()
    }

    /// `true` or `false`, as the argument's text.
    fn flag(&self, properties: &[(&Token, &[Token])], wanted: &str) -> Argument {
        let found = properties.iter().find(|(key, _)| names(key, wanted));
        match found {
            None => Argument::Absent,
            Some((
                _,
                [
                    Token {
                        kind: Kind::Word(word),
                        start,
                        end,
                    },
                ],
            )) if word == "true" || word == "false" => {
                Argument::Text(word.clone(), Span::in_text(self.text, *start, *end))
            }
            Some((key, _)) => Argument::Dynamic(Span::in_text(self.text, key.start, key.end)),
        }
    }

    fn argument(&self, properties: &[(&Token, &[Token])], wanted: &str) -> Argument {
        let found = properties.iter().find(|(key, _)| names(key, wanted));
        let Some((key, value)) = found else {
            return Argument::Absent;
        };
        match value {
            // `"x" as const` is a literal too.
            [
                Token {
                    kind: Kind::Text(text),
                    start,
                    end,
                },
                rest @ ..,
            ] if rest.is_empty() || rest.first().is_some_and(|token| is_word(token, "as")) => {
                Argument::Text(text.clone(), Span::in_text(self.text, *start, *end))
            }
            _ => Argument::Dynamic(Span::in_text(self.text, key.start, key.end)),
        }
    }
}

/// Whether a word stands before the name of a method, and is no name itself.
fn is_modifier(token: &Token, next: &Token) -> bool {
    let is_word = ["async", "get", "set"]
        .iter()
        .any(|word| is_word(token, word));
    is(token, '*') || is_word && !matches!(next.kind, Kind::Punctuation(':' | ',' | '}' | '('))
}

/// Whether a key is this name.
fn names(key: &Token, wanted: &str) -> bool {
    match &key.kind {
        Kind::Word(name) | Kind::Text(name) => name == wanted,
        _ => false,
    }
}

fn is(token: &Token, punctuation: char) -> bool {
    token.kind == Kind::Punctuation(punctuation)
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(&token.kind, Kind::Word(found) if found == word)
}

/// Splits a source into tokens, comments left out.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Unreadable> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == '#';
        let (length, kind) = if first.is_whitespace() || first == '\u{feff}' {
            (first.len_utf8(), None)
        } else if rest.starts_with("//") || (at == 0 && rest.starts_with("#!")) {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            let end = rest
                .get(2..)
                .and_then(|rest| rest.find("*/"))
                .map(|end| end + 4);
            (end.ok_or_else(|| unclosed(text, at, "comment"))?, None)
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (
                length,
                Some(Kind::Word(
                    rest.get(..length).unwrap_or_default().to_owned(),
                )),
            )
        } else if matches!(first, '"' | '\'' | '`') {
            let (length, value) =
                string(rest, first).ok_or_else(|| unclosed(text, at, "string"))?;
            (length, Some(value.map_or(Kind::Opaque, Kind::Text)))
        } else if first == '/' && regex_may_start(tokens.last()) {
            match regex(rest) {
                Some(length) => (length, Some(Kind::Opaque)),
                None => (1, Some(Kind::Punctuation('/'))),
            }
        } else {
            (first.len_utf8(), Some(Kind::Punctuation(first)))
        };
        if let Some(kind) = kind {
            tokens.push(Token {
                kind,
                start: at,
                end: at + length,
            });
        }
        at += length;
    }
    Ok(tokens)
}

fn unclosed(text: &str, at: usize, what: &str) -> Unreadable {
    Unreadable {
        span: Span::in_text(text, at, at + 1),
        message: format!("this is not TypeScript: the {what} is never closed"),
    }
}

/// Length and value of the string that `text` starts with; no value for a
/// template with substitutions. `None` when it is never closed.
fn string(text: &str, quote: char) -> Option<(usize, Option<String>)> {
    if quote == '`' {
        return template(text);
    }
    let mut value = Some(String::new());
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => return None,
            '\\' => unescape(chars.next()?.1, &mut value),
            c if c == quote => return Some((at + 1, value)),
            c => value.iter_mut().for_each(|value| value.push(c)),
        }
    }
    None
}

/// Adds what an escape stands for. Code points written as numbers are not
/// worked out: such a string has no value that can be read here.
fn unescape(escaped: char, value: &mut Option<String>) {
    match (escaped, value) {
        ('\n', _) => {}
        ('n', Some(value)) => value.push('\n'),
        ('r', Some(value)) => value.push('\r'),
        ('t', Some(value)) => value.push('\t'),
        ('u' | 'x' | 'b' | 'f' | 'v' | '0'..='9', value) => *value = None,
        (other, Some(value)) => value.push(other),
        (_, None) => {}
    }
}

/// As [`string`], for a template.
fn template(text: &str) -> Option<(usize, Option<String>)> {
    /// What surrounds a place in nested templates.
    enum Inside {
        Text,
        /// A substitution, with the number of its open braces.
        Code(usize),
    }
    let mut value = Some(String::new());
    let mut inside = vec![Inside::Text];
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match (inside.last_mut()?, c) {
            (Inside::Text, '`') => {
                inside.pop();
                if inside.is_empty() {
                    return Some((at + 1, value));
                }
            }
            (Inside::Text, '\\') => unescape(chars.next()?.1, &mut value),
            (Inside::Text, '$') if chars.next_if(|(_, next)| *next == '{').is_some() => {
                value = None;
                inside.push(Inside::Code(0));
            }
            (Inside::Text, c) => value.iter_mut().for_each(|value| value.push(c)),
            (Inside::Code(_), '`') => inside.push(Inside::Text),
            (Inside::Code(_), '"' | '\'') => {
                while let Some((_, skipped)) = chars.next() {
                    match skipped {
                        '\\' => {
                            chars.next();
                        }
                        _ if skipped == c => break,
                        _ => {}
                    }
                }
            }
            (Inside::Code(depth), '{') => *depth += 1,
            (Inside::Code(0), '}') => {
                inside.pop();
            }
            (Inside::Code(depth), '}') => *depth -= 1,
            (Inside::Code(_), _) => {}
        }
    }
    None
}

/// The code in the substitutions of a template; none in a regular expression.
pub(super) fn substitutions(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    if !text.starts_with('`') {
        return found;
    }
    let mut at = 1;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(next) = rest.find(['\\', '$']) else {
            break;
        };
        at += next;
        let rest = text.get(at..).unwrap_or_default();
        if !rest.starts_with("${") {
            let skipped = if rest.starts_with('\\') { 2 } else { 1 };
            at = text.ceil_char_boundary(at + skipped);
            continue;
        }
        // As a template of its own, it ends where the braces of its code do.
        let code = rest.get(2..).unwrap_or_default();
        let length = code_length(code);
        found.extend(code.get(..length));
        at += 2 + length;
    }
    found
}

/// How long the code of a substitution is, which `text` starts with.
fn code_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or_default();
        match first {
            '{' => depth += 1,
            '}' if depth == 0 => return at,
            '}' => depth -= 1,
            '"' | '\'' | '`' => {
                at += string(rest, first).map_or(1, |(length, _)| length);
                continue;
            }
            _ => {}
        }
        at += first.len_utf8();
    }
    text.len()
}

/// Whether a `/` behind `last` begins a regular expression and does not divide.
fn regex_may_start(last: Option<&Token>) -> bool {
    match last.map(|token| &token.kind) {
        None => true,
        Some(Kind::Word(word)) => matches!(
            word.as_str(),
            "return"
                | "typeof"
                | "case"
                | "in"
                | "of"
                | "do"
                | "else"
                | "void"
                | "delete"
                | "await"
        ),
        Some(Kind::Text(_) | Kind::Opaque) => false,
        Some(Kind::Punctuation(c)) => !matches!(c, ')' | ']' | '}'),
    }
}

/// The length of the regular expression that `text` starts with, flags left
/// out; `None` when the line ends first.
fn regex(text: &str) -> Option<usize> {
    let mut in_class = false;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '/' if !in_class => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_literal_is_read_past_everything_around_it() {
        let text = r#"
            import { sensor } from "loopy"; // export const sensorRegistry = 5
            const odd = /["'{]/g, half = a / b / c, t = `x${`{${1}`}"`;
            export const sensorRegistry: Record<string, { emits: string }> = {
                /* one */ hook: { webhook: "/hooks/pr", emits: 'PullRequest' as const, verify: `github`, async *run(req) { return { emits: "No" } } },
                "poll-er": { poll: P, emits: "Incident", run: async (tick) => ({ a: [1, 2] }), },
            } as const;
        "#;
        let read = read("sensors/a.ts", text).unwrap().declared;
        assert_eq!(read.len(), 2);
        assert!(read.iter().all(|one| one.unknown.is_empty()), "{read:?}");
        assert_eq!(read[0].name, "hook");
        assert_eq!(read[0].webhook.text(), Some("/hooks/pr"));
        assert_eq!(read[0].emits.text(), Some("PullRequest"));
        assert_eq!(read[0].verify.text(), Some("github"));
        assert_eq!(read[1].name, "poll-er");
        assert!(matches!(read[1].poll, Argument::Dynamic(_)));
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        assert!(
            read("a.ts", "export const sensorRegistry = {}")
                .unwrap()
                .declared
                .is_empty()
        );
        assert!(
            read("a.ts", "const sensorRegistry = { a: 1 }")
                .unwrap()
                .declared
                .is_empty()
        );
        for bad in [
            "export const sensorRegistry = make()",
            "export const sensorRegistry = { ...other }",
            "export const sensorRegistry = { [k]: {} }",
            "export const sensorRegistry = { a: f() }",
            "export const sensorRegistry = { a",
            "let a = 'x",
            "/* x",
        ] {
            assert!(read("a.ts", bad).is_err(), "{bad}");
        }
    }
}
