//! What a person works with in a deployed stack: its state, its queues and what
//! was given up.

use crate::deploy::{DeployError, describe, outputs};
use crate::state::store;
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use loopy_aws::dead_letters::{self, SqsDeadLetters};
use loopy_aws::env::var;
use loopy_aws::{DynamoStore, Environment, SqsQueues};
use loopy_engine::message::QueueName;

/// The state, the queues and the dead letters of a stack.
///
/// # Errors
/// As [`store`].
pub async fn desk(
    config: &SdkConfig,
    stack: &str,
) -> Result<(DynamoStore, SqsQueues, SqsDeadLetters), DeployError> {
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
    let environment: Environment = urls.into_iter().collect();
    let (queues, letters) = dead_letters::of_config(config, environment);
    Ok((store, queues, letters))
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
