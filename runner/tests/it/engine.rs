//! The engine's side of the report protocol for the tests: serves one envelope
//! and takes what the runner sends.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::files::PACK_PART;
use loopy_contract::report::{
    AttemptPath, Failure, FailureClass, FilesAsk, FilesPart, FilesReply, HeartbeatReply, Outcome,
    Refusal, ResultReply, SkillAsk, StepResult, TranscriptPart, TranscriptReply, launch_env,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::sync::oneshot;

pub(crate) const TOKEN: &str = "the-token-of-this-attempt";

/// Packs by step and item.
type Packs = BTreeMap<(String, Option<u32>), Vec<u8>>;

/// What the servers of one test share.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) envelope: Value,
    run: String,
    step: String,
    pub(crate) results: Mutex<Vec<StepResult>>,
    pub(crate) transcript: Mutex<String>,
    /// The pack that came in.
    pub(crate) pack: Mutex<Vec<u8>>,
    /// The packs that are handed out, by step and item.
    pub(crate) packs: Mutex<Packs>,
    /// Files that are handed out, by skill and path.
    pub(crate) skills: Mutex<BTreeMap<(String, String), Vec<u8>>>,
    /// How many answers about files are lost on their way back.
    pub(crate) lost: AtomicU64,
    /// How many requests about files there were.
    pub(crate) asked: AtomicU64,
    pub(crate) heartbeats: AtomicU64,
    pub(crate) over: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) served: AtomicBool,
    /// Transcripts are answered with 503.
    pub(crate) forgetful: AtomicBool,
    /// Everything is.
    pub(crate) failing: AtomicBool,
    /// How much was.
    pub(crate) refused: AtomicU64,
}

/// A report server; gone, with its connections, when dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(record: &Arc<Record>, port: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(record));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            port,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/base/", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.stop.take().map(|stop| stop.send(()));
        let _panicked = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

async fn answer(
    State(record): State<Arc<Record>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let refuse = |status: StatusCode, error: &str| {
        (
            status,
            Json(Refusal {
                error: error.to_owned(),
            }),
        )
            .into_response()
    };
    let authorization = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    if authorization != Some(&format!("Bearer {TOKEN}")) {
        return refuse(StatusCode::UNAUTHORIZED, "wrong token");
    }
    let path = uri
        .path()
        .strip_prefix("/base")
        .and_then(AttemptPath::parse)
        .filter(|path| path.run == record.run && path.step == record.step && path.attempt == 1);
    let Some(path) = path else {
        return refuse(StatusCode::NOT_FOUND, "no such attempt");
    };
    let forgets = path.leaf == "transcript" && record.forgetful.load(Ordering::SeqCst);
    if forgets || record.failing.load(Ordering::SeqCst) {
        record.refused.fetch_add(1, Ordering::SeqCst);
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "not now");
    }
    if record.over.load(Ordering::SeqCst) {
        return refuse(StatusCode::GONE, "the attempt is over");
    }
    match path.leaf.as_str() {
        "envelope" => {
            record.served.store(true, Ordering::SeqCst);
            Json(&record.envelope).into_response()
        }
        "heartbeat" => {
            record.heartbeats.fetch_add(1, Ordering::SeqCst);
            Json(HeartbeatReply {
                stop: record.stop.load(Ordering::SeqCst),
            })
            .into_response()
        }
        "result" => {
            let result = serde_json::from_slice(&body).unwrap();
            record.results.lock().unwrap().push(result);
            Json(ResultReply { taken: true }).into_response()
        }
        "transcript" => {
            let part: TranscriptPart = serde_json::from_slice(&body).unwrap();
            let mut transcript = record.transcript.lock().unwrap();
            // The same part may come twice, and none may be missing before it.
            let end = usize::try_from(part.offset).unwrap();
            transcript.truncate(end);
            assert_eq!(transcript.len(), end);
            transcript.push_str(&part.text);
            Json(TranscriptReply {}).into_response()
        }
        leaf @ ("files" | "fetch" | "skill") => {
            record.asked.fetch_add(1, Ordering::SeqCst);
            let answer = match leaf {
                "files" => take_files(&record, &body),
                "fetch" => give_files(&record, &body),
                _ => give_skill(&record, &body),
            };
            let losing = |left: u64| left.checked_sub(1);
            let lost = &record.lost;
            if lost
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, losing)
                .is_ok()
            {
                return refuse(StatusCode::BAD_GATEWAY, "lost on its way");
            }
            answer.unwrap_or_else(|| refuse(StatusCode::CONFLICT, "kept no longer"))
        }
        _ => refuse(StatusCode::NOT_FOUND, "no such thing"),
    }
}

fn take_files(record: &Record, body: &[u8]) -> Option<Response> {
    let part: FilesPart = serde_json::from_slice(body).unwrap();
    let bytes = STANDARD.decode(part.data).unwrap();
    let at = usize::try_from(part.offset).unwrap();
    assert!(at.is_multiple_of(PACK_PART) && !bytes.is_empty() && bytes.len() <= PACK_PART);
    let mut pack = record.pack.lock().unwrap();
    // The same part may come twice, and none may be missing before it.
    assert!(pack.len() >= at);
    pack.truncate(at);
    pack.extend(bytes);
    Some(Json(FilesReply {}).into_response())
}

fn give_files(record: &Record, body: &[u8]) -> Option<Response> {
    let ask: FilesAsk = serde_json::from_slice(body).unwrap();
    let packs = record.packs.lock().unwrap();
    let pack = packs.get(&(ask.step, ask.item))?;
    let at = usize::try_from(ask.offset).unwrap();
    let end = pack.len().min(at + PACK_PART);
    let data = STANDARD.encode(pack.get(at..end).unwrap_or_default());
    Some(Json(json!({ "data": data })).into_response())
}

fn give_skill(record: &Record, body: &[u8]) -> Option<Response> {
    let ask: SkillAsk = serde_json::from_slice(body).unwrap();
    let skills = record.skills.lock().unwrap();
    let file = skills.get(&(ask.skill, ask.path))?;
    let at = usize::try_from(ask.offset).unwrap();
    assert!(at.is_multiple_of(PACK_PART));
    let end = file.len().min(at + PACK_PART);
    let data = STANDARD.encode(file.get(at..end).unwrap_or_default());
    Some(Json(json!({ "data": data })).into_response())
}

/// The envelope of a `command` step that runs `script`, `changes` merged in.
pub(crate) fn envelope(script: &str, changes: Value) -> Value {
    let mut envelope = json!({
        "protocol": 1, "run": "r-1", "workflow": "w", "step": "work", "attempt": 1,
        "harness": "command", "model": null, "tools": [], "body": script, "refs": [],
        "values": {}, "untrusted": [], "output": {"fields": {}}, "emits": {}, "env": {},
        "repos": [], "skills": {}, "seconds": 60, "usd": null, "turns": null,
        "heartbeat_seconds": 1, "last_failure": null,
    });
    let members = envelope.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    envelope
}

/// A test's place on disk and what its servers saw.
pub(crate) struct Attempt {
    pub(crate) place: TempDir,
    pub(crate) record: Arc<Record>,
    /// Where its clones find mirrors.
    pub(crate) mirrors: Option<PathBuf>,
    /// What its processes may take.
    pub(crate) limits: Option<&'static str>,
}

impl Attempt {
    pub(crate) fn of(envelope: Value) -> Self {
        let name = |member: &str| envelope[member].as_str().unwrap_or(member).to_owned();
        let record = Record {
            run: name("run"),
            step: name("step"),
            envelope,
            ..Record::default()
        };
        Self {
            place: tempfile::tempdir().unwrap(),
            record: Arc::new(record),
            mirrors: None,
            limits: None,
        }
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.place.path().join("workspace")
    }

    /// Starts the runner with the launcher's variables and nothing else.
    pub(crate) fn launch(&self, report_url: &str) -> Child {
        tokio::process::Command::new(env!("CARGO_BIN_EXE_loopy-runner"))
            .env_clear()
            .env(launch_env::REPORT_URL, report_url)
            .env(launch_env::TOKEN, TOKEN)
            .env(launch_env::RUN, &self.record.run)
            .env(launch_env::STEP, &self.record.step)
            .env(launch_env::ATTEMPT, "1")
            .env(launch_env::WORKSPACE, self.workspace())
            .envs(self.mirrors.iter().map(|path| (launch_env::MIRRORS, path)))
            .envs(
                self.limits
                    .iter()
                    .map(|limits| (launch_env::LIMITS, limits)),
            )
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Runs the runner to its end against a server that is there all the time.
    pub(crate) async fn run(&self) -> StepResult {
        let server = Server::start(&self.record, 0);
        assert_eq!(code(self.launch(&server.url())).await, 0);
        self.result()
    }

    /// The transcript as it came in.
    pub(crate) fn transcript(&self) -> String {
        self.record.transcript.lock().unwrap().clone()
    }

    /// The one result that came in.
    pub(crate) fn result(&self) -> StepResult {
        let mut results = self.record.results.lock().unwrap();
        assert_eq!(results.len(), 1, "{results:?}");
        results.pop().unwrap()
    }
}

/// Waits for the runner's exit code, a minute at most.
pub(crate) async fn code(mut runner: Child) -> i32 {
    let status = tokio::time::timeout(Duration::from_secs(90), runner.wait()).await;
    status.unwrap().unwrap().code().unwrap()
}

/// Fields by event.
pub(crate) type Emits = BTreeMap<String, Map<String, Value>>;

/// The outputs and emitted events of a success.
#[track_caller]
pub(crate) fn succeeded(result: &StepResult) -> (&Map<String, Value>, &Emits) {
    let Outcome::Succeeded { output, emits } = &result.outcome else {
        unreachable!("{result:?}");
    };
    (output, emits)
}

/// The failure, of this class.
#[track_caller]
pub(crate) fn failed(result: &StepResult, class: FailureClass) -> &Failure {
    let Outcome::Failed(failure) = &result.outcome else {
        unreachable!("{result:?}")
    };
    assert_eq!(failure.class, class, "{}", failure.message);
    failure
}

/// Waits until `done`, twenty seconds at most.
pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..400 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("waited in vain: {what}");
}

/// Whether a process with this argument lives.
pub(crate) fn lives(argument: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            return false;
        };
        line.split(|byte| *byte == 0)
            .any(|part| part == argument.as_bytes())
    })
}
