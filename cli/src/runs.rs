//! `loopy runs`: what ran and how it went, on this machine or in a stack.

use crate::Outcome;
use crate::deploy::{Aws, runtime};
use crate::output::{Format, Terminal};
use crate::present;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use loopy_aws::{ConfigError, DynamoStore};
use loopy_contract::ids::RunId;
use loopy_engine::ports::{PortError, RunFilter, Store};
use loopy_engine::run::{Run, RunSummary};
use loopy_infra::DeployError;
use loopy_local::State;
use loopy_local::db::DbError;
use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// Arguments of `loopy runs`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be asked of runs.
#[derive(Debug, Subcommand)]
enum Command {
    /// The latest runs, newest first
    List(List),
    /// One run: its steps, what they put out, and its history
    Show(Show),
}

/// Whose runs.
#[derive(Args, Debug)]
struct Place {
    /// The project's folder, for runs on this machine
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        conflicts_with = "stack"
    )]
    project: PathBuf,
    /// The stack's name, for runs in an AWS account
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    #[command(flatten)]
    aws: Aws,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    place: Place,
    /// Only this workflow's
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only those that stand like this
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    format: Format,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    /// Steps are not over
    Running,
    /// Every step succeeded or was skipped
    Succeeded,
    /// A step failed
    Failed,
}

#[derive(Args, Debug)]
struct Show {
    /// The run's id, as `loopy runs list` shows it
    id: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunsError {
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The local state cannot be opened.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The state cannot be read.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stack cannot be found.
    #[error(transparent)]
    Stack(#[from] DeployError),
    /// The process has no threads or sockets left.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl RunsError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoRun(_) => Some("`loopy runs list` shows the runs there are".to_owned()),
            Self::Db(DbError::Missing(_)) => Some(
                "name the project's folder with --project, or a deployed stack with --stack"
                    .to_owned(),
            ),
            Self::Stack(error) => error.hint(),
            Self::Db(_) | Self::Port(_) | Self::Config(_) | Self::Runtime(_) | Self::Stdout(_) => {
                None
            }
        }
    }
}

/// State that can be read, wherever it is.
enum Reader {
    Local(State),
    Deployed(DynamoStore),
}

impl Reader {
    async fn open(place: &Place) -> Result<Self, RunsError> {
        let Some(stack) = &place.stack else {
            return Ok(Self::Local(State::open(&place.project)?));
        };
        let config = place.aws.connection().resolve().await?;
        Ok(Self::Deployed(loopy_infra::store(&config, stack).await?))
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        match self {
            Self::Local(state) => state.runs(filter).await,
            Self::Deployed(store) => store.list(filter).await,
        }
    }

    async fn show(&self, id: &RunId) -> Result<Option<Run>, PortError> {
        match self {
            Self::Local(state) => state.run(id).await,
            Self::Deployed(store) => Ok(store.load(id).await?.map(|stored| stored.run)),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, RunsError> {
    let runtime = runtime().map_err(RunsError::Runtime)?;
    let text = runtime.block_on(async {
        match &arguments.command {
            Command::List(list) => listed(list).await,
            Command::Show(show) => shown(show).await,
        }
    })?;
    terminal.data(&text).map_err(RunsError::Stdout)?;
    Ok(Outcome::Fine)
}

async fn listed(list: &List) -> Result<String, RunsError> {
    let reader = Reader::open(&list.place).await?;
    let status = list.status.as_ref().and_then(Status::to_possible_value);
    let filter = RunFilter {
        workflow: list.workflow.clone(),
        status: status.map(|status| status.get_name().to_owned()),
        limit: list.limit,
    };
    let runs = reader.list(&filter).await?;
    Ok(if list.format.is_json() {
        present::document(&runs.iter().map(present::listed).collect::<Value>())
    } else {
        present::table(&runs, Timestamp::now())
    })
}

async fn shown(show: &Show) -> Result<String, RunsError> {
    let reader = Reader::open(&show.place).await?;
    let id = RunId(show.id.clone());
    let Some(run) = reader.show(&id).await? else {
        return Err(RunsError::NoRun(id));
    };
    Ok(if show.format.is_json() {
        present::document(&present::json(&run))
    } else {
        present::story(&run, Timestamp::now())
    })
}
