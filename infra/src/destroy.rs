//! Takes a stack down. What is retained stays and is named: run state,
//! and the assets bucket, which other stacks may share.

use crate::deploy::{DeployError, check_name, describe, is_ours, outputs};
use crate::events::{self, Progress};
use crate::stack::fargate::CLUSTER;
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks at what works in a stack.
const LOOK: Duration = Duration::from_millis(500);

/// Why a stack still stands.
pub type DestroyError = DeployError;

/// A stack to take down.
pub struct Target {
    client: Client,
    ecs: aws_sdk_ecs::Client,
    stack: String,
    id: String,
    outputs: BTreeMap<String, String>,
}

impl Target {
    /// Finds the stack.
    ///
    /// # Errors
    /// [`DeployError::NoStack`] when there is none, [`DeployError::Foreign`] when it is
    /// somebody else's.
    pub async fn find(config: &SdkConfig, stack: &str) -> Result<Self, DestroyError> {
        check_name(stack)?;
        let client = Client::new(config);
        let found = describe(&client, stack)
            .await?
            .ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
        if !is_ours(&found) {
            let status = found.stack_status().map_or("", |status| status.as_str());
            return Err(DeployError::Foreign {
                stack: stack.to_owned(),
                status: status.to_owned(),
            });
        }
        let outputs = outputs(&found);
        let id = found.stack_id().unwrap_or(stack).to_owned();
        Ok(Self {
            client,
            ecs: aws_sdk_ecs::Client::new(config),
            stack: stack.to_owned(),
            id,
            outputs,
        })
    }

    /// What the deletion keeps: a description and a name, each.
    pub fn kept(&self) -> Vec<(&'static str, String)> {
        [
            ("run state, the table", "Table"),
            ("big parts of it, the bucket", "StateBucket"),
            ("uploaded assets, the bucket", "AssetsBucket"),
        ]
        .into_iter()
        .filter_map(|(about, output)| Some((about, self.outputs.get(output)?.clone())))
        .collect()
    }
}

/// Deletes the stack and waits until it is gone.
///
/// # Errors
/// [`DeployError::Failed`] with the reason of each resource that stayed.
pub async fn destroy(
    target: &Target,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), DestroyError> {
    if let Some(cluster) = target.outputs.get(CLUSTER) {
        stop_tasks(target, cluster, progress).await?;
    }
    let seen = events::newest(&target.client, &target.id)
        .await
        .map_err(|why| DeployError::Service {
            what: format!("look at stack {}", target.stack),
            why,
        })?;
    target
        .client
        .delete_stack()
        .stack_name(&target.id)
        .send()
        .await
        .map_err(|error| DeployError::Service {
            what: format!("delete stack {}", target.stack),
            why: events::explain(&error),
        })?;
    let ended = events::follow(&target.client, &target.id, seen, progress)
        .await
        .map_err(|why| DeployError::Service {
            what: format!("follow stack {}", target.stack),
            why,
        })?;
    if ended.status == "DELETE_COMPLETE" {
        return Ok(());
    }
    Err(DeployError::Failed {
        stack: target.stack.clone(),
        status: ended.status,
        reasons: ended.failures,
    })
}

/// Stops what works in the cluster: one with tasks cannot be deleted.
async fn stop_tasks(
    target: &Target,
    cluster: &str,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), DestroyError> {
    let fault = |what: &str, why| DeployError::Service {
        what: format!("{what} cluster {cluster}"),
        why,
    };
    let mut count = 0;
    loop {
        let listed = target.ecs.list_tasks().cluster(cluster).send().await;
        let listed = match listed {
            Ok(listed) => listed.task_arns.unwrap_or_default(),
            // Gone with an earlier attempt to delete the stack.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_cluster_not_found_exception()) =>
            {
                break;
            }
            Err(error) => return Err(fault("list the tasks of", events::explain(&error))),
        };
        if listed.is_empty() {
            break;
        }
        for task in &listed {
            let stop = target.ecs.stop_task().cluster(cluster).task(task);
            stop.reason("the stack is deleted")
                .send()
                .await
                .map_err(|error| fault("stop a task of", events::explain(&error)))?;
        }
        count = count.max(listed.len());
        // A task that was told to stop is listed no longer after a moment.
        tokio::time::sleep(LOOK).await;
    }
    if count > 0 {
        progress(Progress::TasksStopped { count });
    }
    Ok(())
}
