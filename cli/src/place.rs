//! A project's state, wherever it is: in its folder on this machine, or in a
//! stack. What the commands about runs, events and dead letters have in common.

use crate::deploy::Aws;
use clap::Args;
use jiff::Timestamp;
use loopy_aws::ConfigError;
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, RunId};
use loopy_engine::message::Message;
use loopy_engine::ports::{PortError, Queues, RunFilter, Store};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{Run, RunSummary};
use loopy_engine::transcript::TranscriptOf;
use loopy_infra::{DeployError, Desk};
use loopy_local::DbError;
use loopy_local::State;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How long a command that was sent may take to be seen: on this machine.
const PATIENCE_HERE: Duration = Duration::from_secs(30);

/// In a stack a function may have to come up first.
const PATIENCE_THERE: Duration = Duration::from_secs(60);

/// Whose state.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The project's folder, for what runs on this machine
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        conflicts_with = "stack"
    )]
    project: PathBuf,
    /// The stack's name, for what runs in an AWS account
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    #[command(flatten)]
    aws: Aws,
}

/// The state could not be got at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// The local state cannot be opened.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The state cannot be read or written.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stack cannot be found.
    #[error(transparent)]
    Stack(#[from] DeployError),
    /// The process has no threads, sockets or random numbers left.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl PlaceError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Db(DbError::Missing(_)) => Some(
                "name the project's folder with --project, or a deployed stack with --stack"
                    .to_owned(),
            ),
            Self::Stack(error) => error.hint(),
            Self::Db(_) | Self::Port(_) | Self::Config(_) | Self::Start(_) | Self::Stdout(_) => {
                None
            }
        }
    }
}

/// State that is open.
pub(crate) enum Opened {
    /// On this machine.
    Local(State),
    /// In a stack.
    Deployed(Box<Desk>),
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Letter {
    /// Names it for as long as it lies there.
    pub(crate) id: String,
    /// The queue it came from.
    pub(crate) queue: String,
    /// Why it was given up.
    pub(crate) reason: String,
    /// When it was given up.
    pub(crate) buried_at: Timestamp,
    /// What it asked for; a text when it is not JSON.
    pub(crate) message: Value,
}

impl Letter {
    fn of(id: String, queue: String, reason: String, buried_at: Timestamp, body: String) -> Self {
        Self {
            id,
            queue,
            reason,
            buried_at,
            message: serde_json::from_str(&body).unwrap_or(Value::String(body)),
        }
    }

    /// Whether it is about the thing with this id: a run, an event, a command.
    pub(crate) fn is_about(&self, id: &str) -> bool {
        holds(&self.message, id)
    }
}

/// Whether the text stands somewhere in the value, as a whole.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(members) => members.values().any(|member| holds(member, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl Place {
    /// Opens the state.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) async fn open(&self) -> Result<Opened, PlaceError> {
        let Some(stack) = &self.stack else {
            return Ok(Opened::Local(State::open(&self.project)?));
        };
        let config = self.aws.connection().resolve().await?;
        let desk = loopy_infra::desk(&config, stack).await?;
        Ok(Opened::Deployed(Box::new(desk)))
    }
}

impl Opened {
    /// Runs, newest first.
    pub(crate) async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        match self {
            Self::Local(state) => state.runs(filter).await,
            Self::Deployed(desk) => desk.store.list(filter).await,
        }
    }

    /// One run.
    pub(crate) async fn run(&self, id: &RunId) -> Result<Option<Run>, PortError> {
        match self {
            Self::Local(state) => state.run(id).await,
            Self::Deployed(desk) => Ok(desk.store.load(id).await?.map(|stored| stored.run)),
        }
    }

    /// Events that were looked at, newest first.
    pub(crate) async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        match self {
            Self::Local(state) => state.events(filter).await,
            Self::Deployed(desk) => desk.store.events(filter).await,
        }
    }

    /// What became of an event that was looked at.
    pub(crate) async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, PortError> {
        match self {
            Self::Local(state) => state.event(id).await,
            Self::Deployed(desk) => Ok(desk.store.event(id).await?.map(|(record, _)| record)),
        }
    }

    /// Puts a message into its queue; durable when it returns.
    pub(crate) async fn send(&self, message: &Message) -> Result<(), PortError> {
        match self {
            Self::Local(state) => state.send(message).await,
            Self::Deployed(desk) => desk.queues.send(message, Duration::ZERO).await,
        }
    }

    /// What the transcript of an attempt says from `offset` bytes on; empty when
    /// there is no more.
    pub(crate) async fn transcript(
        &self,
        of: &TranscriptOf,
        offset: u64,
    ) -> Result<Vec<u8>, PortError> {
        match self {
            Self::Local(state) => state.transcript(of, offset).await,
            Self::Deployed(desk) => desk.transcripts.read(of, offset).await,
        }
    }

    /// Whether something takes what is sent. A stack always does.
    pub(crate) fn is_served(&self) -> Result<bool, PortError> {
        match self {
            Self::Local(state) => state.is_served(),
            Self::Deployed(_) => Ok(true),
        }
    }

    /// How long to wait for what was sent, and how long between two looks.
    pub(crate) fn patience(&self) -> (Duration, Duration) {
        match self {
            Self::Local(_) => (PATIENCE_HERE, Duration::from_millis(25)),
            Self::Deployed(_) => (PATIENCE_THERE, Duration::from_millis(500)),
        }
    }

    /// An event that nobody has looked at yet and when it is due, where a queue
    /// can be looked into.
    pub(crate) async fn queued_event(
        &self,
        id: &EventId,
    ) -> Result<Option<(Event, Timestamp)>, PortError> {
        match self {
            Self::Local(state) => state.queued_event(id).await,
            Self::Deployed(_) => Ok(None),
        }
    }

    /// All that was given up, oldest first.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Letter>, PortError> {
        let mut letters: Vec<Letter> = match self {
            Self::Local(state) => {
                let found = state.dead_letters().await?.into_iter();
                found
                    .map(|it| {
                        Letter::of(
                            it.id.to_string(),
                            it.queue,
                            it.reason,
                            it.buried_at,
                            it.body,
                        )
                    })
                    .collect()
            }
            Self::Deployed(desk) => {
                let found = desk.dead_letters.list().await?.into_iter();
                found
                    .map(|it| {
                        let queue = it.queue.name().to_owned();
                        Letter::of(it.id, queue, it.reason, it.buried_at, it.body)
                    })
                    .collect()
            }
        };
        letters.sort_by_key(|letter| letter.buried_at);
        Ok(letters)
    }

    /// Sends a dead letter again; false when it is not there any more.
    pub(crate) async fn redrive(&self, letter: &str) -> Result<bool, PortError> {
        match self {
            Self::Local(state) => match letter.parse() {
                Ok(id) => state.redrive(id).await,
                Err(_) => Ok(false),
            },
            Self::Deployed(desk) => desk.dead_letters.redrive(letter).await,
        }
    }
}
