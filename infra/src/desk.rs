//! What a person works with in a deployed stack: its state, its queues and what
//! was given up.

use crate::deploy::DeployError;
use crate::state::store;
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use loopy_aws::dead_letters::{self, SqsDeadLetters};
use loopy_aws::env::var;
use loopy_aws::{DynamoStore, Environment, SqsQueues};
use loopy_engine::message::QueueName;
use std::collections::BTreeMap;

/// The state, the queues and the dead letters of a stack.
///
/// # Errors
/// As [`store`]; or what CloudFormation said of the stack's queues.
pub async fn desk(
    config: &SdkConfig,
    stack: &str,
) -> Result<(DynamoStore, SqsQueues, SqsDeadLetters), DeployError> {
    let store = store(config, stack).await?;
    let resources = resources(&Client::new(config), stack).await?;
    let mut urls = Vec::new();
    for queue in QueueName::ALL {
        let (name, letters) = logical_ids(queue);
        let names = [
            (var::queue(queue), name),
            (var::dead_letter_queue(queue), letters),
        ];
        for (variable, resource) in names {
            let url = resources
                .get(resource)
                .ok_or_else(|| DeployError::Service {
                    what: format!("find the queue {resource} of stack {stack}"),
                    why: "the stack has none; deploy it again".to_owned(),
                })?;
            urls.push((variable.to_owned(), url.clone()));
        }
    }
    let environment: Environment = urls.into_iter().collect();
    let (queues, letters) = dead_letters::of_config(config, environment);
    Ok((store, queues, letters))
}

/// What the template calls a queue and its dead-letter queue.
fn logical_ids(queue: QueueName) -> (&'static str, &'static str) {
    match queue {
        QueueName::Deliveries => ("DeliveriesQueue", "DeliveriesDeadLetters"),
        QueueName::Events => ("EventsQueue", "EventsDeadLetters"),
        QueueName::Steps => ("StepsQueue", "StepsDeadLetters"),
        QueueName::Watch => ("WatchQueue", "WatchDeadLetters"),
    }
}

/// The stack's resources, by logical id: what each is called in its service. Of a
/// queue that is its URL.
async fn resources(client: &Client, stack: &str) -> Result<BTreeMap<String, String>, DeployError> {
    let mut found = BTreeMap::new();
    let mut next = None;
    loop {
        let page = client
            .list_stack_resources()
            .stack_name(stack)
            .set_next_token(next)
            .send()
            .await
            .map_err(|error| {
                DeployError::service(format!("list the resources of stack {stack}"), &error)
            })?;
        let resources = page.stack_resource_summaries().iter();
        found.extend(resources.filter_map(|resource| {
            let name = resource.logical_resource_id()?.to_owned();
            Some((name, resource.physical_resource_id()?.to_owned()))
        }));
        next = page.next_token;
        if next.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_template_has_a_queue_under_each_name() {
        let template = include_str!("../../template.yaml");
        for queue in QueueName::ALL {
            let (name, letters) = logical_ids(queue);
            for resource in [name, letters] {
                let at = template.find(&format!("\n  {resource}:\n")).unwrap();
                let kind = template[at..].lines().nth(2).unwrap();
                assert_eq!(kind.trim(), "Type: AWS::SQS::Queue", "{resource}");
            }
        }
    }
}
