//! A batch over an AWS-compatible endpoint: what cannot be processed is buried,
//! what fails for a passing reason is named, and neither hides the other.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests"
)]

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use loopy_aws::env::{Environment, var};
use loopy_aws::{Connection, Home, SystemClock};
use loopy_engine::Engine;
use loopy_engine::message::QueueName;
use loopy_functions::batch::{Batch, process};
use loopy_sandbox::Providers;
use serde_json::json;
use std::sync::Arc;

/// What is in the queue now, or comes within seconds.
async fn receive(queues: &Client, url: &str) -> Vec<Message> {
    for _ in 0..20 {
        let received = queues
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .wait_time_seconds(1);
        let messages = received.send().await.unwrap().messages.unwrap_or_default();
        if !messages.is_empty() {
            return messages;
        }
    }
    panic!("nothing came to {url}");
}

#[tokio::test]
async fn only_messages_that_failed_come_again() {
    let endpoint = std::env::var("LOOPY_TEST_EMULATOR")
        .expect("LOOPY_TEST_EMULATOR is not set: run `cargo xtask test`, which prepares it");
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    // An access key of 12 digits is an account of its own.
    let account = format!("{:012}", u64::from_le_bytes(random) % 1_000_000_000_000);
    let config = Connection {
        region: Some("eu-west-1".to_owned()),
        profile: None,
        endpoint_url: Some(endpoint),
    }
    .resolve()
    .await
    .unwrap();
    let credentials = aws_credential_types::Credentials::new(account, "s", None, None, "tests");
    let config = config
        .into_builder()
        .credentials_provider(
            aws_credential_types::provider::SharedCredentialsProvider::new(credentials),
        )
        .build();
    let queues = aws_sdk_sqs::Client::new(&config);
    let dead = queues
        .create_queue()
        .queue_name("dead")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();

    let steps = queues
        .create_queue()
        .queue_name("steps")
        .attributes(QueueAttributeName::VisibilityTimeout, "600")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    let turn = json!({"kind": "handoff", "run": "greet-1", "step": "build", "attempt": 1});
    let direct = json!({"kind": "handoff", "run": "greet-2", "step": "build", "attempt": 1});
    queues
        .send_message()
        .queue_url(&steps)
        .message_body(turn.to_string())
        .send()
        .await
        .unwrap();
    let received = receive(&queues, &steps).await;
    let receipt = received[0].receipt_handle().unwrap();

    // There is no such table, so a turn cannot be taken now.
    let environment: Environment = [
        (var::TABLE, "no-such-table"),
        (var::queue(QueueName::Steps), steps.as_str()),
        (var::dead_letter_queue(QueueName::Steps), dead.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into_iter()
    .collect();
    let home = Home::new(config, environment, Arc::new(SystemClock));
    let ports = home
        .ports(Arc::new(home.secrets()), Arc::new(Providers::new()))
        .unwrap();
    let engine = Engine::new(ports);

    let batch: Batch = serde_json::from_value(json!({"Records": [
        {"messageId": "1", "receiptHandle": "r", "body": "not json", "eventSource": "aws:sqs"},
        {"messageId": "2", "receiptHandle": receipt, "body": turn.to_string(),
         "attributes": {"ApproximateReceiveCount": "1", "SenderId": "x"}},
        {"messageId": "3", "receiptHandle": "r", "body": "{\"kind\": \"unknown\"}"},
        // Handed over without a queue: it goes into the queue, to come again.
        {"messageId": "direct", "body": direct.to_string()},
    ]}))
    .unwrap();
    let failures = process(&engine, home.queues(), QueueName::Steps, batch)
        .await
        .unwrap();
    assert_eq!(
        serde_json::to_value(failures).unwrap(),
        json!({"batchItemFailures": [{"itemIdentifier": "2"}]})
    );

    // It does not rest for the ten minutes that the queue would give it.
    let mut again = Vec::new();
    while again.len() < 2 {
        let came = receive(&queues, &steps).await.into_iter();
        again.extend(came.filter_map(|message| message.body));
    }
    again.sort();
    assert_eq!(again, [turn.to_string(), direct.to_string()]);

    let mut bodies: Vec<String> = receive(&queues, &dead)
        .await
        .into_iter()
        .filter_map(|message| message.body)
        .collect();
    bodies.sort();
    assert_eq!(bodies, ["not json", "{\"kind\": \"unknown\"}"]);
}
