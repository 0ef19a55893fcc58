//! The driver, always in this order: load run and version, transition, commit
//! if the version still stands, perform effects, and only then let the caller
//! acknowledge the message.

use crate::message::Message;
use crate::ports::{Commit, Launch, LaunchError, LaunchSpec, PortError, Ports};
use crate::run::{Effect, Run};
use crate::token;
use crate::transition::{self, Input, LAUNCH_GRACE_SECONDS};
use loopy_contract::event::Event;
use loopy_contract::ids::{RunId, derive};
use loopy_contract::manifest::Manifest;
use std::sync::Arc;
use std::time::Duration;

/// How often a commit is tried again when others commit in between. Past it
/// the message is left to its redelivery.
const MAX_CONFLICTS: u32 = 20;

/// Drives runs over the ports of one home.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) ports: Arc<Ports>,
}

impl Driver {
    /// Starts (or finds) the run of `event` in `workflow` and hands off its entry.
    pub(crate) async fn start(
        &self,
        manifest: &Manifest,
        workflow: &str,
        event: &Event,
    ) -> Result<(), PortError> {
        let now = self.ports.clock.now();
        let Some(run) = transition::begin(manifest, workflow, event, now) else {
            return Ok(());
        };
        match self.ports.store.create(&run).await? {
            Commit::Done(_) => {
                tracing::info!(run = %run.id, workflow, event = %event.name, "run started");
                let manifest = Arc::new(manifest.clone());
                self.perform(manifest, run, &Input::Start).await
            }
            Commit::Conflict => self.apply(&run.id, Input::Start).await.map(|_| ()),
        }
    }

    /// Applies an input to a run and performs what follows. Gives back the run,
    /// or `None` when there is no such run.
    pub(crate) async fn apply(&self, id: &RunId, input: Input) -> Result<Option<Run>, PortError> {
        for _ in 0..MAX_CONFLICTS {
            let Some(stored) = self.ports.store.load(id).await? else {
                return Ok(None);
            };
            let manifest = self.ports.manifests.get(&stored.run.manifest).await?;
            let now = self.ports.clock.now();
            let (run, changed) = transition::transition(&manifest, stored.run, &input, now);
            if changed && self.ports.store.commit(&run, stored.version).await? == Commit::Conflict {
                continue;
            }
            self.perform(manifest, run.clone(), &input).await?;
            return Ok(Some(run));
        }
        Err(PortError::new(
            format!("commit run {id}"),
            format!("others committed first {MAX_CONFLICTS} times"),
        ))
    }

    /// Performs all that is pending, whatever caused it: after a crash, when no
    /// message is left to come again.
    pub(crate) async fn resume(&self, id: &RunId) -> Result<(), PortError> {
        let Some(stored) = self.ports.store.load(id).await? else {
            return Ok(());
        };
        let manifest = self.ports.manifests.get(&stored.run.manifest).await?;
        let run = stored.run;
        for pending in &run.pending {
            self.perform_one(&manifest, &run, &pending.effect).await?;
        }
        Ok(())
    }

    /// Performs the effects that this input, or an earlier one of the same
    /// attempt, left pending; in order.
    async fn perform(
        &self,
        manifest: Arc<Manifest>,
        run: Run,
        input: &Input,
    ) -> Result<(), PortError> {
        let cause = input.cause();
        for pending in run.pending.iter().filter(|pending| pending.cause == cause) {
            self.perform_one(&manifest, &run, &pending.effect).await?;
        }
        Ok(())
    }

    async fn perform_one(
        &self,
        manifest: &Manifest,
        run: &Run,
        effect: &Effect,
    ) -> Result<(), PortError> {
        match effect {
            Effect::Handoff { step, attempt } => {
                let message = handoff(run, step, *attempt);
                self.ports.queues.send(&message, Duration::ZERO).await
            }
            Effect::ArmTimeLimit { step, attempt, at } => {
                let message = Message::TimeLimit {
                    run: run.id.clone(),
                    step: step.clone(),
                    attempt: *attempt,
                };
                self.ports
                    .timers
                    .arm(&timer_key(run, step, *attempt), *at, &message)
                    .await
            }
            Effect::DisarmTimeLimit { step, attempt } => {
                self.ports
                    .timers
                    .disarm(&timer_key(run, step, *attempt))
                    .await
            }
            Effect::Publish { event } => self.ports.bus.publish(event).await,
            Effect::Stop { sandbox } => {
                let message = Message::Stop {
                    sandbox: sandbox.clone(),
                };
                self.ports.queues.send(&message, Duration::ZERO).await
            }
            Effect::Launch { step, attempt } => {
                Box::pin(self.launch(manifest, run, step, *attempt)).await
            }
        }
    }

    async fn launch(
        &self,
        manifest: &Manifest,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let input = match self.launch_spec(manifest, run, step, attempt).await? {
            Err(message) => Input::LaunchFailed {
                step: step.to_owned(),
                attempt,
                message,
            },
            Ok(spec) => match self.ports.sandboxes.launch(&spec).await {
                Ok(Launch::Started(sandbox)) => Input::Launched {
                    step: step.to_owned(),
                    attempt,
                    sandbox,
                },
                Ok(Launch::Pending(wait)) => {
                    return self
                        .ports
                        .queues
                        .send(&handoff(run, step, attempt), wait)
                        .await;
                }
                Err(LaunchError::Refused(message)) => Input::LaunchFailed {
                    step: step.to_owned(),
                    attempt,
                    message,
                },
                Err(LaunchError::Trouble(trouble)) => return Err(trouble),
            },
        };
        self.apply(&run.id, input).await.map(|_| ())
    }

    /// What to launch; the inner error says why it can never be launched.
    async fn launch_spec(
        &self,
        manifest: &Manifest,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<Result<LaunchSpec, String>, PortError> {
        let plan = manifest
            .workflows
            .get(&run.workflow)
            .and_then(|plan| plan.steps.get(step));
        let agent = plan
            .and_then(|step| step.agent.as_ref())
            .and_then(|name| manifest.registry.agents.get(name));
        let Some(name) = agent.and_then(|agent| agent.sandbox.clone()) else {
            return Ok(Err(format!(
                "step {}/{step} has no agent with a sandbox",
                run.workflow
            )));
        };
        let Some(sandbox) = manifest.registry.sandboxes.get(&name) else {
            return Ok(Err(format!("sandbox {name} is not in the registry")));
        };
        let key = self.ports.secrets.token_key().await?;
        let Some(token) = token::derive(&key, &run.id, step, attempt) else {
            return Ok(Err("the token key cannot be used".to_owned()));
        };
        let seconds = transition::step_seconds(plan).saturating_add(LAUNCH_GRACE_SECONDS);
        Ok(Ok(LaunchSpec {
            run: run.id.clone(),
            step: step.to_owned(),
            attempt,
            client_token: format!(
                "loopy-{}",
                derive(&["launch", run.id.as_str(), step, &attempt.to_string()], 32)
            ),
            name,
            sandbox: sandbox.clone(),
            token,
            time_limit: Duration::from_secs(seconds),
        }))
    }
}

fn handoff(run: &Run, step: &str, attempt: u32) -> Message {
    Message::Handoff {
        run: run.id.clone(),
        step: step.to_owned(),
        attempt,
    }
}

fn timer_key(run: &Run, step: &str, attempt: u32) -> String {
    format!("{}/{step}/{attempt}", run.id)
}
