//! The way back: what a stack was made of before, made again, with what does not lie in
//! the bucket: the values of its secrets and its images.

use super::error::{After, Error};
use loopy_infra::images::Builder;
use loopy_infra::{Deployment, Image, Kept, Progress, Record, Version};

/// Makes the stack what it was. Its assets are in the bucket still; what its secrets
/// held, and images whose repository went, are put back.
pub(crate) async fn go_back(
    deployment: &Deployment,
    to: &Version,
    kept: &Kept,
    (images, builder): (&[Image], &Builder),
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), Error> {
    let plan = deployment
        .plan(&to.template, &to.parameters, progress)
        .await?;
    // Where the repository stands nothing is launched from an image that is missing.
    deployment.publish_images(images, builder, progress).await?;
    deployment.execute(&plan, None, progress).await?;
    deployment.put_back(kept, progress).await?;
    deployment.publish_images(images, builder, progress).await?;
    Ok(())
}

/// What a deployment goes back to by itself.
pub(super) enum WayBack {
    /// What the stack was made of when it began.
    Before(Version, Option<Record>),
    /// The last deployment that came about: what the stack was made of was cut off, and
    /// nobody has seen it work.
    Last(Version, Record),
    /// There is nothing.
    None,
    /// The stack was made of this before, and it is written down that it worked.
    Unchanged,
    /// It cannot be found, for this reason.
    Lost(String),
}

impl WayBack {
    /// What there is. `changes` says whether the deployment changes the template.
    pub(super) async fn of(
        deployment: &Deployment,
        before: Option<Version>,
        changes: bool,
    ) -> Result<Self, Error> {
        let Some(before) = before else {
            return Ok(Self::None);
        };
        let history = deployment.history().await?;
        if changes {
            let record = history.into_iter().find(|record| before.is(record));
            return Ok(Self::Before(before, record));
        }
        match history.into_iter().next() {
            None => Ok(Self::None),
            Some(last) if before.is(&last) => Ok(Self::Unchanged),
            Some(last) => {
                let mut version = deployment.version(&last).await?;
                version.parameters = before.parameters;
                Ok(Self::Last(version, last))
            }
        }
    }

    /// Whether the stack is changed once more.
    pub(super) fn goes(&self) -> bool {
        matches!(self, Self::Before(..) | Self::Last(..))
    }

    /// Goes it.
    pub(super) async fn go(
        self,
        deployment: &Deployment,
        stack: &str,
        kept: &Kept,
        builder: &Builder,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> After {
        let (version, record, to) = match self {
            Self::None => return After::Alone,
            Self::Unchanged => {
                return After::Unchanged {
                    stack: stack.to_owned(),
                };
            }
            Self::Lost(why) => {
                return After::Stuck {
                    stack: stack.to_owned(),
                    why,
                };
            }
            Self::Before(version, record) => (version, record, None),
            Self::Last(version, record) => {
                let to = record.at.to_string();
                (version, Some(record), Some(to))
            }
        };
        let gone = async {
            let images = match &record {
                Some(record) => deployment.images_of(&version, record).await?,
                None => Vec::new(),
            };
            go_back(deployment, &version, kept, (&images, builder), progress).await
        };
        let stack = stack.to_owned();
        match gone.await {
            Ok(()) => After::Back { stack, to },
            Err(error) => After::Stuck {
                stack,
                why: error.to_string(),
            },
        }
    }
}
