//! Messages arrive as they were sent, when they should, and are buried with
//! their reason.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use loopy_contract::ids::RunId;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::Queues;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn turn(step: &str) -> Message {
    Message::Handoff {
        run: RunId::from("greet-0123"),
        step: step.to_owned(),
        attempt: 1,
    }
}

#[tokio::test]
async fn a_message_arrives_in_its_queue_as_it_was_sent() {
    let mut account = Account::open().await;
    for queue in QueueName::ALL {
        account.make_queue(queue).await;
    }
    let environment = account.environment();
    // SQS refuses these two code points when they are not escaped.
    let message = turn("bui\u{ffff}ld \u{fffe} \"ü\"");
    account
        .queues()
        .send(&message, Duration::ZERO)
        .await
        .unwrap();
    let url = environment.queue_url(QueueName::Steps).unwrap();
    let body = account.next_body(url, PATIENCE).await.unwrap();
    assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), message);
    for queue in [QueueName::Deliveries, QueueName::Events, QueueName::Watch] {
        assert_eq!(
            account
                .receive(environment.queue_url(queue).unwrap())
                .await
                .len(),
            0
        );
    }
}

#[tokio::test]
async fn a_delayed_message_is_not_seen_before_its_time() {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Steps).await;
    let environment = account.environment();
    let url = environment.queue_url(QueueName::Steps).unwrap();
    let sent = Instant::now();
    // A second and a half is rounded up to two.
    account
        .queues()
        .send(&turn("later"), Duration::from_millis(1500))
        .await
        .unwrap();
    assert!(account.receive(url).await.is_empty());
    assert!(account.next_body(url, PATIENCE).await.is_some());
    assert!(
        sent.elapsed() >= Duration::from_millis(1500),
        "{:?}",
        sent.elapsed()
    );
}

#[tokio::test]
async fn a_delay_past_fifteen_minutes_is_refused() {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Steps).await;
    let queues = account.queues();
    queues
        .send(&turn("a"), Duration::from_secs(900))
        .await
        .unwrap();
    let error = queues
        .send(&turn("a"), Duration::from_secs(901))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("15 minutes at most"), "{error}");
}

#[tokio::test]
async fn what_is_buried_lies_in_the_dead_letter_queue_with_its_reason() {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Watch).await;
    let environment = account.environment();
    let queues = account.queues();
    queues
        .bury(QueueName::Watch, "{not json", "no message\u{0}: line 1")
        .await
        .unwrap();
    assert!(
        account
            .receive(environment.queue_url(QueueName::Watch).unwrap())
            .await
            .is_empty()
    );
    let buried = account
        .receive(environment.dead_letter_url(QueueName::Watch).unwrap())
        .await;
    assert_eq!(buried.len(), 1);
    assert_eq!(buried[0].body.as_deref(), Some("{not json"));
    let attributes = buried[0].message_attributes.as_ref().unwrap();
    assert_eq!(
        attributes["reason"].string_value.as_deref(),
        Some("no message: line 1")
    );
    assert_eq!(attributes["queue"].string_value.as_deref(), Some("watch"));
}

#[tokio::test]
async fn a_queue_that_is_not_configured_is_named() {
    let account = Account::open().await;
    let error = account
        .queues()
        .send(&turn("a"), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("LOOPY_QUEUE_STEPS"), "{error}");
    let error = account
        .queues()
        .bury(QueueName::Events, "x", "y")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("LOOPY_DLQ_EVENTS"), "{error}");
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_the_services_own_error() {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Steps).await;
    let gone = account
        .environment()
        .queue_url(QueueName::Steps)
        .unwrap()
        .replace("steps", "gone");
    account.set("LOOPY_QUEUE_STEPS", &gone);
    let error = account
        .queues()
        .send(&turn("a"), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("send to the steps queue: "),
        "{error}"
    );
    assert!(error.to_string().contains("does not exist"), "{error}");
}
