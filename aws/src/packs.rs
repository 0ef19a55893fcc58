//! Files that steps hand on, in the state bucket: an object for each part, named by
//! its offset, under `state/files/`. They expire by the bucket's own rule.

use crate::env::{Environment, MissingVariable, var};
use crate::error::failed;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectError;
use futures::stream::{self, StreamExt, TryStreamExt};
use loopy_contract::files::part_offsets;
use loopy_engine::files::PackOf;
use loopy_engine::ports::{Packs, PortError};

/// How many parts are copied at the same time.
const AT_ONCE: usize = 8;

/// The packs in one bucket.
#[derive(Clone)]
pub struct S3Packs {
    client: Client,
    bucket: Result<String, MissingVariable>,
}

impl S3Packs {
    /// Those in the bucket that `environment` names; a function that has none is
    /// told so when it needs one.
    pub fn of_environment(client: Client, environment: &Environment) -> Self {
        let bucket = environment.required(var::STATE_BUCKET);
        Self {
            client,
            bucket: bucket.map(str::to_owned),
        }
    }
}

fn key(of: &PackOf, offset: u64) -> String {
    let run = PackOf::folder(&of.run);
    format!("state/files/{run}/{}/{offset:08}", of.name())
}

#[async_trait]
impl Packs for S3Packs {
    async fn put(&self, of: &PackOf, offset: u64, bytes: Vec<u8>) -> Result<(), PortError> {
        let bucket = self.bucket.clone()?;
        let key = key(of, offset);
        self.client
            .put_object()
            .bucket(&bucket)
            .key(&key)
            .content_type("application/octet-stream")
            .body(bytes.into())
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(format!("write s3://{bucket}/{key}"), &error))
    }

    /// Without the right to list the bucket, which no function has, S3 does not say
    /// that an object is missing but that it may not be read: that is an error here.
    async fn part(
        &self,
        of: &PackOf,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, PortError> {
        let bucket = self.bucket.clone()?;
        let key = key(of, offset);
        let what = || format!("read s3://{bucket}/{key}");
        let read = self.client.get_object().bucket(&bucket).key(&key).send();
        let found = match read.await {
            Ok(found) => found,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(GetObjectError::is_no_such_key) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(what(), &error)),
        };
        let body = found.body.collect().await;
        let body = body.map_err(|error| PortError::new(what(), error))?;
        let bytes = body.to_vec();
        Ok(Some(bytes).filter(|bytes| bytes.len() == length))
    }

    async fn copy(&self, from: &PackOf, to: &PackOf, size: u64) -> Result<(), PortError> {
        let bucket = &self.bucket.clone()?;
        stream::iter(part_offsets(size))
            .map(|offset| async move {
                let (from, to) = (key(from, offset), key(to, offset));
                self.client
                    .copy_object()
                    .bucket(bucket)
                    .copy_source(format!("{bucket}/{from}"))
                    .key(&to)
                    .send()
                    .await
                    .map_err(|error| failed(format!("copy s3://{bucket}/{from}"), &error))
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }
}
