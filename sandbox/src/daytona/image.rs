//! The `image` of a Daytona sandbox: a snapshot's name, or a Dockerfile made
//! of the keys in the registry.

use crate::shell::quote;
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

/// An image to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// The Dockerfile.
    pub(super) dockerfile: String,
    /// Where the work takes place, if the registry says so.
    pub(super) workdir: Option<String>,
    /// Whom the processes belong to, if the registry says so.
    pub(super) user: Option<String>,
    /// Cores.
    pub(super) cpu: Option<u32>,
    /// Memory in GB.
    pub(super) memory: Option<u32>,
    /// Disk in GB.
    pub(super) disk: Option<u32>,
}

const KEYS: [&str; 14] = [
    "apt",
    "base",
    "cmd",
    "cpu",
    "debian_slim",
    "disk",
    "entrypoint",
    "env",
    "memory",
    "pip",
    "run",
    "snapshot",
    "user",
    "workdir",
];

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
            known if KEYS.contains(&known) => {}
            _ => {
                return Err(format!(
                    "`image.{key}` is not known to Daytona sandboxes; known are {}",
                    KEYS.join(", ")
                ));
            }
        }
    }
    if image.is_empty() {
        return Ok(Image::Default);
    }
    if let Some(snapshot) = image.get("snapshot") {
        if image.len() > 1 {
            return Err(
                "`image.snapshot` is a finished image; no other key of `image` goes with it"
                    .to_owned(),
            );
        }
        return Ok(Image::Snapshot(word("snapshot", snapshot)?));
    }
    build(image).map(Image::Built)
}

fn build(image: &BTreeMap<String, Value>) -> Result<Built, String> {
    let from = match (image.get("base"), image.get("debian_slim")) {
        (Some(base), None) => word("base", base)?,
        (None, Some(version)) => format!("python:{}-slim-bookworm", python_version(version)?),
        (Some(_), Some(_)) => {
            return Err("`image` has both `base` and `debian_slim`; give one of them".to_owned());
        }
        (None, None) => {
            return Err(
                "`image` needs `base` (an image), `debian_slim` (a Python version) or `snapshot`"
                    .to_owned(),
            );
        }
    };
    let mut lines = vec![format!("FROM {from}")];

    let workdir = image
        .get("workdir")
        .map(|value| absolute_path("workdir", value))
        .transpose()?;
    if let Some(directory) = &workdir {
        lines.push(format!("WORKDIR {directory}"));
    }
    if let Some(env) = image.get("env") {
        lines.extend(environment(env)?);
    }
    if let Some(packages) = image.get("apt") {
        let packages: Vec<String> = list("apt", packages)?.iter().map(|p| quote(p)).collect();
        if !packages.is_empty() {
            lines.push(run(&format!(
                "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {} \
                 && rm -rf /var/lib/apt/lists/*",
                packages.join(" ")
            )));
        }
    }
    if let Some(packages) = image.get("pip") {
        let packages: Vec<String> = list("pip", packages)?.iter().map(|p| quote(p)).collect();
        if !packages.is_empty() {
            lines.push(run(&format!(
                "python3 -m pip install --no-cache-dir {}",
                packages.join(" ")
            )));
        }
    }
    if let Some(commands) = image.get("run") {
        lines.extend(list("run", commands)?.iter().map(|command| run(command)));
    }
    let user = image.get("user").map(user_name).transpose()?;
    if let Some(user) = &user {
        if user != "root" {
            lines.push(run(&format!(
                "id -u {user} >/dev/null 2>&1 || useradd -m {user}"
            )));
            if let Some(directory) = &workdir {
                lines.push(run(&format!("chown {user} {}", quote(directory))));
            }
        }
        lines.push(format!("USER {user}"));
    }
    for (key, instruction) in [("entrypoint", "ENTRYPOINT"), ("cmd", "CMD")] {
        if let Some(value) = image.get(key) {
            lines.push(format!("{instruction} {}", Value::from(list(key, value)?)));
        }
    }
    Ok(Built {
        dockerfile: lines.join("\n") + "\n",
        workdir,
        user,
        cpu: amount(image, "cpu")?,
        memory: amount(image, "memory")?,
        disk: amount(image, "disk")?,
    })
}

/// The exec form takes any command as it is: no continuation lines, no
/// comments, no here-documents of Dockerfile's own.
fn run(command: &str) -> String {
    format!("RUN {}", Value::from(vec!["/bin/sh", "-c", command]))
}

fn environment(env: &Value) -> Result<Vec<String>, String> {
    let Value::Object(map) = env else {
        return Err(format!(
            "`image.env` is {}; it has to be a map of names to values",
            kind(env)
        ));
    };
    let mut lines = Vec::new();
    for (name, value) in map {
        let fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Err(format!(
                "`image.env.{name}` is not a name of an environment variable"
            ));
        }
        if ["_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return Err(format!(
                "`image.env.{name}` looks like a secret, and an image is no place for one; put it into an `env_file`"
            ));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            other => {
                return Err(format!(
                    "`image.env.{name}` is {}; it has to be a text",
                    kind(other)
                ));
            }
        };
        if text.contains(['\n', '\r', '\0']) {
            return Err(format!(
                "`image.env.{name}` has more than one line; Dockerfiles can't hold that"
            ));
        }
        let mut quoted = String::new();
        for c in text.chars() {
            if matches!(c, '\\' | '"' | '$') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        lines.push(format!("ENV {name}=\"{quoted}\""));
    }
    Ok(lines)
}

fn python_version(value: &Value) -> Result<String, String> {
    let Value::String(version) = value else {
        return Err(format!(
            "`image.debian_slim` is {}; it is a Python version in quotes (\"3.12\"), for 3.10 as a number is 3.1",
            kind(value)
        ));
    };
    let parts: Vec<&str> = version.split('.').collect();
    let fits = (2..=3).contains(&parts.len())
        && parts
            .iter()
            .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if fits {
        Ok(version.clone())
    } else {
        Err(format!(
            "`image.debian_slim` is \"{version}\"; it has to be a Python version like \"3.12\""
        ))
    }
}

fn absolute_path(key: &str, value: &Value) -> Result<String, String> {
    let path = word(key, value)?;
    let fits = path.starts_with('/')
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if fits {
        Ok(path)
    } else {
        Err(format!(
            "`image.{key}` is \"{path}\"; it has to be an absolute path of letters, digits and . _ - /"
        ))
    }
}

fn user_name(value: &Value) -> Result<String, String> {
    let user = word("user", value)?;
    let fits = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && user
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    if fits {
        Ok(user)
    } else {
        Err(format!(
            "`image.user` is \"{user}\"; it has to be a Unix user's name"
        ))
    }
}

/// A text without white space.
fn word(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text)
            if !text.is_empty()
                && !text.contains(|c: char| c.is_whitespace() || c.is_control()) =>
        {
            Ok(text.clone())
        }
        Value::String(text) => Err(format!(
            "`image.{key}` is \"{text}\"; it has to be one word"
        )),
        other => Err(format!(
            "`image.{key}` is {}; it has to be a text",
            kind(other)
        )),
    }
}

/// A list of texts; a single text counts as a list of one.
fn list(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    items
        .iter()
        .map(|item| match item {
            Value::String(text) if !text.is_empty() && !text.contains('\0') => Ok(text.clone()),
            Value::String(_) => Err(format!("`image.{key}` holds an empty text")),
            other => Err(format!(
                "`image.{key}` holds {}; it has to be a list of texts",
                kind(other)
            )),
        })
        .collect()
}

fn amount(image: &BTreeMap<String, Value>, key: &str) -> Result<Option<u32>, String> {
    let Some(value) = image.get(key) else {
        return Ok(None);
    };
    match value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0)
    {
        Some(amount) => Ok(Some(amount)),
        None => {
            let unit = if key == "cpu" { "cores" } else { "GB" };
            Err(format!(
                "`image.{key}` is {value}; it has to be a whole number of {unit} above 0"
            ))
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
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
