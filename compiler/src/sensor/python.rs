//! Python sensors: module-level functions under `@sensor(…)`.

use super::{Argument, Declared, Found, Overlooked, Unreadable};
use crate::diagnostic::Span;
use ruff_python_ast::statement_visitor::{StatementVisitor, walk_stmt};
use ruff_python_ast::{Arguments, Expr, Stmt, StmtFunctionDef};
use ruff_text_size::{Ranged, TextRange};

/// What `@sensor` takes.
pub(super) const KEYWORDS: [&str; 5] = ["emits", "webhook", "poll", "verify", "on_change"];

/// How deep brackets may be in one another; Python itself takes no more.
const MAX_DEPTH: usize = 200;

/// How many words and signs an expression may have between two commas. Each can
/// make the syntax tree a level deeper, and a level costs some 4 KB.
const MAX_LENGTH: usize = 8000;

/// Stack for each byte of source. A syntax tree can be as deep as its source is
/// long, up to the bounds, and is taken apart by recursion.
const STACK_PER_BYTE: usize = 512;

/// Stack for everything else, and the most that is used.
const STACK: usize = 1 << 20;
const MAX_STACK: usize = 64 << 20;

/// The sensors of one file.
pub(super) fn read(_path: &str, text: &str) -> Result<Found, Unreadable> {
    if let Some(at) = too_deep(text) {
        return Err(Unreadable {
            span: Span::in_text(text, at, at + 1),
            message: "this nests too deep to be read".to_owned(),
        });
    }
    let needed = (STACK + text.len() * STACK_PER_BYTE).min(MAX_STACK);
    stacker::maybe_grow(needed, needed, || {
        let parsed = ruff_python_parser::parse_module(text).map_err(|error| Unreadable {
            span: span(text, error.location),
            message: format!("this is not Python: {}", error.error),
        })?;
        let body = &parsed.syntax().body;
        let mut looked = Looked::default();
        looked.visit_body(body);
        let mut found = Found::default();
        let mut read = Vec::new();
        for statement in body {
            let Stmt::FunctionDef(function) = statement else {
                continue;
            };
            if let Some(declared) = sensor(text, function) {
                read.push(function.range());
                found.declared.push(declared);
            }
        }
        // A decorator of this name may be another library's, too.
        if looked.imports_loopy {
            let others = looked.functions.into_iter();
            let others = others.filter(|function| !read.contains(&function.range()));
            found.overlooked = others
                .filter_map(|function| overlooked(text, function, &looked.aliases))
                .collect();
        }
        Ok(found)
    })
}

/// What looks like sensors, anywhere in a file.
#[derive(Default)]
struct Looked<'a> {
    imports_loopy: bool,
    /// What the file calls `loopy.sensor`.
    aliases: Vec<&'a str>,
    /// Functions with decorators.
    functions: Vec<&'a StmtFunctionDef>,
}

impl<'a> StatementVisitor<'a> for Looked<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::Import(import) => {
                self.imports_loopy |= import.names.iter().any(|one| one.name.as_str() == "loopy");
            }
            Stmt::ImportFrom(import)
                if import.level == 0
                    && import
                        .module
                        .as_ref()
                        .is_some_and(|one| one.as_str() == "loopy") =>
            {
                self.imports_loopy = true;
                let sensors = import
                    .names
                    .iter()
                    .filter(|one| one.name.as_str() == "sensor");
                let aliases = sensors.filter_map(|one| one.asname.as_ref());
                self.aliases.extend(aliases.map(|alias| alias.as_str()));
            }
            Stmt::FunctionDef(function) if !function.decorator_list.is_empty() => {
                self.functions.push(function);
            }
            _ => {}
        }
        walk_stmt(self, statement);
    }
}

/// A function that looks like a sensor, and is not read.
fn overlooked(text: &str, function: &StmtFunctionDef, aliases: &[&str]) -> Option<Overlooked> {
    let decorators = function
        .decorator_list
        .iter()
        .map(|one| match &one.expression {
            Expr::Call(call) => &*call.func,
            other => other,
        });
    let (message, hint) = decorators
        .into_iter()
        .find_map(|decorator| match decorator {
            other if is_sensor(other) => Some((
                format!(
                    "`{}` looks like a sensor, and is not at the top of its file",
                    function.name
                ),
                "only functions that stand at the top of a file are sensors; put it there",
            )),
            Expr::Name(name) if aliases.contains(&name.id.as_str()) => Some((
                format!(
                    "`{}` looks like a sensor, and its decorator is called `{}`",
                    function.name, name.id
                ),
                "import it as it is called: from loopy import sensor",
            )),
            _ => None,
        })?;
    Some(Overlooked {
        span: span(text, function.name.range()),
        message,
        hint,
    })
}

/// Where the brackets are too deep or an expression is too long, so that the
/// parser would need more memory than the file is worth. It knows strings and
/// comments, and nothing else of Python.
fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    // For each open bracket, the words and signs since its last comma.
    let mut lengths = vec![0];
    let mut total = 0;
    let (mut at, mut in_word) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        let was_in_word = std::mem::replace(&mut in_word, false);
        let here = at;
        at += 1;
        match byte {
            b'\'' | b'"' => {
                let long = [byte; 3];
                let rest = bytes.get(here..).unwrap_or_default();
                let quote = if rest.starts_with(&long) {
                    &long[..]
                } else {
                    &long[..1]
                };
                at = here + quote.len();
                while let Some(&inner) = bytes.get(at) {
                    if bytes.get(at..).unwrap_or_default().starts_with(quote) {
                        at += quote.len();
                        break;
                    }
                    // A short string ends with its line, closed or not.
                    if inner == b'\n' && quote.len() == 1 {
                        break;
                    }
                    at += if inner == b'\\' { 2 } else { 1 };
                }
            }
            b'#' => {
                let rest = bytes.get(at..).unwrap_or_default();
                at += rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(rest.len());
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\x0c' => continue,
            b'(' | b'[' | b'{' => lengths.push(0),
            b')' | b']' | b'}' => {
                if lengths.len() > 1 {
                    total -= lengths.pop().unwrap_or_default();
                }
            }
            b',' | b';' | b'\n' => {
                if (byte != b'\n' || lengths.len() == 1)
                    && let Some(last) = lengths.last_mut()
                {
                    total -= std::mem::take(last);
                }
                continue;
            }
            _ => {
                in_word = byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
                if in_word && was_in_word {
                    continue;
                }
            }
        }
        if let Some(last) = lengths.last_mut() {
            *last += 1;
            total += 1;
        }
        if lengths.len() > MAX_DEPTH || total > MAX_LENGTH {
            return Some(here);
        }
    }
    None
}

/// The function's declaration, if its first decorator called `sensor` makes it
/// one.
fn sensor(text: &str, function: &StmtFunctionDef) -> Option<Declared> {
    let arguments =
        function
            .decorator_list
            .iter()
            .find_map(|decorator| match &decorator.expression {
                Expr::Call(call) if is_sensor(&call.func) => Some(Some(&call.arguments)),
                other if is_sensor(other) => Some(None),
                _ => None,
            })?;
    let argument = |name: &str| arguments.map_or(Argument::Absent, |a| keyword(text, a, name));
    Some(Declared {
        name: function.name.to_string(),
        span: span(text, function.name.range()),
        emits: argument("emits"),
        webhook: argument("webhook"),
        poll: argument("poll"),
        verify: argument("verify"),
        on_change: arguments.map_or(Argument::Absent, |a| flag(text, a, "on_change")),
        unknown: arguments.map_or_else(Vec::new, |a| unknown(text, a)),
        module: String::new(),
        function: Some(function.name.to_string()),
    })
}

fn is_sensor(expression: &Expr) -> bool {
    match expression {
        Expr::Name(name) => name.id.as_str() == "sensor",
        Expr::Attribute(attribute) => attribute.attr.as_str() == "sensor",
        _ => false,
    }
}

/// `true` or `false`, as the argument's text.
fn flag(text: &str, arguments: &Arguments, name: &str) -> Argument {
    let mut keywords = arguments.keywords.iter();
    let found = keywords.find(|keyword| keyword.arg.as_ref().is_some_and(|arg| arg == name));
    match found.map(|keyword| &keyword.value) {
        None => Argument::Absent,
        Some(Expr::BooleanLiteral(literal)) => {
            Argument::Text(literal.value.to_string(), span(text, literal.range()))
        }
        Some(other) => Argument::Dynamic(span(text, other.range())),
    }
}

/// What no sensor has.
fn unknown(text: &str, arguments: &Arguments) -> Vec<(String, Span)> {
    let names = arguments.keywords.iter();
    let names = names.filter_map(|keyword| keyword.arg.as_ref());
    names
        .filter(|name| !KEYWORDS.contains(&name.as_str()))
        .map(|name| (name.to_string(), span(text, name.range())))
        .collect()
}

fn keyword(text: &str, arguments: &Arguments, name: &str) -> Argument {
    let found = arguments
        .keywords
        .iter()
        .find(|keyword| keyword.arg.as_ref().is_some_and(|arg| arg.as_str() == name));
    match found.map(|keyword| &keyword.value) {
        None => Argument::Absent,
        Some(Expr::StringLiteral(literal)) => Argument::Text(
            literal.value.to_str().to_owned(),
            span(text, literal.range()),
        ),
        Some(Expr::NoneLiteral(_)) => Argument::Absent,
        Some(other) => Argument::Dynamic(span(text, other.range())),
    }
}

fn span(text: &str, range: TextRange) -> Span {
    Span::in_text(text, range.start().to_usize(), range.end().to_usize())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_what_nests_too_deep_is_refused() {
        let fine = [
            "(".repeat(150) + &")".repeat(150),
            format!("x = '{}' # {}\n", "(".repeat(500), "(".repeat(500)),
            format!("x = \"\"\"{}\n\"\"\"\n", "(\n".repeat(500)),
            format!("x = [{}]\n", "f(a)[b], ".repeat(100_000)),
            "x = f(a, b) + 1\n".repeat(50_000),
            format!("x = ({})\n", "'text'\n".repeat(5000)),
            "x = '\\'('\n".repeat(500),
        ];
        for text in fine {
            assert_eq!(too_deep(&text), None, "{}", &text[..40]);
            assert!(read("a.py", &text).is_ok(), "{}", &text[..40]);
        }
        for text in [
            "(",
            "[{",
            "not ",
            "lambda:",
            "a.",
            "-",
            "()",
            "1 if a else ",
        ] {
            let found = read("a.py", &text.repeat(10_000)).unwrap_err();
            assert!(found.message.contains("too deep"), "{text}");
        }
    }
}
