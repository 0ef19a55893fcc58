//! `loopy runs logs`: what happened in the attempts of a run, while it happens or
//! afterwards.

use crate::named_run::{RunsError, found};
use crate::output::{Format, Terminal};
use crate::place::{Opened, Place, PlaceError};
use clap::Args;
use loopy_engine::run::Run;
use loopy_engine::transcript::TranscriptOf;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Characters of what is shown of an event.
const SHOWN: usize = 600;

/// Arguments of `loopy runs logs`.
#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// The run's id, as `loopy runs list` shows it
    id: String,
    /// Only this step's
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Only this attempt's
    #[arg(long, value_name = "NUMBER", requires = "step")]
    attempt: Option<u32>,
    /// Go on until the run is over
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

impl Logs {
    /// Shows them on stdout: a line each, or with JSON an object a line.
    pub(crate) async fn show(&self, terminal: Terminal) -> Result<(), RunsError> {
        let opened = self.place.open().await?;
        let mut run = found(&opened, &self.id).await?;
        self.check(&run)?;
        let mut read: BTreeMap<(String, u32), Part> = BTreeMap::new();
        loop {
            let over = run.status.is_over();
            let mut any = false;
            for (step, attempt) in self.attempts(&run) {
                let part = read.entry((step.clone(), attempt)).or_default();
                any |= self
                    .show_more(&opened, terminal, &run, step, attempt, part)
                    .await?;
            }
            if !self.follow || over {
                if !any && read.values().all(|part| part.offset == 0) {
                    terminal.say("nothing was written down in this run");
                }
                return Ok(());
            }
            tokio::time::sleep(opened.patience().1.max(LOOK)).await;
            run = found(&opened, &self.id).await?;
        }
    }

    /// Whether the run has what is asked for.
    fn check(&self, run: &Run) -> Result<(), RunsError> {
        let Some(step) = &self.step else {
            return Ok(());
        };
        if run.steps.contains_key(step) {
            return Ok(());
        }
        Err(RunsError::NoStep {
            run: run.id.clone(),
            step: step.clone(),
            known: run.steps.keys().cloned().collect(),
        })
    }

    /// The attempts to show, in the order in which they were handed off.
    fn attempts(&self, run: &Run) -> Vec<(String, u32)> {
        let mut attempts: Vec<_> = run
            .steps
            .iter()
            .filter(|(name, _)| self.step.as_ref().is_none_or(|step| step == *name))
            .flat_map(|(name, step)| step.attempts.iter().map(move |it| (it, name)))
            .filter(|(it, _)| self.attempt.is_none_or(|attempt| attempt == it.number))
            .map(|(it, name)| (it.queued_at, name.clone(), it.number))
            .collect();
        attempts.sort();
        attempts
            .into_iter()
            .map(|(_, name, number)| (name, number))
            .collect()
    }

    /// Shows what is new of an attempt; whether there was anything.
    async fn show_more(
        &self,
        opened: &Opened,
        terminal: Terminal,
        run: &Run,
        step: String,
        attempt: u32,
        part: &mut Part,
    ) -> Result<bool, RunsError> {
        let of = TranscriptOf {
            run: run.id.clone(),
            step,
            attempt,
        };
        let bytes = opened.transcript(&of, part.offset).await?;
        part.offset += bytes.len() as u64;
        part.rest.extend_from_slice(&bytes);
        let Some(end) = part.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(false);
        };
        let lines: Vec<u8> = part.rest.drain(..=end).collect();
        let mut shown = String::new();
        for line in lines.split(|byte| *byte == b'\n') {
            // What a part leaves out that never arrived are zeros.
            if let Ok(Value::Object(mut line)) = serde_json::from_slice(line) {
                line.insert("step".to_owned(), json!(of.step));
                line.insert("attempt".to_owned(), json!(of.attempt));
                let line = Value::Object(line);
                let said = if self.format.is_json() {
                    line.to_string()
                } else {
                    plain(&line)
                };
                shown.push_str(&said);
                shown.push('\n');
            }
        }
        terminal.data(&shown).map_err(PlaceError::Stdout)?;
        Ok(true)
    }
}

/// Between two looks at least.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

/// How far a transcript was read.
#[derive(Default)]
struct Part {
    offset: u64,
    /// The beginning of a line.
    rest: Vec<u8>,
}

/// A line for people: step and attempt, the seconds since the attempt's start, who
/// said it, what.
fn plain(line: &Value) -> String {
    let seconds = line["ms"].as_f64().unwrap_or_default() / 1e3;
    let step = line["step"].as_str().unwrap_or_default();
    let attempt = match line["attempt"].as_u64() {
        Some(1) | None => String::new(),
        Some(attempt) => format!("#{attempt}"),
    };
    let from = line["from"].as_str().unwrap_or_default();
    let said = match (&line["text"], &line["event"]) {
        (Value::String(text), _) => text.clone(),
        (_, event) => said(event),
    };
    let indented = said.replace('\n', "\n    ");
    format!("{step}{attempt} {seconds:.1}s {from}: {}", cut(&indented))
}

/// The words of an event, where it has any; else the event itself.
fn said(event: &Value) -> String {
    let mut words = Vec::new();
    gather(event, &mut words);
    let kind = event["type"].as_str().unwrap_or("event");
    match words.is_empty() {
        true => event.to_string(),
        false => format!("{kind}: {}", words.join(" ")),
    }
}

/// The members that hold what a model or a tool said, in every tool's format.
const WORDS: [&str; 9] = [
    "text",
    "message",
    "content",
    "command",
    "result",
    "input",
    "output",
    "aggregated_output",
    "error",
];

fn gather(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let (Some(name), Some(input)) = (members.get("name"), members.get("input")) {
                words.push(format!("{} {input}", name.as_str().unwrap_or_default()));
                return;
            }
            for (name, member) in members {
                match member {
                    Value::String(text) if WORDS.contains(&name.as_str()) => {
                        words.push(text.trim().to_owned());
                    }
                    Value::Object(_) | Value::Array(_) => gather(member, words),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, words)),
        _ => {}
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
