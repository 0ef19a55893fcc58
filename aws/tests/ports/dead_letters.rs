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
