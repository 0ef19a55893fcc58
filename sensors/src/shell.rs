//! Shell sensors: a script is run for each call. It finds what woke it in `LOOPY_…`
//! variables and on stdin, and prints an event a line, as JSON.

use crate::group::{Group, too_much};
use crate::worker::{LAST_WORDS, Limits, Said, heavy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_engine::ports::{Sensed, SensorCall};
use loopy_engine::sensor_host::{HostRequest, HostResponse, MAX_RESPONSE, end_of, took_too_long};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdout, Command};

/// What runs a script that does not say.
const SHELL: &str = "/bin/sh";

/// The longest first line that is read for an interpreter, in bytes, as Linux does.
const FIRST_LINE: u64 = 256;

/// Where scripts are run, and with what.
pub struct Scripts {
    /// The project's folder, in which they are run.
    pub project: PathBuf,
    /// The `PATH` they get.
    pub search_path: OsString,
    /// Their own variables.
    pub environment: BTreeMap<String, String>,
    /// Bytes of memory that a script may take, with all it starts.
    pub memory_limit: u64,
}

impl Scripts {
    /// Answers a request as every host does.
    pub async fn answer(&self, request: &HostRequest) -> HostResponse {
        match request {
            HostRequest::Load { sensors, .. } => {
                let found = sensors.iter().filter_map(|code| {
                    let why = self.command(&code.module).err()?;
                    Some((code.sensor.clone(), why))
                });
                HostResponse::Loaded(found.collect())
            }
            HostRequest::Call {
                code,
                emits,
                call,
                limits,
                ..
            } => match self.command(&code.module) {
                Err(why) => HostResponse::Unloadable(why),
                Ok(command) => {
                    let time = Duration::from_millis(limits.time_ms);
                    match self.run(command, call, time).await {
                        Ok(printed) => events(&printed, emits),
                        Err(why) => HostResponse::Error(why),
                    }
                }
            },
        }
    }

    /// The command that runs a script.
    ///
    /// # Errors
    /// Why there is none.
    fn command(&self, script: &str) -> Result<Command, String> {
        let path = self.project.join(script);
        let file =
            std::fs::File::open(&path).map_err(|why| format!("{script} cannot be read: {why}"))?;
        let mut first = Vec::new();
        std::io::BufReader::new(file.take(FIRST_LINE))
            .read_until(b'\n', &mut first)
            .map_err(|why| format!("{script} cannot be read: {why}"))?;
        let first = String::from_utf8_lossy(&first).into_owned();
        let line = first.strip_prefix("#!").unwrap_or(SHELL).trim();
        // As the kernel reads it: all that stands behind the program is one argument.
        let (program, argument) = match line.split_once([' ', '\t']) {
            Some((program, argument)) => (program, Some(argument.trim())),
            None => (line, None),
        };
        let mut needed = program;
        if program.ends_with("/env")
            && let Some(name) = argument.filter(|name| !name.starts_with('-'))
        {
            needed = name;
        }
        if !is_there(needed, &self.search_path) {
            return Err(format!(
                "{script} is to be run by {needed}, which is not installed here"
            ));
        }
        let mut command = Command::new(program);
        command
            .args(argument.filter(|argument| !argument.is_empty()))
            .arg(&path)
            .current_dir(&self.project)
            .env_clear()
            .env("PATH", &self.search_path)
            .envs(&self.environment);
        Ok(command)
    }

    /// Runs a script and gives back what it printed.
    async fn run(
        &self,
        mut command: Command,
        call: &SensorCall,
        time: Duration,
    ) -> Result<Vec<u8>, String> {
        let trouble = |why: &dyn std::fmt::Display| format!("the script cannot be run: {why}");
        let mut body = Vec::new();
        let mut snapshot = None;
        match call {
            SensorCall::Request {
                method,
                path,
                query,
                headers,
                body_base64,
            } => {
                body = STANDARD.decode(body_base64).map_err(|why| trouble(&why))?;
                let headers = serde_json::to_string(headers).map_err(|why| trouble(&why))?;
                command
                    .env("LOOPY_METHOD", method)
                    .env("LOOPY_PATH", path)
                    .env("LOOPY_QUERY", query)
                    .env("LOOPY_HEADERS", headers);
            }
            SensorCall::Tick {
                scheduled_at,
                last_run,
                snapshot: last,
            } => {
                let mut file = tempfile::NamedTempFile::new().map_err(|why| trouble(&why))?;
                for fields in last {
                    let line = serde_json::to_string(fields).map_err(|why| trouble(&why))?;
                    writeln!(file, "{line}").map_err(|why| trouble(&why))?;
                }
                command
                    .env("LOOPY_SCHEDULED_AT", scheduled_at.to_string())
                    .env("LOOPY_LAST_RUN", last_run.to_string())
                    .env("LOOPY_SNAPSHOT", file.path());
                snapshot = Some(file);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| trouble(&why))?;
        let mut group = Group::of(child.id());
        let (Some(mut stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(trouble(&"its streams are missing"));
        };
        let said = Said::listen(stderr);
        let mut printed = Vec::new();
        let work = async {
            let write = async {
                // It need not read it.
                let _ = stdin.write_all(&body).await;
                drop(stdin);
                Ok(())
            };
            let streams = async { tokio::try_join!(write, read(&mut stdout, &mut printed)) };
            tokio::select! {
                // What it has left in the background may hold its streams for long.
                status = child.wait() => return status.map_err(|why| trouble(&why)),
                done = streams => done?,
            };
            child.wait().await.map_err(|why| trouble(&why))
        };
        let limits = Limits {
            time,
            memory: self.memory_limit,
        };
        let done = tokio::select! {
            done = tokio::time::timeout(limits.time, work) => {
                done.unwrap_or_else(|_| Err(took_too_long(limits.time)))
            }
            taken = heavy(&group, limits.memory) => Err(too_much(taken, limits.memory)),
        };
        // With all that it has left in the background.
        group.kill();
        drop(snapshot);
        let status = done?;
        // What is in the pipe by now. One that is not its child any more may hold that.
        if let Ok(rest) = tokio::time::timeout(LAST_WORDS, read(&mut stdout, &mut printed)).await {
            rest?;
        }
        if status.success() {
            Ok(printed)
        } else {
            Err(said.after(&format!("it failed ({status})")).await)
        }
    }
}

/// Reads what a script prints until the end of it. What was read stays read when it is
/// given up.
async fn read(stdout: &mut ChildStdout, printed: &mut Vec<u8>) -> Result<(), String> {
    loop {
        let count = stdout.read_buf(printed).await;
        if count.map_err(|why| format!("what it prints cannot be read: {why}"))? == 0 {
            return Ok(());
        }
        if printed.len() > MAX_RESPONSE {
            return Err(format!("it printed more than {MAX_RESPONSE} bytes"));
        }
    }
}

/// Whether a program is there: by its path, or on `PATH`.
fn is_there(program: &str, search_path: &OsStr) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    !program.is_empty()
        && std::env::split_paths(search_path).any(|folder| folder.join(program).is_file())
}

/// The events that a script printed: an object a line.
fn events(printed: &[u8], emits: &str) -> HostResponse {
    let mut events = Vec::new();
    let lines = printed.strip_suffix(b"\n").unwrap_or(printed);
    if lines.is_empty() {
        return HostResponse::Events(events);
    }
    for (index, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        let why = match serde_json::from_slice(line) {
            Ok(Value::Object(fields)) => {
                events.push(Sensed {
                    event: emits.to_owned(),
                    fields,
                });
                continue;
            }
            Ok(_) => "it is JSON, but no object".to_owned(),
            Err(why) => why.to_string(),
        };
        let shown: String = String::from_utf8_lossy(line).chars().take(200).collect();
        return HostResponse::Error(format!(
            "line {} of what it printed is not the fields of a {emits} as a JSON object: {why}: \
             {}",
            index.saturating_add(1),
            end_of(&shown)
        ));
    }
    HostResponse::Events(events)
}
