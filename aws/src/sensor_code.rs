//! The project's Python sensors, which run in a Lambda function of their own.

use crate::env::{Environment, var};
use crate::error::failed;
use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::ports::{PortError, Sensed, SensorCall, SensorCode, SensorError};
use loopy_engine::sensor_host::{HostRequest, HostResponse};
use serde::Deserialize;
use std::sync::Arc;

/// How much of an answer that makes no sense is shown, in characters.
const SHOWN: usize = 200;

/// Sensors in the function that the environment names.
#[derive(Clone)]
pub struct LambdaSensorCode {
    client: Client,
    environment: Arc<Environment>,
}

impl LambdaSensorCode {
    /// The function that `environment` names.
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

#[async_trait]
impl SensorCode for LambdaSensorCode {
    async fn call(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        let what = format!("call sensor `{}`", sensor.name);
        let request = HostRequest::new(manifest, sensor, call)
            .ok_or_else(|| PortError::new(&what, "it names no module and function"))?;
        let function = self
            .environment
            .may_be_empty(var::SENSOR_PYTHON)
            .map_err(PortError::from)?
            .ok_or_else(|| {
                PortError::new(
                    &what,
                    format!(
                        "{} is empty: the stack was deployed without Python sensors; deploy it again",
                        var::SENSOR_PYTHON
                    ),
                )
            })?;
        let what = format!("{what} (function {function})");
        let payload = serde_json::to_vec(&request).map_err(|error| PortError::new(&what, error))?;
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
            return Err(SensorError::Raised {
                sensor: sensor.name.clone(),
                message: unhandled(&kind, &answer),
            });
        }
        // A 200 alone proves nothing; only a host's response does.
        match serde_json::from_slice(&answer) {
            Ok(HostResponse::Events(events)) => Ok(events),
            Ok(HostResponse::Error(message)) => Err(SensorError::Raised {
                sensor: sensor.name.clone(),
                message,
            }),
            Err(error) => Err(PortError::new(
                what,
                format!(
                    "the function did not answer as a sensor host does ({error}): {}",
                    beginning(&answer)
                ),
            )
            .into()),
        }
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
