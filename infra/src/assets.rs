//! The assets bucket: one an account and region, private, filled by content
//! hash, so that what is there never has to be sent again.

use crate::events::{Progress, explain};
use crate::stack::Asset;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, PublicAccessBlockConfiguration,
    ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
    ServerSideEncryptionRule,
};
use jiff::Timestamp;

/// The bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub struct AssetsError {
    what: String,
    why: String,
}

impl AssetsError {
    pub(crate) fn new(what: String, why: impl std::fmt::Display) -> Self {
        Self {
            what,
            why: why.to_string(),
        }
    }
}

/// The bucket's name in an account and region.
pub fn bucket_name(account: &str, region: &str) -> String {
    format!("loopy-assets-{account}-{region}")
}

/// A bucket that must belong to this account: the name can be guessed, so
/// every call says whose it has to be.
pub(crate) struct Bucket<'a> {
    pub(crate) client: &'a Client,
    pub(crate) name: &'a str,
    pub(crate) account: &'a str,
}

impl Bucket<'_> {
    /// Makes the bucket unless it exists: encrypted, closed to the public.
    pub(crate) async fn ensure(
        &self,
        region: &str,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), AssetsError> {
        let name = self.name;
        let head = self
            .client
            .head_bucket()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .send()
            .await;
        match head {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) == Some(404) => {}
            Err(error) if status(&error) == Some(403) => {
                return Err(AssetsError::new(
                    format!("use bucket {name}"),
                    "access is denied: the credentials lack s3:ListBucket on it, or it belongs \
                     to another account",
                ));
            }
            Err(error) => {
                return Err(AssetsError::new(
                    format!("look for bucket {name}"),
                    explain(&error),
                ));
            }
        }
        let what = || format!("create bucket {name}");
        // The oldest region is named by saying nothing.
        let place = (region != "us-east-1").then(|| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        self.client
            .create_bucket()
            .bucket(name)
            .set_create_bucket_configuration(place)
            .send()
            .await
            .map_err(|error| AssetsError::new(what(), explain(&error)))?;
        let closed = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .block_public_policy(true)
            .ignore_public_acls(true)
            .restrict_public_buckets(true)
            .build();
        self.client
            .put_public_access_block()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .public_access_block_configuration(closed)
            .send()
            .await
            .map_err(|error| AssetsError::new(format!("close bucket {name}"), explain(&error)))?;
        let encrypted = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(ServerSideEncryption::Aes256)
            .build()
            .and_then(|default| {
                ServerSideEncryptionConfiguration::builder()
                    .rules(
                        ServerSideEncryptionRule::builder()
                            .apply_server_side_encryption_by_default(default)
                            .build(),
                    )
                    .build()
            })
            .map_err(|error| AssetsError::new(what(), error))?;
        self.client
            .put_bucket_encryption()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .server_side_encryption_configuration(encrypted)
            .send()
            .await
            .map_err(|error| AssetsError::new(format!("encrypt bucket {name}"), explain(&error)))?;
        progress(Progress::BucketCreated {
            bucket: name.to_owned(),
        });
        Ok(())
    }

    /// Uploads an asset unless its key, which holds its hash, is there.
    pub(crate) async fn upload(
        &self,
        asset: &Asset,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), AssetsError> {
        let what = |verb: &str| format!("{verb} s3://{}/{}", self.name, asset.key);
        let head = self
            .client
            .head_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(&asset.key)
            .send()
            .await;
        match head {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => return Err(AssetsError::new(what("look for"), explain(&error))),
        }
        self.client
            .put_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(&asset.key)
            .body(ByteStream::from(asset.bytes.clone()))
            .send()
            .await
            .map_err(|error| AssetsError::new(what("upload"), explain(&error)))?;
        progress(Progress::Uploaded {
            key: asset.key.clone(),
            bytes: asset.bytes.len(),
        });
        Ok(())
    }

    /// Writes an object, whether there is one or not.
    pub(crate) async fn write(&self, key: &str, bytes: Vec<u8>) -> Result<(), AssetsError> {
        self.client
            .put_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(key)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.fault("write", key, explain(&error)))
    }

    /// When the object was written; `None` when there is none, or nobody says.
    pub(crate) async fn written(&self, key: &str) -> Result<Option<Timestamp>, AssetsError> {
        let head = self
            .client
            .head_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(key)
            .send()
            .await;
        match head {
            Ok(head) => Ok(head
                .last_modified()
                .and_then(|at| Timestamp::from_second(at.secs()).ok())),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.fault("look for", key, explain(&error))),
        }
    }

    /// Whether there is such an object.
    pub(crate) async fn holds(&self, key: &str) -> Result<bool, AssetsError> {
        let head = self
            .client
            .head_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(key)
            .send()
            .await;
        match head {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(self.fault("look for", key, explain(&error))),
        }
    }

    /// The object's bytes; `None` when there is none.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, AssetsError> {
        let found = self
            .client
            .get_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(key)
            .send()
            .await;
        match found {
            Ok(found) => match found.body.collect().await {
                Ok(bytes) => Ok(Some(bytes.to_vec())),
                Err(error) => Err(self.fault("read", key, error)),
            },
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.fault("read", key, explain(&error))),
        }
    }

    /// The keys that begin with `prefix`, sorted.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>, AssetsError> {
        let mut keys = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(self.name)
                .expected_bucket_owner(self.account)
                .prefix(prefix)
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| self.fault("list", prefix, explain(&error)))?;
            keys.extend(
                page.contents()
                    .iter()
                    .filter_map(|object| object.key.clone()),
            );
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                keys.sort();
                return Ok(keys);
            }
        }
    }

    /// Removes an object; one that is not there is removed.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), AssetsError> {
        self.client
            .delete_object()
            .bucket(self.name)
            .expected_bucket_owner(self.account)
            .key(key)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| self.fault("remove", key, explain(&error)))
    }

    fn fault(&self, verb: &str, key: &str, why: impl std::fmt::Display) -> AssetsError {
        AssetsError::new(format!("{verb} s3://{}/{key}", self.name), why)
    }
}

fn status<E>(error: &aws_sdk_s3::error::SdkError<E>) -> Option<u16> {
    error
        .raw_response()
        .map(|response| response.status().as_u16())
}
