//! The project's sensors, which run in Lambda functions of their own: one a language.

use crate::env::{Environment, var};
use crate::error::failed;
use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::ports::{PortError, Sensed, SensorCall, SensorCode, SensorError};
use loopy_engine::sensor_host::{HostRequest, HostResponse, Language, TIME_LIMIT};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How much of an answer that makes no sense is shown, in characters.
const SHOWN: usize = 200;

/// Sensors in the functions that the environment names.
#[derive(Clone)]
pub struct LambdaSensorCode {
    client: Client,
    environment: Arc<Environment>,
}

impl LambdaSensorCode {
    /// The functions that `environment` names, over any configuration.
    pub fn of_config(config: &aws_config::SdkConfig, environment: Environment) -> Self {
        Self::new(Client::new(config), Arc::new(environment))
    }

    /// The functions that `environment` names.
    pub fn new(client: Client, environment: Arc<Environment>) -> Self {
        Self {
            client,
            environment,
        }
    }
}

/// What Lambda answers when the function itself did not.
#[derive(Deserialize)]
struct Unhandled {
    #[serde(rename = "errorType", default)]
    kind: Option<String>,
    #[serde(rename = "errorMessage", default)]
    message: Option<String>,
}

impl LambdaSensorCode {
    /// Asks the function with the sensors in a language. What it could not say itself
    /// (it took too long or too much, it ended) is an error in the response.
    async fn ask(
        &self,
        language: Language,
        what: &str,
        request: &HostRequest,
    ) -> Result<HostResponse, PortError> {
        let variable = var::sensors(language);
        let function = self.environment.may_be_empty(variable)?.ok_or_else(|| {
            let why = format!(
                "{variable} is empty: the stack was deployed without {language} sensors; deploy \
                 it again"
            );
            PortError::new(what, why)
        })?;
        let what = format!("{what} (function {function})");
        let payload = serde_json::to_vec(request).map_err(|error| PortError::new(&what, error))?;
        let output = self
            .client
            .invoke()
            .function_name(function)
            .invocation_type(InvocationType::RequestResponse)
            .payload(Blob::new(payload))
            .send()
            .await
            .map_err(|error| failed(&what, &error))?;
        let answer = output.payload.map(Blob::into_inner).unwrap_or_default();
        if let Some(kind) = output.function_error {
            return Ok(HostResponse::Error(unhandled(&kind, &answer)));
        }
        // A 200 alone proves nothing; only a host's response does.
        serde_json::from_slice(&answer).map_err(|error| {
            let why = format!(
                "the function did not answer as a sensor host does ({error}): {}",
                beginning(&answer)
            );
            PortError::new(what, why)
        })
    }
}

#[async_trait]
impl SensorCode for LambdaSensorCode {
    async fn call(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        let what = format!("call sensor `{}`", sensor.name);
        let request = HostRequest::call(manifest, sensor, call, TIME_LIMIT);
        let (Some(language), Some(request)) = (Language::of(sensor), request) else {
            return Err(PortError::new(&what, "the manifest names no code for it").into());
        };
        let response = self.ask(language, &what, &request).await?;
        response.events(&sensor.name)
    }

    async fn load(&self, manifest: &Manifest) -> Result<BTreeMap<String, String>, PortError> {
        let mut found = BTreeMap::new();
        for language in Language::ALL {
            if !language.is_in(manifest) {
                continue;
            }
            let what = format!("load the {language} sensors");
            let request = HostRequest::load(manifest, language);
            if let HostResponse::Loaded(not) = self.ask(language, &what, &request).await? {
                found.extend(not);
                continue;
            }
            // One that ends the host, or never comes back, is to be told from the others.
            for (sensor, request) in request.each() {
                match self.ask(language, &what, &request).await? {
                    HostResponse::Loaded(not) => found.extend(not),
                    HostResponse::Error(why) | HostResponse::Unloadable(why) => {
                        found.insert(sensor, why);
                    }
                    HostResponse::Events(_) => {}
                }
            }
        }
        Ok(found)
    }
}

/// A timeout, a lack of memory, an exit: what the host could not catch.
fn unhandled(kind: &str, answer: &[u8]) -> String {
    match serde_json::from_slice::<Unhandled>(answer) {
        Ok(Unhandled {
            kind: Some(kind),
            message: Some(message),
        }) => format!("{kind}: {message}"),
        Ok(Unhandled {
            kind: None,
            message: Some(message),
        }) => message,
        _ => format!("the function ended as `{kind}`: {}", beginning(answer)),
    }
}

fn beginning(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer)
        .chars()
        .take(SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::unhandled;

    #[test]
    fn a_failed_invocation_says_what_lambda_said() {
        assert_eq!(
            unhandled(
                "Unhandled",
                br#"{"errorMessage":"Task timed out after 3.00 seconds"}"#
            ),
            "Task timed out after 3.00 seconds"
        );
        assert_eq!(
            unhandled(
                "Unhandled",
                br#"{"errorType":"Runtime.ExitError","errorMessage":"exit 1"}"#
            ),
            "Runtime.ExitError: exit 1"
        );
        assert_eq!(
            unhandled("Unhandled", b"?"),
            "the function ended as `Unhandled`: ?"
        );
    }
}
