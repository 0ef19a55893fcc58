//! A stack into an account: preflight, upload, change set, progress, secrets.
//! Nothing is changed before [`Deployment::execute`] but the assets bucket,
//! and what is put there is content-addressed.

mod change_set;
mod drift;
mod error;
mod health;
mod history;
mod key;
mod parameters;
mod quotas;
mod repair;
mod versions;

pub use drift::Drift;
pub use error::{DeployError, MAX_STACK_NAME, check_name};
pub use history::{Record, Version};
pub use repair::Repair;
pub use versions::open_runs;

use crate::assets::{Bucket, bucket_name};
use crate::events::{self, Progress, explain};
use crate::images;
use crate::secrets::{Values, lacking};
use crate::stack::{Asset, Needs, Stack};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_cloudformation::types::{ChangeSetType, Parameter, Stack as Described};
use loopy_aws::endpoint::function_url;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{Manifest, SensorTrigger};
use std::collections::BTreeMap;

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
    lambda: aws_sdk_lambda::Client,
    kms: aws_sdk_kms::Client,
    scheduler: aws_sdk_scheduler::Client,
    images: images::Clients,
    stack: String,
    account: String,
    /// Who deploys, as AWS knows them.
    caller: String,
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
            lambda: aws_sdk_lambda::Client::new(config),
            kms: aws_sdk_kms::Client::new(config),
            scheduler: aws_sdk_scheduler::Client::new(config),
            images: images::Clients::new(config),
            stack: stack.to_owned(),
            account: account.to_owned(),
            caller: identity.arn().unwrap_or_default().to_owned(),
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
    /// change. `given` are values of the template's parameters.
    ///
    /// # Errors
    /// [`DeployError`]: a stack that cannot be updated, a bucket that cannot be
    /// used, a template that was refused.
    pub async fn plan(
        &self,
        template: &str,
        given: &BTreeMap<String, String>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Plan, DeployError> {
        let names = parameters::names(template)?;
        parameters::check(&names, given)?;
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

        let standing = current.as_ref().filter(|_| !is_new);
        let had = standing.map(parameters::given);
        match &had {
            Some(had) => parameters::lasting(had, given)?,
            None => parameters::check_prefix(&self.stack, given)?,
        }
        let mut given = given.clone();
        quotas::keep_within(&self.lambda, had.as_ref(), &mut given).await?;
        let key = given.get("KmsKey").or_else(|| had.as_ref()?.get("KmsKey"));
        if let Some(key) = key.filter(|key| !key.is_empty())
            && let Some(doubt) = key::check(&self.kms, key).await?
        {
            progress(Progress::Doubt { what: doubt });
        }

        let bucket_name = self.bucket_of(current.as_ref());
        let bucket = self.bucket(&bucket_name);
        bucket.ensure(&self.region, progress).await?;
        let key = history::template_key(template);
        bucket
            .upload(
                &Asset {
                    key: key.clone(),
                    bytes: template.as_bytes().to_vec(),
                },
                progress,
            )
            .await?;

        let name = format!("loopy-{}", &sha256_hex(template.as_bytes())[..32]);
        let url = self.object_url(&bucket_name, &key);
        let kind = if is_new {
            ChangeSetType::Create
        } else {
            ChangeSetType::Update
        };
        given.insert(parameters::BUCKET.to_owned(), bucket_name);
        let parameters = parameters::all(&names, current.as_ref(), &given);
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

    /// Uploads the assets and carries the plan out, to its end. Going back to what the
    /// bucket has still, there are none.
    ///
    /// # Errors
    /// [`DeployError::Failed`] with the reason of each resource that failed;
    /// CloudFormation has then undone the change.
    pub async fn execute(
        &self,
        plan: &Plan,
        assets: &[Asset],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        let Some(change_set) = &plan.change_set else {
            return Ok(());
        };
        let current = self.describe().await?;
        let bucket_name = self.bucket_of(current.as_ref());
        let bucket = self.bucket(&bucket_name);
        for asset in assets {
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

    /// What the stack's secrets lack of what the project needs, a sentence each.
    ///
    /// # Errors
    /// [`DeployError::Secrets`] when a secret cannot be read.
    pub async fn lacking_secrets(&self, needs: &Needs) -> Result<Vec<String>, DeployError> {
        let described = self
            .describe()
            .await?
            .ok_or_else(|| DeployError::NoStack(self.stack.clone()))?;
        Ok(lacking(&self.secrets, needs, &outputs(&described)).await?)
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
                    .find(|p| p.parameter_key() == Some(parameters::BUCKET))
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
}

/// A stack's outputs by name.
pub(crate) fn outputs(stack: &Described) -> BTreeMap<String, String> {
    let outputs = stack.outputs().iter();
    outputs
        .filter_map(|o| Some((o.output_key()?.to_owned(), o.output_value()?.to_owned())))
        .collect()
}

/// The stack with this name; a deleted one is none.
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
