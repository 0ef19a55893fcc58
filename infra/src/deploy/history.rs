//! What a stack is made of now, and what it was made of before: a record of each
//! deployment lies in the assets bucket, beside the templates and manifests it names.

use super::{DeployError, Deployment, outputs, parameters};
use crate::assets::AssetsError;
use crate::stack::{Asset, Stack};
use jiff::Timestamp;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the records of a stack are.
pub(super) fn folder(stack: &str) -> String {
    format!("deployments/{stack}/")
}

/// The key of a template.
pub(super) fn template_key(template: &str) -> String {
    format!("templates/{}.yaml", sha256_hex(template.as_bytes()))
}

/// One deployment that came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was done.
    pub at: Timestamp,
    /// Who did it: the ARN that AWS knows the caller by.
    pub by: String,
    /// The hash of its manifest.
    pub manifest: String,
    /// The key of its template in the assets bucket.
    pub template: String,
    /// The keys of all other assets it needs.
    pub assets: Vec<String>,
}

/// What a stack is made of.
#[derive(Clone, Debug)]
pub struct Version {
    /// The manifest; none when another version of Loopy wrote it.
    pub manifest: Option<Manifest>,
    /// CloudFormation YAML.
    pub template: String,
    /// The values of its parameters; empty for a version that is not deployed, which
    /// goes with those that are.
    pub parameters: BTreeMap<String, String>,
}

impl Version {
    /// Whether this is what a record names.
    pub fn is(&self, record: &Record) -> bool {
        template_key(&self.template) == record.template
    }
}

impl Deployment {
    /// What the stack is made of now; `None` when there is none, or it never stood.
    ///
    /// # Errors
    /// [`DeployError`] when the template or the manifest cannot be had.
    pub async fn deployed(&self) -> Result<Option<Version>, DeployError> {
        let Some(stack) = self.describe().await? else {
            return Ok(None);
        };
        let Some(hash) = outputs(&stack).remove("Manifest") else {
            return Ok(None);
        };
        let template = self
            .client
            .get_template()
            .stack_name(&self.stack)
            .send()
            .await
            .map_err(|error| DeployError::service("read the deployed template", &error))?
            .template_body
            .unwrap_or_default();
        let bucket = self.bucket_of(Some(&stack));
        let key = format!("manifests/{hash}.json");
        let manifest = self.bucket(&bucket).read(&key).await?;
        Ok(Some(Version {
            manifest: manifest.and_then(|bytes| Manifest::from_json(&bytes).ok()),
            template,
            parameters: parameters::given(&stack),
        }))
    }

    /// What a record names.
    ///
    /// # Errors
    /// [`DeployError::Gone`] when the template is no longer in the bucket.
    pub async fn version(&self, record: &Record) -> Result<Version, DeployError> {
        let bucket = self.bucket_of(self.describe().await?.as_ref());
        let bucket = self.bucket(&bucket);
        let gone = |key: &str| DeployError::Gone {
            at: record.at,
            key: key.to_owned(),
        };
        let template = bucket.read(&record.template).await?;
        let template = template.and_then(|bytes| String::from_utf8(bytes).ok());
        let template = template.ok_or_else(|| gone(&record.template))?;
        for key in &record.assets {
            if !bucket.holds(key).await? {
                return Err(gone(key));
            }
        }
        let manifest = bucket
            .read(&format!("manifests/{}.json", record.manifest))
            .await?;
        Ok(Version {
            manifest: manifest.and_then(|bytes| Manifest::from_json(&bytes).ok()),
            template,
            parameters: BTreeMap::new(),
        })
    }

    /// The deployments of this stack, newest first.
    ///
    /// # Errors
    /// [`DeployError::Assets`] when the bucket cannot be read.
    pub async fn history(&self) -> Result<Vec<Record>, DeployError> {
        let bucket = self.bucket_of(self.describe().await?.as_ref());
        let bucket = self.bucket(&bucket);
        let mut records = Vec::new();
        for key in bucket.keys(&folder(&self.stack)).await? {
            if let Some(bytes) = bucket.read(&key).await? {
                let record: Record = serde_json::from_slice(&bytes)
                    .map_err(|error| AssetsError::new(format!("read the record {key}"), error))?;
                records.push(record);
            }
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.at));
        Ok(records)
    }

    /// Writes down that this is what the stack is made of from now on, unless that is
    /// written down: a deployment that was cut off leaves it to the next.
    ///
    /// # Errors
    /// [`DeployError::Assets`] when the bucket cannot be read or written.
    pub async fn record(&self, stack: &Stack, manifest: &Manifest) -> Result<(), DeployError> {
        let history = self.history().await?;
        let newest = history.first();
        if newest.is_some_and(|newest| newest.template == template_key(&stack.template)) {
            return Ok(());
        }
        let record = Record {
            at: Timestamp::now(),
            by: self.caller.clone(),
            manifest: manifest.hash.clone(),
            template: template_key(&stack.template),
            assets: stack.assets.iter().map(|asset| asset.key.clone()).collect(),
        };
        self.keep(&record).await
    }

    /// Writes down that the stack went back to what a record names.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn record_again(&self, record: &Record) -> Result<(), DeployError> {
        let record = Record {
            at: Timestamp::now(),
            by: self.caller.clone(),
            ..record.clone()
        };
        self.keep(&record).await
    }

    async fn keep(&self, record: &Record) -> Result<(), DeployError> {
        let bucket = self.bucket_of(self.describe().await?.as_ref());
        let asset = Asset {
            key: format!("{}{}.json", folder(&self.stack), record.at),
            bytes: serde_json::to_vec(record)
                .map_err(|error| AssetsError::new("write a record".to_owned(), error))?,
        };
        self.bucket(&bucket).upload(&asset, &|_| ()).await?;
        Ok(())
    }
}
