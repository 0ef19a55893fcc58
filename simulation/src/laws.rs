//! The laws: what must hold after each commit, after each write of a gate, and
//! once the world is at rest.

use crate::world::World;
use loopy_contract::event::Source;
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::{Manifest, Workflow};
use loopy_engine::gate::Gate;
use loopy_engine::memory::MemoryStore;
use loopy_engine::ports::Store;
use loopy_engine::record::{Decision, EventFilter};
use loopy_engine::run::{Attempt, HistoryLine, Run, RunStatus, StepRun, StepState, Unit};
use loopy_engine::transition::MAX_LOST;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::executor::at_once;

/// How many effects one attempt leaves pending at most: its hand-off, its limit,
/// a launch, a wake, a release, two stops, a disarming, and what it emits.
const PENDING_PER_ATTEMPT: usize = 12;

fn law(holds: bool, sentence: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(sentence()) }
}

/// What must hold between a run and the one before it.
pub(crate) fn commit(world: &World, before: Option<&Run>, after: &Run) -> Result<(), String> {
    let Some(manifest) = world
        .manifests
        .iter()
        .find(|it| it.hash == after.manifest.0)
    else {
        return Err(format!("{} has a manifest that nobody deployed", after.id));
    };
    let Some(plan) = manifest.workflows.get(&after.workflow) else {
        return Err(format!("{} is of a workflow that does not exist", after.id));
    };
    if let Some(before) = before {
        follows(before, after)?;
        explained(before, after)?;
    } else {
        law(
            after
                .history
                .first()
                .is_some_and(|line| line.kind == "run_started"),
            || format!("the history of {} does not begin with its start", after.id),
        )?;
    }
    stands(manifest, plan, after)?;
    outputs(world, before, after)?;
    places(world, before, after)?;
    runs(world, manifest, before, after)
}

/// What never changes, and what only grows.
fn follows(before: &Run, after: &Run) -> Result<(), String> {
    let id = &after.id;
    let same = (
        &before.event,
        &before.workflow,
        &before.manifest,
        before.created_at,
    ) == (
        &after.event,
        &after.workflow,
        &after.manifest,
        after.created_at,
    );
    law(same, || format!("{id} is another run than before"))?;
    law(after.history.starts_with(&before.history), || {
        format!("{id} has forgotten history")
    })?;
    law(before.commands.is_subset(&after.commands), || {
        format!("{id} has forgotten commands")
    })?;
    if before.status.is_over() {
        let same = (&before.status, &before.steps, before.ended_at)
            == (&after.status, &after.steps, after.ended_at);
        law(same, || format!("{id} was over and changed"))?;
    }
    for (name, old) in &before.steps {
        let Some(new) = after.steps.get(name) else {
            return Err(format!("{id} has lost its step {name}"));
        };
        law(new.attempts.len() >= old.attempts.len(), || {
            format!("{id}/{name} has lost attempts")
        })?;
        for (was, is) in old.attempts.iter().zip(&new.attempts) {
            let delayed = |line: &HistoryLine| {
                line.kind == "step_delayed"
                    && line.step.as_deref() == Some(name)
                    && line.attempt == Some(was.number)
            };
            law(
                attempt_follows(was, is, news(before, after).iter().any(delayed)),
                || format!("{id}/{name}#{} was over and changed", was.number),
            )?;
            let begins = was.started_at.is_none() && is.started_at.is_some();
            let may = matches!(before.status, RunStatus::Running | RunStatus::Parked);
            law(!begins || may, || {
                format!(
                    "{id}/{name}#{} begins though the run is {}",
                    is.number,
                    before.status.name()
                )
            })?;
        }
        let anew = old.iteration != new.iteration;
        if old.state.is_settled() && !anew {
            law(old.state == new.state, || {
                format!("{id}/{name} was done and changed")
            })?;
        }
    }
    Ok(())
}

/// The lines of history that this change wrote.
fn news<'a>(before: &Run, after: &'a Run) -> &'a [HistoryLine] {
    after
        .history
        .get(before.history.len()..)
        .unwrap_or_default()
}

/// Its time is counted anew only where that is said.
fn attempt_follows(was: &Attempt, is: &Attempt, delayed: bool) -> bool {
    let coordinates = |it: &Attempt| (it.number, it.iteration, it.item, it.queued_at);
    coordinates(was) == coordinates(is)
        && (was.started_at.is_none() || delayed || was.started_at == is.started_at)
        && (was.ended_at.is_none() || was == is)
}

/// Each change has a line that says why.
fn explained(before: &Run, after: &Run) -> Result<(), String> {
    let id = &after.id;
    let news = news(before, after);
    let says = |kind: &str, step: Option<&str>, attempt: Option<u32>| {
        news.iter().any(|line| {
            line.kind == kind
                && (step.is_none() || line.step.as_deref() == step)
                && (attempt.is_none() || line.attempt == attempt)
        })
    };
    if before.status.name() != after.status.name() {
        let name = after.status.name();
        let told = match after.status {
            RunStatus::Running => says("run_resumed", None, None) || says("approved", None, None),
            _ => says(&format!("run_{name}"), None, None),
        };
        law(told, || format!("no line says why {id} is {name}"))?;
    }
    for (name, new) in &after.steps {
        let Some(old) = before.steps.get(name) else {
            continue;
        };
        let step = Some(name.as_str());
        if old.state.name() != new.state.name() || old.iteration != new.iteration {
            let told = match &new.state {
                StepState::Waiting | StepState::Working { .. } => true,
                StepState::AskingBefore { .. } | StepState::AskingAfter { .. } => {
                    says("approval_asked", step, None)
                }
                StepState::Succeeded { .. } => says("step_succeeded", step, None),
                StepState::Skipped { .. } => says("step_skipped", step, None),
                StepState::Cancelled { .. } => says("step_cancelled", step, None),
                StepState::Failed { .. } => says("run_failed", None, None),
            };
            law(told, || {
                format!("no line says why {id}/{name} is {}", new.state.name())
            })?;
        }
        for (index, is) in new.attempts.iter().enumerate() {
            let was = old.attempts.get(index);
            let number = Some(is.number);
            if is.started_at.is_some() && was.is_none_or(|was| was.started_at.is_none()) {
                law(says("step_started", step, number), || {
                    format!("no line says that {id}/{name}#{} started", is.number)
                })?;
            }
            if is.ended_at.is_some() && was.is_none_or(|was| was.ended_at.is_none()) {
                let told = says("attempt_succeeded", step, number)
                    || says("attempt_failed", step, number)
                    || after.status.is_over();
                law(told, || {
                    format!("no line says why {id}/{name}#{} ended", is.number)
                })?;
            }
        }
    }
    Ok(())
}

/// What must hold of any run at any time.
fn stands(manifest: &Manifest, plan: &Workflow, run: &Run) -> Result<(), String> {
    let id = &run.id;
    let mut attempts = 0_usize;
    for (name, step) in &run.steps {
        attempts += step.attempts.len();
        step_stands(plan, run, name, step)?;
    }
    let over = run.status.is_over();
    law(over == run.ended_at.is_some(), || {
        format!("{id}: its end and its status differ")
    })?;
    let any = |wanted: fn(&StepState) -> bool| run.steps.values().any(|step| wanted(&step.state));
    let works = any(|state| matches!(state, StepState::Working { .. }));
    let asks = any(StepState::is_asking);
    let waits = any(|state| *state == StepState::Waiting);
    match run.status {
        RunStatus::Succeeded => {
            let all = run.steps.values().all(|step| step.state.is_settled());
            law(all, || {
                format!("{id} succeeded, and not all of its steps did")
            })?;
        }
        RunStatus::Parked => law(asks && !works, || {
            format!("{id} is parked and asks nothing")
        })?,
        RunStatus::Running => {
            law(works, || format!("{id} runs, and nothing in it moves"))?;
        }
        RunStatus::Paused => {}
        RunStatus::Failed { .. } | RunStatus::Cancelled { .. } | RunStatus::Denied { .. } => {
            law(!works && !asks && !waits, || {
                format!("{id} is over, and not all of its steps are")
            })?;
        }
    }
    let most = 8 + PENDING_PER_ATTEMPT * attempts + 2 * run.commands.len() * attempts.max(1);
    law(run.pending.len() <= most, || {
        format!(
            "{id} has {} effects pending, of {attempts} attempts",
            run.pending.len()
        )
    })?;
    let emitted = run
        .history
        .iter()
        .filter(|line| line.kind == "event_emitted");
    for line in emitted {
        let name = line.note.split(' ').next().unwrap_or_default();
        law(manifest.registry.events.contains_key(name), || {
            format!("{id} emitted {name}, which the registry does not have")
        })?;
    }
    Ok(())
}

fn step_stands(plan: &Workflow, run: &Run, name: &str, step: &StepRun) -> Result<(), String> {
    let id = &run.id;
    let planned = plan.steps.get(name);
    let retry = planned.and_then(|step| step.retry.as_ref());
    let tries = 1 + retry.map_or(MAX_LOST, |retry| retry.max);
    let mut of_item: BTreeMap<(u32, Option<u32>), u32> = BTreeMap::new();
    for (index, attempt) in step.attempts.iter().enumerate() {
        law(usize::try_from(attempt.number) == Ok(index + 1), || {
            format!("{id}/{name}: the attempts have gaps")
        })?;
        let count = of_item
            .entry((attempt.iteration, attempt.item))
            .or_insert(0);
        *count += 1;
        law(*count <= tries, || {
            format!("{id}/{name} was tried {count} times, of {tries}")
        })?;
        law(
            attempt.ended_at.is_none() || attempt.iteration <= step.iteration,
            || format!("{id}/{name}#{} is of a round to come", attempt.number),
        )?;
    }
    let rounds = plan
        .steps
        .values()
        .filter_map(|step| step.r#loop.as_ref())
        .map(|back| back.max.saturating_add(1))
        .max()
        .unwrap_or(1);
    law(step.iteration <= rounds, || {
        format!("{id}/{name} is in round {} of {rounds}", step.iteration)
    })?;
    let open: BTreeSet<u32> = match &step.state {
        StepState::Working { units } => units
            .iter()
            .filter(|unit| unit.is_open())
            .filter_map(Unit::attempt)
            .collect(),
        _ => BTreeSet::new(),
    };
    for attempt in &step.attempts {
        law(
            attempt.ended_at.is_none() == open.contains(&attempt.number),
            || {
                format!(
                    "{id}/{name}#{}: its record and its state differ",
                    attempt.number
                )
            },
        )?;
    }
    let begun = !matches!(step.state, StepState::Waiting | StepState::Skipped { .. });
    for other in planned.into_iter().flat_map(|step| &step.after) {
        let other_state = run.steps.get(other).map(|other| &other.state);
        let ready = other_state.is_some_and(StepState::is_settled);
        // The end of the run closes all.
        law(
            !begun || ready || run.status.is_over() || step.attempts.is_empty(),
            || format!("{id}/{name} began before {other} was done"),
        )?;
    }
    Ok(())
}

/// What a step put out is what the runner of that attempt posted, and what was
/// taken once stays.
fn outputs(world: &World, before: Option<&Run>, after: &Run) -> Result<(), String> {
    for (name, step) in &after.steps {
        let units = match &step.state {
            StepState::Working { units } | StepState::AskingAfter { units, .. } => units,
            _ => continue,
        };
        for unit in units {
            let Unit::Succeeded {
                attempt, output, ..
            } = unit
            else {
                continue;
            };
            let old = before.and_then(|run| run.steps.get(name)).and_then(|step| {
                let (StepState::Working { units } | StepState::AskingAfter { units, .. }) =
                    &step.state
                else {
                    return None;
                };
                units.iter().find(|unit| unit.attempt() == Some(*attempt))
            });
            if let Some(Unit::Succeeded { output: was, .. }) = old {
                law(was == output, || {
                    format!(
                        "{}/{name}#{attempt} put out something else than before",
                        after.id
                    )
                })?;
                continue;
            }
            let posted = world.sandboxes.values().any(|sandbox| {
                (&sandbox.spec.run, &sandbox.spec.step, sandbox.spec.attempt)
                    == (&after.id, name, *attempt)
                    && sandbox.output() == Some(output)
            });
            law(posted, || {
                format!("nobody posted what {}/{name}#{attempt} put out", after.id)
            })?;
        }
    }
    Ok(())
}

/// Whoever begins holds a place at each of its gates, and not more are at work
/// than the limit says.
fn places(world: &World, before: Option<&Run>, after: &Run) -> Result<(), String> {
    for (name, step) in &after.steps {
        for attempt in &step.attempts {
            let was = before.and_then(|run| run.attempt(name, attempt.number));
            let begins =
                attempt.started_at.is_some() && was.is_none_or(|was| was.started_at.is_none());
            if !begins {
                continue;
            }
            for key in attempt.grant.iter().flat_map(|grant| &grant.gates) {
                let gate = world.gates.get(&format!("gate/{key}"));
                let holder = serde_json::json!([after.id, name, attempt.number]).to_string();
                let holds =
                    gate.is_some_and(|gate| gate.holders.iter().any(|it| it.name == holder));
                law(holds, || {
                    format!(
                        "{}/{name}#{} begins without its place at {key}",
                        after.id, attempt.number
                    )
                })?;
                if let Some(gate) = gate.filter(|_| key.starts_with("slot/")) {
                    let used = at_work(world, key);
                    law(used <= gate.capacity, || {
                        format!("{used} are at work at {key}, of {}", gate.capacity)
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// How many attempts that are under way were let through this gate.
fn at_work(world: &World, key: &str) -> u64 {
    let mut count = 0;
    for run in world.runs.values().filter(|run| !run.status.is_over()) {
        for (name, step) in &run.steps {
            for attempt in &step.attempts {
                let here = attempt.ended_at.is_none()
                    && attempt
                        .grant
                        .iter()
                        .any(|grant| grant.gates.iter().any(|it| it == key));
                if here && run.under_way(name, attempt.number) {
                    count += 1;
                }
            }
        }
    }
    count
}

/// The caps on how many runs there are.
fn runs(
    world: &World,
    manifest: &Manifest,
    before: Option<&Run>,
    after: &Run,
) -> Result<(), String> {
    let Some(limits) = manifest
        .registry
        .limits
        .as_ref()
        .filter(|_| before.is_none())
    else {
        return Ok(());
    };
    let cascade = &after.event.cascade;
    let mine = || {
        world
            .runs
            .values()
            .filter(|run| run.event.cascade == *cascade)
    };
    if let Some(cap) = limits.cascade_runs {
        let count = mine().count();
        law(count <= cap as usize, || {
            format!("the cascade {cascade} has {count} runs, of {cap}")
        })?;
    }
    if let Some(cap) = limits
        .workflows
        .get(&after.workflow)
        .and_then(|cap| cap.runs)
    {
        let count = mine().filter(|run| run.workflow == after.workflow).count();
        law(count <= cap as usize, || {
            format!(
                "the cascade {cascade} has {count} runs of {}, of {cap}",
                after.workflow
            )
        })?;
    }
    Ok(())
}

impl World {
    /// A gate was written.
    pub(crate) fn gate_written(&mut self, key: &str, gate: Gate) {
        let line = || {
            let names = |it: &[String]| it.join(" ");
            let holders: Vec<String> = gate.holders.iter().map(|it| it.name.clone()).collect();
            let waiting: Vec<String> = gate.waiting.iter().map(|it| it.name.clone()).collect();
            format!(
                "    {key}: {} of {}, held by {}; waiting: {}",
                gate.taken(),
                gate.capacity,
                names(&holders),
                names(&waiting)
            )
        };
        self.note(40, line);
        let mut names: Vec<&String> = gate.holders.iter().map(|it| &it.name).collect();
        names.sort();
        names.dedup();
        if names.len() != gate.holders.len() {
            self.breaks(format!("{key}: somebody holds two places"));
        }
        if gate.capacity > 0 && gate.taken() > gate.capacity {
            let taken = gate.taken();
            self.breaks(format!("{key}: {taken} are taken, of {}", gate.capacity));
        }
        self.gates.insert(key.to_owned(), gate);
    }

    /// What must hold when nothing moves any more.
    pub(crate) fn rest(&mut self, store: &Arc<MemoryStore>) {
        let outcome = self
            .rest_of_runs()
            .and_then(|()| self.rest_of_events(store))
            .and_then(|()| self.rest_of_gates())
            .and_then(|()| self.rest_of_money())
            .and_then(|()| self.rest_of_sandboxes())
            .and_then(|()| self.rest_of_requests());
        if let Err(law) = outcome {
            self.breaks(law);
        }
    }

    fn rest_of_runs(&self) -> Result<(), String> {
        for run in self.runs.values() {
            let ended = run.status.is_over() || run.status == RunStatus::Parked;
            law(ended, || {
                let steps: Vec<String> = run
                    .steps
                    .iter()
                    .map(|(name, step)| format!("{name} {}", step.state.name()))
                    .collect();
                format!(
                    "{} is {} at rest: {}",
                    run.id,
                    run.status.name(),
                    steps.join(", ")
                )
            })?;
        }
        law(self.timers.is_empty(), || {
            "timers are armed at rest".to_owned()
        })
    }

    /// No event is lost, and each starts what it starts once.
    fn rest_of_events(&self, store: &Arc<MemoryStore>) -> Result<(), String> {
        let filter = EventFilter {
            limit: usize::MAX,
            ..EventFilter::default()
        };
        let records = at_once(store.events(&filter))
            .and_then(Result::ok)
            .unwrap_or_default();
        let known: BTreeMap<&EventId, _> = records
            .iter()
            .map(|record| (&record.event.id, record))
            .collect();
        let mut started: BTreeMap<(&str, &EventId), u32> = BTreeMap::new();
        for run in self.runs.values().filter(|run| run.origin.is_none()) {
            *started.entry((&run.workflow, &run.event.id)).or_insert(0) += 1;
        }
        let mut emitted: BTreeSet<&str> = BTreeSet::new();
        for run in self.runs.values() {
            for line in run
                .history
                .iter()
                .filter(|line| line.kind == "event_emitted")
            {
                let id = line.note.split(['(', ')']).nth(1).unwrap_or_default();
                emitted.insert(id);
                law(known.contains_key(&EventId::from(id)), || {
                    format!("{} emitted {id}, and nothing became of it", run.id)
                })?;
            }
        }
        for (id, event) in &self.accepted {
            let Some(record) = known.get(id) else {
                return Err(format!(
                    "the event {id} ({}) was accepted and is lost",
                    event.name
                ));
            };
            for workflow in self
                .manifests
                .iter()
                .take(1)
                .flat_map(|it| it.subscribers(&event.name))
            {
                law(record.outcomes.contains_key(workflow), || {
                    format!("nothing says what {workflow} did with the event {id}")
                })?;
            }
        }
        for id in &self.ticks {
            law(known.contains_key(id), || format!("the tick {id} is lost"))?;
        }
        for record in &records {
            let event = &record.event;
            if let Source::Step { run, .. } = &event.source {
                law(emitted.contains(event.id.as_str()), || {
                    format!("{run} never said that it emitted {}", event.id)
                })?;
            }
            for (workflow, outcome) in &record.outcomes {
                let runs = started.remove(&(workflow.as_str(), &event.id)).unwrap_or(0);
                let id = &event.id;
                match &outcome.decision {
                    Decision::Started { run } => {
                        law(runs == 1 && self.runs.contains_key(run), || {
                            format!("{id} started {workflow}, and there are {runs} runs of it")
                        })?;
                    }
                    Decision::Waiting { .. } => {
                        return Err(format!("{workflow} waits for {id} to settle, at rest"));
                    }
                    decision => law(runs == 0, || {
                        format!("{id} was {} by {workflow}, and started it", decision.name())
                    })?,
                }
                if let Decision::Superseded { by } = &outcome.decision {
                    law(known.contains_key(by), || {
                        format!("{id} was superseded by {by}, which is not known")
                    })?;
                }
            }
        }
        law(started.is_empty(), || {
            format!("no event says that it started {:?}", started.keys())
        })
    }

    fn rest_of_gates(&self) -> Result<(), String> {
        let today = self.shown().to_string();
        let day = today.get(..10).unwrap_or_default();
        for (key, gate) in &self.gates {
            // What was taken on a day that is over, by a message that came to
            // nothing then and was redriven on another, is of no account.
            if key
                .strip_prefix("gate/spend/day/")
                .is_some_and(|of| of != day)
            {
                continue;
            }
            law(gate.holders.is_empty(), || {
                let names: Vec<&str> = gate.holders.iter().map(|it| it.name.as_str()).collect();
                format!("{key} is held at rest by {}", names.join(" "))
            })?;
            law(gate.waiting.is_empty(), || {
                let names: Vec<&str> = gate.waiting.iter().map(|it| it.name.as_str()).collect();
                format!("{key} is waited for at rest by {}", names.join(" "))
            })?;
        }
        Ok(())
    }

    /// What agents really spent is within every cap.
    fn rest_of_money(&self) -> Result<(), String> {
        let mut spent: BTreeMap<&str, u64> = BTreeMap::new();
        let mut seen: BTreeSet<(&RunId, &str, u32)> = BTreeSet::new();
        for sandbox in self.sandboxes.values() {
            let spec = &sandbox.spec;
            let attempt = self
                .runs
                .get(&spec.run)
                .and_then(|run| run.attempt(&spec.step, spec.attempt));
            seen.insert((&spec.run, &spec.step, spec.attempt));
            for key in attempt
                .and_then(|it| it.grant.as_ref())
                .into_iter()
                .flat_map(|it| &it.gates)
            {
                if key.starts_with("spend/") {
                    *spent.entry(key).or_insert(0) += sandbox.spent;
                }
            }
        }
        for (key, spent) in spent {
            let gate = self.gates.get(&format!("gate/{key}"));
            let capacity = gate.map_or(0, |gate| gate.capacity);
            law(spent <= capacity, || {
                format!("{key}: {spent} were spent, of {capacity}")
            })?;
        }
        Ok(())
    }

    fn rest_of_sandboxes(&self) -> Result<(), String> {
        for sandbox in self.sandboxes.values() {
            let spec = &sandbox.spec;
            law(!sandbox.is_left(), || {
                format!(
                    "the sandbox of {}/{}#{} is left",
                    spec.run, spec.step, spec.attempt
                )
            })?;
        }
        Ok(())
    }

    /// What was asked was done, or there is a reason why not.
    fn rest_of_requests(&self) -> Result<(), String> {
        for dead in &self.dead {
            let value: Value = serde_json::from_str(&dead.body).unwrap_or_default();
            let kind = value["kind"].as_str().unwrap_or_default();
            let reason = dead.reason.as_deref().unwrap_or_default();
            let fine = matches!(kind, "again") || reason.contains("deep in cascade");
            law(fine, || format!("a {kind} was buried: {reason}"))?;
        }
        for (run, command) in &self.commands {
            let taken = self
                .runs
                .get(run)
                .is_some_and(|run| run.commands.contains(&command.id));
            law(taken, || {
                format!("a command to {run} is lost: {:?}", command.order)
            })?;
        }
        for again in &self.agains {
            let buried = self
                .dead
                .iter()
                .any(|dead| dead.body.contains(again.id.as_str()));
            law(self.runs.contains_key(&again.id) || buried, || {
                format!("the run {} again as {} is lost", again.original, again.id)
            })?;
        }
        Ok(())
    }
}
