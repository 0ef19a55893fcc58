//! `loopy replay`: events that came in before come in again, as new ones.

use crate::Outcome;
use crate::deploy::runtime;
use crate::events::EventsError;
use crate::output::{Format, Terminal};
use crate::place::{Place, PlaceError};
use crate::present;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, derive};
use loopy_engine::message::Message;
use loopy_engine::record::{EventFilter, EventRecord};
use serde_json::json;
use std::str::FromStr;

/// As many events are read at a time.
const PAGE: usize = 500;

/// Arguments of `loopy replay`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The first moment, as in 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Timestamp,
    /// The moment after the last one; now when absent or later
    #[arg(long, value_name = "TIME", conflicts_with = "resume")]
    to: Option<Timestamp>,
    /// Only events with this name; those that steps emitted are taken only by name, as
    /// their steps emit them again
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Also those that came of another replay
    #[arg(long)]
    replayed: bool,
    /// Go on with a replay that was cut off, with the other arguments as they were: its
    /// id, which it said first and which holds the moment of its end
    #[arg(long, value_name = "ID")]
    resume: Option<ReplayId>,
    /// Show which events these are, and stop there
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// The id of a replay: `END-HASH`. Its end is in it, so that one that is resumed later
/// takes in what it took in first, and nothing that has come since.
#[derive(Clone, Debug)]
struct ReplayId {
    text: String,
    until: Timestamp,
}

impl ReplayId {
    fn new(until: Timestamp, now: Timestamp, event: Option<&str>) -> Self {
        let name = event.unwrap_or_default();
        let hash = derive(&["replay", &now.to_string(), name], 12);
        let text = format!("{}-{hash}", until.as_nanosecond());
        Self { text, until }
    }
}

impl FromStr for ReplayId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let until = text.rsplit_once('-').and_then(|(until, _)| {
            let until = until.parse().ok()?;
            Timestamp::from_nanosecond(until).ok()
        });
        let until =
            until.ok_or("a replay says its id first, as in 1767225600000000000-0a1b2c3d4e5f")?;
        Ok(Self {
            text: text.to_owned(),
            until,
        })
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, EventsError> {
    let runtime = runtime().map_err(PlaceError::Start)?;
    runtime.block_on(async {
        let opened = arguments.place.open().await?;
        let now = Timestamp::now();
        let replay = arguments.resume.clone().unwrap_or_else(|| {
            // Not later than now: what this replay makes is not to be taken in.
            let until = arguments.to.unwrap_or(now).min(now);
            ReplayId::new(until, now, arguments.event.as_deref())
        });
        let mut records = Vec::new();
        let mut until = replay.until;
        let mut limit = PAGE;
        // Newest first, page by page. Several may have the same moment, so that the
        // last one of a full page is left to the next.
        loop {
            let filter = EventFilter {
                name: arguments.event.clone(),
                since: Some(arguments.from),
                until: Some(until),
                limit,
            };
            let mut page = opened.events(&filter).await?;
            let (full, last) = (page.len() == limit, page.last());
            let Some(last) = last.map(|record| record.recorded_at).filter(|_| full) else {
                records.extend(page);
                break;
            };
            page.retain(|record| record.recorded_at > last);
            if page.is_empty() {
                limit *= 2;
                continue;
            }
            records.extend(page);
            limit = PAGE;
            until = last
                .checked_add(SignedDuration::from_nanos(1))
                .unwrap_or(last);
        }
        records.retain(|record| wanted(record, arguments));
        records.reverse();
        if !arguments.dry_run && !records.is_empty() {
            terminal.say(&format!(
                "replay {} of {} events",
                replay.text,
                records.len()
            ));
        }
        let mut lines = Vec::new();
        for record in &records {
            let event = repeated(&record.event, &replay.text, now);
            if !arguments.dry_run {
                opened.send(&Message::Event(event.clone())).await?;
            }
            lines.push((record, event));
        }
        let text = if arguments.format.is_json() {
            let line = |(record, event): &(&EventRecord, Event)| {
                json!({
                    "event": record.event.id, "name": event.name,
                    "recorded_at": record.recorded_at, "repeated_as": event.id,
                })
            };
            present::document(&json!(lines.iter().map(line).collect::<Vec<_>>()))
        } else {
            let rows = lines.iter().map(|(record, event)| {
                vec![
                    record.event.id.to_string(),
                    event.name.clone(),
                    present::second(record.recorded_at),
                    event.id.to_string(),
                ]
            });
            present::columns(&["EVENT", "NAME", "CAME", "REPEATED AS"], rows)
        };
        terminal.data(&text).map_err(PlaceError::Stdout)?;
        if !arguments.dry_run && !lines.is_empty() && !opened.is_served()? {
            terminal.hint("nothing serves this project now; `loopy run` takes them");
        }
        Ok(Outcome::Fine)
    })
}

/// Whether it came from outside; by name also what steps emitted, and if wanted what
/// other replays made of either. A schedule's tick cannot come again, as its time is
/// over.
fn wanted(record: &EventRecord, arguments: &Arguments) -> bool {
    let mut source = &record.event.source;
    while let Source::Replay { source: inner, .. } = source
        && arguments.replayed
    {
        source = inner;
    }
    match source {
        Source::Sensor { .. } | Source::Hand => true,
        Source::Step { .. } => arguments.event.is_some(),
        Source::Cron { .. } | Source::Replay { .. } => false,
    }
}

/// The same event as a new one, which begins a cascade of its own. Its id derives from
/// the replay and the event: a replay that is resumed repeats nothing twice.
fn repeated(event: &Event, replay: &str, now: Timestamp) -> Event {
    let id = derive(&["replay", replay, event.id.as_str()], 16);
    Event::root(
        EventId(format!("replay-{id}")),
        event.name.clone(),
        event.fields.clone(),
        Source::Replay {
            event: event.id.to_string(),
            source: Box::new(event.source.clone()),
        },
        now,
    )
}
