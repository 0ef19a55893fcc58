//! The project's Python sensors, in one warm worker process. It starts with
//! the first call, and again after it has died or was killed for taking too
//! long. Its environment is `PATH` and `sensors/.env`, nothing else.

use crate::dotenv::{self, DotenvError};
use async_trait::async_trait;
use loopy_contract::manifest::{Manifest, Sensor, SensorSource};
use loopy_engine::ports::{PortError, Sensed, SensorCall, SensorCode, SensorError};
use loopy_engine::sensor_host::{HostRequest, HostResponse, PYTHON_HOST};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// How long one call may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The largest response that is read, in bytes.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// Calls Python sensors in a worker process; one call at a time.
pub struct PythonSensors {
    project: PathBuf,
    state: PathBuf,
    search_path: OsString,
    python: Option<PathBuf>,
    time_limit: Duration,
    worker: Mutex<Option<Worker>>,
}

impl PythonSensors {
    /// Sensors of `project`. `state` is the state directory; `search_path` is
    /// the worker's `PATH`, on which `python3` is looked for unless `python`
    /// names an interpreter.
    pub fn new(
        project: &Path,
        state: &Path,
        search_path: OsString,
        python: Option<PathBuf>,
        time_limit: Duration,
    ) -> Self {
        Self {
            project: project.to_owned(),
            state: state.to_owned(),
            search_path,
            python,
            time_limit,
            worker: Mutex::new(None),
        }
    }

    fn interpreter(&self) -> Result<PathBuf, PortError> {
        if let Some(python) = &self.python {
            return Ok(python.clone());
        }
        std::env::split_paths(&self.search_path)
            .map(|dir| dir.join("python3"))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                PortError::new(
                    "start the sensor worker",
                    "there is no `python3` on PATH; install Python 3.9 or later, or name an \
                     interpreter in LOOPY_PYTHON",
                )
            })
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, PortError> {
        match dotenv::read(&self.project.join("sensors/.env")) {
            Err(DotenvError::Read { why, .. }) if why.kind() == ErrorKind::NotFound => {
                Ok(BTreeMap::new())
            }
            found => found.map_err(|why| PortError::new("read the sensors' environment", why)),
        }
    }

    fn start(&self) -> Result<Worker, PortError> {
        let python = self.interpreter()?;
        let error = |why: &dyn std::fmt::Display| {
            PortError::new(
                format!("start the sensor worker with {}", python.display()),
                why,
            )
        };
        let host = self.write_host().map_err(|why| error(&why))?;
        let mut child = Command::new(&python)
            // Without `.pyc` files in the project.
            .arg("-B")
            .arg(&host)
            .arg("--worker")
            .arg(&self.project)
            .env_clear()
            .env("PATH", &self.search_path)
            .envs(self.environment()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what a sensor has started can be
            // killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| error(&why))?;
        let (Some(requests), Some(responses), Some(messages)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(error(&"its streams are missing"));
        };
        tokio::spawn(async move {
            let mut lines = BufReader::new(messages).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::info!(target: "loopy_sensors", "{line}");
            }
        });
        Ok(Worker {
            child,
            requests,
            responses: BufReader::new(responses),
        })
    }

    /// Puts the host program beside the state, whole or not at all.
    fn write_host(&self) -> std::io::Result<PathBuf> {
        let dir = self.state.join("python");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let path = dir.join("loopy_sensors.py");
        if std::fs::read(&path).is_ok_and(|text| text == PYTHON_HOST.as_bytes()) {
            return Ok(path);
        }
        let part = dir.join(format!("loopy_sensors.{}.part", std::process::id()));
        std::fs::write(&part, PYTHON_HOST)?;
        std::fs::rename(&part, &path)?;
        Ok(path)
    }

    async fn ask(&self, request: &HostRequest) -> Result<HostResponse, SensorError> {
        let what = || format!("call sensor {}", request.sensor);
        let mut line = serde_json::to_vec(request).map_err(|why| PortError::new(what(), why))?;
        line.push(b'\n');
        let mut slot = self.worker.lock().await;
        // Out of its place for the length of the call: a call that is given up
        // midway takes the worker with it, and no later call reads its answer.
        let mut worker = match slot.take().and_then(Worker::alive) {
            Some(worker) => worker,
            None => self.start()?,
        };
        match tokio::time::timeout(self.time_limit, worker.exchange(&line)).await {
            Ok(Ok(answer)) => {
                let response: HostResponse = serde_json::from_slice(&answer)
                    .map_err(|why| PortError::new(what(), format!("it answered no JSON: {why}")))?;
                *slot = Some(worker);
                Ok(response)
            }
            Ok(Err(why)) => {
                let end = worker.end().await;
                Err(
                    PortError::new(what(), format!("the worker {end} during the call: {why}"))
                        .into(),
                )
            }
            Err(_) => {
                worker.end().await;
                Err(SensorError::Raised {
                    sensor: request.sensor.clone(),
                    message: format!(
                        "it did not come back within {} s and was killed",
                        self.time_limit.as_secs_f64()
                    ),
                })
            }
        }
    }
}

#[async_trait]
impl SensorCode for PythonSensors {
    async fn call(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        let raised = |message: String| SensorError::Raised {
            sensor: sensor.name.clone(),
            message,
        };
        let kind = match sensor.source {
            SensorSource::Module => None,
            SensorSource::Shell => Some("shell scripts"),
            SensorSource::Typescript => Some("TypeScript"),
            SensorSource::Builtin => Some("built-in events"),
        };
        if let Some(kind) = kind {
            return Err(raised(format!(
                "this host runs Python sensors only, not {kind}; write it in Python"
            )));
        }
        let request = HostRequest::new(manifest, sensor, call)
            .ok_or_else(|| raised("the manifest names no Python function for it".to_owned()))?;
        match self.ask(&request).await? {
            HostResponse::Events(events) => Ok(events),
            HostResponse::Error(message) => Err(raised(message)),
        }
    }
}

struct Worker {
    child: Child,
    requests: ChildStdin,
    responses: BufReader<ChildStdout>,
}

impl Worker {
    /// Itself, unless it has ended.
    fn alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    async fn exchange(&mut self, line: &[u8]) -> std::io::Result<Vec<u8>> {
        self.requests.write_all(line).await?;
        self.requests.flush().await?;
        let mut answer = Vec::new();
        (&mut self.responses)
            .take(MAX_RESPONSE)
            .read_until(b'\n', &mut answer)
            .await?;
        if answer.last() == Some(&b'\n') {
            Ok(answer)
        } else if answer.len() as u64 == MAX_RESPONSE {
            Err(std::io::Error::other(format!(
                "its answer is longer than {MAX_RESPONSE} bytes"
            )))
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }

    /// Kills it with all that it has started, and says how it ended.
    async fn end(mut self) -> String {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) => format!("ended ({status})"),
            Err(why) => format!("could not be ended ({why})"),
        }
    }
}
