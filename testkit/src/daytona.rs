//! A stand-in for Daytona: an HTTP server on loopback that answers as the
//! service does and really runs what it is told to.
//!
//! What is real: keys, names and their conflicts, labels, states that take
//! their time, file uploads, sessions, processes with their exit codes, removal
//! that ends every process.
//!
//! What is not: there is no container. Each sandbox has a directory that stands
//! for its root. Absolute paths in file calls lie below it. In commands, paths
//! below `/tmp`, `/home/daytona` and the image's `WORKDIR` are rewritten to lie
//! below it too; all others are this machine's. `HOME` and `TMPDIR` point into
//! it. `RUN` lines of a Dockerfile are not run; `network` is not enforced;
//! automatic stop and removal do not happen; each command of a session has a
//! shell of its own.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::oneshot;

/// What gives a sandbox's processes away, whatever session they are in.
const MARK: &str = "DAYTONA_SANDBOX_ID";
/// The largest body that is taken, in bytes.
const MAX_BODY: usize = 512 * 1024 * 1024;
/// How long killed processes may take to go.
const KILL_WAIT: Duration = Duration::from_secs(3);

/// The stand-in did not start.
#[derive(Debug, thiserror::Error)]
#[error("the stand-in for Daytona did not start: {0}")]
pub struct StandInError(#[from] io::Error);

/// How the stand-in behaves.
#[derive(Clone, Debug)]
pub struct StandInOptions {
    /// The environment of every process, as an image would have it. `HOME` and
    /// `TMPDIR` are added. Nothing else is inherited.
    pub env: BTreeMap<String, String>,
    /// How long a sandbox takes from `creating` to `started`.
    pub start_delay: Duration,
    /// Base images whose build fails.
    pub unbuildable: BTreeSet<String>,
    /// Bodies of recorded requests that are longer are not kept, in bytes.
    pub longest_kept: usize,
    /// The name under which others reach this machine; they are let in then. Without
    /// it only this machine is.
    pub here: Option<String>,
}

impl Default for StandInOptions {
    /// A plain `PATH`, 300 ms to start, every image builds.
    fn default() -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            start_delay: Duration::from_millis(300),
            unbuildable: BTreeSet::new(),
            longest_kept: MAX_BODY,
            here: None,
        }
    }
}

/// A request that came, refused ones included.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it came.
    pub at: SystemTime,
    /// `POST`.
    pub method: String,
    /// `/api/sandbox`, `/toolbox/<id>/files/upload-v2`.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The body's bytes; none of what is longer than the options keep.
    pub body: Bytes,
    /// What it was answered with.
    pub status: u16,
}

impl Recorded {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A running stand-in. Dropping it ends every process and removes every file.
pub struct Daytona {
    url: String,
    server: Arc<Server>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Daytona {
    /// Starts the server on a free port, of 127.0.0.1 unless others are to reach it,
    /// in a thread of its own, so it answers whatever the caller's runtime does.
    ///
    /// # Errors
    /// When the port, the directory or the thread can't be had.
    pub fn start(options: StandInOptions) -> Result<Self, StandInError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (inside, outside) = match &options.here {
            Some(here) => ("0.0.0.0", here.as_str()),
            None => ("127.0.0.1", "127.0.0.1"),
        };
        let listener = std::net::TcpListener::bind((inside, 0))?;
        listener.set_nonblocking(true)?;
        let origin = format!("http://{outside}:{}", listener.local_addr()?.port());
        let mut random = [0_u8; 22];
        io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let server = Arc::new(Server {
            options,
            key: format!("dtn_{}", &random[..32]),
            ids: format!("{}-{}-4000-8000", &random[32..40], &random[40..44]),
            origin: origin.clone(),
            directory: TempDir::with_prefix("daytona-")?,
            inside: Mutex::new(Inside::default()),
        });

        let routes = routes(&server);
        let (shutdown, stopped) = oneshot::channel::<()>();
        let (bound, ready) = std::sync::mpsc::channel();
        let thread = thread::Builder::new()
            .name("daytona".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let listener = match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => listener,
                        Err(error) => return drop(bound.send(Err(error))),
                    };
                    drop(bound.send(Ok(())));
                    // Raced, not graceful: clients keep connections open.
                    tokio::select! {
                        _ = axum::serve(listener, routes).into_future() => {}
                        _ = stopped => {}
                    }
                });
            })?;
        ready.recv().map_err(io::Error::other)??;
        Ok(Self {
            url: format!("{origin}/api"),
            server,
            shutdown: Some(shutdown),
            thread: Some(thread),
        })
    }

    /// The API's base, for `DAYTONA_API_URL`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The one key that is accepted, for `DAYTONA_API_KEY`.
    pub fn key(&self) -> &str {
        &self.server.key
    }

    /// Every request so far, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.server.inside().requests.clone()
    }

    /// The names of the sandboxes that are there.
    pub fn sandboxes(&self) -> Vec<String> {
        self.server
            .inside()
            .boxes
            .values()
            .map(|sandbox| sandbox.name.clone())
            .collect()
    }

    /// The directory that stands for the root of the sandbox with this name.
    pub fn root(&self, name: &str) -> Option<PathBuf> {
        self.server
            .inside()
            .find(name)
            .map(|sandbox| sandbox.root.clone())
    }

    /// The numbers of the living processes of the sandbox with this name.
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let id = self
            .server
            .inside()
            .find(name)
            .map(|sandbox| sandbox.id.clone());
        id.map(|id| marked(&id)).unwrap_or_default()
    }

    /// Answers the next request whose path contains `part` with `status`, and
    /// does not do what it asks for.
    pub fn fail_next(&self, part: &str, status: u16) {
        self.server
            .inside()
            .failures
            .push((part.to_owned(), status));
    }

    /// Stops a sandbox, as a person may do at Daytona's own page. False when
    /// there is none with this name.
    pub fn stop(&self, name: &str) -> bool {
        let id = {
            let mut inside = self.server.inside();
            let Some(sandbox) = inside.find_mut(name) else {
                return false;
            };
            sandbox.stopped = true;
            sandbox.id.clone()
        };
        kill_all(&id);
        true
    }
}

impl Drop for Daytona {
    fn drop(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            // An error means that the server ended by itself.
            let _ = shutdown.send(());
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        let ids: Vec<String> = self.server.inside().boxes.keys().cloned().collect();
        for id in ids {
            kill_all(&id);
        }
    }
}

struct Server {
    options: StandInOptions,
    key: String,
    /// What this server's ids begin with; another than any other server's, for
    /// processes are told apart by them.
    ids: String,
    origin: String,
    directory: TempDir,
    inside: Mutex<Inside>,
}

impl Server {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Inside {
    /// Sandboxes by id.
    boxes: BTreeMap<String, Sandbox>,
    /// How many were ever made.
    made: u64,
    requests: Vec<Recorded>,
    /// Parts of paths, and the status that the next such request gets.
    failures: Vec<(String, u16)>,
}

impl Inside {
    fn find(&self, id_or_name: &str) -> Option<&Sandbox> {
        self.boxes.values().find(|sandbox| sandbox.is(id_or_name))
    }

    fn find_mut(&mut self, id_or_name: &str) -> Option<&mut Sandbox> {
        self.boxes
            .values_mut()
            .find(|sandbox| sandbox.is(id_or_name))
    }
}

struct Sandbox {
    id: String,
    name: String,
    /// The body it was made with.
    asked: Map<String, Value>,
    created: Instant,
    stopped: bool,
    root: PathBuf,
    /// Absolute paths whose subtree lies below `root` in commands.
    mapped: Vec<String>,
    /// Where commands start.
    workdir: PathBuf,
    env: BTreeMap<String, String>,
    sessions: BTreeMap<String, Vec<Arc<SessionCommand>>>,
}

struct SessionCommand {
    id: String,
    text: String,
    /// Where its output goes; stdout and stderr apart.
    output: (PathBuf, PathBuf),
    exit: Mutex<Option<i32>>,
}

impl Sandbox {
    fn is(&self, id_or_name: &str) -> bool {
        self.id == id_or_name || self.name == id_or_name
    }

    fn base_image(&self) -> Option<&str> {
        dockerfile(&self.asked)?
            .lines()
            .find_map(|line| line.strip_prefix("FROM "))
            .map(str::trim)
    }

    fn state(&self, options: &StandInOptions) -> &'static str {
        let ready = self.created.elapsed() >= options.start_delay;
        let built = self.base_image().is_some();
        let broken = self
            .base_image()
            .is_some_and(|image| options.unbuildable.contains(image));
        match (self.stopped, ready, built, broken) {
            (true, ..) => "stopped",
            (_, true, _, true) => "build_failed",
            (_, true, ..) => "started",
            (_, false, true, _) => "building_snapshot",
            (_, false, false, _) => "creating",
        }
    }

    fn view(&self, server: &Server) -> Value {
        let state = self.state(&server.options);
        let asked = |name: &str| self.asked.get(name).cloned().unwrap_or_default();
        let mut view = json!({
            "id": self.id,
            "organizationId": "org-stand-in",
            "name": self.name,
            "user": self.asked.get("user").cloned().unwrap_or_else(|| json!("daytona")),
            "env": asked("env"),
            "labels": self.asked.get("labels").cloned().unwrap_or_else(|| json!({})),
            "public": false,
            "networkBlockAll": false,
            "domainAllowList": asked("domainAllowList"),
            "networkAllowList": asked("networkAllowList"),
            "target": self.asked.get("target").cloned().unwrap_or_else(|| json!("us")),
            "cpu": self.asked.get("cpu").cloned().unwrap_or_else(|| json!(1)),
            "gpu": 0,
            "memory": self.asked.get("memory").cloned().unwrap_or_else(|| json!(1)),
            "disk": self.asked.get("disk").cloned().unwrap_or_else(|| json!(3)),
            "state": state,
            "desiredState": if self.stopped { "stopped" } else { "started" },
            "autoStopInterval": asked("autoStopInterval"),
            "autoDeleteInterval": asked("autoDeleteInterval"),
            "toolboxProxyUrl": format!("{}/toolbox", server.origin),
        });
        if state == "build_failed" {
            view["errorReason"] = json!(format!(
                "failed to build: {} not found",
                self.base_image().unwrap_or("image")
            ));
        }
        view
    }

    /// Where an absolute path of the sandbox lies on this machine.
    fn place(&self, path: &str) -> Result<PathBuf, Refusal> {
        let path = Path::new(path);
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(Refusal::new(400, "path must be absolute").code("BAD_REQUEST"));
        }
        Ok(self.root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// The command with paths below the mapped ones as they are on this machine.
    fn rewrite(&self, command: &str) -> String {
        let inside_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let mut made = String::new();
        let mut rest = command;
        while let Some(at) = rest.find('/') {
            let before = &rest[..at];
            made.push_str(before);
            rest = &rest[at..];
            let begins =
                !made.ends_with(|c: char| inside_a_name(c) || matches!(c, '/' | '}' | '~' | '$'));
            let mapped = self.mapped.iter().any(|prefix| {
                rest.strip_prefix(prefix.as_str())
                    .is_some_and(|after| !after.starts_with(inside_a_name))
            });
            if begins && mapped {
                made.push_str(&self.root.to_string_lossy());
            }
            made.push('/');
            rest = &rest[1..];
        }
        made.push_str(rest);
        made
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &self.rewrite(command)])
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.workdir)
            .process_group(0)
            .stdin(Stdio::null());
        shell
    }
}

fn dockerfile(asked: &Map<String, Value>) -> Option<&str> {
    asked.get("buildInfo")?.get("dockerfileContent")?.as_str()
}

/// An error as Daytona words it.
struct Refusal {
    status: u16,
    message: String,
    code: Option<&'static str>,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code: None,
        }
    }

    fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    fn no_sandbox(id: &str) -> Self {
        Self::new(404, format!("Sandbox with ID or name {id} not found"))
    }

    fn of_file(error: &io::Error, path: &str) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => {
                Self::new(404, format!("file not found: {path}")).code("FILE_NOT_FOUND")
            }
            io::ErrorKind::PermissionDenied => {
                Self::new(403, format!("permission denied: {path}")).code("FILE_ACCESS_DENIED")
            }
            _ => Self::new(400, format!("{path}: {error}")).code("BAD_REQUEST"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({"statusCode": self.status, "message": self.message});
        if let Some(code) = self.code {
            body["code"] = json!(code);
        }
        answer(self.status, &body)
    }
}

fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

type Answered = Result<Response, Refusal>;
type Shared = State<Arc<Server>>;
type Fields = Query<BTreeMap<String, String>>;

fn routes(server: &Arc<Server>) -> Router {
    let toolbox = Router::new()
        .route("/process/execute", post(execute))
        .route("/process/session", post(make_session))
        .route(
            "/process/session/{session}",
            get(read_session).delete(end_session),
        )
        .route("/process/session/{session}/exec", post(session_exec))
        .route(
            "/process/session/{session}/command/{command}",
            get(read_command),
        )
        .route(
            "/process/session/{session}/command/{command}/logs",
            get(read_logs),
        )
        .route("/files/upload-v2", post(upload))
        .route("/files/download", get(download))
        .route("/files/info", get(file_info))
        .route("/files/folder", post(make_folder))
        .route("/files/permissions", post(set_permissions));
    Router::new()
        .route("/api/sandbox", post(create).get(list))
        .route("/api/sandbox/{id}", get(read).delete(destroy))
        .route("/api/sandbox/{id}/toolbox-proxy-url", get(toolbox_url))
        .nest("/toolbox/{id}", toolbox)
        .fallback(any(|request: Request| async move {
            Refusal::new(
                404,
                format!("Cannot {} {}", request.method(), request.uri().path()),
            )
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(server), gate))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(Arc::clone(server))
}

/// Checks the key, plays the failures that were asked for, records.
async fn gate(
    State(server): Shared,
    Query(query): Fields,
    request: Request,
    next: Next,
) -> Response {
    let at = SystemTime::now();
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, MAX_BODY).await {
        Ok(bytes) => bytes,
        Err(_) => return Refusal::new(413, "request entity too large").into_response(),
    };
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let known = parts
        .headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value.as_bytes() == format!("Bearer {}", server.key).as_bytes());
    let failure = {
        let mut inside = server.inside();
        let found = inside
            .failures
            .iter()
            .position(|(part, _)| path.contains(part.as_str()));
        found.map(|at| inside.failures.remove(at).1)
    };
    let response = match (known, failure) {
        (false, _) => Refusal::new(401, "Invalid credentials").into_response(),
        (true, Some(status)) => Refusal::new(status, "the test asked for this").into_response(),
        (true, None) => {
            next.run(Request::from_parts(parts, Body::from(body.clone())))
                .await
        }
    };
    let body = if body.len() > server.options.longest_kept {
        Bytes::new()
    } else {
        body
    };
    server.inside().requests.push(Recorded {
        at,
        method: method.to_string(),
        path,
        query,
        body,
        status: response.status().as_u16(),
    });
    response
}

/// The body as a JSON object.
fn object(body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(400, format!("invalid body: {error}")))
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    map.get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| Refusal::new(400, format!("{name} must be a string")))
}

async fn create(State(server): Shared, body: Bytes) -> Answered {
    let asked = object(&body)?;
    if asked.contains_key("snapshot") && asked.contains_key("buildInfo") {
        return Err(Refusal::new(
            400,
            "Cannot specify both a snapshot and a build info",
        ));
    }
    if asked.contains_key("buildInfo") && dockerfile(&asked).is_none() {
        return Err(Refusal::new(
            400,
            "buildInfo.dockerfileContent must be a string",
        ));
    }
    if !asked.contains_key("buildInfo")
        && ["cpu", "memory", "disk"]
            .iter()
            .any(|name| asked.contains_key(*name))
    {
        return Err(Refusal::new(
            400,
            "Cannot specify sandbox resources when using a snapshot",
        ));
    }
    let mut inside = server.inside();
    inside.made += 1;
    let id = format!("{}-{:012x}", server.ids, inside.made);
    let name = match asked.get("name") {
        Some(_) => text(&asked, "name")?.to_owned(),
        None => id.clone(),
    };
    if inside.find(&name).is_some() {
        return Err(Refusal::new(
            409,
            format!("Sandbox with name {name} already exists"),
        ));
    }

    let root = server.directory.path().join(&id);
    let mut mapped = vec!["/tmp".to_owned(), "/home/daytona".to_owned()];
    let mut workdir = "/home/daytona".to_owned();
    let declared = dockerfile(&asked)
        .into_iter()
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("WORKDIR "));
    for directory in declared {
        mapped.push(directory.trim().to_owned());
        directory.trim().clone_into(&mut workdir);
    }
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    for directory in &mapped {
        fs::create_dir_all(below(directory))
            .map_err(|error| Refusal::new(500, format!("{directory}: {error}")))?;
    }
    let mut env = server.options.env.clone();
    for (name, path) in [("HOME", "/home/daytona"), ("TMPDIR", "/tmp")] {
        env.insert(name.to_owned(), below(path).to_string_lossy().into_owned());
    }
    let given = asked
        .get("env")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    env.extend(given.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))));
    env.insert(MARK.to_owned(), id.clone());

    let sandbox = Sandbox {
        id: id.clone(),
        name,
        asked,
        created: Instant::now(),
        stopped: false,
        workdir: below(&workdir),
        root,
        mapped,
        env,
        sessions: BTreeMap::new(),
    };
    let view = sandbox.view(&server);
    inside.boxes.insert(id, sandbox);
    Ok(answer(200, &view))
}

async fn list(State(server): Shared, Query(query): Fields) -> Answered {
    let wanted = match query.get("labels") {
        Some(text) => serde_json::from_str::<BTreeMap<String, Value>>(text)
            .map_err(|error| Refusal::new(400, format!("labels: {error}")))?,
        None => BTreeMap::new(),
    };
    let inside = server.inside();
    let items: Vec<Value> = inside
        .boxes
        .values()
        .map(|sandbox| sandbox.view(&server))
        .filter(|view| {
            wanted
                .iter()
                .all(|(name, value)| view["labels"].get(name) == Some(value))
        })
        .collect();
    Ok(answer(200, &json!({"items": items, "nextCursor": null})))
}

/// By id or name.
async fn read(State(server): Shared, UrlPath(id): UrlPath<String>) -> Answered {
    let inside = server.inside();
    let sandbox = inside.find(&id).ok_or_else(|| Refusal::no_sandbox(&id))?;
    Ok(answer(200, &sandbox.view(&server)))
}

/// Unlike its neighbours it takes no name.
async fn toolbox_url(State(server): Shared, UrlPath(id): UrlPath<String>) -> Answered {
    server
        .inside()
        .boxes
        .get(&id)
        .ok_or_else(|| Refusal::no_sandbox(&id))?;
    Ok(answer(
        200,
        &json!({"url": format!("{}/toolbox", server.origin)}),
    ))
}

async fn destroy(State(server): Shared, UrlPath(id): UrlPath<String>) -> Answered {
    let (mut view, id, root) = {
        let mut inside = server.inside();
        let id = inside
            .find(&id)
            .ok_or_else(|| Refusal::no_sandbox(&id))?
            .id
            .clone();
        let sandbox = inside
            .boxes
            .remove(&id)
            .ok_or_else(|| Refusal::no_sandbox(&id))?;
        (sandbox.view(&server), id, sandbox.root)
    };
    let removed = tokio::task::spawn_blocking(move || {
        kill_all(&id);
        fs::remove_dir_all(root)
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Refusal::new(500, error.to_string())),
        Err(error) => return Err(Refusal::new(500, error.to_string())),
    }
    view["state"] = json!("destroying");
    view["desiredState"] = json!("destroyed");
    Ok(answer(200, &view))
}

impl Server {
    /// Does something with a sandbox whose toolbox answers.
    fn with<T>(
        &self,
        id: &str,
        work: impl FnOnce(&mut Sandbox) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut inside = self.inside();
        let sandbox = inside
            .boxes
            .get_mut(id)
            .ok_or_else(|| Refusal::no_sandbox(id))?;
        match sandbox.state(&self.options) {
            "started" => work(sandbox),
            state => Err(Refusal::new(
                400,
                format!("Sandbox is not running (state {state})"),
            )),
        }
    }
}

async fn execute(State(server): Shared, UrlPath(id): UrlPath<String>, body: Bytes) -> Answered {
    let asked = object(&body)?;
    let mut shell = server.with(&id, |sandbox| {
        let mut shell = sandbox.shell(text(&asked, "command")?);
        if asked.get("cwd").is_some_and(|cwd| !cwd.is_null()) {
            shell.current_dir(sandbox.place(text(&asked, "cwd")?)?);
        }
        Ok(shell)
    })?;
    let given = asked
        .get("envs")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    shell
        .envs(given.filter_map(|(name, value)| Some((name, value.as_str()?))))
        .kill_on_drop(true);
    let limit = Duration::from_secs(asked.get("timeout").and_then(Value::as_u64).unwrap_or(10));
    match tokio::time::timeout(limit, shell.output()).await {
        Err(_) => {
            Err(Refusal::new(408, "command execution timed out").code("PROCESS_EXECUTION_TIMEOUT"))
        }
        Ok(Err(error)) => Err(Refusal::new(500, error.to_string())),
        Ok(Ok(output)) => {
            let result = [output.stdout, output.stderr].concat();
            Ok(answer(
                200,
                &json!({"exitCode": exit_code(output.status), "result": String::from_utf8_lossy(&result)}),
            ))
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

async fn make_session(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Answered {
    let asked = object(&body)?;
    let name = text(&asked, "sessionId")?;
    server.with(&id, |sandbox| {
        if sandbox.sessions.contains_key(name) {
            return Err(Refusal::new(409, format!("session {name} already exists")));
        }
        sandbox.sessions.insert(name.to_owned(), Vec::new());
        Ok(StatusCode::CREATED.into_response())
    })
}

fn session<'a>(
    sandbox: &'a mut Sandbox,
    name: &str,
) -> Result<&'a mut Vec<Arc<SessionCommand>>, Refusal> {
    sandbox
        .sessions
        .get_mut(name)
        .ok_or_else(|| Refusal::new(404, format!("session {name} not found")))
}

fn command_view(command: &SessionCommand) -> Value {
    let exit = *command.exit.lock().unwrap_or_else(PoisonError::into_inner);
    let mut view = json!({"id": command.id, "command": command.text});
    if let Some(code) = exit {
        view["exitCode"] = json!(code);
    }
    view
}

async fn read_session(
    State(server): Shared,
    UrlPath((id, name)): UrlPath<(String, String)>,
) -> Answered {
    server.with(&id, |sandbox| {
        let commands: Vec<Value> = session(sandbox, &name)?
            .iter()
            .map(|command| command_view(command))
            .collect();
        Ok(answer(
            200,
            &json!({"sessionId": name, "commands": commands}),
        ))
    })
}

async fn end_session(
    State(server): Shared,
    UrlPath((id, name)): UrlPath<(String, String)>,
) -> Answered {
    server.with(&id, |sandbox| {
        session(sandbox, &name)?;
        sandbox.sessions.remove(&name);
        Ok(StatusCode::NO_CONTENT.into_response())
    })
}

async fn session_exec(
    State(server): Shared,
    UrlPath((id, name)): UrlPath<(String, String)>,
    body: Bytes,
) -> Answered {
    let asked = object(&body)?;
    let line = text(&asked, "command")?;
    let detached = asked
        .get("runAsync")
        .or_else(|| asked.get("async"))
        .and_then(Value::as_bool);
    let (command, mut child) = server.with(&id, |sandbox| {
        let logs = sandbox.root.join("var/log/sessions");
        let number = session(sandbox, &name)?.len() + 1;
        let command_id = format!("{name}-{number}");
        let output = (
            logs.join(format!("{command_id}.stdout")),
            logs.join(format!("{command_id}.stderr")),
        );
        let broken = |error: io::Error| Refusal::new(500, error.to_string());
        fs::create_dir_all(&logs).map_err(broken)?;
        let child = sandbox
            .shell(line)
            .stdout(fs::File::create(&output.0).map_err(broken)?)
            .stderr(fs::File::create(&output.1).map_err(broken)?)
            .spawn()
            .map_err(broken)?;
        let command = Arc::new(SessionCommand {
            id: command_id,
            text: line.to_owned(),
            output,
            exit: Mutex::new(None),
        });
        session(sandbox, &name)?.push(Arc::clone(&command));
        Ok((command, child))
    })?;
    let noted = Arc::clone(&command);
    let waiting = tokio::spawn(async move {
        let code = child.wait().await.map_or(-1, exit_code);
        *noted.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
    });
    if detached == Some(true) {
        return Ok(answer(202, &json!({"cmdId": command.id})));
    }
    drop(waiting.await);
    let mut view = logs(&command);
    view["cmdId"] = json!(command.id);
    view["exitCode"] = command_view(&command)["exitCode"].clone();
    Ok(answer(200, &view))
}

fn find_command(
    server: &Server,
    (id, name, command): (String, String, String),
) -> Result<Arc<SessionCommand>, Refusal> {
    server.with(&id, |sandbox| {
        session(sandbox, &name)?
            .iter()
            .find(|one| one.id == command)
            .cloned()
            .ok_or_else(|| Refusal::new(404, format!("command {command} not found")))
    })
}

fn logs(command: &SessionCommand) -> Value {
    let read = |path: &Path| {
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    let (stdout, stderr) = (read(&command.output.0), read(&command.output.1));
    json!({"output": format!("{stdout}{stderr}"), "stdout": stdout, "stderr": stderr})
}

async fn read_command(
    State(server): Shared,
    UrlPath(path): UrlPath<(String, String, String)>,
) -> Answered {
    Ok(answer(200, &command_view(&*find_command(&server, path)?)))
}

async fn read_logs(
    State(server): Shared,
    UrlPath(path): UrlPath<(String, String, String)>,
) -> Answered {
    Ok(answer(200, &logs(&*find_command(&server, path)?)))
}

fn path_of(query: &BTreeMap<String, String>) -> Result<&str, Refusal> {
    query
        .get("path")
        .map(String::as_str)
        .ok_or_else(|| Refusal::new(400, "path is required"))
}

async fn upload(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    Query(query): Fields,
    body: Bytes,
) -> Answered {
    let path = path_of(&query)?;
    let place = server.with(&id, |sandbox| sandbox.place(path))?;
    let written = match place.parent() {
        Some(parent) => fs::create_dir_all(parent).and_then(|()| fs::write(&place, &body)),
        None => Err(io::ErrorKind::IsADirectory.into()),
    };
    written.map_err(|error| Refusal::of_file(&error, path))?;
    let name = Path::new(path)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    Ok(answer(
        200,
        &json!({"name": name, "path": path, "type": "file"}),
    ))
}

async fn download(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    Query(query): Fields,
) -> Answered {
    let path = path_of(&query)?;
    let place = server.with(&id, |sandbox| sandbox.place(path))?;
    let bytes = fs::read(place).map_err(|error| Refusal::of_file(&error, path))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

async fn file_info(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    Query(query): Fields,
) -> Answered {
    let path = path_of(&query)?;
    let place = server.with(&id, |sandbox| sandbox.place(path))?;
    let info = fs::metadata(place).map_err(|error| Refusal::of_file(&error, path))?;
    let name = Path::new(path)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    Ok(answer(
        200,
        &json!({
            "name": name,
            "path": path,
            "isDir": info.is_dir(),
            "size": info.len(),
            "mode": format!("{:o}", info.permissions().mode() & 0o7777),
            "permissions": format!("{:04o}", info.permissions().mode() & 0o7777),
            "owner": "daytona",
            "group": "daytona",
        }),
    ))
}

fn mode_of(query: &BTreeMap<String, String>) -> Result<fs::Permissions, Refusal> {
    let mode = query.get("mode").map_or("0755", String::as_str);
    u32::from_str_radix(mode, 8)
        .map(fs::Permissions::from_mode)
        .map_err(|_| Refusal::new(400, format!("invalid mode {mode}")))
}

async fn make_folder(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    Query(query): Fields,
) -> Answered {
    let path = path_of(&query)?;
    let mode = mode_of(&query)?;
    let place = server.with(&id, |sandbox| sandbox.place(path))?;
    fs::create_dir_all(&place)
        .and_then(|()| fs::set_permissions(&place, mode))
        .map_err(|error| Refusal::of_file(&error, path))?;
    Ok(StatusCode::CREATED.into_response())
}

async fn set_permissions(
    State(server): Shared,
    UrlPath(id): UrlPath<String>,
    Query(query): Fields,
) -> Answered {
    let path = path_of(&query)?;
    let mode = mode_of(&query)?;
    let place = server.with(&id, |sandbox| sandbox.place(path))?;
    fs::set_permissions(place, mode).map_err(|error| Refusal::of_file(&error, path))?;
    Ok(StatusCode::OK.into_response())
}

/// The living processes with the mark of this sandbox.
fn marked(id: &str) -> Vec<i32> {
    let mark = format!("{MARK}={id}");
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        // A zombie has no environment left, so it is not among these.
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|one| one == mark.as_bytes())
            })
        })
        .collect()
}

/// Kills every process with the mark of this sandbox, until there is none.
fn kill_all(id: &str) {
    let begun = Instant::now();
    loop {
        let living = marked(id);
        if living.is_empty() || begun.elapsed() > KILL_WAIT {
            return;
        }
        for pid in living
            .into_iter()
            .filter_map(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
