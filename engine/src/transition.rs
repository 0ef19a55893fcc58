//! The heart: what happens to a run when something happens. Pure: no IO, no
//! clock, no randomness. An input that does not fit the step's state (it came
//! twice, or too late) changes nothing.

use crate::run::{
    Attempt, Effect, HistoryLine, Pending, RUN_SCHEMA, Run, RunStatus, SandboxRef, StepRun,
    StepState,
};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::{Contract, Manifest, Step, Workflow};
use loopy_contract::report::{Failure, FailureClass, Outcome, StepResult};
use loopy_contract::schema;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Seconds an attempt may take when its step sets no `wall_clock`.
pub const DEFAULT_STEP_SECONDS: u64 = 3600;

/// Seconds on top of the step's own limit before the engine gives an attempt
/// up: for the launch, and for the runner to report a time-out by itself.
pub const LAUNCH_GRACE_SECONDS: u64 = 300;

/// How often a step is begun at most when its sandbox vanishes.
pub const MAX_ATTEMPTS: u32 = 3;

/// The cause of the effects of [`begin`].
pub const START: &str = "start";

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The start was delivered (again): nothing but the first effects.
    Start,
    /// A step's turn came.
    Handoff {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// The runner of an attempt has been started.
    Launched {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Where.
        sandbox: SandboxRef,
    },
    /// An attempt's sandbox cannot be launched.
    LaunchFailed {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// Why.
        message: String,
    },
    /// The runner reported.
    Result {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
        /// What it came to.
        result: StepResult,
    },
    /// An attempt's time is over.
    TimeLimit {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// An attempt's sandbox ended without a report.
    Lost {
        /// The step.
        step: String,
        /// The attempt.
        attempt: u32,
    },
}

impl Input {
    /// What the effects of this input are filed under: `start`, or
    /// `<step>/<attempt>`. All inputs of one attempt share a cause, so that the
    /// redelivery of any of them performs what a crash left undone.
    pub fn cause(&self) -> String {
        match self {
            Self::Start => START.to_owned(),
            Self::Handoff { step, attempt }
            | Self::Launched { step, attempt, .. }
            | Self::LaunchFailed { step, attempt, .. }
            | Self::Result { step, attempt, .. }
            | Self::TimeLimit { step, attempt }
            | Self::Lost { step, attempt } => cause(step, *attempt),
        }
    }
}

fn cause(step: &str, attempt: u32) -> String {
    format!("{step}/{attempt}")
}

/// The run that `event` starts in `workflow`, its entry step queued.
/// `None` when the manifest has no such workflow or it has no entry.
pub fn begin(manifest: &Manifest, workflow: &str, event: &Event, now: Timestamp) -> Option<Run> {
    let plan = manifest.workflows.get(workflow)?;
    let entry = plan
        .entry
        .clone()
        .filter(|entry| plan.steps.contains_key(entry))?;
    let steps = plan
        .steps
        .keys()
        .map(|name| {
            (
                name.clone(),
                StepRun {
                    state: StepState::Waiting,
                    attempts: Vec::new(),
                },
            )
        })
        .collect();
    let mut run = Run {
        schema: RUN_SCHEMA,
        id: RunId::derive(workflow, &event.id),
        workflow: workflow.to_owned(),
        manifest: manifest.id(),
        event: event.clone(),
        status: RunStatus::Running,
        steps,
        created_at: now,
        ended_at: None,
        history: Vec::new(),
        pending: Vec::new(),
    };
    note(
        &mut run,
        now,
        "run_started",
        None,
        None,
        format!("on {} ({})", event.name, event.id),
    );
    set_state(&mut run, &entry, StepState::Queued { attempt: 1 });
    run.pending.push(Pending {
        cause: START.to_owned(),
        effect: Effect::Handoff {
            step: entry,
            attempt: 1,
        },
    });
    Some(run)
}

/// Applies `input` at `now`. Gives back the run and whether it changed; an
/// unchanged run needs no commit.
pub fn transition(manifest: &Manifest, mut run: Run, input: &Input, now: Timestamp) -> (Run, bool) {
    let Some(plan) = manifest.workflows.get(&run.workflow) else {
        return (run, false);
    };
    let before = run.pending.len();
    drop_performed(&mut run, input);
    let dropped = run.pending.len() != before;
    let changed = match input {
        Input::Start => false,
        Input::Handoff { step, attempt } => handoff(plan, &mut run, step, *attempt, now),
        Input::Launched {
            step,
            attempt,
            sandbox,
        } => launched(&mut run, step, *attempt, sandbox, now),
        Input::LaunchFailed {
            step,
            attempt,
            message,
        } => {
            let failure = Failure {
                class: FailureClass::Sandbox,
                message: message.clone(),
            };
            active(&run, step, *attempt) && fail(&mut run, step, *attempt, failure, now)
        }
        Input::Result {
            step,
            attempt,
            result,
        } => {
            active(&run, step, *attempt)
                && take_result(manifest, plan, &mut run, step, *attempt, result, now)
        }
        Input::TimeLimit { step, attempt } => {
            let seconds = step_seconds(plan.steps.get(step));
            let failure = Failure {
                class: FailureClass::Timeout,
                message: format!("no result within the limit of {seconds} s"),
            };
            active(&run, step, *attempt) && fail(&mut run, step, *attempt, failure, now)
        }
        Input::Lost { step, attempt } => {
            active(&run, step, *attempt) && lost(&mut run, step, *attempt, now)
        }
    };
    // Dropping performed effects alone is not worth a write of its own, except
    // that a launch has to be remembered; `launched` says so itself.
    (
        run,
        changed || (dropped && matches!(input, Input::Launched { .. })),
    )
}

/// The seconds one attempt of this step may take.
pub fn step_seconds(step: Option<&Step>) -> u64 {
    step.and_then(|step| step.budget.as_ref()?.wall_clock_seconds())
        .unwrap_or(DEFAULT_STEP_SECONDS)
}

/// Whether this very attempt is under way.
fn active(run: &Run, step: &str, attempt: u32) -> bool {
    let state = run.steps.get(step).map(|step| &step.state);
    matches!(
        state,
        Some(StepState::Launching { attempt: n } | StepState::Running { attempt: n, .. })
            if *n == attempt
    )
}

/// An input proves that the effect it came from was performed, and with it all
/// before it that have the same cause, because effects are performed in order.
fn drop_performed(run: &mut Run, input: &Input) {
    let proven = match input {
        Input::Handoff { step, attempt } => run.pending.iter().position(|pending| {
            matches!(&pending.effect, Effect::Handoff { step: s, attempt: n } if s == step && n == attempt)
        }),
        Input::Launched { step, attempt, .. }
        | Input::LaunchFailed { step, attempt, .. }
        | Input::Result { step, attempt, .. } => {
            run.pending.iter().position(|pending| {
                matches!(&pending.effect, Effect::Launch { step: s, attempt: n } if s == step && n == attempt)
            })
        }
        Input::Start | Input::TimeLimit { .. } | Input::Lost { .. } => None,
    };
    let Some(last) = proven else { return };
    let cause = run.pending[last].cause.clone();
    let mut index = 0;
    run.pending.retain(|pending| {
        let performed = index <= last && pending.cause == cause;
        index += 1;
        !performed
    });
}

fn handoff(plan: &Workflow, run: &mut Run, step: &str, attempt: u32, now: Timestamp) -> bool {
    let state = run.steps.get(step).map(|step| &step.state);
    if !matches!(state, Some(StepState::Queued { attempt: n }) if *n == attempt) {
        return false;
    }
    let seconds = step_seconds(plan.steps.get(step));
    let limit = seconds.saturating_add(LAUNCH_GRACE_SECONDS);
    let at = now
        .checked_add(SignedDuration::from_secs(
            i64::try_from(limit).unwrap_or(i64::MAX),
        ))
        .unwrap_or(Timestamp::MAX);
    set_state(run, step, StepState::Launching { attempt });
    if let Some(step) = run.steps.get_mut(step) {
        step.attempts.push(Attempt {
            number: attempt,
            started_at: now,
            ended_at: None,
            usage: None,
            failure: None,
            sandbox: None,
        });
    }
    note(
        run,
        now,
        "step_started",
        Some(step),
        Some(attempt),
        format!("limit {seconds} s"),
    );
    let effects = [
        Effect::ArmTimeLimit {
            step: step.to_owned(),
            attempt,
            at,
        },
        Effect::Launch {
            step: step.to_owned(),
            attempt,
        },
    ];
    push(run, step, attempt, effects);
    true
}

fn launched(run: &mut Run, step: &str, attempt: u32, sandbox: &SandboxRef, now: Timestamp) -> bool {
    let Some(record) = run.steps.get_mut(step).and_then(|step| {
        step.attempts
            .iter_mut()
            .find(|record| record.number == attempt)
    }) else {
        return false;
    };
    if record.sandbox.is_some() {
        return false;
    }
    record.sandbox = Some(sandbox.clone());
    let state = run.steps.get(step).map(|step| &step.state);
    if matches!(state, Some(StepState::Launching { attempt: n }) if *n == attempt) {
        let place = format!("{} {}", sandbox.provider, sandbox.id);
        let kind = "sandbox_launched";
        note(run, now, kind, Some(step), Some(attempt), place);
        set_state(
            run,
            step,
            StepState::Running {
                attempt,
                sandbox: sandbox.clone(),
            },
        );
    } else {
        // The attempt was over before its launch was recorded.
        push(
            run,
            step,
            attempt,
            [Effect::Stop {
                sandbox: sandbox.clone(),
            }],
        );
    }
    true
}

fn take_result(
    manifest: &Manifest,
    plan: &Workflow,
    run: &mut Run,
    name: &str,
    attempt: u32,
    result: &StepResult,
    now: Timestamp,
) -> bool {
    if let Some(record) = attempt_mut(run, name, attempt) {
        record.usage = Some(result.usage.clone());
    }
    let Some(step) = plan.steps.get(name) else {
        return false;
    };
    let (output, emits) = match &result.outcome {
        Outcome::Failed(failure) => return fail(run, name, attempt, failure.clone(), now),
        Outcome::Succeeded { output, emits } => (output, emits),
    };
    if let Some(failure) = broken(manifest, step, output, emits) {
        return fail(run, name, attempt, failure, now);
    }
    if let Some(record) = attempt_mut(run, name, attempt) {
        record.ended_at = Some(now);
    }
    set_state(
        run,
        name,
        StepState::Succeeded {
            attempt,
            output: output.clone(),
        },
    );
    let cost = result
        .usage
        .usd
        .map_or_else(String::new, |usd| format!("${usd:.4}"));
    note(run, now, "step_succeeded", Some(name), Some(attempt), cost);

    let mut effects = Vec::new();
    for declared in &step.emits {
        let Some(fields) = emits.get(declared) else {
            continue;
        };
        let event = emitted(run, name, attempt, declared, fields, now);
        let text = format!("{declared} ({})", event.id);
        note(run, now, "event_emitted", Some(name), Some(attempt), text);
        effects.push(Effect::Publish { event });
    }
    effects.extend(stop_effect(run, name, attempt));
    for next in ready(plan, run) {
        set_state(run, &next, StepState::Queued { attempt: 1 });
        effects.push(Effect::Handoff {
            step: next,
            attempt: 1,
        });
    }
    // Disarmed last: until then the time limit is the message that brings a
    // driver back to effects a crash left undone.
    effects.push(Effect::DisarmTimeLimit {
        step: name.to_owned(),
        attempt,
    });
    push(run, name, attempt, effects);

    if run.steps.values().all(|step| {
        matches!(
            step.state,
            StepState::Succeeded { .. } | StepState::Skipped { .. }
        )
    }) {
        run.status = RunStatus::Succeeded;
        run.ended_at = Some(now);
        note(run, now, "run_succeeded", None, None, String::new());
    }
    true
}

/// What of a result breaks the step's contract.
fn broken(
    manifest: &Manifest,
    step: &Step,
    output: &Map<String, Value>,
    emits: &BTreeMap<String, Map<String, Value>>,
) -> Option<Failure> {
    let mut problems: Vec<String> = schema::field_violations(&step.output_contract(), output)
        .into_iter()
        .map(|violation| format!("output {violation}"))
        .collect();
    for event in &step.emits {
        let none = Contract::default();
        let contract = manifest.registry.events.get(event).unwrap_or(&none);
        match emits.get(event) {
            None => problems.push(format!("event {event} was declared and not emitted")),
            Some(fields) => problems.extend(
                schema::field_violations(contract, fields)
                    .into_iter()
                    .map(|violation| format!("event {event} {violation}")),
            ),
        }
    }
    for event in emits.keys().filter(|event| !step.emits.contains(event)) {
        problems.push(format!("event {event} was emitted and not declared"));
    }
    (!problems.is_empty()).then(|| Failure {
        class: FailureClass::Output,
        message: problems.join("; "),
    })
}

fn emitted(
    run: &Run,
    step: &str,
    attempt: u32,
    name: &str,
    fields: &Map<String, Value>,
    now: Timestamp,
) -> Event {
    Event {
        id: EventId::from_attempt(&run.id, step, attempt, name),
        name: name.to_owned(),
        fields: fields.clone(),
        source: Source::Step {
            run: run.id.0.clone(),
            step: step.to_owned(),
        },
        emitted_at: now,
        cascade: run.event.cascade.clone(),
        depth: run.event.depth.saturating_add(1),
    }
}

/// An attempt that is over must not be launched by effects still pending. (If
/// it was, and the process died before that was recorded, the sandbox ends by
/// its own time limit, and its runner is told that the attempt is over.)
fn retire_launch(run: &mut Run, step: &str, attempt: u32) {
    run.pending.retain(|pending| match &pending.effect {
        Effect::Launch {
            step: s,
            attempt: n,
        }
        | Effect::ArmTimeLimit {
            step: s,
            attempt: n,
            ..
        } => s != step || *n != attempt,
        _ => true,
    });
}

/// The waiting steps whose predecessors have all succeeded.
fn ready(plan: &Workflow, run: &Run) -> Vec<String> {
    let succeeded = |name: &String| {
        run.steps
            .get(name)
            .is_some_and(|step| matches!(step.state, StepState::Succeeded { .. }))
    };
    plan.steps
        .iter()
        .filter(|(name, step)| {
            !step.after.is_empty()
                && step.after.iter().all(succeeded)
                && run
                    .steps
                    .get(*name)
                    .is_some_and(|step| step.state == StepState::Waiting)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// The step failed for good, and the run with it: siblings are stopped, what
/// waited is skipped.
fn fail(run: &mut Run, name: &str, attempt: u32, failure: Failure, now: Timestamp) -> bool {
    if let Some(record) = attempt_mut(run, name, attempt) {
        record.ended_at = Some(now);
        record.failure = Some(failure.clone());
    }
    set_state(
        run,
        name,
        StepState::Failed {
            failure: failure.clone(),
        },
    );
    let text = format!("{}: {}", failure.class.name(), failure.message);
    note(run, now, "step_failed", Some(name), Some(attempt), text);
    retire_launch(run, name, attempt);
    let mut effects: Vec<Effect> = stop_effect(run, name, attempt).into_iter().collect();

    let open: Vec<(String, Option<u32>)> = run
        .steps
        .iter()
        .filter_map(|(other, step)| match &step.state {
            StepState::Waiting | StepState::Queued { .. } => Some((other.clone(), None)),
            StepState::Launching { attempt } | StepState::Running { attempt, .. } => {
                Some((other.clone(), Some(*attempt)))
            }
            StepState::Succeeded { .. } | StepState::Failed { .. } | StepState::Skipped { .. } => {
                None
            }
        })
        .collect();
    for (other, under_way) in open {
        let because = format!("step {name} failed");
        if let Some(number) = under_way {
            effects.extend(stop_effect(run, &other, number));
            effects.push(Effect::DisarmTimeLimit {
                step: other.clone(),
                attempt: number,
            });
            retire_launch(run, &other, number);
            if let Some(record) = attempt_mut(run, &other, number) {
                record.ended_at = Some(now);
            }
        }
        set_state(
            run,
            &other,
            StepState::Skipped {
                because: because.clone(),
            },
        );
        note(run, now, "step_skipped", Some(&other), under_way, because);
    }
    effects.push(Effect::DisarmTimeLimit {
        step: name.to_owned(),
        attempt,
    });
    push(run, name, attempt, effects);
    run.status = RunStatus::Failed {
        step: name.to_owned(),
        failure,
    };
    run.ended_at = Some(now);
    note(
        run,
        now,
        "run_failed",
        None,
        None,
        format!("step {name} failed"),
    );
    true
}

fn lost(run: &mut Run, name: &str, attempt: u32, now: Timestamp) -> bool {
    let failure = Failure {
        class: FailureClass::Lost,
        message: "the sandbox ended without a report".to_owned(),
    };
    if attempt >= MAX_ATTEMPTS {
        return fail(run, name, attempt, failure, now);
    }
    if let Some(record) = attempt_mut(run, name, attempt) {
        record.ended_at = Some(now);
        record.failure = Some(failure);
    }
    let next = attempt.saturating_add(1);
    note(
        run,
        now,
        "sandbox_lost",
        Some(name),
        Some(attempt),
        format!("attempt {next} of {MAX_ATTEMPTS} follows"),
    );
    retire_launch(run, name, attempt);
    let mut effects: Vec<Effect> = stop_effect(run, name, attempt).into_iter().collect();
    set_state(run, name, StepState::Queued { attempt: next });
    effects.push(Effect::Handoff {
        step: name.to_owned(),
        attempt: next,
    });
    effects.push(Effect::DisarmTimeLimit {
        step: name.to_owned(),
        attempt,
    });
    push(run, name, attempt, effects);
    true
}

fn stop_effect(run: &Run, step: &str, attempt: u32) -> Option<Effect> {
    let record = run
        .steps
        .get(step)?
        .attempts
        .iter()
        .find(|record| record.number == attempt)?;
    Some(Effect::Stop {
        sandbox: record.sandbox.clone()?,
    })
}

fn attempt_mut<'a>(run: &'a mut Run, step: &str, attempt: u32) -> Option<&'a mut Attempt> {
    run.steps
        .get_mut(step)?
        .attempts
        .iter_mut()
        .find(|record| record.number == attempt)
}

fn set_state(run: &mut Run, step: &str, state: StepState) {
    if let Some(step) = run.steps.get_mut(step) {
        step.state = state;
    }
}

fn push(run: &mut Run, step: &str, attempt: u32, effects: impl IntoIterator<Item = Effect>) {
    let cause = cause(step, attempt);
    run.pending
        .extend(effects.into_iter().map(|effect| Pending {
            cause: cause.clone(),
            effect,
        }));
}

fn note(
    run: &mut Run,
    at: Timestamp,
    kind: &str,
    step: Option<&str>,
    attempt: Option<u32>,
    text: String,
) {
    run.history.push(HistoryLine {
        at,
        kind: kind.to_owned(),
        step: step.map(str::to_owned),
        attempt,
        note: text,
    });
}
