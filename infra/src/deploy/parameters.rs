//! The values of the template's parameters: those that are given, and those the stack
//! has been given before.

use super::error::{DeployError, MAX_STACK_NAME};
use aws_sdk_cloudformation::types::{Parameter, Stack as Described};
use serde_json::Value;
use std::collections::BTreeMap;

/// The bucket with the assets, which the deployment says itself.
pub(super) const BUCKET: &str = "AssetsBucket";
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

/// What a stack keeps: its key, without which nothing that it encrypted can be read, and
/// the names with which its schedules go.
const LASTING: [&str; 2] = ["KmsKey", "NamePrefix"];

/// Refuses a change of what a stack keeps once it is made.
///
/// # Errors
/// [`DeployError::Lasting`].
pub(super) fn lasting(
    has: &BTreeMap<String, String>,
    given: &BTreeMap<String, String>,
) -> Result<(), DeployError> {
    for name in LASTING {
        let had = has.get(name).map_or("", String::as_str);
        if given.get(name).is_some_and(|value| value != had) {
            return Err(DeployError::Lasting {
                name,
                had: had.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses a prefix that makes the names it begins too long.
///
/// # Errors
/// [`DeployError::Prefixed`].
pub(super) fn check_prefix(
    stack: &str,
    given: &BTreeMap<String, String>,
) -> Result<(), DeployError> {
    let prefix = given.get("NamePrefix").map_or("", String::as_str);
    let name = format!("{prefix}{stack}");
    if name.len() > MAX_STACK_NAME {
        return Err(DeployError::Prefixed(name));
    }
    Ok(())
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
