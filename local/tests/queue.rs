//! Queues, dead letters and timers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::RunId;
use loopy_engine::memory::ManualClock;
use loopy_engine::message::{MAX_RECEIVES, Message, QueueName};
use loopy_engine::ports::{Clock, Queues, Timers};
use loopy_local::db::Db;
use loopy_local::queue::{MAX_CRASHES, SqliteQueue};
use std::sync::Arc;
use std::time::Duration;

struct Bench {
    _dir: tempfile::TempDir,
    db: Db,
    clock: Arc<ManualClock>,
    queue: SqliteQueue,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let clock = Arc::new(ManualClock::new(
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap(),
    ));
    let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock) as Arc<dyn Clock>);
    Bench {
        _dir: dir,
        db,
        clock,
        queue,
    }
}

fn handoff(step: &str) -> Message {
    Message::Handoff {
        run: RunId::from("r-1"),
        step: step.to_owned(),
        attempt: 1,
    }
}

fn limit(step: &str) -> Message {
    Message::TimeLimit {
        run: RunId::from("r-1"),
        step: step.to_owned(),
        attempt: 1,
        check: 0,
    }
}

async fn steps(queue: &SqliteQueue, name: QueueName, limit: usize) -> Vec<String> {
    let claimed = queue.claim(name, limit).await.unwrap();
    claimed
        .iter()
        .map(
            |message| match serde_json::from_str(&message.body).unwrap() {
                Message::Handoff { step, .. } | Message::TimeLimit { step, .. } => step,
                other => format!("{other:?}"),
            },
        )
        .collect()
}

#[tokio::test]
async fn the_longest_waiting_message_comes_first_and_only_once() {
    let Bench { queue, clock, .. } = &bench();
    queue
        .send(&handoff("late"), Duration::from_secs(2))
        .await
        .unwrap();
    for step in ["a", "b", "c"] {
        queue.send(&handoff(step), Duration::ZERO).await.unwrap();
    }
    queue
        .send(&limit("other queue"), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(steps(queue, QueueName::Steps, 2).await, ["a", "b"]);
    assert_eq!(steps(queue, QueueName::Steps, 9).await, ["c"]);
    assert!(
        steps(queue, QueueName::Steps, 9).await.is_empty(),
        "they are in hand"
    );
    clock.advance(SignedDuration::from_secs(2));
    assert_eq!(steps(queue, QueueName::Steps, 9).await, ["late"]);
    assert_eq!(steps(queue, QueueName::Watch, 9).await, ["other queue"]);
}

#[tokio::test]
async fn an_acked_message_is_gone_and_a_released_one_comes_again() {
    let Bench { queue, clock, .. } = &bench();
    queue.send(&handoff("a"), Duration::ZERO).await.unwrap();
    queue.send(&handoff("b"), Duration::ZERO).await.unwrap();
    let claimed = queue.claim(QueueName::Steps, 2).await.unwrap();
    queue.ack(claimed[0].id).await.unwrap();
    queue
        .release(&claimed[1], Duration::from_secs(5), "busy")
        .await
        .unwrap();
    assert!(
        steps(queue, QueueName::Steps, 9).await.is_empty(),
        "it rests first"
    );
    let due = queue.next_due(QueueName::Steps).await.unwrap();
    assert_eq!(
        due,
        Some(
            clock
                .now()
                .checked_add(SignedDuration::from_secs(5))
                .unwrap()
        )
    );
    clock.advance(SignedDuration::from_secs(5));
    let again = queue.claim(QueueName::Steps, 9).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].receives, 2);
    assert!(again[0].body.contains("\"b\""));
    queue.ack(again[0].id).await.unwrap();
    assert_eq!(queue.next_due(QueueName::Steps).await.unwrap(), None);
}

#[tokio::test]
async fn after_five_receives_a_message_is_a_dead_letter() {
    let Bench { queue, .. } = &bench();
    queue.send(&handoff("a"), Duration::ZERO).await.unwrap();
    for receive in 1..=MAX_RECEIVES {
        let claimed = queue.claim(QueueName::Steps, 1).await.unwrap();
        assert_eq!(claimed[0].receives, receive);
        assert!(queue.dead_letters().await.unwrap().is_empty());
        queue
            .release(&claimed[0], Duration::ZERO, "no luck")
            .await
            .unwrap();
    }
    assert!(queue.claim(QueueName::Steps, 1).await.unwrap().is_empty());
    let dead = queue.dead_letters().await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (dead[0].queue.as_str(), dead[0].receives),
        ("steps", MAX_RECEIVES)
    );
    assert!(dead[0].reason.contains("no luck"), "{}", dead[0].reason);
    assert_eq!(dead[0].body, serde_json::to_string(&handoff("a")).unwrap());
}

#[tokio::test]
async fn what_is_buried_keeps_its_reason() {
    let Bench { queue, clock, .. } = &bench();
    queue
        .bury(QueueName::Events, "{not json", "not a message")
        .await
        .unwrap();
    let dead = queue.dead_letters().await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].body, "{not json");
    assert_eq!(dead[0].reason, "not a message");
    assert_eq!(dead[0].buried_at, clock.now());
}

#[tokio::test]
async fn what_a_dead_process_held_comes_again() {
    let Bench {
        queue, db, clock, ..
    } = &bench();
    queue.send(&handoff("a"), Duration::ZERO).await.unwrap();
    assert_eq!(steps(queue, QueueName::Steps, 9).await, ["a"]);
    let next = SqliteQueue::new(db.clone(), Arc::clone(clock) as Arc<dyn Clock>);
    assert!(steps(&next, QueueName::Steps, 9).await.is_empty());
    next.reset_leases().await.unwrap();
    assert_eq!(steps(&next, QueueName::Steps, 9).await, ["a"]);
}

#[tokio::test]
async fn a_message_that_ends_the_process_each_time_is_given_up() {
    let Bench { queue, clock, .. } = &bench();
    queue.send(&handoff("a"), Duration::ZERO).await.unwrap();
    for crash in 0..MAX_CRASHES {
        assert_eq!(steps(queue, QueueName::Steps, 9).await, ["a"]);
        queue.reset_leases().await.unwrap();
        if crash > 0 {
            let soon = steps(queue, QueueName::Steps, 9).await;
            assert!(soon.is_empty(), "it rests first");
        }
        clock.advance(SignedDuration::from_secs(30));
    }
    assert!(steps(queue, QueueName::Steps, 9).await.is_empty());
    let dead = queue.dead_letters().await.unwrap();
    assert!(
        dead[0].reason.contains("process ended"),
        "{}",
        dead[0].reason
    );
}

#[tokio::test]
async fn those_a_process_ended_over_are_taken_one_at_a_time_beside_the_others() {
    let Bench {
        queue, clock, db, ..
    } = &bench();
    for step in ["a", "b"] {
        queue.send(&handoff(step), Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(steps(queue, QueueName::Steps, 9).await, ["a", "b"]);
        queue.reset_leases().await.unwrap();
    }
    clock.advance(SignedDuration::from_secs(1));
    queue.send(&handoff("new"), Duration::ZERO).await.unwrap();
    assert_eq!(steps(queue, QueueName::Steps, 9).await, ["a", "new"]);
    assert!(steps(queue, QueueName::Steps, 9).await.is_empty());
    let other = SqliteQueue::new(db.clone(), Arc::clone(clock) as Arc<dyn Clock>);
    assert_eq!(steps(&other, QueueName::Steps, 9).await, ["b"]);
}

#[tokio::test]
async fn a_timer_can_be_armed_again_while_it_is_worked_on() {
    let Bench { queue, clock, .. } = &bench();
    queue.arm("k", clock.now(), &limit("a")).await.unwrap();
    let fired = queue.claim(QueueName::Watch, 9).await.unwrap();
    queue.arm("k", clock.now(), &limit("b")).await.unwrap();
    queue.ack(fired[0].id).await.unwrap();
    assert_eq!(steps(queue, QueueName::Watch, 9).await, ["b"]);
}

#[tokio::test]
async fn a_timer_fires_once_at_its_moment() {
    let Bench { queue, clock, .. } = &bench();
    let at = clock
        .now()
        .checked_add(SignedDuration::from_micros(1_500_500))
        .unwrap();
    queue.arm("r-1/a/1", at, &limit("a")).await.unwrap();
    let later = at.checked_add(SignedDuration::from_secs(9)).unwrap();
    queue.arm("r-1/a/1", later, &limit("again")).await.unwrap();
    clock.advance(SignedDuration::from_millis(1500));
    assert!(
        steps(queue, QueueName::Watch, 9).await.is_empty(),
        "half a millisecond early"
    );
    clock.advance(SignedDuration::from_millis(1));
    assert_eq!(steps(queue, QueueName::Watch, 9).await, ["a"]);
    clock.advance(SignedDuration::from_secs(60));
    assert!(
        steps(queue, QueueName::Watch, 9).await.is_empty(),
        "arming again changed nothing"
    );
}

#[tokio::test]
async fn a_disarmed_timer_does_not_fire() {
    let Bench { queue, clock, .. } = &bench();
    queue.arm("k", clock.now(), &limit("a")).await.unwrap();
    queue.disarm("k").await.unwrap();
    queue.disarm("k").await.unwrap();
    queue.disarm("never armed").await.unwrap();
    assert!(steps(queue, QueueName::Watch, 9).await.is_empty());
    assert_eq!(queue.next_due(QueueName::Watch).await.unwrap(), None);
}

#[tokio::test]
async fn sending_wakes_whoever_waits_for_that_queue() {
    let Bench { queue, .. } = &bench();
    let mut steps = queue.enqueued(QueueName::Steps);
    let watch = queue.enqueued(QueueName::Watch);
    queue.send(&handoff("a"), Duration::ZERO).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), steps.changed())
        .await
        .unwrap()
        .unwrap();
    assert!(!watch.has_changed().unwrap());
}
