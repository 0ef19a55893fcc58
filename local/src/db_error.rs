//! What can be wrong with the state database, and which version of it this build
//! knows.

use std::path::PathBuf;

/// The schema this build reads and writes, kept in `user_version`.
pub(crate) const SCHEMA_VERSION: i64 = 2;

/// The database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The state directory could not be made.
    #[error("cannot create the state directory {path}: {why}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// There is no database where one was expected.
    #[error("{0} does not exist: nothing has run in this project yet")]
    Missing(PathBuf),
    /// The file could not be opened as a database.
    #[error("cannot open {path}: {why}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What SQLite or the system said.
        why: String,
    },
    /// A later version of Loopy wrote it.
    #[error(
        "{path} was written by a newer Loopy (state version {found}, this build knows \
         {SCHEMA_VERSION}); use that version, or move the file away to start afresh"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// The version in the file.
        found: i64,
    },
    /// A process of an older version drives the project, so the file cannot be
    /// brought up.
    #[error(
        "{path} is in use by an older Loopy (state version {found}, this build writes \
         {SCHEMA_VERSION}); stop that process first"
    )]
    Older {
        /// Which.
        path: PathBuf,
        /// The version in the file.
        found: i64,
    },
    /// A statement failed.
    #[error("the state database refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit of a group of writes failed; none of them happened.
    #[error("the state database could not commit: {0}")]
    Commit(String),
    /// The writer is gone; only while the process ends.
    #[error("the state database is closed")]
    Closed,
}
