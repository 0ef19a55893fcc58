//! The `image` of a docker sandbox: an image as it is, or one to build, and how
//! much of the machine goes with it.

use crate::image::{Built, NOBODY, build_for_runner, run};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Where images that were built are kept.
const REPOSITORY: &str = "loopy-sandbox";

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Its name in the engine.
    pub(super) reference: String,
    /// What it is built from; an image without one is taken as it is.
    pub(super) dockerfile: Option<String>,
    /// Where the work takes place, if the registry says so.
    pub(super) workdir: Option<String>,
    /// Whom the processes belong to.
    pub(super) user: String,
    /// Cores, if the registry says so.
    pub(super) cpu: Option<u32>,
    /// Memory in GB, if the registry says so.
    pub(super) memory: Option<u32>,
    /// Whether the harness's program is put in from outside.
    pub(super) tools: bool,
}

/// Reads the `image` map. The error is a sentence that names the key.
pub(super) fn read(image: &BTreeMap<String, Value>) -> Result<Image, String> {
    let Built {
        mut dockerfile,
        workdir,
        user,
        cpu,
        memory,
        disk: _,
        tools,
    } = build_for_runner(image, "docker", |key| {
        (key == "disk").then_some("can't be enforced by the engine; leave it out")
    })?;
    if let (Some(directory), None) = (&workdir, &user) {
        // A volume lies over it, which takes its mode from here.
        dockerfile.push_str(&format!(
            "USER root\n{}\n",
            run(&format!("chmod 1777 {directory}"))
        ));
    }
    let plain = dockerfile
        .strip_prefix("FROM ")
        .map(str::trim_end)
        .filter(|base| !base.contains('\n'));
    let (reference, dockerfile) = match plain {
        Some(base) => (base.to_owned(), None),
        None => (
            format!(
                "{REPOSITORY}:{}",
                hex::encode(Sha256::digest(dockerfile.as_bytes()))
            ),
            Some(dockerfile),
        ),
    };
    Ok(Image {
        reference,
        dockerfile,
        workdir,
        user: user.unwrap_or_else(|| NOBODY.to_owned()),
        cpu,
        memory,
        tools,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn image(value: Value) -> Result<Image, String> {
        read(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn an_image_that_needs_no_layer_is_taken_as_it_is() {
        let plain = image(json!({"base": "mine:1", "cpu": 2, "memory": 3})).unwrap();
        assert_eq!(
            (plain.reference.as_str(), plain.dockerfile),
            ("mine:1", None)
        );
        assert_eq!((plain.cpu, plain.memory), (Some(2), Some(3)));
        assert_eq!(plain.user, NOBODY);
        let none = image(json!({})).unwrap();
        assert_eq!(none.reference, "python:3.12-slim-bookworm");
        assert_eq!(none.dockerfile, None);
    }

    #[test]
    fn the_tag_is_the_content() {
        let made = |value| image(value).unwrap();
        let first = made(json!({"base": "a", "run": ["true"]}));
        assert!(first.reference.starts_with("loopy-sandbox:"));
        assert_eq!(first, made(json!({"run": ["true"], "base": "a"})));
        let other = made(json!({"base": "a", "run": ["false"]}));
        assert_ne!(first.reference, other.reference);
        // How much it may use is no part of an image.
        let larger = made(json!({"base": "a", "run": ["true"], "memory": 8}));
        assert_eq!(first.reference, larger.reference);
    }

    #[test]
    fn a_workdir_can_be_written_to_whoever_works_in_it() {
        let nobody = image(json!({"base": "a", "workdir": "/w"})).unwrap();
        assert_eq!(
            nobody.dockerfile.unwrap(),
            "FROM a\nWORKDIR /w\nUSER root\nRUN [\"/bin/sh\",\"-c\",\"chmod 1777 /w\"]\n"
        );
        let somebody = image(json!({"base": "a", "workdir": "/w", "user": "me"})).unwrap();
        assert_eq!(somebody.user, "me");
        assert!(!somebody.dockerfile.unwrap().contains("chmod"));
    }

    #[test]
    fn what_does_not_go_is_refused_by_name() {
        for (value, part) in [
            (json!({"snapshot": "s"}), "`image.snapshot`"),
            (
                json!({"base": "a", "entrypoint": ["x"]}),
                "`image.entrypoint`",
            ),
            (json!({"base": "a", "cmd": ["x"]}), "`image.cmd`"),
            (json!({"base": "a", "disk": 8}), "`image.disk`"),
            (json!({"dockerfile": "Dockerfile"}), "`image.dockerfile`"),
            (
                json!({"base": "a", "nonsense": 1}),
                "known are apt, base, cpu",
            ),
            (json!({"base": "a", "cpu": 0.5}), "`image.cpu`"),
        ] {
            let error = image(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
