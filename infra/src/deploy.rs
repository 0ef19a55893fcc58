//! A stack into an account: preflight, upload, change set, progress, secrets.
//! Nothing is changed before [`Deployment::execute`] but the assets bucket,
//! and what is put there is content-addressed.

use crate::assets::{AssetsError, Bucket, bucket_name};
use crate::events::{self, Progress, explain};
use crate::images;
use crate::secrets::{SecretsError, Values};
use crate::stack::{Asset, Stack};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_cloudformation::types::{
    Capability, ChangeSetStatus, ChangeSetType, Parameter, Replacement, Stack as Described, Tag,
};
use loopy_aws::endpoint::function_url;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{Manifest, SensorTrigger};
use loopy_engine::ports::PortError;
use std::collections::BTreeMap;

/// The longest stack name: the schedule group, which takes 64 characters, has
/// the same name.
pub const MAX_STACK_NAME: usize = 58;

/// A deployment that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Not a name for a stack.
    #[error(
        "`{0}` is not a stack name; use a letter, then letters, digits and hyphens, at most {MAX_STACK_NAME}"
    )]
    StackName(String),
    /// The sensors' functions, or what is known of them, cannot be reached.
    #[error("cannot tell whether the sensors can be loaded: {0}")]
    Sensors(PortError),
    /// The credentials do not work, or the endpoint does not answer.
    #[error("cannot reach the AWS account: {0}")]
    Account(String),
    /// The stack cannot be updated as it stands.
    #[error("stack {stack} is {status}")]
    Status {
        /// The stack's name.
        stack: String,
        /// Its status.
        status: String,
    },
    /// There is no such stack.
    #[error("there is no stack {0} in this account and region")]
    NoStack(String),
    /// The stack is not one of Loopy's.
    #[error("stack {stack} has no output {output}, so it is not one that Loopy made")]
    NotOurs {
        /// The stack's name.
        stack: String,
        /// What it lacks.
        output: &'static str,
    },
    /// The assets bucket cannot be used.
    #[error(transparent)]
    Assets(#[from] AssetsError),
    /// CloudFormation refused a call.
    #[error("cannot {what}: {why}")]
    Service {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
    },
    /// The change was tried and rolled back.
    #[error("stack {stack} ended {status}:\n{}", reasons.iter().map(|r| format!("  {r}")).collect::<Vec<_>>().join("\n"))]
    Failed {
        /// The stack's name.
        stack: String,
        /// Its status.
        status: String,
        /// The resources that failed, with the reason of each.
        reasons: Vec<String>,
    },
    /// An image of a sandbox cannot be had.
    #[error("there is no image for sandbox {sandboxes}: {why}")]
    Image {
        /// The sandboxes that are made from it.
        sandboxes: String,
        /// Why not.
        why: String,
    },
    /// The stack stands, its secrets do not.
    #[error("the stack is deployed, but {0}")]
    Secrets(#[from] SecretsError),
}

impl DeployError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Account(_) => Some(
                "log in, or name a --profile; `aws sts get-caller-identity` shows what works"
                    .to_owned(),
            ),
            Self::Status { stack, status } => Some(match status.as_str() {
                "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" | "DELETE_FAILED" => {
                    format!(
                        "it was never completed or half deleted, and cannot be updated: run \
                         `loopy destroy --stack {stack}`, then deploy again"
                    )
                }
                "UPDATE_ROLLBACK_FAILED" => format!(
                    "its last update could not be undone: run `aws cloudformation \
                     continue-update-rollback --stack-name {stack}`, then deploy again"
                ),
                "UPDATE_FAILED" => format!(
                    "its last update stopped half-way: run `aws cloudformation rollback-stack \
                     --stack-name {stack}`, then deploy again"
                ),
                _ => "somebody is changing it; try again when that is over".to_owned(),
            }),
            Self::Failed { status, stack, .. } if status == "ROLLBACK_COMPLETE" => Some(format!(
                "mend the cause, run `loopy destroy --stack {stack}`, then deploy again"
            )),
            Self::Failed { .. } => Some("mend the cause, then deploy again".to_owned()),
            Self::Image { .. } => {
                Some("mend the cause, then deploy again; --images says who builds it".to_owned())
            }
            Self::Secrets(_) => Some("mend the cause, then deploy again".to_owned()),
            _ => None,
        }
    }

    pub(crate) fn service<E, R>(
        what: impl Into<String>,
        error: &aws_sdk_cloudformation::error::SdkError<E, R>,
    ) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        Self::Service {
            what: what.into(),
            why: explain(error),
        }
    }
}

/// What would be done to one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `Add`, `Modify` or `Remove`.
    pub action: String,
    /// Its name in the template.
    pub logical_id: String,
    /// `AWS::SQS::Queue` and so on.
    pub kind: String,
    /// Whether a modified resource is made anew, as far as is known before.
    pub replaced: Option<bool>,
}

/// What a deployment would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether the stack would be created.
    pub is_new: bool,
    /// Each resource that would be touched.
    pub changes: Vec<Change>,
    /// The change set; none when the stack is as it should be.
    change_set: Option<ChangeSet>,
}

#[derive(Clone, Debug)]
struct ChangeSet {
    id: String,
    stack_id: String,
}

impl Plan {
    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        self.change_set.is_none()
    }
}

/// A stack that stands.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// The stack's outputs by name.
    pub outputs: BTreeMap<String, String>,
    /// Where each webhook sensor's deliveries go: sensor and URL.
    pub webhooks: Vec<(String, String)>,
}

/// One stack in one account, and the way there.
pub struct Deployment {
    client: Client,
    s3: aws_sdk_s3::Client,
    secrets: aws_sdk_secretsmanager::Client,
    images: images::Clients,
    stack: String,
    account: String,
    region: String,
    endpoint: Option<String>,
}

impl Deployment {
    /// Checks the name and that the credentials work.
    ///
    /// # Errors
    /// [`DeployError::StackName`] and [`DeployError::Account`].
    pub async fn connect(config: &SdkConfig, stack: &str) -> Result<Self, DeployError> {
        check_name(stack)?;
        let identity = aws_sdk_sts::Client::new(config)
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| DeployError::Account(explain(&error)))?;
        let account = identity
            .account()
            .ok_or_else(|| DeployError::Account("STS names no account".to_owned()))?;
        let region = config
            .region()
            .ok_or_else(|| DeployError::Account("no region is configured".to_owned()))?;
        Ok(Self {
            client: Client::new(config),
            s3: loopy_aws::config::s3_client(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            images: images::Clients::new(config),
            stack: stack.to_owned(),
            account: account.to_owned(),
            region: region.to_string(),
            endpoint: config.endpoint_url().map(str::to_owned),
        })
    }

    /// The account that is deployed to.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The region that is deployed to.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Uploads the template and has CloudFormation work out what it would
    /// change.
    ///
    /// # Errors
    /// [`DeployError`]: a stack that cannot be updated, a bucket that cannot be
    /// used, a template that was refused.
    pub async fn plan(
        &self,
        stack: &Stack,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Plan, DeployError> {
        let current = self.describe().await?;
        let status = current
            .as_ref()
            .and_then(Described::stack_status)
            .map(|s| s.as_str());
        let is_new = matches!(status, None | Some("REVIEW_IN_PROGRESS"));
        let updatable = status.is_some_and(|status| {
            status.ends_with("_COMPLETE")
                && !matches!(status, "ROLLBACK_COMPLETE" | "DELETE_COMPLETE")
        });
        if !is_new && !updatable {
            return Err(DeployError::Status {
                stack: self.stack.clone(),
                status: status.unwrap_or_default().to_owned(),
            });
        }

        let bucket_name = self.bucket_of(current.as_ref());
        let bucket = self.bucket(&bucket_name);
        bucket.ensure(&self.region, progress).await?;
        let bytes = stack.template.clone().into_bytes();
        let hash = sha256_hex(&bytes);
        let key = format!("templates/{hash}.yaml");
        bucket
            .upload(
                &Asset {
                    key: key.clone(),
                    bytes,
                },
                progress,
            )
            .await?;

        let name = format!("loopy-{}", &hash[..32]);
        let url = self.object_url(&bucket_name, &key);
        let kind = if is_new {
            ChangeSetType::Create
        } else {
            ChangeSetType::Update
        };
        let parameters = parameters(stack, current.as_ref(), &bucket_name);
        self.create_change_set(&name, &url, kind, parameters, is_new)
            .await
    }

    /// Takes the plan back: nothing of it remains.
    ///
    /// # Errors
    /// [`DeployError::Service`] when CloudFormation refuses.
    pub async fn discard(&self, plan: &Plan) -> Result<(), DeployError> {
        let Some(change_set) = &plan.change_set else {
            return Ok(());
        };
        self.delete_change_set(&change_set.id).await?;
        if plan.is_new {
            // The change set left an empty stack behind, under review.
            self.client
                .delete_stack()
                .stack_name(&change_set.stack_id)
                .send()
                .await
                .map_err(|error| {
                    DeployError::service(format!("remove empty stack {}", self.stack), &error)
                })?;
        }
        Ok(())
    }

    /// Uploads the assets and carries the plan out, to its end.
    ///
    /// # Errors
    /// [`DeployError::Failed`] with the reason of each resource that failed;
    /// CloudFormation has then undone the change.
    pub async fn execute(
        &self,
        plan: &Plan,
        stack: &Stack,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        let Some(change_set) = &plan.change_set else {
            return Ok(());
        };
        let current = self.describe().await?;
        let bucket_name = self.bucket_of(current.as_ref());
        let bucket = self.bucket(&bucket_name);
        for asset in &stack.assets {
            bucket.upload(asset, progress).await?;
        }
        let seen = events::newest(&self.client, &change_set.stack_id).await;
        self.client
            .execute_change_set()
            .change_set_name(&change_set.id)
            // A creation that fails leaves no empty table behind.
            .retain_except_on_create(true)
            .send()
            .await
            .map_err(|error| {
                DeployError::service(format!("change stack {}", self.stack), &error)
            })?;
        let ended = events::follow(&self.client, &change_set.stack_id, seen, progress)
            .await
            .map_err(|why| DeployError::Service {
                what: format!("follow stack {}", self.stack),
                why,
            })?;
        if matches!(ended.status.as_str(), "CREATE_COMPLETE" | "UPDATE_COMPLETE") {
            return Ok(());
        }
        Err(DeployError::Failed {
            stack: self.stack.clone(),
            status: ended.status,
            reasons: ended.failures,
        })
    }

    /// Brings the stack's secrets up to date and says where deliveries go.
    ///
    /// # Errors
    /// [`DeployError::Secrets`] when a value could not be stored.
    pub async fn finish(
        &self,
        stack: &Stack,
        manifest: &Manifest,
        values: &Values,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Deployed, DeployError> {
        let described = self
            .describe()
            .await?
            .ok_or_else(|| DeployError::NoStack(self.stack.clone()))?;
        let outputs = outputs(&described);
        for secret in values
            .store(&self.secrets, &stack.secrets, &outputs)
            .await?
        {
            progress(Progress::SecretStored {
                logical_id: secret.to_owned(),
            });
        }
        let base = outputs
            .get("WebhookUrl")
            .map(String::as_str)
            .unwrap_or_default();
        let base = function_url(base, self.endpoint.as_deref());
        let webhooks = manifest
            .sensors
            .iter()
            .filter_map(|sensor| match &sensor.trigger {
                SensorTrigger::Webhook { path, .. } => Some((
                    sensor.name.clone(),
                    format!("{}{path}", base.trim_end_matches('/')),
                )),
                SensorTrigger::Poll { .. } => None,
            })
            .collect();
        Ok(Deployed { outputs, webhooks })
    }

    /// What images need.
    pub(crate) fn images(&self) -> &images::Clients {
        &self.images
    }

    /// The outputs of the stack as it stands, none while there is no stack, and the
    /// bucket with its assets.
    pub(crate) async fn standing(&self) -> Result<(BTreeMap<String, String>, String), DeployError> {
        let described = self.describe().await?;
        let outputs = described.as_ref().map(outputs).unwrap_or_default();
        Ok((outputs, self.bucket_of(described.as_ref())))
    }

    async fn describe(&self) -> Result<Option<Described>, DeployError> {
        describe(&self.client, &self.stack).await
    }

    pub(crate) fn bucket<'a>(&'a self, name: &'a str) -> Bucket<'a> {
        Bucket {
            client: &self.s3,
            name,
            account: &self.account,
        }
    }

    /// The bucket the stack has, as the manifests of its runs are there; a new
    /// stack gets the account's.
    fn bucket_of(&self, current: Option<&Described>) -> String {
        current
            .and_then(|stack| {
                stack
                    .parameters()
                    .iter()
                    .find(|p| p.parameter_key() == Some("AssetsBucket"))
            })
            .and_then(Parameter::parameter_value)
            .map_or_else(|| bucket_name(&self.account, &self.region), str::to_owned)
    }

    fn object_url(&self, bucket: &str, key: &str) -> String {
        match &self.endpoint {
            Some(endpoint) if !endpoint.contains(".amazonaws.com") => {
                format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/'))
            }
            _ => {
                let suffix = if self.region.starts_with("cn-") {
                    "amazonaws.com.cn"
                } else {
                    "amazonaws.com"
                };
                format!("https://{bucket}.s3.{}.{suffix}/{key}", self.region)
            }
        }
    }

    async fn create_change_set(
        &self,
        name: &str,
        template_url: &str,
        kind: ChangeSetType,
        parameters: Vec<Parameter>,
        is_new: bool,
    ) -> Result<Plan, DeployError> {
        let what = || format!("plan the change of stack {}", self.stack);
        let request = self
            .client
            .create_change_set()
            .stack_name(&self.stack)
            .change_set_name(name)
            .change_set_type(kind)
            .template_url(template_url)
            .capabilities(Capability::CapabilityIam)
            .set_parameters(Some(parameters))
            .tags(
                Tag::builder()
                    .key("loopy:project")
                    .value(&self.stack)
                    .build(),
            );
        let mut created = request.clone().send().await;
        // One that an interrupted deployment left behind.
        if created.as_ref().is_err_and(|error| {
            error
                .as_service_error()
                .is_some_and(|e| e.is_already_exists_exception())
        }) {
            self.delete_change_set_named(name).await?;
            created = request.send().await;
        }
        let created = created.map_err(|error| DeployError::service(what(), &error))?;
        let fault = |missing: &str| DeployError::Service {
            what: what(),
            why: format!("the answer has no {missing}"),
        };
        let id = created
            .id()
            .ok_or_else(|| fault("change set id"))?
            .to_owned();
        let stack_id = created
            .stack_id()
            .ok_or_else(|| fault("stack id"))?
            .to_owned();
        let change_set = ChangeSet { id, stack_id };

        for pause in events::pauses() {
            tokio::time::sleep(pause).await;
            let described = self
                .client
                .describe_change_set()
                .change_set_name(&change_set.id)
                .send()
                .await
                .map_err(|error| DeployError::service(what(), &error))?;
            match described.status() {
                Some(ChangeSetStatus::CreateComplete) => break,
                Some(ChangeSetStatus::Failed) => {
                    let reason = described.status_reason().unwrap_or("no reason was given");
                    let plan = Plan {
                        is_new,
                        changes: Vec::new(),
                        change_set: Some(change_set.clone()),
                    };
                    self.discard(&plan).await?;
                    if says_no_change(reason) {
                        return Ok(Plan {
                            change_set: None,
                            ..plan
                        });
                    }
                    return Err(DeployError::Service {
                        what: what(),
                        why: reason.to_owned(),
                    });
                }
                _ => {}
            }
        }
        let changes = self.changes(&change_set.id).await?;
        Ok(Plan {
            is_new,
            changes,
            change_set: Some(change_set),
        })
    }

    async fn changes(&self, id: &str) -> Result<Vec<Change>, DeployError> {
        let mut changes = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .client
                .describe_change_set()
                .change_set_name(id)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| DeployError::service("read the planned change", &error))?;
            for change in page
                .changes()
                .iter()
                .filter_map(|change| change.resource_change())
            {
                changes.push(Change {
                    action: change
                        .action()
                        .map_or("", |action| action.as_str())
                        .to_owned(),
                    logical_id: change.logical_resource_id().unwrap_or_default().to_owned(),
                    kind: change.resource_type().unwrap_or_default().to_owned(),
                    replaced: match change.replacement() {
                        Some(Replacement::True) => Some(true),
                        Some(Replacement::False) => Some(false),
                        _ => None,
                    },
                });
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(changes);
            }
        }
    }

    async fn delete_change_set(&self, id: &str) -> Result<(), DeployError> {
        self.client
            .delete_change_set()
            .change_set_name(id)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| DeployError::service("take back the planned change", &error))
    }

    async fn delete_change_set_named(&self, name: &str) -> Result<(), DeployError> {
        self.client
            .delete_change_set()
            .stack_name(&self.stack)
            .change_set_name(name)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| DeployError::service("take back an older planned change", &error))
    }
}

/// Whether a stack can have this name.
///
/// # Errors
/// [`DeployError::StackName`].
pub fn check_name(stack: &str) -> Result<(), DeployError> {
    let fits = stack.len() <= MAX_STACK_NAME
        && stack.starts_with(|c: char| c.is_ascii_alphabetic())
        && stack.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fits {
        Ok(())
    } else {
        Err(DeployError::StackName(stack.to_owned()))
    }
}

/// The stack with this name; a deleted one is none.
/// A stack's outputs by name.
pub(crate) fn outputs(stack: &Described) -> BTreeMap<String, String> {
    let outputs = stack.outputs().iter();
    outputs
        .filter_map(|o| Some((o.output_key()?.to_owned(), o.output_value()?.to_owned())))
        .collect()
}

pub(crate) async fn describe(
    client: &Client,
    stack: &str,
) -> Result<Option<Described>, DeployError> {
    match client.describe_stacks().stack_name(stack).send().await {
        Ok(found) => Ok(found
            .stacks()
            .first()
            .filter(|stack| {
                stack
                    .stack_status()
                    .is_none_or(|s| s.as_str() != "DELETE_COMPLETE")
            })
            .cloned()),
        // CloudFormation has no error of its own for this.
        Err(error)
            if error.as_service_error().is_some_and(|e| {
                e.code() == Some("ValidationError")
                    && e.message().is_some_and(|m| m.contains("does not exist"))
            }) =>
        {
            Ok(None)
        }
        Err(error) => Err(DeployError::service(
            format!("look at stack {stack}"),
            &error,
        )),
    }
}

/// The bucket, and whatever else the stack has been given before.
fn parameters(stack: &Stack, current: Option<&Described>, bucket: &str) -> Vec<Parameter> {
    let had = |name: &str| {
        current.is_some_and(|c| {
            c.parameters()
                .iter()
                .any(|p| p.parameter_key() == Some(name))
        })
    };
    stack
        .parameters
        .iter()
        .filter_map(|name| {
            let parameter = Parameter::builder().parameter_key(name);
            if name == "AssetsBucket" {
                Some(parameter.parameter_value(bucket).build())
            } else if had(name) {
                Some(parameter.use_previous_value(true).build())
            } else {
                None
            }
        })
        .collect()
}

fn says_no_change(reason: &str) -> bool {
    reason.contains("didn't contain changes") || reason.contains("No updates are to be performed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_stack_can_have() {
        for name in ["a", "My-Project-2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "2x", "a_b", "a.b", "ä", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_stack_that_never_stood_has_to_go_first() {
        let error = DeployError::Status {
            stack: "pr".to_owned(),
            status: "ROLLBACK_COMPLETE".to_owned(),
        };
        assert_eq!(error.to_string(), "stack pr is ROLLBACK_COMPLETE");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("loopy destroy --stack pr"))
        );
    }
}
