//! The four queues, their dead letters and the timers: one table of messages,
//! where a timer is a message with a key that becomes visible later.

use crate::db::Db;
use crate::db_error::DbError;
pub use crate::dead_letters::DeadLetter;
use crate::dead_letters::{self, Undeliverable};
use crate::lines::{Claimed, Line, Lines, SUSPECT};
use crate::outbox::{Post, Posted, later};
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_engine::message::{MAX_RECEIVES, Message, QueueName};
use loopy_engine::ports::{Bus, Clock, PortError, Queues, Timers};
use rusqlite::{Connection, OptionalExtension, params};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A message that was in hand so often when the process ended is given up. More
/// than the failures that are put up with: a process that is killed says nothing
/// against what it was at.
pub const MAX_CRASHES: u32 = 16;

/// The longest rest of a message that was in hand when the process ended.
const LONGEST_REST_MS: i64 = 30_000;

/// The queues, the bus and the timers of the home on one machine.
#[derive(Clone)]
pub struct SqliteQueue {
    db: Db,
    clock: Arc<dyn Clock>,
    lines: Arc<Lines>,
    /// Messages that were dealt with and are not removed yet.
    done: Arc<Mutex<Vec<i64>>>,
}

impl SqliteQueue {
    /// Queues over an open database.
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self {
            db,
            clock,
            lines: Arc::new(Lines::new()),
            done: Arc::default(),
        }
    }

    /// Changes whenever there may be something new in the queue.
    pub fn enqueued(&self, queue: QueueName) -> watch::Receiver<()> {
        self.line(queue).changed()
    }

    pub(crate) fn lines(&self) -> &Arc<Lines> {
        &self.lines
    }

    pub(crate) fn line(&self, queue: QueueName) -> &Line {
        self.lines.of(queue)
    }

    /// Has everyone look at their queue again: another process may have put
    /// something into it.
    pub(crate) fn look_again(&self) {
        for queue in QueueName::ALL {
            self.line(queue).forget();
            self.line(queue).announce();
        }
    }

    /// Takes up to `limit` due messages of a queue in hand, those that wait
    /// longest first.
    ///
    /// # Errors
    /// The database's trouble; nothing is in hand then.
    pub async fn claim(&self, queue: QueueName, limit: usize) -> Result<Vec<Claimed>, PortError> {
        self.claim_beside(queue, limit, false).await
    }

    /// As [`SqliteQueue::claim`], when a message that a process ended over is in
    /// hand already or not.
    pub(crate) async fn claim_beside(
        &self,
        queue: QueueName,
        limit: usize,
        suspect: bool,
    ) -> Result<Vec<Claimed>, PortError> {
        let now = self.clock.now().as_millisecond();
        if !self.line(queue).has_backlog(now) {
            return Ok(Vec::new());
        }
        let (mine, theirs) = (Arc::clone(&self.lines), Arc::clone(&self.lines));
        let work = move |connection: &Connection| {
            let claimed = claim(connection, queue, now, limit, suspect)?;
            let beside = suspect || claimed.iter().any(Claimed::is_suspect);
            let next: Option<i64> = connection
                .prepare_cached(
                    "SELECT visible_ms FROM messages WHERE queue = ?1 AND leased = 0 \
                     AND NOT (?2 AND crashes >= ?3) ORDER BY visible_ms LIMIT 1",
                )?
                .query_row(params![queue.name(), beside, SUSPECT], |row| row.get(0))
                .optional()?;
            let more = next.is_some_and(|next| next <= now);
            mine.of(queue).know(more, next.unwrap_or(i64::MAX));
            Ok(claimed)
        };
        let after = move |claimed: Option<&mut Vec<Claimed>>| {
            if claimed.is_none() {
                theirs.of(queue).forget();
            }
        };
        self.db
            .write_sure(work, after)
            .await
            .map_err(|why| PortError::new(format!("claim messages of {queue}"), why))
    }

    /// Removes a message that has been dealt with.
    ///
    /// # Errors
    /// The database's trouble; the message stays in hand.
    pub async fn ack(&self, id: i64) -> Result<(), PortError> {
        self.remove(vec![id])
            .await
            .map_err(|why| PortError::new(format!("ack message {id}"), why))
    }

    /// Removes messages that have been dealt with, in no hurry: what comes in
    /// between is dealt with twice. Those that a failing database keeps go with
    /// the next that are removed.
    pub(crate) fn remove(
        &self,
        ids: Vec<i64>,
    ) -> impl Future<Output = Result<(), DbError>> + Send + use<> {
        lock(&self.done).extend(ids);
        let (mine, again) = (Arc::clone(&self.done), Arc::clone(&self.done));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        let work = move |connection: &Connection| {
            let ids = std::mem::take(&mut *lock(&mine));
            lock(&taken).clone_from(&ids);
            let mut delete = connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?;
            for id in ids {
                delete.execute([id])?;
            }
            Ok(())
        };
        self.db.ride(work, move |removed| {
            if removed.is_none() {
                lock(&again).append(&mut lock(&kept));
            }
        })
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
        let (lines, queue) = (Arc::clone(&self.lines), message.queue);
        self.db
            .write_sure(
                move |connection| {
                    lines.of(queue).due(visible);
                    connection
                        .prepare_cached(
                            "UPDATE messages SET leased = 0, visible_ms = ?2 WHERE id = ?1",
                        )?
                        .execute([id, visible])
                },
                |_| (),
            )
            .await
            .map_err(|why| PortError::new(format!("release message {id}"), why))?;
        self.line(queue).announce();
        Ok(())
    }

    /// Puts back what nobody has begun to work on, as if it had never been in
    /// hand.
    ///
    /// # Errors
    /// The database's trouble; the messages stay in hand.
    pub(crate) async fn put_back(&self, queue: QueueName) -> Result<(), PortError> {
        let waiting: Vec<Claimed> = std::iter::from_fn(|| self.line(queue).pop()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        self.line(queue).forget();
        self.db
            .write_sure(
                move |connection| {
                    let mut put_back = connection.prepare_cached(
                        "UPDATE messages SET leased = 0, receives = receives - 1 WHERE id = ?1",
                    )?;
                    for message in &waiting {
                        put_back.execute([message.id])?;
                    }
                    Ok(())
                },
                |_| (),
            )
            .await
            .map_err(|why| PortError::new(format!("put messages of {queue} back"), why))
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
                    .prepare_cached("SELECT id FROM messages WHERE leased = 1 AND crashes >= ?1")?
                    .query_map([MAX_CRASHES - 1], |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<i64>>>()?;
                for id in worn_out {
                    let reason =
                        format!("the process ended while it worked on it, {MAX_CRASHES} times");
                    dead_letters::give_up(connection, id, &reason, now)?;
                }
                // Once is nothing. What was in hand again and again rests, longer
                // each time: the process must not go down over it at once, and
                // where it is killed for other reasons, others get their turn.
                connection.execute(
                    "UPDATE messages SET leased = 0, crashes = crashes + 1, \
                     receives = receives - 1, visible_ms = CASE crashes WHEN 0 THEN visible_ms \
                     ELSE ?1 + min(?2, 250 << crashes) END WHERE leased = 1",
                    params![now.as_millisecond(), LONGEST_REST_MS],
                )
            })
            .await
            .map_err(|why| PortError::new("free the messages of a process that ended", why))?;
        self.look_again();
        Ok(())
    }

    /// Whether a turn of this poll waits or is in hand.
    ///
    /// # Errors
    /// The database's trouble.
    pub(crate) async fn has_poll(&self, sensor: &str) -> Result<bool, PortError> {
        let what = || format!("look for a turn of poll sensor {sensor}");
        let scheduled_at = Timestamp::UNIX_EPOCH;
        let sample = Message::Poll {
            sensor: sensor.to_owned(),
            scheduled_at,
        };
        // All of them begin alike, up to their time: bodies of deliveries are long, and
        // need not be read.
        let sample = serde_json::to_string(&sample).map_err(|why| PortError::new(what(), why))?;
        let time = format!("\"{scheduled_at}\"}}");
        let Some(start) = sample.strip_suffix(&time).map(str::to_owned) else {
            return Err(PortError::new(what(), "its message is written otherwise"));
        };
        let queue = QueueName::Deliveries;
        self.db
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT 1 FROM messages WHERE queue = ?1 \
                         AND substr(body, 1, length(?2)) = ?2",
                    )?
                    .exists(params![queue.name(), start])
            })
            .await
            .map_err(|why| PortError::new(what(), why))
    }

    /// All messages of a queue, in hand or not.
    pub(crate) async fn bodies(&self, queue: QueueName) -> Result<Vec<String>, PortError> {
        self.db
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT body FROM messages WHERE queue = ?1")?
                    .query_map([queue.name()], |row| row.get(0))?
                    .collect()
            })
            .await
            .map_err(|why| PortError::new(format!("look through {queue}"), why))
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
            .read(|connection| dead_letters::dead_letters(connection, None))
            .await
            .map_err(|why| PortError::new("list dead letters", why))
    }

    async fn give_up(&self, id: i64, reason: String) -> Result<(), PortError> {
        let now = self.clock.now();
        tracing::warn!(message = id, reason, "gave up a message");
        self.db
            .write(move |connection| dead_letters::give_up(connection, id, &reason, now))
            .await
            .map_err(|why| PortError::new(format!("give up message {id}"), why))
    }

    async fn post(&self, posts: Vec<Post>) -> Result<(), DbError> {
        let lines = Arc::clone(&self.lines);
        let now = self.clock.now().as_millisecond();
        self.db
            .write_sure(
                move |connection| Posted::write(&lines, connection, posts, now),
                |posted| posted.into_iter().for_each(Posted::deliver),
            )
            .await
            .map(|_| ())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes messages in hand: as many as allowed of those that no process ended
/// over, and one of the others. A timer that fires loses its key, so that it can
/// be armed again while it is worked on.
fn claim(
    connection: &Connection,
    queue: QueueName,
    now: i64,
    limit: usize,
    suspect: bool,
) -> rusqlite::Result<Vec<Claimed>> {
    let mut take = connection.prepare_cached(
        "UPDATE messages SET leased = 1, receives = receives + 1, key = NULL \
         WHERE id IN (SELECT id FROM messages \
             WHERE queue = ?1 AND leased = 0 AND visible_ms <= ?2 \
             AND (crashes >= ?4) = ?5 ORDER BY visible_ms, id LIMIT ?3) \
         RETURNING visible_ms, id, body, receives, crashes",
    )?;
    let mut claimed = Vec::new();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    for (limit, suspects) in [(i64::from(!suspect), true), (limit, false)] {
        // What stands aside leaves its place to one that does not.
        let limit = if suspects {
            limit
        } else {
            limit.saturating_sub(claimed.len() as i64)
        };
        let rows = take.query_map(
            params![queue.name(), now, limit, SUSPECT, suspects],
            |row| {
                let (id, body) = (row.get(1)?, row.get(2)?);
                let (receives, crashes) = (row.get(3)?, row.get(4)?);
                let order: (i64, i64) = (row.get(0)?, id);
                let message = Claimed {
                    id,
                    queue,
                    body,
                    receives,
                    crashes,
                };
                Ok((order, message))
            },
        )?;
        for row in rows {
            claimed.push(row?);
        }
    }
    // RETURNING promises no order.
    claimed.sort_by_key(|(order, _)| *order);
    Ok(claimed.into_iter().map(|(_, message)| message).collect())
}

#[async_trait]
impl Queues for SqliteQueue {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        let what = || format!("send to {}", message.queue());
        let post = Post::send(message, delay, self.clock.now());
        let post = post.map_err(|why| PortError::new(what(), why))?;
        self.post(vec![post])
            .await
            .map_err(|why| PortError::new(what(), why))
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
            .write(move |connection| dead_letters::bury(connection, &row, &reason, now))
            .await
            .map_err(|why| PortError::new(format!("bury a message of {queue}"), why))
    }
}

#[async_trait]
impl Timers for SqliteQueue {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        let what = || format!("arm timer {key}");
        let post = Post::arm(key.to_owned(), at, message);
        let post = post.map_err(|why| PortError::new(what(), why))?;
        let lines = Arc::clone(&self.lines);
        let now = self.clock.now().as_millisecond();
        let work =
            move |connection: &Connection| Posted::write(&lines, connection, vec![post], now);
        // In no hurry: it is for later.
        self.db
            .ride(work, |posted| {
                if let Some(posted) = posted {
                    posted.deliver();
                }
            })
            .await
            .map(|_| ())
            .map_err(|why| PortError::new(what(), why))
    }

    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        let post = Post::Disarm {
            key: key.to_owned(),
        };
        self.post(vec![post])
            .await
            .map_err(|why| PortError::new(format!("disarm timer {key}"), why))
    }
}

/// The bus on one machine: an event goes straight into the events queue.
#[async_trait]
impl Bus for SqliteQueue {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        self.send(&Message::Event(event.clone()), Duration::ZERO)
            .await
    }

    async fn publish_all(&self, events: &[Event]) -> Result<(), PortError> {
        let error = |why: &dyn std::fmt::Display| {
            PortError::new(format!("publish {} events", events.len()), why)
        };
        let now = self.clock.now();
        let posts = events
            .iter()
            .map(|event| Post::send(&Message::Event(event.clone()), Duration::ZERO, now))
            .collect::<Result<_, _>>()
            .map_err(|why| error(&why))?;
        self.post(posts).await.map_err(|why| error(&why))
    }
}
