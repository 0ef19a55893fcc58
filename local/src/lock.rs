//! The project's lock: whoever holds `.loopy/lock` drives the project's runs.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held for as long as it lives; the system frees it when the process dies.
#[derive(Debug)]
pub(crate) struct ProjectLock {
    _file: File,
}

impl ProjectLock {
    /// Takes the lock; `None` when another process holds it.
    pub(crate) fn take(dir: &Path) -> std::io::Result<Option<Self>> {
        let file = open(dir)?;
        Ok(acquire(&file, FlockOperation::NonBlockingLockExclusive)?
            .then_some(Self { _file: file }))
    }

    /// Whether some process holds the lock.
    pub(crate) fn is_held(dir: &Path) -> std::io::Result<bool> {
        // Shared, so that two that only look do not take each other for a holder.
        Ok(!acquire(
            &open(dir)?,
            FlockOperation::NonBlockingLockShared,
        )?)
    }
}

fn open(dir: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dir.join("lock"))
}

fn acquire(file: &File, operation: FlockOperation) -> std::io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(why) => Err(why.into()),
    }
}
