//! Shows what the compiler has to say, in the format that is asked for.

use crate::output::Terminal;
use clap::{Args, ValueEnum};
use loopy_compiler::{Diagnostic, Sources, render};
use std::io;
use std::path::Path;

/// How diagnostics are written.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// How diagnostics are written; for people on stderr, otherwise on stdout
    #[arg(long, value_enum, default_value_t = FormatName::Human)]
    format: FormatName,
    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// The names of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// For people
    Human,
    /// For programs
    Json,
    /// Annotations for a log of GitHub Actions
    Github,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// Shows the diagnostics of the project in the folder `project`.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn show(
    diagnostics: &[Diagnostic],
    sources: &Sources,
    project: &Path,
    format: Format,
    terminal: Terminal,
) -> io::Result<()> {
    let name = if format.json {
        FormatName::Json
    } else {
        format.format
    };
    match name {
        FormatName::Human => {
            let shown = render::human(diagnostics, sources, terminal.colour);
            if !shown.is_empty() {
                terminal.say(&shown);
            }
            Ok(())
        }
        FormatName::Json => terminal.data(&render::json(diagnostics)),
        FormatName::Github => terminal.data(&render::github(diagnostics, &below_here(project))),
        FormatName::Sarif => terminal.data(&render::sarif(diagnostics, &below_here(project))),
    }
}

/// The project's folder from the current one, with `/`: services that show
/// files of a repository run commands at its root. Empty for a project that
/// lies elsewhere.
fn below_here(project: &Path) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let (Ok(here), Ok(project)) = (here, project.canonicalize()) else {
        return String::new();
    };
    let parts = project.strip_prefix(&here).into_iter().flat_map(Path::iter);
    let parts: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}
