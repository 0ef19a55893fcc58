//! Sees to it that the engine has a sandbox's image: finds, pulls or builds it. What
//! takes long goes on by itself, once for all launches that wait for it.

use super::Trouble;
use super::image::Image;
use super::work::{Ready, Work};
use bollard::Docker;
use bollard::body_full;
use bollard::query_parameters::{BuildImageOptions, CreateImageOptions};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// Bytes of a build's last words in a message.
const LAST_WORDS: usize = 2000;

/// The images of an engine.
#[derive(Clone, Default)]
pub(super) struct Images {
    /// By reference.
    work: Work,
}

impl Images {
    /// Whether the image is there; has it fetched or built where it is not, and
    /// waits that long for it.
    pub(super) async fn ready(
        &self,
        docker: &Docker,
        image: &Image,
        patience: Duration,
    ) -> Result<Ready, Trouble> {
        if !self.work.goes_on(&image.reference) {
            match docker.inspect_image(&image.reference).await {
                Ok(_) => return Ok(Ready::Now),
                Err(error) if super::status(&error) == Some(404) => {}
                Err(error) => return Err(Trouble::new("look for the image", error)),
            }
        }
        let (docker, image) = (docker.clone(), image.clone());
        let reference = image.reference.clone();
        let make = async move {
            match &image.dockerfile {
                Some(dockerfile) => {
                    let nothing = BTreeMap::new();
                    build(&docker, &image.reference, dockerfile, &nothing, None).await
                }
                None => pull(&docker, &image.reference).await,
            }
        };
        Ok(self.work.done(&reference, patience, make).await)
    }
}

async fn pull(docker: &Docker, reference: &str) -> Result<(), String> {
    tracing::info!("pulling the image {reference}");
    let mut options = CreateImageOptions {
        from_image: Some(reference.to_owned()),
        ..CreateImageOptions::default()
    };
    let named = reference.rsplit('/').next().unwrap_or(reference);
    if !named.contains([':', '@']) {
        // Without a tag the engine would pull all there are.
        options.tag = Some("latest".to_owned());
    }
    let mut progress = docker.create_image(Some(options), None, None);
    while let Some(step) = progress.next().await {
        step.map_err(|error| {
            format!("the image {reference} is not here and can't be pulled: {error}; check `image.base`, or pull it yourself")
        })?;
    }
    Ok(())
}

/// Builds an image from a Dockerfile and the executable files beside it, for the
/// engine's own platform or another one.
pub(super) async fn build(
    docker: &Docker,
    reference: &str,
    dockerfile: &str,
    files: &BTreeMap<&'static str, Vec<u8>>,
    platform: Option<&str>,
) -> Result<(), String> {
    tracing::info!("building the image {reference}");
    let context = context(dockerfile, files)
        .map_err(|error| format!("its Dockerfile can't be packed: {error}"))?;
    let options = BuildImageOptions {
        dockerfile: "Dockerfile".to_owned(),
        t: Some(reference.to_owned()),
        rm: true,
        forcerm: true,
        labels: Some([("loopy".to_owned(), "1".to_owned())].into()),
        platform: platform.unwrap_or_default().to_owned(),
        ..BuildImageOptions::default()
    };
    let mut said = String::new();
    let mut progress = docker.build_image(options, None, Some(body_full(context)));
    while let Some(step) = progress.next().await {
        let problem = match step {
            Ok(step) => {
                said.push_str(step.stream.as_deref().unwrap_or_default());
                said = tail(&said).to_owned();
                step.error_detail.and_then(|detail| detail.message)
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            return Err(format!(
                "the image can't be built: {problem}; the build's last words:\n{}",
                said.trim()
            ));
        }
    }
    Ok(())
}

/// The end of what somebody said.
pub(super) fn tail(said: &str) -> &str {
    let start = said.ceil_char_boundary(said.len().saturating_sub(LAST_WORDS));
    said.get(start..).unwrap_or_default()
}

/// A build's context: the Dockerfile, and what lies beside it.
fn context(dockerfile: &str, files: &BTreeMap<&'static str, Vec<u8>>) -> io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, name, bytes)
    };
    add("Dockerfile", 0o644, dockerfile.as_bytes())?;
    for (name, bytes) in files {
        add(name, 0o755, bytes)?;
    }
    archive.into_inner().map(Bytes::from)
}
