//! What this process knows of its queues without asking the database: the
//! messages it has in hand and nobody works on yet, whether others wait in the
//! table, and when the next one is due.
//!
//! A message that this process sends goes straight to whoever works on the
//! queue, if there is room: its row says from the beginning that it is in hand,
//! so nothing is written or read to claim it.

use loopy_engine::message::QueueName;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many messages of a queue are in hand and wait in memory at most.
const ROOM: usize = 1024;

/// With so many turns of steps waiting, no more runs are started: what has begun
/// goes first, and what is in motion fits in memory.
const MANY: usize = 128;

/// A message that was in hand so often when the process ended is taken alone,
/// so that those beside it do not share the blame.
pub(crate) const SUSPECT: u32 = 2;

/// A message in hand: nobody else gets it until it is released, or until the
/// process that holds it has died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Names it in [`ack`](crate::queue::SqliteQueue::ack) and
    /// [`release`](crate::queue::SqliteQueue::release).
    pub id: i64,
    /// Where it waited.
    pub queue: QueueName,
    /// As it was sent.
    pub body: String,
    /// How often it was received, this time included.
    pub receives: u32,
    /// How often the process ended while it was in hand.
    pub crashes: u32,
}

impl Claimed {
    /// Whether it has to be worked on alone, as a process ended over it before.
    pub(crate) fn is_suspect(&self) -> bool {
        self.crashes >= SUSPECT
    }
}

/// One for each queue.
pub(crate) struct Lines([Line; QueueName::ALL.len()]);

impl Lines {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Line::new()))
    }

    pub(crate) fn of(&self, queue: QueueName) -> &Line {
        let [deliveries, events, steps, watch] = &self.0;
        match queue {
            QueueName::Deliveries => deliveries,
            QueueName::Events => events,
            QueueName::Steps => steps,
            QueueName::Watch => watch,
        }
    }
}

/// What is known of one queue. All but `ready` is changed by the writer thread
/// alone while a transaction is open, so that it fits what that sees.
pub(crate) struct Line {
    /// Somebody works on it.
    open: AtomicBool,
    /// There may be due messages in the table that are not in hand.
    backlog: AtomicBool,
    /// When the first of those that are not due is, in milliseconds.
    next: AtomicI64,
    /// How many places of [`ROOM`] are taken.
    taken: AtomicUsize,
    ready: Mutex<VecDeque<Claimed>>,
    changed: watch::Sender<()>,
}

impl Line {
    fn new() -> Self {
        Self {
            open: AtomicBool::new(false),
            backlog: AtomicBool::new(true),
            next: AtomicI64::new(i64::MAX),
            taken: AtomicUsize::new(0),
            ready: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Whether those that work on it have enough to do for now.
    pub(crate) fn is_busy(&self) -> bool {
        self.backlog.load(Ordering::Acquire) || self.taken.load(Ordering::Acquire) >= MANY
    }

    /// Begins to take messages, or ends it.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Whether somebody works on it.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Takes a place for a message that is due at once; false when it has to
    /// wait in the table.
    pub(crate) fn take_place(&self) -> bool {
        let free = self.open.load(Ordering::Acquire)
            && !self.backlog.load(Ordering::Acquire)
            && self.taken.load(Ordering::Acquire) < ROOM;
        if free {
            self.taken.fetch_add(1, Ordering::AcqRel);
        } else {
            self.backlog.store(true, Ordering::Release);
        }
        free
    }

    /// Gives back places whose messages were not written after all.
    pub(crate) fn free(&self, places: usize) {
        self.taken.fetch_sub(places, Ordering::AcqRel);
    }

    /// Messages that have their places are in hand for good.
    pub(crate) fn fill(&self, messages: impl IntoIterator<Item = Claimed>) {
        self.ready().extend(messages);
    }

    /// The next message in hand.
    pub(crate) fn pop(&self) -> Option<Claimed> {
        let message = self.ready().pop_front();
        if message.is_some() {
            self.free(1);
        }
        message
    }

    /// A message becomes due at this moment.
    pub(crate) fn due(&self, at_ms: i64) {
        self.next.fetch_min(at_ms, Ordering::AcqRel);
    }

    /// Whether the table may hold something due by now.
    pub(crate) fn has_backlog(&self, now_ms: i64) -> bool {
        self.backlog.load(Ordering::Acquire) || self.next.load(Ordering::Acquire) <= now_ms
    }

    /// Whether there may be due messages is known by now, and when the next is.
    pub(crate) fn know(&self, backlog: bool, next_ms: i64) {
        self.backlog.store(backlog, Ordering::Release);
        self.next.store(next_ms, Ordering::Release);
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.backlog.store(true, Ordering::Release);
    }

    /// When the next message becomes due, in milliseconds.
    pub(crate) fn next(&self) -> i64 {
        self.next.load(Ordering::Acquire)
    }

    /// Wakes whoever works on the queue.
    pub(crate) fn announce(&self) {
        self.changed.send_replace(());
    }

    /// Changes whenever there may be something to do.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<Claimed>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_straight_only_where_somebody_works_and_nothing_waits() {
        let line = Line::new();
        line.know(false, i64::MAX);
        assert!(!line.take_place(), "nobody works on it");
        assert!(line.has_backlog(0), "so it waits in the table");
        line.set_open(true);
        assert!(!line.take_place(), "those before it come first");
        line.know(false, i64::MAX);
        for _ in 0..ROOM {
            assert!(line.take_place());
        }
        assert!(!line.take_place(), "no room");
        assert!(line.is_busy());
        line.know(false, i64::MAX);
        line.free(1);
        assert!(line.take_place());
        line.free(ROOM - 1);
        assert!(!line.is_busy());
    }

    #[test]
    fn what_becomes_due_counts_as_backlog_from_then_on() {
        let line = Line::new();
        line.know(false, 50);
        line.due(70);
        assert!(!line.has_backlog(49));
        assert!(line.has_backlog(50));
        line.due(20);
        assert!(line.has_backlog(20));
    }
}
