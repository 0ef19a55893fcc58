//! Cron schedules and polls: each a loop that sleeps until its next firing and
//! then puts a message into a queue. What passes while nothing serves the
//! project is caught up once, when the trigger says so.

use crate::queue::SqliteQueue;
use crate::worker::Worker;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::manifest::{Manifest, SensorTrigger, Trigger};
use loopy_engine::message::Message;
use loopy_engine::ports::{Clock, PortError, Queues, Store};
use loopy_engine::schedule;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The longest sleep: the wall clock may be set, or the machine suspended,
/// while a timer of the process knows nothing of it.
const NAP: Duration = Duration::from_secs(15);

/// Queues the firings that were missed while nothing served the project.
pub(crate) async fn catch_up(worker: &Worker) -> Result<(), PortError> {
    let manifest = &worker.manifest;
    for workflow in manifest.workflows.keys() {
        if let Some(message) = worker.engine.missed(manifest, workflow).await? {
            tracing::info!(workflow, "catching up what the schedule missed");
            worker.queue.send(&message, Duration::ZERO).await?;
        }
    }
    Ok(())
}

/// What the loops need.
#[derive(Clone)]
pub(crate) struct Schedules {
    pub(crate) queue: SqliteQueue,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Schedules {
    /// Starts a loop for each schedule and each poll of the manifest.
    pub(crate) fn spawn(&self, manifest: &Manifest, tasks: &mut JoinSet<()>) {
        for workflow in manifest.workflows.values() {
            let step = workflow
                .entry
                .as_ref()
                .and_then(|entry| workflow.steps.get(entry));
            if let Some(step) = step
                && let Some(Trigger::Cron { expr, tz, .. }) = &step.trigger
            {
                let (id, expr, tz) = (step.id.clone(), expr.clone(), tz.clone());
                tasks.spawn(self.clone().cron(id, expr, tz));
            }
        }
        for sensor in &manifest.sensors {
            if let SensorTrigger::Poll { interval, .. } = &sensor.trigger {
                match schedule::period(interval) {
                    Some(period) => {
                        tasks.spawn(self.clone().poll(sensor.name.clone(), period));
                    }
                    None => {
                        tracing::error!(sensor = sensor.name, interval, "not a poll interval");
                    }
                }
            }
        }
    }

    async fn cron(mut self, step: String, expr: String, tz: Option<String>) {
        loop {
            let next = match schedule::next_after(&expr, tz.as_deref(), self.clock.now()) {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(step, %error, "this schedule will not fire");
                    return;
                }
            };
            tracing::debug!(step, %next, "schedule armed");
            if !self.sleep_until(next).await {
                return;
            }
            let message = Message::Cron {
                step: step.clone(),
                scheduled_at: next,
            };
            if !self.send(&message).await {
                return;
            }
        }
    }

    async fn poll(mut self, sensor: String, period: SignedDuration) {
        let after = |at: Timestamp| at.checked_add(period).unwrap_or(Timestamp::MAX);
        let last = match self.store.watermark(&format!("poll/{sensor}")).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(sensor, %error, "the last poll is not known; polling now");
                None
            }
        };
        let mut next = last.map_or(Timestamp::MIN, after);
        loop {
            // What is overdue, and the very first one, is due now.
            next = next.max(self.clock.now());
            if !self.sleep_until(next).await {
                return;
            }
            let message = Message::Poll {
                sensor: sensor.clone(),
                scheduled_at: next,
            };
            // A turn that takes longer than its period, or rests after a failure, is had
            // for all that were due meanwhile.
            match self.queue.has_poll(&sensor).await {
                Ok(true) => tracing::debug!(sensor, "its turn before is not over"),
                Ok(false) => {
                    if !self.send(&message).await {
                        return;
                    }
                }
                Err(error) => tracing::warn!(sensor, %error, "this turn is left out"),
            }
            next = after(next);
        }
    }

    /// False when the home stops first.
    async fn sleep_until(&mut self, at: Timestamp) -> bool {
        loop {
            if *self.stop.borrow_and_update() {
                return false;
            }
            let left = Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default();
            if left.is_zero() {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(NAP)) => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    /// Sends, again and again if it must. False when the home stops first.
    async fn send(&mut self, message: &Message) -> bool {
        while let Err(error) = self.queue.send(message, Duration::ZERO).await {
            tracing::error!(%error, "a firing could not be queued; trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = self.stop.changed() => {}
            }
            if *self.stop.borrow() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::db::Db;
    use crate::store::SqliteStore;
    use loopy_engine::memory::ManualClock;
    use loopy_engine::message::QueueName;

    #[tokio::test]
    async fn a_schedule_fires_at_its_moment_in_its_zone_and_stops() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let before = "2026-03-29T06:59:59.9Z".parse::<Timestamp>().unwrap();
        let clock = Arc::new(ManualClock::new(before));
        let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
        let (stop, stopped) = watch::channel(false);
        let schedules = Schedules {
            queue: queue.clone(),
            store: Arc::new(SqliteStore::new(
                db,
                queue.clone(),
                Arc::clone(&clock) as Arc<dyn Clock>,
            )),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            stop: stopped,
        };
        let zone = Some("Europe/Berlin".to_owned());
        let task = tokio::spawn(schedules.cron("w/s".to_owned(), "0 9 * * *".to_owned(), zone));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(
            queue.claim(QueueName::Events, 9).await.unwrap().is_empty(),
            "too early"
        );
        clock.advance(SignedDuration::from_millis(150));
        let mut enqueued = queue.enqueued(QueueName::Events);
        let fired = queue.claim(QueueName::Events, 9).await.unwrap();
        let fired = if fired.is_empty() {
            let wait = tokio::time::timeout(Duration::from_secs(20), enqueued.changed());
            wait.await.unwrap().unwrap();
            queue.claim(QueueName::Events, 9).await.unwrap()
        } else {
            fired
        };
        let message: Message = serde_json::from_str(&fired[0].body).unwrap();
        let scheduled_at = "2026-03-29T07:00:00Z".parse().unwrap();
        assert_eq!(
            message,
            Message::Cron {
                step: "w/s".to_owned(),
                scheduled_at
            }
        );
        stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn turns_of_a_poll_that_takes_longer_than_its_period_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let start = "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap();
        let clock = Arc::new(ManualClock::new(start));
        let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
        let store = SqliteStore::new(
            db.clone(),
            queue.clone(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        let (stop, stopped) = watch::channel(false);
        let schedules = Schedules {
            queue: queue.clone(),
            store: Arc::new(store),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            stop: stopped,
        };
        // Another one whose name begins alike is another one.
        let other = Message::Poll {
            sensor: "sl".to_owned(),
            scheduled_at: start,
        };
        queue.send(&other, Duration::ZERO).await.unwrap();
        let period = SignedDuration::from_secs(1);
        let task = tokio::spawn(schedules.poll("slow \"1\"".to_owned(), period));
        let turns = async || queue.bodies(QueueName::Deliveries).await.unwrap().len();
        let due = |seconds: i64| {
            clock.advance(SignedDuration::from_secs(seconds));
            // Wakes the loop, which looks at the clock again.
            stop.send_replace(false);
            tokio::time::sleep(Duration::from_millis(300))
        };
        due(0).await;
        assert_eq!(turns().await, 2, "the first turn is due at once");
        for _ in 0..5 {
            due(1).await;
            assert_eq!(turns().await, 2, "one that waits is enough");
        }
        let mut taken = queue.claim(QueueName::Deliveries, 9).await.unwrap();
        assert_eq!(taken.len(), 2);
        let taken = taken.pop().unwrap();
        assert!(taken.body.contains("slow"), "{}", taken.body);
        due(1).await;
        assert_eq!(turns().await, 2, "so is one that is in hand");
        queue.ack(taken.id).await.unwrap();
        assert_eq!(turns().await, 1);
        due(1).await;
        assert_eq!(turns().await, 2, "when it is over another one is due");
        stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .unwrap()
            .unwrap();
    }
}
