//! What was given up. It stays, with its reason, until somebody has it tried
//! again.

use jiff::Timestamp;
use loopy_engine::message::QueueName;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// Grows with time.
    pub id: i64,
    /// Where it waited.
    pub queue: String,
    /// As it was sent.
    pub body: String,
    /// Why it was given up.
    pub reason: String,
    /// How often it was received.
    pub receives: u32,
    /// When it was given up.
    pub buried_at: Timestamp,
}

/// What a dead letter is made of.
pub(crate) struct Undeliverable {
    pub(crate) queue: String,
    pub(crate) body: String,
    pub(crate) receives: u32,
}

impl Undeliverable {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            queue: row.get(0)?,
            body: row.get(1)?,
            receives: row.get(2)?,
        })
    }
}

/// All dead letters, or those about one cascade; oldest first.
pub(crate) fn dead_letters(
    connection: &Connection,
    cascade: Option<&str>,
) -> rusqlite::Result<Vec<DeadLetter>> {
    connection
        .prepare_cached(
            "SELECT id, queue, body, reason, receives, buried_at FROM dead_letters \
             WHERE ?1 IS NULL OR (json_valid(body) AND json_extract(body, '$.cascade') = ?1) \
             ORDER BY id",
        )?
        .query_map([cascade], |row| {
            let at: String = row.get(5)?;
            let buried_at = at.parse().map_err(|why: jiff::Error| {
                let text = rusqlite::types::Type::Text;
                rusqlite::Error::FromSqlConversionFailure(5, text, Box::new(why))
            })?;
            Ok(DeadLetter {
                id: row.get(0)?,
                queue: row.get(1)?,
                body: row.get(2)?,
                reason: row.get(3)?,
                receives: row.get(4)?,
                buried_at,
            })
        })?
        .collect()
}

/// Writes one down.
pub(crate) fn bury(
    connection: &Connection,
    row: &Undeliverable,
    reason: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO dead_letters (queue, body, reason, receives, buried_at) \
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            row.queue,
            row.body,
            reason,
            row.receives,
            at.to_string()
        ])?;
    Ok(())
}

/// Gives a message up.
pub(crate) fn give_up(
    connection: &Connection,
    id: i64,
    reason: &str,
    at: Timestamp,
) -> rusqlite::Result<()> {
    let row = connection
        .prepare_cached("DELETE FROM messages WHERE id = ?1 RETURNING queue, body, receives")?
        .query_row([id], Undeliverable::of)
        .optional()?;
    row.map_or(Ok(()), |row| bury(connection, &row, reason, at))
}

/// Puts a dead letter back into its queue, as if it had just been sent. `None`
/// when there is none with this id.
pub(crate) fn redrive(
    connection: &Connection,
    id: i64,
    now_ms: i64,
) -> rusqlite::Result<Option<QueueName>> {
    let row = connection
        .prepare_cached("DELETE FROM dead_letters WHERE id = ?1 RETURNING queue, body, receives")?
        .query_row([id], Undeliverable::of)
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let queue = QueueName::ALL
        .into_iter()
        .find(|queue| queue.name() == row.queue);
    let Some(queue) = queue else { return Ok(None) };
    connection
        .prepare_cached(
            "INSERT INTO messages (queue, body, visible_ms, receives, leased, crashes) \
             VALUES (?1, ?2, ?3, 0, 0, 0)",
        )?
        .execute(params![row.queue, row.body, now_ms])?;
    Ok(Some(queue))
}
