//! The values of a stack's secrets in its life: stored at the end of a deployment, put
//! back when the stack goes back, looked at before anything is changed, and removed once
//! no version that anybody may need has a name for them.

use super::history::folder;
use super::{DeployError, Deployed, Deployment, OpenRuns, Version, outputs};
use crate::events::Progress;
use crate::secrets::{Kept, Values};
use crate::stack::{Needs, Stack};
use loopy_aws::endpoint::function_url;
use loopy_contract::manifest::{Manifest, SensorTrigger};
use serde_json::Value;
use std::collections::BTreeMap;

impl Version {
    /// The values that it needs; `None` when another version of Loopy wrote it.
    pub fn needs(&self) -> Option<Needs> {
        let template: Value = serde_saphyr::from_str(&self.template).unwrap_or_default();
        let sensor_env = !template["Outputs"]["SensorSecret"].is_null();
        Some(Needs::of(self.manifest.as_ref()?, sensor_env))
    }
}

impl Deployment {
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
        let outputs = self.own_outputs().await?;
        let changed = values.store(self.secrets(), &stack.secrets, &outputs);
        told(changed.await?, progress);
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

    /// What the stack's secrets hold; nothing while there is no stack.
    ///
    /// # Errors
    /// [`DeployError::Values`] when a secret cannot be read.
    pub async fn kept(&self) -> Result<Kept, DeployError> {
        let (outputs, _) = self.standing().await?;
        let kept = Kept::read(self.secrets(), &outputs).await;
        kept.map_err(DeployError::Values)
    }

    /// Puts into the stack's secrets what they held before: those that went with a
    /// change and came back are empty, and others may have got other values.
    ///
    /// # Errors
    /// [`DeployError::Values`] when a value cannot be stored.
    pub async fn put_back(
        &self,
        kept: &Kept,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        let outputs = self.own_outputs().await?;
        let changed = kept.write(self.secrets(), &outputs).await;
        told(changed.map_err(DeployError::Values)?, progress);
        Ok(())
    }

    /// What the stack's secrets lack of what the project needs, a sentence each.
    ///
    /// # Errors
    /// [`DeployError::Values`] when a secret cannot be read.
    pub async fn lacking_secrets(&self, needs: &Needs) -> Result<Vec<String>, DeployError> {
        Ok(self.kept().await?.lacks(needs))
    }

    /// Removes from the secrets what neither a deployment that can be gone back to nor a
    /// run has a name for any more. What cannot be read may name anything.
    ///
    /// # Errors
    /// [`DeployError`] when a secret or the bucket cannot be read or written.
    pub async fn forget(&self, open: &OpenRuns) -> Result<(), DeployError> {
        let (outputs, name) = self.standing().await?;
        let bucket = self.bucket(&name);
        let records = self.records(&folder(&self.stack)).await?;
        let cut_off = self.records(&self.announced()).await?;
        let mut versions = Vec::new();
        let mut known = Vec::new();
        for record in records.into_iter().chain(cut_off) {
            if known.contains(&record.manifest) {
                continue;
            }
            let key = format!("manifests/{}.json", record.manifest);
            let Some(manifest) = bucket.read(&key).await? else {
                continue;
            };
            let Ok(manifest) = Manifest::from_json(&manifest) else {
                return Ok(());
            };
            versions.push(Needs::of(&manifest, true));
            known.push(record.manifest);
        }
        let has = |short: &String| known.iter().any(|hash| hash.starts_with(short.as_str()));
        if versions.is_empty() || !open.keys().all(has) {
            return Ok(());
        }
        let kept = Kept::read(self.secrets(), &outputs).await;
        let kept = kept.map_err(DeployError::Values)?;
        let needed = kept.without_unneeded(&versions);
        if needed != kept {
            let written = needed.write(self.secrets(), &outputs).await;
            written.map_err(DeployError::Values)?;
        }
        Ok(())
    }

    async fn own_outputs(&self) -> Result<BTreeMap<String, String>, DeployError> {
        let described = self.describe().await?;
        let described = described.ok_or_else(|| DeployError::NoStack(self.stack.clone()))?;
        Ok(outputs(&described))
    }
}

fn told(changed: Vec<&'static str>, progress: &(dyn Fn(Progress) + Sync)) {
    for secret in changed {
        progress(Progress::SecretStored {
            logical_id: secret.to_owned(),
        });
    }
}
