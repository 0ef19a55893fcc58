//! `loopy compile`: checks a project and writes its manifest.

use crate::Outcome;
use crate::cache::{self, Compiled, Wanted};
use crate::diagnostics::{self, Format};
use crate::emit::{self, EmitError};
use crate::home;
use crate::output::Terminal;
use crate::project::{self, NoProject};
use crate::types::{self, TypesError};
use crate::watch::{Changes, WatchError};
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
    /// Compile even when nothing changed since the last time
    #[arg(long)]
    no_cache: bool,
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
    // A stack needs more of the compilation than is kept.
    let may_keep = !arguments.no_cache && !arguments.stack.is_asked_for();
    let fingerprint = may_keep.then(|| sources.fingerprint());
    let wanted = Wanted {
        types: !arguments.check,
        json: arguments.out.is_some(),
    };
    let kept = fingerprint
        .as_ref()
        .and_then(|fingerprint| cache::find(&arguments.project, fingerprint, wanted));
    let (compiled, fresh) = match kept {
        Some(compiled) => (compiled, None),
        None => {
            let compilation = loopy_compiler::compile(sources);
            let compiled = Compiled::of(&compilation, wanted);
            if let Some(fingerprint) = &fingerprint
                && !arguments.check
            {
                cache::keep(&arguments.project, fingerprint, &compiled);
            }
            (compiled, Some(compilation))
        }
    };
    diagnostics::show(
        &compiled.diagnostics,
        sources,
        &arguments.project,
        arguments.format,
        *terminal,
    )
    .map_err(CompileError::Stdout)?;
    terminal.say(&summary(&compiled));
    let Some(project) = &compiled.project else {
        return Ok(Outcome::ProjectErrors);
    };
    if let Some(types) = &compiled.types {
        types::write(&arguments.project, types, terminal)?;
    }
    if let (Some(path), Some(json)) = (&arguments.out, &compiled.json) {
        std::fs::write(path, json).map_err(|source| CompileError::Write {
            path: path.clone(),
            source,
        })?;
        terminal.say(&format!(
            "wrote {} (manifest {})",
            path.display(),
            project.hash
        ));
    }
    if let Some(Compilation {
        manifest: Some(manifest),
        files,
        ..
    }) = &fresh
    {
        emit::run(
            &arguments.stack,
            &arguments.project,
            manifest,
            files,
            terminal,
        )?;
    }
    Ok(Outcome::Fine)
}

/// One line about what came of it.
fn summary(compiled: &Compiled) -> String {
    let count = |severity| {
        compiled
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
    if let Some(project) = &compiled.project {
        parts.push(plural(project.workflows, "workflow"));
        parts.push(plural(project.steps, "step"));
        parts.push(plural(project.sensors, "sensor"));
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
