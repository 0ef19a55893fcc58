//! Python sensors: module-level functions under `@sensor(…)`.

use super::{Argument, Declared, Unreadable};
use crate::diagnostic::Span;
use ruff_python_ast::{Arguments, Expr, Stmt, StmtFunctionDef};
use ruff_text_size::{Ranged, TextRange};

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
pub(super) fn read(_path: &str, text: &str) -> Result<Vec<Declared>, Unreadable> {
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
        let functions = parsed
            .syntax()
            .body
            .iter()
            .filter_map(|statement| match statement {
                Stmt::FunctionDef(function) => sensor(text, function),
                _ => None,
            });
        Ok(functions.collect())
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
