//! What moves runs on beside the queues: takes webhooks and reports, and looks
//! after what no message looks after. Idle it sleeps, but for a glance at the
//! database a few times a second.

use crate::db::Db;
use crate::db_error::DbError;
use crate::lock::ProjectLock;
use crate::queue::SqliteQueue;
use crate::store;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::Manifest;
use loopy_contract::report::AttemptPath;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{Clock, PortError, SandboxState, Sandboxes, Store};
use loopy_engine::run::{Run, SandboxRef, StepState, Unit};
use loopy_engine::{Answer, Engine, ReportRequest, WebhookRequest, unloadable};
use loopy_sandbox::{docker, local};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, watch};

/// How often messages from another process are looked for.
const GLANCE: Duration = Duration::from_millis(200);

/// How often running sandboxes are looked after. One that is gone is reported
/// the second time, so that a result on its way gets there first.
const CARE: Duration = Duration::from_secs(1);

/// How often sensors that could not be loaded are loaded again.
const RELOAD: Duration = Duration::from_secs(5);

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

    pub(crate) async fn webhook_head(&self, head: &WebhookRequest) -> Option<Answer> {
        self.engine.webhook_head(head).await
    }

    pub(crate) async fn report_head(&self, head: &ReportRequest) -> Option<Answer> {
        self.engine.report_head(head).await
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

    /// Looks for messages that another process has put into the database.
    pub(crate) async fn glance(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let (mut last, mut others) = (None, None);
        while pause(GLANCE, &mut stop).await {
            match self.db.data_version().await {
                Ok(version) => {
                    if last.replace(version) != Some(version) {
                        self.look_for_others(&mut others).await;
                    }
                }
                Err(error) => tracing::error!(%error, "cannot look for new messages"),
            }
        }
    }

    /// Somebody committed; has the queues looked at if it was another process.
    async fn look_for_others(&self, last: &mut Option<i64>) {
        match self.db.foreign_version().await {
            Ok(version) => {
                if last.replace(version) != Some(version) {
                    self.queue.look_again();
                }
            }
            Err(error) => tracing::error!(%error, "cannot look for new messages"),
        }
    }

    /// Looks after what no message looks after.
    pub(crate) async fn care(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut gone = BTreeSet::new();
        loop {
            let begun = Instant::now();
            self.resume_troubled().await;
            if let Err(error) = self.report_lost(&mut gone).await {
                tracing::error!(%error, "cannot look after the running steps");
            }
            self.settle().await;
            // With many runs a look takes long; it must not take much of the time.
            if !pause(CARE.max(20 * begun.elapsed()), &mut stop).await {
                return;
            }
        }
    }

    /// Loads sensors again while one could not be loaded: what it lacked may have come.
    pub(crate) async fn watch_sensors(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while pause(RELOAD, &mut stop).await {
            let again = async {
                let before = unloadable(&*self.store, &self.manifest).await?;
                if before.is_empty() {
                    return Ok(());
                }
                let after = self.engine.load_sensors().await?;
                for sensor in before.keys().filter(|name| !after.contains_key(*name)) {
                    tracing::warn!(sensor, "it can be loaded now");
                }
                Ok::<_, PortError>(())
            };
            if let Err(error) = again.await {
                tracing::error!(%error, "cannot tell whether the sensors can be loaded");
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
        let mut lost = Vec::new();
        let mut last = None;
        loop {
            let (runs, next) = store::open_runs(&(&self.db).into(), last).await?;
            for run in &runs {
                for (step, attempt, sandbox) in at_work(run) {
                    if self.sandboxes.state(sandbox).await? == SandboxState::Alive {
                        continue;
                    }
                    let key = (run.id.clone(), step.to_owned(), attempt);
                    if before.contains(&key) {
                        lost.push((key, sandbox.clone()));
                    } else {
                        gone.insert(key);
                    }
                }
            }
            if next.is_none() {
                break;
            }
            last = next;
        }
        if lost.is_empty() {
            return Ok(());
        }
        // Those whose turn is still to come were not launched: they stand in the
        // run before that.
        let turns = self.turns().await?;
        for (key, sandbox) in lost {
            if turns.contains(&key) {
                gone.insert(key);
            // Its turn may have come since it was looked for.
            } else if self.sandboxes.state(&sandbox).await? != SandboxState::Alive {
                let (run, step, attempt) = &key;
                self.lost(run, step, *attempt).await?;
            }
        }
        Ok(())
    }

    /// The attempts whose turn is in the queue, in hand or not.
    async fn turns(&self) -> Result<BTreeSet<(RunId, String, u32)>, PortError> {
        let mut bodies = self.queue.bodies(QueueName::Steps).await?;
        bodies.append(&mut self.queue.bodies(QueueName::Watch).await?);
        let messages = bodies
            .iter()
            .filter_map(|body| serde_json::from_str::<Message>(body).ok());
        let turns = messages.filter_map(|message| match message {
            Message::Handoff { run, step, attempt } | Message::Wake { run, step, attempt } => {
                Some((run, step, attempt))
            }
            _ => None,
        });
        Ok(turns.collect())
    }

    async fn lost(&self, run: &RunId, step: &str, attempt: u32) -> Result<(), PortError> {
        let _applying = self.gate.read().await;
        self.moved.store(true, Ordering::Release);
        tracing::warn!(%run, step, attempt, "the runner is gone");
        let told = self.engine.lost(run, step, attempt).await;
        if told.is_err() {
            self.troubled().insert(run.clone());
        }
        told
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

/// The attempts that work in sandboxes on this machine.
fn at_work(run: &Run) -> impl Iterator<Item = (&str, u32, &SandboxRef)> {
    run.steps.iter().flat_map(move |(name, step)| {
        let units = match &step.state {
            StepState::Working { units } => units.as_slice(),
            _ => &[],
        };
        units.iter().filter_map(move |unit| {
            let Unit::Running { attempt } = unit else {
                return None;
            };
            let sandbox = run.attempt(name, *attempt)?.sandbox.as_ref()?;
            let here = [local::NAME, docker::NAME].contains(&sandbox.provider.as_str());
            here.then_some((name.as_str(), *attempt, sandbox))
        })
    })
}

/// Sleeps; false when told to stop.
pub(crate) async fn pause(length: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        _ = stop.changed() => {}
    }
    !*stop.borrow()
}
