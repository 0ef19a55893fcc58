//! What a deployed project costs in a month: what its manifest says happens, times what
//! is called of AWS for it, times list prices. Pure. What models cost is not in it, as
//! nobody knows their tokens beforehand; the budgets of steps bound that.

pub mod calls;
pub mod prices;
mod traffic;

use crate::stack::{Architecture, Needs, used_sandboxes};
use calls::{Calls, IDLE_QUEUE, LOGS, LOOK_MINUTES};
use loopy_contract::cron::CronError;
use loopy_contract::manifest::{Harness, Manifest, Sandbox, Step, Workflow};
use loopy_engine::sensor_host::Language;
use loopy_sandbox::FARGATE;
use loopy_sandbox::fargate::Task;
use prices::Meter;
use serde::Serialize;
use std::collections::BTreeMap;
use traffic::Traffic;

/// The days of a month.
pub const DAYS: f64 = 30.0;

/// The fixed half of every stack, whose resources are counted.
const TEMPLATE: &str = include_str!("../../template.yaml");

/// What Daytona gives a sandbox whose image asks for nothing: cores and GB.
const DAYTONA_USUAL: (f64, f64) = (1.0, 1.0);

/// The disk in GB that every task of Fargate has without being billed for it.
const FARGATE_DISK: f64 = 20.0;

/// What a project has to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Events from outside in a day, shared evenly by those that `events` does not name.
    pub events_per_day: Option<f64>,
    /// Events from outside in a day, by name.
    pub events: BTreeMap<String, f64>,
    /// Minutes that an attempt of a step works.
    pub step_minutes: f64,
    /// Items of each list that a step with `each` goes over.
    pub items: u32,
    /// What functions and tasks run on.
    pub architecture: Architecture,
    /// Whether the stack has been told whom its alarms tell.
    pub alarms: bool,
    /// Whether there is a `sensors/.env`, which the manifest does not know.
    pub sensor_env: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            events_per_day: None,
            events: BTreeMap::new(),
            step_minutes: 5.0,
            items: 5,
            architecture: Architecture::default(),
            alarms: false,
            sensor_env: false,
        }
    }
}

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    /// An event that the project does not have.
    #[error("the project has no event `{name}`")]
    UnknownEvent {
        /// The name.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// Workflows start on events, and nothing was said of how many come.
    #[error("how many events come in a day? Workflows start on {}", .events.join(", "))]
    NoLoad {
        /// The events from outside.
        events: Vec<String>,
    },
    /// Events in all, and none that they could be.
    #[error(
        "events come in a day, but there is none that they could be: each that workflows start \
         on is counted for itself, or comes from a step"
    )]
    NothingToShare,
    /// A schedule that cannot be read.
    #[error("workflow {workflow}: the schedule `{expr}`: {source}")]
    Cron {
        /// The workflow.
        workflow: String,
        /// Its schedule.
        expr: String,
        /// Why not.
        source: CronError,
    },
    /// A poll's interval that cannot be read.
    #[error("sensor {sensor}: `{interval}` is no interval")]
    Interval {
        /// The sensor.
        sensor: String,
        /// Its interval.
        interval: String,
    },
    /// A sandbox that cannot be a task.
    #[error("sandbox {sandbox}: {why}")]
    Sandbox {
        /// Its name.
        sandbox: String,
        /// Why not.
        why: String,
    },
}

/// What a month costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// When the prices were read.
    pub prices: &'static str,
    /// Where they hold.
    pub region: &'static str,
    /// All that is billed, by service.
    pub lines: Vec<Line>,
    /// Their sum.
    pub total_usd: f64,
    /// The same, of what is paid for when nothing happens.
    pub idle_usd: f64,
    /// Workflows, by name.
    pub workflows: Vec<WorkflowCost>,
    /// What was assumed, and what is not counted, a sentence each.
    pub assumptions: Vec<String>,
}

/// Something that is billed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Who bills it.
    pub service: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// How much of it a month takes.
    pub count: f64,
    /// Dollars for `unit`.
    pub price_usd: f64,
    /// `a million`, `an hour` and so on.
    pub unit: &'static str,
    /// Dollars a month.
    pub usd: f64,
}

/// What the runs of a workflow cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkflowCost {
    /// Its name.
    pub workflow: String,
    /// How many begin in a month.
    pub runs: f64,
    /// Attempts of all steps of one run.
    pub attempts: f64,
    /// Dollars for one run, sandboxes included, without what its models take.
    pub run_usd: f64,
    /// The most that the models of one run may take in dollars, by `budget.spend` and
    /// `limits`; nothing where a step with a model has no such cap.
    pub models_cap_usd: Option<f64>,
    /// Whether a step of it has a model.
    pub has_models: bool,
}

/// How much of what.
#[derive(Clone, Debug, Default)]
struct Counts(BTreeMap<Meter, f64>);

impl Counts {
    fn add(&mut self, meter: Meter, count: f64) {
        *self.0.entry(meter).or_default() += count;
    }

    fn calls(&mut self, calls: Calls, times: f64) {
        for (meter, count) in calls {
            self.add(*meter, count * times);
        }
    }

    fn times(&mut self, other: &Self, times: f64) {
        for (meter, count) in &other.0 {
            self.add(*meter, count * times);
        }
    }

    fn of(&self, meter: Meter) -> f64 {
        self.0.get(&meter).copied().unwrap_or_default()
    }

    /// Adds the logs of its invocations, and bills these as what they run on.
    fn settle(&mut self, architecture: Architecture) {
        let invocations = self.of(Meter::LambdaRequests);
        self.add(Meter::Logs, invocations * LOGS);
        if architecture == Architecture::Arm64
            && let Some(seconds) = self.0.remove(&Meter::LambdaSeconds)
        {
            self.add(Meter::LambdaSecondsArm, seconds);
        }
    }

    fn dollars(&self) -> f64 {
        let counts = self.0.iter();
        counts.map(|(meter, count)| meter.dollars(*count)).sum()
    }
}

/// What a month of a project costs under a load.
///
/// # Errors
/// [`EstimateError`] names the event, schedule, sensor or sandbox at fault.
pub fn estimate(manifest: &Manifest, load: &Load) -> Result<Estimate, EstimateError> {
    let traffic = Traffic::of(manifest, load)?;
    let mut idle = idle(manifest, load);
    idle.settle(load.architecture);
    let mut month = arrivals(manifest, &traffic);
    let mut workflows = Vec::new();
    for (name, workflow) in &manifest.workflows {
        let mut run = run(manifest, workflow, load)?;
        let runs = traffic.runs.get(name).copied().unwrap_or_default() * DAYS;
        month.times(&run, runs);
        run.settle(load.architecture);
        let attempts = traffic::attempts(workflow, load);
        workflows.push(WorkflowCost {
            workflow: name.clone(),
            runs,
            attempts: attempts.values().sum(),
            run_usd: run.dollars(),
            models_cap_usd: models_cap(manifest, name, workflow, &attempts),
            has_models: workflow
                .steps
                .values()
                .any(|step| has_model(manifest, step)),
        });
    }
    month.settle(load.architecture);
    month.times(&idle, 1.0);
    let lines = Meter::ALL.into_iter().filter_map(|meter| {
        let count = month.of(meter);
        let price = meter.price();
        (count > 0.0).then(|| Line {
            service: price.service,
            what: price.what,
            count,
            price_usd: price.dollars,
            unit: price.unit,
            usd: meter.dollars(count),
        })
    });
    Ok(Estimate {
        prices: prices::DATE,
        region: prices::REGION,
        lines: lines.collect(),
        total_usd: month.dollars(),
        idle_usd: idle.dollars(),
        workflows,
        assumptions: assumptions(manifest, load, &traffic),
    })
}

/// What a stack has and pays for while nothing happens.
fn idle(manifest: &Manifest, load: &Load) -> Counts {
    let has = |kind: &str| {
        let lines = TEMPLATE.lines();
        let of_kind = lines.filter(|line| line.trim().strip_prefix("Type: ") == Some(kind));
        of_kind.count() as f64
    };
    let mut idle = Counts::default();
    let queues = has("AWS::Lambda::EventSourceMapping");
    idle.add(Meter::SqsPolling, queues * IDLE_QUEUE);
    let needed = Needs::of(manifest, load.sensor_env).outputs().len();
    // The key that the tokens of tasks are sealed with.
    let sealed = uses(manifest, FARGATE);
    let secrets = needed + usize::from(sealed);
    idle.add(
        Meter::Secrets,
        has("AWS::SecretsManager::Secret") + secrets as f64,
    );
    if load.alarms {
        idle.add(Meter::Alarms, has("AWS::CloudWatch::Alarm"));
    }
    idle
}

fn uses(manifest: &Manifest, provider: &str) -> bool {
    let mut sandboxes = used_sandboxes(manifest).into_values();
    sandboxes.any(|sandbox| sandbox.provider == provider)
}

/// What a month of deliveries, polls, firings and events takes before runs begin.
fn arrivals(manifest: &Manifest, traffic: &Traffic) -> Counts {
    let mut counts = Counts::default();
    for (event, a_day) in &traffic.outside {
        let sensors: Vec<_> = traffic::webhooks(manifest, event).collect();
        if sensors.is_empty() {
            continue;
        }
        counts.calls(calls::DELIVERY, a_day * DAYS);
        if sensors.iter().any(|sensor| Language::of(sensor).is_some()) {
            counts.calls(calls::SENSOR_CODE, a_day * DAYS);
        }
    }
    for sensor in &manifest.sensors {
        if let Some(turns) = traffic.polls.get(&sensor.name) {
            counts.calls(calls::POLL, turns * DAYS);
            if Language::of(sensor).is_some() {
                counts.calls(calls::SENSOR_CODE, turns * DAYS);
            }
        }
    }
    counts.calls(calls::TICK, traffic.ticks * DAYS);
    for (event, a_day) in &traffic.events {
        let heard = !manifest.subscribers(event).is_empty();
        let calls = if heard { calls::EVENT } else { calls::UNHEARD };
        counts.calls(calls, a_day * DAYS);
    }
    counts
}

/// What one run takes.
fn run(manifest: &Manifest, workflow: &Workflow, load: &Load) -> Result<Counts, EstimateError> {
    let mut counts = Counts::default();
    counts.calls(calls::RUN, 1.0);
    let attempts = traffic::attempts(workflow, load);
    for (name, step) in &workflow.steps {
        let attempt = attempt(manifest, step, load)?;
        let times = attempts.get(name.as_str()).copied().unwrap_or_default();
        counts.times(&attempt, times);
    }
    Ok(counts)
}

/// What one attempt of a step takes.
fn attempt(manifest: &Manifest, step: &Step, load: &Load) -> Result<Counts, EstimateError> {
    let mut counts = Counts::default();
    let limit = step.budget.as_ref();
    let limit = limit.and_then(loopy_contract::manifest::Budget::wall_clock_seconds);
    let limit = limit.map_or(f64::INFINITY, |seconds| seconds as f64 / 60.0);
    let minutes = load.step_minutes.min(limit);
    counts.calls(calls::ATTEMPT, 1.0);
    counts.calls(calls::MINUTE, minutes);
    // The result comes before a look that is due at the same time.
    let looks = (minutes / LOOK_MINUTES).ceil() - 1.0;
    counts.calls(calls::LOOK, looks.max(0.0));
    if has_model(manifest, step) {
        counts.calls(calls::TALK, minutes);
    }
    let agent = step.agent.as_ref();
    let agent = agent.and_then(|name| manifest.registry.agents.get(name));
    let name = agent.and_then(|agent| agent.sandbox.as_deref());
    let sandbox = name.and_then(|name| Some((name, manifest.registry.sandboxes.get(name)?)));
    if let Some((name, sandbox)) = sandbox {
        sandbox_time(&mut counts, name, sandbox, minutes, load.architecture)?;
    }
    Ok(counts)
}

fn has_model(manifest: &Manifest, step: &Step) -> bool {
    let agent = step.agent.as_ref();
    let agent = agent.and_then(|name| manifest.registry.agents.get(name));
    agent.is_some_and(|agent| agent.harness != Harness::Command)
}

/// Adds what a sandbox takes in so many minutes.
fn sandbox_time(
    counts: &mut Counts,
    name: &str,
    sandbox: &Sandbox,
    minutes: f64,
    architecture: Architecture,
) -> Result<(), EstimateError> {
    if sandbox.provider == FARGATE {
        let task = Task::of(sandbox).map_err(|why| EstimateError::Sandbox {
            sandbox: name.to_owned(),
            why,
        })?;
        // A minute is billed at least.
        let hours = minutes.max(1.0) / 60.0;
        let (cores, memory) = match architecture {
            Architecture::X86_64 => (Meter::FargateCores, Meter::FargateMemory),
            Architecture::Arm64 => (Meter::FargateCoresArm, Meter::FargateMemoryArm),
        };
        counts.add(cores, f64::from(task.cpu) * hours);
        counts.add(memory, f64::from(task.memory) * hours);
        let disk = task.disk.map_or(0.0, |disk| f64::from(disk) - FARGATE_DISK);
        counts.add(Meter::FargateDisk, disk.max(0.0) * hours);
        counts.add(Meter::Addresses, hours);
        // Each task reads the key that its token is sealed with.
        counts.add(Meter::SecretReads, 1.0);
    } else if sandbox.provider == "daytona" {
        let asked = |key: &str| sandbox.image.get(key).and_then(serde_json::Value::as_f64);
        let hours = minutes / 60.0;
        let (cores, memory) = DAYTONA_USUAL;
        counts.add(Meter::DaytonaCores, asked("cpu").unwrap_or(cores) * hours);
        counts.add(
            Meter::DaytonaMemory,
            asked("memory").unwrap_or(memory) * hours,
        );
    }
    Ok(())
}

/// The most that the models of a run may take, where all that have one are capped.
fn models_cap(
    manifest: &Manifest,
    name: &str,
    workflow: &Workflow,
    attempts: &BTreeMap<&str, f64>,
) -> Option<f64> {
    let steps = workflow.steps.iter();
    let with_models = steps.filter(|(_, step)| has_model(manifest, step));
    let by_steps: Option<f64> = with_models
        .map(|(name, step)| {
            let times = attempts.get(name.as_str()).copied().unwrap_or_default();
            // A failed attempt may have spent as much as one that succeeds.
            let tries = 1.0
                + step
                    .retry
                    .as_ref()
                    .map_or(0.0, |retry| f64::from(retry.max));
            Some(step.budget.as_ref()?.usd()? * times * tries)
        })
        .sum();
    let limits = manifest.registry.limits.as_ref();
    let of_workflow = limits.and_then(|limits| limits.workflows.get(name)?.spend);
    let of_cascade = limits.and_then(|limits| limits.cascade_spend);
    let caps = [of_workflow, of_cascade].into_iter().flatten();
    let caps = caps.map(|cap| cap.usd).chain(by_steps);
    caps.min_by(f64::total_cmp)
}

/// What was assumed, and what is not counted.
fn assumptions(manifest: &Manifest, load: &Load, traffic: &Traffic) -> Vec<String> {
    let mut said = vec![
        format!(
            "list prices of {}, {}, without any free tier; a month has {DAYS} days",
            prices::REGION,
            prices::DATE
        ),
        format!(
            "an attempt works {} minutes (--step-minutes), and no longer than its wall_clock",
            load.step_minutes
        ),
        "each attempt succeeds at the first try; each condition holds, so that no step is \
         skipped and each event that may be emitted is"
            .to_owned(),
    ];
    for (event, a_day) in &traffic.outside {
        let a_day = (a_day * 100.0).round() / 100.0;
        said.push(format!("{event} comes {a_day} times a day"));
    }
    let steps = || manifest.workflows.values().flat_map(|w| w.steps.values());
    if steps().any(|step| step.each.is_some()) {
        said.push(format!(
            "each list that a step with `each` goes over has {} items (--items)",
            load.items
        ));
    }
    if steps().any(|step| step.r#loop.is_some()) {
        said.push("each loop goes back as often as it may".to_owned());
    }
    if traffic.endless {
        said.push(format!(
            "events lead back to their own workflows, counted as deep as a cascade may go, {}",
            loopy_engine::MAX_CASCADE_DEPTH
        ));
    }
    for provider in ["local", "docker"] {
        if uses(manifest, provider) {
            said.push(format!(
                "sandboxes of {provider} cost nothing here, and a deployed stack can have none"
            ));
        }
    }
    if !load.alarms {
        said.push("the stack is told nobody to alarm (--alarms), so it has no alarms".to_owned());
    }
    said.push(
        "not counted: what models cost, storage, data that leaves AWS, a key of your own, images \
         and the time to fetch them, files handed on, limits, debounces and approvals"
            .to_owned(),
    );
    if let Some(day) = manifest
        .registry
        .limits
        .as_ref()
        .and_then(|l| l.day.as_ref())
        && let Some(spend) = day.spend
    {
        said.push(format!(
            "models take ${} a day at most, by `limits`",
            spend.usd
        ));
    }
    said
}

#[cfg(test)]
mod tests;
