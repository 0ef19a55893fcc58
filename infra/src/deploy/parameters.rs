//! The values of the template's parameters: those that are given, those the stack has
//! been given before, and what an account can spare for the public functions.

use super::error::DeployError;
use aws_sdk_cloudformation::types::{Parameter, Stack as Described};
use serde_json::Value;
use std::collections::BTreeMap;

/// The bucket with the assets, which the deployment says itself.
pub(super) const BUCKET: &str = "AssetsBucket";
const PUBLIC: &str = "PublicConcurrency";

/// What each public function gets of an account that can spare it.
const RESERVED: i32 = 50;
/// What AWS wants to remain for all other functions.
const REMAINING: i32 = 100;

/// The names of a template's parameters.
///
/// # Errors
/// The template cannot be read.
pub(super) fn names(template: &str) -> Result<Vec<String>, DeployError> {
    let template: Value =
        serde_saphyr::from_str(template).map_err(|error| DeployError::Service {
            what: "read the template".to_owned(),
            why: error.to_string(),
        })?;
    let parameters = template["Parameters"].as_object();
    let names = parameters
        .into_iter()
        .flat_map(|parameters| parameters.keys());
    Ok(names.cloned().collect())
}

/// The values that a stack has, without what the deployment says itself.
pub(super) fn given(stack: &Described) -> BTreeMap<String, String> {
    let parameters = stack.parameters().iter();
    let values = parameters.filter_map(|parameter| {
        let name = parameter.parameter_key().filter(|name| *name != BUCKET)?;
        Some((name.to_owned(), parameter.parameter_value()?.to_owned()))
    });
    values.collect()
}

/// Whether a stack has these values.
pub(super) fn has(stack: &Described, values: &BTreeMap<String, String>) -> bool {
    values.iter().all(|(name, value)| {
        stack.parameters().iter().any(|parameter| {
            parameter.parameter_key() == Some(name) && parameter.parameter_value() == Some(value)
        })
    })
}

/// Refuses what is no parameter, or not the caller's to say.
///
/// # Errors
/// [`DeployError::Parameter`].
pub(super) fn check(names: &[String], given: &BTreeMap<String, String>) -> Result<(), DeployError> {
    let known: Vec<String> = names
        .iter()
        .filter(|name| *name != BUCKET)
        .cloned()
        .collect();
    match given.keys().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(DeployError::Parameter {
            name: name.clone(),
            known,
        }),
    }
}

/// Reserves a part of the account's concurrency for the public functions of a new
/// stack, when nothing else was said and the account has enough. One that may run only
/// a few functions at once, as new accounts do, would refuse the stack.
pub(super) async fn reserve(lambda: &aws_sdk_lambda::Client, given: &mut BTreeMap<String, String>) {
    if given.contains_key(PUBLIC) {
        return;
    }
    let free = match lambda.get_account_settings().send().await {
        Ok(settings) => settings
            .account_limit()
            .and_then(|limit| limit.unreserved_concurrent_executions()),
        Err(error) => {
            tracing::info!(%error, "the account does not say how many functions it runs at once");
            None
        }
    };
    if free.is_some_and(|free| free >= 2 * RESERVED + REMAINING) {
        given.insert(PUBLIC.to_owned(), RESERVED.to_string());
    }
}

/// The parameters for a change; what is left out has its default.
pub(super) fn all(
    names: &[String],
    current: Option<&Described>,
    given: &BTreeMap<String, String>,
) -> Vec<Parameter> {
    let had = |name: &str| {
        let mut parameters = current.into_iter().flat_map(Described::parameters);
        parameters.any(|p| p.parameter_key() == Some(name))
    };
    names
        .iter()
        .filter_map(|name| {
            let parameter = Parameter::builder().parameter_key(name);
            match given.get(name) {
                Some(value) => Some(parameter.parameter_value(value).build()),
                None if had(name) => Some(parameter.use_previous_value(true).build()),
                None => None,
            }
        })
        .collect()
}
