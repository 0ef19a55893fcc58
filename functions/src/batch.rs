//! A batch of queue messages. Each stands for itself: those that failed are
//! named in the response and come again, the others are acknowledged.

use futures::future::join_all;
use loopy_aws::SqsQueues;
use loopy_engine::Engine;
use loopy_engine::message::{QueueName, redelivery_delay};
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
    #[serde(rename = "receiptHandle")]
    receipt: String,
    body: String,
    #[serde(default)]
    attributes: Attributes,
}

#[derive(Default, Deserialize)]
struct Attributes {
    /// A number, as text.
    #[serde(default, rename = "ApproximateReceiveCount")]
    receives: String,
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

/// Processes the messages at the same time. Those that failed come again after
/// [`redelivery_delay`].
pub async fn process(
    engine: &Engine,
    queues: &SqsQueues,
    queue: QueueName,
    batch: Batch,
) -> Failures {
    let outcomes = join_all(batch.records.into_iter().map(async |record| {
        // The engine has logged why.
        if engine.process(queue, &record.body).await.is_ok() {
            return None;
        }
        let delay = redelivery_delay(record.attributes.receives.parse().unwrap_or(1));
        if let Err(error) = queues.come_again(queue, &record.receipt, delay).await {
            tracing::warn!(%error, "the message comes again later than it could");
        }
        Some(Failure {
            message_id: record.message_id,
        })
    }))
    .await;
    Failures {
        items: outcomes.into_iter().flatten().collect(),
    }
}
