//! The `image` of a Daytona sandbox: a snapshot's name, or a Dockerfile made
//! of the keys in the registry.

use crate::image::{Built, KEYS, NO_TOOLS, build, word};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// Daytona's own default.
    Default,
    /// A snapshot, by name or id.
    Snapshot(String),
    /// Built from a Dockerfile.
    Built(Built),
}

/// What else than layers Daytona takes.
const SNAPSHOT: &str = "snapshot";

/// Reads the `image` map. The error is a sentence that names the key.
pub(super) fn read(image: &BTreeMap<String, Value>) -> Result<Image, String> {
    for key in image.keys() {
        match key.as_str() {
            "dockerfile" | "pip_requirements" => {
                return Err(format!(
                    "`image.{key}` names a file of the project, which this version can't send to Daytona; \
                     write it out with `base`, `apt`, `pip` and `run`, or build a snapshot and name it with `snapshot`"
                ));
            }
            "tools" => return Err(format!("`image.{key}` {NO_TOOLS}")),
            known if known == SNAPSHOT || KEYS.contains(&known) => {}
            _ => {
                return Err(format!(
                    "`image.{key}` is not known to Daytona sandboxes; known are {}, {SNAPSHOT}",
                    KEYS.join(", ")
                ));
            }
        }
    }
    if image.is_empty() {
        return Ok(Image::Default);
    }
    if let Some(snapshot) = image.get(SNAPSHOT) {
        if image.len() > 1 {
            return Err(
                "`image.snapshot` is a finished image; no other key of `image` goes with it"
                    .to_owned(),
            );
        }
        return Ok(Image::Snapshot(word(SNAPSHOT, snapshot)?));
    }
    build(image).map(Image::Built)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn image(value: Value) -> Result<Image, String> {
        read(&serde_json::from_value(value).unwrap())
    }

    fn dockerfile(value: Value) -> String {
        match image(value).unwrap() {
            Image::Built(built) => built.dockerfile,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn nothing_asked_for_is_the_default() {
        assert_eq!(image(json!({})).unwrap(), Image::Default);
    }

    #[test]
    fn all_layers_in_order() {
        let made = dockerfile(json!({
            "debian_slim": "3.12", "apt": ["git", "jq"], "workdir": "/w", "user": "me",
            "env": {"A": "say \"$HOME\""}, "pip": ["x>=1"], "run": ["echo hi \\\nthere"],
            "entrypoint": ["sleep"], "cmd": ["infinity"],
        }));
        let expected = [
            "FROM python:3.12-slim-bookworm",
            "WORKDIR /w",
            r#"ENV A="say \"\$HOME\"""#,
            r#"RUN ["/bin/sh","-c","apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends 'git' 'jq' && rm -rf /var/lib/apt/lists/*"]"#,
            r#"RUN ["/bin/sh","-c","python3 -m pip install --no-cache-dir 'x>=1'"]"#,
            r#"RUN ["/bin/sh","-c","echo hi \\\nthere"]"#,
            r#"RUN ["/bin/sh","-c","id -u me >/dev/null 2>&1 || useradd -m me"]"#,
            r#"RUN ["/bin/sh","-c","chown me '/w'"]"#,
            "USER me",
            r#"ENTRYPOINT ["sleep"]"#,
            r#"CMD ["infinity"]"#,
        ];
        assert_eq!(made.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sizes_go_with_an_image() {
        let Image::Built(built) =
            image(json!({"base": "a:1", "cpu": 2, "memory": 4, "disk": 8})).unwrap()
        else {
            return assert_eq!("built", "something else");
        };
        assert_eq!(
            (built.cpu, built.memory, built.disk),
            (Some(2), Some(4), Some(8))
        );
        assert_eq!(built.dockerfile, "FROM a:1\n");
    }

    #[test]
    fn what_does_not_go_is_refused_by_name() {
        for (value, part) in [
            (
                json!({"base": "a", "debian_slim": "3.12"}),
                "both `base` and `debian_slim`",
            ),
            (json!({"apt": ["git"]}), "needs `base`"),
            (json!({"snapshot": "s", "cpu": 2}), "no other key"),
            (json!({"nonsense": 1, "base": "a"}), "`image.nonsense`"),
            (json!({"dockerfile": "Dockerfile"}), "`image.dockerfile`"),
            (json!({"debian_slim": 3.12}), "in quotes"),
            (json!({"base": "a\nRUN evil"}), "one word"),
            (json!({"base": "a", "workdir": "/a $b"}), "`image.workdir`"),
            (json!({"base": "a", "workdir": "relative"}), "absolute path"),
            (json!({"base": "a", "user": "a;b"}), "`image.user`"),
            (json!({"base": "a", "env": {"MY_API_KEY": "x"}}), "env_file"),
            (
                json!({"base": "a", "env": {"A": "x\ny"}}),
                "more than one line",
            ),
            (json!({"base": "a", "cpu": 0.5}), "`image.cpu`"),
            (json!({"base": "a", "run": [1]}), "`image.run`"),
        ] {
            let error = image(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
    }
}
