//! Starts the AWS emulator on a free port and makes sure that it ends.

use crate::docker::Docker;
use crate::error::Error;
use crate::http;
use crate::process;
use crate::tools::Tools;
use crate::workspace::Workspace;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to come up.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end before it is killed.
const END: Duration = Duration::from_secs(8);

/// A running emulator; ends when dropped. It also ends when this process does,
/// however that happens, because its standard input closes then.
pub(crate) struct Emulator {
    child: Child,
    port: u16,
    /// Where it logs to.
    pub(crate) log: PathBuf,
}

impl Emulator {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// [`Error::Emulator`] when it ends or takes over a minute.
    pub(crate) fn start(workspace: &Workspace, tools: &Tools) -> Result<Self, Error> {
        Self::start_with(workspace, tools, &[])
    }

    /// Starts one whose containers this engine runs.
    ///
    /// # Errors
    /// As [`Emulator::start`].
    pub(crate) fn start_over(
        workspace: &Workspace,
        tools: &Tools,
        docker: &Docker,
    ) -> Result<Self, Error> {
        Self::start_with(workspace, tools, &["--docker-host", &docker.host()])
    }

    /// Starts one that counts what AWS would bill.
    ///
    /// # Errors
    /// As [`Emulator::start`].
    pub(crate) fn start_counting(workspace: &Workspace, tools: &Tools) -> Result<Self, Error> {
        Self::start_with(workspace, tools, &["--count-calls"])
    }

    /// Starts one that checks signatures and lets a role do only what its policies say.
    ///
    /// # Errors
    /// As [`Emulator::start`].
    pub(crate) fn start_enforcing(workspace: &Workspace, tools: &Tools) -> Result<Self, Error> {
        Self::start_with(workspace, tools, &["--enforce"])
    }

    fn start_with(workspace: &Workspace, tools: &Tools, more: &[&str]) -> Result<Self, Error> {
        let port = free_port()?;
        let folder = workspace.tools.join(format!("emulator-{port}"));
        std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let enforcing = if more.contains(&"--enforce") {
            "-enforcing"
        } else {
            ""
        };
        let log = workspace.tools.join(format!("emulator{enforcing}.log"));
        let output = File::create(&log).map_err(Error::file(&log))?;
        let errors = output.try_clone().map_err(Error::file(&log))?;
        let mut command = Command::new(tools.python_program("python"));
        command
            .arg(workspace.root.join("localstack/emulator.py"))
            .args(["--until-stdin-closes", "--port", &port.to_string()])
            .args(more)
            .current_dir(&folder)
            .env("TMPDIR", &folder)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Of its own, so that it can be ended with the functions it started.
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|source| process::start(&command, source))?;
        let mut emulator = Self { child, port, log };
        emulator.wait()?;
        Ok(emulator)
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The endpoint URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    fn wait(&mut self) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            let answer = http::request("GET", &self.address(), "/_ministack/health", &[], b"");
            // Another program may have taken the port: then ours is gone.
            let ended = self.child.try_wait().map_err(Error::file(&self.log))?;
            if let Some(status) = ended {
                return Err(self.failed(format!("it ended with {status}")));
            }
            match answer {
                Ok(response) if response.status == 200 => return Ok(()),
                Ok(response) if begin.elapsed() > START => {
                    return Err(self.failed(format!("it answers {}", response.status)));
                }
                Err(error) if begin.elapsed() > START => return Err(self.failed(error.to_string())),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn failed(&self, problem: String) -> Error {
        Error::Emulator {
            problem,
            log: self.log.clone(),
        }
    }

    /// Signals the emulator and all functions it started.
    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // The only failure is that they are gone, which is what is wanted.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _status = self.child.wait();
        let folder = self.log.with_file_name(format!("emulator-{}", self.port));
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            eprintln!("warning: {}: {error}", folder.display());
        }
    }
}

/// A port that nobody listens on. Another process may take it before the emulator
/// does; the emulator then ends and says so.
pub(crate) fn free_port() -> Result<u16, Error> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_or_else(
            |error| {
                Err(Error::Http {
                    url: "http://127.0.0.1:0".to_owned(),
                    problem: error.to_string(),
                })
            },
            |address| Ok(address.port()),
        )
}
