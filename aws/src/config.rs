//! How the services are reached: credentials, region, endpoint and the one
//! HTTP client that all of them share.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// What a caller wants to differ from the standard chain; a function wants
/// nothing, the command line passes its options on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// A region in place of the chain's.
    pub region: Option<String>,
    /// A profile in place of `AWS_PROFILE`.
    pub profile: Option<String>,
    /// An endpoint for every service in place of `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
}

/// The services cannot be reached with what is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The chain ended without a region.
    #[error(
        "no AWS region is configured; set AWS_REGION, name a profile that has a region, or pass --region"
    )]
    NoRegion,
    /// Not a URL of http or https.
    #[error("`{url}` is not an endpoint URL; it must begin with http:// or https://")]
    Endpoint {
        /// What was given.
        url: String,
    },
}

impl Connection {
    /// Resolves the standard chain (environment, profiles, container and
    /// instance roles) with these differences. Calls no service, and reads no
    /// credentials until the first request.
    ///
    /// # Errors
    /// [`ConfigError`] when no region can be found or the endpoint is no URL.
    pub async fn resolve(&self) -> Result<SdkConfig, ConfigError> {
        let mut loader =
            aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http_client());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        if config.region().is_none() {
            return Err(ConfigError::NoRegion);
        }
        if let Some(url) = config.endpoint_url()
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return Err(ConfigError::Endpoint {
                url: url.to_owned(),
            });
        }
        Ok(config)
    }
}

/// One client for all services, so that they share connections. TLS comes from
/// ring alone: the SDK's default would compile a second crypto library.
fn http_client() -> aws_smithy_runtime_api::client::http::SharedHttpClient {
    Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// The S3 client. Buckets go into the path on an endpoint other than AWS's, as
/// names like `bucket.localhost` need not resolve there. What is read is checked
/// against its own hash, so S3's checksums are left aside: an object that came
/// in parts has one that cannot be checked, and each read would warn of it.
pub fn s3_client(config: &SdkConfig) -> aws_sdk_s3::Client {
    let builder = aws_sdk_s3::config::Builder::from(config)
        .force_path_style(config.endpoint_url().is_some())
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    aws_sdk_s3::Client::from_conf(builder.build())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_wins_over_the_chain() {
        let config = Connection {
            region: Some("eu-central-2".to_owned()),
            profile: None,
            endpoint_url: Some("http://127.0.0.1:1".to_owned()),
        }
        .resolve()
        .await
        .unwrap();
        assert_eq!(config.region().unwrap().as_ref(), "eu-central-2");
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_no_url_is_refused_by_name() {
        let error = Connection {
            region: Some("eu-west-1".to_owned()),
            profile: None,
            endpoint_url: Some("localhost:4566".to_owned()),
        }
        .resolve()
        .await
        .unwrap_err();
        assert!(error.to_string().contains("`localhost:4566`"), "{error}");
    }
}
