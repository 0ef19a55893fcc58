//! Sandboxes to stop, handed to the watch function without a queue between. Each
//! attempt ends with one, so the three requests that a queue takes would double
//! what hand-offs cost. Lambda keeps what it accepted until the function took it;
//! what the function then fails at it puts into its queue itself.

use crate::queues::{SqsQueues, wire};
use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{PortError, Queues};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The id that a message has which came without a queue. It has no receipt.
pub const DIRECT: &str = "direct";

/// The queues, and the way around one of them.
pub struct DirectStops {
    queues: Arc<SqsQueues>,
    client: Client,
    function: String,
}

impl DirectStops {
    /// Hands sandboxes to stop to `function`, all else to `queues`.
    pub fn new(queues: Arc<SqsQueues>, client: Client, function: impl Into<String>) -> Self {
        Self {
            queues,
            client,
            function: function.into(),
        }
    }

    /// Whether Lambda took it.
    async fn hand_over(&self, message: &Message) -> bool {
        let Ok(body) = wire(message) else {
            return false;
        };
        let batch = json!({ "Records": [{ "messageId": DIRECT, "body": body }] });
        self.client
            .invoke()
            .function_name(&self.function)
            .invocation_type(InvocationType::Event)
            .payload(Blob::new(batch.to_string()))
            .send()
            .await
            // 202: accepted. Anything else promises nothing.
            .is_ok_and(|output| output.status_code == 202)
    }
}

#[async_trait]
impl Queues for DirectStops {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        let direct = matches!(message, Message::Stop { .. }) && delay.is_zero();
        if direct && self.hand_over(message).await {
            return Ok(());
        }
        self.queues.send(message, delay).await
    }

    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        self.queues.bury(queue, body, reason).await
    }
}
