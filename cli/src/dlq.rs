//! `loopy dlq`: messages that were given up, and sending them again.

use crate::Outcome;
use crate::deploy::runtime;
use crate::output::{Format, Terminal};
use crate::place::{Letter, Place, PlaceError};
use crate::present;
use clap::{ArgGroup, Args, Subcommand};
use loopy_engine::ports::PortError;
use serde_json::{Value, json};

/// Arguments of `loopy dlq`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
enum Command {
    /// All messages that were given up, oldest first, with the reason
    List(List),
    /// One message that was given up, as it was sent
    Show(Show),
    /// Send messages that were given up again, to the queue they came from
    Redrive(Redrive),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Args, Debug)]
struct Show {
    /// The letter's id, as `loopy dlq list` shows it
    id: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Args, Debug)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all"])))]
struct Redrive {
    /// The letters' ids, as `loopy dlq list` shows them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All there are
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DlqError {
    /// There is no such letter.
    #[error("there is no dead letter {0}")]
    NoLetter(String),
    /// The state cannot be got at.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl From<PortError> for DlqError {
    fn from(error: PortError) -> Self {
        Self::Place(error.into())
    }
}

impl DlqError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoLetter(_) => Some("`loopy dlq list` shows what was given up".to_owned()),
            Self::Place(error) => error.hint(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, DlqError> {
    let runtime = runtime().map_err(PlaceError::Start)?;
    let text = runtime.block_on(async {
        match &arguments.command {
            Command::List(list) => listed(list).await,
            Command::Show(show) => shown(show).await,
            Command::Redrive(redrive) => redriven(redrive, *terminal).await,
        }
    })?;
    terminal.data(&text).map_err(PlaceError::Stdout)?;
    Ok(Outcome::Fine)
}

async fn listed(list: &List) -> Result<String, DlqError> {
    let letters = list.place.open().await?.dead_letters().await?;
    if list.format.is_json() {
        return Ok(present::document(&json!(letters)));
    }
    let rows = letters.iter().map(|letter| {
        vec![
            letter.id.clone(),
            letter.queue.clone(),
            present::second(letter.buried_at),
            about(&letter.message),
            letter.reason.clone(),
        ]
    });
    let header = ["LETTER", "QUEUE", "GIVEN UP", "ABOUT", "REASON"];
    Ok(present::columns(&header, rows))
}

/// What a message asks for, and for whom.
fn about(message: &Value) -> String {
    let text = |name: &str| message[name].as_str();
    let Some(kind) = text("kind") else {
        return "no message of Loopy".to_owned();
    };
    let whom = match kind {
        "event" => text("name"),
        "again" => text("original"),
        _ => ["run", "step", "sensor", "path", "workflow"]
            .into_iter()
            .find_map(text),
    };
    match whom {
        Some(whom) => format!("{} {whom}", kind.replace('_', " ")),
        None => kind.replace('_', " "),
    }
}

async fn shown(show: &Show) -> Result<String, DlqError> {
    let letters = show.place.open().await?.dead_letters().await?;
    let letter = letters.into_iter().find(|letter| letter.id == show.id);
    let letter = letter.ok_or_else(|| DlqError::NoLetter(show.id.clone()))?;
    Ok(if show.format.is_json() {
        present::document(&json!(letter))
    } else {
        story(&letter)
    })
}

fn story(letter: &Letter) -> String {
    format!(
        "{}  {}  {}\nreason    {}\nmessage\n{:#}\n",
        letter.id,
        letter.queue,
        present::second(letter.buried_at),
        letter.reason,
        letter.message
    )
}

async fn redriven(redrive: &Redrive, terminal: Terminal) -> Result<String, DlqError> {
    let opened = redrive.place.open().await?;
    let ids = if redrive.all {
        let letters = opened.dead_letters().await?;
        letters.into_iter().map(|letter| letter.id).collect()
    } else {
        redrive.ids.clone()
    };
    let mut sent = Vec::new();
    let mut missing = None;
    for id in ids {
        if opened.redrive(&id).await? {
            sent.push(id);
        } else if !redrive.all {
            // With --all somebody else was quicker.
            missing = Some(id);
            break;
        }
    }
    if !sent.is_empty() && !opened.is_served()? {
        terminal.say("nothing serves this project; what was sent again waits until something does");
        terminal.hint("`loopy run` serves it");
    }
    let text = if redrive.format.is_json() {
        present::document(&json!({ "sent": sent }))
    } else {
        sent.iter().map(|id| format!("{id}\n")).collect()
    };
    match missing {
        None => Ok(text),
        Some(id) => {
            terminal.data(&text).map_err(PlaceError::Stdout)?;
            Err(DlqError::NoLetter(id))
        }
    }
}
