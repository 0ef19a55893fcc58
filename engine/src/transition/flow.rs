//! How a run moves on: which steps may start, `when`, `each`, `loop`, approvals,
//! and how it ends.

use super::Scene;
use super::record::set_state;
use crate::condition::{self, Values};
use crate::run::{Effect, Kept, KeptPack, Question, Run, RunStatus, StepState, Unit};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::{Answer, Loop, Step, Workflow};
use loopy_contract::report::{Failure, FailureClass};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// How many items of a step with `each` are worked on at the same time.
pub const WIDTH: usize = 10;

/// How many items a step with `each` may have.
pub const MAX_ITEMS: usize = 1000;

/// What conditions and bodies of a run may read: the event's fields and the
/// outputs of all steps that have one.
pub fn values(plan: &Workflow, run: &Run) -> Values {
    let mut values: Values = plan
        .steps
        .keys()
        .filter_map(|name| match &run.steps.get(name)?.state {
            StepState::Succeeded { output } => Some((name.clone(), output.clone())),
            _ => None,
        })
        .collect();
    let fields = Value::Object(run.event.fields.clone());
    values.insert("event".to_owned(), fields);
    values
}

/// The step and all that wait for it, near or far.
pub(super) fn after(plan: &Workflow, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([from.to_owned()]);
    loop {
        let before = found.len();
        for (name, step) in &plan.steps {
            if step.after.iter().any(|other| found.contains(other)) {
                found.insert(name.clone());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The steps that a `loop` goes over again: from the one it leads back to, to
/// the one that has it.
pub fn body(plan: &Workflow, to: &str, from: &str) -> BTreeSet<String> {
    let mut before = BTreeSet::from([from.to_owned()]);
    loop {
        let count = before.len();
        let more: Vec<String> = before
            .iter()
            .filter_map(|name| plan.steps.get(name))
            .flat_map(|step| step.after.iter().cloned())
            .collect();
        before.extend(more);
        if before.len() == count {
            break;
        }
    }
    after(plan, to).intersection(&before).cloned().collect()
}

impl Scene<'_> {
    /// Moves the run on as far as it goes without anything new from outside.
    pub(super) fn advance(&self, run: &mut Run) {
        let bodies = self.bodies();
        while !run.status.is_over() && self.move_one(run, &bodies) {}
        if run.status.is_over() {
            return;
        }
        if run.steps.values().all(|step| step.state.is_settled()) {
            run.status = RunStatus::Succeeded;
            run.ended_at = Some(self.now);
            self.note(run, "run_succeeded", "");
            return;
        }
        self.park(run);
    }

    /// A run in which nothing but a person can move anything is parked.
    fn park(&self, run: &mut Run) {
        let works = run
            .steps
            .values()
            .any(|step| matches!(step.state, StepState::Working { .. }));
        let asks = run.steps.values().any(|step| step.state.is_asking());
        match run.status {
            RunStatus::Running if asks && !works => {
                run.status = RunStatus::Parked;
                self.note(run, "run_parked", "until a person answers");
            }
            RunStatus::Parked if works => run.status = RunStatus::Running,
            _ => {}
        }
    }

    /// Moves one step that can move; false when none can.
    fn move_one(&self, run: &mut Run, bodies: &BTreeMap<String, BTreeSet<String>>) -> bool {
        let paused = matches!(run.status, RunStatus::Paused);
        for (name, step) in &self.plan.steps {
            let Some(state) = run.steps.get(name).map(|step| &step.state) else {
                continue;
            };
            let moved = match state {
                StepState::Waiting if !paused && self.may_start(run, name, step, bodies) => {
                    self.begin_step(run, name, step);
                    true
                }
                StepState::Working { units } => {
                    if units
                        .iter()
                        .all(|unit| matches!(unit, Unit::Succeeded { .. }))
                    {
                        let units = units.clone();
                        self.work_done(run, name, step, units);
                        true
                    } else {
                        !paused && self.queue_idle(run, name)
                    }
                }
                _ => false,
            };
            if moved {
                return true;
            }
        }
        false
    }

    /// The bodies of all loops, by the step that has the loop.
    fn bodies(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.plan
            .steps
            .iter()
            .filter_map(|(name, step)| {
                let back = step.r#loop.as_ref()?;
                Some((name.clone(), body(self.plan, &back.to, name)))
            })
            .collect()
    }

    /// All that it waits for is settled; of a loop that it is not part of, the
    /// last round.
    fn may_start(
        &self,
        run: &Run,
        name: &str,
        step: &Step,
        bodies: &BTreeMap<String, BTreeSet<String>>,
    ) -> bool {
        let settled = |name: &str| {
            run.steps
                .get(name)
                .is_some_and(|step| step.state.is_settled())
        };
        if step.after.is_empty() {
            return self.plan.entry.as_deref() == Some(name);
        }
        step.after.iter().all(|other| {
            settled(other)
                && bodies.iter().all(|(owner, body)| {
                    !body.contains(other) || body.contains(name) || settled(owner)
                })
        })
    }

    /// A step's time has come.
    fn begin_step(&self, run: &mut Run, name: &str, step: &Step) {
        if let Some(condition) = &step.when
            && !condition::holds(condition, &values(self.plan, run))
        {
            let because = format!("`when: {}` does not hold", condition.source);
            self.note_step(run, "step_skipped", name, because.clone());
            set_state(run, name, StepState::Skipped { because });
            return;
        }
        match &step.approve {
            Some(approve) if approve.before => {
                let until = self.ask(run, name, Question::Before, approve.within);
                set_state(run, name, StepState::AskingBefore { until });
            }
            _ => self.start_work(run, name, step),
        }
    }

    /// Cuts a step's work up and hands the first of it off.
    fn start_work(&self, run: &mut Run, name: &str, step: &Step) {
        let count = match &step.each {
            None => 1,
            Some(each) => {
                let seen = values(self.plan, run);
                let list = condition::field(&seen, &each.over.producer, &each.over.field);
                let count = list.as_array().map_or(0, Vec::len);
                if count > MAX_ITEMS {
                    let failure = Failure {
                        class: FailureClass::Output,
                        message: format!("`each` has {count} items, and a step takes {MAX_ITEMS}"),
                    };
                    return self.fail_step(run, name, failure);
                }
                self.note_step(run, "step_fanned_out", name, format!("{count} items"));
                count
            }
        };
        let units = vec![Unit::Idle; count];
        set_state(run, name, StepState::Working { units });
    }

    /// Hands idle units off while there is room; whether it did.
    fn queue_idle(&self, run: &mut Run, name: &str) -> bool {
        let Some(StepState::Working { units }) = run.steps.get(name).map(|step| &step.state) else {
            return false;
        };
        let open = units.iter().filter(|unit| unit.is_open()).count();
        let idle: Vec<usize> = units
            .iter()
            .enumerate()
            .filter(|(_, unit)| matches!(unit, Unit::Idle))
            .map(|(index, _)| index)
            .take(WIDTH.saturating_sub(open))
            .collect();
        let each = self
            .plan
            .steps
            .get(name)
            .is_some_and(|step| step.each.is_some());
        for index in &idle {
            let item = each.then(|| u32::try_from(*index).unwrap_or(u32::MAX));
            self.queue(run, name, *index, item, None);
        }
        !idle.is_empty()
    }

    /// All of a step's work is done.
    fn work_done(&self, run: &mut Run, name: &str, step: &Step, units: Vec<Unit>) {
        match &step.approve {
            Some(approve) if approve.after => {
                let until = self.ask(run, name, Question::After, approve.within);
                set_state(run, name, StepState::AskingAfter { until, units });
            }
            _ => self.finish(run, name, step, units),
        }
    }

    /// A step's output counts: its events go out, and a loop goes back or not.
    fn finish(&self, run: &mut Run, name: &str, step: &Step, units: Vec<Unit>) {
        let mut outputs = Vec::with_capacity(units.len());
        let mut packs = Vec::new();
        for unit in units {
            let Unit::Succeeded {
                attempt,
                output,
                emits,
                files,
            } = unit
            else {
                continue;
            };
            packs.push(files.map(|pack| KeptPack {
                attempt,
                from: None,
                pack,
            }));
            for (event, fields) in emits {
                let event = self.emitted(run, name, attempt, &event, fields);
                let text = format!("{} ({})", event.name, event.id);
                self.note_attempt(run, "event_emitted", name, attempt, text);
                self.push(run, Effect::Publish { event });
            }
            outputs.push(Value::Object(output));
        }
        let output = if step.each.is_some() {
            Value::Array(outputs)
        } else {
            outputs.into_iter().next().unwrap_or_default()
        };
        set_state(run, name, StepState::Succeeded { output });
        if let Some(record) = run.steps.get_mut(name).filter(|_| !step.keeps.is_empty()) {
            let paths = step.keeps.clone();
            record.files = Some(Kept { paths, packs });
        }
        self.note_step(run, "step_succeeded", name, "");
        if let Some(back) = &step.r#loop {
            self.go_round(run, name, back);
        }
    }

    /// Goes back, goes on, or gives up.
    fn go_round(&self, run: &mut Run, name: &str, back: &Loop) {
        if condition::holds(&back.until, &values(self.plan, run)) {
            return;
        }
        let round = run.steps.get(name).map_or(1, |step| step.iteration);
        let until = &back.until.source;
        if round > back.max {
            let failure = Failure {
                class: FailureClass::NoProgress,
                message: format!("after {round} rounds `until: {until}` does not hold"),
            };
            return self.fail_step(run, name, failure);
        }
        for inside in body(self.plan, &back.to, name) {
            let Some(step) = run.steps.get_mut(&inside) else {
                continue;
            };
            step.iteration = round.saturating_add(1);
            step.files = None;
            let state = std::mem::replace(&mut step.state, StepState::Waiting);
            step.previous = match state {
                StepState::Succeeded { output } => Some(output),
                _ => None,
            };
        }
        let text = format!(
            "round {} of at most {}: `until: {until}` does not hold",
            round + 1,
            back.max + 1
        );
        self.note_step(run, "loop_went_back", &back.to, text);
    }

    /// Asks a person; gives back when the answer is given without one.
    fn ask(
        &self,
        run: &mut Run,
        name: &str,
        question: Question,
        within: Option<u64>,
    ) -> Option<Timestamp> {
        let iteration = run.steps.get(name).map_or(1, |step| step.iteration);
        let until = within.map(|seconds| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            self.now
                .checked_add(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MAX)
        });
        if let Some(at) = until {
            self.push(
                run,
                Effect::ArmApproval {
                    step: name.to_owned(),
                    iteration,
                    question,
                    at,
                    again: false,
                },
            );
        }
        let what = match question {
            Question::Before => "whether it may start",
            Question::After => "whether its output counts",
        };
        let text = until.map_or_else(|| what.to_owned(), |at| format!("{what}, until {at:.0}"));
        self.note_step(run, "approval_asked", name, text);
        until
    }

    /// Nobody answered in time.
    pub(super) fn unanswered(
        &self,
        run: &mut Run,
        name: &str,
        iteration: u32,
        question: Question,
    ) -> bool {
        let Some(step) = run.steps.get(name) else {
            return false;
        };
        let (asked, until) = match &step.state {
            StepState::AskingBefore { until } => (Question::Before, *until),
            StepState::AskingAfter { until, .. } => (Question::After, *until),
            _ => return false,
        };
        if run.status.is_over() || (asked, step.iteration) != (question, iteration) {
            return false;
        }
        // A clock that went back has the timer come early: it is armed again.
        if let Some(at) = until
            && at > self.now
        {
            self.drop_arming(run, name, iteration, question);
            self.push(
                run,
                Effect::ArmApproval {
                    step: name.to_owned(),
                    iteration,
                    question,
                    at: self.not_at_once(at),
                    again: true,
                },
            );
            return true;
        }
        let otherwise = self
            .plan
            .steps
            .get(name)
            .and_then(|step| step.approve.as_ref())
            .map_or(Answer::Deny, |approve| approve.otherwise);
        let approve = otherwise == Answer::Approve;
        self.answer(run, name, approve, "nobody answered in time");
        true
    }

    /// A question has its answer.
    pub(super) fn answer(&self, run: &mut Run, name: &str, approve: bool, because: &str) {
        let (Some(step), Some(record)) = (self.plan.steps.get(name), run.steps.get(name)) else {
            return;
        };
        let (question, until, units) = match &record.state {
            StepState::AskingBefore { until } => (Question::Before, *until, None),
            StepState::AskingAfter { until, units } => {
                (Question::After, *until, Some(units.clone()))
            }
            _ => return,
        };
        self.stop_asking(run, name, question, until);
        let kind = if approve { "approved" } else { "denied" };
        self.note_step(run, kind, name, because);
        match (approve, units) {
            (true, None) => self.start_work(run, name, step),
            (true, Some(units)) => self.finish(run, name, step, units),
            (false, _) => {
                let because = because.to_owned();
                let text = format!("step {name} was denied");
                let step = name.to_owned();
                self.end(run, RunStatus::Denied { step, because }, &text);
            }
        }
    }

    fn emitted(
        &self,
        run: &Run,
        step: &str,
        attempt: u32,
        name: &str,
        fields: Map<String, Value>,
    ) -> Event {
        Event {
            id: EventId::from_attempt(&run.id, step, attempt, name),
            name: name.to_owned(),
            fields,
            source: Source::Step {
                run: run.id.0.clone(),
                step: step.to_owned(),
            },
            emitted_at: self.now,
            cascade: run.event.cascade.clone(),
            depth: run.event.depth.saturating_add(1),
        }
    }

    /// Stops the work of one step.
    pub(super) fn stop_units(&self, run: &mut Run, name: &str) {
        let Some(StepState::Working { units }) = run.steps.get(name).map(|step| &step.state) else {
            return;
        };
        let open: Vec<u32> = units
            .iter()
            .filter(|unit| unit.is_open())
            .filter_map(Unit::attempt)
            .collect();
        for attempt in open {
            self.over(run, name, attempt, None);
        }
    }

    /// The run ends: what works is stopped, what waits is skipped.
    pub(super) fn end(&self, run: &mut Run, status: RunStatus, because: &str) {
        let names: Vec<String> = run.steps.keys().cloned().collect();
        for name in names {
            let Some(state) = run.steps.get(&name).map(|step| step.state.clone()) else {
                continue;
            };
            let text = because.to_owned();
            let because = text.clone();
            let next = match state {
                StepState::Waiting => StepState::Skipped { because },
                StepState::Working { .. } => {
                    self.stop_units(run, &name);
                    StepState::Cancelled { because }
                }
                StepState::AskingBefore { until } => {
                    self.stop_asking(run, &name, Question::Before, until);
                    StepState::Skipped { because }
                }
                StepState::AskingAfter { until, .. } => {
                    self.stop_asking(run, &name, Question::After, until);
                    StepState::Cancelled { because }
                }
                StepState::Succeeded { .. }
                | StepState::Failed { .. }
                | StepState::Skipped { .. }
                | StepState::Cancelled { .. } => continue,
            };
            let kind = format!("step_{}", next.name());
            set_state(run, &name, next);
            self.note_step(run, &kind, &name, text);
        }
        let kind = format!("run_{}", status.name());
        run.status = status;
        run.ended_at = Some(self.now);
        self.note(run, &kind, because);
    }

    /// Forgets the timers of a question that are still to be armed: they would
    /// fire at once, for nothing.
    fn drop_arming(&self, run: &mut Run, name: &str, iteration: u32, question: Question) {
        run.pending.retain(|pending| {
            !matches!(&pending.effect, Effect::ArmApproval { step, iteration: i, question: q, .. }
                if step == name && (*i, *q) == (iteration, question))
        });
    }

    fn stop_asking(&self, run: &mut Run, name: &str, question: Question, until: Option<Timestamp>) {
        let iteration = run.steps.get(name).map_or(1, |step| step.iteration);
        self.drop_arming(run, name, iteration, question);
        if until.is_some() {
            self.push(
                run,
                Effect::DisarmApproval {
                    step: name.to_owned(),
                    iteration,
                    question,
                },
            );
        }
    }
}
