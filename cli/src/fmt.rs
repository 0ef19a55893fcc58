//! `loopy fmt`: brings the registry and the steps of a project into one layout.

use crate::Outcome;
use crate::output::Terminal;
use crate::project::{self, NoProject};
use clap::Args;
use loopy_compiler::{format, render};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `loopy fmt`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Only these files of it [default: registry.yml and all steps]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write nothing; list the files that would change, and end with 1 if there are any
    #[arg(long)]
    check: bool,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FmtError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// A file was named that is not there.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// The file that was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file was named that has no layout.
    #[error("{} is no file that `loopy fmt` lays out", .0.display())]
    NotLaidOut(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl FmtError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::NotLaidOut(_) => Some(
                "name registry.yml or steps (workflows/<workflow>/<step>.md) of the project that comes first"
                    .to_owned(),
            ),
            Self::File { .. } | Self::Write { .. } | Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, FmtError> {
    let sources = project::read(&arguments.project)?;
    let chosen = chosen(&arguments.project, &arguments.files)?;
    let mut outcome = Outcome::Fine;
    let mut broken = Vec::new();
    let mut listed = String::new();
    for (path, formatted) in format::all(&sources) {
        if !chosen.is_empty() && !chosen.contains(path) {
            continue;
        }
        let place = if arguments.project == Path::new(".") {
            PathBuf::from(path)
        } else {
            arguments.project.join(path)
        };
        match formatted {
            Err(diagnostics) => {
                outcome = Outcome::ProjectErrors;
                broken.extend(diagnostics);
            }
            Ok(None) => {}
            Ok(Some(_)) if arguments.check => {
                outcome = Outcome::ProjectErrors;
                listed.push_str(&format!("{}\n", place.display()));
            }
            Ok(Some(text)) => {
                replace(&place, &text).map_err(|source| FmtError::Write {
                    path: place.clone(),
                    source,
                })?;
                terminal.say(&format!("formatted {}", place.display()));
            }
        }
    }
    terminal.data(&listed).map_err(FmtError::Stdout)?;
    let shown = render::human(&broken, &sources, terminal.colour);
    if !shown.is_empty() {
        terminal.say(&shown);
    }
    Ok(outcome)
}

/// The paths of `files` in the project.
fn chosen(project: &Path, files: &[PathBuf]) -> Result<BTreeSet<String>, FmtError> {
    let canonical = |path: &Path| {
        path.canonicalize().map_err(|source| FmtError::File {
            path: path.to_owned(),
            source,
        })
    };
    let root = canonical(project)?;
    let in_project = |file: &PathBuf| {
        let whole = canonical(file)?;
        let inside = whole.strip_prefix(&root).ok();
        let parts: Option<Vec<_>> = inside.map(|path| {
            path.components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect()
        });
        parts
            .map(|parts| parts.join("/"))
            .filter(|path| format::takes(path))
            .ok_or_else(|| FmtError::NotLaidOut(file.clone()))
    };
    files.iter().map(in_project).collect()
}

/// Replaces a file as a whole: whoever reads it finds the old text or the new.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // What a link leads to is replaced, not the link.
    let path = path.canonicalize()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".loopy-fmt-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    let permissions = path.metadata()?.permissions();
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(())
}
