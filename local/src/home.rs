//! The home itself: opens a project's state under its lock, wires the engine to
//! it, and serves until told to stop.

use crate::clock::SystemClock;
use crate::connections;
use crate::db::{Db, make_directory};
use crate::db_error::DbError;
use crate::http;
use crate::launches::Launches;
use crate::lock::ProjectLock;
use crate::manifests::{KeepError, LocalManifests};
use crate::packs::FilePacks;
use crate::queue::SqliteQueue;
use crate::schedules::{self, Schedules};
use crate::secrets::LocalSecrets;
use crate::sensors;
use crate::state::State;
use crate::store::{self, SqliteStore};
use crate::transcripts::FileTranscripts;
use crate::worker::Worker;
use async_trait::async_trait;
use bytes::Bytes;
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Manifest, SensorTrigger};
use loopy_engine::message::QueueName;
use loopy_engine::ports::{Clock, Manifests, PortError, Ports, Sandboxes, Secrets, Store};
use loopy_engine::{Answer, Engine, ReportRequest, SubmitError, unsupported};
use loopy_sandbox::daytona::{self, API_KEY, Daytona, RunnerBinary};
use loopy_sandbox::docker::{self, Docker, DockerConfig, Environment};
use loopy_sandbox::github::GithubTokens;
use loopy_sandbox::local::{self, Local, LocalConfig};
use loopy_sandbox::mirrors::Mirrors;
use loopy_sandbox::{FARGATE, Providers};
use loopy_sensors::SensorsHere;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

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
    /// The runner's binary for sandboxes on other machines (x86-64 Linux), and for
    /// containers; without one, containers are given the program of `runner`.
    pub remote_runner: Option<PathBuf>,
    /// The process's environment: secrets, `PATH`, `LOOPY_PYTHON`, `LOOPY_NODE`,
    /// `DOCKER_HOST`.
    pub environment: BTreeMap<String, String>,
    /// Other providers of sandboxes than this machine's processes and Daytona.
    pub sandboxes: Option<Arc<dyn Sandboxes>>,
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
            sandboxes: None,
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
    /// A sandbox that only a deployed stack has.
    #[error(
        "sandbox `{0}` is a task of an AWS account, and this is one machine; deploy the project, \
         or use `provider: docker` or `provider: local`"
    )]
    InAccount(String),
    /// The engine that has the sandboxes is not there.
    #[error("sandbox `{0}` is a container: {1}")]
    NoDocker(String, docker::OpenError),
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
    worker: Arc<Worker>,
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
        if let Some(name) = used(&options, FARGATE) {
            return Err(OpenError::InAccount(name.clone()));
        }
        let remote = remote(&options)?;
        let in_docker = used(&options, docker::NAME).cloned();
        let project = options
            .project
            .canonicalize()
            .map_err(|why| OpenError::File {
                path: options.project.clone(),
                why,
            })?;
        let dir = project.join(crate::STATE_DIR);
        make_directory(&dir)?;
        let lock = take_lock(&project, &dir).await?;
        let db = Db::open(&dir)?;
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
        let sensors = sensors::config(&project, &dir, &environment);
        let mut container_runner = options.runner.clone();
        if let Some(runner) = &options.remote_runner {
            let runner = std::path::absolute(runner).unwrap_or_else(|_| runner.clone());
            container_runner = vec![runner.to_string_lossy().into_owned()];
        }
        let docker_host = environment.get(docker::HOST).cloned();
        let tools = tools_folder(&environment, &dir);
        let own = Arc::new(LocalSecrets::new(&project, &dir, environment));
        let mut secrets: Arc<dyn Secrets> = Arc::new(GithubTokens::new(own, Arc::clone(&clock))?);
        // Before the secrets get what only holds in containers.
        let mirrors = Mirrors::new(
            dir.join("cache/mirrors"),
            local::PLAIN_PATH.to_owned(),
            Arc::clone(&secrets),
        );
        let on_this_machine = Local::new(LocalConfig {
            state: dir.clone(),
            runner: options.runner,
            report_url: format!("file://{}", report_file.display()),
            path: local::PLAIN_PATH.to_owned(),
        });
        let mut providers =
            Providers::new().with_local(on_this_machine.with_mirrors(mirrors.clone()));
        if let Some((name, runner, report_url)) = remote {
            if !secrets.engine_env().await?.contains_key(API_KEY) {
                return Err(OpenError::NoKey(name));
            }
            let runner = Arc::new(RunnerFile(runner));
            let daytona = Daytona::new(Arc::clone(&secrets), runner, report_url)?;
            providers = providers.with_daytona(daytona);
        }
        let config = DockerConfig {
            state: dir.clone(),
            host: docker_host.filter(|host| !host.is_empty()),
            runner: container_runner,
            tools,
            report_to: own_address(address),
            report_prefix: http::REPORT_PREFIX.to_owned(),
        };
        let docker = open_docker(config, in_docker, Arc::clone(&secrets)).await?;
        let docker = docker.map(|docker| Arc::new(docker.with_mirrors(mirrors)));
        if let Some(docker) = &docker {
            secrets = Arc::new(Environment::new(secrets, Arc::clone(docker)));
            providers = providers.with_docker(Arc::clone(docker));
        }
        let sandboxes = options
            .sandboxes
            .unwrap_or_else(|| Arc::new(Launches::new(providers)));
        let manifests: Arc<dyn Manifests> = Arc::new(
            LocalManifests::open(db.clone(), &dir, options.manifest.clone(), &options.files)
                .await?,
        );
        let sensor_code = Arc::new(SensorsHere::new(sensors, Arc::clone(&manifests)));
        let store: Arc<dyn Store> = Arc::new(SqliteStore::new(
            db.clone(),
            queue.clone(),
            Arc::clone(&clock),
        ));
        if let Some(docker) = &docker {
            remove_orphans(docker, &store).await?;
        }
        let engine = Engine::new(Ports {
            store: Arc::clone(&store),
            queues: Arc::new(queue.clone()),
            bus: Arc::new(queue.clone()),
            timers: Arc::new(queue.clone()),
            manifests,
            secrets,
            sandboxes: Arc::clone(&sandboxes),
            transcripts: Arc::new(FileTranscripts::new(&dir)),
            packs: Arc::new(FilePacks::new(&dir)),
            sensor_code,
            clock: Arc::clone(&clock),
        });
        let unsettled = store::unsettled(&(&db).into()).await?;
        let worker = Worker {
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
            worker: Arc::new(worker),
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
        State::of(&self.worker.dir, &self.worker.db)
    }

    /// What hands things in while the home serves.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.worker))
    }

    /// Checks an event and puts it on the bus; its runs move once the home
    /// serves.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn submit(&self, event: &Event) -> Result<(), SubmitError> {
        self.worker.engine.submit(event).await
    }

    /// Drives runs, answers HTTP and fires schedules until `shutdown` resolves.
    /// Steps that are running go on in their sandboxes; what serves the project
    /// next takes their results.
    pub async fn serve<S: Future<Output = ()>>(self, shutdown: S) {
        let Self {
            worker,
            listener,
            address,
        } = self;
        tracing::info!(%address, "serving");
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for queue in QueueName::ALL {
            tasks.spawn(Arc::clone(&worker).work(queue, stopped.clone()));
        }
        tasks.spawn(Arc::clone(&worker).glance(stopped.clone()));
        tasks.spawn(Arc::clone(&worker).care(stopped.clone()));
        tasks.spawn(Arc::clone(&worker).tidy(stopped.clone()));
        if let Err(error) = schedules::catch_up(&worker).await {
            tracing::error!(%error, "what the schedules missed is not known");
        }
        tasks.spawn(Arc::clone(&worker).watch_sensors(stopped.clone()));
        let schedules = Schedules {
            queue: worker.queue.clone(),
            store: Arc::clone(&worker.store),
            clock: Arc::clone(&worker.clock),
            stop: stopped.clone(),
        };
        schedules.spawn(&worker.manifest, &mut tasks);
        let served = http::Served::new(Arc::clone(&worker));
        let answer = move |turn, request| served.clone().answer(turn, request);
        tasks.spawn(connections::serve(
            listener,
            connections::Limits::default(),
            answer,
            stopped,
        ));
        shutdown.await;
        tracing::info!("stopping");
        stop.send_replace(true);
        let all = async {
            while tasks.join_next().await.is_some() {}
            worker.drain(QueueName::Watch).await;
        };
        if tokio::time::timeout(FINISH, all).await.is_ok() {
            worker.settle().await;
        } else {
            // Cut off between commit and ack: the next process goes on with it.
            tracing::warn!("some work did not finish in time; it will be taken up again");
        }
    }
}

/// Hands events and reports to a home that serves, from the same process.
#[derive(Clone)]
pub struct Handle(Arc<Worker>);

impl Handle {
    /// Checks an event and puts it on the bus.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn submit(&self, event: &Event) -> Result<(), SubmitError> {
        self.0.engine.submit(event).await
    }

    /// Loads the code of all sensors without calling one. Gives those that cannot be
    /// loaded, with why; deliveries to them are refused.
    ///
    /// # Errors
    /// When the sensors' environment or the state cannot be read.
    pub async fn load_sensors(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.0.engine.load_sensors().await
    }

    /// Serves a runner, as the listener does over HTTP.
    pub async fn report(&self, request: ReportRequest) -> Answer {
        self.0.report(request).await
    }
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

/// The name of a sandbox at this provider that a step uses.
fn used<'a>(options: &'a HomeOptions, provider: &str) -> Option<&'a String> {
    let registry = &options.manifest.registry;
    let steps = options
        .manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values());
    steps
        .filter_map(|step| registry.agents.get(step.agent.as_ref()?)?.sandbox.as_ref())
        .find(|name| {
            registry
                .sandboxes
                .get(*name)
                .is_some_and(|sandbox| sandbox.provider == provider)
        })
}

/// Where the programs of harnesses are kept: with this user's caches, or with the
/// project's where the user has none.
fn tools_folder(environment: &BTreeMap<String, String>, dir: &Path) -> PathBuf {
    let of = |name: &str| {
        let path = environment.get(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    of("XDG_CACHE_HOME")
        .or_else(|| Some(of("HOME")?.join(".cache")))
        .map_or_else(|| dir.join("cache"), |cache| cache.join("loopy"))
        .join("tools")
}

/// Docker, where a step uses it (`name` is its sandbox), or where runs of an earlier
/// manifest may.
async fn open_docker(
    config: DockerConfig,
    name: Option<String>,
    secrets: Arc<dyn Secrets>,
) -> Result<Option<Docker>, OpenError> {
    let before = config.state.join("docker").exists();
    if name.is_none() && !before {
        return Ok(None);
    }
    match (Docker::open(config, secrets).await, name) {
        (Ok(docker), _) => Ok(Some(docker)),
        (Err(why), Some(name)) => Err(OpenError::NoDocker(name, why)),
        (Err(why), None) => {
            tracing::warn!(
                "containers that earlier steps may have left are not looked after: {why}"
            );
            Ok(None)
        }
    }
}

/// Removes containers that a killed process left and that no attempt needs.
async fn remove_orphans(docker: &Docker, store: &Arc<dyn Store>) -> Result<(), PortError> {
    for left in docker.left().await? {
        let run = store.load(&RunId::from(left.run.as_str())).await?;
        if run.is_some_and(|stored| stored.run.under_way(&left.step, left.attempt)) {
            continue;
        }
        tracing::warn!(
            run = left.run,
            step = left.step,
            attempt = left.attempt,
            "removing a container that was left behind"
        );
        docker.stop(&left.sandbox).await?;
    }
    Ok(())
}

/// A sandbox's name, the runner's binary and the report URL for sandboxes on other machines;
/// `None` when no step uses one.
fn remote(options: &HomeOptions) -> Result<Option<(String, PathBuf, String)>, OpenError> {
    let Some(name) = used(options, daytona::NAME) else {
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

/// An address by which this machine reaches its own listener.
fn own_address(address: SocketAddr) -> SocketAddr {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(host, address.port())
}

/// Tells runners on this machine where to report, whole or not at all.
fn write_report_url(path: &Path, address: SocketAddr) -> Result<(), OpenError> {
    let url = format!("http://{}{}", own_address(address), http::REPORT_PREFIX);
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
