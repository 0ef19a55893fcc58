//! The database file `.loopy/state.db`: one writer thread that commits in
//! groups, one connection for reads, and the schema.

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The schema this build reads and writes, kept in `user_version`.
const SCHEMA_VERSION: i64 = 1;

/// Writes that share one commit at most; bounds how long a caller waits for
/// the work of others.
const GROUP: usize = 256;

/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE runs (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    workflow   TEXT NOT NULL,
    status     TEXT NOT NULL,
    cascade    TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    -- 1 from a commit until its effects are known to be performed.
    unsettled  INTEGER NOT NULL,
    summary    TEXT NOT NULL,
    run        TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_time ON runs (created_us, id);
CREATE INDEX runs_by_workflow ON runs (workflow, created_us, id);
CREATE INDEX runs_by_status ON runs (status, created_us, id);
CREATE INDEX runs_by_cascade ON runs (cascade);
CREATE INDEX runs_unsettled ON runs (id) WHERE unsettled = 1;

CREATE TABLE seen (
    delivery TEXT PRIMARY KEY,
    expires  INTEGER NOT NULL
) STRICT;
CREATE INDEX seen_by_expiry ON seen (expires);

CREATE TABLE watermarks (
    name TEXT PRIMARY KEY,
    at   TEXT NOT NULL
) STRICT;

CREATE TABLE messages (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT UNIQUE,
    queue      TEXT NOT NULL,
    body       TEXT NOT NULL,
    visible_ms INTEGER NOT NULL,
    receives   INTEGER NOT NULL DEFAULT 0,
    leased     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX messages_due ON messages (queue, leased, visible_ms, id);

CREATE TABLE dead_letters (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue     TEXT NOT NULL,
    body      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    receives  INTEGER NOT NULL,
    buried_at TEXT NOT NULL
) STRICT;

CREATE TABLE manifests (
    hash    TEXT PRIMARY KEY,
    json    TEXT NOT NULL,
    -- 1 for the one that new runs begin with.
    current INTEGER NOT NULL
) STRICT;
";

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

/// One caller's work for the writer: run inside the transaction, told of the
/// outcome once that is over.
trait Job: Send {
    /// Does the work; false when it failed and has to be undone.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Tells the caller. The text says why the whole transaction failed.
    fn reply(self: Box<Self>, committed: Result<(), &str>);
}

struct Write<T, F> {
    work: Option<F>,
    outcome: Option<rusqlite::Result<T>>,
    caller: oneshot::Sender<Result<T, DbError>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn reply(self: Box<Self>, committed: Result<(), &str>) {
        let result = match (committed, self.outcome) {
            (Ok(()), Some(outcome)) => outcome.map_err(DbError::Sqlite),
            (Ok(()), None) => Err(DbError::Closed),
            (Err(why), _) => Err(DbError::Commit(why.to_owned())),
        };
        // The caller may have stopped waiting.
        let _ = self.caller.send(result);
    }
}

/// A handle on the database; clones share it.
#[derive(Clone)]
pub struct Db {
    writer: Arc<Writer>,
    reader: Arc<Mutex<Connection>>,
}

struct Writer {
    jobs: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends when the channel does; waiting for it lets SQLite
        // fold the log into the file.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Db {
    /// Opens `state.db` in `dir`, creating both (modes 0600 and 0700).
    ///
    /// # Errors
    /// [`DbError`] says what is in the way.
    pub fn open(dir: &Path) -> Result<Self, DbError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|why| DbError::Directory {
                path: dir.to_owned(),
                why,
            })?;
        let path = dir.join("state.db");
        let open = |why: String| DbError::Open {
            path: path.clone(),
            why,
        };
        // SQLite gives its log files the mode of the database.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|why| open(why.to_string()))?;
        let mut connection = connect(&path)?;
        migrate(&mut connection, &path)?;
        let reader = connect_reader(&path)?;
        let (jobs, queue) = sync_channel(4 * GROUP);
        let thread = std::thread::Builder::new()
            .name("loopy-db".to_owned())
            .spawn(move || write_loop(connection, &queue))
            .map_err(|why| open(why.to_string()))?;
        Ok(Self {
            writer: Arc::new(Writer {
                jobs: Some(jobs),
                thread: Some(thread),
            }),
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    /// Runs `work` in a transaction; what it did is durable when this returns
    /// `Ok`. Work of several callers shares one commit, but one that fails is
    /// undone alone.
    ///
    /// # Errors
    /// What SQLite said to the work or to the commit.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        use std::sync::mpsc::TrySendError;
        let (caller, result) = oneshot::channel();
        let jobs = self.writer.jobs.as_ref().ok_or(DbError::Closed)?;
        let mut job: Box<dyn Job> = Box::new(Write {
            work: Some(work),
            outcome: None,
            caller,
        });
        loop {
            match jobs.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Err(DbError::Closed),
                Err(TrySendError::Full(back)) => {
                    // The disk is the bottleneck; let it get ahead.
                    job = back;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        result.await.map_err(|_| DbError::Closed)?
    }

    /// Runs `work` on the read connection. It sees every committed write.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        read(&self.reader, work).await
    }

    /// A number that changes whenever anyone commits to the database.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn data_version(&self) -> Result<i64, DbError> {
        self.read(|connection| connection.query_row("PRAGMA data_version", [], |row| row.get(0)))
            .await
    }
}

/// A handle that only reads; for looking at a project while another process
/// drives it.
#[derive(Clone)]
pub struct ReadDb {
    reader: Arc<Mutex<Connection>>,
}

impl ReadDb {
    /// Opens `state.db` in `dir`, which must exist.
    ///
    /// # Errors
    /// [`DbError`] says what is in the way.
    pub fn open(dir: &Path) -> Result<Self, DbError> {
        let path = dir.join("state.db");
        if !path.exists() {
            return Err(DbError::Missing(path));
        }
        let reader = connect_reader(&path)?;
        let found = version(&reader)?;
        if found > SCHEMA_VERSION {
            return Err(DbError::Newer { path, found });
        }
        if found == 0 {
            return Err(DbError::Missing(path));
        }
        Ok(Self {
            reader: Arc::new(Mutex::new(reader)),
        })
    }

    /// As [`Db::read`].
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        read(&self.reader, work).await
    }
}

impl From<&Db> for ReadDb {
    fn from(db: &Db) -> Self {
        Self {
            reader: Arc::clone(&db.reader),
        }
    }
}

async fn read<T, F>(reader: &Arc<Mutex<Connection>>, work: F) -> Result<T, DbError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let reader = Arc::clone(reader);
    tokio::task::spawn_blocking(move || {
        let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(DbError::Sqlite)
    })
    .await
    .map_err(|_| DbError::Closed)?
}

fn connect(path: &Path) -> Result<Connection, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    };
    connect().map_err(|why| DbError::Open {
        path: path.to_owned(),
        why: why.to_string(),
    })
}

fn connect_reader(path: &Path) -> Result<Connection, DbError> {
    let connection = connect(path)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(|why| DbError::Open {
            path: path.to_owned(),
            why: why.to_string(),
        })?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DbError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&tx)?;
    if found > SCHEMA_VERSION {
        return Err(DbError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    if found == 0 {
        tx.execute_batch(SCHEMA)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    Ok(tx.commit()?)
}

fn write_loop(mut connection: Connection, queue: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = queue.try_recv()
        {
            group.push(job);
        }
        let committed = commit(&mut connection, &mut group).map_err(|why| why.to_string());
        for job in group {
            job.reply(committed.as_ref().copied().map_err(String::as_str));
        }
    }
}

/// Runs a group's work in one transaction.
fn commit(connection: &mut Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let mut tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        let mut savepoint = tx.savepoint()?;
        if !job.run(&savepoint) {
            savepoint.rollback()?;
        }
        savepoint.commit()?;
    }
    tx.commit()
}
