//! Manifests and their files in the assets bucket.

use crate::assets::{Assets, check_hash};
use crate::env::{Environment, var};
use async_trait::async_trait;
use loopy_contract::ids::ManifestHash;
use loopy_contract::manifest::Manifest;
use loopy_engine::ports::{Manifests, PortError};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// How many manifests are kept in memory. Runs in flight are of a few deploys;
/// past this many, the cache starts anew.
const KEPT: usize = 8;

/// Manifests by hash, read once each.
pub struct S3Manifests {
    assets: Assets,
    environment: Arc<Environment>,
    kept: Mutex<HashMap<ManifestHash, Arc<Manifest>>>,
}

impl S3Manifests {
    /// Manifests out of `assets`; `environment` names the current one.
    pub fn new(assets: Assets, environment: Arc<Environment>) -> Self {
        Self {
            assets,
            environment,
            kept: Mutex::default(),
        }
    }
}

#[async_trait]
impl Manifests for S3Manifests {
    async fn current(&self) -> Result<Arc<Manifest>, PortError> {
        let hash = ManifestHash::from(self.environment.required(var::MANIFEST)?);
        self.get(&hash).await
    }

    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError> {
        // Held while reading, so that a batch reads a manifest once.
        let mut kept = self.kept.lock().await;
        if let Some(manifest) = kept.get(hash) {
            return Ok(Arc::clone(manifest));
        }
        let what = format!("read manifest {hash}");
        check_hash(&what, hash.as_str())?;
        let bytes = self.assets.read(&format!("manifests/{hash}.json")).await?;
        let manifest = Manifest::from_json(&bytes).map_err(|error| PortError::new(&what, error))?;
        if manifest.hash != hash.as_str() {
            return Err(PortError::new(
                what,
                format!(
                    "its content is manifest {}; deploy the stack again",
                    manifest.hash
                ),
            ));
        }
        let manifest = Arc::new(manifest);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(hash.clone(), Arc::clone(&manifest));
        Ok(manifest)
    }

    async fn file(&self, hash: &str) -> Result<Vec<u8>, PortError> {
        self.assets.by_hash("files", hash).await.map(Vec::from)
    }
}
