//! The `loopy` command: parses the command line, runs one command, and turns
//! its outcome into an exit code. 0 is fine, 1 means the project has errors or
//! what was asked of a run was refused, 2 is wrong usage or an abnormal end. A
//! command that waits for runs adds: 3, one failed or was cancelled; 4, a limit or
//! budget was reached; 5, one waits for a person; 6, one was denied; 7, a loop made
//! no progress.

mod cache;
mod compile;
mod cost;
mod deploy;
mod destroy;
mod diagnostics;
mod dlq;
mod docs;
mod doctor;
mod drift;
mod emit;
mod events;
mod fmt;
mod graph;
mod home;
mod logs;
mod lsp;
mod named_run;
mod orders;
mod output;
mod place;
mod present;
mod project;
mod replay;
mod rollback;
mod run;
mod runs;
mod trigger;
mod types;
mod watch;
mod webhooks;

use clap::{Parser, Subcommand};
use output::Terminal;
use std::process::ExitCode;

/// Agent automations that live as files in a repo.
#[derive(Debug, Parser)]
#[command(
    name = "loopy",
    version,
    about = "Agent automations that live as files in a repo",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `loopy` can do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check a project and write its manifest
    Compile(compile::Arguments),
    /// Draw how a project's workflows hang together
    Graph(graph::Arguments),
    /// Bring the registry and the steps into one layout
    Fmt(fmt::Arguments),
    /// Run what one event sets off, here and now
    Trigger(trigger::Arguments),
    /// Serve a project on this machine
    Run(run::Arguments),
    /// What ran, and how it went; cancel, pause, approve, rerun
    Runs(runs::Arguments),
    /// What came in, and what became of it
    Events(events::Arguments),
    /// Have events that came in before come in again
    Replay(replay::Arguments),
    /// Messages that were given up, and sending them again
    Dlq(dlq::Arguments),
    /// Put a project into an AWS account
    Deploy(deploy::Arguments),
    /// Make a stack what it was at an earlier deployment
    Rollback(rollback::Arguments),
    /// Where a stack, or the project, is no longer what was deployed
    Drift(drift::Arguments),
    /// Take a deployed stack down
    Destroy(destroy::Arguments),
    /// What a project will cost in an AWS account
    Cost(cost::Arguments),
    /// Where deliveries go, and telling GitHub so
    Webhooks(webhooks::Arguments),
    /// Say what is wrong with a project, or a stack, and what it lacks
    Doctor(doctor::Arguments),
    /// Explain what the compiler says
    Docs(docs::Arguments),
    /// Answer an editor about the projects it has open
    Lsp(lsp::Arguments),
    /// Work on one attempt of a step; how `run` and `trigger` start local
    /// sandboxes
    #[command(hide = true)]
    Runner,
}

/// How a command ended, when it did not break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Fine,
    /// The project has errors; they have been shown.
    ProjectErrors,
    /// What was asked of a run was not done; the reason has been shown.
    Refused,
    /// A run failed or was cancelled, or a message was given up.
    RunFailed,
    /// A run ended at a budget or limit, or did not begin because of one.
    OverBudget,
    /// A run waits for a person.
    Parked,
    /// A person did not agree to a run going on, or nobody answered in time.
    Denied,
    /// A loop of a run came to its end without its condition holding.
    NoProgress,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::ProjectErrors | Self::Refused => 1,
            Self::RunFailed => 3,
            Self::OverBudget => 4,
            Self::Parked => 5,
            Self::Denied => 6,
            Self::NoProgress => 7,
        }
    }
}

/// Why a command broke off: what happened, and what to do about it.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// `loopy compile` broke off.
    #[error(transparent)]
    Compile(#[from] compile::CompileError),
    /// `loopy graph` broke off.
    #[error(transparent)]
    Graph(#[from] graph::GraphError),
    /// `loopy fmt` broke off.
    #[error(transparent)]
    Fmt(#[from] fmt::FmtError),
    /// `loopy trigger` broke off.
    #[error(transparent)]
    Trigger(#[from] trigger::TriggerError),
    /// `loopy run` broke off.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// `loopy runs` broke off.
    #[error(transparent)]
    Runs(#[from] named_run::RunsError),
    /// `loopy events` or `loopy replay` broke off.
    #[error(transparent)]
    Events(#[from] events::EventsError),
    /// `loopy dlq` broke off.
    #[error(transparent)]
    Dlq(#[from] dlq::DlqError),
    /// `loopy deploy`, `rollback`, `drift` or `destroy` broke off.
    #[error(transparent)]
    Deploy(#[from] deploy::Error),
    /// `loopy cost` broke off.
    #[error(transparent)]
    Cost(#[from] cost::CostError),
    /// `loopy webhooks` broke off.
    #[error(transparent)]
    Webhooks(#[from] webhooks::WebhooksError),
    /// `loopy doctor` broke off.
    #[error(transparent)]
    Doctor(#[from] doctor::DoctorError),
    /// `loopy docs` broke off.
    #[error(transparent)]
    Docs(#[from] docs::DocsError),
}

impl CommandError {
    /// The advice printed below the error, if there is any.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Compile(error) => error.hint(),
            Self::Graph(error) => error.hint(),
            Self::Fmt(error) => error.hint(),
            Self::Trigger(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::Runs(error) => error.hint(),
            Self::Events(error) => error.hint(),
            Self::Dlq(error) => error.hint(),
            Self::Deploy(error) => error.hint(),
            Self::Cost(error) => error.hint(),
            Self::Webhooks(error) => error.hint(),
            Self::Doctor(error) => error.hint(),
            Self::Docs(error) => error.hint(),
        }
    }
}

fn main() -> ExitCode {
    // Clap ends the process by itself for `--help` (0) and wrong usage (2).
    let cli = Cli::parse();
    let terminal = Terminal::from_env();
    let outcome: Result<Outcome, CommandError> = match &cli.command {
        Command::Compile(arguments) => compile::run(arguments, &terminal).map_err(Into::into),
        Command::Graph(arguments) => graph::run(arguments, &terminal).map_err(Into::into),
        Command::Fmt(arguments) => fmt::run(arguments, &terminal).map_err(Into::into),
        Command::Trigger(arguments) => trigger::run(arguments, &terminal).map_err(Into::into),
        Command::Run(arguments) => run::run(arguments, &terminal).map_err(Into::into),
        Command::Runs(arguments) => runs::run(arguments, &terminal).map_err(Into::into),
        Command::Events(arguments) => events::run(arguments, &terminal).map_err(Into::into),
        Command::Replay(arguments) => replay::run(arguments, &terminal).map_err(Into::into),
        Command::Dlq(arguments) => dlq::run(arguments, &terminal).map_err(Into::into),
        Command::Deploy(arguments) => deploy::run(arguments, &terminal).map_err(Into::into),
        Command::Rollback(arguments) => rollback::run(arguments, &terminal).map_err(Into::into),
        Command::Drift(arguments) => drift::run(arguments, &terminal).map_err(Into::into),
        Command::Destroy(arguments) => destroy::run(arguments, &terminal).map_err(Into::into),
        Command::Cost(arguments) => cost::run(arguments, &terminal).map_err(Into::into),
        Command::Webhooks(arguments) => webhooks::run(arguments, &terminal).map_err(Into::into),
        Command::Doctor(arguments) => doctor::run(arguments, &terminal).map_err(Into::into),
        Command::Docs(arguments) => docs::run(arguments, &terminal).map_err(Into::into),
        Command::Lsp(arguments) => return lsp::run(arguments, terminal),
        Command::Runner => {
            home::trace(terminal, "info");
            let exit = loopy_runner::run(|name| std::env::var(name).ok());
            return ExitCode::from(exit.code());
        }
    };
    match outcome {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            terminal.error(&error.to_string(), error.hint().as_deref());
            ExitCode::from(2)
        }
    }
}
