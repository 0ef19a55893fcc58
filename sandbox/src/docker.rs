//! The provider `docker`: the runner in a container of the Docker engine of this
//! machine, as a user without rights, on a network without a way out but to the
//! hosts that the registry lists.
//!
//! Below the state directory, `sandboxes/<client token>/` holds `runner.log` (the
//! last of what the runner printed, once it was stopped), `refused.log` (where it
//! wanted to connect to in vain) and, where the keys of models are kept out of the
//! sandbox, `model-calls.log` and `model-usage.json` (its calls and their sum), and `docker/<network>/` what the sandboxes of a
//! network are told of the engine.
//!
//! # Once, whatever dies when
//!
//! * A container's name derives from the project and the client token, and names are
//!   unique in an engine. A launch that finds it taken by a container of its own
//!   attempt goes on with that one. Starting a container twice does nothing, and one
//!   that has ended is kept under its name until it is stopped.
//! * A stop leaves the file `stopped`, before it removes anything. A launch looks for
//!   it at its beginning and at its end: whichever of the two comes later sees what
//!   the other one did, and removes the container.
//!
//! # When the process dies
//!
//! Containers go on. The next process that drives the project listens at the same
//! address, and says so in the file that runners read; each container carries its
//! run, step and attempt and the list of hosts it may reach, so nothing has to be
//! remembered. Those whose attempt is over are removed ([`Docker::left`]).

mod container;
mod image;
mod images;
mod label;
mod network;
mod publish;
mod tools;
mod work;

pub use publish::{Login, Publisher};

use crate::attempt_name;
use crate::egress::{Allowed, Models, ReportTo, SetupError};
use crate::mirrors::Mirrors;
use async_trait::async_trait;
use bollard::body_full;
use bollard::container::LogOutput;
use bollard::models::ContainerStateStatusEnum as Status;
use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, LogsOptions,
    RemoveContainerOptions, StartContainerOptions, UploadToContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use container::{Common, Way};
use futures::StreamExt;
use image::Image;
use images::Images;
use loopy_contract::manifest::{ModelKeys, Sandbox};
use loopy_engine::ports::{
    Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes, Secrets,
};
use loopy_engine::run::SandboxRef;
use network::{Gate, Gates, Kind};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tools::{Found, Tool, Tools};
use work::Ready;

/// The provider's name in `registry.yml`.
pub const NAME: &str = super::DOCKER;
/// The variable that says where the engine listens; [`DEFAULT_HOST`] when unset.
pub const HOST: &str = "DOCKER_HOST";
/// Where Docker listens by itself.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Seconds that one answer of the engine may take.
const ANSWER_TIME: u64 = 60;
/// How long one call of `launch` waits for an image.
const PATIENCE: Duration = Duration::from_secs(4);
/// When to look again at an image that takes longer.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How long the first runner in an image is watched: one that can't start there ends
/// at once.
const FIRST_WATCH: Duration = Duration::from_millis(400);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(40);
/// Where an image has its programs that does not say.
const PLAIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Lines of the runner's output that are kept.
const LOG_LINES: &str = "2000";
/// Lines of the runner's output in a message.
const MESSAGE_LINES: &str = "20";

/// How sandboxes of a project are made.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The state directory.
    pub state: PathBuf,
    /// Where the engine listens: what `DOCKER_HOST` says; `None` for [`DEFAULT_HOST`].
    pub host: Option<String>,
    /// The runner's command line; the program is the absolute path of a file of this
    /// machine that can be executed in the image.
    pub runner: Vec<String>,
    /// The folder with the programs of harnesses, shared by all projects of a user.
    pub tools: PathBuf,
    /// The listener that runners report to.
    pub report_to: SocketAddr,
    /// What the paths of reports begin with.
    pub report_prefix: String,
}

/// The engine can't be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It listens somewhere else than on a socket of this machine.
    #[error(
        "{HOST} is `{0}`; a docker sandbox needs an engine on this machine, at a socket \
         (`unix:///path`)"
    )]
    NotLocal(String),
    /// Nobody answers.
    #[error(
        "no Docker engine answers at {host}: {why}; start Docker, let this user use its socket, or \
         say in {HOST} where it is"
    )]
    NoAnswer {
        /// Where it was looked for.
        host: String,
        /// What the client said.
        why: String,
    },
    /// The state directory can't be used.
    #[error("cannot use {path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Models can't be asked for sandboxes.
    #[error(transparent)]
    Models(#[from] SetupError),
}

/// A container of the project that an earlier process left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The sandbox.
    pub sandbox: SandboxRef,
    /// The run it works for.
    pub run: String,
    /// The step.
    pub step: String,
    /// The attempt.
    pub attempt: u32,
}

/// The provider.
pub struct Docker {
    client: Client,
    state: PathBuf,
    /// The state directory, as text.
    project: String,
    /// What the names of its containers begin with.
    prefix: String,
    runner: Vec<String>,
    cores: u32,
    images: Images,
    tools: Tools,
    models: Arc<Models>,
    gates: Gates,
    mirrors: Option<Mirrors>,
    /// Images in which a runner has started.
    proven: Mutex<BTreeSet<String>>,
    /// Launches that wait for their images, by client token.
    waiting: Mutex<BTreeSet<String>>,
}

/// A call that failed: what was to be done and why it wasn't.
#[derive(Debug)]
pub(crate) struct Trouble(PortError);

impl Trouble {
    fn new(what: &str, why: impl Display) -> Self {
        Self(PortError::new(what, format!("Docker: {why}")))
    }
}

impl From<Trouble> for LaunchError {
    fn from(Trouble(error): Trouble) -> Self {
        Self::Trouble(error)
    }
}

impl From<Trouble> for PortError {
    fn from(Trouble(error): Trouble) -> Self {
        error
    }
}

/// The status of an answer that is an error.
fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

impl Docker {
    /// Connects to the engine. The keys that are kept out of sandboxes come from
    /// `secrets`.
    ///
    /// # Errors
    /// When there is none, or the state directory can't be used.
    pub async fn open(config: DockerConfig, secrets: Arc<dyn Secrets>) -> Result<Self, OpenError> {
        let host = config.host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let path = match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => path,
            _ => return Err(OpenError::NotLocal(host)),
        };
        let silent = |why: bollard::errors::Error| OpenError::NoAnswer {
            host: host.clone(),
            why: why.to_string(),
        };
        let client = Client::connect_with_unix(path, ANSWER_TIME, API_DEFAULT_VERSION)
            .map_err(silent)?
            .negotiate_version()
            .await
            .map_err(silent)?;
        let info = client.info().await.map_err(silent)?;
        let state = config.state.canonicalize().map_err(|why| OpenError::File {
            path: config.state.clone(),
            why,
        })?;
        let project = state.to_string_lossy().into_owned();
        let mark = hex::encode(Sha256::digest(project.as_bytes()));
        let report = ReportTo {
            address: config.report_to,
            prefix: config.report_prefix,
        };
        let models = Arc::new(Models::new(secrets)?);
        Ok(Self {
            gates: Gates::new(
                client.clone(),
                // Engines of one machine may share their id.
                format!(
                    "{} {}",
                    info.id.unwrap_or_default(),
                    info.docker_root_dir.unwrap_or_default()
                ),
                state.clone(),
                project.clone(),
                report,
                Arc::clone(&models),
            ),
            models,
            client,
            mirrors: None,
            state,
            prefix: format!("loopy-{}-", mark.get(..10).unwrap_or_default()),
            project,
            runner: config.runner,
            cores: info
                .ncpu
                .and_then(|cores| u32::try_from(cores).ok())
                .unwrap_or(1),
            images: Images::default(),
            tools: Tools::new(config.tools),
            proven: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    /// With mirrors of repositories for clones to begin with.
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: Mirrors) -> Self {
        self.mirrors = Some(mirrors);
        self
    }

    /// The containers that are there for the project. Those that run are served from
    /// now on: they find the engine, and their way out.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn left(&self) -> Result<Vec<Left>, PortError> {
        let filter = format!("{}={}", label::PROJECT, self.project);
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![filter])].into()),
            ..ListContainersOptions::default()
        };
        let found = self.client.list_containers(Some(options)).await;
        let found = found.map_err(|error| Trouble::new("list the sandboxes", error))?;
        let mut left = Vec::new();
        for summary in found {
            let runs = summary.state == Some(ContainerSummaryStateEnum::RUNNING);
            if let Some((one, kind)) = read_left(&summary) {
                if runs {
                    self.gates.gate(kind).await?;
                }
                left.push(one);
            }
        }
        Ok(left)
    }

    /// The variables of a sandbox as it gets them: its own before those by which its
    /// programs find their way out, and without keys that are to be kept out of it.
    async fn environment(
        &self,
        name: &str,
        sandbox: &Sandbox,
        mut own: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, PortError> {
        if sandbox.model_keys == ModelKeys::Proxy {
            let gate = self.gates.gate(Kind::of(&sandbox.network)).await?;
            Models::keep(&mut own, &gate.url())
                .map_err(|why| PortError::new(format!("read the keys of sandbox {name}"), why))?;
        }
        let mut environment = self.ways(sandbox).await?;
        // What the project says itself counts.
        environment.append(&mut own);
        Ok(environment)
    }

    /// The variables by which programs in this sandbox find their way out; none where
    /// it is not limited.
    async fn ways(&self, sandbox: &Sandbox) -> Result<BTreeMap<String, String>, PortError> {
        let mut environment = BTreeMap::new();
        if sandbox.image.contains_key("workdir") {
            // Beside it there is nothing to write to.
            environment.insert("HOME".to_owned(), container::HOME.to_owned());
        }
        if Kind::of(&sandbox.network) == Kind::Sealed {
            environment.append(&mut self.gates.gate(Kind::Sealed).await?.proxy());
        }
        Ok(environment)
    }

    fn name(&self, token: &str) -> String {
        format!("{}{token}", self.prefix)
    }

    /// The folder of one sandbox.
    fn place(&self, token: &str) -> PathBuf {
        self.state.join("sandboxes").join(token)
    }

    fn stopped(&self, token: &str) -> PathBuf {
        self.place(token).join("stopped")
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, Trouble> {
        match self
            .client
            .inspect_container(name, None::<InspectContainerOptions>)
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(Trouble::new(&format!("look at container {name}"), error)),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Trouble> {
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        match self.client.remove_container(name, Some(options)).await {
            Ok(()) => Ok(()),
            // It is gone, or going.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(Trouble::new(&format!("remove container {name}"), error)),
        }
    }

    async fn output(&self, name: &str, lines: &str) -> String {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: lines.to_owned(),
            ..LogsOptions::default()
        };
        let mut said = Vec::new();
        let mut output = self.client.logs(name, Some(options));
        // What can't be read any more is as good as not said.
        while let Some(Ok(part)) = output.next().await {
            said.extend_from_slice(&LogOutput::into_bytes(part));
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Makes the container, or finds it.
    async fn make(
        &self,
        spec: &LaunchSpec,
        image: &Image,
        tool: Option<&(Tool, String)>,
        gate: &Gate,
        kind: Kind,
    ) -> Result<Made, LaunchError> {
        let name = self.name(&spec.client_token);
        let common = Common {
            project: &self.project,
            runner: &self.runner,
            cores: self.cores,
        };
        let way = Way {
            kind,
            folder: &gate.folder,
            proxy: match kind {
                Kind::Sealed => gate.proxy(),
                Kind::Open => BTreeMap::new(),
            },
        };
        let options = CreateContainerOptions {
            name: Some(name.clone()),
            ..CreateContainerOptions::default()
        };
        let mirrors = self.mirrors.as_ref().map(|mirrors| {
            let folder = mirrors.folder(&spec.sandbox);
            let names = mirrors.present(&spec.sandbox).into_iter();
            names.map(|name| folder.join(name)).collect::<Vec<_>>()
        });
        let mut body = container::body(&common, spec, image, &way, &mirrors.unwrap_or_default());
        if let Some((tool, path)) = tool {
            container::add_tool(&mut body, tool, path);
        }
        match self.client.create_container(Some(options), body).await {
            Ok(_) => return Ok(Made::Now),
            Err(error) if status(&error) == Some(409) => {}
            // A user, a number or a mount that the engine does not take.
            Err(error) if status(&error) == Some(400) => {
                return Err(refused(spec, format!("Docker refuses it: {error}")));
            }
            Err(error) => return Err(self.make_trouble(&name, error).into()),
        }
        match self.inspect(&name).await? {
            Some(found) => Self::found(spec, &name, &self.project, &found),
            // It was removed since: its attempt is over.
            None => Ok(Made::Begun),
        }
    }

    /// The harness's program, if the image is to be given one, and the image's own
    /// `PATH`; how long to wait while it is being installed.
    async fn tool(
        &self,
        spec: &LaunchSpec,
        image: &Image,
    ) -> Result<Result<Option<(Tool, String)>, Duration>, LaunchError> {
        if !image.tools {
            return Ok(Ok(None));
        }
        let tool = match self.tools.ready(spec.harness, PATIENCE).await {
            Found::Nothing => return Ok(Ok(None)),
            Found::Here(tool) => tool,
            Found::Later => return Ok(Err(LOOK_AGAIN)),
            Found::Never(why) => {
                self.waiting().remove(&spec.client_token);
                return Err(refused(spec, why));
            }
        };
        let found = self.client.inspect_image(&image.reference).await;
        let found = found.map_err(|error| Trouble::new("look at the image", error))?;
        let variables = found.config.and_then(|config| config.env);
        let path = variables
            .iter()
            .flatten()
            .find_map(|variable| variable.strip_prefix("PATH="));
        Ok(Ok(Some((tool, path.unwrap_or(PLAIN_PATH).to_owned()))))
    }

    fn make_trouble(&self, name: &str, error: bollard::errors::Error) -> Trouble {
        Trouble::new(&format!("make container {name}"), error)
    }

    fn found(
        spec: &LaunchSpec,
        name: &str,
        project: &str,
        found: &ContainerInspectResponse,
    ) -> Result<Made, LaunchError> {
        let has = found
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref());
        let own = container::labels(project, spec);
        if own
            .iter()
            .any(|(label, value)| has.and_then(|has| has.get(label)) != Some(value))
        {
            return Err(refused(
                spec,
                format!(
                    "Docker has a container {name} that was not made for {}; remove it",
                    attempt_name(spec)
                ),
            ));
        }
        Ok(match status_of(found) {
            Some(Status::CREATED) => Made::Now,
            _ => Made::Begun,
        })
    }

    /// Fills and starts a container that was made.
    async fn start(&self, spec: &LaunchSpec, image: &Image, kind: Kind) -> Result<(), LaunchError> {
        let name = self.name(&spec.client_token);
        let folders = container::folders()
            .map_err(|error| PortError::new("pack the sandbox's folders", error))?;
        let options = UploadToContainerOptions {
            path: container::OWN.to_owned(),
            ..UploadToContainerOptions::default()
        };
        let filled = self
            .client
            .upload_to_container(&name, Some(options), body_full(folders))
            .await;
        if let Err(error) = filled {
            return self.gone_or(spec, &name, "prepare", error).await;
        }
        match self
            .client
            .start_container(&name, None::<StartContainerOptions>)
            .await
        {
            Ok(()) => {}
            Err(error) if matches!(status(&error), Some(304)) => {}
            Err(error) if matches!(status(&error), Some(400)) || is_refusal(&error) => {
                self.remove(&name).await?;
                return Err(refused(
                    spec,
                    format!("the image {} can't be started: {error}", image.reference),
                ));
            }
            Err(error) => {
                // The network may have been removed under our feet.
                self.gates.close(kind).await;
                return self.gone_or(spec, &name, "start", error).await;
            }
        }
        tracing::info!(
            sandbox = spec.client_token,
            "started the runner for {} in container {name}",
            attempt_name(spec)
        );
        Ok(())
    }

    /// A container that is not there any more, or is just being removed, was stopped
    /// meanwhile, which is no trouble.
    async fn gone_or(
        &self,
        spec: &LaunchSpec,
        name: &str,
        verb: &str,
        error: bollard::errors::Error,
    ) -> Result<(), LaunchError> {
        if self.stopped(&spec.client_token).exists() || self.inspect(name).await?.is_none() {
            return Ok(());
        }
        Err(Trouble::new(&format!("{verb} container {name}"), error).into())
    }

    /// Watches the first runner in an image for a moment: whether programs of this
    /// machine can run there shows at once.
    async fn prove(&self, spec: &LaunchSpec, image: &Image) -> Result<(), LaunchError> {
        let proven = |this: &Self| {
            let proven = this.proven.lock().unwrap_or_else(PoisonError::into_inner);
            proven.contains(&image.reference)
        };
        if proven(self) {
            return Ok(());
        }
        let name = self.name(&spec.client_token);
        let begun = Instant::now();
        while begun.elapsed() < FIRST_WATCH {
            let Some(found) = self.inspect(&name).await? else {
                break;
            };
            let state = found.state.unwrap_or_default();
            if state.running == Some(true) {
                sleep(LOOK).await;
                continue;
            }
            let code = state.exit_code.unwrap_or_default();
            let said = self.output(&name, MESSAGE_LINES).await;
            // What a shell and the loader of programs say. A runner that ended in any
            // other way had begun.
            if !matches!(code, 126 | 127) && !said.contains("GLIBC") {
                break;
            }
            return Err(refused(
                spec,
                format!(
                    "the runner can't work in the image {}: it ended with code {code}; it needs glibc there \
                     (Debian and Ubuntu have it, Alpine does not), and one not older than what it was built \
                     for: `--runner` takes a loopy-runner for older ones: {}",
                    image.reference,
                    said.trim()
                ),
            ));
        }
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.insert(image.reference.clone());
        Ok(())
    }

    /// Keeps the last of what the runner printed.
    async fn keep_output(&self, token: &str) {
        let name = self.name(token);
        match self.inspect(&name).await {
            Ok(Some(found)) if status_of(&found) != Some(Status::CREATED) => {}
            _ => return,
        }
        let said = self.output(&name, LOG_LINES).await;
        if let Err(error) = append(&self.place(token).join("runner.log"), said.as_bytes()) {
            tracing::warn!(%error, sandbox = token, "the runner's output is not kept");
        }
    }
}

/// What came of making a container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// It is there and was not started.
    Now,
    /// It was started, whatever became of it.
    Begun,
}

#[async_trait]
impl Sandboxes for Docker {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let token = &spec.client_token;
        check_token(token).map_err(LaunchError::Refused)?;
        let image = image::read(&spec.sandbox.image).map_err(|why| refused(spec, why))?;
        let kind = Kind::of(&spec.sandbox.network);
        Allowed::parse(spec.sandbox.network.iter().map(String::as_str))
            .map_err(|why| refused(spec, why))?;
        check_runner(&self.runner).map_err(|why| refused(spec, why))?;
        if spec.sandbox.model_keys == ModelKeys::Proxy
            && let Some(why) = self.models.cannot(&spec.name, &spec.sandbox).await?
        {
            return Err(refused(spec, why));
        }
        let stopped = self.stopped(token);
        if stopped.exists() {
            self.waiting().remove(token);
            return Ok(Launch::Started);
        }
        if let Some(mirrors) = &self.mirrors
            && let Some(later) = mirrors.prepare(spec).await
        {
            return Ok(Launch::Pending(later));
        }
        match self.images.ready(&self.client, &image, PATIENCE).await? {
            Ready::Now => {}
            Ready::Later => {
                self.waiting().insert(token.clone());
                return Ok(Launch::Pending(LOOK_AGAIN));
            }
            Ready::Never(why) => {
                self.waiting().remove(token);
                return Err(refused(spec, why));
            }
        }
        let tool = match self.tool(spec, &image).await? {
            Ok(tool) => tool,
            Err(later) => {
                self.waiting().insert(token.clone());
                return Ok(Launch::Pending(later));
            }
        };
        let gate = self.gates.gate(kind).await?;
        let made = self.make(spec, &image, tool.as_ref(), &gate, kind).await;
        self.waiting().remove(token);
        if made? == Made::Now {
            self.start(spec, &image, kind).await?;
            self.prove(spec, &image).await?;
        }
        if stopped.exists() {
            self.remove(&self.name(token)).await?;
        }
        Ok(Launch::Started)
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        let what = || format!("stop docker sandbox {}", sandbox.id);
        check_token(&sandbox.id).map_err(|why| PortError::new(what(), why))?;
        append(&self.stopped(&sandbox.id), &[]).map_err(|error| PortError::new(what(), error))?;
        self.waiting().remove(&sandbox.id);
        if let Some(mirrors) = &self.mirrors {
            mirrors.forget(&sandbox.id);
        }
        self.models.close(&sandbox.id);
        self.keep_output(&sandbox.id).await;
        Ok(self.remove(&self.name(&sandbox.id)).await?)
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        check_token(&sandbox.id).map_err(|why| {
            PortError::new(format!("look after docker sandbox {}", sandbox.id), why)
        })?;
        let alive = match self.inspect(&self.name(&sandbox.id)).await? {
            // A launch is about to start one that was only made.
            Some(found) => matches!(
                status_of(&found),
                Some(Status::CREATED | Status::RUNNING | Status::PAUSED | Status::RESTARTING)
            ),
            None => {
                let awaits = |mirrors: &Mirrors| mirrors.awaited_by(&sandbox.id);
                self.waiting().contains(&sandbox.id) || self.mirrors.as_ref().is_some_and(awaits)
            }
        };
        Ok(if alive {
            SandboxState::Alive
        } else {
            SandboxState::Gone
        })
    }
}

/// Secrets, with what a docker sandbox needs in its environment beside them.
pub struct Environment {
    inner: Arc<dyn Secrets>,
    docker: Arc<Docker>,
}

impl Environment {
    /// These secrets, for a home that has docker sandboxes.
    pub fn new(inner: Arc<dyn Secrets>, docker: Arc<Docker>) -> Self {
        Self { inner, docker }
    }
}

#[async_trait]
impl Secrets for Environment {
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        let own = self.inner.sandbox_env(name, sandbox).await?;
        if sandbox.provider != NAME {
            return Ok(own);
        }
        self.docker.environment(name, sandbox, own).await
    }

    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError> {
        self.inner.webhook_secrets(variable).await
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.inner.engine_env().await
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        self.inner.token_key().await
    }
}

fn refused(spec: &LaunchSpec, why: impl Display) -> LaunchError {
    LaunchError::Refused(format!("sandbox `{}`: {why}", spec.name))
}

/// Whether the engine found fault with the container itself. It answers 500 for that
/// too, and names what it could not do.
fn is_refusal(error: &bollard::errors::Error) -> bool {
    let text = error.to_string();
    ["unable to find user", "OCI runtime", "no matching entries"]
        .iter()
        .any(|part| text.contains(part))
}

fn status_of(found: &ContainerInspectResponse) -> Option<Status> {
    found.state.as_ref()?.status
}

fn read_left(summary: &ContainerSummary) -> Option<(Left, Kind)> {
    let labels = summary.labels.as_ref()?;
    let hosts: Vec<String> = serde_json::from_str(labels.get(label::NETWORK)?).ok()?;
    let left = Left {
        sandbox: SandboxRef {
            provider: NAME.to_owned(),
            id: labels.get(label::TOKEN)?.clone(),
        },
        run: labels.get(label::RUN)?.clone(),
        step: labels.get(label::STEP)?.clone(),
        attempt: labels.get(label::ATTEMPT)?.parse().ok()?,
    };
    Some((left, Kind::of(&hosts)))
}

/// The token becomes the name of a container and of a folder.
fn check_token(token: &str) -> Result<(), String> {
    let fits = !token.is_empty()
        && token.len() <= 64
        && token
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(format!(
            "`{token}` is not the id of a docker sandbox ([a-z0-9-], 64 at most)"
        ))
    }
}

fn check_runner(runner: &[String]) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let program = Path::new(runner.first().map_or("", String::as_str));
    let shown = program.display();
    let found = fs::metadata(program)
        .ok()
        .filter(|found| program.is_absolute() && found.is_file());
    match found {
        None => Err(format!(
            "the runner `{shown}` is not a file with an absolute path"
        )),
        Some(found) if found.permissions().mode() & 0o005 != 0o005 => Err(format!(
            "the runner `{shown}` can't be executed by the user in the container; run `chmod a+rx` on it"
        )),
        Some(_) => Ok(()),
    }
}

/// Adds to the end of a file that only this user can read, and makes its folder.
fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?
        .write_all(bytes)
}
