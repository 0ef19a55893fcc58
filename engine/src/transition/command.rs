//! What people ask of a run.

use super::{Command, Order, Scene};
use crate::run::{Effect, Run, RunStatus, StepState, Unit};
use jiff::Timestamp;

impl Scene<'_> {
    /// Takes a command, once. One that does not fit leaves a line that says why.
    pub(super) fn command(&self, run: &mut Run, command: &Command) -> bool {
        if !run.commands.insert(command.id.clone()) {
            return false;
        }
        let by = &command.by;
        let refused = if run.status.is_over() {
            Some(format!("the run is over: {}", run.status.name()))
        } else {
            match &command.order {
                Order::Cancel { because } => {
                    let because = if because.is_empty() {
                        format!("cancelled by {by}")
                    } else {
                        format!("cancelled by {by}: {because}")
                    };
                    let text = because.clone();
                    self.end(run, RunStatus::Cancelled { because }, &text);
                    None
                }
                Order::Pause => self.pause(run, by),
                Order::Resume => self.resume(run, by),
                Order::Answer { step, approve } => {
                    self.answered(run, step.as_deref(), *approve, by)
                }
            }
        };
        if let Some(why) = refused {
            self.note_refusal(run, command, &why);
        }
        true
    }

    fn pause(&self, run: &mut Run, by: &str) -> Option<String> {
        if run.status == RunStatus::Paused {
            return Some("the run is paused already".to_owned());
        }
        run.status = RunStatus::Paused;
        let text = format!("by {by}; what works goes on, nothing new begins");
        self.note(run, "run_paused", text);
        None
    }

    /// Turns that came while the run was paused have lapsed, so all are given
    /// anew.
    fn resume(&self, run: &mut Run, by: &str) -> Option<String> {
        if run.status != RunStatus::Paused {
            return Some("the run is not paused".to_owned());
        }
        run.status = RunStatus::Running;
        self.note(run, "run_resumed", format!("by {by}"));
        for (step, attempt, at) in turns(run) {
            self.push(run, Effect::Handoff { step, attempt, at });
        }
        None
    }

    fn answered(
        &self,
        run: &mut Run,
        step: Option<&str>,
        approve: bool,
        by: &str,
    ) -> Option<String> {
        let asking: Vec<String> = run
            .steps
            .iter()
            .filter(|(_, step)| step.state.is_asking())
            .map(|(name, _)| name.clone())
            .collect();
        let name = match (step, asking.as_slice()) {
            (Some(step), asking) if asking.iter().any(|name| name == step) => step.to_owned(),
            (Some(step), _) => return Some(format!("step {step} asks nothing")),
            (None, [one]) => one.clone(),
            (None, []) => return Some("no step asks anything".to_owned()),
            (None, many) => {
                return Some(format!("name the step; these ask: {}", many.join(", ")));
            }
        };
        self.answer(run, &name, approve, &format!("by {by}"));
        None
    }
}

/// The attempts that wait for their turn, and when it may come.
fn turns(run: &Run) -> Vec<(String, u32, Option<Timestamp>)> {
    let mut turns = Vec::new();
    for (name, step) in &run.steps {
        let StepState::Working { units } = &step.state else {
            continue;
        };
        for unit in units {
            match unit {
                Unit::Queued { attempt } | Unit::Throttled { attempt, .. } => {
                    turns.push((name.clone(), *attempt, None));
                }
                Unit::Resting { attempt, until } => {
                    turns.push((name.clone(), *attempt, Some(*until)));
                }
                Unit::Idle | Unit::Running { .. } | Unit::Succeeded { .. } => {}
            }
        }
    }
    turns
}
