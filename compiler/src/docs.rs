//! Writes the pages of the documentation that follow from the code.

use crate::diagnostic::{Code, Severity};
use std::fmt::Write;

/// The page that lists all codes, in Markdown: `docs/errors.md`.
pub fn errors() -> String {
    let mut out = "\
# Errors and warnings

What `loopy compile` may say. Each code has a page, which `loopy docs errors CODE`
prints too. A code never gets a second meaning.

<!-- Written by `cargo xtask gen`. -->
"
    .to_owned();
    for (heading, about, severity) in [
        (
            "Errors",
            "A project with errors does not compile.",
            Severity::Error,
        ),
        (
            "Warnings",
            "A project with warnings compiles, but hardly means what is written. Each can be \
             turned off in\n`registry.yml`, by its code: `warnings: { W501: off }`.",
            Severity::Warning,
        ),
    ] {
        // Writing to a string cannot fail.
        let _ = write!(out, "\n## {heading}\n\n{about}\n\n| code | |\n|---|---|\n");
        for code in Code::ALL.iter().filter(|code| code.severity() == severity) {
            let (short, title) = (code.short(), code.title());
            let _ = writeln!(out, "| [{short}](errors/{short}.md) | {title} |");
        }
    }
    out
}
