//! The four queues and their dead-letter queues in SQS.

use crate::claims::Claims;
use crate::env::Environment;
use crate::error::failed;
use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::MessageAttributeValue;
use loopy_contract::ids::{RunId, derive};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{PortError, Queues};
use std::sync::Arc;
use std::time::Duration;

/// The longest delay that SQS takes.
pub const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// The most characters of a reason that go beside a buried message.
const MAX_REASON_CHARS: usize = 2000;

/// Queues by the URLs in the environment.
#[derive(Clone)]
pub struct SqsQueues {
    client: Client,
    claims: Claims,
    environment: Arc<Environment>,
}

impl SqsQueues {
    /// The queues that `environment` names.
    /// What is too long for them goes by `claims`.
    pub fn new(client: Client, claims: Claims, environment: Arc<Environment>) -> Self {
        Self {
            client,
            claims,
            environment,
        }
    }

    /// What a received message says, whether it came itself or by a claim.
    ///
    /// # Errors
    /// When what it claims cannot be read; the message has to come again.
    pub async fn redeem(&self, body: String) -> Result<String, PortError> {
        self.claims.redeem(body).await
    }

    /// Has a received message come again after `delay`, in place of the queue's
    /// visibility time. `receipt` is the handle it was received with.
    ///
    /// # Errors
    /// When SQS refuses; the message then comes again when its time is over.
    pub async fn come_again(
        &self,
        queue: QueueName,
        receipt: &str,
        delay: Duration,
    ) -> Result<(), PortError> {
        let seconds = i32::try_from(delay.as_secs()).unwrap_or(i32::MAX);
        self.client
            .change_message_visibility()
            .queue_url(self.environment.queue_url(queue)?)
            .receipt_handle(receipt)
            .visibility_timeout(seconds)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(format!("have a message of {queue} come again"), &error))
    }

    /// Puts a message that came without a queue into its queue, to come again
    /// after `delay`.
    ///
    /// # Errors
    /// When SQS refuses.
    pub async fn put_back(
        &self,
        queue: QueueName,
        body: &str,
        delay: Duration,
    ) -> Result<(), PortError> {
        let body = self.claims.check_in(body.to_owned()).await?;
        self.client
            .send_message()
            .queue_url(self.environment.queue_url(queue)?)
            .message_body(body)
            .delay_seconds(i32::try_from(delay.as_secs()).unwrap_or(i32::MAX))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(format!("put a message into the {queue} queue"), &error))
    }
}

#[async_trait]
impl Queues for SqsQueues {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        let queue = message.queue();
        let what = format!("send to the {queue} queue");
        if delay > MAX_DELAY {
            return Err(PortError::new(
                what,
                format!("a delay of {delay:?} was asked for, SQS delays for 15 minutes at most"),
            ));
        }
        let mut seconds = delay.as_secs();
        if delay.subsec_nanos() > 0 {
            seconds += 1;
        }
        let body = wire(message).map_err(|error| PortError::new(&what, error))?;
        let body = self.claims.check_in(body).await?;
        self.client
            .send_message()
            .queue_url(self.environment.queue_url(queue)?)
            .message_body(body)
            .delay_seconds(i32::try_from(seconds).unwrap_or(i32::MAX))
            .message_group_id(group(message))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(what, &error))
    }

    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        let what = format!("put a message into the dead-letter queue of {queue}");
        let attribute = |value: &str| {
            MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .map_err(|error| PortError::new(&what, error))
        };
        self.client
            .send_message()
            .queue_url(self.environment.dead_letter_url(queue)?)
            .message_body(self.claims.check_in(body.to_owned()).await?)
            .message_attributes("reason", attribute(&printable(reason))?)
            .message_attributes("queue", attribute(queue.name())?)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(&what, &error))
    }
}

/// The message as it travels.
///
/// # Errors
/// None that a message of this type can have.
pub fn wire(message: &Message) -> Result<String, serde_json::Error> {
    serde_json::to_string(message).map(sendable)
}

/// JSON as SQS takes it. It refuses the two code points U+FFFE and U+FFFF; both can
/// stand in a stranger's text, and only inside JSON strings, where their escapes mean
/// the same.
pub(crate) fn sendable(json: String) -> String {
    if json.contains(['\u{fffe}', '\u{ffff}']) {
        json.replace('\u{fffe}', "\\ufffe")
            .replace('\u{ffff}', "\\uffff")
    } else {
        json
    }
}

/// Who the message is for. In a standard queue this orders nothing; it keeps
/// one workflow's flood from delaying the others (SQS calls it a fair queue).
/// Hashed, because a group id holds few kinds of characters.
fn group(message: &Message) -> String {
    let of_run = |run: &RunId| match run.as_str().rsplit_once('-') {
        Some((workflow, _)) => workflow.to_owned(),
        None => run.as_str().to_owned(),
    };
    let tenant = match message {
        Message::Delivery(delivery) => delivery.path.clone(),
        Message::Poll { sensor, .. } => sensor.clone(),
        Message::Event(event) => event.name.clone(),
        Message::Cron { step, .. } => step.clone(),
        Message::Handoff { run, .. }
        | Message::Wake { run, .. }
        | Message::TimeLimit { run, .. }
        | Message::Ended { run, .. }
        | Message::Unanswered { run, .. }
        | Message::Command { run, .. } => of_run(run),
        Message::Again(again) => of_run(&again.original),
        Message::Settled { workflow, .. } => workflow.clone(),
        Message::Stop { sandbox } => sandbox.provider.clone(),
    };
    derive(&["group", &tenant], 32)
}

/// The reason without characters that SQS refuses, cut to a sane length, and
/// never empty.
fn printable(reason: &str) -> String {
    let kept: String = reason
        .chars()
        .filter(|c| {
            matches!(c, '\t' | '\n' | '\r') || (*c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        })
        .take(MAX_REASON_CHARS)
        .collect();
    if kept.is_empty() {
        "no reason was given".to_owned()
    } else {
        kept
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn poll(sensor: &str) -> Message {
        Message::Poll {
            sensor: sensor.to_owned(),
            scheduled_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn what_sqs_refuses_is_escaped_and_means_the_same() {
        let message = poll("a\u{ffff}b\u{fffe}\u{1}");
        let body = wire(&message).unwrap();
        assert!(!body.contains(['\u{fffe}', '\u{ffff}', '\u{1}']), "{body}");
        assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), message);
    }

    #[test]
    fn attempts_of_one_workflow_share_a_group() {
        let turn = |run: &str| Message::Handoff {
            run: RunId::from(run),
            step: "build".to_owned(),
            attempt: 1,
        };
        assert_eq!(group(&turn("a-b-0123")), group(&turn("a-b-4567")));
        assert_ne!(group(&turn("a-b-0123")), group(&turn("a-c-0123")));
    }

    #[test]
    fn a_reason_is_cut_and_cleaned() {
        assert_eq!(printable("a\u{0}b\nc"), "ab\nc");
        assert_eq!(
            printable(&"é".repeat(5000)).chars().count(),
            MAX_REASON_CHARS
        );
        assert_eq!(printable("\u{0}"), "no reason was given");
    }
}
