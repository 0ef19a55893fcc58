//! How runs look: as a table, as a story, and as JSON for machines.

use jiff::Timestamp;
use loopy_contract::event::Source;
use loopy_contract::ids::RunId;
use loopy_engine::run::{
    Attempt, HistoryLine, Run, RunStatus, RunSummary, StepRun, StepState, Unit,
};
use loopy_local::queue::DeadLetter;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A listing for people, newest first; columns are as wide as they need to be.
pub(crate) fn table(runs: &[RunSummary], now: Timestamp) -> String {
    let header = ["RUN", "STATUS", "EVENT", "STARTED", "TOOK", "COST"];
    let rows = runs.iter().map(|run| {
        vec![
            run.id.to_string(),
            run.status.clone(),
            run.event.clone(),
            second(run.created_at),
            took(run.created_at, run.ended_at.unwrap_or(now)),
            dollars(run.cost_usd),
        ]
    });
    columns(&header, rows)
}

/// Rows below a header, with columns as wide as they need to be.
pub(crate) fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What came of a run, for people: where it stands and what each step put out.
pub(crate) fn outcome(run: &Run, now: Timestamp) -> String {
    let ended = run.ended_at.unwrap_or(now);
    let took = took(run.created_at, ended);
    let cost = dollars(run.cost_usd());
    let mut text = format!("{}  {}  {took}  {cost}\n", run.id, run.status.name());
    match &run.status {
        RunStatus::Failed { step, failure } => {
            let class = failure.class.name();
            text.push_str(&format!("  {step} failed ({class}): {}\n", failure.message));
        }
        RunStatus::Cancelled { because } => text.push_str(&format!("  {because}\n")),
        RunStatus::Denied { step, because } => {
            text.push_str(&format!("  {step} was denied: {because}\n"));
        }
        RunStatus::Running | RunStatus::Parked | RunStatus::Paused | RunStatus::Succeeded => {}
    }
    for (name, step) in &run.steps {
        text.push_str(&format!("  {name}: {}", standing(step)));
        let usages = step
            .attempts
            .iter()
            .filter_map(|attempt| attempt.usage.as_ref());
        for usage in usages {
            if let Some(usd) = usage.usd.filter(|usd| *usd > 0.0) {
                let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
                text.push_str(&format!(", {}, {tokens} tokens", dollars(usd)));
            }
        }
        text.push('\n');
        if let StepState::Succeeded { output } = &step.state {
            text.push_str(&fields(output));
        }
    }
    text
}

/// A line for each field that a step put out; of a step with `each`, with the
/// item's number before it.
fn fields(output: &Value) -> String {
    let lines = |before: &str, output: &Value| -> String {
        let fields = output.as_object().into_iter().flatten();
        fields
            .map(|(field, value)| format!("    {before}{field} = {value}\n"))
            .collect()
    };
    match output {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| lines(&format!("[{index}] "), item))
            .collect(),
        other => lines("", other),
    }
}

/// Where a step stands, in a few words.
fn standing(step: &StepRun) -> String {
    let mut text = step.state.name().to_owned();
    if step.iteration > 1 {
        text.push_str(&format!(", round {}", step.iteration));
    }
    match &step.state {
        StepState::Skipped { because } | StepState::Cancelled { because } => {
            text.push_str(&format!(" ({because})"));
        }
        StepState::AskingBefore { until } => {
            text.push_str(&asking("whether it may start", *until));
        }
        StepState::AskingAfter { until, .. } => {
            text.push_str(&asking("whether its output counts", *until));
        }
        StepState::Working { units } => match units.as_slice() {
            [unit] => text.push_str(&piece(unit)),
            units => text.push_str(&pieces(units)),
        },
        StepState::Waiting | StepState::Succeeded { .. } | StepState::Failed { .. } => {}
    }
    text
}

fn asking(what: &str, until: Option<Timestamp>) -> String {
    match until {
        None => format!(" {what}"),
        Some(at) => format!(" {what}, until {}", second(at)),
    }
}

/// What there is to say of a step's only piece of work, beside its name.
fn piece(unit: &Unit) -> String {
    match unit {
        Unit::Resting { attempt, until } => {
            format!(" until {}, then attempt {attempt}", second(*until))
        }
        Unit::Throttled { since, .. } => format!(" since {}", second(*since)),
        Unit::Queued { attempt } | Unit::Running { attempt } if *attempt > 1 => {
            format!(", attempt {attempt}")
        }
        Unit::Idle | Unit::Queued { .. } | Unit::Running { .. } | Unit::Succeeded { .. } => {
            String::new()
        }
    }
}

/// How many pieces of a step's work are how far.
fn pieces(units: &[Unit]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for unit in units {
        *counts.entry(unit_name(unit)).or_default() += 1;
    }
    let counts = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect::<Vec<_>>();
    format!(" ({} items: {})", units.len(), counts.join(", "))
}

fn unit_name(unit: &Unit) -> &'static str {
    match unit {
        Unit::Idle => "idle",
        Unit::Queued { .. } => "queued",
        Unit::Resting { .. } => "resting",
        Unit::Throttled { .. } => "throttled",
        Unit::Running { .. } => "running",
        Unit::Succeeded { .. } => "succeeded",
    }
}

/// One run for people: what came of it, why it began, and all that happened.
pub(crate) fn story(run: &Run, now: Timestamp) -> String {
    let event = &run.event;
    let mut text = outcome(run, now);
    text.push_str(&format!("event     {} ({})\n", event.name, event.id));
    text.push_str(&format!("from      {}\n", origin(&event.source)));
    if let Some(origin) = &run.origin {
        let from = origin.from.as_ref();
        let from = from.map_or_else(String::new, |step| format!(", from step {step}"));
        text.push_str(&format!("again     {}{from}\n", origin.run));
    }
    text.push_str(&format!(
        "cascade   {}, depth {}\n",
        event.cascade, event.depth
    ));
    text.push_str(&format!("manifest  {}\n", run.manifest));
    text.push_str("history\n");
    let steps = run.steps.keys().map(String::len).max().unwrap_or(0);
    for line in &run.history {
        let at = line.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let step = line.step.as_deref().unwrap_or_default();
        text.push_str(&format!(
            "  {at}  {step:steps$}  {}\n",
            happening(run, line)
        ));
    }
    text
}

/// Who made an event.
pub(crate) fn origin(source: &Source) -> String {
    match source {
        Source::Sensor { sensor, delivery } => format!("sensor {sensor}, delivery {delivery}"),
        Source::Step { run, step } => format!("step {step} of run {run}"),
        Source::Cron { step } => format!("the schedule of step {step}"),
        Source::Hand => "a person".to_owned(),
        Source::Replay { event, source } => {
            format!("a replay of {event}, which was from {}", origin(source))
        }
    }
}

/// What one line of history says, without its step.
fn happening(run: &Run, line: &HistoryLine) -> String {
    let mut text = line.kind.replace('_', " ");
    if let Some(number) = line.attempt {
        let step = line.step.as_deref().unwrap_or_default();
        text.push_str(&place(number, run.attempt(step, number)));
    }
    if !line.note.is_empty() {
        text.push_str(&format!(": {}", line.note));
    }
    text
}

/// Which attempt it is, of which round and item, as far as that is not plain.
fn place(number: u32, attempt: Option<&Attempt>) -> String {
    let mut text = String::new();
    let (round, item) = attempt.map_or((1, None), |it| (it.iteration, it.item));
    if round > 1 {
        text.push_str(&format!(", round {round}"));
    }
    if let Some(item) = item {
        text.push_str(&format!(", item {item}"));
    }
    if number > 1 {
        text.push_str(&format!(", attempt {number}"));
    }
    text
}

/// One run for machines.
pub(crate) fn json(run: &Run) -> Value {
    let steps: Map<String, Value> = run
        .steps
        .iter()
        .map(|(name, step)| (name.clone(), json_step(step)))
        .collect();
    let mut shown = json!({
        "id": run.id,
        "workflow": run.workflow,
        "status": run.status.name(),
        "failure": null,
        "event": run.event,
        "origin": run.origin,
        "manifest": run.manifest,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "cost_usd": run.cost_usd(),
        "steps": steps,
        "history": run.history,
    });
    match &run.status {
        RunStatus::Failed { step, failure } => {
            shown["failure"] =
                json!({ "step": step, "class": failure.class, "message": failure.message });
        }
        RunStatus::Cancelled { because } => shown["because"] = json!(because),
        RunStatus::Denied { step, because } => {
            shown["because"] = json!(because);
            shown["denied"] = json!(step);
        }
        RunStatus::Running | RunStatus::Parked | RunStatus::Paused | RunStatus::Succeeded => {}
    }
    shown
}

fn json_step(step: &StepRun) -> Value {
    let mut shown = json!({
        "state": step.state.name(),
        "iteration": step.iteration,
        "attempts": step.attempts,
    });
    if let Some(files) = &step.files {
        shown["files"] = json!(files);
    }
    match &step.state {
        StepState::Succeeded { output } => shown["output"] = output.clone(),
        StepState::Failed { failure } => shown["failure"] = json!(failure),
        StepState::Skipped { because } | StepState::Cancelled { because } => {
            shown["because"] = json!(because);
        }
        StepState::Working { units } => shown["units"] = json!(units),
        StepState::AskingBefore { until } => {
            shown["asks"] = json!("before");
            shown["until"] = json!(until);
        }
        StepState::AskingAfter { until, units } => {
            shown["asks"] = json!("after");
            shown["until"] = json!(until);
            shown["units"] = json!(units);
        }
        StepState::Waiting => {}
    }
    shown
}

/// One run of a listing, for machines.
pub(crate) fn listed(run: &RunSummary) -> Value {
    json!(run)
}

/// A message that was given up, for machines.
pub(crate) fn dead_letter(letter: &DeadLetter) -> Value {
    json!(letter)
}

/// A JSON document with a newline at its end.
pub(crate) fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What of some runs' histories has been shown.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: BTreeMap<RunId, usize>,
}

impl Progress {
    /// A line for each thing that is new in the run's history.
    pub(crate) fn lines(&mut self, run: &Run) -> Vec<String> {
        let shown = self.shown.entry(run.id.clone()).or_default();
        let new = run.history.iter().skip(*shown);
        let lines = new
            .map(|line| match &line.step {
                Some(step) => format!("{}/{step}  {}", run.id, happening(run, line)),
                None => format!("{}  {}", run.id, happening(run, line)),
            })
            .collect();
        *shown = run.history.len();
        lines
    }
}

fn dollars(usd: f64) -> String {
    format!("${usd:.4}")
}

/// The second in which it was; rounding would put it into the future.
pub(crate) fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn took(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.duration_since(from).as_millis().max(0);
    if milliseconds < 60_000 {
        #[expect(clippy::cast_precision_loss, reason = "below 60 000")]
        let seconds = milliseconds as f64 / 1000.0;
        return format!("{seconds:.1}s");
    }
    let seconds = milliseconds / 1000;
    if seconds < 3600 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60)
    }
}
