//! Where resources of a stack are no longer what its template says, because somebody
//! changed them beside CloudFormation.

use super::{DeployError, Deployment};
use crate::events::{self, explain};
use aws_sdk_cloudformation::types::{StackDriftDetectionStatus, StackResourceDriftStatus};
use serde::Serialize;
use std::collections::BTreeSet;

const SCHEDULE: &str = "AWS::Scheduler::Schedule";

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
    /// What the service calls it.
    #[serde(skip)]
    physical_id: String,
}

impl Deployment {
    /// Has CloudFormation look at every resource, those of stacks inside the stack
    /// too, and gives those that differ, by name.
    ///
    /// # Errors
    /// [`DeployError::Service`] when it cannot look.
    pub async fn drift(&self) -> Result<Vec<Drift>, DeployError> {
        // It never looks into the stacks inside a stack by itself.
        let mut found = self.drift_of(&self.stack).await?;
        for (_, id) in self.resources_of_kind("AWS::CloudFormation::Stack").await? {
            found.extend(self.drift_of(&id).await?);
        }
        // It looks for a schedule in the default group only, and calls all others deleted
        // (aws-cloudformation/cloudformation-coverage-roadmap#1725).
        let gone = |drift: &Drift| drift.kind == SCHEDULE && drift.status == "DELETED";
        if found.iter().any(gone) {
            let there = self.schedules().await?;
            found.retain(|drift| !gone(drift) || !there.contains(&drift.physical_id));
        }
        found.sort_by(|a, b| a.resource.cmp(&b.resource));
        Ok(found)
    }

    async fn drift_of(&self, stack: &str) -> Result<Vec<Drift>, DeployError> {
        let what = format!("look for drift in stack {stack}");
        let id = self
            .client
            .detect_stack_drift()
            .stack_name(stack)
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
                .stack_name(stack)
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
                    physical_id: drift.physical_resource_id().unwrap_or_default().to_owned(),
                });
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// The stack's own resources of a kind: what the template and what the service
    /// call each.
    async fn resources_of_kind(&self, kind: &str) -> Result<Vec<(String, String)>, DeployError> {
        let mut found = Vec::new();
        let mut pages = self
            .client
            .list_stack_resources()
            .stack_name(&self.stack)
            .into_paginator()
            .items()
            .send();
        while let Some(resource) = pages.next().await {
            let resource = resource.map_err(|error| {
                DeployError::service(format!("list what stack {} has", self.stack), &error)
            })?;
            if resource.resource_type() == Some(kind) {
                let named = |name: Option<&str>| name.unwrap_or_default().to_owned();
                let physical_id = named(resource.physical_resource_id());
                found.push((named(resource.logical_resource_id()), physical_id));
            }
        }
        Ok(found)
    }

    /// The names of all schedules in the stack's groups.
    async fn schedules(&self) -> Result<BTreeSet<String>, DeployError> {
        let mut names = BTreeSet::new();
        for (_, group) in self
            .resources_of_kind("AWS::Scheduler::ScheduleGroup")
            .await?
        {
            let mut pages = self
                .scheduler
                .list_schedules()
                .group_name(&group)
                .into_paginator()
                .items()
                .send();
            while let Some(schedule) = pages.next().await {
                let schedule = schedule.map_err(|error| DeployError::Service {
                    what: format!("list the schedules of {group}"),
                    why: explain(&error),
                })?;
                names.extend(schedule.name);
            }
        }
        Ok(names)
    }
}
