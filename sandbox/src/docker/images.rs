//! Sees to it that the engine has a sandbox's image: finds, pulls or builds it. What
//! takes long goes on by itself, once for all launches that wait for it.

use super::Trouble;
use super::image::Image;
use bollard::Docker;
use bollard::body_full;
use bollard::query_parameters::{BuildImageOptions, CreateImageOptions};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes of a build's last words in a message.
const LAST_WORDS: usize = 2000;

/// Images under way, by reference.
#[derive(Clone, Default)]
pub(super) struct Images {
    under_way: Arc<Mutex<BTreeMap<String, Outcome>>>,
}

/// What comes of the work on one; nothing as long as it goes on.
type Outcome = watch::Receiver<Option<Result<(), String>>>;

/// How far an image is.
pub(super) enum Ready {
    /// It is there.
    Now,
    /// It is being pulled or built.
    Later,
    /// It can't be had, for this reason.
    Never(String),
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
        let mut outcome = match self.find(&image.reference) {
            Some(outcome) => outcome,
            None => match docker.inspect_image(&image.reference).await {
                Ok(_) => return Ok(Ready::Now),
                Err(error) if super::status(&error) == Some(404) => self.begin(docker, image),
                Err(error) => return Err(Trouble::new("look for the image", error)),
            },
        };
        let over = timeout(patience, outcome.wait_for(Option::is_some)).await;
        let result = match over {
            Err(_) => return Ok(Ready::Later),
            Ok(Ok(result)) => result.clone(),
            Ok(Err(_)) => Some(Err("the work on it was broken off".to_owned())),
        };
        self.forget(&image.reference);
        Ok(match result {
            Some(Err(why)) => Ready::Never(why),
            _ => Ready::Now,
        })
    }

    fn begin(&self, docker: &Docker, image: &Image) -> Outcome {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Another launch may have begun since this one looked.
        if let Some(outcome) = under_way.get(&image.reference) {
            return outcome.clone();
        }
        let (done, outcome) = watch::channel(None);
        under_way.insert(image.reference.clone(), outcome.clone());
        let (docker, image) = (docker.clone(), image.clone());
        tokio::spawn(async move {
            let made = match &image.dockerfile {
                Some(dockerfile) => {
                    build(
                        &docker,
                        &image.reference,
                        dockerfile,
                        &BTreeMap::new(),
                        None,
                    )
                    .await
                }
                None => pull(&docker, &image.reference).await,
            };
            done.send_replace(Some(made));
        });
        outcome
    }

    fn find(&self, reference: &str) -> Option<Outcome> {
        let under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.get(reference).cloned()
    }

    fn forget(&self, reference: &str) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let over = |outcome: &Outcome| outcome.borrow().is_some() || outcome.has_changed().is_err();
        // Not one that was begun anew meanwhile.
        if under_way.get(reference).is_some_and(over) {
            under_way.remove(reference);
        }
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
