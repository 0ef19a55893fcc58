//! Notices that a project's files change.

use notify::event::EventKind;
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long it has to be quiet: editors save in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// Something may go on writing; this long after the first change it is enough.
const ENOUGH: Duration = Duration::from_secs(1);

/// The folders that hold project files at any depth.
const FOLDERS: [&str; 3] = ["workflows", "skills", "sensors"];

/// The system does not tell of changes.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {source}", .folder.display())]
pub(crate) struct WatchError {
    folder: PathBuf,
    source: notify::Error,
}

impl WatchError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        matches!(self.source.kind, ErrorKind::MaxFilesWatch)
            .then(|| "raise the system's limit, fs.inotify.max_user_watches".to_owned())
    }
}

/// The changes of one project.
pub(crate) struct Changes {
    folder: PathBuf,
    watcher: RecommendedWatcher,
    seen: mpsc::UnboundedReceiver<()>,
}

impl Changes {
    /// Begins to watch the project in `folder`.
    ///
    /// # Errors
    /// When the system has no means to, or no more of them.
    pub(crate) fn of(folder: &Path) -> Result<Self, WatchError> {
        let (tell, seen) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // To read the project is an event as well. An error means that
            // events were lost, so there may have been one that matters.
            let is_read = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
            if !is_read {
                // When nobody listens, the command is about to end.
                let _ = tell.send(());
            }
        });
        let mut changes = Self {
            folder: folder.to_owned(),
            watcher: watcher.map_err(|source| WatchError {
                folder: folder.to_owned(),
                source,
            })?,
            seen,
        };
        changes.watch()?;
        Ok(changes)
    }

    /// Watches what there is to watch, which may be new.
    fn watch(&mut self) -> Result<(), WatchError> {
        self.watch_one(self.folder.clone(), RecursiveMode::NonRecursive)?;
        for folder in FOLDERS {
            let folder = self.folder.join(folder);
            if folder.is_dir() {
                self.watch_one(folder, RecursiveMode::Recursive)?;
            }
        }
        Ok(())
    }

    fn watch_one(&mut self, folder: PathBuf, mode: RecursiveMode) -> Result<(), WatchError> {
        match self.watcher.watch(&folder, mode) {
            // It went away just now, which is a change that has been noticed.
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => Ok(()),
            watched => watched.map_err(|source| WatchError { folder, source }),
        }
    }

    /// Resolves some time after something in the project's folder changed, not
    /// necessarily a file that means anything.
    ///
    /// # Errors
    /// When what is new cannot be watched.
    pub(crate) async fn next(&mut self) -> Result<(), WatchError> {
        if self.seen.recv().await.is_none() {
            // The watcher lives as long as this does, so there is always one
            // who tells.
            std::future::pending::<()>().await;
        }
        let enough = Instant::now() + ENOUGH;
        while let Ok(Some(())) =
            timeout_at(enough.min(Instant::now() + QUIET), self.seen.recv()).await
        {}
        self.watch()
    }
}
