//! Takes a stack down. What is retained stays and is named: run state,
//! and the assets bucket, which other stacks may share.

use crate::deploy::{DeployError, check_name, describe, outputs};
use crate::events::{self, Progress};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use std::collections::BTreeMap;

/// Why a stack still stands.
pub type DestroyError = DeployError;

/// A stack to take down.
pub struct Target {
    client: Client,
    stack: String,
    id: String,
    outputs: BTreeMap<String, String>,
}

impl Target {
    /// Finds the stack.
    ///
    /// # Errors
    /// [`DeployError::NoStack`] when there is none.
    pub async fn find(config: &SdkConfig, stack: &str) -> Result<Self, DestroyError> {
        check_name(stack)?;
        let client = Client::new(config);
        let found = describe(&client, stack)
            .await?
            .ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
        let outputs = outputs(&found);
        let id = found.stack_id().unwrap_or(stack).to_owned();
        Ok(Self {
            client,
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
    let seen = events::newest(&target.client, &target.id).await;
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
