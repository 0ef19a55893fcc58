//! Builds images with the Docker engine of this machine and pushes them to a
//! registry, for those who deploy.

use super::images::{build, tail};
use super::{ANSWER_TIME, DEFAULT_HOST};
use bollard::auth::DockerCredentials;
use bollard::query_parameters::PushImageOptions;
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a step of a build or a push may say nothing.
const SILENCE: Duration = Duration::from_secs(30 * 60);

/// What opens a registry.
#[derive(Clone)]
pub struct Login {
    /// The registry's host, as images are named after it.
    pub registry: String,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

/// A Docker engine that builds and pushes.
pub struct Publisher {
    client: Client,
}

impl Publisher {
    /// The engine at `host` (what `DOCKER_HOST` says; `None` for the usual socket), if
    /// one answers on a socket of this machine.
    pub async fn connect(host: Option<&str>) -> Option<Self> {
        let path = host.unwrap_or(DEFAULT_HOST).strip_prefix("unix://")?;
        let client = Client::connect_with_unix(path, ANSWER_TIME, API_DEFAULT_VERSION)
            .ok()?
            .negotiate_version()
            .await
            .ok()?
            .with_timeout(SILENCE);
        Some(Self { client })
    }

    /// Builds `reference` from a Dockerfile and the executable files beside it, for
    /// `platform` (`linux/amd64`), and pushes it.
    ///
    /// # Errors
    /// What the engine or the registry said.
    pub async fn publish(
        &self,
        reference: &str,
        dockerfile: &str,
        files: &BTreeMap<&'static str, Vec<u8>>,
        platform: &str,
        login: &Login,
    ) -> Result<(), String> {
        build(&self.client, reference, dockerfile, files, Some(platform)).await?;
        self.push(reference, login).await
    }

    async fn push(&self, reference: &str, login: &Login) -> Result<(), String> {
        let (name, tag) = reference
            .rsplit_once(':')
            .ok_or_else(|| format!("the image {reference} has no tag"))?;
        let options = PushImageOptions {
            tag: Some(tag.to_owned()),
            ..PushImageOptions::default()
        };
        let credentials = DockerCredentials {
            username: Some(login.user.clone()),
            password: Some(login.password.clone()),
            serveraddress: Some(login.registry.clone()),
            ..DockerCredentials::default()
        };
        let mut progress = self
            .client
            .push_image(name, Some(options), Some(credentials));
        while let Some(step) = progress.next().await {
            let problem = match step {
                Ok(step) => step.error_detail.and_then(|detail| detail.message),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                return Err(format!("the image can't be pushed: {}", tail(&problem)));
            }
        }
        Ok(())
    }
}
