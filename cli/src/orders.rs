//! What people ask of a run: to end, to wait, to go on, to be gone over again.
//!
//! What is asked for is put into a queue, and is durable then. Whoever drives the
//! project takes it; this waits a while to see what became of it. Where nothing
//! drives the project, it is taken when something does, and that is said.

use crate::Outcome;
use crate::named_run::{RunsError, found};
use crate::output::{Format, Terminal};
use crate::place::{Opened, Place, PlaceError};
use crate::present;
use clap::Args;
use loopy_contract::ids::RunId;
use loopy_engine::message::{Again, Message};
use loopy_engine::ports::PortError;
use loopy_engine::run::{Run, StepState};
use loopy_engine::transition::{Command, Edits, Order};
use serde_json::{Map, Value, json};
use std::io;
use tokio::time::{Instant, sleep};

/// Which run, and how to go about it.
#[derive(Args, Debug)]
struct Target {
    /// The run's id, as `loopy runs list` shows it
    #[arg(value_name = "RUN")]
    id: String,
    #[command(flatten)]
    place: Place,
    /// Who asks, as the run's history names it; USER when absent
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Do not wait to see what becomes of it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    format: Format,
}

/// Arguments of `loopy runs cancel`.
#[derive(Args, Debug)]
pub(crate) struct Cancel {
    #[command(flatten)]
    target: Target,
    /// Why, for the run's history
    #[arg(long, value_name = "TEXT", default_value = "")]
    because: String,
}

/// Arguments of `loopy runs pause` and `loopy runs resume`.
#[derive(Args, Debug)]
pub(crate) struct Plain {
    #[command(flatten)]
    target: Target,
}

/// Arguments of `loopy runs approve` and `loopy runs deny`.
#[derive(Args, Debug)]
pub(crate) struct Answered {
    #[command(flatten)]
    target: Target,
    /// The step that asks; may be left out when only one does
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
}

/// Arguments of `loopy runs rerun`.
#[derive(Args, Debug)]
pub(crate) struct Rerun {
    #[command(flatten)]
    target: Target,
    /// With the project as it is now, not as the run knew it
    #[arg(long)]
    latest: bool,
}

/// Arguments of `loopy runs fork`.
#[derive(Args, Debug)]
pub(crate) struct Fork {
    #[command(flatten)]
    target: Target,
    /// The step to begin at; what came before it is taken over
    #[arg(long, value_name = "STEP")]
    from: String,
    /// A field of the event in place of what it was; may be given many times. A
    /// text stays one, any other value is JSON
    #[arg(long = "field", value_name = "event.NAME=VALUE")]
    fields: Vec<String>,
    /// A field that an earlier step put out, in place of what it was; may be
    /// given many times
    #[arg(long = "set", value_name = "STEP.NAME=VALUE")]
    outputs: Vec<String>,
    /// With the project as it is now, not as the run knew it
    #[arg(long)]
    latest: bool,
}

impl Cancel {
    /// Asks, and tells what became of it.
    pub(crate) async fn give(&self, terminal: Terminal) -> Result<Outcome, RunsError> {
        let because = self.because.clone();
        self.target.give(Order::Cancel { because }, terminal).await
    }
}

impl Plain {
    /// Asks, and tells what became of it.
    pub(crate) async fn pause(&self, terminal: Terminal) -> Result<Outcome, RunsError> {
        self.target.give(Order::Pause, terminal).await
    }

    /// Asks, and tells what became of it.
    pub(crate) async fn resume(&self, terminal: Terminal) -> Result<Outcome, RunsError> {
        self.target.give(Order::Resume, terminal).await
    }
}

impl Answered {
    /// Asks, and tells what became of it.
    pub(crate) async fn give(
        &self,
        approve: bool,
        terminal: Terminal,
    ) -> Result<Outcome, RunsError> {
        let step = self.step.clone();
        let order = Order::Answer { step, approve };
        self.target.give(order, terminal).await
    }
}

impl Rerun {
    /// Asks, and tells what became of it.
    pub(crate) async fn give(&self, terminal: Terminal) -> Result<Outcome, RunsError> {
        let opened = self.target.place.open().await?;
        let run = found(&opened, &self.target.id).await?;
        let again = (None, Edits::default(), self.latest);
        self.target.again(&opened, &run, again, terminal).await
    }
}

impl Fork {
    /// Asks, and tells what became of it.
    pub(crate) async fn give(&self, terminal: Terminal) -> Result<Outcome, RunsError> {
        let opened = self.target.place.open().await?;
        let run = found(&opened, &self.target.id).await?;
        // The newest project may have steps that the run knows nothing of.
        if !self.latest {
            known(&run, &self.from)?;
        }
        let edits = self.edits(&run)?;
        let again = (Some(self.from.clone()), edits, self.latest);
        self.target.again(&opened, &run, again, terminal).await
    }

    fn edits(&self, run: &Run) -> Result<Edits, RunsError> {
        let mut edits = Edits::default();
        for option in &self.fields {
            let wrong = |why: &str| RunsError::Edit {
                option: format!("--field {option}"),
                why: why.to_owned(),
            };
            let (name, text) = option
                .strip_prefix("event.")
                .and_then(|option| option.split_once('='))
                .ok_or_else(|| wrong("`event.`, a name, `=` and a value are wanted"))?;
            let value = value(run.event.fields.get(name), text).map_err(|why| wrong(&why))?;
            edits.event.insert(name.to_owned(), value);
        }
        for option in &self.outputs {
            let wrong = |why: &str| RunsError::Edit {
                option: format!("--set {option}"),
                why: why.to_owned(),
            };
            let (place, text) = option
                .split_once('=')
                .ok_or_else(|| wrong("a step, `.`, a name, `=` and a value are wanted"))?;
            // A field's name has no dot; a step's may have.
            let (step, name) = place
                .rsplit_once('.')
                .ok_or_else(|| wrong("a step, `.`, a name, `=` and a value are wanted"))?;
            if !self.latest {
                known(run, step)?;
            }
            let before = match run.steps.get(step).map(|step| &step.state) {
                Some(StepState::Succeeded { output }) => output.get(name),
                _ => None,
            };
            let value = value(before, text).map_err(|why| wrong(&why))?;
            let fields: &mut Map<String, Value> = edits.outputs.entry(step.to_owned()).or_default();
            fields.insert(name.to_owned(), value);
        }
        Ok(edits)
    }
}

fn known(run: &Run, step: &str) -> Result<(), RunsError> {
    if run.steps.contains_key(step) {
        return Ok(());
    }
    Err(RunsError::NoStep {
        run: run.id.clone(),
        step: step.to_owned(),
        known: run.steps.keys().cloned().collect(),
    })
}

/// A value as it was given, for a field that was `before`: where that is a text
/// it is taken as it is, else it is JSON. Where nothing was, it is JSON if it can
/// be read as such.
fn value(before: Option<&Value>, text: &str) -> Result<Value, String> {
    match (before, serde_json::from_str(text)) {
        (Some(Value::String(_)), _) => Ok(Value::String(text.to_owned())),
        (_, Ok(value)) => Ok(value),
        (None | Some(Value::Null), Err(_)) => Ok(Value::String(text.to_owned())),
        (Some(_), Err(why)) => Err(format!("not JSON: {why}")),
    }
}

/// What became of what was asked.
enum Fate {
    /// It was done; the run it shows in.
    Taken(Box<Run>),
    /// It was looked at and not done.
    Refused(String),
    /// It waits to be looked at.
    Waits,
}

impl Target {
    async fn give(&self, order: Order, terminal: Terminal) -> Result<Outcome, RunsError> {
        let opened = self.place.open().await?;
        let run = found(&opened, &self.id).await?;
        let command = Command {
            id: command_id()?,
            by: self.by(),
            order,
        };
        let message = Message::Command {
            run: run.id.clone(),
            command: command.clone(),
        };
        opened.send(&message).await?;
        let taken = async || -> Result<Option<Fate>, RunsError> {
            let now = found(&opened, &self.id).await?;
            if !now.commands.contains(&command.id) {
                return Ok(None);
            }
            let mut lines = now.history.iter();
            let refused = lines
                .find(|line| line.command.as_deref() == Some(&command.id))
                .map(
                    |line| match line.note.strip_prefix(&format!("{}: ", command.by)) {
                        Some(why) => why.to_owned(),
                        None => line.note.clone(),
                    },
                );
            Ok(Some(match refused {
                Some(why) => Fate::Refused(why),
                None => Fate::Taken(Box::new(now)),
            }))
        };
        let fate = self.wait(&opened, taken).await?;
        self.tell(&opened, &command.id, &run.id, fate, terminal)
    }

    /// Has a run gone over again.
    async fn again(
        &self,
        opened: &Opened,
        run: &Run,
        (from, edits, latest): (Option<String>, Edits, bool),
        terminal: Terminal,
    ) -> Result<Outcome, RunsError> {
        let command = command_id()?;
        let id = RunId::again(&run.workflow, &run.id, &command);
        let message = Message::Again(Again {
            id: id.clone(),
            original: run.id.clone(),
            from,
            edits,
            latest,
            by: self.by(),
        });
        opened.send(&message).await?;
        let mut looks = 0_u32;
        let taken = async || -> Result<Option<Fate>, RunsError> {
            if let Some(run) = opened.run(&id).await? {
                return Ok(Some(Fate::Taken(Box::new(run))));
            }
            // What cannot be done is given up, with the reason. Looking for that
            // takes its time where letters lie in a queue.
            looks += 1;
            if !looks.is_multiple_of(8) {
                return Ok(None);
            }
            let letters = opened.dead_letters().await?;
            let letter = letters.into_iter().find(|it| it.is_about(id.as_str()));
            Ok(letter.map(|letter| Fate::Refused(letter.reason)))
        };
        let fate = self.wait(opened, taken).await?;
        self.tell(opened, &command, &id, fate, terminal)
    }

    /// Looks until there is something to see, for as long as it is worth it.
    async fn wait(
        &self,
        opened: &Opened,
        mut look: impl AsyncFnMut() -> Result<Option<Fate>, RunsError>,
    ) -> Result<Fate, RunsError> {
        if self.no_wait {
            return Ok(Fate::Waits);
        }
        let (patience, pause) = opened.patience();
        let begun = Instant::now();
        while opened.is_served()? && begun.elapsed() < patience {
            if let Some(fate) = look().await? {
                return Ok(fate);
            }
            sleep(pause).await;
        }
        Ok(Fate::Waits)
    }

    /// Says what became of it; `run` is the one to look at for it.
    fn tell(
        &self,
        opened: &Opened,
        command: &str,
        run: &RunId,
        fate: Fate,
        terminal: Terminal,
    ) -> Result<Outcome, RunsError> {
        let json = |state: &str, status: Option<&str>, refused: Option<&str>| {
            present::document(&json!({
                "run": run,
                "command": command,
                "state": state,
                "status": status,
                "refused": refused,
            }))
        };
        let is_json = self.format.is_json();
        let (text, outcome) = match &fate {
            Fate::Taken(now) if is_json => {
                let status = now.status.name();
                (json("taken", Some(status), None), Outcome::Fine)
            }
            Fate::Taken(now) => {
                let text = format!("{}  {}\n", now.id, now.status.name());
                (text, Outcome::Fine)
            }
            Fate::Refused(why) => {
                terminal.error(&format!("not done: {why}"), None);
                let text = if is_json {
                    json("refused", None, Some(why))
                } else {
                    String::new()
                };
                (text, Outcome::Refused)
            }
            Fate::Waits => {
                self.tell_waiting(opened, run, terminal)?;
                let text = if is_json {
                    json("waiting", None, None)
                } else {
                    format!("{run}\n")
                };
                (text, Outcome::Fine)
            }
        };
        terminal.data(&text).map_err(PlaceError::Stdout)?;
        Ok(outcome)
    }

    fn tell_waiting(
        &self,
        opened: &Opened,
        run: &RunId,
        terminal: Terminal,
    ) -> Result<(), PortError> {
        if !opened.is_served()? {
            terminal.say("nothing serves this project; what was asked waits until something does");
            terminal.hint("`loopy run` serves it");
        } else if !self.no_wait {
            terminal.say("not taken yet; what was asked waits in its queue");
            terminal.hint(&format!("`loopy runs show {run}` tells what became of it"));
        }
        Ok(())
    }

    fn by(&self) -> String {
        let user = || std::env::var("USER").ok().filter(|name| !name.is_empty());
        let by = self.by.clone().or_else(user);
        by.unwrap_or_else(|| "a person".to_owned())
    }
}

/// An id that no other command has.
fn command_id() -> Result<String, RunsError> {
    let mut id = [0_u8; 12];
    getrandom::fill(&mut id).map_err(|why| PlaceError::Start(io::Error::other(why)))?;
    Ok(format!("hand-{}", hex::encode(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_type_of_what_it_takes_the_place_of() {
        let text = json!("x");
        assert_eq!(value(Some(&text), "12"), Ok(json!("12")));
        assert_eq!(value(Some(&json!(1)), "12"), Ok(json!(12)));
        assert_eq!(value(Some(&json!([1])), r#"["a"]"#), Ok(json!(["a"])));
        assert!(value(Some(&json!(true)), "yes").is_err());
        assert_eq!(value(None, "yes"), Ok(json!("yes")));
        assert_eq!(value(None, "12"), Ok(json!(12)));
        assert_eq!(value(None, r#""12""#), Ok(json!("12")));
    }
}
