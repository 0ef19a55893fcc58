//! Content-addressed objects in the assets bucket, checked on every read.

use crate::env::{Environment, var};
use crate::error::failed;
use aws_sdk_s3::Client;
use bytes::Bytes;
use loopy_contract::ids::sha256_hex;
use loopy_engine::ports::PortError;
use std::sync::Arc;

/// The bucket that `loopy deploy` fills.
#[derive(Clone)]
pub struct Assets {
    client: Client,
    environment: Arc<Environment>,
}

impl Assets {
    /// The bucket that `environment` names.
    pub fn new(client: Client, environment: Arc<Environment>) -> Self {
        Self {
            client,
            environment,
        }
    }

    /// The bytes of `<folder>/<sha256>`, whose content must have that hash.
    ///
    /// # Errors
    /// When `sha256` is no hash, the object cannot be read, or it is not what
    /// its name says.
    pub async fn by_hash(&self, folder: &str, sha256: &str) -> Result<Bytes, PortError> {
        check_hash(&format!("read {folder}/{sha256}"), sha256)?;
        let key = format!("{folder}/{sha256}");
        let bytes = self.read(&key).await?;
        let actual = sha256_hex(&bytes);
        if actual != sha256 {
            return Err(PortError::new(
                format!("read {key}"),
                format!("its content has the hash {actual}; deploy the stack again"),
            ));
        }
        Ok(bytes)
    }

    /// The bytes of any object.
    ///
    /// # Errors
    /// When the bucket is not configured or the object cannot be read.
    pub async fn read(&self, key: &str) -> Result<Bytes, PortError> {
        let bucket = self.environment.required(var::ASSETS_BUCKET)?;
        let what = format!("read s3://{bucket}/{key}");
        let output = self
            .client
            .get_object()
            .bucket(bucket)
            .key(key)
            .send()
            .await
            .map_err(|error| failed(&what, &error))?;
        output
            .body
            .collect()
            .await
            .map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes)
            .map_err(|error| PortError::new(what, error))
    }
}

/// Refuses what is not a lower-case hex SHA-256, so that a name which came
/// from outside cannot reach another object.
pub(crate) fn check_hash(what: &str, text: &str) -> Result<(), PortError> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if text.len() == 64 && text.chars().all(hex) {
        Ok(())
    } else {
        Err(PortError::new(
            what,
            "the name is not a lower-case hex SHA-256",
        ))
    }
}
