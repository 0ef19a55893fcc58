//! How a change is written down: effects, lines of history, and the records of
//! attempts.

use super::{Command, Scene};
use crate::run::{Attempt, Effect, HistoryLine, Pending, Run, StepState, Unit};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// How long after an attempt's limit its last effects are kept. By then the
/// timer that brings a driver back to them has fired, or was disarmed, which is
/// the last of them.
const KEEP_EFFECTS: SignedDuration = SignedDuration::from_hours(24);

/// With fewer than these, nobody looks for old ones.
const MANY_EFFECTS: usize = 16;

/// What the effects of an attempt's inputs are filed under.
pub fn cause(step: &str, attempt: u32) -> String {
    format!("{step}/{attempt}")
}

impl Scene<'_> {
    /// An effect to perform once this change is durable.
    pub(super) fn push(&self, run: &mut Run, effect: Effect) {
        run.pending.push(Pending {
            cause: self.cause.clone(),
            effect,
        });
    }

    /// A line of history about the run.
    pub(super) fn note(&self, run: &mut Run, kind: &str, note: impl Into<String>) {
        self.write(run, kind, None, None, note.into());
    }

    /// A line of history about a step.
    pub(super) fn note_step(&self, run: &mut Run, kind: &str, step: &str, note: impl Into<String>) {
        self.write(run, kind, Some(step), None, note.into());
    }

    /// A line of history about an attempt.
    pub(super) fn note_attempt(
        &self,
        run: &mut Run,
        kind: &str,
        step: &str,
        attempt: u32,
        note: impl Into<String>,
    ) {
        self.write(run, kind, Some(step), Some(attempt), note.into());
    }

    fn write(
        &self,
        run: &mut Run,
        kind: &str,
        step: Option<&str>,
        attempt: Option<u32>,
        note: String,
    ) {
        run.history.push(HistoryLine {
            at: self.now,
            kind: kind.to_owned(),
            step: step.map(str::to_owned),
            attempt,
            command: None,
            note,
        });
    }

    /// A line of history about a command that was not done.
    pub(super) fn note_refusal(&self, run: &mut Run, command: &Command, why: &str) {
        run.history.push(HistoryLine {
            at: self.now,
            kind: "command_refused".to_owned(),
            step: None,
            attempt: None,
            command: Some(command.id.clone()),
            note: format!("{}: {why}", command.by),
        });
    }

    /// Hands a unit off: gives it an attempt of its own. `at` is when it may
    /// begin, if not now. What no limit holds back begins with this very change,
    /// so that its turn has nothing to commit before the launch.
    pub(super) fn queue(
        &self,
        run: &mut Run,
        name: &str,
        index: usize,
        item: Option<u32>,
        at: Option<Timestamp>,
    ) -> u32 {
        let now = self.now;
        let Some(step) = run.steps.get_mut(name) else {
            return 0;
        };
        let number = u32::try_from(step.attempts.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        step.attempts.push(Attempt {
            number,
            iteration: step.iteration,
            item,
            queued_at: now,
            started_at: None,
            limit_at: None,
            checks: 0,
            ended_at: None,
            usage: None,
            failure: None,
            sandbox: None,
            grant: None,
        });
        let unit = match at {
            None => Unit::Queued { attempt: number },
            Some(until) => Unit::Resting {
                attempt: number,
                until,
            },
        };
        set_unit(run, name, index, unit);
        self.push(
            run,
            Effect::Handoff {
                step: name.to_owned(),
                attempt: number,
                at,
            },
        );
        if at.is_none() && !self.is_limited(run, name) {
            self.start(run, name, number, index, None);
        }
        number
    }
}

/// The record of an attempt.
pub(super) fn attempt_mut<'a>(
    run: &'a mut Run,
    step: &str,
    attempt: u32,
) -> Option<&'a mut Attempt> {
    let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
    run.steps.get_mut(step)?.attempts.get_mut(index)
}

/// Which unit of its step an attempt is at.
pub(super) fn index_of(run: &Run, step: &str, attempt: u32) -> Option<usize> {
    let StepState::Working { units } = &run.steps.get(step)?.state else {
        return None;
    };
    units
        .iter()
        .position(|unit| unit.attempt() == Some(attempt))
}

/// Puts a unit of a step that works into another state.
pub(super) fn set_unit(run: &mut Run, step: &str, index: usize, unit: Unit) {
    if let Some(step) = run.steps.get_mut(step)
        && let StepState::Working { units } = &mut step.state
        && let Some(place) = units.get_mut(index)
    {
        *place = unit;
    }
}

/// Puts a step into another state.
pub(super) fn set_state(run: &mut Run, step: &str, state: StepState) {
    if let Some(step) = run.steps.get_mut(step) {
        step.state = state;
    }
}

/// Drops what is pending for attempts that have been over for long.
pub(super) fn forget_old(run: &mut Run, now: Timestamp) {
    if run.pending.len() < MANY_EFFECTS {
        return;
    }
    let old: BTreeSet<String> = run
        .steps
        .iter()
        .flat_map(|(name, step)| step.attempts.iter().map(move |attempt| (name, attempt)))
        .filter(|(_, attempt)| {
            attempt
                .limit_at
                .is_some_and(|limit| now.duration_since(limit) > KEEP_EFFECTS)
        })
        .map(|(name, attempt)| cause(name, attempt.number))
        .collect();
    run.pending.retain(|pending| !old.contains(&pending.cause));
}
