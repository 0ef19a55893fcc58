//! `loopy events`: what came in, and what became of it.

use crate::Outcome;
use crate::deploy::runtime;
use crate::output::{Format, Terminal};
use crate::place::{Letter, Place, PlaceError};
use crate::present;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::EventId;
use loopy_engine::ports::PortError;
use loopy_engine::record::{EventFilter, EventRecord};
use serde_json::{Value, json};

/// Arguments of `loopy events`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be asked of events.
#[derive(Debug, Subcommand)]
enum Command {
    /// The latest events, newest first, with what became of each
    List(List),
    /// One event: its fields, and what each workflow did with it
    Show(Show),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    place: Place,
    /// Only those with this name
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    format: Format,
}

#[derive(Args, Debug)]
struct Show {
    /// The event's id, as `loopy events list` shows it
    id: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    /// There is no such event.
    #[error("there is no event {0}")]
    NoEvent(EventId),
    /// The state cannot be got at.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

impl From<PortError> for EventsError {
    fn from(error: PortError) -> Self {
        Self::Place(error.into())
    }
}

impl EventsError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoEvent(_) => Some("`loopy events list` shows the events there are".to_owned()),
            Self::Place(error) => error.hint(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, EventsError> {
    let runtime = runtime().map_err(PlaceError::Start)?;
    let text = runtime.block_on(async {
        match &arguments.command {
            Command::List(list) => listed(list).await,
            Command::Show(show) => shown(show).await,
        }
    })?;
    terminal.data(&text).map_err(PlaceError::Stdout)?;
    Ok(Outcome::Fine)
}

async fn listed(list: &List) -> Result<String, EventsError> {
    let opened = list.place.open().await?;
    let filter = EventFilter {
        name: list.event.clone(),
        limit: list.limit,
        ..EventFilter::default()
    };
    let records = opened.events(&filter).await?;
    if list.format.is_json() {
        let records = records.iter().map(|record| json!(record));
        return Ok(present::document(&records.collect::<Value>()));
    }
    let rows = records.iter().map(|record| {
        vec![
            record.event.id.to_string(),
            record.event.name.clone(),
            present::second(record.recorded_at),
            in_short(record),
        ]
    });
    Ok(present::columns(&["EVENT", "NAME", "CAME", "BECAME"], rows))
}

/// `started greet, filtered audit`, or that nobody listens.
fn in_short(record: &EventRecord) -> String {
    if record.outcomes.is_empty() {
        return "nothing: no workflow starts on it".to_owned();
    }
    let outcomes = record.outcomes.iter();
    let outcomes =
        outcomes.map(|(workflow, outcome)| format!("{} {workflow}", outcome.decision.name()));
    outcomes.collect::<Vec<_>>().join(", ")
}

async fn shown(show: &Show) -> Result<String, EventsError> {
    let opened = show.place.open().await?;
    let id = EventId(show.id.clone());
    // In this order: an event leaves the queue when it has been written down.
    let queued = opened.queued_event(&id).await?;
    let record = opened.event(&id).await?;
    let mut letters = opened.dead_letters().await?;
    letters.retain(|letter| is_of(letter, &id));

    let read = |message: &Value| serde_json::from_value::<Event>(message.clone()).ok();
    let event = record
        .as_ref()
        .map(|record| record.event.clone())
        .or_else(|| Some(queued.as_ref()?.0.clone()))
        .or_else(|| letters.iter().find_map(|letter| read(&letter.message)));
    let Some(event) = event else {
        return Err(EventsError::NoEvent(id));
    };
    let due = queued.map(|(_, due)| due);
    if show.format.is_json() {
        let outcomes = record.as_ref().map(|record| &record.outcomes);
        return Ok(present::document(&json!({
            "event": event,
            "recorded_at": record.as_ref().map(|record| record.recorded_at),
            "outcomes": outcomes,
            "queued_until": due,
            "dead_letters": letters,
        })));
    }
    Ok(story(&event, record.as_ref(), due, &letters))
}

/// Whether the letter is the event itself, or the end of its waiting.
fn is_of(letter: &Letter, id: &EventId) -> bool {
    let message = &letter.message;
    (message["kind"] == "event" && message["id"] == id.as_str())
        || (message["kind"] == "settled" && message["event"] == id.as_str())
}

fn story(
    event: &Event,
    record: Option<&EventRecord>,
    due: Option<Timestamp>,
    letters: &[Letter],
) -> String {
    let mut text = format!("{}  {}\n", event.id, event.name);
    for (field, value) in &event.fields {
        text.push_str(&format!("  {field} = {value}\n"));
    }
    text.push_str(&format!("from      {}\n", present::origin(&event.source)));
    text.push_str(&format!(
        "made      {}\n",
        present::second(event.emitted_at)
    ));
    text.push_str(&format!(
        "cascade   {}, depth {}\n",
        event.cascade, event.depth
    ));
    text.push_str("became\n");
    match record {
        None => text.push_str("  nobody has looked at it yet\n"),
        Some(record) if record.outcomes.is_empty() => {
            text.push_str("  nothing: no workflow starts on it\n");
        }
        Some(record) => {
            let width = record.outcomes.keys().map(String::len).max().unwrap_or(0);
            for (workflow, outcome) in &record.outcomes {
                let decision = &outcome.decision;
                let (at, name) = (present::second(outcome.at), decision.name());
                let why = decision.sentence();
                text.push_str(&format!("  {at}  {workflow:width$}  {name}: {why}\n"));
            }
        }
    }
    if let Some(due) = due {
        let due = present::second(due);
        text.push_str(&format!("waits in the queue events, due {due}\n"));
    }
    for letter in letters {
        let at = present::second(letter.buried_at);
        text.push_str(&format!(
            "given up {at} as dead letter {}: {}\n",
            letter.id, letter.reason
        ));
    }
    text
}
