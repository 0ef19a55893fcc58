//! `loopy compile`: checks a project and writes its manifest.

use crate::Outcome;
use crate::output::Terminal;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `loopy compile`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// There is no such folder.
    #[error("there is no folder {}", .0.display())]
    NoProject(PathBuf),
}

impl CompileError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoProject(_) => Some("give the folder that holds registry.yml".to_owned()),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, _terminal: &Terminal) -> Result<Outcome, CompileError> {
    if !arguments.project.is_dir() {
        return Err(CompileError::NoProject(arguments.project.clone()));
    }
    Ok(Outcome::Fine)
}
