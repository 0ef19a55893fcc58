//! `loopy cost`: what a project will cost in an AWS account, before it is there.

use crate::Outcome;
use crate::emit::{Arch, has_sensor_env};
use crate::output::{Format, Terminal};
use crate::present::{columns, document};
use crate::project::{self, NoProject};
use clap::{Args, Subcommand};
use loopy_compiler::did_you_mean;
use loopy_infra::cost::{Estimate, EstimateError, Line, Load, WorkflowCost, estimate};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// Arguments of `loopy cost`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    topic: Topic,
}

/// What is to be known of costs.
#[derive(Debug, Subcommand)]
enum Topic {
    /// What a month will cost by list prices, without what models take
    Estimate(EstimateArguments),
}

/// Arguments of `loopy cost estimate`.
#[derive(Args, Debug)]
struct EstimateArguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// How many events come from outside in a day, shared evenly by those that
    /// workflows start on
    #[arg(long, value_name = "N", value_parser = amount, allow_negative_numbers = true)]
    events_per_day: Option<f64>,
    /// How many of one event come in a day; may be given many times
    #[arg(long = "event", value_name = "NAME=N", value_parser = named)]
    events: Vec<(String, f64)>,
    /// How many minutes an attempt of a step works
    #[arg(
        long, value_name = "M", default_value_t = Load::default().step_minutes,
        value_parser = amount, allow_negative_numbers = true
    )]
    step_minutes: f64,
    /// How many items each list has that a step with `each` goes over
    #[arg(
        long, value_name = "N", default_value_t = Load::default().items,
        allow_negative_numbers = true
    )]
    items: u32,
    /// What functions and tasks run on [default: x86_64]
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Count the alarms of a stack that has been told whom to tell
    #[arg(long)]
    alarms: bool,
    #[command(flatten)]
    format: Format,
}

/// An amount that can be.
fn amount(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) => Err("it has to be 0 or more".to_owned()),
        Err(_) => Err("it is no number".to_owned()),
    }
}

fn named(text: &str) -> Result<(String, f64), String> {
    let (name, number) = text.split_once('=').ok_or("write NAME=N")?;
    Ok((name.to_owned(), amount(number)?))
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CostError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// There is no estimate.
    #[error(transparent)]
    Estimate(#[from] EstimateError),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl CostError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Estimate(EstimateError::UnknownEvent { name, known }) => {
                let listed = match known.as_slice() {
                    [] => "it has none".to_owned(),
                    known => format!("it has {}", known.join(", ")),
                };
                let asked = did_you_mean(name, known.iter().map(String::as_str));
                Some(asked.unwrap_or(listed))
            }
            Self::Estimate(EstimateError::NoLoad { .. }) => {
                Some("pass --events-per-day N, or --event NAME=N for each".to_owned())
            }
            Self::Estimate(EstimateError::NothingToShare) => {
                Some("leave --events-per-day out".to_owned())
            }
            Self::Estimate(_) | Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, CostError> {
    let Topic::Estimate(asked) = &arguments.topic;
    let Some(project) = project::load(&asked.project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let mut events: BTreeMap<String, f64> = BTreeMap::new();
    for (name, count) in &asked.events {
        *events.entry(name.clone()).or_default() += count;
    }
    let load = Load {
        events_per_day: asked.events_per_day,
        events,
        step_minutes: asked.step_minutes,
        items: asked.items,
        architecture: Arch::architecture(asked.arch),
        alarms: asked.alarms,
        sensor_env: has_sensor_env(&asked.project),
    };
    let estimate = estimate(&project.manifest, &load)?;
    let text = if asked.format.is_json() {
        document(&json!(estimate))
    } else {
        for sentence in &estimate.assumptions {
            terminal.say(&format!("* {sentence}"));
        }
        shown(&estimate)
    };
    terminal.data(&text).map_err(CostError::Stdout)?;
    Ok(Outcome::Fine)
}

/// What is billed, and what runs cost, for people.
fn shown(estimate: &Estimate) -> String {
    let total = |what: &str, usd: f64| {
        let cell = String::new;
        vec![what.to_owned(), cell(), cell(), cell(), dollars(usd)]
    };
    let lines = estimate.lines.iter().map(|line| {
        let Line {
            service,
            what,
            price_usd,
            unit,
            ..
        } = line;
        vec![
            (*service).to_owned(),
            (*what).to_owned(),
            number(line.count),
            format!("${price_usd} {unit}"),
            dollars(line.usd),
        ]
    });
    let sums = [
        total("total", estimate.total_usd),
        total("of it when idle", estimate.idle_usd),
    ];
    let mut text = columns(
        &["SERVICE", "WHAT", "A MONTH", "PRICE", "DOLLARS"],
        lines.chain(sums),
    );
    let workflows = estimate.workflows.iter().map(|one| {
        vec![
            one.workflow.clone(),
            number(one.runs),
            number(one.attempts),
            dollars(one.run_usd),
            models(one),
        ]
    });
    text.push('\n');
    text.push_str(&columns(
        &[
            "WORKFLOW",
            "RUNS A MONTH",
            "STEPS A RUN",
            "A RUN",
            "MODELS AT MOST",
        ],
        workflows,
    ));
    text
}

/// What the models of a run may take.
fn models(workflow: &WorkflowCost) -> String {
    match workflow.models_cap_usd {
        _ if !workflow.has_models => "none".to_owned(),
        Some(usd) => dollars(usd),
        None => "no cap".to_owned(),
    }
}

/// Cents; of less than a dollar as many places as it takes to see it.
fn dollars(usd: f64) -> String {
    if usd == 0.0 || usd >= 1.0 {
        format!("${usd:.2}")
    } else if usd >= 0.001 {
        format!("${usd:.4}")
    } else {
        format!("${usd:.6}")
    }
}

/// A count: whole from a hundred on, with the thousands apart.
fn number(count: f64) -> String {
    if count < 100.0 {
        let text = format!("{count:.3}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
