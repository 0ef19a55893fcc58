//! Runs, seen deliveries and watermarks in SQLite.

use crate::db::{Db, ReadDb};
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::ids::RunId;
use loopy_engine::ports::{Clock, Commit, PortError, RunFilter, Store, Stored};
use loopy_engine::run::{Run, RunSummary};
use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The store of the home on one machine.
pub struct SqliteStore {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl SqliteStore {
    /// A store over an open database.
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        load(&ReadDb::from(&self.db), id).await
    }

    async fn create(&self, run: &Run) -> Result<Commit, PortError> {
        let what = || format!("create run {}", run.id);
        let row = Row::of(run).map_err(|why| PortError::new(what(), why))?;
        let inserted = self
            .db
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "INSERT INTO runs \
                         (id, version, workflow, status, cascade, created_us, unsettled, \
                         summary, run) VALUES (?1, 1, ?2, ?3, ?4, ?5, 1, ?6, ?7) ON CONFLICT (id) DO NOTHING",
                    )?
                    .execute(params![
                        row.id,
                        row.workflow,
                        row.status,
                        row.cascade,
                        row.created_us,
                        row.summary,
                        row.run
                    ])
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        Ok(if inserted == 1 {
            Commit::Done(1)
        } else {
            Commit::Conflict
        })
    }

    async fn commit(&self, run: &Run, version: u64) -> Result<Commit, PortError> {
        let what = || format!("commit run {}", run.id);
        let row = Row::of(run).map_err(|why| PortError::new(what(), why))?;
        let expected = i64::try_from(version).map_err(|why| PortError::new(what(), why))?;
        let changed = self
            .db
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE runs SET version = version + 1, status = ?3, unsettled = 1, \
                         summary = ?4, run = ?5 WHERE id = ?1 AND version = ?2",
                    )?
                    .execute(params![row.id, expected, row.status, row.summary, row.run])
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        Ok(if changed == 1 {
            Commit::Done(version + 1)
        } else {
            Commit::Conflict
        })
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        list(&ReadDb::from(&self.db), filter).await
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        let now = self.clock.now().as_second();
        let key = delivery.to_owned();
        self.db
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT 1 FROM seen WHERE delivery = ?1 AND expires > ?2")?
                    .exists(params![key, now])
            })
            .await
            .map_err(|why| PortError::new(format!("look up delivery {delivery}"), why))
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        let now = self.clock.now().as_second();
        let key = delivery.to_owned();
        self.db
            .write(move |connection| {
                // Whoever marks one takes a few of the expired away, so that
                // the table stays as large as the deliveries of some days.
                connection
                    .prepare_cached(
                        "DELETE FROM seen WHERE delivery IN \
                         (SELECT delivery FROM seen WHERE expires <= ?1 LIMIT 4)",
                    )?
                    .execute([now])?;
                connection
                    .prepare_cached(
                        "INSERT INTO seen (delivery, expires) VALUES (?1, ?2) \
                         ON CONFLICT (delivery) DO UPDATE SET expires = excluded.expires",
                    )?
                    .execute(params![key, expires.as_second()])
            })
            .await
            .map(|_| ())
            .map_err(|why| PortError::new(format!("mark delivery {delivery}"), why))
    }

    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        let error = |why: &dyn std::fmt::Display| {
            PortError::new(format!("read the watermark of {name}"), why)
        };
        let key = name.to_owned();
        let text: Option<String> = self
            .db
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT at FROM watermarks WHERE name = ?1")?
                    .query_row([key], |row| row.get(0))
                    .optional()
            })
            .await
            .map_err(|why| error(&why))?;
        text.map(|text| text.parse().map_err(|why: jiff::Error| error(&why)))
            .transpose()
    }

    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError> {
        let key = name.to_owned();
        self.db
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "INSERT INTO watermarks (name, at) VALUES (?1, ?2) \
                         ON CONFLICT (name) DO UPDATE SET at = excluded.at",
                    )?
                    .execute(params![key, at.to_string()])
            })
            .await
            .map(|_| ())
            .map_err(|why| PortError::new(format!("write the watermark of {name}"), why))
    }
}

/// A run as its table has it.
struct Row {
    id: String,
    workflow: String,
    status: &'static str,
    cascade: String,
    created_us: i64,
    summary: String,
    run: String,
}

impl Row {
    fn of(run: &Run) -> Result<Self, serde_json::Error> {
        Ok(Self {
            id: run.id.0.clone(),
            workflow: run.workflow.clone(),
            status: run.status.name(),
            cascade: run.event.cascade.0.clone(),
            created_us: run.created_at.as_microsecond(),
            summary: serde_json::to_string(&run.summary())?,
            run: serde_json::to_string(run)?,
        })
    }
}

/// Loads a run; also for processes that only read.
pub(crate) async fn load(db: &ReadDb, id: &RunId) -> Result<Option<Stored>, PortError> {
    let key = id.0.clone();
    let row: Option<(i64, String)> = db
        .read(move |connection| {
            connection
                .prepare_cached("SELECT version, run FROM runs WHERE id = ?1")?
                .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
        .map_err(|why| PortError::new(format!("read run {id}"), why))?;
    let Some((version, text)) = row else {
        return Ok(None);
    };
    let error = |why: String| PortError::new(format!("read run {id}"), why);
    Ok(Some(Stored {
        run: serde_json::from_str(&text).map_err(|why| error(why.to_string()))?,
        version: u64::try_from(version).map_err(|why| error(why.to_string()))?,
    }))
}

/// Lists runs; also for processes that only read.
pub(crate) async fn list(db: &ReadDb, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
    let filter = filter.clone();
    runs(db, "list runs", move |connection| {
        // One statement for each filter, so that each has its index.
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let order = "ORDER BY created_us DESC, id DESC LIMIT ?1";
        match (&filter.workflow, &filter.status) {
            (None, None) => texts(
                connection,
                &format!("SELECT summary FROM runs {order}"),
                params![limit],
            ),
            (Some(workflow), None) => texts(
                connection,
                &format!("SELECT summary FROM runs WHERE workflow = ?2 {order}"),
                params![limit, workflow],
            ),
            (None, Some(status)) => texts(
                connection,
                &format!("SELECT summary FROM runs WHERE status = ?2 {order}"),
                params![limit, status],
            ),
            (Some(workflow), Some(status)) => texts(
                connection,
                &format!("SELECT summary FROM runs WHERE workflow = ?2 AND status = ?3 {order}"),
                params![limit, workflow, status],
            ),
        }
    })
    .await
}

/// Every run that is not over, with its full state.
pub(crate) async fn running(db: &ReadDb) -> Result<Vec<Run>, PortError> {
    let sql = "SELECT run FROM runs WHERE status = 'running' ORDER BY created_us, id";
    runs(db, "read the running runs", move |connection| {
        texts(connection, sql, [])
    })
    .await
}

/// Runs that are not over, those among `known`, and those made at `since` or
/// later, oldest first, with their full state.
pub(crate) async fn moving(
    db: &ReadDb,
    since: Timestamp,
    known: Vec<RunId>,
) -> Result<Vec<Run>, PortError> {
    let what = "look for runs that moved";
    let known = serde_json::to_string(&known).map_err(|why| PortError::new(what, why))?;
    runs(db, what, move |connection| {
        texts(
            connection,
            "SELECT run FROM runs WHERE id IN ( \
                 SELECT id FROM runs WHERE status = 'running' \
                 UNION SELECT id FROM runs WHERE created_us >= ?1 \
                 UNION SELECT value FROM json_each(?2) \
             ) ORDER BY created_us, id",
            params![since.as_microsecond(), known],
        )
    })
    .await
}

/// The runs whose last commit may have effects that were not performed.
pub(crate) async fn unsettled(db: &ReadDb) -> Result<Vec<RunId>, PortError> {
    db.read(|connection| texts(connection, "SELECT id FROM runs WHERE unsettled = 1", []))
        .await
        .map(|ids| ids.into_iter().map(RunId).collect())
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

/// Reads what `query` finds as JSON.
async fn runs<T, F>(db: &ReadDb, what: &str, query: F) -> Result<Vec<T>, PortError>
where
    T: DeserializeOwned,
    F: FnOnce(&Connection) -> rusqlite::Result<Vec<String>> + Send + 'static,
{
    let found = db
        .read(query)
        .await
        .map_err(|why| PortError::new(what, why))?;
    found
        .iter()
        .map(|text| serde_json::from_str(text).map_err(|why| PortError::new(what, why)))
        .collect()
}

pub(crate) fn texts(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(sql)?
        .query_map(params, |row| row.get(0))?
        .collect()
}
