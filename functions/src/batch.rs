//! A batch of queue messages. Each stands for itself: those that failed are
//! named in the response and come again, the others are acknowledged.

use futures::future::join_all;
use loopy_engine::Engine;
use loopy_engine::message::QueueName;
use serde::{Deserialize, Serialize};

/// The event of an SQS mapping, as far as it is needed.
#[derive(Deserialize)]
pub struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "messageId")]
    message_id: String,
    body: String,
}

/// The messages that were not processed (`ReportBatchItemFailures`).
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failures {
    #[serde(rename = "batchItemFailures")]
    items: Vec<Failure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Failure {
    #[serde(rename = "itemIdentifier")]
    message_id: String,
}

/// Processes the messages at the same time.
pub async fn process(engine: &Engine, queue: QueueName, batch: Batch) -> Failures {
    let outcomes = join_all(batch.records.into_iter().map(async |record| {
        // The engine has logged why.
        let failed = engine.process(queue, &record.body).await.is_err();
        failed.then_some(Failure {
            message_id: record.message_id,
        })
    }))
    .await;
    Failures {
        items: outcomes.into_iter().flatten().collect(),
    }
}
