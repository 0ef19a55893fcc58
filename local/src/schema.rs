//! The tables of the state, and how older ones are brought up to them.

use crate::db_error::{DbError, SCHEMA_VERSION};
use loopy_engine::run::{Run, RunSummary};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::path::Path;

const RUNS: &str = "
CREATE TABLE runs (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    workflow   TEXT NOT NULL,
    status     TEXT NOT NULL,
    event      TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    cascade    TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    -- Nanoseconds since 1970, as all columns that end so.
    created_ns INTEGER NOT NULL,
    ended_ns   INTEGER,
    cost_usd   REAL NOT NULL,
    -- 1 from a commit until its effects are known to be performed.
    unsettled  INTEGER NOT NULL,
    run        TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_time ON runs (created_ns, id);
CREATE INDEX runs_by_workflow ON runs (workflow, created_ns, id);
CREATE INDEX runs_by_status ON runs (status, created_ns, id);
CREATE INDEX runs_by_cascade ON runs (cascade);
CREATE INDEX runs_by_manifest ON runs (manifest);
CREATE INDEX runs_unsettled ON runs (id) WHERE unsettled = 1;
";

const MESSAGES: &str = "
CREATE TABLE messages (
    id         INTEGER PRIMARY KEY,
    -- Of a timer that has not fired.
    key        TEXT,
    queue      TEXT NOT NULL,
    body       TEXT NOT NULL,
    visible_ms INTEGER NOT NULL,
    receives   INTEGER NOT NULL,
    -- 1 while it is in hand.
    leased     INTEGER NOT NULL,
    -- How often the process ended while it was in hand.
    crashes    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_key ON messages (key) WHERE key IS NOT NULL;
CREATE INDEX messages_due ON messages (queue, visible_ms, id) WHERE leased = 0;
";

/// What version 1 had in the same form.
const KEPT: &str = "
CREATE TABLE seen (
    delivery TEXT PRIMARY KEY,
    expires  INTEGER NOT NULL
) STRICT;
CREATE INDEX seen_by_expiry ON seen (expires);

CREATE TABLE watermarks (
    name TEXT PRIMARY KEY,
    at   TEXT NOT NULL
) STRICT;

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

/// What version 2 added.
const ADDED: &str = "
CREATE TABLE events (
    id          TEXT PRIMARY KEY,
    version     INTEGER NOT NULL,
    name        TEXT NOT NULL,
    cascade     TEXT NOT NULL,
    recorded_ns INTEGER NOT NULL,
    record      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (recorded_ns, id);
CREATE INDEX events_by_name ON events (name, recorded_ns, id);

CREATE TABLE documents (
    key     TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    text    TEXT NOT NULL,
    -- Seconds since 1970.
    expires INTEGER NOT NULL
) STRICT;
CREATE INDEX documents_by_expiry ON documents (expires);
";

/// The version of an open database; 0 for an empty one.
pub(crate) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Makes the tables, or brings older ones up. Only the one that holds the
/// project's lock may call it.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DbError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&tx)?;
    match found {
        SCHEMA_VERSION => return Ok(()),
        0 => {
            for part in [RUNS, MESSAGES, KEPT, ADDED] {
                tx.execute_batch(part)?;
            }
        }
        1 => from_1(&tx, path)?,
        _ => {
            return Err(DbError::Newer {
                path: path.to_owned(),
                found,
            });
        }
    }
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(tx.commit()?)
}

/// In version 1 what a listing shows was JSON, and a message that was in hand
/// was found in the index of those that wait.
fn from_1(tx: &Transaction<'_>, path: &Path) -> Result<(), DbError> {
    tx.execute_batch(
        "DROP INDEX runs_by_time; DROP INDEX runs_by_workflow; DROP INDEX runs_by_status; \
         DROP INDEX runs_by_cascade; DROP INDEX runs_unsettled; DROP INDEX messages_due; \
         ALTER TABLE runs RENAME TO runs_1; ALTER TABLE messages RENAME TO messages_1;",
    )?;
    for part in [RUNS, MESSAGES, ADDED] {
        tx.execute_batch(part)?;
    }
    let mut old = tx.prepare("SELECT id, version, unsettled, summary, run FROM runs_1")?;
    let mut new = tx.prepare(
        "INSERT INTO runs (id, version, workflow, status, event, event_id, cascade, manifest, \
         created_ns, ended_ns, cost_usd, unsettled, run) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    let mut rows = old.query([])?;
    while let Some(row) = rows.next()? {
        let (id, version, unsettled): (String, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (summary, text): (String, String) = (row.get(3)?, row.get(4)?);
        let unreadable = |why: &dyn std::fmt::Display| DbError::Open {
            path: path.to_owned(),
            why: format!("run {id} of an older Loopy cannot be read: {why}"),
        };
        let summary: RunSummary = serde_json::from_str(&summary).map_err(|why| unreadable(&why))?;
        let run: Run = loopy_engine::run::read(&text).map_err(|why| unreadable(&why))?;
        new.execute(params![
            id,
            version,
            summary.workflow,
            summary.status,
            summary.event,
            summary.event_id,
            summary.cascade,
            run.manifest.0,
            nanos(summary.created_at),
            summary.ended_at.map(nanos),
            summary.cost_usd,
            unsettled,
            text,
        ])?;
    }
    tx.execute_batch(
        "INSERT INTO messages (id, key, queue, body, visible_ms, receives, leased, crashes) \
         SELECT id, key, queue, body, visible_ms, receives, leased, 0 FROM messages_1; \
         DROP TABLE runs_1; DROP TABLE messages_1;",
    )?;
    Ok(())
}

/// A moment as the tables have it. The ends of time are those of the column.
pub(crate) fn nanos(at: jiff::Timestamp) -> i64 {
    let nanos = at.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// A moment out of a table.
pub(crate) fn moment(nanos: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}
