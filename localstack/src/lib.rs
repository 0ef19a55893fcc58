//! What the end-to-end tests share: the `loopy` binary, a project copied to a
//! folder of its own, and waiting with a limit. Everything else goes through
//! the command and the endpoint, as a user's would.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A test cannot begin, or waited in vain.
#[derive(Debug, thiserror::Error)]
pub enum E2eError {
    /// Something that the test set-up prepares is missing.
    #[error("{0} is not set; run `cargo xtask test`, which prepares it")]
    Unprepared(&'static str),
    /// The `loopy` binary is not beside the tests.
    #[error("no loopy binary at {}; run `cargo build --package loopy-cli` first", .0.display())]
    NoBinary(PathBuf),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The command said something that is not JSON.
    #[error(
        "`loopy {command}` answered {status} with no JSON on stdout\nstdout: {stdout}\nstderr: {stderr}"
    )]
    Answer {
        /// The arguments.
        command: String,
        /// The exit status.
        status: String,
        /// All of stdout.
        stdout: String,
        /// All of stderr.
        stderr: String,
    },
    /// What was waited for did not come about.
    #[error("waited {seconds} s for {what}; last seen: {last}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The last look at it.
        last: String,
    },
}

/// A variable that the test set-up sets.
///
/// # Errors
/// [`E2eError::Unprepared`] names it.
pub fn prepared(variable: &'static str) -> Result<String, E2eError> {
    std::env::var(variable).map_err(|_| E2eError::Unprepared(variable))
}

/// The `loopy` binary that cargo built beside the tests.
///
/// # Errors
/// [`E2eError::NoBinary`] when it is not there.
pub fn loopy_binary() -> Result<PathBuf, E2eError> {
    let mut path = std::env::current_exe()?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.push("loopy");
    if path.is_file() {
        Ok(path)
    } else {
        Err(E2eError::NoBinary(path))
    }
}

/// `loopy` with nothing of this process's environment but what is given here.
#[derive(Clone, Debug)]
pub struct Loopy {
    binary: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Loopy {
    /// A command whose environment is `PATH`, `HOME` and these variables.
    ///
    /// # Errors
    /// [`E2eError::NoBinary`].
    pub fn new(environment: BTreeMap<String, String>) -> Result<Self, E2eError> {
        let mut environment = environment;
        for inherited in ["PATH", "HOME"] {
            if let Ok(value) = std::env::var(inherited) {
                environment.entry(inherited.to_owned()).or_insert(value);
            }
        }
        Ok(Self {
            binary: loopy_binary()?,
            environment,
        })
    }

    /// The command with these arguments, not yet run.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env_clear().envs(&self.environment);
        command
    }

    /// Runs it and gives back everything it said.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Output, E2eError> {
        Ok(self.command(arguments).output()?)
    }

    /// Runs it and reads its stdout as JSON.
    ///
    /// # Errors
    /// [`E2eError::Answer`] when that is no JSON.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Result<Value, E2eError> {
        let output = self.run(arguments)?;
        serde_json::from_slice(&output.stdout).map_err(|_| E2eError::Answer {
            command: arguments
                .iter()
                .map(|argument| argument.as_ref().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            status: output.status.to_string(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// A copy of one of the repository's examples.
///
/// # Errors
/// When it cannot be copied.
pub fn example(name: &str) -> Result<TempDir, E2eError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    let folder = tempfile::Builder::new().prefix(name).tempdir()?;
    copy(&source, folder.path())?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<(), E2eError> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() == ".loopy" {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Looks every quarter of a second until `look` gives `Ok`; its error is what
/// was seen instead.
///
/// # Errors
/// [`E2eError::TimedOut`] with the last look.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, E2eError> {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(last) if began.elapsed() > limit => {
                return Err(E2eError::TimedOut {
                    what: what.to_owned(),
                    seconds: limit.as_secs(),
                    last,
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}
