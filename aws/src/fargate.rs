//! The provider `fargate`: the runner in a task of the account that the engine runs
//! in. The stack has a task definition for each sandbox, whose image has the runner
//! as its program, so a launch is one `RunTask`.
//!
//! # Once, whoever asks again
//!
//! A launch has the attempt's client token, under which ECS starts one task and no
//! second one; when the stack was changed in between, ECS says that the token is
//! taken, and that is a launch that happened. The token is the task's `startedBy`
//! too, by which it is stopped and looked after.
//!
//! # Who may look
//!
//! Whoever may describe tasks sees what they were started with, so the attempt's
//! token is sealed ([`loopy_contract::seal`]) with a key that only the stack's
//! functions and, as a secret by reference, its tasks have. A task has no role: it
//! can ask nothing of the account.
//!
//! # When a task ends
//!
//! ECS says so on the account's bus, and a rule of the stack puts it into the watch
//! queue ([`ended`]). A task whose engine forgot it ends by itself: its runner knows
//! the attempt's limit.

use crate::error::failed;
use crate::secrets::SecretsManager;
use async_trait::async_trait;
use aws_sdk_ecs::Client;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::operation::run_task::RunTaskError;
use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, ContainerOverride, KeyValuePair, LaunchType,
    NetworkConfiguration, TaskOverride,
};
use loopy_contract::ids::{RunId, derive};
use loopy_contract::report::launch_env;
use loopy_contract::seal;
use loopy_engine::message::Message;
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The container of a task definition that the runner is in.
pub const CONTAINER: &str = "sandbox";

/// Where tasks run. The stack's template writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// ARN of the cluster.
    pub cluster: String,
    /// What the names of the task definitions begin with; [`task_name`] follows.
    pub prefix: String,
    /// The subnets.
    pub subnets: Vec<String>,
    /// The security group of sandboxes without `network`.
    pub group: String,
    /// The security groups of the others, by the sandbox's name.
    pub groups: BTreeMap<String, String>,
    /// ARN of the secret with the key that tokens are sealed with.
    pub key: String,
}

/// A sandbox's part of the name of its task definition, in which ECS takes letters,
/// digits, `-` and `_`. Two sandboxes never share one.
pub fn task_name(sandbox: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if sandbox.chars().all(fits) && sandbox.len() <= 128 {
        return sandbox.to_owned();
    }
    format!("x-{}", derive(&["task definition", sandbox], 24))
}

/// The provider.
pub struct Fargate {
    client: Client,
    secrets: Arc<SecretsManager>,
    place: Place,
    report_url: String,
}

impl Fargate {
    /// A provider whose runners report to `report_url`. Calls no service.
    pub fn new(
        client: Client,
        secrets: Arc<SecretsManager>,
        place: Place,
        report_url: String,
    ) -> Self {
        Self {
            client,
            secrets,
            place,
            report_url,
        }
    }

    /// What the container's variables are, beside those of its definition.
    async fn variables(&self, spec: &LaunchSpec) -> Result<Vec<KeyValuePair>, LaunchError> {
        let key = self.secrets.text(&self.place.key).await?;
        let (run, step, attempt) = (spec.run.as_str(), spec.step.as_str(), spec.attempt);
        let token = seal::turn(key.as_bytes(), run, step, attempt, &spec.token)
            .ok_or_else(|| PortError::new("seal the attempt's token", "it is no token"))?;
        Ok([
            (launch_env::REPORT_URL, self.report_url.clone()),
            (launch_env::TOKEN, token),
            (launch_env::RUN, run.to_owned()),
            (launch_env::STEP, step.to_owned()),
            (launch_env::ATTEMPT, attempt.to_string()),
        ]
        .map(|(name, value)| KeyValuePair::builder().name(name).value(value).build())
        .to_vec())
    }

    fn network(&self, spec: &LaunchSpec) -> Result<NetworkConfiguration, LaunchError> {
        let group = match self.place.groups.get(&spec.name) {
            Some(group) => group,
            None if spec.sandbox.network.is_empty() => &self.place.group,
            // It had no list when the stack was deployed last.
            None => {
                return Err(LaunchError::Refused(format!(
                    "sandbox `{}` has `network`, and the stack has no security group for it; deploy again",
                    spec.name
                )));
            }
        };
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.place.subnets.clone()))
            .security_groups(group)
            // There is no other way out of the stack's subnets.
            .assign_public_ip(AssignPublicIp::Enabled)
            .build()
            .map_err(|error| PortError::new("put the network's settings together", error))?;
        Ok(NetworkConfiguration::builder()
            .awsvpc_configuration(vpc)
            .build())
    }

    /// The tasks of this name that are not over.
    async fn tasks(&self, id: &str) -> Result<Vec<String>, PortError> {
        let listed = self
            .client
            .list_tasks()
            .cluster(&self.place.cluster)
            .started_by(id)
            .send()
            .await
            .map_err(|error| failed(format!("look for task {id}"), &error))?;
        Ok(listed.task_arns.unwrap_or_default())
    }
}

#[async_trait]
impl Sandboxes for Fargate {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let container = ContainerOverride::builder()
            .name(CONTAINER)
            .set_environment(Some(self.variables(spec).await?))
            .build();
        let answer = self
            .client
            .run_task()
            .cluster(&self.place.cluster)
            .task_definition(format!("{}{}", self.place.prefix, task_name(&spec.name)))
            .client_token(&spec.client_token)
            .started_by(&spec.client_token)
            .launch_type(LaunchType::Fargate)
            .network_configuration(self.network(spec)?)
            .overrides(
                TaskOverride::builder()
                    .container_overrides(container)
                    .build(),
            )
            .count(1)
            .send()
            .await;
        let what = format!("start a task for sandbox `{}`", spec.name);
        match answer {
            Ok(started) if !started.tasks().is_empty() => Ok(Launch::Started),
            Ok(nothing) => {
                let why = nothing.failures().iter().map(|failure| {
                    let reason = failure.reason().unwrap_or("no reason given");
                    failure
                        .detail()
                        .map_or_else(|| reason.to_owned(), |more| format!("{reason} ({more})"))
                });
                Err(PortError::new(what, why.collect::<Vec<_>>().join("; ")).into())
            }
            // Started before, with what the stack said then.
            Err(error) if is(&error, RunTaskError::is_conflict_exception) => Ok(Launch::Started),
            Err(error) if will_never_do(&error) => {
                Err(LaunchError::Refused(failed(what, &error).to_string()))
            }
            Err(error) => Err(failed(what, &error).into()),
        }
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        for task in self.tasks(&sandbox.id).await? {
            self.client
                .stop_task()
                .cluster(&self.place.cluster)
                .task(&task)
                .reason("the attempt is over")
                .send()
                .await
                .map_err(|error| failed(format!("stop task {task}"), &error))?;
        }
        Ok(())
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        Ok(if self.tasks(&sandbox.id).await?.is_empty() {
            SandboxState::Gone
        } else {
            SandboxState::Alive
        })
    }
}

fn is<R>(error: &SdkError<RunTaskError, R>, kind: fn(&RunTaskError) -> bool) -> bool {
    error.as_service_error().is_some_and(kind)
}

/// Whether trying again cannot help. ECS says with the same kind of error that a
/// request is wrong and that the account has no room left at the moment.
fn will_never_do<R>(error: &SdkError<RunTaskError, R>) -> bool {
    let Some(said) = error.as_service_error() else {
        return false;
    };
    let no_room = said.message().is_some_and(|message| {
        let message = message.to_ascii_lowercase();
        message.contains("limit") || message.contains("capacity")
    });
    let wrong = said.is_access_denied_exception()
        || said.is_blocked_exception()
        || said.is_client_exception()
        || said.is_cluster_not_found_exception()
        || said.is_invalid_parameter_exception()
        || said.is_platform_task_definition_incompatibility_exception()
        || said.is_platform_unknown_exception()
        || said.is_unsupported_feature_exception();
    wrong && !no_room
}

/// The message that a queue's body stands for when ECS says in it that a task of a
/// sandbox is over; `None` when it is something else.
pub fn ended(body: &str) -> Option<Message> {
    let event: TaskEvent = serde_json::from_str(body).ok()?;
    if event.source != "aws.ecs" || event.detail.last_status != "STOPPED" {
        return None;
    }
    let mut variables = event
        .detail
        .overrides
        .containers
        .into_iter()
        .find(|container| container.name == CONTAINER)?
        .environment
        .into_iter()
        .map(|variable| (variable.name, variable.value))
        .collect::<BTreeMap<_, _>>();
    let mut why = event.detail.reason.unwrap_or_default();
    for container in event.detail.containers {
        if let Some(code) = container.exit_code {
            why.push_str(&format!(" (exit code {code})"));
        }
        if let Some(reason) = container.reason {
            why.push_str(&format!(": {reason}"));
        }
    }
    Some(Message::Ended {
        run: RunId(variables.remove(launch_env::RUN)?),
        step: variables.remove(launch_env::STEP)?,
        attempt: variables.remove(launch_env::ATTEMPT)?.parse().ok()?,
        why,
    })
}

/// `ECS Task State Change`, as far as it is needed.
#[derive(Deserialize)]
struct TaskEvent {
    source: String,
    detail: TaskDetail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskDetail {
    last_status: String,
    #[serde(rename = "stoppedReason")]
    reason: Option<String>,
    #[serde(default)]
    containers: Vec<Container>,
    overrides: Overrides,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    exit_code: Option<i32>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Overrides {
    #[serde(default, rename = "containerOverrides")]
    containers: Vec<Overridden>,
}

#[derive(Deserialize)]
struct Overridden {
    name: String,
    #[serde(default)]
    environment: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn event(status: &str, containers: Value) -> String {
        let variable = |name: &str, value: &str| json!({"name": name, "value": value});
        json!({
            "version": "0", "source": "aws.ecs", "detail-type": "ECS Task State Change",
            "detail": {
                "clusterArn": "arn:aws:ecs:eu-west-1:1:cluster/c", "lastStatus": status,
                "stopCode": "EssentialContainerExited",
                "stoppedReason": "Essential container in task exited", "containers": containers,
                "overrides": {"containerOverrides": [{"name": CONTAINER, "environment": [
                    variable("LOOPY_RUN_ID", "review-1"), variable("LOOPY_STEP", "read"),
                    variable("LOOPY_ATTEMPT", "2"), variable("LOOPY_TOKEN", "sealed"),
                ]}]},
            },
        })
        .to_string()
    }

    #[test]
    fn the_end_of_a_task_names_its_attempt_and_why() {
        let killed = json!([{"name": CONTAINER, "exitCode": 137, "reason": "OutOfMemoryError"}]);
        assert_eq!(
            ended(&event("STOPPED", killed)).unwrap(),
            Message::Ended {
                run: RunId::from("review-1"),
                step: "read".to_owned(),
                attempt: 2,
                why: "Essential container in task exited (exit code 137): OutOfMemoryError"
                    .to_owned(),
            }
        );
        assert_eq!(ended(&event("RUNNING", json!([]))), None);
        assert_eq!(
            ended(r#"{"kind":"handoff","run":"a","step":"b","attempt":1}"#),
            None
        );
        assert_eq!(ended("no JSON"), None);
    }

    #[test]
    fn a_task_definition_is_named_in_letters_that_ecs_takes() {
        assert_eq!(task_name("Box_1-a"), "Box_1-a");
        let (a, b) = (task_name("kä"), task_name("kö"));
        assert!(a != b && a.starts_with("x-") && a.is_ascii(), "{a} {b}");
    }
}
