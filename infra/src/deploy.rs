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
pub mod stranded;
mod values;
mod versions;

pub use drift::Drift;
pub use error::{DeployError, MAX_STACK_NAME, check_name};
pub use history::{Record, Version};
pub use repair::Repair;
pub(crate) use repair::is_ours;
pub use versions::{OpenRuns, open_runs};

use crate::assets::{Bucket, bucket_name};
use crate::events::{self, Progress, explain};
use crate::images;
use crate::stack::{Asset, Stack};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_cloudformation::types::{ChangeSetType, Parameter, Stack as Described};
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::Manifest;
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
        let mut plan = self
            .create_change_set(&name, &url, kind, parameters, is_new)
            .await?;
        // Stacks inside the stack are listed whether they change or not. Where nothing
        // else is, and template and parameters are those it has, nothing does.
        if plan.changes.is_empty()
            && !plan.is_empty()
            && let Some(current) = &current
            && parameters::has(current, &given)
            && self
                .deployed()
                .await?
                .is_some_and(|version| version.template == template)
        {
            self.discard(&plan).await?;
            plan.change_set = None;
        }
        Ok(plan)
    }

    /// Takes the plan back: nothing of it remains. A stack that somebody else has made
    /// meanwhile stays.
    ///
    /// # Errors
    /// [`DeployError::Service`] when CloudFormation refuses.
    pub async fn discard(&self, plan: &Plan) -> Result<(), DeployError> {
        let Some(change_set) = &plan.change_set else {
            return Ok(());
        };
        self.delete_change_set(&change_set.id).await?;
        if plan.is_new && self.is_left_over(&change_set.stack_id).await? {
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

    /// Whether a stack is what a change set leaves behind that was taken back: under
    /// review, and nobody else has planned anything for it.
    async fn is_left_over(&self, id: &str) -> Result<bool, DeployError> {
        let Some(stack) = describe(&self.client, id).await? else {
            return Ok(false);
        };
        let status = stack.stack_status().map(|status| status.as_str());
        if status != Some("REVIEW_IN_PROGRESS") {
            return Ok(false);
        }
        let others = self
            .client
            .list_change_sets()
            .stack_name(stack.stack_name().unwrap_or(&self.stack))
            .send()
            .await
            .map_err(|error| {
                DeployError::service(format!("look for plans of stack {}", self.stack), &error)
            })?;
        Ok(others.summaries().is_empty())
    }

    /// Writes down what the stack is about to need, uploads it, and carries the plan
    /// out, to its end. Going back to what the bucket has still, there is nothing of it.
    ///
    /// # Errors
    /// [`DeployError::Failed`] with the reason of each resource that failed;
    /// CloudFormation has then undone the change.
    pub async fn execute(
        &self,
        plan: &Plan,
        to: Option<(&Stack, &Manifest)>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        let Some(change_set) = &plan.change_set else {
            return Ok(());
        };
        let current = self.describe().await?;
        let bucket_name = self.bucket_of(current.as_ref());
        let bucket = self.bucket(&bucket_name);
        if let Some((stack, manifest)) = to {
            // Before: who tidies up the bucket meanwhile has to know of it.
            self.announce(stack, manifest).await?;
            for asset in &stack.assets {
                bucket.upload(asset, progress).await?;
            }
        }
        let seen = events::newest(&self.client, &change_set.stack_id)
            .await
            .map_err(|why| DeployError::Service {
                what: format!("look at stack {}", self.stack),
                why,
            })?;
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

    /// What images need.
    pub(crate) fn images(&self) -> &images::Clients {
        &self.images
    }

    /// What secrets need.
    fn secrets(&self) -> &aws_sdk_secretsmanager::Client {
        &self.secrets
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
