//! Where resources of a stack are no longer what its template says, because somebody
//! changed them beside CloudFormation.

use super::{DeployError, Deployment};
use crate::events;
use aws_sdk_cloudformation::types::{StackDriftDetectionStatus, StackResourceDriftStatus};
use serde::Serialize;

/// A resource that somebody changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Its name in the template.
    pub resource: String,
    /// `AWS::SQS::Queue` and so on.
    pub kind: String,
    /// `MODIFIED` or `DELETED`.
    pub status: String,
    /// The properties that differ.
    pub properties: Vec<String>,
}

impl Deployment {
    /// Has CloudFormation look at every resource, and gives those that differ, by name.
    ///
    /// # Errors
    /// [`DeployError::Service`] when it cannot look.
    pub async fn drift(&self) -> Result<Vec<Drift>, DeployError> {
        let what = format!("look for drift in stack {}", self.stack);
        let id = self
            .client
            .detect_stack_drift()
            .stack_name(&self.stack)
            .send()
            .await
            .map_err(|error| DeployError::service(&what, &error))?
            .stack_drift_detection_id
            .unwrap_or_default();
        for pause in events::pauses() {
            let state = self
                .client
                .describe_stack_drift_detection_status()
                .stack_drift_detection_id(&id)
                .send()
                .await
                .map_err(|error| DeployError::service(&what, &error))?;
            match state.detection_status() {
                Some(StackDriftDetectionStatus::DetectionInProgress) => {
                    tokio::time::sleep(pause).await;
                }
                Some(StackDriftDetectionStatus::DetectionFailed) => {
                    let why = state
                        .detection_status_reason()
                        .unwrap_or("no reason was given");
                    // Some resources may have been looked at all the same, but not all.
                    return Err(DeployError::Service {
                        what,
                        why: why.to_owned(),
                    });
                }
                _ => break,
            }
        }
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .client
                .describe_stack_resource_drifts()
                .stack_name(&self.stack)
                .stack_resource_drift_status_filters(StackResourceDriftStatus::Modified)
                .stack_resource_drift_status_filters(StackResourceDriftStatus::Deleted)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| DeployError::service(&what, &error))?;
            for drift in page.stack_resource_drifts() {
                let status = drift.stack_resource_drift_status();
                let properties = drift.property_differences().iter();
                found.push(Drift {
                    resource: drift.logical_resource_id().unwrap_or_default().to_owned(),
                    kind: drift.resource_type().unwrap_or_default().to_owned(),
                    status: status.map_or("", |status| status.as_str()).to_owned(),
                    properties: properties
                        .filter_map(|difference| difference.property_path().map(str::to_owned))
                        .collect(),
                });
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                found.sort_by(|a, b| a.resource.cmp(&b.resource));
                return Ok(found);
            }
        }
    }
}
