//! One attempt at a step: its turn, its result, its failure, and whether another
//! one follows.

use super::record::{attempt_mut, cause, index_of, set_state, set_unit};
use super::{Admission, Scene, values};
use crate::condition;
use crate::limits::limits;
use crate::run::{Effect, Grant, Pending, Run, RunStatus, SandboxRef, StepState, Unit};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::{RunId, derive};
use loopy_contract::manifest::{Contract, Retry, Step};
use loopy_contract::report::{Failure, FailureClass, Outcome, StepResult};
use loopy_contract::schema;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Seconds an attempt may take when its step sets no `wall_clock`.
pub const DEFAULT_STEP_SECONDS: u64 = 3600;

/// Seconds on top of the step's own limit before the engine gives an attempt
/// up: for the launch, and for the runner to report a time-out by itself.
pub const LAUNCH_GRACE_SECONDS: u64 = 300;

/// Seconds without a sign of life after which a runner counts as gone. It sends
/// one every 20.
pub const HEARTBEAT_LIMIT_SECONDS: u64 = 120;

/// How often signs of life are looked for.
const CHECK: SignedDuration = SignedDuration::from_mins(5);

/// How often a step without `retry` is tried again when its sandbox vanishes.
pub const MAX_LOST: u32 = 2;

/// How long after the hand-off a turn counts as late.
const LATE: SignedDuration = SignedDuration::from_mins(1);

/// How long a timer that came early is left alone at least.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Characters of what a provider says of a sandbox that ended.
const MOST_OF_A_REASON: usize = 500;

/// How long an attempt may wait for a limit to let it through.
pub const QUEUE_LIMIT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How old a run may be to begin anything new.
const RUN_LIMIT: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A throttled attempt asks again this often when nobody wakes it.
const WAKE_SECONDS: i64 = 900;

/// The longest rest before another try.
const MAX_BACKOFF_SECONDS: u64 = 6 * 3600;

/// The seconds one attempt of this step may take.
pub fn step_seconds(step: Option<&Step>) -> u64 {
    step.and_then(|step| step.budget.as_ref()?.wall_clock_seconds())
        .unwrap_or(DEFAULT_STEP_SECONDS)
}

/// The client token of an attempt's sandbox, which is also its id: `[a-z0-9-]`,
/// 38 characters.
pub fn launch_token(run: &RunId, step: &str, attempt: u32) -> String {
    let attempt = attempt.to_string();
    format!(
        "loopy-{}",
        derive(&["launch", run.as_str(), step, &attempt], 32)
    )
}

impl Scene<'_> {
    /// An attempt's turn came.
    pub(super) fn handoff(
        &self,
        run: &mut Run,
        step: &str,
        attempt: u32,
        admission: &Admission,
    ) -> bool {
        // While a run is paused its turns lapse; they are given anew when it
        // goes on.
        if !run.wants_turn(step, attempt) {
            return self.count_anew(run, step, attempt);
        }
        let Some(index) = index_of(run, step, attempt) else {
            return false;
        };
        if self.is_too_old(run) {
            let failure = timeout(format!(
                "the run is older than {} days and begins nothing new",
                RUN_LIMIT.as_hours() / 24
            ));
            return self.give_up(run, step, attempt, failure);
        }
        match admission {
            Admission::Granted(grant) => self.start(run, step, attempt, index, grant.clone()),
            Admission::Wait { grant, reason } => {
                return self.throttle(run, step, attempt, index, grant, reason);
            }
            Admission::Refused(failure) => {
                return self.give_up(run, step, attempt, failure.clone());
            }
            Admission::Dropped { reason } => {
                self.note_attempt(run, "step_dropped", step, attempt, reason.clone());
                let because = reason.clone();
                self.end(run, RunStatus::Cancelled { because }, reason);
            }
        }
        true
    }

    /// Whether an attempt at this step has to be asked for when its turn comes.
    pub(super) fn is_limited(&self, run: &Run, step: &str) -> bool {
        let seen = || values(self.plan, run);
        self.is_too_old(run)
            || !limits(self.manifest, self.plan, run, step, self.now, seen).is_empty()
    }

    fn is_too_old(&self, run: &Run) -> bool {
        self.now.duration_since(run.created_at) > RUN_LIMIT
    }

    /// An attempt that began as it was handed off has its turn late: its time
    /// counts from now. Until its turn nobody looks at its limit.
    fn count_anew(&self, run: &mut Run, step: &str, attempt: u32) -> bool {
        let Some(late) = run.late_by(step, attempt, self.now) else {
            return false;
        };
        let limit = self.limit_of(step);
        if let Some(record) = attempt_mut(run, step, attempt) {
            record.started_at = Some(self.now);
            record.limit_at = Some(limit);
        }
        let text = format!("its turn came {} s late", late.as_secs());
        self.note_attempt(run, "step_delayed", step, attempt, text);
        true
    }

    fn limit_of(&self, step: &str) -> Timestamp {
        let seconds = step_seconds(self.plan.steps.get(step));
        self.after(seconds.saturating_add(LAUNCH_GRACE_SECONDS))
    }

    /// An attempt begins: its turn launches it.
    pub(super) fn start(
        &self,
        run: &mut Run,
        step: &str,
        attempt: u32,
        index: usize,
        grant: Option<Grant>,
    ) {
        let seconds = step_seconds(self.plan.steps.get(step));
        let limit = self.limit_of(step);
        let sandbox = self.sandbox_of(run, step, attempt);
        let reserved = grant.as_ref().map_or(0, |grant| grant.micro_usd);
        let mut text = format!("limit {seconds} s");
        if reserved > 0 {
            text.push_str(&format!(", ${:.2} reserved", reserved as f64 / 1e6));
        }
        if let Some(record) = attempt_mut(run, step, attempt) {
            record.started_at = Some(self.now);
            record.limit_at = Some(limit);
            record.sandbox = sandbox;
            record.grant = grant;
        }
        set_unit(run, step, index, Unit::Running { attempt });
        self.note_attempt(run, "step_started", step, attempt, text);
        // Under its own cause, whatever made it begin: it is its turn that
        // performs this.
        run.pending.push(Pending {
            cause: cause(step, attempt),
            effect: Effect::Launch {
                step: step.to_owned(),
                attempt,
            },
        });
    }

    fn throttle(
        &self,
        run: &mut Run,
        step: &str,
        attempt: u32,
        index: usize,
        grant: &Grant,
        reason: &str,
    ) -> bool {
        let since = match run.unit(step, attempt) {
            Some(Unit::Throttled { since, .. }) => Some(*since),
            _ => None,
        };
        if since.is_some_and(|since| self.now.duration_since(since) > QUEUE_LIMIT) {
            let failure = timeout(format!(
                "it waited {} days: {reason}",
                QUEUE_LIMIT.as_hours() / 24
            ));
            return self.give_up(run, step, attempt, failure);
        }
        if let Some(record) = attempt_mut(run, step, attempt) {
            record.grant = Some(grant.clone());
        }
        if since.is_none() {
            self.note_attempt(run, "step_throttled", step, attempt, reason);
        }
        let since = since.unwrap_or(self.now);
        set_unit(run, step, index, Unit::Throttled { attempt, since });
        run.pending.retain(|pending| {
            !matches!(&pending.effect, Effect::Wake { step: s, attempt: n, .. } if s == step && *n == attempt)
        });
        // At a moment that many askings share, so that they arm one timer.
        let least = self.not_at_once(self.now);
        let round = least.as_second().div_euclid(WAKE_SECONDS) + 1;
        let at = Timestamp::from_second(round.saturating_mul(WAKE_SECONDS));
        self.push(
            run,
            Effect::Wake {
                step: step.to_owned(),
                attempt,
                at: at.unwrap_or(Timestamp::MAX),
            },
        );
        true
    }

    /// The runner reported.
    pub(super) fn result(
        &self,
        run: &mut Run,
        name: &str,
        attempt: u32,
        result: &StepResult,
    ) -> bool {
        if !run.under_way(name, attempt) {
            return false;
        }
        let (Some(step), Some(index)) = (self.plan.steps.get(name), index_of(run, name, attempt))
        else {
            return false;
        };
        if let Some(record) = attempt_mut(run, name, attempt) {
            record.usage = Some(result.usage.clone());
        }
        let (output, emits) = match &result.outcome {
            Outcome::Failed(failure) => return self.fail(run, name, attempt, failure.clone()),
            Outcome::Succeeded { output, emits } => (output, emits),
        };
        let due = match self.due_events(run, step, name, output, emits) {
            Ok(due) => due,
            Err(problems) => {
                let failure = Failure {
                    class: FailureClass::Output,
                    message: problems.join("; "),
                };
                return self.fail(run, name, attempt, failure);
            }
        };
        let files = result.files.clone().filter(|_| !step.keeps.is_empty());
        let cost = result.usage.usd.map(|usd| format!("${usd:.4}"));
        let kept = files.as_ref();
        let kept = kept.map(|pack| format!("{} bytes of packed files kept", pack.size));
        let note: Vec<String> = cost.into_iter().chain(kept).collect();
        self.over(run, name, attempt, None);
        self.note_attempt(run, "attempt_succeeded", name, attempt, note.join(", "));
        let unit = Unit::Succeeded {
            attempt,
            output: output.clone(),
            emits: due,
            files,
        };
        set_unit(run, name, index, unit);
        true
    }

    /// The events that this result puts on the bus; or what of it breaks the
    /// step's contract.
    fn due_events(
        &self,
        run: &Run,
        step: &Step,
        name: &str,
        output: &Map<String, Value>,
        emits: &BTreeMap<String, Map<String, Value>>,
    ) -> Result<BTreeMap<String, Map<String, Value>>, Vec<String>> {
        let mut problems: Vec<String> = schema::field_violations(&step.output_contract(), output)
            .into_iter()
            .map(|violation| format!("output {violation}"))
            .collect();
        let mut seen = values(self.plan, run);
        seen.insert(name.to_owned(), Value::Object(output.clone()));
        let mut due = BTreeMap::new();
        for event in &step.emits {
            let condition = step.emits_when.get(event);
            if condition.is_some_and(|condition| !condition::holds(condition, &seen)) {
                continue;
            }
            let none = Contract::default();
            let contract = self.manifest.registry.events.get(event).unwrap_or(&none);
            match emits.get(event) {
                None => problems.push(format!("event {event} was declared and not emitted")),
                Some(fields) => {
                    let broken = schema::field_violations(contract, fields);
                    problems.extend(
                        broken
                            .into_iter()
                            .map(|violation| format!("event {event} {violation}")),
                    );
                    due.insert(event.clone(), fields.clone());
                }
            }
        }
        for event in emits.keys().filter(|event| !step.emits.contains(event)) {
            problems.push(format!("event {event} was emitted and not declared"));
        }
        if problems.is_empty() {
            Ok(due)
        } else {
            Err(problems)
        }
    }

    /// The sandbox could not be launched.
    pub(super) fn launch_failed(
        &self,
        run: &mut Run,
        step: &str,
        attempt: u32,
        message: &str,
        for_good: bool,
    ) -> bool {
        let failure = Failure {
            class: FailureClass::Sandbox,
            message: message.to_owned(),
        };
        if !run.under_way(step, attempt) {
            return false;
        }
        if for_good {
            return self.give_up(run, step, attempt, failure);
        }
        self.fail(run, step, attempt, failure)
    }

    /// The sandbox ended without a report.
    pub(super) fn lost(&self, run: &mut Run, step: &str, attempt: u32, why: Option<&str>) -> bool {
        let mut message = "the sandbox ended without a report".to_owned();
        if let Some(why) = why {
            message.push_str(": ");
            message.extend(why.chars().take(MOST_OF_A_REASON));
        }
        let failure = Failure {
            class: FailureClass::Lost,
            message,
        };
        run.under_way(step, attempt) && self.fail(run, step, attempt, failure)
    }

    /// Time to look at the limit, and whether the runner still lives.
    pub(super) fn time_limit(
        &self,
        run: &mut Run,
        step: &str,
        attempt: u32,
        check: u32,
        beat: Option<Timestamp>,
    ) -> bool {
        if !run.under_way(step, attempt) {
            return false;
        }
        let Some(record) = attempt_mut(run, step, attempt) else {
            return false;
        };
        let begun = record.started_at.unwrap_or(self.now);
        let limit = record.limit_at.unwrap_or(self.now);
        if self.now >= limit {
            let seconds = step_seconds(self.plan.steps.get(step));
            let failure = timeout(format!("no result within the limit of {seconds} s"));
            return self.fail(run, step, attempt, failure);
        }
        if record.checks != check {
            return false;
        }
        let up_by = begun.saturating_add(seconds(LAUNCH_GRACE_SECONDS));
        let last = beat.or(up_by.ok()).unwrap_or(self.now);
        let silence = self.now.duration_since(last);
        if silence > seconds(HEARTBEAT_LIMIT_SECONDS) {
            let failure = Failure {
                class: FailureClass::Lost,
                message: format!("no sign of life for {} s", silence.as_secs()),
            };
            return self.fail(run, step, attempt, failure);
        }
        record.checks = record.checks.saturating_add(1);
        let check = record.checks;
        // The timers before this one have fired: armed again they would fire at
        // once.
        run.pending.retain(|pending| {
            !matches!(&pending.effect, Effect::ArmTimeLimit { step: s, attempt: n, .. } if s == step && *n == attempt)
        });
        self.push(
            run,
            Effect::ArmTimeLimit {
                step: step.to_owned(),
                attempt,
                check,
                at: next_check(self.now, limit),
            },
        );
        true
    }

    /// The attempt failed. Another one follows, or the step has failed.
    pub(super) fn fail(&self, run: &mut Run, name: &str, attempt: u32, failure: Failure) -> bool {
        let Some(index) = index_of(run, name, attempt) else {
            return false;
        };
        let step = self.plan.steps.get(name);
        let tries = tries(run, name, attempt);
        let (max, backoff) = allowance(step.and_then(|step| step.retry.as_ref()), failure.class);
        if tries > max {
            return self.give_up(run, name, attempt, failure);
        }
        self.note_failure(run, name, attempt, &failure);
        self.over(run, name, attempt, Some(failure));
        let item = run.attempt(name, attempt).and_then(|record| record.item);
        let rest = rest(&run.id, name, attempt, backoff, tries);
        let at = (rest > 0).then(|| self.after(rest));
        let next = self.queue(run, name, index, item, at);
        let when = if rest > 0 {
            format!("in {rest} s")
        } else {
            "now".to_owned()
        };
        self.note_attempt(
            run,
            "step_retried",
            name,
            next,
            format!("{when}: try {} of {}", tries + 1, max + 1),
        );
        true
    }

    /// The step failed for good, and the run with it.
    fn give_up(&self, run: &mut Run, name: &str, attempt: u32, failure: Failure) -> bool {
        self.note_failure(run, name, attempt, &failure);
        self.over(run, name, attempt, Some(failure.clone()));
        self.fail_step(run, name, failure);
        true
    }

    /// A step failed for good: the run ends.
    pub(super) fn fail_step(&self, run: &mut Run, name: &str, failure: Failure) {
        let because = format!("step {name} failed");
        self.stop_units(run, name);
        set_state(
            run,
            name,
            StepState::Failed {
                failure: failure.clone(),
            },
        );
        let status = RunStatus::Failed {
            step: name.to_owned(),
            failure,
        };
        self.end(run, status, &because);
    }

    fn note_failure(&self, run: &mut Run, name: &str, attempt: u32, failure: &Failure) {
        let text = format!("{}: {}", failure.class.name(), failure.message);
        self.note_attempt(run, "attempt_failed", name, attempt, text);
    }

    /// Closes an attempt's record and takes back what was set up for it.
    pub(super) fn over(&self, run: &mut Run, step: &str, attempt: u32, failure: Option<Failure>) {
        let now = self.now;
        // It must not be launched by an effect that is still pending. It may
        // have been, by a driver that died: then its sandbox is only coming up
        // when it is told to stop.
        let before = run.pending.len();
        run.pending.retain(|pending| match &pending.effect {
            Effect::Launch {
                step: s,
                attempt: n,
            }
            | Effect::ArmTimeLimit {
                step: s,
                attempt: n,
                ..
            }
            | Effect::Wake {
                step: s,
                attempt: n,
                ..
            } => s != step || *n != attempt,
            _ => true,
        });
        let again = run.pending.len() != before;
        let Some(record) = attempt_mut(run, step, attempt) else {
            return;
        };
        if record.ended_at.is_some() {
            return;
        }
        record.ended_at = Some(now);
        record.failure = failure;
        let (sandbox, check) = (record.sandbox.clone(), record.checks);
        let has_grant = record.grant.is_some();
        let step = step.to_owned();
        if has_grant {
            let step = step.clone();
            self.push(run, Effect::Release { step, attempt });
        }
        if let Some(sandbox) = sandbox {
            self.push(run, Effect::Stop { sandbox, again });
            self.push(
                run,
                Effect::DisarmTimeLimit {
                    step,
                    attempt,
                    check,
                },
            );
        }
    }

    fn sandbox_of(&self, run: &Run, step: &str, attempt: u32) -> Option<SandboxRef> {
        let registry = &self.manifest.registry;
        let agent = self.plan.steps.get(step)?.agent.as_ref()?;
        let name = registry.agents.get(agent)?.sandbox.as_ref()?;
        Some(SandboxRef {
            provider: registry.sandboxes.get(name)?.provider.clone(),
            id: launch_token(&run.id, step, attempt),
        })
    }

    fn after(&self, count: u64) -> Timestamp {
        self.now
            .checked_add(seconds(count))
            .unwrap_or(Timestamp::MAX)
    }

    /// When a timer that came early is armed for. What fires timers may have a
    /// clock that is ahead of this one: for the very moment they would fire again
    /// and again until this clock has come so far.
    pub(super) fn not_at_once(&self, at: Timestamp) -> Timestamp {
        not_at_once(at, self.now)
    }
}

/// What a launch has armed: the first look at the attempt's time limit. Nothing
/// once somebody has looked.
pub fn first_look(run: &Run, step: &str, attempt: u32, now: Timestamp) -> Option<Effect> {
    let record = run.attempt(step, attempt)?;
    let at = next_check(now, record.limit_at?);
    (record.checks == 0).then(|| Effect::ArmTimeLimit {
        step: step.to_owned(),
        attempt,
        check: 0,
        at,
    })
}

fn next_check(now: Timestamp, limit: Timestamp) -> Timestamp {
    let check = now.checked_add(CHECK).unwrap_or(Timestamp::MAX);
    not_at_once(check.min(limit), now)
}

fn not_at_once(at: Timestamp, now: Timestamp) -> Timestamp {
    at.max(now.checked_add(AGAIN).unwrap_or(Timestamp::MAX))
}

impl Run {
    /// Whether this attempt's turn has only to launch it.
    pub fn is_to_launch(&self, step: &str, attempt: u32) -> bool {
        self.under_way(step, attempt)
            && self.pending.iter().any(|pending| {
                matches!(&pending.effect, Effect::Launch { step: s, attempt: n } if s == step && *n == attempt)
            })
    }

    /// How late the turn of an attempt is that began as it was handed off, if it
    /// is late.
    pub fn late_by(&self, step: &str, attempt: u32, now: Timestamp) -> Option<SignedDuration> {
        let record = self.attempt(step, attempt)?;
        let late = now.duration_since(record.started_at?);
        // Once its limit was looked at, it has had its turn.
        (record.checks == 0 && late > LATE && self.is_to_launch(step, attempt)).then_some(late)
    }

    /// Whether this attempt waits for its turn, and the run would let it begin.
    pub fn wants_turn(&self, step: &str, attempt: u32) -> bool {
        matches!(self.status, RunStatus::Running | RunStatus::Parked)
            && matches!(
                self.unit(step, attempt),
                Some(Unit::Queued { .. } | Unit::Resting { .. } | Unit::Throttled { .. })
            )
    }
}

fn seconds(count: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(count).unwrap_or(i64::MAX))
}

fn timeout(message: String) -> Failure {
    Failure {
        class: FailureClass::Timeout,
        message,
    }
}

/// How often this piece of work was tried, this attempt included.
fn tries(run: &Run, step: &str, attempt: u32) -> u32 {
    let Some(this) = run.attempt(step, attempt) else {
        return 1;
    };
    let attempts = run.steps.get(step).map(|step| step.attempts.as_slice());
    let same = attempts
        .into_iter()
        .flatten()
        .filter(|other| (other.iteration, other.item) == (this.iteration, this.item));
    u32::try_from(same.count()).unwrap_or(u32::MAX)
}

/// How often a step is tried again after such a failure, and the first rest in
/// seconds. A sandbox that vanishes says nothing of the step, so that is tried
/// again where nothing is said.
fn allowance(retry: Option<&Retry>, class: FailureClass) -> (u32, u64) {
    match retry {
        Some(retry) if retry.on.contains(&class) => (retry.max, retry.backoff.unwrap_or(0)),
        Some(_) => (0, 0),
        None if class == FailureClass::Lost => (MAX_LOST, 0),
        None => (0, 0),
    }
}

/// Seconds to rest: doubled each time, and moved by up to a tenth either way so
/// that many that failed together do not come back together. What it is moved by
/// follows from the attempt, as a transition draws no random number.
fn rest(run: &RunId, step: &str, attempt: u32, backoff: u64, tries: u32) -> u64 {
    if backoff == 0 {
        return 0;
    }
    let doublings = tries.saturating_sub(1).min(20);
    let whole = backoff
        .saturating_mul(1 << doublings)
        .min(MAX_BACKOFF_SECONDS);
    let dice = derive(&["jitter", run.as_str(), step, &attempt.to_string()], 4);
    let dice = u64::from_str_radix(&dice, 16).unwrap_or_default();
    let spread = whole / 5;
    (whole - spread / 2 + dice % (spread + 1)).max(1)
}
