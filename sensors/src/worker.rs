//! Warm worker processes of one language: a host program that reads a request a line
//! and writes a response a line, each with the number of the request. One answers one
//! call at a time; while all are busy another one is started, up to a few.

use crate::group::{Group, LOOK, too_much};
use loopy_engine::sensor_host::{HostRequest, HostResponse, MAX_RESPONSE, end_of, took_too_long};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many workers of one language there are at most.
const WORKERS: usize = 4;

/// What a response may have beside its events.
const AROUND: u64 = 64 << 10;

/// How many of the last lines on stderr are kept.
const LINES: usize = 40;

/// How long what a process has said is waited for, once it has ended.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(300);

/// The workers of one language.
pub(crate) struct Pool {
    idle: Mutex<Vec<Worker>>,
    places: Semaphore,
}

/// What a worker was started with; one that was started with something else is of no
/// more use.
#[derive(Clone, PartialEq)]
pub(crate) struct Key {
    /// The folder with the code.
    pub(crate) root: PathBuf,
    /// The sensors' own variables.
    pub(crate) environment: BTreeMap<String, String>,
}

/// What a call may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) time: Duration,
    pub(crate) memory: u64,
}

/// A request, as a worker reads it.
#[derive(Serialize)]
struct Asked<'a> {
    number: u64,
    request: &'a HostRequest,
}

/// A response, as a worker writes it.
#[derive(Deserialize)]
struct Answered {
    number: u64,
    response: HostResponse,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            places: Semaphore::new(WORKERS),
        }
    }

    /// Asks a worker with this code, which `command` starts if it has to be.
    /// What the worker itself could not say (it took too long or too much, it ended) is
    /// an error in the response, too.
    ///
    /// # Errors
    /// When it cannot be started; why.
    pub(crate) async fn ask(
        &self,
        request: &HostRequest,
        limits: Limits,
        key: &Key,
        command: impl FnOnce() -> Result<Command, String>,
    ) -> Result<HostResponse, String> {
        let _place = self.places.acquire().await.map_err(|why| why.to_string())?;
        // Out of its place for the length of the call: a call that is given up midway
        // takes the worker with it, and no later call reads its answer.
        let mut worker = match self.idle(key) {
            Some(worker) => worker,
            None => Worker::start(command()?, key)?,
        };
        worker.forget();
        worker.asked = worker.asked.wrapping_add(1);
        let number = worker.asked;
        let mut line =
            serde_json::to_vec(&Asked { number, request }).map_err(|why| why.to_string())?;
        line.push(b'\n');
        let outcome = worker.call(&line, limits).await;
        // An answer is taken only when it is this request's and stands alone: from
        // one that is not on, each would be taken for another sensor's.
        let said = match outcome {
            Outcome::Answer(answer) => match serde_json::from_slice::<Answered>(&answer) {
                Ok(answered) if answered.number != number => format!(
                    "its host answered request {} when it was asked request {number}",
                    answered.number
                ),
                Ok(_) if !worker.responses.buffer().is_empty() => {
                    "its host wrote more than its answer".to_owned()
                }
                Ok(answered) => return Ok(self.keep(worker, answered.response)),
                Err(why) => format!("its host answered no JSON: {why}"),
            },
            Outcome::Broke(why) => why,
            Outcome::Late => took_too_long(limits.time),
            Outcome::Heavy(taken) => too_much(taken, limits.memory),
            Outcome::Ended => return Ok(HostResponse::Error(worker.end().await)),
        };
        worker.end().await;
        Ok(HostResponse::Error(said))
    }

    /// Puts the worker back, unless it could not load something.
    fn keep(&self, worker: Worker, response: HostResponse) -> HostResponse {
        // What could not be loaded may be there the next time, in a new process.
        let is_whole = match &response {
            HostResponse::Unloadable(_) => false,
            HostResponse::Loaded(not) => not.is_empty(),
            HostResponse::Events(_) | HostResponse::Error(_) => true,
        };
        if is_whole {
            lock(&self.idle).push(worker);
        }
        response
    }

    /// A worker with this key that has nothing to do and lives.
    fn idle(&self, key: &Key) -> Option<Worker> {
        let mut idle = lock(&self.idle);
        while let Some(mut worker) = idle.pop() {
            if worker.key == *key && matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
        }
        None
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    /// Before its child: what it has started is killed with it.
    group: Group,
    child: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
    /// How often it was asked.
    asked: u64,
    said: Said,
    key: Key,
}

impl Worker {
    fn start(mut command: Command, key: &Key) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| {
                let program = command.as_std().get_program().display().to_string();
                format!("{program} cannot be started: {why}")
            })?;
        let (Some(requests), Some(responses), Some(messages)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the streams of its worker are missing".to_owned());
        };
        Ok(Self {
            group: Group::of(child.id()),
            child,
            requests,
            responses: BufReader::new(responses),
            asked: 0,
            said: Said::listen(messages),
            key: key.clone(),
        })
    }

    /// Forgets what was said in earlier calls.
    fn forget(&self) {
        lock(&self.said.lines).clear();
    }

    /// Sends a request and waits for the response, for as long and as much as it may
    /// take.
    async fn call(&mut self, line: &[u8], limits: Limits) -> Outcome {
        let Self {
            group,
            requests,
            responses,
            ..
        } = self;
        tokio::select! {
            answer = tokio::time::timeout(limits.time, exchange(requests, responses, line)) => {
                answer.unwrap_or(Outcome::Late)
            }
            taken = heavy(group, limits.memory) => Outcome::Heavy(taken),
        }
    }

    /// Kills it with all that it has started, and says how it ended.
    async fn end(mut self) -> String {
        // Before it is killed, as it may have ended by itself.
        let by_itself = tokio::time::timeout(LAST_WORDS, self.child.wait()).await;
        self.group.kill();
        let _ = self.child.start_kill();
        let status = match by_itself {
            Ok(status) => status,
            Err(_) => self.child.wait().await,
        };
        let ended = match status {
            Ok(status) => format!("its process ended during the call ({status})"),
            Err(why) => format!("its process could not be ended ({why})"),
        };
        self.said.after(&ended).await
    }
}

/// What came of a call.
enum Outcome {
    /// A line.
    Answer(Vec<u8>),
    /// The process ended.
    Ended,
    /// Its streams are of no more use.
    Broke(String),
    /// It took too long.
    Late,
    /// It took this much memory.
    Heavy(u64),
}

async fn exchange(
    requests: &mut ChildStdin,
    responses: &mut BufReader<ChildStdout>,
    line: &[u8],
) -> Outcome {
    let sent = async {
        requests.write_all(line).await?;
        requests.flush().await
    };
    if sent.await.is_err() {
        return Outcome::Ended;
    }
    let most = AROUND.saturating_add(u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX));
    let mut answer = Vec::new();
    match responses.take(most).read_until(b'\n', &mut answer).await {
        Err(why) => Outcome::Broke(why.to_string()),
        Ok(_) if answer.last() == Some(&b'\n') => Outcome::Answer(answer),
        Ok(_) if answer.len() as u64 == most => {
            Outcome::Broke(format!("its answer is longer than {most} bytes"))
        }
        Ok(_) => Outcome::Ended,
    }
}

/// Resolves, with what it takes, once the processes of a group take too much.
pub(crate) async fn heavy(group: &Group, limit: u64) -> u64 {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(taken) = group.beyond(limit) {
            return taken;
        }
    }
}

/// What a process says on stderr: shown, and its end kept.
pub(crate) struct Said {
    lines: Arc<Mutex<VecDeque<String>>>,
    task: JoinHandle<()>,
}

impl Said {
    pub(crate) fn listen(messages: ChildStderr) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            let mut messages = BufReader::new(messages);
            let mut line = Vec::new();
            loop {
                line.clear();
                // In pieces, if it never ends.
                let part = (&mut messages)
                    .take(AROUND)
                    .read_until(b'\n', &mut line)
                    .await;
                if !matches!(part, Ok(1..)) {
                    return;
                }
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                tracing::info!(target: "loopy_sensors", "{text}");
                let mut lines = lock(&kept);
                if lines.len() == LINES {
                    lines.pop_front();
                }
                lines.push_back(text);
            }
        });
        Self { lines, task }
    }

    /// The sentence, and below it the end of what was said.
    pub(crate) async fn after(mut self, sentence: &str) -> String {
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.task).await;
        let lines: Vec<String> = lock(&self.lines).iter().cloned().collect();
        let text = lines.join("\n");
        match end_of(&text) {
            "" => sentence.to_owned(),
            end => format!("{sentence}:\n{end}"),
        }
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        // A process that outlives its group would hold the stream open.
        self.task.abort();
    }
}
