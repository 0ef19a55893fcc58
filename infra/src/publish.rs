//! The part of a deployment that is about images: which of a stack's are missing in
//! its repository, and which an earlier version had.

use crate::archive;
use crate::deploy::{DeployError, Deployment, Record, Version};
use crate::events::Progress;
use crate::images::{Builder, Repository};
use crate::stack::fargate::{BUILD, IMAGES};
use crate::stack::{Architecture, Image, used_sandboxes};
use loopy_contract::manifest::Manifest;
use loopy_sandbox::FARGATE;
use loopy_sandbox::fargate::{RUNNER, Task};
use serde_json::Value;
use std::collections::BTreeMap;

impl Deployment {
    /// Sees to it that the stack's repository has the images, where the stack has a
    /// repository: called before a change, so that nothing is launched from an image
    /// that is still to be made, and after it, as a new stack has none before.
    ///
    /// # Errors
    /// [`DeployError::Image`] names the sandboxes whose image cannot be had.
    pub async fn publish_images(
        &self,
        images: &[Image],
        builder: &Builder,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        if images.is_empty() {
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
        for image in images {
            let made = repository.publish(image, builder, progress).await;
            made.map_err(|why| DeployError::Image {
                sandboxes: image.sandboxes.join(", "),
                why,
            })?;
        }
        Ok(())
    }

    /// The images that an earlier version needs, from the zips that they were built
    /// from: its repository may have gone since, and with it all of them.
    ///
    /// # Errors
    /// [`DeployError::Image`] when a zip is gone or damaged.
    pub async fn images_of(
        &self,
        version: &Version,
        record: &Record,
    ) -> Result<Vec<Image>, DeployError> {
        let (_, bucket) = self.standing().await?;
        let bucket = self.bucket(&bucket);
        let mut images = Vec::new();
        for key in &record.assets {
            let Some(tag) = key
                .strip_prefix("images/")
                .and_then(|name| name.strip_suffix(".zip"))
            else {
                continue;
            };
            let Some(zip) = bucket.read(key).await? else {
                return Err(DeployError::Gone {
                    at: record.at,
                    key: key.clone(),
                });
            };
            let architecture = architecture(&version.template);
            let image = of_zip(tag, &zip, architecture, version.manifest.as_ref());
            images.push(image.map_err(|why| DeployError::Image {
                sandboxes: key.clone(),
                why,
            })?);
        }
        Ok(images)
    }
}

/// What a template's functions, and so its images, are made for.
fn architecture(template: &str) -> Architecture {
    let template: Value = serde_saphyr::from_str(template).unwrap_or_default();
    let function = &template["Resources"]["StepFunction"]["Properties"];
    if function["Architectures"][0] == Architecture::Arm64.name() {
        Architecture::Arm64
    } else {
        Architecture::X86_64
    }
}

/// The image that is built from a zip, and the sandboxes that it is for.
fn of_zip(
    tag: &str,
    zip: &[u8],
    architecture: Architecture,
    manifest: Option<&Manifest>,
) -> Result<Image, String> {
    let mut dockerfile = None;
    let mut files = BTreeMap::new();
    for (path, bytes) in archive::unpack(zip)? {
        match path.as_str() {
            "Dockerfile" => dockerfile = String::from_utf8(bytes).ok(),
            RUNNER => {
                files.insert(RUNNER, bytes);
            }
            other => return Err(format!("nobody knows what {other} is for")),
        }
    }
    let dockerfile = dockerfile.ok_or_else(|| "it holds no Dockerfile".to_owned())?;
    let sandboxes = manifest.map(used_sandboxes).unwrap_or_default();
    let sandboxes = sandboxes
        .into_iter()
        .filter(|(_, sandbox)| sandbox.provider == FARGATE)
        .filter(|(_, sandbox)| Task::of(sandbox).is_ok_and(|task| task.dockerfile == dockerfile))
        .map(|(name, _)| name.to_owned())
        .collect();
    Ok(Image {
        tag: tag.to_owned(),
        sandboxes,
        architecture,
        dockerfile,
        files,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::stack::{Binaries, FUNCTIONS, stack};
    use serde_json::json;

    #[test]
    fn an_image_comes_back_from_the_zip_that_it_was_built_from() {
        let manifest = serde_json::from_value::<Manifest>(json!({
            "schema_version": "3", "loopy_version": "0",
            "registry": {
                "sandboxes": {"Box": {"provider": "fargate", "image": {"base": "debian:12"},
                    "network": [], "env_file": [], "repos": []}},
                "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": []}},
                "events": {},
            },
            "workflows": {"w": {"entry": null, "steps": {"go": {
                "id": "w/go", "trigger": null, "after": [], "agent": "Worker", "output": {},
                "emits": [], "budget": null, "body": "true", "refs": [],
            }}}},
            "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
        }))
        .unwrap()
        .seal();
        for architecture in [Architecture::X86_64, Architecture::Arm64] {
            let binaries = Binaries {
                architecture,
                functions: FUNCTIONS
                    .map(|name| (name, name.as_bytes().to_vec()))
                    .into(),
                runner: b"runner".to_vec(),
            };
            let made = stack(&manifest, &BTreeMap::new(), &binaries, false).unwrap();
            let [image] = &made.images[..] else {
                unreachable!("one image")
            };
            let asset = image.asset().unwrap();
            assert_eq!(asset.key, format!("images/{}.zip", image.tag));
            let read = super::architecture(&made.template);
            let back = of_zip(&image.tag, &asset.bytes, read, Some(&manifest)).unwrap();
            assert!(back == *image);
            assert_eq!(back.sandboxes, ["Box"]);
        }
        assert!(of_zip("x", b"no zip", Architecture::X86_64, None).is_err());
    }
}
