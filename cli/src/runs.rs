//! `loopy runs`: what ran and how it went, and what can be asked of a run, on
//! this machine or in a stack.

use crate::Outcome;
use crate::deploy::runtime;
use crate::logs;
use crate::named_run::{RunsError, found};
use crate::orders;
use crate::output::{Format, Terminal};
use crate::place::{Place, PlaceError};
use crate::present;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use loopy_contract::ids::EventId;
use loopy_engine::ports::RunFilter;
use loopy_engine::run::RunStatus;
use serde_json::{Value, json};

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
    /// What happened in a run's attempts: what was said, called and printed
    Logs(logs::Logs),
    /// End a run now; what works is stopped
    Cancel(orders::Cancel),
    /// Have a run begin nothing new; what works goes on
    Pause(orders::Plain),
    /// Have a paused run go on
    Resume(orders::Plain),
    /// Answer a step that waits for a person: it goes on
    Approve(orders::Answered),
    /// Answer a step that waits for a person: the run ends
    Deny(orders::Answered),
    /// Go over a run again from its beginning, as a new run
    Rerun(orders::Rerun),
    /// Go over a run again from one step, as a new run
    Fork(orders::Fork),
    /// All that is known of a run, as one JSON document
    Export(Export),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    place: Place,
    /// Only this workflow's
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only those that stand like this
    #[arg(long, value_parser = PossibleValuesParser::new(RunStatus::NAMES))]
    status: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    format: Format,
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

#[derive(Args, Debug)]
struct Export {
    /// The run's id, as `loopy runs list` shows it
    id: String,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, RunsError> {
    let runtime = runtime().map_err(PlaceError::Start)?;
    runtime.block_on(async {
        let text = match &arguments.command {
            Command::List(list) => listed(list).await?,
            Command::Show(show) => shown(show).await?,
            Command::Export(export) => exported(export).await?,
            Command::Logs(logs) => {
                logs.show(*terminal).await?;
                return Ok(Outcome::Fine);
            }
            Command::Cancel(order) => return order.give(*terminal).await,
            Command::Pause(order) => return order.pause(*terminal).await,
            Command::Resume(order) => return order.resume(*terminal).await,
            Command::Approve(order) => return order.give(true, *terminal).await,
            Command::Deny(order) => return order.give(false, *terminal).await,
            Command::Rerun(order) => return order.give(*terminal).await,
            Command::Fork(order) => return order.give(*terminal).await,
        };
        terminal.data(&text).map_err(PlaceError::Stdout)?;
        Ok(Outcome::Fine)
    })
}

async fn listed(list: &List) -> Result<String, RunsError> {
    let opened = list.place.open().await?;
    let filter = RunFilter {
        workflow: list.workflow.clone(),
        status: list.status.clone(),
        limit: list.limit,
    };
    let runs = opened.runs(&filter).await?;
    Ok(if list.format.is_json() {
        present::document(&runs.iter().map(present::listed).collect::<Value>())
    } else {
        present::table(&runs, Timestamp::now())
    })
}

async fn shown(show: &Show) -> Result<String, RunsError> {
    let opened = show.place.open().await?;
    let run = found(&opened, &show.id).await?;
    Ok(if show.format.is_json() {
        present::document(&present::json(&run))
    } else {
        present::story(&run, Timestamp::now())
    })
}

/// The run as it is stored, the events that it came from and made with what
/// became of them, and what was given up of it.
async fn exported(export: &Export) -> Result<String, RunsError> {
    let opened = export.place.open().await?;
    let run = found(&opened, &export.id).await?;
    let mut events = Vec::new();
    let made = run
        .history
        .iter()
        .filter(|line| line.kind == "event_emitted");
    let made = made.filter_map(|line| {
        let (_, id) = line.note.rsplit_once(" (")?;
        Some(EventId(id.strip_suffix(')')?.to_owned()))
    });
    let ids: Vec<EventId> = std::iter::once(run.event.id.clone()).chain(made).collect();
    for id in &ids {
        events.extend(opened.event(id).await?);
    }
    let mut letters = opened.dead_letters().await?;
    letters.retain(|letter| {
        letter.is_about(run.id.as_str()) || ids.iter().any(|id| letter.is_about(id.as_str()))
    });
    Ok(present::document(&json!({
        "run": run,
        "events": events,
        "dead_letters": letters,
    })))
}
