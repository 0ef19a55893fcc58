//! What moves runs on: works the queues, takes webhooks and reports, and looks
//! after what no message looks after. Idle it sleeps, but for a glance at the
//! database a few times a second.

use crate::db::{Db, DbError};
use crate::lock::ProjectLock;
use crate::queue::{Claimed, SqliteQueue};
use crate::store;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::Manifest;
use loopy_contract::report::AttemptPath;
use loopy_engine::message::{QueueName, redelivery_delay};
use loopy_engine::ports::{Clock, PortError, SandboxState, Sandboxes, Store};
use loopy_engine::run::StepState;
use loopy_engine::{Answer, Engine, ReportRequest, WebhookRequest};
use loopy_sandbox::local;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

/// Messages of one queue that are worked on at the same time.
const CONCURRENCY: usize = 32;

/// The longest sleep of a worker: the wall clock may be set, or the machine
/// suspended, while a timer of the process knows nothing of it.
const NAP: Duration = Duration::from_secs(15);

/// How often messages from another process are looked for.
const GLANCE: Duration = Duration::from_millis(200);

/// How often running sandboxes are looked after. One that is gone is reported
/// the second time, so that a result on its way gets there first.
const CARE: Duration = Duration::from_secs(1);

/// What the loops and the HTTP server share.
pub(crate) struct Worker {
    pub(crate) _lock: ProjectLock,
    pub(crate) dir: PathBuf,
    pub(crate) db: Db,
    pub(crate) queue: SqliteQueue,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sandboxes: Arc<dyn Sandboxes>,
    pub(crate) engine: Engine,
    pub(crate) manifest: Manifest,
    /// Held for reading while an input is applied; whoever can hold it for
    /// writing knows that every effect committed so far was performed.
    pub(crate) gate: RwLock<()>,
    /// Something was committed since that was last recorded.
    pub(crate) moved: AtomicBool,
    /// Runs with effects that no message will perform: a process died, or a
    /// port failed, after the commit.
    pub(crate) troubled: Mutex<BTreeSet<RunId>>,
}

impl Worker {
    pub(crate) async fn healthy(&self) -> Result<(), DbError> {
        self.db.data_version().await.map(|_| ())
    }

    pub(crate) async fn webhook(&self, request: WebhookRequest) -> Answer {
        self.engine.webhook(request).await
    }

    pub(crate) async fn report(&self, request: ReportRequest) -> Answer {
        let _applying = self.gate.read().await;
        self.moved.store(true, Ordering::Release);
        let run = AttemptPath::parse(&request.path).map(|path| RunId(path.run));
        let answer = self.engine.report(request).await;
        if answer.status >= 500
            && let Some(run) = run
        {
            self.troubled().insert(run);
        }
        answer
    }

    fn troubled(&self) -> MutexGuard<'_, BTreeSet<RunId>> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on one queue.
    pub(crate) async fn work(self: Arc<Self>, queue: QueueName, mut stop: watch::Receiver<bool>) {
        let mut enqueued = self.queue.enqueued(queue);
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            if *stop.borrow_and_update() {
                break;
            }
            // What comes from here on wakes the sleep below.
            enqueued.mark_unchanged();
            let free = CONCURRENCY.saturating_sub(tasks.len());
            let mut nap = NAP;
            if free > 0 {
                match self.claim(queue, free).await {
                    Ok((messages, next)) => {
                        let full = messages.len() == free;
                        for message in messages {
                            tasks.spawn(Arc::clone(&self).handle(message));
                        }
                        if !full {
                            nap = next;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%queue, %error, "cannot take messages; trying again");
                        nap = Duration::from_secs(1);
                    }
                }
            }
            let full = tasks.len() >= CONCURRENCY;
            tokio::select! {
                _ = enqueued.changed(), if !full => {}
                _ = tasks.join_next(), if full => {}
                () = tokio::time::sleep(nap) => {}
                _ = stop.changed() => {}
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Works off what is due in one queue. A launch that ends after its attempt
    /// leaves a sandbox to stop, and may do so when the workers are gone.
    pub(crate) async fn drain(self: &Arc<Self>, queue: QueueName) {
        loop {
            let messages = match self.claim(queue, CONCURRENCY).await {
                Ok((messages, _)) if messages.is_empty() => return,
                Ok((messages, _)) => messages,
                Err(error) => {
                    tracing::error!(%queue, %error, "cannot take the last messages");
                    return;
                }
            };
            let mut tasks = JoinSet::new();
            for message in messages {
                tasks.spawn(Arc::clone(self).handle(message));
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    /// Messages in hand, and how long until the next one is due.
    async fn claim(
        &self,
        queue: QueueName,
        limit: usize,
    ) -> Result<(Vec<Claimed>, Duration), PortError> {
        let messages = self.queue.claim(queue, limit).await?;
        let wait = match self.queue.next_due(queue).await? {
            Some(at) => {
                let left = at.duration_since(self.clock.now());
                Duration::try_from(left).unwrap_or_default().min(NAP)
            }
            None => NAP,
        };
        Ok((messages, wait))
    }

    async fn handle(self: Arc<Self>, message: Claimed) {
        let _applying = self.gate.read().await;
        self.moved.store(true, Ordering::Release);
        let engine = self.engine.clone();
        let (queue, body) = (message.queue, message.body.clone());
        // On a task of its own, so that a panic leaves the message to be
        // released like any other failure.
        let outcome = tokio::spawn(async move { engine.process(queue, &body).await }).await;
        let problem = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.cause.to_string()),
            Err(error) => Some(format!("the engine broke off: {error}")),
        };
        // Until it is known what became of the message, nobody else gets it.
        for _ in 0..5_u8 {
            let done = match &problem {
                None => self.queue.ack(message.id).await,
                Some(why) => {
                    self.queue
                        .release(&message, redelivery_delay(message.receives), why)
                        .await
                }
            };
            match done {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "a message stays in hand; trying again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Looks for messages that another process has put into the database.
    pub(crate) async fn glance(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut last = None;
        while pause(GLANCE, &mut stop).await {
            match self.db.data_version().await {
                Ok(version) => {
                    if last.replace(version) != Some(version) {
                        self.queue.look_again();
                    }
                }
                Err(error) => tracing::error!(%error, "cannot look for new messages"),
            }
        }
    }

    /// Looks after what no message looks after.
    pub(crate) async fn care(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut gone = BTreeSet::new();
        loop {
            self.resume_troubled().await;
            if let Err(error) = self.report_lost(&mut gone).await {
                tracing::error!(%error, "cannot look after the running steps");
            }
            self.settle().await;
            if !pause(CARE, &mut stop).await {
                return;
            }
        }
    }

    async fn resume_troubled(&self) {
        let runs: Vec<RunId> = self.troubled().iter().cloned().collect();
        for run in runs {
            let _applying = self.gate.read().await;
            match self.engine.resume(&run).await {
                Ok(()) => {
                    self.troubled().remove(&run);
                    self.moved.store(true, Ordering::Release);
                }
                Err(error) => tracing::error!(%run, %error, "cannot go on with a run yet"),
            }
        }
    }

    /// Tells the engine of local sandboxes that ended without a report. `gone`
    /// holds those that were gone the last time.
    async fn report_lost(
        &self,
        gone: &mut BTreeSet<(RunId, String, u32)>,
    ) -> Result<(), PortError> {
        let before = std::mem::take(gone);
        for run in store::running(&(&self.db).into()).await? {
            for (step, state) in &run.steps {
                let StepState::Running { attempt, sandbox } = &state.state else {
                    continue;
                };
                if sandbox.provider != local::NAME
                    || self.sandboxes.state(sandbox).await? == SandboxState::Alive
                {
                    continue;
                }
                let key = (run.id.clone(), step.clone(), *attempt);
                if before.contains(&key) {
                    let _applying = self.gate.read().await;
                    self.moved.store(true, Ordering::Release);
                    tracing::warn!(run = %run.id, step, attempt, "the runner is gone");
                    if let Err(error) = self.engine.lost(&run.id, step, *attempt).await {
                        self.troubled().insert(run.id.clone());
                        return Err(error);
                    }
                } else {
                    gone.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Records, at a quiet moment, that all effects were performed.
    pub(crate) async fn settle(&self) {
        let Ok(_quiet) = self.gate.try_write() else {
            return;
        };
        if !self.troubled().is_empty() || !self.moved.swap(false, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = store::settle(&self.db).await {
            self.moved.store(true, Ordering::Release);
            tracing::warn!(%error, "not recorded; trying again");
        }
    }
}

/// Sleeps; false when told to stop.
async fn pause(length: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        _ = stop.changed() => {}
    }
    !*stop.borrow()
}
