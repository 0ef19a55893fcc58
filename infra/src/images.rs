//! The images of the fargate sandboxes into the stack's repository: built by the
//! Docker engine of this machine, or by the stack's own project in the account. A tag
//! is the hash of what an image is made from, so one that is there is never made again.

use crate::assets::Bucket;
use crate::events::{Progress, explain};
use crate::stack::{Architecture, Image};
use aws_config::SdkConfig;
use aws_sdk_codebuild::types::{
    EnvironmentVariable, EnvironmentVariableType, SourceType, StatusType,
};
use aws_sdk_ecr::types::ImageIdentifier;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use loopy_sandbox::docker::HOST as DOCKER_HOST;
use loopy_sandbox::docker::{Login, Publisher};
use std::time::Duration;

/// Between two looks at a build in the account.
const LOOK: Duration = Duration::from_secs(3);

/// Who builds images.
pub enum Builder {
    /// The Docker engine of this machine.
    Docker(Publisher),
    /// The stack's project in CodeBuild.
    Account,
}

impl Builder {
    /// The Docker engine at `host`, the value of [`DOCKER_HOST`] or `None` for the
    /// usual socket, if one answers on this machine.
    pub async fn docker(host: Option<&str>) -> Option<Self> {
        Publisher::connect(host).await.map(Self::Docker)
    }
}

/// The services that images need.
pub(crate) struct Clients {
    ecr: aws_sdk_ecr::Client,
    codebuild: aws_sdk_codebuild::Client,
}

impl Clients {
    pub(crate) fn new(config: &SdkConfig) -> Self {
        Self {
            ecr: aws_sdk_ecr::Client::new(config),
            codebuild: aws_sdk_codebuild::Client::new(config),
        }
    }
}

/// The repository of a stack, and how images come into it.
pub(crate) struct Repository<'a> {
    pub(crate) clients: &'a Clients,
    /// Where the project finds what it builds.
    pub(crate) bucket: Bucket<'a>,
    /// Its URI.
    pub(crate) uri: &'a str,
    /// The project that builds images in the account.
    pub(crate) project: &'a str,
}

impl Repository<'_> {
    /// Sees to it that it has the image. The error is a sentence.
    pub(crate) async fn publish(
        &self,
        image: &Image,
        builder: &Builder,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), String> {
        if self.has_image(&image.tag).await? {
            return Ok(());
        }
        let sandboxes = image.sandboxes.join(", ");
        progress(Progress::ImageBegun {
            sandboxes: sandboxes.clone(),
            in_account: matches!(builder, Builder::Account),
        });
        match builder {
            Builder::Docker(docker) => {
                let platform = match image.architecture {
                    Architecture::X86_64 => "linux/amd64",
                    Architecture::Arm64 => "linux/arm64",
                };
                let login = self.login().await?;
                let reference = format!("{}:{}", self.uri, image.tag);
                docker
                    .publish(
                        &reference,
                        &image.dockerfile,
                        &image.files,
                        platform,
                        &login,
                    )
                    .await?;
            }
            Builder::Account => self.build(image, progress).await?,
        }
        if !self.has_image(&image.tag).await? {
            return Err(format!(
                "it was built, and {} has no image {}",
                self.uri, image.tag
            ));
        }
        progress(Progress::ImagePushed { sandboxes });
        Ok(())
    }

    async fn has_image(&self, tag: &str) -> Result<bool, String> {
        let uri = self.uri;
        let name = uri.split_once('/').map_or(uri, |(_, name)| name);
        let found = self
            .clients
            .ecr
            .describe_images()
            .repository_name(name)
            .image_ids(ImageIdentifier::builder().image_tag(tag).build())
            .send()
            .await;
        match found {
            Ok(found) => Ok(!found.image_details().is_empty()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_image_not_found_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(format!("cannot look into {uri}: {}", explain(&error))),
        }
    }

    async fn login(&self) -> Result<Login, String> {
        let uri = self.uri;
        let failed = |why: String| format!("cannot log in to {uri}: {why}");
        let answer = self
            .clients
            .ecr
            .get_authorization_token()
            .send()
            .await
            .map_err(|error| failed(explain(&error)))?;
        let token = answer
            .authorization_data()
            .first()
            .and_then(|data| data.authorization_token())
            .and_then(|token| STANDARD.decode(token).ok())
            .and_then(|token| String::from_utf8(token).ok());
        let (user, password) = token
            .as_deref()
            .and_then(|token| token.split_once(':'))
            .ok_or_else(|| failed("the answer holds no login".to_owned()))?;
        Ok(Login {
            registry: uri.split('/').next().unwrap_or_default().to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// Has the account build it, and waits for the end.
    async fn build(
        &self,
        image: &Image,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), String> {
        let project = self.project;
        let failed = |why: String| format!("project {project} cannot build it: {why}");
        let asset = image.asset().map_err(|error| failed(error.to_string()))?;
        self.bucket
            .upload(&asset, progress)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let place = format!("{}/{}", self.bucket.name, asset.key);
        let tag = EnvironmentVariable::builder()
            .name("TAG")
            .value(&image.tag)
            .r#type(EnvironmentVariableType::Plaintext)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let codebuild = &self.clients.codebuild;
        let started = codebuild
            .start_build()
            .project_name(project)
            .source_type_override(SourceType::S3)
            .source_location_override(place)
            .environment_variables_override(tag)
            // One that was begun by a deployment that broke off is gone on with.
            .idempotency_token(&image.tag)
            .send()
            .await
            .map_err(|error| failed(explain(&error)))?;
        let id = started
            .build_value
            .and_then(|build| build.id)
            .ok_or_else(|| failed("the build has no id".to_owned()))?;
        loop {
            let builds = codebuild
                .batch_get_builds()
                .ids(&id)
                .send()
                .await
                .map_err(|error| failed(explain(&error)))?;
            let build = builds
                .builds()
                .first()
                .ok_or_else(|| failed(format!("build {id} is gone")))?;
            match build.build_status() {
                Some(StatusType::Succeeded) => return Ok(()),
                Some(StatusType::InProgress) | None => tokio::time::sleep(LOOK).await,
                Some(status) => {
                    let said = build.phases().iter().flat_map(|phase| phase.contexts());
                    let said: Vec<&str> = said.filter_map(|context| context.message()).collect();
                    let logs = build.logs().and_then(|logs| logs.deep_link());
                    return Err(failed(format!(
                        "build {id} ended {}: {}; its log: {}",
                        status.as_str(),
                        said.join("; "),
                        logs.unwrap_or("none")
                    )));
                }
            }
        }
    }
}

/// What is left to do for the images of a stack that was only written down, as
/// commands.
pub fn commands(images: &[Image], bucket: &str, project: &str) -> Vec<String> {
    let command = |image: &Image| {
        format!(
            "aws codebuild start-build --project-name {project} --source-type-override S3 \
             --source-location-override {bucket}/{} \
             --environment-variables-override name=TAG,value={}",
            image.key(),
            image.tag
        )
    };
    images.iter().map(command).collect()
}
