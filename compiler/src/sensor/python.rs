//! Python sensors: module-level functions under `@sensor(…)`.

use super::{Argument, Declared, Unreadable};
use crate::diagnostic::Span;
use ruff_python_ast::{Arguments, Expr, Stmt, StmtFunctionDef};
use ruff_text_size::{Ranged, TextRange};

/// Stack for each byte of source. A syntax tree can be as deep as its source is
/// long, and is taken apart by recursion; a level costs some 250 bytes.
const STACK_PER_BYTE: usize = 512;

/// Stack for everything else.
const STACK: usize = 1 << 20;

/// The sensors of one file.
pub(super) fn read(_path: &str, text: &str) -> Result<Vec<Declared>, Unreadable> {
    let needed = STACK + text.len() * STACK_PER_BYTE;
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
