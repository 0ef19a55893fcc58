//! `loopy compile`: checks a project and writes its manifest.

use crate::Outcome;
use crate::diagnostics::{self, Format};
use crate::emit::{self, EmitError};
use crate::home;
use crate::output::Terminal;
use crate::project::{self, NoProject};
use crate::watch::{Changes, WatchError};
use crate::types::{self, TypesError};
use clap::Args;
use loopy_compiler::{Compilation, Severity, Sources};
use std::io;
use std::path::PathBuf;

/// Arguments of `loopy compile`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Only check; write nothing
    #[arg(long, conflicts_with = "out")]
    check: bool,
    /// Write the manifest to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    /// Compile again whenever a file of the project changes, until Ctrl-C
    #[arg(long, conflicts_with = "emit")]
    watch: bool,
    #[command(flatten)]
    stack: emit::Emit,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// The manifest cannot be written.
    #[error("cannot write the manifest to {}: {source}", .path.display())]
    Write {
        /// The file that was given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The types for sensors cannot be written.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// The stack cannot be made or written.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// Changes of the project cannot be noticed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The process cannot wait for changes and signals.
    #[error("cannot wait for changes: {0}")]
    Wait(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl CompileError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Types(error) => Some(error.hint()),
            Self::Emit(error) => error.hint(),
            Self::Watch(error) => error.hint(),
            Self::Write { .. } | Self::Wait(_) | Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, CompileError> {
    if arguments.watch {
        return home::runtime()
            .map_err(CompileError::Wait)?
            .block_on(watch(arguments, terminal));
    }
    let sources = project::read(&arguments.project)?;
    once(arguments, &sources, terminal)
}

/// Compiles whenever the project is another than before, until it is asked to
/// end. Errors of the project are no reason to end.
async fn watch(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, CompileError> {
    let interrupted = home::interrupted().map_err(CompileError::Wait)?;
    let mut interrupted = std::pin::pin!(interrupted);
    // Before the project is read, so that no change is missed in between.
    let mut changes = Changes::of(&arguments.project)?;
    let mut before = None;
    loop {
        let sources = project::read(&arguments.project)?;
        if before.as_ref() != Some(&sources) {
            once(arguments, &sources, terminal)?;
            terminal.say(&format!("watching {}", arguments.project.display()));
            before = Some(sources);
        }
        tokio::select! {
            () = &mut interrupted => return Ok(Outcome::Fine),
            changed = changes.next() => changed?,
        }
    }
}

fn once(
    arguments: &Arguments,
    sources: &Sources,
    terminal: &Terminal,
) -> Result<Outcome, CompileError> {
    let compilation = loopy_compiler::compile(sources);
    diagnostics::show(
        &compilation.diagnostics,
        sources,
        &arguments.project,
        arguments.format,
        *terminal,
    )
    .map_err(CompileError::Stdout)?;
    terminal.say(&summary(&compilation));
    let Some(manifest) = &compilation.manifest else {
        return Ok(Outcome::ProjectErrors);
    };
    if !arguments.check {
        types::write(&arguments.project, &manifest.registry, terminal)?;
    }
    if let Some(path) = &arguments.out {
        std::fs::write(path, manifest.to_json()).map_err(|source| CompileError::Write {
            path: path.clone(),
            source,
        })?;
        terminal.say(&format!(
            "wrote {} (manifest {})",
            path.display(),
            manifest.hash
        ));
    }
    emit::run(
        &arguments.stack,
        &arguments.project,
        manifest,
        &compilation.files,
        terminal,
    )?;
    Ok(Outcome::Fine)
}

/// One line about what came of it.
fn summary(compilation: &Compilation) -> String {
    let count = |severity| {
        compilation
            .diagnostics
            .iter()
            .filter(|found| found.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut parts = Vec::new();
    if errors > 0 {
        parts.push(plural(errors, "error"));
    }
    if warnings > 0 {
        parts.push(plural(warnings, "warning"));
    }
    if let Some(manifest) = &compilation.manifest {
        let steps = manifest
            .workflows
            .values()
            .map(|workflow| workflow.steps.len())
            .sum();
        parts.push(plural(manifest.workflows.len(), "workflow"));
        parts.push(plural(steps, "step"));
        parts.push(plural(manifest.sensors.len(), "sensor"));
    }
    parts.join(", ")
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}
