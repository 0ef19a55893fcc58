//! Works on the queues: takes messages in hand, has the engine process them, and
//! removes those that were dealt with, many at a time.

use crate::lines::Claimed;
use crate::worker::Worker;
use jiff::Timestamp;
use loopy_engine::ProcessError;
use loopy_engine::message::{QueueName, redelivery_delay};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// The longest sleep of a worker: the wall clock may be set, or the machine
/// suspended, while a timer of the process knows nothing of it.
const NAP: Duration = Duration::from_secs(15);

/// How long starting runs waits for those that were started.
const BREATH: Duration = Duration::from_millis(2);

/// How often it is tried to put a message back.
const TRIES: u8 = 5;

/// Messages of one queue that are worked on at the same time. Most only wait for
/// a commit, and the more of them wait, the more share one. Of deliveries there are
/// more than the workers of all languages take (four each), so that those which wait
/// for the workers of one do not hold up the others; not many more, as each may have
/// most of a megabyte.
fn concurrency(queue: QueueName) -> usize {
    match queue {
        QueueName::Deliveries => 32,
        QueueName::Events | QueueName::Steps | QueueName::Watch => 512,
    }
}

/// What came of a task.
type Ended = Result<(Id, Result<(), ProcessError>), JoinError>;

/// One queue, being worked on.
struct Desk {
    worker: Arc<Worker>,
    queue: QueueName,
    tasks: JoinSet<Result<(), ProcessError>>,
    /// What the tasks work on; a task that panics cannot say.
    at_work: HashMap<Id, Claimed>,
    /// Dealt with and not removed yet.
    done: Vec<i64>,
    /// Messages on their way back.
    back: JoinSet<()>,
}

impl Desk {
    fn new(worker: Arc<Worker>, queue: QueueName) -> Self {
        Self {
            worker,
            queue,
            tasks: JoinSet::new(),
            at_work: HashMap::new(),
            done: Vec::new(),
            back: JoinSet::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= concurrency(self.queue)
    }

    /// Whether new messages have to wait for those of another queue.
    fn is_held_back(&self) -> bool {
        let steps = self.worker.queue.line(QueueName::Steps);
        self.queue == QueueName::Events && steps.is_open() && steps.is_busy()
    }

    /// Begins to work on a message.
    fn take(&mut self, mut message: Claimed) {
        let worker = Arc::clone(&self.worker);
        let (queue, body) = (message.queue, std::mem::take(&mut message.body));
        let task = self.tasks.spawn(async move {
            let _applying = worker.gate.read().await;
            worker.moved.store(true, Ordering::Release);
            worker.engine.process(queue, &body).await
        });
        self.at_work.insert(task.id(), message);
    }

    /// Takes note of what came of a task.
    fn end(&mut self, ended: Ended) {
        let (id, problem) = match ended {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(error))) => (id, Some(error.cause.to_string())),
            Err(error) => (error.id(), Some(format!("the engine broke off: {error}"))),
        };
        let Some(message) = self.at_work.remove(&id) else {
            return;
        };
        if message.is_suspect() {
            // The next of its kind may be taken.
            self.worker.queue.line(self.queue).forget();
        }
        match problem {
            None => self.done.push(message.id),
            Some(why) => {
                self.back
                    .spawn(put_back(Arc::clone(&self.worker), message, why));
            }
        }
    }

    /// Has what was dealt with removed; nobody waits for it.
    fn remove_done(&mut self) {
        while self.back.try_join_next().is_some() {}
        if !self.done.is_empty() {
            let done = std::mem::take(&mut self.done);
            drop(self.worker.queue.remove(done));
        }
    }

    /// Begins to work on all that can be had. Gives back how long until there may
    /// be more, if nobody says so before.
    async fn fill(&mut self) -> Duration {
        if self.is_held_back() {
            return BREATH;
        }
        let queue = self.worker.queue.clone();
        let line = queue.line(self.queue);
        while !self.is_full()
            && let Some(message) = line.pop()
        {
            self.take(message);
        }
        let now = self.worker.clock.now();
        if !self.is_full() && line.has_backlog(now.as_millisecond()) {
            let free = concurrency(self.queue).saturating_sub(self.tasks.len());
            let suspect = self.at_work.values().any(Claimed::is_suspect);
            match queue.claim_beside(self.queue, free, suspect).await {
                Ok(messages) => messages.into_iter().for_each(|message| self.take(message)),
                Err(error) => {
                    tracing::error!(queue = %self.queue, %error, "cannot take messages; trying again");
                    return Duration::from_secs(1);
                }
            }
        }
        // What a full desk leaves is taken when a task ends.
        if self.is_full() {
            return NAP;
        }
        let next = Timestamp::from_millisecond(line.next()).unwrap_or(Timestamp::MAX);
        let left = next.duration_since(self.worker.clock.now());
        Duration::try_from(left).unwrap_or_default().min(NAP)
    }
}

/// Puts a message back that could not be dealt with. Until it is known that it
/// is back, nobody else gets it.
async fn put_back(worker: Arc<Worker>, message: Claimed, why: String) {
    let delay = redelivery_delay(message.receives);
    for _ in 0..TRIES {
        match worker.queue.release(&message, delay, &why).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "a message stays in hand; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Worker {
    /// Works on one queue until told to stop.
    pub(crate) async fn work(self: Arc<Self>, queue: QueueName, mut stop: watch::Receiver<bool>) {
        let mut changed = self.queue.enqueued(queue);
        let mut desk = Desk::new(Arc::clone(&self), queue);
        // What may be long waits in the table.
        let straight = queue != QueueName::Deliveries;
        self.queue.line(queue).set_open(straight);
        while !*stop.borrow_and_update() {
            // What comes from here on wakes the sleep below.
            changed.mark_unchanged();
            while let Some(ended) = desk.tasks.try_join_next_with_id() {
                desk.end(ended);
            }
            let nap = desk.fill().await;
            desk.remove_done();
            let full = desk.is_full();
            tokio::select! {
                _ = changed.changed(), if !full => {}
                Some(ended) = desk.tasks.join_next_with_id() => desk.end(ended),
                () = tokio::time::sleep(nap) => {}
                _ = stop.changed() => {}
            }
        }
        self.queue.line(queue).set_open(false);
        while let Some(ended) = desk.tasks.join_next_with_id().await {
            desk.end(ended);
        }
        desk.remove_done();
        while desk.back.join_next().await.is_some() {}
        if let Err(error) = self.queue.put_back(queue).await {
            tracing::error!(%queue, %error, "some messages come again as if the process had died");
        }
    }

    /// Works off what is due in one queue. A launch that ends after its attempt
    /// leaves a sandbox to stop, and may do so when the workers are gone.
    pub(crate) async fn drain(self: &Arc<Self>, queue: QueueName) {
        let mut desk = Desk::new(Arc::clone(self), queue);
        loop {
            self.queue.line(queue).forget();
            desk.fill().await;
            if desk.tasks.is_empty() {
                break;
            }
            while let Some(ended) = desk.tasks.join_next_with_id().await {
                desk.end(ended);
            }
            while desk.back.join_next().await.is_some() {}
        }
        desk.remove_done();
    }
}
