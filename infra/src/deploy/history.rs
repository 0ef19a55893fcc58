//! What a stack is made of now, and what it was made of before: a record of each
//! deployment lies in the assets bucket, beside the templates and manifests it names.

use super::{DeployError, Deployment, outputs, parameters};
use crate::assets::AssetsError;
use crate::stack::Stack;
use aws_sdk_cloudformation::types::StackStatus;
use jiff::Timestamp;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The outputs that every stack of Loopy's has; without the first nobody knows what it
/// is made of.
pub(super) const OWN_OUTPUTS: [&str; 2] = ["Manifest", "Table"];

/// Where the records of all stacks are.
pub(super) const DEPLOYMENTS: &str = "deployments/";

/// Where the records of a stack are.
pub(super) fn folder(stack: &str) -> String {
    format!("{DEPLOYMENTS}{stack}/")
}

/// Where it is written down, stack by stack, what is about to be deployed.
pub(super) const ANNOUNCED: &str = "announced/";

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
    /// What the stack is made of now; `None` when there is none, or it is only planned.
    ///
    /// # Errors
    /// [`DeployError`] when the template or the manifest cannot be had, and
    /// [`DeployError::NotOurs`] when somebody else made the stack.
    pub async fn deployed(&self) -> Result<Option<Version>, DeployError> {
        let Some(stack) = self.describe().await? else {
            return Ok(None);
        };
        let planned = stack.stack_status() == Some(&StackStatus::ReviewInProgress);
        if planned {
            return Ok(None);
        }
        let mut outputs = outputs(&stack);
        for output in OWN_OUTPUTS {
            if !outputs.contains_key(output) {
                return Err(DeployError::NotOurs {
                    stack: self.stack.clone(),
                    output,
                });
            }
        }
        let hash = outputs.remove(OWN_OUTPUTS[0]).unwrap_or_default();
        let told = self
            .client
            .get_template()
            .stack_name(&self.stack)
            .send()
            .await
            .map_err(|error| DeployError::service("read the deployed template", &error))?
            .template_body
            .unwrap_or_default();
        let template = self.exact(told, &hash).await?;
        let bucket = self.bucket_of(Some(&stack));
        let key = format!("manifests/{hash}.json");
        let manifest = self.bucket(&bucket).read(&key).await?;
        Ok(Some(Version {
            manifest: manifest.and_then(|bytes| Manifest::from_json(&bytes).ok()),
            template,
            parameters: parameters::given(&stack),
        }))
    }

    /// The template that CloudFormation was given. What it tells of one has lost every
    /// character that is not ASCII, so the bucket is asked: for the very bytes, and for
    /// what deployments of this manifest were made from.
    async fn exact(&self, told: String, manifest: &str) -> Result<String, DeployError> {
        let name = self.bucket_of(self.describe().await?.as_ref());
        let bucket = self.bucket(&name);
        if bucket.holds(&template_key(&told)).await? {
            return Ok(told);
        }
        let mut records = self.records(&folder(&self.stack)).await?;
        records.extend(self.records(&self.announced()).await?);
        records.sort_by_key(|record| std::cmp::Reverse(record.at));
        for record in records.iter().filter(|record| record.manifest == manifest) {
            let kept = bucket.read(&record.template).await?;
            let kept = kept.and_then(|bytes| String::from_utf8(bytes).ok());
            if let Some(kept) = kept
                && is_told_as(&kept, &told)
            {
                return Ok(kept);
            }
        }
        Ok(told)
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
    /// [`DeployError::NoStack`], or [`DeployError::Assets`] when the bucket cannot be read.
    pub async fn history(&self) -> Result<Vec<Record>, DeployError> {
        if self.describe().await?.is_none() {
            return Err(DeployError::NoStack(self.stack.clone()));
        }
        let mut records = self.records(&folder(&self.stack)).await?;
        records.sort_by_key(|record| std::cmp::Reverse(record.at));
        Ok(records)
    }

    /// The records in a folder of the bucket.
    pub(super) async fn records(&self, folder: &str) -> Result<Vec<Record>, DeployError> {
        let bucket = self.bucket_of(self.describe().await?.as_ref());
        let bucket = self.bucket(&bucket);
        let mut records = Vec::new();
        for key in bucket.keys(folder).await? {
            if let Some(bytes) = bucket.read(&key).await? {
                let record: Record = serde_json::from_slice(&bytes)
                    .map_err(|error| AssetsError::new(format!("read the record {key}"), error))?;
                records.push(record);
            }
        }
        Ok(records)
    }

    /// Where it is written down what this stack is about to be made of.
    pub(super) fn announced(&self) -> String {
        format!("{ANNOUNCED}{}/", self.stack)
    }

    /// Writes down that the stack is about to be made of this. It stays until the bucket
    /// is tidied up: a deployment that is cut off leaves nothing else that names what
    /// the stack, and runs that begin then, need.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(super) async fn announce(
        &self,
        stack: &Stack,
        manifest: &Manifest,
    ) -> Result<(), DeployError> {
        let record = self.record_of(stack, manifest);
        let folder = self.announced();
        self.keep(&folder, &record).await
    }

    fn record_of(&self, stack: &Stack, manifest: &Manifest) -> Record {
        Record {
            at: Timestamp::now(),
            by: self.caller.clone(),
            manifest: manifest.hash.clone(),
            template: template_key(&stack.template),
            assets: stack.assets.iter().map(|asset| asset.key.clone()).collect(),
        }
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
        let record = self.record_of(stack, manifest);
        self.keep(&folder(&self.stack), &record).await
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
        self.keep(&folder(&self.stack), &record).await
    }

    async fn keep(&self, folder: &str, record: &Record) -> Result<(), DeployError> {
        let bucket = self.bucket_of(self.describe().await?.as_ref());
        let key = format!("{folder}{}.json", record.at);
        let bytes = serde_json::to_vec(record)
            .map_err(|error| AssetsError::new("write a record".to_owned(), error))?;
        self.bucket(&bucket).write(&key, bytes).await?;
        Ok(())
    }
}

/// Whether CloudFormation may tell of this template so: it puts `?` for what is not
/// ASCII.
fn is_told_as(template: &str, told: &str) -> bool {
    let left = |text: &str| -> String {
        let chars = text.trim_end().chars();
        chars.filter(|c| c.is_ascii() && *c != '?').collect()
    };
    left(template) == left(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_lost_its_umlauts_is_known_again() {
        let template = "Description: Grüße → für alle\nResources: {}\n";
        let told = "Description: Gr??e ? f?r alle\nResources: {}";
        assert_ne!(template_key(template), template_key(told));
        assert!(is_told_as(template, told));
        assert!(!is_told_as(&template.replace("{}", "{ A: 1 }"), told));
    }
}
