//! A sandbox and the runner in it: it asks for its envelope, gives signs of
//! life, works for a while and posts a result; or dies, or does any of that late
//! or twice.

use crate::faults::Fault;
use crate::world::{Home, Millis, SECOND, World};
use loopy_contract::failure::FailureClass;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Contract, Harness};
use loopy_contract::report::{
    Envelope, Failure, Heartbeat, HeartbeatReply, Outcome, ResultReply, StepResult, Usage,
    attempt_path,
};
use loopy_engine::gate::micro_usd;
use loopy_engine::ports::LaunchSpec;
use loopy_engine::{Answer, ReportRequest};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a runner asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    Envelope,
    Heartbeat,
    Result,
}

impl Leaf {
    fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Heartbeat => "heartbeat",
            Self::Result => "result",
        }
    }
}

/// How far the runner is.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// The sandbox is coming up; no runner yet.
    Coming,
    /// Asks for its envelope.
    Fetch,
    /// Works.
    Work { until: Millis, beats: bool },
    /// Posts its result.
    Deliver,
    /// There is none any more.
    Gone,
}

/// A sandbox, by the truth.
#[derive(Clone, Debug)]
pub(crate) struct SandboxSim {
    pub(crate) spec: LaunchSpec,
    /// Looks at the launch before it is done.
    looks: u32,
    /// Whether it exists.
    pub(crate) alive: bool,
    stage: Stage,
    due: Option<Millis>,
    /// A request of it is being served.
    in_flight: bool,
    dies_at: Option<Millis>,
    result: Option<StepResult>,
    again: bool,
    /// Which sandbox of this name it is: one that comes after it was removed is
    /// another one, with a runner of its own.
    pub(crate) made: u64,
    /// Millionths of a dollar that its agent has spent or will have.
    pub(crate) spent: u64,
    /// Nobody has been told yet that it is gone.
    pub(crate) unnoticed: bool,
}

/// How far a launch is.
pub(crate) enum Look {
    Pending(Millis),
    Started,
}

impl SandboxSim {
    /// When it next does something by itself.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        let due = self.due.filter(|_| !self.in_flight);
        due.into_iter().chain(self.dies_at).min()
    }

    /// The outputs it posts, if it got so far.
    pub(crate) fn output(&self) -> Option<&Map<String, Value>> {
        match &self.result.as_ref()?.outcome {
            Outcome::Succeeded { output, .. } => Some(output),
            Outcome::Failed(_) => None,
        }
    }

    /// Whether somebody has to see to it that it ends.
    pub(crate) fn is_left(&self) -> bool {
        self.alive
    }

    fn request(&self, leaf: Leaf) -> ReportRequest {
        let (method, body) = match (leaf, &self.result) {
            (Leaf::Envelope, _) => ("GET", Vec::new()),
            (Leaf::Result, Some(result)) => {
                ("POST", serde_json::to_vec(result).unwrap_or_default())
            }
            (Leaf::Heartbeat | Leaf::Result, _) => (
                "POST",
                serde_json::to_vec(&Heartbeat { sequence: 1 }).unwrap_or_default(),
            ),
        };
        ReportRequest {
            method: method.to_owned(),
            path: attempt_path(
                self.spec.run.as_str(),
                &self.spec.step,
                self.spec.attempt,
                leaf.name(),
            ),
            authorization: Some(format!("Bearer {}", self.spec.token)),
            body,
        }
    }

    fn key(&self) -> (RunId, String, u32) {
        let spec = &self.spec;
        (spec.run.clone(), spec.step.clone(), spec.attempt)
    }

    /// The runner ends, and on a machine of one's own the sandbox with it.
    fn runner_ends(&mut self, home: Home) {
        self.stage = Stage::Gone;
        self.due = None;
        self.dies_at = None;
        if home == Home::Machine {
            self.alive = false;
        }
    }
}

impl World {
    /// A launch, or another look at it.
    pub(crate) fn launch(&mut self, spec: &LaunchSpec) -> Look {
        let token = spec.client_token.clone();
        let known = self.sandboxes.get(&token);
        let removed = known.is_none_or(|known| !known.alive && known.looks == 0);
        // One that died is still there by its name, until it is stopped.
        let died = known.is_some_and(|known| known.unnoticed);
        let spent = known.map_or(0, |known| known.spent);
        let made_before = known.map_or(0, |known| known.made);
        if removed && !died {
            let looks = if self.strikes(Fault::SlowLaunch) {
                u32::try_from(self.rng.between(1, 3)).unwrap_or(1)
            } else {
                0
            };
            let made = SandboxSim {
                spec: spec.clone(),
                looks,
                alive: false,
                stage: Stage::Coming,
                due: None,
                in_flight: false,
                dies_at: None,
                result: None,
                again: false,
                made: made_before.saturating_add(1),
                spent,
                unnoticed: false,
            };
            self.sandboxes.insert(token.clone(), made);
        }
        let boot = self.rng.between(0, 20 * SECOND);
        let death = self.strikes(Fault::DeadSandbox).then(|| {
            let after = self.rng.between(0, 600 * SECOND);
            self.now.saturating_add(after)
        });
        let now = self.now;
        let Some(sandbox) = self.sandboxes.get_mut(&token) else {
            return Look::Started;
        };
        if sandbox.looks > 0 {
            sandbox.looks -= 1;
            // It comes up whether somebody looks again or not.
            sandbox.due = Some(now.saturating_add(30 * SECOND));
            return Look::Pending(boot.max(SECOND));
        }
        if sandbox.stage == Stage::Coming {
            sandbox.alive = true;
            sandbox.stage = Stage::Fetch;
            sandbox.due = Some(now.saturating_add(boot));
            sandbox.dies_at = death;
        }
        Look::Started
    }

    /// A launch comes to nothing, and what was made for it goes.
    pub(crate) fn give_up_launch(&mut self, token: &str) {
        if let Some(sandbox) = self.sandboxes.get_mut(token)
            && sandbox.stage == Stage::Coming
        {
            sandbox.stage = Stage::Gone;
            sandbox.alive = false;
            sandbox.looks = 0;
            sandbox.due = None;
        }
    }

    /// A sandbox is stopped and removed.
    pub(crate) fn stop(&mut self, token: &str) {
        let last_words = self.strikes(Fault::ReportAfterStop);
        let home = self.home;
        let Some(sandbox) = self.sandboxes.get_mut(token) else {
            return;
        };
        sandbox.alive = false;
        sandbox.unnoticed = false;
        sandbox.looks = 0;
        let speaks = last_words
            && sandbox.result.is_some()
            && matches!(sandbox.stage, Stage::Work { .. } | Stage::Deliver);
        if speaks {
            sandbox.stage = Stage::Deliver;
            sandbox.due = Some(self.now);
        } else {
            sandbox.runner_ends(home);
        }
    }

    /// What the sandbox does now; what its runner asks, if it asks something.
    pub(crate) fn act(&mut self, token: &str) -> Option<(Leaf, ReportRequest)> {
        let now = self.now;
        let beat = self.rng.between(20 * SECOND, 100 * SECOND);
        let sandbox = self.sandboxes.get_mut(token)?;
        if sandbox.dies_at.is_some_and(|at| at <= now) {
            sandbox.dies_at = None;
            sandbox.stage = Stage::Gone;
            sandbox.due = None;
            sandbox.alive = false;
            sandbox.unnoticed = true;
            let name = sandbox.key();
            self.note(10, || format!("DIES {}/{}#{}", name.0, name.1, name.2));
            return None;
        }
        if sandbox.in_flight || sandbox.due.is_none_or(|due| due > now) {
            return None;
        }
        let leaf = match &sandbox.stage {
            Stage::Coming => {
                sandbox.alive = true;
                sandbox.due = None;
                return None;
            }
            Stage::Gone => {
                sandbox.due = None;
                return None;
            }
            Stage::Fetch => Leaf::Envelope,
            Stage::Work { until, .. } if *until <= now => {
                sandbox.stage = Stage::Deliver;
                Leaf::Result
            }
            Stage::Work { until, beats } => {
                let (until, beats) = (*until, *beats);
                let next = if beats {
                    now.saturating_add(beat).min(until)
                } else {
                    until
                };
                sandbox.due = Some(next);
                if !beats {
                    return None;
                }
                Leaf::Heartbeat
            }
            Stage::Deliver => Leaf::Result,
        };
        sandbox.in_flight = true;
        let request = sandbox.request(leaf);
        Some((leaf, request))
    }

    /// A result for an attempt, by somebody who has the token of another one.
    pub(crate) fn forged(&mut self) -> Option<ReportRequest> {
        let tokens: Vec<String> = self.sandboxes.keys().cloned().collect();
        let (one, other) = (self.rng.pick(&tokens)?, self.rng.pick(&tokens)?);
        let (one, other) = (self.sandboxes.get(one)?, self.sandboxes.get(other)?);
        let mut request = one.request(Leaf::Result);
        request.authorization = other.request(Leaf::Result).authorization;
        (one.spec.token != other.spec.token).then_some(request)
    }

    /// What the runner was answered; nothing when the answer was lost.
    pub(crate) fn answered(&mut self, token: &str, made: u64, leaf: Leaf, answer: Option<&Answer>) {
        let lost = self.strikes(Fault::AnswerLost);
        // The process and the sandbox may go together.
        let dies = self.strikes(Fault::DeadSandbox) && answer.is_none();
        let retry = self.rng.between(SECOND, 20 * SECOND);
        let (now, home) = (self.now, self.home);
        let Some(sandbox) = self.sandboxes.get_mut(token) else {
            return;
        };
        // Of a runner that is gone only the answer counts.
        let gone = sandbox.made != made;
        if !gone {
            sandbox.in_flight = false;
        }
        let name = sandbox.key();
        let taken = answer
            .filter(|answer| leaf == Leaf::Result && answer.status == 200)
            .and_then(|answer| serde_json::from_value::<ResultReply>(answer.body.clone()).ok())
            .is_some_and(|reply| reply.taken);
        if taken {
            let count = self.taken.entry(name.clone()).or_insert(0);
            *count += 1;
            if *count > 1 {
                self.breaks(format!("the result of {name:?} was taken twice"));
            }
        }
        if let Some(answer) = answer {
            let (status, body) = (answer.status, &answer.body);
            let line = || {
                let body = if leaf == Leaf::Envelope {
                    String::new()
                } else {
                    body.to_string()
                };
                format!(
                    "  {}/{}#{} {leaf:?}: {status} {body}",
                    name.0, name.1, name.2
                )
            };
            self.note(11, line);
            if !matches!(status, 200 | 404 | 410 | 503) {
                return self.breaks(format!("a runner was answered {status}: {body}"));
            }
        }
        let answer = answer.filter(|answer| !lost && answer.status != 503);
        let Some(sandbox) = self.sandboxes.get_mut(token) else {
            return;
        };
        if gone || sandbox.stage == Stage::Gone {
            return;
        }
        if dies {
            sandbox.dies_at = Some(now);
        }
        let Some(answer) = answer else {
            // While it works the next sign of life is due anyway.
            if !matches!(sandbox.stage, Stage::Work { .. }) {
                sandbox.due = Some(now.saturating_add(retry));
            }
            return;
        };
        if answer.status != 200 {
            return sandbox.runner_ends(home);
        }
        match leaf {
            Leaf::Envelope => self.begin_work(token, answer),
            Leaf::Heartbeat => {
                let reply = serde_json::from_value::<HeartbeatReply>(answer.body.clone());
                if reply.is_ok_and(|reply| reply.stop) {
                    sandbox.runner_ends(home);
                }
            }
            Leaf::Result => {
                let again = !sandbox.again;
                sandbox.again = true;
                if again && self.strikes(Fault::DoubleReport) {
                    if let Some(sandbox) = self.sandboxes.get_mut(token) {
                        sandbox.due = Some(now.saturating_add(retry));
                    }
                } else if let Some(sandbox) = self.sandboxes.get_mut(token) {
                    sandbox.runner_ends(home);
                }
            }
        }
    }

    /// The envelope has come: what the agent will do is decided.
    fn begin_work(&mut self, token: &str, answer: &Answer) {
        let Ok(envelope) = serde_json::from_value::<Envelope>(answer.body.clone()) else {
            return self.breaks("an envelope cannot be read");
        };
        let limit = Millis::try_from(envelope.seconds).unwrap_or(Millis::MAX / SECOND) * SECOND;
        let long = self.rng.chance(80);
        let takes = if self.strikes(Fault::LateReport) {
            limit.saturating_add(self.rng.between(0, 900 * SECOND))
        } else if long {
            self.rng.between(60 * SECOND, limit)
        } else {
            self.rng.between(SECOND, limit.min(90 * SECOND))
        };
        let beats = !self.strikes(Fault::NoHeartbeat);
        let usd = self.spends(&envelope);
        let outcome = self.outcome(&envelope);
        let until = self.now.saturating_add(takes);
        let beat = self.rng.between(SECOND, 60 * SECOND);
        let due = if beats {
            self.now.saturating_add(beat).min(until)
        } else {
            until
        };
        let told = self.rng.chance(900);
        if let Some(sandbox) = self.sandboxes.get_mut(token) {
            sandbox.spent = sandbox.spent.saturating_add(micro_usd(usd));
            sandbox.stage = Stage::Work { until, beats };
            sandbox.due = Some(due);
            sandbox.result = Some(StepResult {
                outcome,
                usage: Usage {
                    usd: told.then_some(usd),
                    ..Usage::default()
                },
                duration_ms: takes.unsigned_abs(),
                files: None,
            });
        }
    }

    /// Dollars, never more than the envelope allows.
    fn spends(&mut self, envelope: &Envelope) -> f64 {
        if envelope.harness == Harness::Command {
            return 0.0;
        }
        let most = envelope.usd.unwrap_or(1.5);
        match self.rng.below(4) {
            0 => most,
            1 => 0.0,
            _ => most * self.rng.below(1000) as f64 / 1000.0,
        }
    }

    fn outcome(&mut self, envelope: &Envelope) -> Outcome {
        if self.strikes(Fault::FailedResult) {
            const CLASSES: [FailureClass; 4] = [
                FailureClass::Crash,
                FailureClass::Timeout,
                FailureClass::Budget,
                FailureClass::Output,
            ];
            return Outcome::Failed(Failure {
                class: *self.rng.pick(&CLASSES).unwrap_or(&FailureClass::Crash),
                message: "the agent failed".to_owned(),
            });
        }
        let bad = self.strikes(Fault::BadResult);
        let mut output = self.fields(&envelope.output);
        if bad {
            output.remove("n");
        }
        let mut emits = BTreeMap::new();
        for (event, contract) in &envelope.emits {
            if envelope.emits_optional.contains(event) && output.get("ok") != Some(&json!(true)) {
                continue;
            }
            emits.insert(event.clone(), self.fields(contract));
        }
        Outcome::Succeeded { output, emits }
    }

    /// Values that a contract takes.
    pub(crate) fn fields(&mut self, contract: &Contract) -> Map<String, Value> {
        contract
            .fields
            .iter()
            .map(|(name, schema)| {
                let value = match schema.get("type").and_then(Value::as_str) {
                    Some("boolean") => json!(self.rng.chance(700)),
                    Some("integer") => json!(self.rng.below(10)),
                    Some("array") => {
                        let many = self.rng.chance(40);
                        let count = if many { 12 } else { self.rng.below(4) };
                        json!((0..count).collect::<Vec<_>>())
                    }
                    _ => json!(if self.rng.chance(500) { "x" } else { "y" }),
                };
                (name.clone(), value)
            })
            .collect()
    }
}
