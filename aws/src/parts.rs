//! Big parts of run state in the state bucket: content-addressed, written before
//! the item that names them, and expired by the bucket's own rule.

use crate::assets::check_hash;
use crate::env::{Environment, MissingVariable, var};
use crate::error::failed;
use crate::large::{Part, Pointer, put_back};
use aws_sdk_s3::Client;
use futures::stream::{self, StreamExt, TryStreamExt};
use loopy_contract::ids::sha256_hex;
use loopy_engine::ports::PortError;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many objects are read or written at the same time.
const AT_ONCE: usize = 16;

/// The most that is kept in memory, in bytes.
const KEPT_BYTES: usize = 24 * 1024 * 1024;

/// The state bucket.
#[derive(Clone)]
pub struct Parts {
    client: Client,
    bucket: Result<String, MissingVariable>,
    kept: Arc<Mutex<Kept>>,
}

/// Objects that are known to be in the bucket.
#[derive(Default)]
struct Kept {
    bytes: usize,
    texts: HashMap<String, Arc<str>>,
}

impl Kept {
    fn insert(&mut self, key: String, text: Arc<str>) {
        if self.bytes.saturating_add(text.len()) > KEPT_BYTES {
            self.texts.clear();
            self.bytes = 0;
        }
        self.bytes = self.bytes.saturating_add(text.len());
        self.texts.insert(key, text);
    }
}

impl Parts {
    /// The parts in `bucket`.
    pub fn new(client: Client, bucket: impl Into<String>) -> Self {
        Self {
            client,
            bucket: Ok(bucket.into()),
            kept: Arc::default(),
        }
    }

    /// The parts in the bucket that `environment` names. One that names none has
    /// nothing to do with runs, and is told so when it does.
    pub fn of_environment(client: Client, environment: &Environment) -> Self {
        let bucket = environment.required(var::STATE_BUCKET);
        Self {
            client,
            bucket: bucket.map(str::to_owned),
            kept: Arc::default(),
        }
    }

    /// Writes what is not there yet. `owner` is whose parts these are: the name
    /// of their folder.
    pub(crate) async fn write(
        &self,
        owner: &str,
        parts: Vec<Part>,
    ) -> Result<Vec<Pointer>, PortError> {
        stream::iter(parts)
            .map(|part| async move {
                self.put(owner, &part.pointer.sha256, part.text).await?;
                Ok(part.pointer)
            })
            // In order, as they have to be put back.
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Reads the parts and puts them back into the document they were cut from.
    pub(crate) async fn fill(
        &self,
        owner: &str,
        document: &mut Value,
        pointers: Vec<Pointer>,
    ) -> Result<(), PortError> {
        let parts = stream::iter(pointers)
            .map(|pointer| async move {
                let text = self.get(owner, &pointer.sha256).await?;
                let value = serde_json::from_str(&text).map_err(|error| {
                    PortError::new(format!("read state/{owner}/{}", pointer.sha256), error)
                })?;
                Ok::<_, PortError>((pointer, value))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        put_back(document, parts).map_err(|error| {
            PortError::new(format!("put together what is in state/{owner}"), error)
        })
    }

    /// Writes one object, unless it is known to be there.
    pub(crate) async fn put(
        &self,
        owner: &str,
        sha256: &str,
        text: String,
    ) -> Result<(), PortError> {
        let key = format!("state/{owner}/{sha256}");
        if self.known(&key).is_some() {
            return Ok(());
        }
        let bucket = self.bucket.clone()?;
        self.client
            .put_object()
            .bucket(&bucket)
            .key(&key)
            .content_type("application/json")
            .body(text.clone().into_bytes().into())
            .send()
            .await
            .map_err(|error| failed(format!("write s3://{bucket}/{key}"), &error))?;
        self.keep(key, text.into());
        Ok(())
    }

    /// Reads one object, whose content must have that hash.
    pub(crate) async fn get(&self, owner: &str, sha256: &str) -> Result<Arc<str>, PortError> {
        let key = format!("state/{owner}/{sha256}");
        if let Some(text) = self.known(&key) {
            return Ok(text);
        }
        let bucket = self.bucket.clone()?;
        let what = format!("read s3://{bucket}/{key}");
        check_hash(&what, sha256)?;
        let output = self
            .client
            .get_object()
            .bucket(bucket)
            .key(&key)
            .send()
            .await
            .map_err(|error| failed(&what, &error))?;
        let bytes = output.body.collect().await;
        let bytes = bytes
            .map_err(|error| PortError::new(&what, error))?
            .to_vec();
        let actual = sha256_hex(&bytes);
        if actual != sha256 {
            return Err(PortError::new(
                what,
                format!("its content has the hash {actual}: somebody has changed it"),
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| PortError::new(&what, error))?;
        let text: Arc<str> = text.into();
        self.keep(key, Arc::clone(&text));
        Ok(text)
    }

    fn known(&self, key: &str) -> Option<Arc<str>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.texts.get(key).map(Arc::clone)
    }

    fn keep(&self, key: String, text: Arc<str>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(key, text);
    }
}
