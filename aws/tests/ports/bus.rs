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
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
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

/// A bus that takes entries but not those with `not yet` the first time, and keeps how
/// many entries each request had.
fn picky_bus() -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    std::thread::spawn(move || {
        let mut refused = BTreeSet::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let entries = body["Entries"].as_array().unwrap();
            kept.lock().unwrap().push(entries.len());
            let answers: Vec<Value> = entries
                .iter()
                .map(|entry| {
                    let detail = entry["Detail"].as_str().unwrap().to_owned();
                    if detail.contains("never")
                        || detail.contains("not yet") && refused.insert(detail)
                    {
                        json!({"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"})
                    } else {
                        json!({"EventId": "1"})
                    }
                })
                .collect();
            let failed = answers
                .iter()
                .filter(|answer| answer.get("ErrorCode").is_some());
            let answer =
                json!({"FailedEntryCount": failed.count(), "Entries": answers}).to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            )
            .unwrap();
        }
    });
    (url, requests)
}

#[tokio::test]
async fn many_events_travel_ten_at_a_time_and_only_those_refused_again() {
    let mut account = Account::open().await;
    account.set(var::BUS, "loopy-bus");
    let (url, requests) = picky_bus();
    let config = account
        .config
        .clone()
        .into_builder()
        .endpoint_url(url)
        .build();
    let client = aws_sdk_eventbridge::Client::new(&config);
    let bus = EventBus::new(client, account.claims(), account.shared_environment());
    let counts = || {
        let mut counts = std::mem::take(&mut *requests.lock().unwrap());
        counts.sort_unstable();
        counts
    };
    let many = |count: usize, odd: &[usize], what: &str| -> Vec<Event> {
        let text = |index| match odd.contains(&index) {
            true => format!("{what} {index}"),
            false => index.to_string(),
        };
        (0..count).map(|index| event("Go", &text(index))).collect()
    };
    bus.publish_all(&[]).await.unwrap();
    assert_eq!(counts(), [0; 0]);
    bus.publish_all(&many(1001, &[], "")).await.unwrap();
    let all = counts();
    assert_eq!((all.len(), all.iter().sum::<usize>()), (101, 1001));
    // Two of the second ten and one of the third come again, and nothing else.
    bus.publish_all(&many(30, &[11, 12, 25], "not yet"))
        .await
        .unwrap();
    assert_eq!(counts(), [1, 2, 10, 10, 10]);
    let error = bus
        .publish_all(&many(20, &[3, 4], "never"))
        .await
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("publish Go evt-1 (bus loopy-bus) and 1 others"),
        "{error}"
    );
    assert!(error.contains("ThrottlingException: slow down"), "{error}");
    assert_eq!(counts(), [2, 2, 2, 2, 10, 10]);
}
