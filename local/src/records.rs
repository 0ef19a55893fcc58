//! What is kept beside the runs: what became of events, small documents, seen
//! deliveries, watermarks.

use crate::db::{Db, ReadDb};
use crate::schema::nanos;
use jiff::Timestamp;
use loopy_contract::ids::EventId;
use loopy_engine::ports::{Document, PortError};
use loopy_engine::record::{EventFilter, EventRecord};
use rusqlite::{Connection, OptionalExtension, params};

/// What became of an event, with its version.
pub(crate) async fn event(
    db: &ReadDb,
    id: &EventId,
) -> Result<Option<(EventRecord, u64)>, PortError> {
    let error = |why: &dyn std::fmt::Display| PortError::new(format!("read event {id}"), why);
    let key = id.0.clone();
    let row: Option<(i64, String)> = db
        .read(move |connection| {
            connection
                .prepare_cached("SELECT version, record FROM events WHERE id = ?1")?
                .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
        .map_err(|why| error(&why))?;
    row.map(|(version, text)| {
        let record = serde_json::from_str(&text).map_err(|why| error(&why))?;
        Ok((record, u64::try_from(version).map_err(|why| error(&why))?))
    })
    .transpose()
}

/// Writes what became of an event over the version `expected`; 0 for none. It
/// rides along, as nothing waits for it but the message it comes from.
pub(crate) async fn write_event(
    db: &Db,
    record: &EventRecord,
    expected: u64,
) -> Result<bool, PortError> {
    let id = record.event.id.0.clone();
    let error = |why: &dyn std::fmt::Display| {
        PortError::new(format!("write down event {}", record.event.id), why)
    };
    let text = serde_json::to_string(record).map_err(|why| error(&why))?;
    let expected = i64::try_from(expected).map_err(|why| error(&why))?;
    let (name, cascade) = (record.event.name.clone(), record.event.cascade.0.clone());
    let at = nanos(record.recorded_at);
    let work = move |connection: &Connection| {
        if expected > 0 {
            return connection
                .prepare_cached(
                    "UPDATE events SET version = version + 1, record = ?3 \
                     WHERE id = ?1 AND version = ?2",
                )?
                .execute(params![id, expected, text]);
        }
        connection
            .prepare_cached(
                "INSERT INTO events (id, version, name, cascade, recorded_ns, record) \
                 VALUES (?1, 1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![id, name, cascade, at, text])
    };
    let written = db.ride(work, |_| ()).await;
    written
        .map(|written| written == 1)
        .map_err(|why| error(&why))
}

/// Events, newest first by when they were recorded.
pub(crate) async fn events(
    db: &ReadDb,
    filter: &EventFilter,
) -> Result<Vec<EventRecord>, PortError> {
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let name = filter.name.clone();
    let (since, until) = (
        filter.since.map_or(i64::MIN, nanos),
        filter.until.map_or(i64::MAX, nanos),
    );
    let texts: Vec<String> = db
        .read(move |connection| match name {
            None => connection
                .prepare_cached(
                    "SELECT record FROM events WHERE recorded_ns >= ?2 AND recorded_ns < ?3 \
                     ORDER BY recorded_ns DESC, id DESC LIMIT ?1",
                )?
                .query_map(params![limit, since, until], |row| row.get(0))?
                .collect(),
            Some(name) => connection
                .prepare_cached(
                    "SELECT record FROM events WHERE name = ?4 \
                     AND recorded_ns >= ?2 AND recorded_ns < ?3 \
                     ORDER BY recorded_ns DESC, id DESC LIMIT ?1",
                )?
                .query_map(params![limit, since, until, name], |row| row.get(0))?
                .collect(),
        })
        .await
        .map_err(|why| PortError::new("list events", why))?;
    texts
        .iter()
        .map(|text| serde_json::from_str(text))
        .collect::<Result<_, _>>()
        .map_err(|why| PortError::new("list events", why))
}

/// A document.
pub(crate) async fn document(db: &Db, key: &str) -> Result<Option<Document>, PortError> {
    let error = |why: &dyn std::fmt::Display| PortError::new(format!("read {key}"), why);
    let name = key.to_owned();
    let row: Option<(i64, String)> = db
        .read(move |connection| {
            connection
                .prepare_cached("SELECT version, text FROM documents WHERE key = ?1")?
                .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
        .map_err(|why| error(&why))?;
    row.map(|(version, text)| {
        let version = u64::try_from(version).map_err(|why| error(&why))?;
        Ok(Document { text, version })
    })
    .transpose()
}

/// Writes a document over the version `expected`; 0 for none, and whatever is
/// there when absent.
pub(crate) async fn write_document(
    db: &Db,
    key: &str,
    text: &str,
    expected: Option<u64>,
    expires: Timestamp,
) -> Result<bool, PortError> {
    let error = |why: &dyn std::fmt::Display| PortError::new(format!("write {key}"), why);
    let expected = expected.map(i64::try_from).transpose();
    let expected = expected.map_err(|why| error(&why))?;
    let (name, text, expires) = (key.to_owned(), text.to_owned(), expires.as_second());
    let work = move |connection: &Connection| match expected {
        None => connection
            .prepare_cached(
                "INSERT INTO documents (key, version, text, expires) VALUES (?1, 1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET version = version + 1, text = excluded.text, \
                 expires = excluded.expires",
            )?
            .execute(params![name, text, expires]),
        Some(0) => connection
            .prepare_cached(
                "INSERT INTO documents (key, version, text, expires) VALUES (?1, 1, ?2, ?3) \
                 ON CONFLICT (key) DO NOTHING",
            )?
            .execute(params![name, text, expires]),
        Some(version) => connection
            .prepare_cached(
                "UPDATE documents SET version = version + 1, text = ?2, expires = ?3 \
                 WHERE key = ?1 AND version = ?4",
            )?
            .execute(params![name, text, expires, version]),
    };
    let written = db.write_sure(work, |_| ()).await;
    written
        .map(|written| written == 1)
        .map_err(|why| error(&why))
}

/// Whether a delivery was marked and the mark still counts.
pub(crate) async fn seen(db: &Db, delivery: &str, now: Timestamp) -> Result<bool, PortError> {
    let key = delivery.to_owned();
    db.read(move |connection| {
        connection
            .prepare_cached("SELECT 1 FROM seen WHERE delivery = ?1 AND expires > ?2")?
            .exists(params![key, now.as_second()])
    })
    .await
    .map_err(|why| PortError::new(format!("look up delivery {delivery}"), why))
}

/// Marks a delivery.
pub(crate) async fn mark_seen(
    db: &Db,
    delivery: &str,
    expires: Timestamp,
    now: Timestamp,
) -> Result<(), PortError> {
    let key = delivery.to_owned();
    let work = move |connection: &Connection| {
        // Whoever marks one takes a few of the expired away, so that the table
        // stays as large as the deliveries of some days.
        connection
            .prepare_cached(
                "DELETE FROM seen WHERE delivery IN \
                 (SELECT delivery FROM seen WHERE expires <= ?1 LIMIT 4)",
            )?
            .execute([now.as_second()])?;
        connection
            .prepare_cached(
                "INSERT INTO seen (delivery, expires) VALUES (?1, ?2) \
                 ON CONFLICT (delivery) DO UPDATE SET expires = excluded.expires",
            )?
            .execute(params![key, expires.as_second()])
    };
    db.write_sure(work, |_| ())
        .await
        .map(|_| ())
        .map_err(|why| PortError::new(format!("mark delivery {delivery}"), why))
}

/// Reads a watermark.
pub(crate) async fn watermark(db: &Db, name: &str) -> Result<Option<Timestamp>, PortError> {
    let error =
        |why: &dyn std::fmt::Display| PortError::new(format!("read the watermark of {name}"), why);
    let key = name.to_owned();
    let text: Option<String> = db
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

/// Writes a watermark.
pub(crate) async fn set_watermark(db: &Db, name: &str, at: Timestamp) -> Result<(), PortError> {
    let key = name.to_owned();
    let work = move |connection: &Connection| {
        connection
            .prepare_cached(
                "INSERT INTO watermarks (name, at) VALUES (?1, ?2) \
                 ON CONFLICT (name) DO UPDATE SET at = excluded.at",
            )?
            .execute(params![key, at.to_string()])
    };
    db.write_sure(work, |_| ())
        .await
        .map(|_| ())
        .map_err(|why| PortError::new(format!("write the watermark of {name}"), why))
}

/// The document beside a watermark.
fn snapshot_key(name: &str) -> String {
    format!("snapshot/{name}")
}

/// Reads a watermark and the text beside it.
pub(crate) async fn snapshot(
    db: &Db,
    name: &str,
) -> Result<Option<(Timestamp, String)>, PortError> {
    let error =
        |why: &dyn std::fmt::Display| PortError::new(format!("read the snapshot of {name}"), why);
    let (mark, key) = (name.to_owned(), snapshot_key(name));
    let found: Option<(String, Option<String>)> = db
        .read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT at, text FROM watermarks LEFT JOIN documents ON key = ?2 \
                     WHERE name = ?1",
                )?
                .query_row([mark, key], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
        .map_err(|why| error(&why))?;
    let Some((at, text)) = found else {
        return Ok(None);
    };
    let at = at.parse().map_err(|why: jiff::Error| error(&why))?;
    Ok(Some((at, text.unwrap_or_default())))
}

/// Writes a watermark and the text beside it, in one transaction, if the watermark is
/// still `expected`. False when it is not.
pub(crate) async fn set_snapshot(
    db: &Db,
    name: &str,
    expected: Option<Timestamp>,
    at: Timestamp,
    text: &str,
) -> Result<bool, PortError> {
    let (mark, key, text) = (name.to_owned(), snapshot_key(name), text.to_owned());
    let (expected, at) = (expected.map(|at| at.to_string()), at.to_string());
    let work = move |connection: &Connection| {
        let written = match expected {
            None => connection
                .prepare_cached(
                    "INSERT INTO watermarks (name, at) VALUES (?1, ?2) \
                     ON CONFLICT (name) DO NOTHING",
                )?
                .execute(params![mark, at])?,
            Some(expected) => connection
                .prepare_cached("UPDATE watermarks SET at = ?2 WHERE name = ?1 AND at = ?3")?
                .execute(params![mark, at, expected])?,
        };
        if written == 0 {
            return Ok(false);
        }
        // It stays for as long as the watermark does.
        connection
            .prepare_cached(
                "INSERT INTO documents (key, version, text, expires) VALUES (?1, 1, ?2, ?3) \
                 ON CONFLICT (key) DO UPDATE SET text = excluded.text, version = version + 1",
            )?
            .execute(params![key, text, i64::MAX])?;
        Ok(true)
    };
    db.write_sure(work, |_| ())
        .await
        .map_err(|why| PortError::new(format!("write the snapshot of {name}"), why))
}
