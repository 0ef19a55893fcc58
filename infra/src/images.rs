//! The images of the fargate sandboxes into the stack's repository: built by the
//! Docker engine of this machine, or by the stack's own project in the account. A tag
//! is the hash of what an image is made from, so one that is there is never made again.

use crate::deploy::{DeployError, Deployment};
use crate::events::{Progress, explain};
use crate::stack::fargate::{BUILD, IMAGES};
use crate::stack::{Architecture, Image, Stack};
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

impl Deployment {
    /// Sees to it that the stack's repository has the images, where the stack has a
    /// repository: called before a change, so that nothing is launched from an image
    /// that is still to be made, and after it, as a new stack has none before.
    ///
    /// # Errors
    /// [`DeployError::Image`] names the sandboxes whose image cannot be had.
    pub async fn publish_images(
        &self,
        stack: &Stack,
        builder: &Builder,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        if stack.images.is_empty() {
            return Ok(());
        }
        let outputs = self.outputs().await?;
        let (Some(repository), Some(project)) = (outputs.get(IMAGES), outputs.get(BUILD)) else {
            return Ok(());
        };
        for image in &stack.images {
            let made = self
                .publish(image, repository, project, builder, progress)
                .await;
            made.map_err(|why| DeployError::Image {
                sandboxes: image.sandboxes.join(", "),
                why,
            })?;
        }
        Ok(())
    }

    async fn publish(
        &self,
        image: &Image,
        repository: &str,
        project: &str,
        builder: &Builder,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), String> {
        if self.has_image(repository, &image.tag).await? {
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
                let login = self.login(repository).await?;
                let reference = format!("{repository}:{}", image.tag);
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
            Builder::Account => self.build(image, project, progress).await?,
        }
        if !self.has_image(repository, &image.tag).await? {
            return Err(format!(
                "it was built, and {repository} has no image {}",
                image.tag
            ));
        }
        progress(Progress::ImagePushed { sandboxes });
        Ok(())
    }

    async fn has_image(&self, repository: &str, tag: &str) -> Result<bool, String> {
        let name = repository
            .split_once('/')
            .map_or(repository, |(_, name)| name);
        let found = self
            .images()
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
            Err(error) => Err(format!(
                "cannot look into {repository}: {}",
                explain(&error)
            )),
        }
    }

    async fn login(&self, repository: &str) -> Result<Login, String> {
        let failed = |why: String| format!("cannot log in to {repository}: {why}");
        let answer = self
            .images()
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
            registry: repository.split('/').next().unwrap_or_default().to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// Has the account build it, and waits for the end.
    async fn build(
        &self,
        image: &Image,
        project: &str,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), String> {
        let failed = |why: String| format!("project {project} cannot build it: {why}");
        let asset = image.asset().map_err(|error| failed(error.to_string()))?;
        let place = self
            .upload(&asset, progress)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let tag = EnvironmentVariable::builder()
            .name("TAG")
            .value(&image.tag)
            .r#type(EnvironmentVariableType::Plaintext)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let codebuild = &self.images().codebuild;
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
