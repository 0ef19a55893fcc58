//! Asks the deployed functions whether they can load the project's sensors.

use crate::deploy::{DeployError, describe, outputs};
use crate::stack::sensors::output;
use crate::state::store;
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use loopy_aws::env::var;
use loopy_aws::{LambdaSensorCode, SystemClock};
use loopy_contract::manifest::Manifest;
use loopy_engine::keep_unloadable;
use loopy_engine::ports::{Clock as _, SensorCode as _};
use loopy_engine::sensor_host::Language;
use std::collections::BTreeMap;

/// Loads the code of all sensors of a stack's manifest without calling one. Gives those
/// that cannot be loaded, with why. That is kept, too: deliveries to them are refused,
/// and those to sensors that can be loaded again are taken again.
///
/// # Errors
/// As [`store`], or when a function or the table cannot be reached.
pub async fn load_sensors(
    config: &SdkConfig,
    stack: &str,
    manifest: &Manifest,
) -> Result<BTreeMap<String, String>, DeployError> {
    let store = store(config, stack).await?;
    let found = describe(&Client::new(config), stack).await?;
    let found = found.ok_or_else(|| DeployError::NoStack(stack.to_owned()))?;
    let mut outputs = outputs(&found);
    let functions = Language::ALL.map(|language| {
        let function = outputs.remove(output(language)).unwrap_or_default();
        (var::sensors(language).to_owned(), function)
    });
    let code = LambdaSensorCode::of_config(config, functions.into_iter().collect());
    let found = code.load(manifest).await.map_err(DeployError::Sensors)?;
    keep_unloadable(&store, manifest, &found, SystemClock.now())
        .await
        .map_err(DeployError::Sensors)?;
    Ok(found)
}
