//! The database file `.loopy/state.db`: one writer thread that commits in
//! groups, and one connection for reads.

use crate::db_error::{DbError, SCHEMA_VERSION};
use crate::lock::ProjectLock;
use crate::schema::{migrate, version};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Writes that share one commit at most; bounds how long a caller waits for
/// the work of others.
const GROUP: usize = 1024;

/// How long what is in no hurry waits for a commit to ride along with.
const RIDE: Duration = Duration::from_millis(2);

/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(10);

/// Pages in the log after which they are folded into the file. A page that
/// changes often is folded once for all its changes.
const LOG_PAGES: i64 = 8000;

/// The writer's page cache, in KiB as SQLite counts it.
const CACHE: i64 = -16_000;

/// One caller's work for the writer: run inside the transaction, told of the
/// outcome once that is over.
trait Job: Send {
    /// Whether it may fail where others succeed, and has to be undone alone.
    fn is_alone(&self) -> bool;
    /// Does the work; false when it failed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Tells the caller. The text says why the whole transaction failed.
    fn reply(self: Box<Self>, committed: Result<(), &str>);
}

struct Write<T, F, A> {
    alone: bool,
    work: Option<F>,
    outcome: Option<rusqlite::Result<T>>,
    after: A,
    caller: oneshot::Sender<Result<T, DbError>>,
}

impl<T, F, A> Job for Write<T, F, A>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    A: FnOnce(Option<&mut T>) + Send,
{
    fn is_alone(&self) -> bool {
        self.alone
    }

    fn run(&mut self, connection: &Connection) -> bool {
        self.outcome = self.work.take().map(|work| work(connection));
        matches!(self.outcome, Some(Ok(_)))
    }

    fn reply(self: Box<Self>, committed: Result<(), &str>) {
        let mut result = match (committed, self.outcome) {
            (_, Some(Err(why))) => Err(DbError::Sqlite(why)),
            (Err(why), _) => Err(DbError::Commit(why.to_owned())),
            (Ok(()), Some(Ok(done))) => Ok(done),
            (Ok(()), None) => Err(DbError::Closed),
        };
        (self.after)(result.as_mut().ok());
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

/// What waits for a commit to ride along with.
type Riders = Arc<Mutex<Vec<Box<dyn Job>>>>;

struct Writer {
    /// `None` has the thread look at the riders.
    jobs: Option<SyncSender<Option<Box<dyn Job>>>>,
    riders: Riders,
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
    /// Opens `state.db` in `dir`, creating both (modes 0600 and 0700), and
    /// brings an older one up. Only the one that holds the project's lock may
    /// call it; see [`Db::attach`].
    ///
    /// # Errors
    /// [`DbError`] says what is in the way.
    pub fn open(dir: &Path) -> Result<Self, DbError> {
        make_directory(dir)?;
        let path = dir.join("state.db");
        // SQLite gives its log files the mode of the database.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|why| DbError::Open {
                path: path.clone(),
                why: why.to_string(),
            })?;
        let mut connection = connect(&path)?;
        migrate(&mut connection, &path)?;
        Self::over(connection, &path)
    }

    /// Opens `state.db` in `dir` to put something into it, beside the process
    /// that drives the project.
    ///
    /// # Errors
    /// [`DbError`] says what is in the way.
    pub fn attach(dir: &Path) -> Result<Self, DbError> {
        let path = dir.join("state.db");
        drop(ReadDb::open(dir)?);
        Self::over(connect(&path)?, &path)
    }

    fn over(connection: Connection, path: &Path) -> Result<Self, DbError> {
        let reader = connect_reader(path)?;
        let (jobs, queue) = sync_channel(4 * GROUP);
        let riders = Riders::default();
        let waiting = Arc::clone(&riders);
        let thread = std::thread::Builder::new()
            .name("loopy-db".to_owned())
            .spawn(move || write_loop(connection, &queue, &waiting))
            .map_err(|why| DbError::Open {
                path: path.to_owned(),
                why: why.to_string(),
            })?;
        Ok(Self {
            writer: Arc::new(Writer {
                jobs: Some(jobs),
                riders,
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
        let (job, result) = job(true, work, |_| ());
        self.send(job).await?;
        result.await.map_err(|_| DbError::Closed)?
    }

    /// As [`Db::write`], for work that fails only if the database does: then
    /// all that share the commit fail with it. `after` is called with what the
    /// work gave once that is durable, or with `None`, even when the caller has
    /// stopped waiting.
    ///
    /// # Errors
    /// What SQLite said to the work or to the commit.
    pub(crate) async fn write_sure<T, F, A>(&self, work: F, after: A) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(Option<&mut T>) + Send + 'static,
    {
        let (job, result) = job(false, work, after);
        self.send(job).await?;
        result.await.map_err(|_| DbError::Closed)?
    }

    /// As [`Db::write_sure`], for work in no hurry: it rides along with the next
    /// commit, or has its own a moment later. It is on its way at once, whether
    /// or not the answer is waited for.
    pub(crate) fn ride<T, F, A>(
        &self,
        work: F,
        after: A,
    ) -> impl Future<Output = Result<T, DbError>> + Send + use<T, F, A>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        A: FnOnce(Option<&mut T>) + Send + 'static,
    {
        let (job, result) = job(false, work, after);
        let first = {
            let mut riders = lock(&self.writer.riders);
            riders.push(job);
            riders.len() == 1
        };
        if first && let Some(jobs) = &self.writer.jobs {
            // Where the channel is full, a commit is near.
            let _ = jobs.try_send(None);
        }
        async move { result.await.map_err(|_| DbError::Closed)? }
    }

    async fn send(&self, job: Box<dyn Job>) -> Result<(), DbError> {
        let jobs = self.writer.jobs.as_ref().ok_or(DbError::Closed)?;
        let mut job = Some(job);
        loop {
            match jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(DbError::Closed),
                Err(TrySendError::Full(back)) => {
                    // The disk is the bottleneck; let it get ahead.
                    job = back;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
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
        self.read(data_version).await
    }

    /// A number that changes whenever another process commits to the database.
    /// It costs a turn of the writer.
    ///
    /// # Errors
    /// What SQLite said.
    pub(crate) async fn foreign_version(&self) -> Result<i64, DbError> {
        self.write_sure(data_version, |_| ()).await
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

/// What the caller waits for.
type Answer<T> = oneshot::Receiver<Result<T, DbError>>;

fn job<T, F, A>(alone: bool, work: F, after: A) -> (Box<dyn Job>, Answer<T>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    A: FnOnce(Option<&mut T>) + Send + 'static,
{
    let (caller, result) = oneshot::channel();
    let job = Write {
        alone,
        work: Some(work),
        outcome: None,
        after,
        caller,
    };
    (Box::new(job), result)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle that only reads; for looking at a project while another process
/// drives it.
#[derive(Clone)]
pub struct ReadDb {
    reader: Arc<Mutex<Connection>>,
}

impl ReadDb {
    /// Opens `state.db` in `dir`, which must exist. An older one is brought up
    /// unless a process drives the project.
    ///
    /// # Errors
    /// [`DbError`] says what is in the way.
    pub fn open(dir: &Path) -> Result<Self, DbError> {
        let path = dir.join("state.db");
        if !path.exists() {
            return Err(DbError::Missing(path));
        }
        let reader = connect_reader(&path)?;
        match version(&reader)? {
            SCHEMA_VERSION => {}
            0 => return Err(DbError::Missing(path)),
            found if found > SCHEMA_VERSION => return Err(DbError::Newer { path, found }),
            found => bring_up(dir, path, found)?,
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

fn bring_up(dir: &Path, path: PathBuf, found: i64) -> Result<(), DbError> {
    let lock = ProjectLock::take(dir).map_err(|why| DbError::Open {
        path: path.clone(),
        why: why.to_string(),
    })?;
    match lock {
        None => Err(DbError::Older { path, found }),
        Some(_lock) => migrate(&mut connect(&path)?, &path),
    }
}

pub(crate) fn make_directory(dir: &Path) -> Result<(), DbError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|why| DbError::Directory {
            path: dir.to_owned(),
            why,
        })
}

async fn read<T, F>(reader: &Arc<Mutex<Connection>>, work: F) -> Result<T, DbError>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let reader = Arc::clone(reader);
    tokio::task::spawn_blocking(move || work(&lock(&reader)).map_err(DbError::Sqlite))
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
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "cache_size", CACHE)?;
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
    let limit = || -> rusqlite::Result<()> {
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", CACHE / 8)
    };
    limit().map_err(|why| DbError::Open {
        path: path.to_owned(),
        why: why.to_string(),
    })?;
    Ok(connection)
}

fn write_loop(mut connection: Connection, queue: &Receiver<Option<Box<dyn Job>>>, riders: &Riders) {
    let mut open = true;
    let (mut jobs, mut group) = (Vec::new(), Vec::new());
    while open {
        let first = if lock(riders).is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(RIDE)
        };
        match first {
            Ok(Some(job)) => jobs.push(job),
            // The riders have come: they wait from now on.
            Ok(None) => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => open = false,
        }
        while jobs.len() < GROUP
            && let Ok(job) = queue.try_recv()
        {
            jobs.extend(job);
        }
        // First, as none of them follows from a job that is still to be done,
        // while a job may follow from one of them.
        group.append(&mut lock(riders));
        group.append(&mut jobs);
        if group.is_empty() {
            continue;
        }
        let committed = commit(&mut connection, &mut group).map_err(|why| why.to_string());
        for job in group.drain(..) {
            job.reply(committed.as_ref().copied().map_err(String::as_str));
        }
    }
}

/// Runs a group's work in one transaction.
fn commit(connection: &mut Connection, group: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        if !job.is_alone() {
            if !job.run(&tx) {
                return Err(failed());
            }
            continue;
        }
        step(&tx, "SAVEPOINT alone")?;
        if !job.run(&tx) {
            step(&tx, "ROLLBACK TO alone")?;
        }
        step(&tx, "RELEASE alone")?;
    }
    tx.commit()
}

fn step(connection: &Connection, sql: &str) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute([])
}

/// Why a group failed of which one's work failed; that one is told by itself.
fn failed() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
        Some("a write beside it failed".to_owned()),
    )
}
