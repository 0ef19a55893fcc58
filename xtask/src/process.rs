//! Runs other programs and turns their failure into an error that names them.

use crate::error::Error;
use std::process::{Command, Output, Stdio};

/// Runs `command`, its output going where ours goes.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| start(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: line(command),
        status,
    })
}

/// Runs `command` with stdout turned to our stderr, so that stdout stays the task's own.
///
/// # Errors
/// When it cannot be started or fails.
pub(crate) fn run_beside(command: &mut Command) -> Result<(), Error> {
    run(command.stdout(std::io::stderr()))
}

/// Runs `command` and gives what it wrote to stdout.
///
/// # Errors
/// When it cannot be started, fails, or writes what is not UTF-8.
pub(crate) fn read(command: &mut Command) -> Result<String, Error> {
    let Output { status, stdout, .. } = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| start(command, source))?;
    if !status.success() {
        return Err(Error::Failed {
            command: line(command),
            status,
        });
    }
    String::from_utf8(stdout).map_err(|error| Error::Answer {
        command: line(command),
        problem: error.to_string(),
    })
}

/// What `command` wrote to stdout; `None` when it does not start or fails, of which
/// it says nothing.
pub(crate) fn quiet_read(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// Whether `command` starts and succeeds; it says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The error of a `command` that could not be started.
pub(crate) fn start(command: &Command, source: std::io::Error) -> Error {
    Error::Start {
        command: line(command),
        source,
    }
}

/// The command line as one would type it.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
