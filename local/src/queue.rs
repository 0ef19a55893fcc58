//! The four queues, their dead letters and the timers: one table of messages,
//! where a timer is a message with a key that becomes visible later.

use crate::db::{Db, DbError};
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_engine::message::{MAX_RECEIVES, Message, QueueName};
use loopy_engine::ports::{Clock, PortError, Queues, Timers};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The queues and timers of the home on one machine.
#[derive(Clone)]
pub struct SqliteQueue {
    db: Db,
    clock: Arc<dyn Clock>,
    enqueued: Arc<BTreeMap<QueueName, watch::Sender<()>>>,
}

/// A message in hand: nobody else gets it until it is released, or until the
/// process that holds it has died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Names it in [`SqliteQueue::ack`] and [`SqliteQueue::release`].
    pub id: i64,
    /// Where it waited.
    pub queue: QueueName,
    /// As it was sent.
    pub body: String,
    /// How often it was received, this time included.
    pub receives: u32,
}

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

impl SqliteQueue {
    /// Queues over an open database.
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        let enqueued = QueueName::ALL
            .into_iter()
            .map(|queue| (queue, watch::Sender::new(())));
        Self {
            db,
            clock,
            enqueued: Arc::new(enqueued.collect()),
        }
    }

    /// Changes whenever this process has put something into the queue.
    pub fn enqueued(&self, queue: QueueName) -> watch::Receiver<()> {
        match self.enqueued.get(&queue) {
            Some(sender) => sender.subscribe(),
            // Every queue has one; a receiver without a sender never changes.
            None => watch::Sender::new(()).subscribe(),
        }
    }

    fn announce(&self, queue: QueueName) {
        if let Some(sender) = self.enqueued.get(&queue) {
            sender.send_replace(());
        }
    }

    /// Has everyone look at their queue again: another process may have put
    /// something into it.
    pub(crate) fn look_again(&self) {
        for queue in QueueName::ALL {
            self.announce(queue);
        }
    }

    /// Takes up to `limit` due messages of a queue in hand, those that wait
    /// longest first.
    ///
    /// # Errors
    /// The database's trouble; nothing is in hand then.
    pub async fn claim(&self, queue: QueueName, limit: usize) -> Result<Vec<Claimed>, PortError> {
        let what = || format!("claim messages of {queue}");
        let now = self.clock.now().as_millisecond();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // An idle look must not take the write lock.
        let due = self
            .db
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT 1 FROM messages \
                         WHERE queue = ?1 AND leased = 0 AND visible_ms <= ?2",
                    )?
                    .exists(params![queue.name(), now])
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        if !due {
            return Ok(Vec::new());
        }
        let mut claimed = self
            .db
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE messages SET leased = 1, receives = receives + 1 \
                         WHERE id IN (SELECT id FROM messages \
                             WHERE queue = ?1 AND leased = 0 AND visible_ms <= ?2 \
                             ORDER BY visible_ms, id LIMIT ?3) \
                         RETURNING visible_ms, id, body, receives",
                    )?
                    .query_map(params![queue.name(), now, limit], |row| {
                        let order: (i64, i64) = (row.get(0)?, row.get(1)?);
                        let (id, body, receives) = (row.get(1)?, row.get(2)?, row.get(3)?);
                        Ok((
                            order,
                            Claimed {
                                id,
                                queue,
                                body,
                                receives,
                            },
                        ))
                    })?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        // RETURNING promises no order.
        claimed.sort_by_key(|(order, _)| *order);
        Ok(claimed.into_iter().map(|(_, message)| message).collect())
    }

    /// Removes a message that has been dealt with.
    ///
    /// # Errors
    /// The database's trouble; the message stays in hand.
    pub async fn ack(&self, id: i64) -> Result<(), PortError> {
        self.db
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM messages WHERE id = ?1")?
                    .execute([id])
            })
            .await
            .map(|_| ())
            .map_err(|why| PortError::new(format!("ack message {id}"), why))
    }

    /// Puts a message back, to come again after `delay`; or, once it has been
    /// received [`MAX_RECEIVES`] times, into the dead letters with `reason`.
    ///
    /// # Errors
    /// The database's trouble; the message stays in hand.
    pub async fn release(
        &self,
        message: &Claimed,
        delay: Duration,
        reason: &str,
    ) -> Result<(), PortError> {
        let id = message.id;
        if message.receives >= MAX_RECEIVES {
            let reason = format!("given up after {} receives: {reason}", message.receives);
            return self.give_up(id, reason).await;
        }
        let visible = later(self.clock.now(), delay);
        self.db
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "UPDATE messages SET leased = 0, visible_ms = ?2 WHERE id = ?1",
                    )?
                    .execute([id, visible])
            })
            .await
            .map_err(|why| PortError::new(format!("release message {id}"), why))?;
        self.announce(message.queue);
        Ok(())
    }

    /// Frees what a process held that has died. Only the one that holds the
    /// project's lock may call it, before it claims anything.
    ///
    /// # Errors
    /// The database's trouble.
    pub async fn reset_leases(&self) -> Result<(), PortError> {
        let now = self.clock.now();
        self.db
            .write(move |connection| {
                let worn_out = connection
                    .prepare_cached("SELECT id FROM messages WHERE leased = 1 AND receives >= ?1")?
                    .query_map([MAX_RECEIVES], |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<i64>>>()?;
                for id in worn_out {
                    let reason =
                        format!("the process ended while it worked on it, {MAX_RECEIVES} times");
                    move_to_dead_letters(connection, id, &reason, now)?;
                }
                connection.execute("UPDATE messages SET leased = 0 WHERE leased = 1", [])
            })
            .await
            .map(|_| ())
            .map_err(|why| PortError::new("free the messages of a process that ended", why))
    }

    /// When the queue's next message becomes due; `None` when none waits.
    ///
    /// # Errors
    /// The database's trouble.
    pub async fn next_due(&self, queue: QueueName) -> Result<Option<Timestamp>, PortError> {
        let next: Option<i64> = self
            .db
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT MIN(visible_ms) FROM messages WHERE queue = ?1 AND leased = 0",
                    )?
                    .query_row([queue.name()], |row| row.get(0))
            })
            .await
            .map_err(|why| PortError::new("look for the next message", why))?;
        next.map(Timestamp::from_millisecond)
            .transpose()
            .map_err(|why| PortError::new("look for the next message", why))
    }

    /// All dead letters, oldest first.
    ///
    /// # Errors
    /// The database's trouble.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, PortError> {
        self.db
            .read(|connection| dead_letters(connection, None))
            .await
            .map_err(|why| PortError::new("list dead letters", why))
    }

    async fn give_up(&self, id: i64, reason: String) -> Result<(), PortError> {
        let now = self.clock.now();
        tracing::warn!(message = id, reason, "gave up a message");
        self.db
            .write(move |connection| move_to_dead_letters(connection, id, &reason, now))
            .await
            .map_err(|why| PortError::new(format!("give up message {id}"), why))
    }

    async fn insert(
        &self,
        key: Option<String>,
        message: &Message,
        visible_ms: i64,
    ) -> Result<(), PortError> {
        let queue = message.queue();
        let what = || format!("send to {queue}");
        let body = serde_json::to_string(message).map_err(|why| PortError::new(what(), why))?;
        self.db
            .write(move |connection| insert(connection, key.as_deref(), queue, &body, visible_ms))
            .await
            .map_err(|why| PortError::new(what(), why))?;
        self.announce(queue);
        Ok(())
    }
}

/// What a dead letter is made of.
struct Undeliverable {
    queue: String,
    body: String,
    receives: u32,
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

pub(crate) fn insert(
    connection: &Connection,
    key: Option<&str>,
    queue: QueueName,
    body: &str,
    visible_ms: i64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO messages (key, queue, body, visible_ms) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (key) DO NOTHING",
        )?
        .execute(params![key, queue.name(), body, visible_ms])?;
    Ok(())
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

fn bury(
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

fn move_to_dead_letters(
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

/// `delay` after `now`, in milliseconds; past the end of time is the end.
fn later(now: Timestamp, delay: Duration) -> i64 {
    now.checked_add(delay)
        .unwrap_or(Timestamp::MAX)
        .as_millisecond()
}

#[async_trait]
impl Queues for SqliteQueue {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        self.insert(None, message, later(self.clock.now(), delay))
            .await
    }

    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        let now = self.clock.now();
        let reason = reason.to_owned();
        let row = Undeliverable {
            queue: queue.name().to_owned(),
            body: body.to_owned(),
            receives: 1,
        };
        tracing::warn!(%queue, reason, "buried a message");
        self.db
            .write(move |connection| bury(connection, &row, &reason, now))
            .await
            .map_err(|why| PortError::new(format!("bury a message of {queue}"), why))
    }
}

#[async_trait]
impl Timers for SqliteQueue {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        // Rounded up, so that a timer never fires before its moment.
        let due = at.as_microsecond().saturating_add(999).div_euclid(1000);
        self.insert(Some(key.to_owned()), message, due).await
    }

    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        let name = key.to_owned();
        self.db
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM messages WHERE key = ?1")?
                    .execute([name])
            })
            .await
            .map(|_| ())
            .map_err(|why: DbError| PortError::new(format!("disarm timer {key}"), why))
    }
}
