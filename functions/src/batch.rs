//! A batch of queue messages. Each stands for itself: those that failed are
//! named in the response and come again, the others are acknowledged.

use futures::future::join_all;
use loopy_aws::queues::wire;
use loopy_aws::{SqsQueues, fargate};
use loopy_engine::Engine;
use loopy_engine::message::{QueueName, redelivery_delay};
use loopy_engine::ports::PortError;
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
    /// None of a message that was handed over without a queue.
    #[serde(default, rename = "receiptHandle")]
    receipt: Option<String>,
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
///
/// # Errors
/// When a message that came without a queue failed and could not be put into it:
/// Lambda then delivers it again.
pub async fn process(
    engine: &Engine,
    queues: &SqsQueues,
    queue: QueueName,
    batch: Batch,
) -> Result<Failures, PortError> {
    let outcomes = join_all(batch.records.into_iter().map(async |record| {
        // The engine has logged why.
        // Where the account's bus tells of a task, it tells it in its own words.
        let body = fargate::ended(&record.body)
            .and_then(|message| wire(&message).ok())
            .unwrap_or(record.body);
        let outcome = match queues.redeem(body.clone()).await {
            Ok(whole) => engine.process(queue, &whole).await.is_ok(),
            Err(error) => {
                tracing::error!(%error, "a message cannot be read");
                false
            }
        };
        if outcome {
            return Ok(None);
        }
        let delay = redelivery_delay(record.attributes.receives.parse().unwrap_or(1));
        let Some(receipt) = &record.receipt else {
            queues.put_back(queue, &body, delay).await?;
            return Ok(None);
        };
        if let Err(error) = queues.come_again(queue, receipt, delay).await {
            tracing::warn!(%error, "the message comes again later than it could");
        }
        Ok(Some(Failure {
            message_id: record.message_id,
        }))
    }))
    .await;
    let failed: Result<Vec<_>, PortError> = outcomes.into_iter().collect();
    Ok(Failures {
        items: failed?.into_iter().flatten().collect(),
    })
}
