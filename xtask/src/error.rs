//! Why a task could not be done.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started at all.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ran and failed; it has said why on its own stderr.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A seed of the simulation breaks a law.
    #[error("{story}")]
    Broken {
        /// How.
        story: String,
    },
    /// A program answered something that cannot be understood.
    #[error("`{command}` answered what cannot be understood: {problem}")]
    Answer {
        /// The command line.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A measurement did not come about.
    #[error("cannot {what}: {problem}")]
    Measure {
        /// What was to be done.
        what: String,
        /// Why it could not.
        problem: String,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of this machine is missing and cannot be installed from here.
    #[error("{missing} is missing. {remedy}")]
    Missing {
        /// What.
        missing: String,
        /// What to do about it.
        remedy: String,
    },
    /// A zip could not be written.
    #[error("{path}: {source}")]
    Zip {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        source: zip::result::ZipError,
    },
    /// A generated file is not what the code would generate.
    #[error("{path} is not what the code generates; run `cargo xtask gen` and commit it")]
    Stale {
        /// Which one.
        path: PathBuf,
    },
    /// JSON could not be written.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A request to the emulator failed.
    #[error("{url}: {problem}")]
    Http {
        /// Where to.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The Docker engine did not come up.
    #[error("the Docker engine did not come up: {problem}; its log is {log}")]
    Docker {
        /// What happened instead.
        problem: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// The emulator did not come up.
    #[error("the emulator did not come up: {problem}; its log is {log}")]
    Emulator {
        /// What happened instead.
        problem: String,
        /// Where its log is.
        log: PathBuf,
    },
}

impl Error {
    /// Makes the error of an operation on `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}
