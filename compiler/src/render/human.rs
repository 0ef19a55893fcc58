//! Shows diagnostics to people, with the lines they are about.

use super::printable;
use crate::diagnostic::{Diagnostic, Severity};
use crate::sources::Sources;
use std::collections::BTreeMap;
use std::fmt::Write;

const RED: &str = "\u{1b}[1;31m";
const YELLOW: &str = "\u{1b}[1;33m";
const CYAN: &str = "\u{1b}[36m";
const RESET: &str = "\u{1b}[0m";

/// The longest line, in bytes, of which something is shown. Longer ones are
/// not written by hand, and each excerpt costs a walk through the line.
const LONGEST: usize = 16 * 1024;

/// How many characters of a line are shown.
const SHOWN: usize = 160;

/// For people: each diagnostic with its place, the line with a caret below it,
/// and its hint. Ends with a newline, unless there is nothing to say. Colour
/// adds nothing that cannot be read without it.
pub fn human(diagnostics: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    let paint = |code: &'static str| if colour { (code, RESET) } else { ("", "") };
    let mut lines: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut out = String::new();
    for diagnostic in diagnostics {
        let (on, off) = paint(match diagnostic.severity {
            Severity::Error => RED,
            Severity::Warning => YELLOW,
        });
        let (tint, untint) = paint(CYAN);
        let span = diagnostic.span;
        let file = printable(&diagnostic.file);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{on}{}{off} {} {tint}{file}:{}:{}{untint}: {}",
            diagnostic.severity.name(),
            diagnostic.code.name(),
            span.line,
            span.column,
            printable(&diagnostic.message),
        );
        let in_file = lines
            .entry(&diagnostic.file)
            .or_insert_with(|| text(sources, &diagnostic.file).lines().collect());
        let at = usize::try_from(span.line)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        let shows = |line: &&&str| !line.trim().is_empty() && line.len() <= LONGEST;
        if let Some(line) = in_file.get(at).filter(shows) {
            excerpt(&mut out, line, diagnostic, on, off);
        }
        if let Some(hint) = &diagnostic.hint {
            let _ = writeln!(out, "  {tint}hint:{untint} {}", printable(hint));
        }
    }
    out
}

fn excerpt(out: &mut String, line: &str, diagnostic: &Diagnostic, on: &str, off: &str) {
    let span = diagnostic.span;
    let column = usize::try_from(span.column)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    // A long line is shown around the place.
    let from = if column >= SHOWN {
        column.saturating_sub(SHOWN / 2)
    } else {
        0
    };
    let shown: String = line.chars().skip(from).take(SHOWN).collect();
    let shown = printable(&shown);
    let before = column - from;
    let room = shown.chars().count().saturating_sub(before).max(1);
    let length = usize::try_from(span.length)
        .unwrap_or(usize::MAX)
        .clamp(1, room);
    let gutter = span.line.to_string();
    let _ = writeln!(out, "  {gutter} | {shown}");
    let _ = writeln!(
        out,
        "  {:width$} | {:before$}{on}{}{off}",
        "",
        "",
        "^".repeat(length),
        width = gutter.len(),
    );
}

/// The text of a file as far as it is one.
fn text<'a>(sources: &'a Sources, file: &str) -> &'a str {
    sources
        .bytes(file)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .unwrap_or_default()
}
