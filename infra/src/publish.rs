//! The part of a deployment that is about images: which of a stack's are missing in
//! its repository.

use crate::deploy::{DeployError, Deployment};
use crate::events::Progress;
use crate::images::{Builder, Repository};
use crate::stack::Stack;
use crate::stack::fargate::{BUILD, IMAGES};

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
        let (outputs, bucket) = self.standing().await?;
        let (Some(uri), Some(project)) = (outputs.get(IMAGES), outputs.get(BUILD)) else {
            return Ok(());
        };
        let repository = Repository {
            clients: self.images(),
            bucket: self.bucket(&bucket),
            uri,
            project,
        };
        for image in &stack.images {
            let made = repository.publish(image, builder, progress).await;
            made.map_err(|why| DeployError::Image {
                sandboxes: image.sandboxes.join(", "),
                why,
            })?;
        }
        Ok(())
    }
}
