//! Runs in SQLite, and the store over all that is kept there. A commit performs
//! the run's messages, timers and events in its own transaction.

use crate::db::{Db, ReadDb};
use crate::outbox::{self, Post, Posted};
use crate::queue::SqliteQueue;
use crate::records;
use crate::schema::{moment, nanos};
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::ids::{EventId, RunId};
use loopy_engine::ports::{Clock, Commit, Document, PortError, RunFilter, Store, Stored};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{Effect, Run, RunSummary, short_hash};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use std::sync::Arc;

/// How many runs are read at once where all are gone through, so that they are
/// never in memory all together.
const PAGE: i64 = 64;

/// Bytes that most runs fit into.
const ROOM: usize = 4096;

/// The store of the home on one machine.
pub struct SqliteStore {
    db: Db,
    queue: SqliteQueue,
    clock: Arc<dyn Clock>,
}

impl SqliteStore {
    /// A store over an open database, beside its queues.
    pub fn new(db: Db, queue: SqliteQueue, clock: Arc<dyn Clock>) -> Self {
        Self { db, queue, clock }
    }

    /// Writes a run with its messages. `version` is the one it must have; none
    /// when it must not exist.
    async fn write(&self, mut run: Run, version: Option<u64>) -> Result<Commit, PortError> {
        let what = if version.is_some() {
            "commit"
        } else {
            "create"
        };
        let id = run.id.clone();
        let error = |why: &dyn std::fmt::Display| PortError::new(format!("{what} run {id}"), why);
        let now = self.clock.now();
        let posts = outbox::take(&mut run, now).map_err(|why| error(&why))?;
        let columns = Columns::of(&run).map_err(|why| error(&why))?;
        let expected = version.map(i64::try_from).transpose();
        let expected = expected.map_err(|why| error(&why))?;
        let lines = Arc::clone(self.queue.lines());
        let now = now.as_millisecond();
        let work = move |connection: &Connection| {
            let written = match expected {
                None => columns.insert(connection)?,
                Some(version) => columns.update(connection, version)?,
            };
            let posts: Vec<Post> = if written { posts } else { Vec::new() };
            let posted = Posted::write(&lines, connection, posts, now)?;
            Ok((written, posted))
        };
        let deliver = |done: Option<&mut (bool, Posted)>| {
            if let Some((_, posted)) = done {
                posted.deliver();
            }
        };
        let written = self.db.write_sure(work, deliver).await;
        let (written, _) = written.map_err(|why| error(&why))?;
        if !written {
            return Ok(Commit::Conflict);
        }
        let version = version.unwrap_or(0).saturating_add(1);
        Ok(Commit::Done(Box::new(Stored { run, version })))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        load(&ReadDb::from(&self.db), id).await
    }

    async fn create(&self, run: Run) -> Result<Commit, PortError> {
        self.write(run, None).await
    }

    async fn commit(&self, run: Run, version: u64) -> Result<Commit, PortError> {
        self.write(run, Some(version)).await
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        list(&ReadDb::from(&self.db), filter).await
    }

    async fn event(&self, id: &EventId) -> Result<Option<(EventRecord, u64)>, PortError> {
        records::event(&ReadDb::from(&self.db), id).await
    }

    async fn write_event(&self, record: &EventRecord, expected: u64) -> Result<bool, PortError> {
        records::write_event(&self.db, record, expected).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        records::events(&ReadDb::from(&self.db), filter).await
    }

    async fn document(&self, key: &str) -> Result<Option<Document>, PortError> {
        records::document(&self.db, key).await
    }

    async fn write_document(
        &self,
        key: &str,
        text: &str,
        expected: Option<u64>,
        expires: Timestamp,
    ) -> Result<bool, PortError> {
        records::write_document(&self.db, key, text, expected, expires).await
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        records::seen(&self.db, delivery, self.clock.now()).await
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        records::mark_seen(&self.db, delivery, expires, self.clock.now()).await
    }

    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        records::watermark(&self.db, name).await
    }

    async fn snapshot(&self, name: &str) -> Result<Option<(Timestamp, String)>, PortError> {
        records::snapshot(&self.db, name).await
    }

    async fn set_snapshot(
        &self,
        name: &str,
        expected: Option<Timestamp>,
        at: Timestamp,
        text: &str,
    ) -> Result<bool, PortError> {
        records::set_snapshot(&self.db, name, expected, at, text).await
    }

    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError> {
        records::set_watermark(&self.db, name, at).await
    }
}

/// A run as its table has it.
struct Columns {
    id: String,
    workflow: String,
    status: &'static str,
    event: String,
    event_id: String,
    cascade: String,
    manifest: String,
    created_ns: i64,
    ended_ns: Option<i64>,
    cost_usd: f64,
    unsettled: bool,
    run: String,
}

impl Columns {
    fn of(run: &Run) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id: run.id.0.clone(),
            workflow: run.workflow.clone(),
            status: run.status.name(),
            event: run.event.name.clone(),
            event_id: run.event.id.0.clone(),
            cascade: run.event.cascade.0.clone(),
            manifest: run.manifest.0.clone(),
            created_ns: nanos(run.created_at),
            ended_ns: run.ended_at.map(nanos),
            cost_usd: run.cost_usd(),
            // A launch has a message that comes again; nothing else has.
            unsettled: run
                .pending
                .iter()
                .any(|pending| !matches!(pending.effect, Effect::Launch { .. })),
            run: text(run)?,
        })
    }

    /// False when the run is there already.
    fn insert(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let inserted = connection
            .prepare_cached(
                "INSERT INTO runs (id, version, workflow, status, event, event_id, cascade, \
                 manifest, created_ns, ended_ns, cost_usd, unsettled, run) \
                 VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
                 ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![
                self.id,
                self.workflow,
                self.status,
                self.event,
                self.event_id,
                self.cascade,
                self.manifest,
                self.created_ns,
                self.ended_ns,
                self.cost_usd,
                self.unsettled,
                self.run
            ])?;
        Ok(inserted == 1)
    }

    /// False when the run has another version, or is not there.
    fn update(&self, connection: &Connection, version: i64) -> rusqlite::Result<bool> {
        // Most commits change no column that an index has, and an update that
        // does not name those leaves the indexes alone.
        let same = connection
            .prepare_cached(
                "UPDATE runs SET version = version + 1, ended_ns = ?3, cost_usd = ?4, run = ?5 \
                 WHERE id = ?1 AND version = ?2 AND status = ?6 AND unsettled = ?7",
            )?
            .execute(params![
                self.id,
                version,
                self.ended_ns,
                self.cost_usd,
                self.run,
                self.status,
                self.unsettled
            ])?;
        if same == 1 {
            return Ok(true);
        }
        let changed = connection
            .prepare_cached(
                "UPDATE runs SET version = version + 1, ended_ns = ?3, cost_usd = ?4, run = ?5, \
                 status = ?6, unsettled = ?7 WHERE id = ?1 AND version = ?2",
            )?
            .execute(params![
                self.id,
                version,
                self.ended_ns,
                self.cost_usd,
                self.run,
                self.status,
                self.unsettled
            ])?;
        Ok(changed == 1)
    }
}

/// A run's JSON. Room for a run of some steps is made at once.
fn text(run: &Run) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::with_capacity(ROOM);
    serde_json::to_writer(&mut bytes, run)?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// Loads a run; also for processes that only read.
pub(crate) async fn load(db: &ReadDb, id: &RunId) -> Result<Option<Stored>, PortError> {
    let key = id.0.clone();
    let error = |why: &dyn std::fmt::Display| PortError::new(format!("read run {id}"), why);
    let row: Option<(i64, String)> = db
        .read(move |connection| {
            connection
                .prepare_cached("SELECT version, run FROM runs WHERE id = ?1")?
                .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
        .map_err(|why| error(&why))?;
    let Some((version, text)) = row else {
        return Ok(None);
    };
    Ok(Some(Stored {
        run: loopy_engine::run::read(&text).map_err(|why| error(&why))?,
        version: u64::try_from(version).map_err(|why| error(&why))?,
    }))
}

/// Lists runs; also for processes that only read.
pub(crate) async fn list(db: &ReadDb, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
    let filter = filter.clone();
    db.read(move |connection| {
        // One statement for each filter, so that each has its index.
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let mut values: Vec<(&str, &dyn ToSql)> = vec![(":limit", &limit)];
        let mut conditions = Vec::new();
        if let Some(workflow) = &filter.workflow {
            conditions.push("workflow = :workflow");
            values.push((":workflow", workflow));
        }
        if let Some(status) = &filter.status {
            conditions.push("status = :status");
            values.push((":status", status));
        }
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        connection
            .prepare_cached(&format!(
                "SELECT id, workflow, status, event, event_id, cascade, created_ns, ended_ns, \
                 cost_usd, manifest FROM runs {condition} ORDER BY created_ns DESC, id DESC LIMIT :limit"
            ))?
            .query_map(&*values, summary)?
            .collect()
    })
    .await
    .map_err(|why| PortError::new("list runs", why))
}

fn summary(row: &Row<'_>) -> rusqlite::Result<RunSummary> {
    let ended: Option<i64> = row.get(7)?;
    Ok(RunSummary {
        id: RunId(row.get(0)?),
        workflow: row.get(1)?,
        status: row.get(2)?,
        event: row.get(3)?,
        event_id: row.get(4)?,
        cascade: row.get(5)?,
        created_at: moment(row.get(6)?),
        ended_at: ended.map(moment),
        cost_usd: row.get(8)?,
        manifest: short_hash(&row.get::<_, String>(9)?).to_owned(),
    })
}

/// Runs that are not over, in their order, from the one after `last`: a page of
/// them, with what to ask for the next page with.
pub(crate) async fn open_runs(
    db: &ReadDb,
    last: Option<(i64, String)>,
) -> Result<(Vec<Run>, Option<(i64, String)>), PortError> {
    let what = "read the runs that are not over";
    let (ns, id) = last.unwrap_or((i64::MIN, String::new()));
    let rows: Vec<(i64, String, String)> = db
        .read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT created_ns, id, run FROM runs \
                     WHERE status IN ('running', 'paused', 'parked') \
                     AND (created_ns, id) > (?1, ?2) ORDER BY created_ns, id LIMIT ?3",
                )?
                .query_map(params![ns, id, PAGE], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
        })
        .await
        .map_err(|why| PortError::new(what, why))?;
    let next = rows.last().map(|(ns, id, _)| (*ns, id.clone()));
    let runs = rows
        .iter()
        .map(|(_, _, text)| loopy_engine::run::read(text))
        .collect::<Result<_, _>>()
        .map_err(|why| PortError::new(what, why))?;
    Ok((runs, next))
}

/// Versions of the runs that are not over, of those among `known`, and of those
/// made at `since` or later, oldest first.
pub(crate) async fn versions(
    db: &ReadDb,
    since: Timestamp,
    known: Vec<RunId>,
) -> Result<Vec<(RunId, i64)>, PortError> {
    let what = "look for runs that moved";
    let known = serde_json::to_string(&known).map_err(|why| PortError::new(what, why))?;
    db.read(move |connection| {
        connection
            .prepare_cached(
                "SELECT id, version FROM runs WHERE id IN ( \
                     SELECT id FROM runs WHERE status IN ('running', 'paused', 'parked') \
                     UNION SELECT id FROM runs WHERE created_ns >= ?1 \
                     UNION SELECT value FROM json_each(?2) \
                 ) ORDER BY created_ns, id",
            )?
            .query_map(params![nanos(since), known], |row| {
                Ok((RunId(row.get(0)?), row.get(1)?))
            })?
            .collect()
    })
    .await
    .map_err(|why| PortError::new(what, why))
}

/// The runs whose last commit may have effects that were not performed.
pub(crate) async fn unsettled(db: &ReadDb) -> Result<Vec<RunId>, PortError> {
    db.read(|connection| {
        connection
            .prepare_cached("SELECT id FROM runs WHERE unsettled = 1")?
            .query_map([], |row| row.get(0).map(RunId))?
            .collect()
    })
    .await
    .map_err(|why| PortError::new("look for runs with effects to perform", why))
}

/// Records that every effect committed so far was performed. The caller makes
/// sure that no input is being applied meanwhile.
pub(crate) async fn settle(db: &Db) -> Result<(), PortError> {
    db.write(|connection| {
        connection
            .prepare_cached("UPDATE runs SET unsettled = 0 WHERE unsettled = 1")?
            .execute([])
    })
    .await
    .map(|_| ())
    .map_err(|why| PortError::new("record that effects were performed", why))
}
