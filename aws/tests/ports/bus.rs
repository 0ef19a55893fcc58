//! An event reaches the events queue through a rule, as a message.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use aws_sdk_eventbridge::types::Target;
use jiff::Timestamp;
use loopy_aws::EventBus;
use loopy_aws::env::var;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{Bus, Queues};
use serde_json::{Map, json};
use std::time::Duration;

fn event(name: &str, text: &str) -> Event {
    let mut fields = Map::new();
    fields.insert("text".to_owned(), json!(text));
    let source = Source::Sensor {
        sensor: "hook".to_owned(),
        delivery: "d-1".to_owned(),
    };
    Event::root(
        EventId::from("evt-1"),
        name.to_owned(),
        fields,
        source,
        Timestamp::now(),
    )
}

#[tokio::test]
async fn an_event_with_a_subscriber_reaches_the_queue_as_a_message() {
    let mut account = Account::open().await;
    account.make_queue(QueueName::Events).await;
    let url = account
        .environment()
        .queue_url(QueueName::Events)
        .unwrap()
        .to_owned();
    let client = aws_sdk_eventbridge::Client::new(&account.config);
    client
        .create_event_bus()
        .name("loopy-bus")
        .send()
        .await
        .unwrap();
    client
        .put_rule()
        .name("pull-request")
        .event_bus_name("loopy-bus")
        .event_pattern(json!({"source": ["loopy"], "detail-type": ["PullRequest"]}).to_string())
        .send()
        .await
        .unwrap();
    let target = Target::builder()
        .id("events")
        .arn(account.arn_of(&url).await)
        .input_path("$.detail")
        .build()
        .unwrap();
    client
        .put_targets()
        .rule("pull-request")
        .event_bus_name("loopy-bus")
        .targets(target)
        .send()
        .await
        .unwrap();
    account.set(var::BUS, "loopy-bus");

    let bus = EventBus::new(client, account.claims(), account.shared_environment());
    let sent = event("PullRequest", "quotes \" and \u{ffff}");
    bus.publish(&event("Unheard", "x")).await.unwrap();
    bus.publish(&sent).await.unwrap();
    let body = account
        .next_body(&url, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Message>(&body).unwrap(),
        Message::Event(sent)
    );
    assert_eq!(
        account.next_body(&url, Duration::from_millis(500)).await,
        None
    );
}

#[tokio::test]
async fn an_event_past_the_size_limit_without_a_bucket_is_refused_with_its_size() {
    let mut account = Account::open().await;
    account.set(var::BUS, "loopy-bus");
    let client = aws_sdk_eventbridge::Client::new(&account.config);
    let bus = EventBus::new(client, account.claims(), account.shared_environment());
    let big = event("Big", &"x".repeat(1024 * 1024));
    let error = bus.publish(&big).await.unwrap_err().to_string();
    assert!(error.contains("publish Big evt-1"), "{error}");
    assert!(error.contains("the bus takes 1048576"), "{error}");
}

#[tokio::test]
async fn a_large_event_travels_by_a_claim_and_arrives_whole() {
    let mut account = Account::open().await;
    account.set(var::BUS, "loopy-bus");
    let bucket = account.make_state_bucket().await;
    account.set(var::STATE_BUCKET, &bucket);
    for queue in [QueueName::Events, QueueName::Steps] {
        account.make_queue(queue).await;
    }
    let queues = account.queues();
    let url = account
        .environment()
        .queue_url(QueueName::Events)
        .unwrap()
        .to_owned();
    // Larger than anything that travels, and one that just does.
    for (length, by_claim) in [(3 * 1024 * 1024, true), (100 * 1024, false)] {
        let sent = Message::Event(event("Big", &"ü".repeat(length / 2)));
        queues.send(&sent, Duration::ZERO).await.unwrap();
        let body = account
            .next_body(&url, Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(body.len() < 100, by_claim, "{} bytes travel", body.len());
        let whole = queues.redeem(body).await.unwrap();
        assert_eq!(serde_json::from_str::<Message>(&whole).unwrap(), sent);
    }
    // What a stranger writes is no claim: messages have a kind.
    let other = r#"{"claim":"x","kind":"event"}"#.to_owned();
    assert_eq!(queues.redeem(other.clone()).await.unwrap(), other);
    let gone = format!(r#"{{"claim":"{}"}}"#, "0".repeat(64));
    assert!(queues.redeem(gone).await.is_err());
}

#[tokio::test]
async fn a_bus_that_is_not_configured_is_named() {
    let account = Account::open().await;
    let client = aws_sdk_eventbridge::Client::new(&account.config);
    let bus = EventBus::new(client, account.claims(), account.shared_environment());
    let error = bus.publish(&event("Go", "x")).await.unwrap_err();
    assert!(error.to_string().contains("LOOPY_BUS"), "{error}");
}
