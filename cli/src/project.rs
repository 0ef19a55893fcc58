//! A project from its folder: read, compiled, and its diagnostics shown.

use crate::output::Terminal;
use loopy_compiler::{Sources, render};
use loopy_contract::manifest::Manifest;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The project's folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the project {}: {source}", .project.display())]
pub(crate) struct NoProject {
    project: PathBuf,
    source: io::Error,
}

impl NoProject {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some("give the folder that holds registry.yml".to_owned())
    }
}

/// A project that compiles.
#[derive(Debug)]
pub(crate) struct Project {
    /// What it says.
    pub(crate) manifest: Manifest,
    /// Skill and sensor files by content hash.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// All files of the project that mean something.
pub(crate) fn read(folder: &Path) -> Result<Sources, NoProject> {
    Sources::read(folder).map_err(|source| NoProject {
        project: folder.to_owned(),
        source,
    })
}

/// Reads and compiles the project, and shows its diagnostics; `None` when it
/// has errors.
pub(crate) fn load(folder: &Path, terminal: Terminal) -> Result<Option<Project>, NoProject> {
    let sources = read(folder)?;
    let compilation = loopy_compiler::compile(&sources);
    let shown = render::human(&compilation.diagnostics, &sources, terminal.colour);
    if !shown.is_empty() {
        terminal.say(&shown);
    }
    Ok(compilation.manifest.map(|manifest| Project {
        manifest,
        files: compilation.files,
    }))
}
