//! What was given up: the dead-letter queues, read and emptied by people.

use crate::claims::Claims;
use crate::config::s3_client;
use crate::env::Environment;
use crate::error::failed;
use crate::queues::SqsQueues;
use crate::wrapped::unwrapped;
use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use jiff::Timestamp;
use loopy_engine::message::QueueName;
use loopy_engine::ports::PortError;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Seconds that a letter is hidden from others while it is looked at.
const HIDDEN_SECONDS: i32 = 20;

/// The most that one call receives.
const BATCH: i32 = 10;

/// The most letters of one queue that are looked at.
const MOST: usize = 1000;

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqsDeadLetter {
    /// The id that SQS gave the message.
    pub id: String,
    /// Where it waited.
    pub queue: QueueName,
    /// As it was sent; a text that travelled by a claim is that text.
    pub body: String,
    /// Why it was given up.
    pub reason: String,
    /// When it was sent, or buried by the engine: SQS keeps the former for what
    /// it moves by itself.
    pub buried_at: Timestamp,
}

/// The dead-letter queues by the URLs in the environment.
#[derive(Clone)]
pub struct SqsDeadLetters {
    client: Client,
    claims: Claims,
    environment: Arc<Environment>,
}

/// The queues that `environment` names and their dead letters, reached as `config`
/// says.
pub fn of_config(config: &SdkConfig, environment: Environment) -> (SqsQueues, SqsDeadLetters) {
    let (client, environment) = (Client::new(config), Arc::new(environment));
    let claims = Claims::new(s3_client(config), &environment);
    let queues = SqsQueues::new(client.clone(), claims.clone(), Arc::clone(&environment));
    (queues, SqsDeadLetters::new(client, claims, environment))
}

impl SqsDeadLetters {
    /// The dead-letter queues that `environment` names, and the queues they
    /// belong to.
    pub fn new(client: Client, claims: Claims, environment: Arc<Environment>) -> Self {
        Self {
            client,
            claims,
            environment,
        }
    }

    /// Everything that was given up, by queue. What somebody else looks at this
    /// very moment is left out.
    ///
    /// # Errors
    /// When SQS refuses.
    pub async fn list(&self) -> Result<Vec<SqsDeadLetter>, PortError> {
        // Each queue takes a second to say that it has no more.
        let [a, b, c, d] = QueueName::ALL.map(|queue| self.list_one(queue));
        let (a, b, c, d) = tokio::try_join!(a, b, c, d)?;
        Ok([a, b, c, d].concat())
    }

    async fn list_one(&self, queue: QueueName) -> Result<Vec<SqsDeadLetter>, PortError> {
        let received = self.receive(queue, |_| false).await?;
        self.let_go(queue, &received).await?;
        let mut letters = Vec::new();
        for message in &received {
            let mut letter = letter(queue, message)?;
            match self.claims.redeem(letter.body.clone()).await {
                Ok(whole) => letter.body = whole,
                // It may have expired. The claim is all there is then.
                Err(error) => letter.reason = format!("{}; {error}", letter.reason),
            }
            letters.push(letter);
        }
        Ok(letters)
    }

    /// Sends a letter to the queue it came from, and then removes it. False when
    /// there is none with this id.
    ///
    /// # Errors
    /// When SQS refuses. The letter may then be in both queues, which is
    /// harmless: whatever a message asks for is done once.
    pub async fn redrive(&self, id: &str) -> Result<bool, PortError> {
        let [a, b, c, d] = QueueName::ALL.map(|queue| self.redrive_one(queue, id));
        let (a, b, c, d) = tokio::try_join!(a, b, c, d)?;
        Ok(a || b || c || d)
    }

    async fn redrive_one(&self, queue: QueueName, id: &str) -> Result<bool, PortError> {
        let is_it = |message: &Message| message.message_id() == Some(id);
        let mut received = self.receive(queue, is_it).await?;
        let at = received.iter().position(is_it);
        let it = at.map(|at| received.remove(at));
        self.let_go(queue, &received).await?;
        match it {
            None => Ok(false),
            Some(message) => self.send_again(queue, &message).await.map(|()| true),
        }
    }

    async fn send_again(&self, queue: QueueName, message: &Message) -> Result<(), PortError> {
        let what = || format!("send a dead letter of {queue} again");
        let body = message.body().unwrap_or_default();
        let bodies = match unwrapped(body) {
            Some(unwrapped) => unwrapped.bodies,
            None => vec![body.to_owned()],
        };
        for body in bodies {
            self.client
                .send_message()
                .queue_url(self.environment.queue_url(queue)?)
                .message_body(body)
                .send()
                .await
                .map_err(|error| failed(what(), &error))?;
        }
        self.client
            .delete_message()
            .queue_url(self.environment.dead_letter_url(queue)?)
            .receipt_handle(message.receipt_handle().unwrap_or_default())
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(what(), &error))
    }

    /// Receives letters until there are no more, or until one is `enough`.
    async fn receive(
        &self,
        queue: QueueName,
        enough: impl Fn(&Message) -> bool,
    ) -> Result<Vec<Message>, PortError> {
        let url = self.environment.dead_letter_url(queue)?;
        let mut known = BTreeSet::new();
        let mut found = Vec::new();
        while found.len() < MOST {
            let batch = self
                .client
                .receive_message()
                .queue_url(url)
                .max_number_of_messages(BATCH)
                .visibility_timeout(HIDDEN_SECONDS)
                // Asks all servers of the queue, not just some.
                .wait_time_seconds(1)
                .message_attribute_names("All")
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
                .send()
                .await
                .map_err(|error| failed(format!("read the dead letters of {queue}"), &error))?
                .messages
                .unwrap_or_default();
            let before = found.len();
            for message in batch {
                if known.insert(message.message_id().unwrap_or_default().to_owned()) {
                    found.push(message);
                }
            }
            let new = found.get(before..).unwrap_or_default();
            if new.is_empty() || new.iter().any(&enough) {
                break;
            }
        }
        Ok(found)
    }

    /// Has letters be there for others at once.
    async fn let_go(&self, queue: QueueName, messages: &[Message]) -> Result<(), PortError> {
        let url = self.environment.dead_letter_url(queue)?;
        for message in messages {
            self.client
                .change_message_visibility()
                .queue_url(url)
                .receipt_handle(message.receipt_handle().unwrap_or_default())
                .visibility_timeout(0)
                .send()
                .await
                .map_err(|error| failed(format!("put dead letters of {queue} back"), &error))?;
        }
        Ok(())
    }
}

fn letter(queue: QueueName, message: &Message) -> Result<SqsDeadLetter, PortError> {
    let sent = message
        .attributes()
        .and_then(|attributes| attributes.get(&MessageSystemAttributeName::SentTimestamp))
        .and_then(|milliseconds| milliseconds.parse().ok())
        .unwrap_or_default();
    let attribute = |name: &str| {
        let attributes = message.message_attributes()?;
        attributes.get(name)?.string_value().map(str::to_owned)
    };
    let body = message.body().unwrap_or_default();
    let wrapped = unwrapped(body);
    let of_bus = || match (attribute("ERROR_CODE"), attribute("ERROR_MESSAGE")) {
        (Some(code), Some(message)) => Some(format!("{code}: {message}")),
        (code, message) => code.or(message),
    };
    let reason = attribute("reason")
        .or_else(|| wrapped.as_ref()?.reason.clone())
        .or_else(of_bus);
    let inside = match wrapped.map(|wrapped| wrapped.bodies).as_deref() {
        Some([only]) => only.clone(),
        _ => body.to_owned(),
    };
    Ok(SqsDeadLetter {
        id: message.message_id().unwrap_or_default().to_owned(),
        queue,
        body: inside,
        reason: reason
            .unwrap_or_else(|| "it failed too often; the function's log says why".to_owned()),
        buried_at: Timestamp::from_millisecond(sent)
            .map_err(|why| PortError::new(format!("read the dead letters of {queue}"), why))?,
    })
}
