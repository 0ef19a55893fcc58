//! Transcripts of attempts in the state bucket: an object for each part, named by
//! its offset, under `state/transcripts/`. They expire by the bucket's own rule.

use crate::config::s3_client;
use crate::env::{Environment, MissingVariable, var};
use crate::error::failed;
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use loopy_engine::ports::{PortError, Transcripts};
use loopy_engine::transcript::TranscriptOf;

/// The transcripts in one bucket.
#[derive(Clone)]
pub struct S3Transcripts {
    client: Client,
    bucket: Result<String, MissingVariable>,
}

impl S3Transcripts {
    /// Those in `bucket`, with the caller's credentials.
    pub fn of_config(config: &SdkConfig, bucket: impl Into<String>) -> Self {
        Self {
            client: s3_client(config),
            bucket: Ok(bucket.into()),
        }
    }

    /// Those in the bucket that `environment` names; a function that has none is
    /// told so when it needs one.
    pub fn of_environment(client: Client, environment: &Environment) -> Self {
        let bucket = environment.required(var::STATE_BUCKET);
        Self {
            client,
            bucket: bucket.map(str::to_owned),
        }
    }

    fn folder(of: &TranscriptOf) -> String {
        let run = TranscriptOf::folder(&of.run);
        format!("state/transcripts/{run}/{}/", of.name())
    }

    /// What the transcript says from `offset` on; empty when there is no more.
    /// `offset` is the end of what was read before.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub async fn read(&self, of: &TranscriptOf, offset: u64) -> Result<Vec<u8>, PortError> {
        let (bucket, folder) = (self.bucket.clone()?, Self::folder(of));
        let what = || format!("read s3://{bucket}/{folder}");
        let before = offset.checked_sub(1).map(|last| key(&folder, last));
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&bucket)
            .prefix(&folder)
            .set_start_after(before)
            .into_paginator()
            .send();
        let mut bytes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed(what(), &error))?;
            for object in page.contents() {
                let Some(key) = object.key() else { continue };
                let read = self.client.get_object().bucket(&bucket).key(key).send();
                let found = read.await.map_err(|error| failed(what(), &error))?;
                let body = found.body.collect().await;
                let body = body.map_err(|error| PortError::new(what(), error))?;
                bytes.extend_from_slice(&body.into_bytes());
            }
        }
        Ok(bytes)
    }
}

/// The keys of a transcript are in the order of its parts.
fn key(folder: &str, offset: u64) -> String {
    format!("{folder}{offset:012}")
}

#[async_trait]
impl Transcripts for S3Transcripts {
    async fn append(&self, of: &TranscriptOf, offset: u64, text: &str) -> Result<(), PortError> {
        let bucket = self.bucket.clone()?;
        let key = key(&Self::folder(of), offset);
        self.client
            .put_object()
            .bucket(&bucket)
            .key(&key)
            .content_type("application/jsonl")
            .body(text.as_bytes().to_vec().into())
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(format!("write s3://{bucket}/{key}"), &error))
    }
}
