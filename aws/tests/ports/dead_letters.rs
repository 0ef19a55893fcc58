//! What was given up is listed, and sent again to where it came from.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use loopy_aws::SqsDeadLetters;
use loopy_aws::dead_letters::of_config;
use loopy_contract::ids::RunId;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::Queues;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

async fn account() -> (Account, SqsDeadLetters) {
    let mut account = Account::open().await;
    for queue in QueueName::ALL {
        account.make_queue(queue).await;
    }
    let (_, letters) = of_config(&account.config, account.environment());
    (account, letters)
}

fn turn(step: &str) -> String {
    serde_json::to_string(&Message::Handoff {
        run: RunId::from("greet-0123"),
        step: step.to_owned(),
        attempt: 1,
    })
    .unwrap()
}

#[tokio::test]
async fn letters_are_listed_with_their_reasons_and_stay_where_they_are() {
    let (account, letters) = account().await;
    assert_eq!(letters.list().await.unwrap(), []);
    let queues = account.queues();
    // More than one call receives.
    for number in 0..25 {
        let body = turn(&number.to_string());
        let reason = format!("no step {number}");
        queues.bury(QueueName::Steps, &body, &reason).await.unwrap();
    }
    queues
        .bury(QueueName::Watch, "{not json", "no message")
        .await
        .unwrap();
    // Those that were looked at are there for the next look at once.
    for _ in 0..2 {
        let found = letters.list().await.unwrap();
        assert_eq!(found.len(), 26);
        let mut steps: Vec<_> = found
            .iter()
            .filter(|letter| letter.queue == QueueName::Steps)
            .map(|letter| (letter.body.clone(), letter.reason.clone()))
            .collect();
        steps.sort();
        let mut sent: Vec<_> = (0..25)
            .map(|number: u8| (turn(&number.to_string()), format!("no step {number}")))
            .collect();
        sent.sort();
        assert_eq!(steps, sent);
        let watch = found.last().unwrap();
        assert_eq!((watch.queue, &*watch.body), (QueueName::Watch, "{not json"));
        assert!(watch.buried_at.as_second() > 1_600_000_000);
    }
}

#[tokio::test]
async fn a_letter_that_is_sent_again_is_in_its_queue_and_nowhere_else() {
    let (account, letters) = account().await;
    let queues = account.queues();
    for step in ["a", "b"] {
        queues
            .bury(QueueName::Steps, &turn(step), "no such run")
            .await
            .unwrap();
    }
    let found = letters.list().await.unwrap();
    let letter = found.iter().find(|it| it.body == turn("b")).unwrap();
    assert!(letters.redrive(&letter.id).await.unwrap());
    let environment = account.environment();
    let url = environment.queue_url(QueueName::Steps).unwrap();
    assert_eq!(account.next_body(url, PATIENCE).await, Some(turn("b")));
    let left = letters.list().await.unwrap();
    let bodies: Vec<_> = left.into_iter().map(|letter| letter.body).collect();
    assert_eq!(bodies, [turn("a")]);

    assert!(!letters.redrive(&letter.id).await.unwrap());
    assert!(!letters.redrive("nothing").await.unwrap());
    assert_eq!(letters.list().await.unwrap().len(), 1);
}

/// EventBridge leaves its envelope there, and its reason in attributes.
#[tokio::test]
async fn an_event_that_a_rule_could_not_deliver_is_sent_again_as_the_queue_knows_it() {
    let (account, letters) = account().await;
    let environment = account.environment();
    let message = turn("a");
    let envelope = serde_json::json!({
        "version": "0", "id": "7", "detail-type": "Go", "source": "loopy",
        "account": "1", "time": "2026-01-01T00:00:00Z", "region": "x", "resources": [],
        "detail": serde_json::from_str::<serde_json::Value>(&message).unwrap(),
    });
    let text = |value: &str| {
        let attribute = aws_sdk_sqs::types::MessageAttributeValue::builder();
        let attribute = attribute.data_type("String").string_value(value);
        attribute.build().unwrap()
    };
    aws_sdk_sqs::Client::new(&account.config)
        .send_message()
        .queue_url(environment.dead_letter_url(QueueName::Events).unwrap())
        .message_body(envelope.to_string())
        .message_attributes("ERROR_CODE", text("NO_PERMISSIONS"))
        .message_attributes("ERROR_MESSAGE", text("Lack of permissions to use the key"))
        .send()
        .await
        .unwrap();
    let found = letters.list().await.unwrap();
    let reason = "NO_PERMISSIONS: Lack of permissions to use the key";
    assert_eq!(found[0].reason, reason);
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(&found[0].body), value(&message));
    assert!(letters.redrive(&found[0].id).await.unwrap());
    let url = environment.queue_url(QueueName::Events).unwrap();
    let sent = account.next_body(url, PATIENCE).await.unwrap();
    assert_eq!(value(&sent), value(&message));
}

#[tokio::test]
async fn a_letter_that_travelled_by_a_claim_is_shown_whole() {
    let (account, letters) = account().await;
    let long = turn(&"x".repeat(300_000));
    let queues = account.queues();
    queues
        .bury(QueueName::Steps, &long, "no such run")
        .await
        .unwrap();
    let found = letters.list().await.unwrap();
    assert_eq!(found[0].body, long);
}
