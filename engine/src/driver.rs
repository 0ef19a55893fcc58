//! The driver, always in this order: load run and version, transition, commit
//! if the version still stands, perform effects, and only then let the caller
//! acknowledge the message.
//!
//! What it committed last it keeps in memory, so that the next input of the same
//! run need not be preceded by a read. That is safe: a commit on top of a state
//! that is no longer the last one is refused by its version, and an input that
//! seems to change nothing is looked at again over a state freshly read.

use crate::envelope;
use crate::limits::ceiling;
use crate::message::Message;
use crate::outgoing::{Outgoing, outgoing};
use crate::ports::{Allowance, Commit, Launch, LaunchError, LaunchSpec, PortError, Ports, Stored};
use crate::run::{Effect, Pending, Run, RunStatus};
use crate::token;
use crate::transition::{self, Input, LAUNCH_GRACE_SECONDS, launch_token};
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::Manifest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a commit is tried again when others commit in between. Past it
/// the message is left to its redelivery.
const MAX_CONFLICTS: u32 = 20;

/// How many runs are kept in memory.
const MAX_KEPT: usize = 2048;

/// Drives runs over the ports of one home.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) ports: Arc<Ports>,
    kept: Arc<Mutex<HashMap<RunId, Slot>>>,
}

/// The last committed state of one run, as far as this process knows it, without
/// the effects it has performed. Whoever holds it applies an input.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Stored>>>>;

/// What became of an input.
pub(crate) struct Applied {
    stored: Arc<Stored>,
    /// Whether it made a difference.
    pub(crate) changed: bool,
}

impl Applied {
    /// The run after it.
    pub(crate) fn run(&self) -> &Run {
        &self.stored.run
    }
}

/// Says that a run is over. In an account the words of a failure are counted (see
/// `FailedRuns` in template.yaml).
fn tell_end(run: &Run) {
    let (id, workflow) = (&run.id, &run.workflow);
    match &run.status {
        RunStatus::Failed { step, failure } => {
            tracing::info!(%id, workflow, step, class = ?failure.class, "run failed");
        }
        status if status.is_over() => {
            tracing::info!(%id, workflow, status = status.name(), "run over");
        }
        _ => {}
    }
}

impl Driver {
    pub(crate) fn new(ports: Arc<Ports>) -> Self {
        Self {
            ports,
            kept: Arc::default(),
        }
    }

    /// Starts (or finds) the run of `event` in `workflow` and hands off its entry.
    pub(crate) async fn start(
        &self,
        manifest: &Arc<Manifest>,
        workflow: &str,
        event: &Event,
    ) -> Result<(), PortError> {
        let now = self.ports.clock.now();
        match transition::begin(manifest, workflow, event, now) {
            None => Ok(()),
            Some(run) => self.create(manifest, run).await,
        }
    }

    /// Makes a run, unless it is there, and performs its first effects.
    pub(crate) async fn create(&self, manifest: &Arc<Manifest>, run: Run) -> Result<(), PortError> {
        let id = run.id.clone();
        let slot = self.slot(&id);
        // Held until it is kept, so that whoever works on its first message
        // finds it there.
        let mut held = slot.lock().await;
        match self.ports.store.create(run).await? {
            Commit::Done(stored) => {
                let stored: Arc<Stored> = Arc::from(stored);
                let run = &stored.run;
                tracing::info!(%id, workflow = run.workflow, event = %run.event.name, "run started");
                tell_end(run);
                *held = Some(Arc::clone(&stored));
                drop(held);
                self.perform(manifest, &stored, &Input::Start.cause()).await
            }
            Commit::Conflict => {
                drop(held);
                self.apply(&id, Input::Start).await.map(|_| ())
            }
        }
    }

    /// Applies an input to a run and performs what follows. Gives back the run,
    /// or `None` when there is no such run.
    pub(crate) async fn apply(
        &self,
        id: &RunId,
        input: Input,
    ) -> Result<Option<Applied>, PortError> {
        let slot = self.slot(id);
        let mut held = slot.lock().await;
        for _ in 0..MAX_CONFLICTS {
            let (stored, fresh) = match held.take() {
                Some(stored) => (stored, false),
                None => match self.ports.store.load(id).await? {
                    Some(stored) => (Arc::new(stored), true),
                    None => return Ok(None),
                },
            };
            let manifest = self.ports.manifests.get(&stored.run.manifest).await?;
            let now = self.ports.clock.now();
            let version = stored.version;
            let (run, kept) = if fresh {
                (stored.run.clone(), Some(stored))
            } else {
                // Copied only if an effect of it is still being performed.
                (Arc::unwrap_or_clone(stored).run, None)
            };
            let was_over = run.status.is_over();
            let (run, changed) = transition::transition(&manifest, run, &input, now);
            if !changed {
                let Some(stored) = kept else { continue };
                *held = Some(Arc::clone(&stored));
                drop(held);
                self.perform(&manifest, &stored, &input.cause()).await?;
                return Ok(Some(Applied { stored, changed }));
            }
            let Commit::Done(stored) = self.ports.store.commit(run, version).await? else {
                continue;
            };
            let stored: Arc<Stored> = Arc::from(stored);
            if stored.run.status.is_over() {
                if !was_over {
                    tell_end(&stored.run);
                }
                self.forget(id);
            } else {
                *held = Some(Arc::clone(&stored));
            }
            drop(held);
            self.perform(&manifest, &stored, &input.cause()).await?;
            return Ok(Some(Applied { stored, changed }));
        }
        Err(PortError::new(
            format!("commit run {id}"),
            format!("others committed first {MAX_CONFLICTS} times"),
        ))
    }

    /// The run as it was last committed.
    pub(crate) async fn load(&self, id: &RunId) -> Result<Option<Arc<Stored>>, PortError> {
        let slot = self.slot(id);
        let mut held = slot.lock().await;
        let stored = self.ports.store.load(id).await?.map(Arc::new);
        match &stored {
            Some(stored) if !stored.run.status.is_over() => {
                // What is kept of this very version knows more: which of its
                // effects were performed.
                let known = held
                    .as_ref()
                    .is_some_and(|kept| kept.version == stored.version);
                if !known {
                    *held = Some(Arc::clone(stored));
                }
            }
            _ => self.forget(id),
        }
        Ok(stored)
    }

    /// The run as this process knows it, or else as it was last committed.
    pub(crate) async fn recall(&self, id: &RunId) -> Result<Option<Arc<Stored>>, PortError> {
        let slot = self.slot(id);
        let kept = slot.lock().await.clone();
        match kept {
            Some(stored) => Ok(Some(stored)),
            None => self.load(id).await,
        }
    }

    /// Performs all that is pending, whatever caused it: after a crash, when no
    /// message is left to come again.
    pub(crate) async fn resume(&self, id: &RunId) -> Result<(), PortError> {
        let Some(stored) = self.ports.store.load(id).await? else {
            return Ok(());
        };
        let manifest = self.ports.manifests.get(&stored.run.manifest).await?;
        for pending in &stored.run.pending {
            self.perform_one(&manifest, &stored.run, &pending.effect)
                .await?;
        }
        Ok(())
    }

    /// Performs the effects that this cause left pending, in order, and
    /// remembers that it did.
    pub(crate) async fn perform(
        &self,
        manifest: &Arc<Manifest>,
        stored: &Stored,
        cause: &str,
    ) -> Result<(), PortError> {
        let due: Vec<&Pending> = stored
            .run
            .pending
            .iter()
            .filter(|pending| pending.cause == cause)
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        for pending in &due {
            self.perform_one(manifest, &stored.run, &pending.effect)
                .await?;
        }
        // A launch is only known to be performed when its result comes: until
        // then a redelivery has to go on with it.
        let is_launch = |pending: &Pending| matches!(pending.effect, Effect::Launch { .. });
        if stored.run.status.is_over() || due.iter().all(|pending| is_launch(pending)) {
            return Ok(());
        }
        let slot = self.slot(&stored.run.id);
        if let Some(kept) = slot.lock().await.as_mut()
            && kept.version == stored.version
        {
            let kept = Arc::make_mut(kept);
            kept.run
                .pending
                .retain(|pending| is_launch(pending) || !due.contains(&pending));
        }
        Ok(())
    }

    async fn perform_one(
        &self,
        manifest: &Arc<Manifest>,
        run: &Run,
        effect: &Effect,
    ) -> Result<(), PortError> {
        match effect {
            Effect::Launch { step, attempt } => {
                // The timer is on its way before the sandbox is, and in no hurry:
                // whoever waits for this acknowledges the turn only after both.
                let timed = self.arm_first_look(manifest, run, step, *attempt);
                let launched = Box::pin(self.launch(manifest, run, step, *attempt));
                let (timed, launched) = tokio::join!(timed, launched);
                timed.and(launched)
            }
            Effect::Release { step, attempt } => self.release(run, step, *attempt).await,
            other => {
                let now = self.ports.clock.now();
                for one in outgoing(run, other, now).into_iter().flatten() {
                    self.send(manifest, one).await?;
                }
                Ok(())
            }
        }
    }

    async fn send(&self, manifest: &Manifest, outgoing: Outgoing) -> Result<(), PortError> {
        let ports = &self.ports;
        match outgoing {
            Outgoing::Send { message, delay } => ports.queues.send(&message, delay).await,
            Outgoing::Arm { key, at, message } => ports.timers.arm(&key, at, &message).await,
            Outgoing::Disarm { key } => ports.timers.disarm(&key).await,
            Outgoing::Publish { event } => self.publish(manifest, &event).await,
        }
    }

    async fn arm_first_look(
        &self,
        manifest: &Arc<Manifest>,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let now = self.ports.clock.now();
        let look = transition::first_look(run, step, attempt, now);
        for one in look
            .and_then(|look| outgoing(run, &look, now))
            .into_iter()
            .flatten()
        {
            self.send(manifest, one).await?;
        }
        Ok(())
    }

    async fn launch(
        &self,
        manifest: &Manifest,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let too_large = envelope::bare(manifest, run, step, attempt)
            .ok()
            .and_then(|bare| envelope::too_large(&bare.envelope));
        let for_good = too_large.is_some();
        let spec = match too_large {
            // No sandbox is paid for that could not be told what to do.
            Some(message) => Err(message),
            None => self.launch_spec(manifest, run, step, attempt).await?,
        };
        let message = match spec {
            Err(message) => message,
            Ok(spec) => match self.ports.sandboxes.launch(&spec).await {
                Ok(Launch::Started) => return Ok(()),
                Ok(Launch::Pending(wait)) => {
                    let again = Message::Handoff {
                        run: run.id.clone(),
                        step: step.to_owned(),
                        attempt,
                    };
                    return self.ports.queues.send(&again, wait).await;
                }
                Err(LaunchError::Refused(message)) => message,
                Err(LaunchError::Trouble(trouble)) => return Err(trouble),
            },
        };
        let input = Input::LaunchFailed {
            step: step.to_owned(),
            attempt,
            message,
            for_good,
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
        let named = agent.and_then(|agent| Some((agent.harness, agent.sandbox.clone()?)));
        let Some((harness, name)) = named else {
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
        let budget = plan.and_then(|step| step.budget.as_ref());
        let seconds = transition::step_seconds(plan).saturating_add(LAUNCH_GRACE_SECONDS);
        Ok(Ok(LaunchSpec {
            run: run.id.clone(),
            step: step.to_owned(),
            attempt,
            client_token: launch_token(&run.id, step, attempt),
            name,
            sandbox: sandbox.clone(),
            token,
            time_limit: Duration::from_secs(seconds),
            harness,
            allowance: Allowance {
                usd: ceiling(budget, run.attempt(step, attempt)),
                tokens: budget.and_then(|budget| budget.tokens),
                prices: manifest.registry.prices.clone(),
            },
        }))
    }

    fn slot(&self, id: &RunId) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT && !kept.contains_key(id) {
            // What nobody is using can be read again.
            kept.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(kept.entry(id.clone()).or_default())
    }

    fn forget(&self, id: &RunId) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}
