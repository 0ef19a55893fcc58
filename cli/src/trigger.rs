//! `loopy trigger`: one event by hand, and all that it sets off, to its end.

use crate::Outcome;
use crate::home::{self, Remote};
use crate::output::{Format, Terminal};
use crate::present::{self, Progress};
use crate::project::{self, NoProject, Project};
use clap::Args;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::Manifest;
use loopy_contract::report::FailureClass;
use loopy_engine::SubmitError;
use loopy_engine::ports::PortError;
use loopy_engine::record::{Decision, EventRecord};
use loopy_engine::run::{Run, RunStatus};
use loopy_local::DbError;
use loopy_local::{Cascade, FollowError, LocalHome, OpenError, State};
use serde_json::{Map, Value, json};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Arguments of `loopy trigger`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// The event, as registry.yml names it
    #[arg(long, value_name = "NAME")]
    event: String,
    /// A field of the event; may be given many times. A text is taken as it is,
    /// any other type as JSON
    #[arg(long = "field", value_name = "NAME=VALUE")]
    fields: Vec<String>,
    /// Fields of the event as one JSON object
    #[arg(long = "fields", value_name = "JSON")]
    object: Option<String>,
    #[command(flatten)]
    format: Format,
    /// Where to listen for the reports of steps; a free port of this machine
    /// unless sandboxes on other machines have to find it
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    remote: Remote,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TriggerError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// A field cannot be read.
    #[error("{option}: {why}")]
    Field {
        /// The option as given.
        option: String,
        /// What is wrong with it.
        why: String,
    },
    /// The event would start nothing.
    #[error("no workflow of this project starts on the event `{0}`")]
    Unheard(String),
    /// The event would start nothing in the process that serves.
    #[error(
        "no workflow starts on the event `{0}` in the process that serves this project; it serves \
         the project as it was before its last change"
    )]
    UnheardThere(String),
    /// The event is not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The project cannot be served.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The state of the process that serves cannot be read.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The state cannot be read any more.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The person had enough.
    #[error("interrupted; what has run is kept")]
    Interrupted,
    /// The process has no threads, signals or random numbers left, or lost its
    /// program.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl TriggerError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Open(error) => home::hint(error),
            Self::Field { .. } => Some("as in --field name=Ada or --field count=3".to_owned()),
            Self::Unheard(event) => Some(format!("a step with `on: {event}` starts one")),
            Self::UnheardThere(_) => Some("stop it, and start `loopy run` again".to_owned()),
            Self::Submit(SubmitError::Contract { .. }) => {
                Some("give each field with --field NAME=VALUE".to_owned())
            }
            Self::Interrupted => Some("`loopy run` goes on where it stopped".to_owned()),
            Self::Submit(_) | Self::Db(_) | Self::Port(_) | Self::Start(_) | Self::Stdout(_) => {
                None
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, TriggerError> {
    home::trace(*terminal, "warn,loopy_sensors=info");
    let Some(project) = project::load(&arguments.project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let event = event(arguments, &project.manifest)?;
    loopy_engine::check_event(&project.manifest, &event)?;
    if project.manifest.subscribers(&event.name).is_empty() {
        return Err(TriggerError::Unheard(event.name));
    }
    let runtime = home::runtime().map_err(TriggerError::Start)?;
    let (cascade, record) = runtime.block_on(async {
        let interrupted = home::interrupted().map_err(TriggerError::Start)?;
        tokio::select! {
            cascade = through(arguments, &project, &event, *terminal) => cascade,
            () = interrupted => Err(TriggerError::Interrupted),
        }
    })?;
    let text = if arguments.format.is_json() {
        present::document(&json!({
            "event": event,
            "outcomes": record.as_ref().map(|record| &record.outcomes),
            "runs": cascade.runs.iter().map(present::json).collect::<Vec<_>>(),
            "dead_letters": cascade.dead_letters.iter().map(present::dead_letter).collect::<Vec<_>>(),
        }))
    } else {
        let now = Timestamp::now();
        let runs = cascade.runs.iter().map(|run| present::outcome(run, now));
        runs.collect::<Vec<_>>().join("\n")
    };
    terminal.data(&text).map_err(TriggerError::Stdout)?;
    for letter in &cascade.dead_letters {
        terminal.say(&format!(
            "gave up a message of {}: {}",
            letter.queue, letter.reason
        ));
    }
    for run in &cascade.runs {
        if run.status == RunStatus::Parked {
            terminal.hint(&format!(
                "`loopy runs approve {}` has it go on, `deny` ends it",
                run.id
            ));
        }
    }
    Ok(outcome(&cascade, record.as_ref()))
}

/// Brings the event, and what it sets off, to the end: in this process, or in
/// the one that serves the project already.
async fn through(
    arguments: &Arguments,
    project: &Project,
    event: &Event,
    terminal: Terminal,
) -> Result<(Cascade, Option<EventRecord>), TriggerError> {
    let mut progress = Progress::default();
    let mut accepted = false;
    loop {
        let (listen, remote) = (arguments.listen, &arguments.remote);
        let options = home::options(&arguments.project, project, listen, remote)
            .map_err(TriggerError::Start)?;
        let error = match LocalHome::open(options).await {
            Ok(home) => {
                let state = home.state();
                let cascade = here(home, event, accepted, &mut progress, terminal).await?;
                return Ok((cascade, became(&state, event, terminal).await?));
            }
            Err(error) => error,
        };
        if !matches!(error, OpenError::Locked(_)) {
            return Err(error.into());
        }
        let state = State::open(&arguments.project)?;
        if !accepted {
            let served = state.manifest().await?;
            if served.subscribers(&event.name).is_empty() {
                return Err(TriggerError::UnheardThere(event.name.clone()));
            }
            if served.hash != project.manifest.hash {
                terminal.say(
                    "another process serves this project, as it was before its last change; \
                     handing it the event",
                );
            } else {
                terminal.say("another process serves this project; handing it the event");
            }
            state.submit(event).await?;
            accepted = true;
        }
        let show = |cascade: &Cascade| show(cascade, &mut progress, terminal);
        match state.follow(&event.cascade, show).await {
            Ok(cascade) => return Ok((cascade, became(&state, event, terminal).await?)),
            Err(FollowError::Unserved) => terminal.say("that process is gone; going on here"),
            Err(FollowError::Port(error)) => return Err(error.into()),
        }
    }
}

/// What became of the event; said where it started nothing.
async fn became(
    state: &State,
    event: &Event,
    terminal: Terminal,
) -> Result<Option<EventRecord>, TriggerError> {
    let record = state.event(&event.id).await?;
    let outcomes = record.iter().flat_map(|record| &record.outcomes);
    for (workflow, outcome) in outcomes {
        let decision = &outcome.decision;
        if !matches!(decision, Decision::Started { .. }) {
            let name = decision.name();
            terminal.say(&format!(
                "{workflow}  event {name}: {}",
                decision.sentence()
            ));
        }
    }
    Ok(record)
}

/// Drives the project in this process until the event's cascade, and those that
/// another process left behind, are over.
async fn here(
    home: LocalHome,
    event: &Event,
    accepted: bool,
    progress: &mut Progress,
    terminal: Terminal,
) -> Result<Cascade, TriggerError> {
    let state = home.state();
    let before = state.unfinished().await?;
    if !accepted {
        home.submit(event).await?;
    }
    let follow = async {
        for id in before.iter().filter(|id| **id != event.cascade) {
            terminal.say(&format!("going on with what {id} set off before"));
            let show = |cascade: &Cascade| show(cascade, progress, terminal);
            state.follow(id, show).await?;
        }
        let show = |cascade: &Cascade| show(cascade, progress, terminal);
        state.follow(&event.cascade, show).await
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = home.serve(async {
        // An error means that the other end is gone, which is a stop too.
        let _ = stopped.await;
    });
    let follow = async {
        let followed = follow.await;
        // Nobody listens only when serving has ended already.
        let _ = stop.send(());
        followed
    };
    let ((), followed) = tokio::join!(serve, follow);
    match followed {
        Ok(cascade) => Ok(cascade),
        Err(FollowError::Unserved) => Err(TriggerError::Interrupted),
        Err(FollowError::Port(error)) => Err(error.into()),
    }
}

fn show(cascade: &Cascade, progress: &mut Progress, terminal: Terminal) {
    for run in &cascade.runs {
        for line in progress.lines(run) {
            terminal.say(&line);
        }
    }
}

/// How the command ends: as the run that has most to tell. A budget tells more
/// than a failure, and a failure more than a person.
fn outcome(cascade: &Cascade, record: Option<&EventRecord>) -> Outcome {
    let refused = record
        .iter()
        .flat_map(|record| record.outcomes.values())
        .any(|outcome| matches!(outcome.decision, Decision::Refused { .. }));
    let mut outcomes: Vec<Outcome> = cascade.runs.iter().map(of_run).collect();
    if refused {
        outcomes.push(Outcome::OverBudget);
    }
    if !cascade.dead_letters.is_empty() {
        outcomes.push(Outcome::RunFailed);
    }
    [
        Outcome::OverBudget,
        Outcome::NoProgress,
        Outcome::RunFailed,
        Outcome::Denied,
        Outcome::Parked,
    ]
    .into_iter()
    .find(|outcome| outcomes.contains(outcome))
    .unwrap_or(Outcome::Fine)
}

/// What one run has to tell.
fn of_run(run: &Run) -> Outcome {
    match &run.status {
        RunStatus::Failed { failure, .. } => match failure.class {
            FailureClass::Budget => Outcome::OverBudget,
            FailureClass::NoProgress => Outcome::NoProgress,
            _ => Outcome::RunFailed,
        },
        RunStatus::Cancelled { .. } => Outcome::RunFailed,
        RunStatus::Denied { .. } => Outcome::Denied,
        RunStatus::Parked | RunStatus::Paused => Outcome::Parked,
        RunStatus::Running | RunStatus::Succeeded => Outcome::Fine,
    }
}

/// The event that the arguments describe, under an id of its own.
fn event(arguments: &Arguments, manifest: &Manifest) -> Result<Event, TriggerError> {
    let mut id = [0_u8; 12];
    getrandom::fill(&mut id).map_err(|why| TriggerError::Start(io::Error::other(why)))?;
    Ok(Event::root(
        EventId(format!("hand-{}", hex::encode(id))),
        arguments.event.clone(),
        fields(arguments, manifest)?,
        Source::Hand,
        Timestamp::now(),
    ))
}

fn fields(arguments: &Arguments, manifest: &Manifest) -> Result<Map<String, Value>, TriggerError> {
    let mut fields = match &arguments.object {
        None => Map::new(),
        Some(text) => serde_json::from_str(text).map_err(|why| TriggerError::Field {
            option: format!("--fields {text}"),
            why: format!("not a JSON object: {why}"),
        })?,
    };
    let contract = manifest.registry.events.get(&arguments.event);
    for option in &arguments.fields {
        let wrong = |why: String| TriggerError::Field {
            option: format!("--field {option}"),
            why,
        };
        let Some((name, text)) = option.split_once('=') else {
            return Err(wrong("a name, `=` and a value are wanted".to_owned()));
        };
        let schema = contract.and_then(|contract| contract.fields.get(name));
        let is_text = schema.is_none_or(|schema| schema["type"] == "string");
        let value = if is_text {
            Value::String(text.to_owned())
        } else {
            serde_json::from_str(text).map_err(|why| wrong(format!("not JSON: {why}")))?
        };
        if fields.insert(name.to_owned(), value).is_some() {
            return Err(wrong(format!("the field `{name}` is given twice")));
        }
    }
    Ok(fields)
}
