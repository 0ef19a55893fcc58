//! The values of the template's parameters: those that are given, those the stack has
//! been given before, and what an account can spare for the public functions.

use crate::deploy::DeployError;
use crate::stack::Stack;
use aws_sdk_cloudformation::types::{Parameter, Stack as Described};
use std::collections::BTreeMap;

/// The bucket with the assets, which the deployment says itself.
pub(crate) const BUCKET: &str = "AssetsBucket";
const PUBLIC: &str = "PublicConcurrency";

/// What each public function gets of an account that can spare it.
const RESERVED: i32 = 50;
/// What AWS wants to remain for all other functions.
const REMAINING: i32 = 100;

/// Refuses what is no parameter, or not the caller's to say.
///
/// # Errors
/// [`DeployError::Parameter`].
pub(crate) fn check(stack: &Stack, given: &BTreeMap<String, String>) -> Result<(), DeployError> {
    let known: Vec<String> = stack
        .parameters
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
pub(crate) async fn reserve(lambda: &aws_sdk_lambda::Client, given: &mut BTreeMap<String, String>) {
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
pub(crate) fn all(
    stack: &Stack,
    current: Option<&Described>,
    given: &BTreeMap<String, String>,
) -> Vec<Parameter> {
    let had = |name: &str| {
        let mut parameters = current.into_iter().flat_map(Described::parameters);
        parameters.any(|p| p.parameter_key() == Some(name))
    };
    stack
        .parameters
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
