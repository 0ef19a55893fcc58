//! Writes diagnostics as workflow commands of GitHub Actions, which become
//! annotations at the lines they are about.

use super::{full_message, path_below, printable};
use crate::diagnostic::Diagnostic;
use std::fmt::Write;

/// For a workflow's log: one command a line. `folder` is the project's folder
/// from the root of the repository, empty when that is the project.
pub fn github(diagnostics: &[Diagnostic], folder: &str) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let span = diagnostic.span;
        let last = span.column.saturating_add(span.length.saturating_sub(1));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "::{} file={},line={line},col={},endLine={line},endColumn={last},title={}::{}",
            diagnostic.severity.name(),
            property(&printable(&path_below(folder, diagnostic))),
            span.column,
            diagnostic.code.name(),
            data(&full_message(diagnostic)),
            line = span.line,
        );
    }
    out
}

/// What stands behind the second `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// The value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
