//! The home itself: opens a project's state under its lock, wires the engine to
//! it, and drives the queues until told to stop. Idle it sleeps, but for a
//! glance at the database a few times a second.

use crate::bus::LocalBus;
use crate::clock::SystemClock;
use crate::db::{Db, DbError};
use crate::http;
use crate::lock::ProjectLock;
use crate::manifests::{KeepError, LocalManifests};
use crate::queue::{Claimed, SqliteQueue};
use crate::schedules::Schedules;
use crate::secrets::LocalSecrets;
use crate::sensor_code::{PythonSensors, TIME_LIMIT};
use crate::state::State;
use crate::store::{self, SqliteStore};
use async_trait::async_trait;
use bytes::Bytes;
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Manifest, SensorTrigger};
use loopy_engine::message::{QueueName, redelivery_delay};
use loopy_engine::ports::{
    Clock, Manifests, PortError, Ports, SandboxState, Sandboxes, Secrets, Store,
};
use loopy_engine::run::StepState;
use loopy_engine::{Answer, Engine, ReportRequest, SubmitError, WebhookRequest, unsupported};
use loopy_sandbox::Providers;
use loopy_sandbox::daytona::{self, API_KEY, Daytona, RunnerBinary};
use loopy_sandbox::local::{self, Local, LocalConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
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

/// How long work that has begun may take to finish once told to stop.
const FINISH: Duration = Duration::from_secs(10);

/// How long to wait for another process that is just looking at the lock, or
/// just ending.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Where and what to serve.
pub struct HomeOptions {
    /// The project's directory.
    pub project: PathBuf,
    /// The compiled project, which new runs begin with.
    pub manifest: Manifest,
    /// Skill and sensor files by content hash, as the manifest names them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How the outside reaches the listener (`https://host`), for webhooks and
    /// for sandboxes on other machines.
    pub public_url: Option<String>,
    /// The command line that starts the runner on this machine; the program is
    /// an absolute path.
    pub runner: Vec<String>,
    /// The runner's binary for sandboxes on other machines (x86-64 Linux).
    pub remote_runner: Option<PathBuf>,
    /// The process's environment: secrets, `PATH`, `LOOPY_PYTHON`.
    pub environment: BTreeMap<String, String>,
}

impl HomeOptions {
    /// Options that serve `project` on a free port of this machine alone, with
    /// this process's environment, and start runners by `runner`.
    pub fn new(
        project: PathBuf,
        manifest: Manifest,
        files: BTreeMap<String, Vec<u8>>,
        runner: Vec<String>,
    ) -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            project,
            manifest,
            files,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            runner,
            remote_runner: None,
            environment: std::env::vars_os().filter_map(text).collect(),
        }
    }
}

/// A project could not be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process drives the project.
    #[error("another process serves {0} already; stop it first")]
    Locked(PathBuf),
    /// The manifest asks for what this version does not execute.
    #[error("this version of Loopy cannot run the project: {}", .0.join("; "))]
    Unsupported(Vec<String>),
    /// Strangers could start runs.
    #[error(
        "{} would take deliveries from anyone, and {reach} can be reached from outside; give \
         `verify=` a scheme (or \"none\" to allow it)",
        .sensors.join(", ")
    )]
    Unverified {
        /// The sensors without verification.
        sensors: Vec<String>,
        /// What makes them reachable.
        reach: String,
    },
    /// A sandbox elsewhere could not report.
    #[error(
        "sandbox `{0}` is on another machine and has to reach this one; give the public URL of \
         this listener, or use `provider: local`"
    )]
    NoPublicUrl(String),
    /// A sandbox elsewhere needs a runner.
    #[error(
        "sandbox `{0}` is on another machine and needs the binary loopy-runner for x86-64 Linux; \
         say where it is, or use `provider: local`"
    )]
    NoRunner(String),
    /// The service that has the sandboxes would refuse.
    #[error(
        "sandbox `{0}` is at Daytona and {API_KEY} is not set; set it in the environment or in \
         loopy.env, or use `provider: local`"
    )]
    NoKey(String),
    /// The address is not to be had.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// A file of the state directory could not be used.
    #[error("cannot use {path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The manifest or its files could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// A port failed while things were set up.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A project that this process, and no other, drives.
pub struct LocalHome {
    inner: Arc<Inner>,
    listener: TcpListener,
    address: SocketAddr,
}

impl LocalHome {
    /// Takes the project's lock, opens its state and binds the listener. Runs
    /// move once [`LocalHome::serve`] is called.
    ///
    /// # Errors
    /// [`OpenError`] says what is in the way; nothing has run then.
    pub async fn open(options: HomeOptions) -> Result<Self, OpenError> {
        let missing = unsupported(&options.manifest);
        if !missing.is_empty() {
            return Err(OpenError::Unsupported(missing));
        }
        refuse_strangers(&options)?;
        let remote = remote(&options)?;
        let project = options
            .project
            .canonicalize()
            .map_err(|why| OpenError::File {
                path: options.project.clone(),
                why,
            })?;
        let dir = project.join(crate::STATE_DIR);
        // Makes the directory too.
        let db = Db::open(&dir)?;
        let lock = take_lock(&project, &dir).await?;
        ignore_in_git(&dir)?;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock));
        queue.reset_leases().await?;

        let listener =
            TcpListener::bind(options.listen)
                .await
                .map_err(|why| OpenError::Listen {
                    address: options.listen,
                    why,
                })?;
        let address = listener.local_addr().map_err(|why| OpenError::Listen {
            address: options.listen,
            why,
        })?;
        let report_file = dir.join("report-url");
        write_report_url(&report_file, address)?;

        let environment = options.environment;
        let search_path = environment
            .get("PATH")
            .map_or_else(|| OsString::from(local::PLAIN_PATH), OsString::from);
        let python = environment.get("LOOPY_PYTHON").map(PathBuf::from);
        let secrets: Arc<dyn Secrets> = Arc::new(LocalSecrets::new(&project, &dir, environment));
        let mut providers = Providers::new().with_local(Local::new(LocalConfig {
            state: dir.clone(),
            runner: options.runner,
            report_url: format!("file://{}", report_file.display()),
            path: local::PLAIN_PATH.to_owned(),
        }));
        if let Some((name, runner, report_url)) = remote {
            if !secrets.engine_env().await?.contains_key(API_KEY) {
                return Err(OpenError::NoKey(name));
            }
            let runner = Arc::new(RunnerFile(runner));
            let daytona = Daytona::new(Arc::clone(&secrets), runner, report_url)?;
            providers = providers.with_daytona(daytona);
        }
        let sandboxes: Arc<dyn Sandboxes> = Arc::new(providers);
        let manifests: Arc<dyn Manifests> = Arc::new(
            LocalManifests::open(db.clone(), &dir, options.manifest.clone(), &options.files)
                .await?,
        );
        let store: Arc<dyn Store> = Arc::new(SqliteStore::new(db.clone(), Arc::clone(&clock)));
        let engine = Engine::new(Ports {
            store: Arc::clone(&store),
            queues: Arc::new(queue.clone()),
            bus: Arc::new(LocalBus::new(queue.clone(), Arc::clone(&manifests))),
            timers: Arc::new(queue.clone()),
            manifests,
            secrets,
            sandboxes: Arc::clone(&sandboxes),
            sensor_code: Arc::new(PythonSensors::new(
                &project,
                &dir,
                search_path,
                python,
                TIME_LIMIT,
            )),
            clock: Arc::clone(&clock),
        });
        let unsettled = store::unsettled(&(&db).into()).await?;
        let inner = Inner {
            _lock: lock,
            dir,
            db,
            queue,
            store,
            clock,
            sandboxes,
            engine,
            manifest: options.manifest,
            gate: RwLock::new(()),
            moved: AtomicBool::new(true),
            troubled: Mutex::new(unsettled.into_iter().collect()),
        };
        Ok(Self {
            inner: Arc::new(inner),
            listener,
            address,
        })
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A reader of the state; it stays good while the home serves.
    pub fn state(&self) -> State {
        State::of(&self.inner.dir, &self.inner.db)
    }

    /// Checks an event and puts it on the bus; its runs move once the home
    /// serves.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn submit(&self, event: &Event) -> Result<(), SubmitError> {
        self.inner.engine.submit(event).await
    }

    /// Drives runs, answers HTTP and fires schedules until `shutdown` resolves.
    /// Steps that are running go on in their sandboxes; what serves the project
    /// next takes their results.
    pub async fn serve<S: Future<Output = ()>>(self, shutdown: S) {
        let Self {
            inner,
            listener,
            address,
        } = self;
        tracing::info!(%address, "serving");
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for queue in QueueName::ALL {
            tasks.spawn(Arc::clone(&inner).work(queue, stopped.clone()));
        }
        tasks.spawn(Arc::clone(&inner).glance(stopped.clone()));
        tasks.spawn(Arc::clone(&inner).care(stopped.clone()));
        let schedules = Schedules {
            queue: inner.queue.clone(),
            store: Arc::clone(&inner.store),
            clock: Arc::clone(&inner.clock),
            stop: stopped.clone(),
        };
        schedules.spawn(&inner.manifest, &mut tasks);
        let router = http::router(Arc::clone(&inner));
        let mut http_stop = stopped;
        tasks.spawn(async move {
            let until = async move {
                // An error means that the sender is gone, which is a stop too.
                let _ = http_stop.wait_for(|stop| *stop).await;
            };
            if let Err(error) = axum::serve(listener, router)
                .with_graceful_shutdown(until)
                .await
            {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        shutdown.await;
        tracing::info!("stopping");
        stop.send_replace(true);
        let all = async {
            while tasks.join_next().await.is_some() {}
            inner.drain(QueueName::Watch).await;
        };
        if tokio::time::timeout(FINISH, all).await.is_ok() {
            inner.settle().await;
        } else {
            // Cut off between commit and ack: the next process goes on with it.
            tracing::warn!("some work did not finish in time; it will be taken up again");
        }
    }
}

/// What the loops and the HTTP server share.
pub(crate) struct Inner {
    _lock: ProjectLock,
    dir: PathBuf,
    db: Db,
    queue: SqliteQueue,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    sandboxes: Arc<dyn Sandboxes>,
    engine: Engine,
    manifest: Manifest,
    /// Held for reading while an input is applied; whoever can hold it for
    /// writing knows that every effect committed so far was performed.
    gate: RwLock<()>,
    /// Something was committed since that was last recorded.
    moved: AtomicBool,
    /// Runs with effects that no message will perform: a process died, or a
    /// port failed, after the commit.
    troubled: Mutex<BTreeSet<RunId>>,
}

impl Inner {
    pub(crate) async fn healthy(&self) -> Result<(), DbError> {
        self.db.data_version().await.map(|_| ())
    }

    pub(crate) async fn webhook(&self, request: WebhookRequest) -> Answer {
        self.engine.webhook(request).await
    }

    pub(crate) async fn report(&self, request: ReportRequest) -> Answer {
        let _applying = self.gate.read().await;
        self.moved.store(true, Ordering::Release);
        let run = request.path.split('/').nth(3).map(RunId::from);
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
    async fn work(self: Arc<Self>, queue: QueueName, mut stop: watch::Receiver<bool>) {
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
    async fn drain(self: &Arc<Self>, queue: QueueName) {
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
    async fn glance(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
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
    async fn care(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
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
    async fn settle(&self) {
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

/// Refuses what would let strangers in, or keep a sandbox from reporting.
fn refuse_strangers(options: &HomeOptions) -> Result<(), OpenError> {
    let reach = match &options.public_url {
        Some(url) => Some(url.clone()),
        None if !options.listen.ip().is_loopback() => Some(options.listen.to_string()),
        None => None,
    };
    if let Some(reach) = reach {
        let open = |trigger: &SensorTrigger| {
            matches!(trigger, SensorTrigger::Webhook { verify: None, .. })
        };
        let sensors: Vec<String> = options
            .manifest
            .sensors
            .iter()
            .filter(|sensor| open(&sensor.trigger))
            .map(|sensor| format!("sensor `{}`", sensor.name))
            .collect();
        if !sensors.is_empty() {
            return Err(OpenError::Unverified { sensors, reach });
        }
    }
    Ok(())
}

/// A sandbox's name, the runner's binary and the report URL for sandboxes on other machines;
/// `None` when no step uses one.
fn remote(options: &HomeOptions) -> Result<Option<(String, PathBuf, String)>, OpenError> {
    let registry = &options.manifest.registry;
    let steps = options
        .manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values());
    let mut sandboxes = steps
        .filter_map(|step| registry.agents.get(step.agent.as_ref()?)?.sandbox.as_ref())
        .filter(|name| {
            registry
                .sandboxes
                .get(*name)
                .is_some_and(|sandbox| sandbox.provider == daytona::NAME)
        });
    let Some(name) = sandboxes.next() else {
        return Ok(None);
    };
    let url = options
        .public_url
        .as_ref()
        .ok_or_else(|| OpenError::NoPublicUrl(name.clone()))?;
    let runner = options
        .remote_runner
        .clone()
        .ok_or_else(|| OpenError::NoRunner(name.clone()))?;
    Ok(Some((
        name.clone(),
        runner,
        format!("{}{}", url.trim_end_matches('/'), http::REPORT_PREFIX),
    )))
}

/// The runner for other machines, from a file.
struct RunnerFile(PathBuf);

#[async_trait]
impl RunnerBinary for RunnerFile {
    async fn bytes(&self) -> Result<Bytes, PortError> {
        let what = || format!("read the runner {}", self.0.display());
        let path = self.0.clone();
        tokio::task::spawn_blocking(move || std::fs::read(path))
            .await
            .map_err(|why| PortError::new(what(), why))?
            .map(Bytes::from)
            .map_err(|why| PortError::new(what(), why))
    }
}

async fn take_lock(project: &Path, dir: &Path) -> Result<ProjectLock, OpenError> {
    let error = |why| OpenError::File {
        path: dir.join("lock"),
        why,
    };
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(lock) = ProjectLock::take(dir).map_err(error)? {
            return Ok(lock);
        }
        if begun.elapsed() >= LOCK_WAIT {
            return Err(OpenError::Locked(project.to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// State holds events and outputs; it must not end up in the repository.
fn ignore_in_git(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(".gitignore");
    if path.exists() {
        return Ok(());
    }
    std::fs::write(&path, "*\n").map_err(|why| OpenError::File { path, why })
}

/// Tells runners on this machine where to report, whole or not at all.
fn write_report_url(path: &Path, address: SocketAddr) -> Result<(), OpenError> {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let url = format!(
        "http://{}{}",
        SocketAddr::new(host, address.port()),
        http::REPORT_PREFIX
    );
    let part = path.with_extension("part");
    let write = || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(url.as_bytes())?;
        std::fs::rename(&part, path)
    };
    write().map_err(|why| OpenError::File {
        path: path.to_owned(),
        why,
    })
}
