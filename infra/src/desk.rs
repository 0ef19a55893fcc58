//! What a person works with in a deployed stack: its state, its queues and what
//! was given up.

use crate::deploy::{DeployError, describe, outputs};
use crate::state::{BUCKET, store};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use loopy_aws::dead_letters::{self, SqsDeadLetters};
use loopy_aws::env::var;
use loopy_aws::{DynamoStore, Environment, S3Transcripts, SqsQueues};
use loopy_engine::message::QueueName;

/// What a person works with.
pub struct Desk {
    /// Runs and events.
    pub store: DynamoStore,
    /// The queues.
    pub queues: SqsQueues,
    /// What was given up.
    pub dead_letters: SqsDeadLetters,
    /// What happened in attempts.
    pub transcripts: S3Transcripts,
}

/// The state, the queues, the dead letters and the transcripts of a stack.
///
/// # Errors
/// As [`store`].
pub async fn desk(config: &SdkConfig, stack: &str) -> Result<Desk, DeployError> {
    let store = store(config, stack).await?;
    let found = describe(&Client::new(config), stack).await?;
    let found = found.ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
    let mut outputs = outputs(&found);
    let mut urls = Vec::new();
    for queue in QueueName::ALL {
        let (name, letters) = names(queue);
        let variables = [var::queue(queue), var::dead_letter_queue(queue)];
        for (variable, output) in variables.into_iter().zip([name, letters]) {
            let url = outputs.remove(output).ok_or(DeployError::NotOurs {
                stack: stack.to_owned(),
                output,
            })?;
            urls.push((variable.to_owned(), url));
        }
    }
    let bucket = outputs.remove(BUCKET).ok_or(DeployError::NotOurs {
        stack: stack.to_owned(),
        output: BUCKET,
    })?;
    urls.push((var::STATE_BUCKET.to_owned(), bucket.clone()));
    let environment: Environment = urls.into_iter().collect();
    let (queues, dead_letters) = dead_letters::of_config(config, environment);
    Ok(Desk {
        store,
        queues,
        dead_letters,
        transcripts: S3Transcripts::of_config(config, bucket),
    })
}

/// The outputs with the URLs of a queue and its dead-letter queue.
fn names(queue: QueueName) -> (&'static str, &'static str) {
    match queue {
        QueueName::Deliveries => ("DeliveriesQueue", "DeliveriesDeadLetters"),
        QueueName::Events => ("EventsQueue", "EventsDeadLetters"),
        QueueName::Steps => ("StepsQueue", "StepsDeadLetters"),
        QueueName::Watch => ("WatchQueue", "WatchDeadLetters"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_template_tells_each_queue() {
        let template = include_str!("../../template.yaml");
        let outputs = template.split_once("\nOutputs:\n").unwrap().1;
        for queue in QueueName::ALL {
            let (name, letters) = names(queue);
            for output in [name, letters] {
                let value = format!("Value: {{ Ref: {output} }}");
                assert!(outputs.contains(&format!("\n  {output}:\n")), "{output}");
                assert!(outputs.contains(&value), "{output}");
            }
        }
    }
}
