//! The `loopy` command: parses the command line, runs one command, and turns
//! its outcome into an exit code. 0 is fine, 1 means the project has errors, 2
//! is wrong usage or an abnormal end.

mod compile;
mod deploy;
mod destroy;
mod emit;
mod output;

use clap::{Parser, Subcommand};
use output::Terminal;
use std::process::ExitCode;

/// Agent automations that live as files in a repo.
#[derive(Debug, Parser)]
#[command(name = "loopy", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `loopy` can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check a project and write its manifest
    Compile(compile::Arguments),
    /// Put a project into an AWS account
    Deploy(deploy::Arguments),
    /// Take a deployed stack down
    Destroy(destroy::Arguments),
}

/// How a command ended, when it did not break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Fine,
    /// The project has errors; they have been shown.
    ProjectErrors,
}

/// Why a command broke off: what happened, and what to do about it.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// `loopy compile` broke off.
    #[error(transparent)]
    Compile(#[from] compile::CompileError),
    /// `loopy deploy` or `loopy destroy` broke off.
    #[error(transparent)]
    Deploy(#[from] deploy::Error),
}

impl CommandError {
    /// The advice printed below the error, if there is any.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Compile(error) => error.hint(),
            Self::Deploy(error) => error.hint(),
        }
    }
}

fn main() -> ExitCode {
    // Clap ends the process by itself for `--help` (0) and wrong usage (2).
    let cli = Cli::parse();
    let terminal = Terminal::from_env();
    let outcome: Result<Outcome, CommandError> = match &cli.command {
        Command::Compile(arguments) => compile::run(arguments, &terminal).map_err(Into::into),
        Command::Deploy(arguments) => deploy::run(arguments, &terminal).map_err(Into::into),
        Command::Destroy(arguments) => destroy::run(arguments, &terminal).map_err(Into::into),
    };
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::ProjectErrors) => ExitCode::from(1),
        Err(error) => {
            terminal.error(&error.to_string(), error.hint().as_deref());
            ExitCode::from(2)
        }
    }
}
