//! The state of a deployed stack, read with the caller's credentials.

use crate::deploy::{DeployError, check_name, describe, outputs};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use loopy_aws::endpoint::function_url;
use loopy_aws::{DynamoStore, SystemClock};
use std::sync::Arc;

/// The output that names the table.
const TABLE: &str = "Table";

/// The output that names the bucket with the big parts of what is in it.
pub(crate) const BUCKET: &str = "StateBucket";

/// The run state of a stack.
///
/// # Errors
/// [`DeployError::NoStack`], [`DeployError::NotOurs`], or what CloudFormation
/// said.
pub async fn store(config: &SdkConfig, stack: &str) -> Result<DynamoStore, DeployError> {
    check_name(stack)?;
    let client = Client::new(config);
    let found = describe(&client, stack)
        .await?
        .ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
    let mut outputs = outputs(&found);
    let mut output = |output| {
        outputs.remove(output).ok_or(DeployError::NotOurs {
            stack: stack.to_owned(),
            output,
        })
    };
    let (table, bucket) = (output(TABLE)?, output(BUCKET)?);
    let clock = Arc::new(SystemClock);
    Ok(DynamoStore::of_config(config, table, bucket, clock))
}

/// Where a stack takes deliveries; a sensor's path follows.
///
/// # Errors
/// As [`store`].
pub async fn webhook_url(config: &SdkConfig, stack: &str) -> Result<String, DeployError> {
    const OUTPUT: &str = "WebhookUrl";
    check_name(stack)?;
    let found = describe(&Client::new(config), stack)
        .await?
        .ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
    let url = outputs(&found).remove(OUTPUT).ok_or(DeployError::NotOurs {
        stack: stack.to_owned(),
        output: OUTPUT,
    })?;
    Ok(function_url(&url, config.endpoint_url()))
}
