//! Messages and timers on their way into the table: what a caller sends, and
//! what the effects of a run send in the transaction that commits them.

use crate::lines::{Claimed, Lines};
use jiff::Timestamp;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::outgoing::{Outgoing, outgoing};
use loopy_engine::run::Run;
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// One change to the table of messages.
pub(crate) enum Post {
    /// A message. Without a moment it is due at once.
    Send {
        queue: QueueName,
        body: String,
        at_ms: Option<i64>,
    },
    /// A timer; nothing when its key is armed.
    Arm {
        key: String,
        queue: QueueName,
        body: String,
        at_ms: i64,
    },
    /// A timer that must not fire.
    Disarm { key: String },
}

impl Post {
    /// A message to send.
    pub(crate) fn send(
        message: &Message,
        delay: Duration,
        now: Timestamp,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::Send {
            queue: message.queue(),
            body: serde_json::to_string(message)?,
            at_ms: (!delay.is_zero()).then(|| later(now, delay)),
        })
    }

    /// A timer to arm.
    pub(crate) fn arm(
        key: String,
        at: Timestamp,
        message: &Message,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::Arm {
            key,
            queue: message.queue(),
            body: serde_json::to_string(message)?,
            // Rounded up, so that a timer never fires before its moment.
            at_ms: at.as_microsecond().saturating_add(999).div_euclid(1000),
        })
    }

    fn of(outgoing: Outgoing, now: Timestamp) -> Result<Self, serde_json::Error> {
        match outgoing {
            Outgoing::Send { message, delay } => Self::send(&message, delay, now),
            Outgoing::Arm { key, at, message } => Self::arm(key, at, &message),
            Outgoing::Disarm { key } => Ok(Self::Disarm { key }),
            Outgoing::Publish { event } => Self::send(&Message::Event(event), Duration::ZERO, now),
        }
    }
}

/// Takes those effects out of the run that are messages, timers and events.
pub(crate) fn take(run: &mut Run, now: Timestamp) -> Result<Vec<Post>, serde_json::Error> {
    let mut posts = Vec::new();
    for pending in std::mem::take(&mut run.pending) {
        match outgoing(run, &pending.effect, now) {
            None => run.pending.push(pending),
            Some(sent) => {
                for one in sent {
                    posts.push(Post::of(one, now)?);
                }
            }
        }
    }
    Ok(posts)
}

/// What was written. Once it is durable, [`Posted::deliver`] hands it on; when
/// it is dropped before, those it was meant for do not hear of it.
pub(crate) struct Posted {
    lines: Arc<Lines>,
    straight: Vec<Claimed>,
    touched: BTreeSet<QueueName>,
}

impl Posted {
    /// Writes the posts, in order.
    pub(crate) fn write(
        lines: &Arc<Lines>,
        connection: &Connection,
        posts: Vec<Post>,
        now_ms: i64,
    ) -> rusqlite::Result<Self> {
        let mut posted = Self {
            lines: Arc::clone(lines),
            straight: Vec::new(),
            touched: BTreeSet::new(),
        };
        for post in posts {
            posted.write_one(connection, post, now_ms)?;
        }
        Ok(posted)
    }

    fn write_one(
        &mut self,
        connection: &Connection,
        post: Post,
        now_ms: i64,
    ) -> rusqlite::Result<()> {
        match post {
            Post::Send { queue, body, at_ms } => {
                let line = self.lines.of(queue);
                let straight = at_ms.is_none() && line.take_place();
                let receives = u32::from(straight);
                let inserted = connection
                    .prepare_cached(
                        "INSERT INTO messages \
                         (queue, body, visible_ms, receives, leased, crashes) \
                         VALUES (?1, ?2, ?3, ?4, ?4, 0)",
                    )
                    .and_then(|mut insert| {
                        let at = at_ms.unwrap_or(now_ms);
                        insert.execute(params![queue.name(), body, at, receives])
                    });
                if let Err(why) = inserted {
                    line.free(usize::from(straight));
                    return Err(why);
                }
                self.touched.insert(queue);
                if straight {
                    self.straight.push(Claimed {
                        id: connection.last_insert_rowid(),
                        queue,
                        body,
                        receives,
                        crashes: 0,
                    });
                } else if let Some(at_ms) = at_ms {
                    line.due(at_ms);
                }
            }
            Post::Arm {
                key,
                queue,
                body,
                at_ms,
            } => {
                connection
                    .prepare_cached(
                        "INSERT INTO messages \
                         (key, queue, body, visible_ms, receives, leased, crashes) \
                         VALUES (?1, ?2, ?3, ?4, 0, 0, 0) \
                         ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING",
                    )?
                    .execute(params![key, queue.name(), body, at_ms])?;
                let line = self.lines.of(queue);
                // Only one that is earlier than all others changes what is
                // waited for.
                if at_ms < line.next() {
                    line.due(at_ms);
                    self.touched.insert(queue);
                }
            }
            Post::Disarm { key } => {
                connection
                    .prepare_cached("DELETE FROM messages WHERE key = ?1")?
                    .execute([key])?;
            }
        }
        Ok(())
    }

    /// Hands on what has become durable.
    pub(crate) fn deliver(&mut self) {
        for message in self.straight.drain(..) {
            self.lines.of(message.queue).fill([message]);
        }
        for queue in std::mem::take(&mut self.touched) {
            self.lines.of(queue).announce();
        }
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        for message in &self.straight {
            self.lines.of(message.queue).free(1);
        }
    }
}

/// `delay` after `now`, in milliseconds; past the end of time is the end.
pub(crate) fn later(now: Timestamp, delay: Duration) -> i64 {
    now.checked_add(delay)
        .unwrap_or(Timestamp::MAX)
        .as_millisecond()
}
