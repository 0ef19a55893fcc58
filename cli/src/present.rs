//! How runs look: as a table, as a story, and as JSON for machines.

use jiff::Timestamp;
use loopy_contract::event::Source;
use loopy_contract::ids::RunId;
use loopy_engine::run::{HistoryLine, Run, RunStatus, RunSummary, StepState};
use loopy_local::queue::DeadLetter;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A listing for people, newest first; columns are as wide as they need to be.
pub(crate) fn table(runs: &[RunSummary], now: Timestamp) -> String {
    let header = ["RUN", "STATUS", "EVENT", "STARTED", "TOOK", "COST"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for run in runs {
        rows.push(vec![
            run.id.to_string(),
            run.status.clone(),
            run.event.clone(),
            second(run.created_at),
            took(run.created_at, run.ended_at.unwrap_or(now)),
            dollars(run.cost_usd),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| Some(row.get(column)?.len()))
            .max()
    };
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
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
    if let RunStatus::Failed { step, failure } = &run.status {
        let class = failure.class.name();
        text.push_str(&format!("  {step} failed ({class}): {}\n", failure.message));
    }
    for (name, step) in &run.steps {
        text.push_str(&format!("  {name}: {}", step.state.name()));
        if let StepState::Skipped { because } = &step.state {
            text.push_str(&format!(" ({because})"));
        }
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
        if let StepState::Succeeded { output, .. } = &step.state {
            for (field, value) in output {
                text.push_str(&format!("    {field} = {value}\n"));
            }
        }
    }
    text
}

/// One run for people: what came of it, why it began, and all that happened.
pub(crate) fn story(run: &Run, now: Timestamp) -> String {
    let event = &run.event;
    let mut text = outcome(run, now);
    text.push_str(&format!("event     {} ({})\n", event.name, event.id));
    text.push_str(&format!("from      {}\n", origin(&event.source)));
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
        text.push_str(&format!("  {at}  {step:steps$}  {}\n", happening(line)));
    }
    text
}

/// Who made an event.
fn origin(source: &Source) -> String {
    match source {
        Source::Sensor { sensor, delivery } => format!("sensor {sensor}, delivery {delivery}"),
        Source::Step { run, step } => format!("step {step} of run {run}"),
        Source::Cron { step } => format!("the schedule of step {step}"),
        Source::Hand => "a person".to_owned(),
    }
}

/// What one line of history says, without its step.
fn happening(line: &HistoryLine) -> String {
    let mut text = line.kind.replace('_', " ");
    if let Some(attempt) = line.attempt.filter(|attempt| *attempt > 1) {
        text.push_str(&format!(", attempt {attempt}"));
    }
    if !line.note.is_empty() {
        text.push_str(&format!(": {}", line.note));
    }
    text
}

/// One run for machines.
pub(crate) fn json(run: &Run) -> Value {
    let steps: Map<String, Value> = run
        .steps
        .iter()
        .map(|(name, step)| {
            let mut shown = json!({ "state": step.state.name(), "attempts": step.attempts });
            match &step.state {
                StepState::Succeeded { output, .. } => shown["output"] = json!(output),
                StepState::Failed { failure } => shown["failure"] = json!(failure),
                StepState::Skipped { because } => shown["because"] = json!(because),
                StepState::Waiting
                | StepState::Queued { .. }
                | StepState::Launching { .. }
                | StepState::Running { .. } => {}
            }
            (name.clone(), shown)
        })
        .collect();
    let failure = match &run.status {
        RunStatus::Failed { step, failure } => {
            json!({ "step": step, "class": failure.class, "message": failure.message })
        }
        RunStatus::Running | RunStatus::Succeeded => Value::Null,
    };
    json!({
        "id": run.id,
        "workflow": run.workflow,
        "status": run.status.name(),
        "failure": failure,
        "event": run.event,
        "manifest": run.manifest,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "cost_usd": run.cost_usd(),
        "steps": steps,
        "history": run.history,
    })
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
                Some(step) => format!("{}/{step}  {}", run.id, happening(line)),
                None => format!("{}  {}", run.id, happening(line)),
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
fn second(at: Timestamp) -> String {
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
