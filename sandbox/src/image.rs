//! A Dockerfile from the keys of an `image` in the registry, for every provider
//! that builds images.

use crate::shell::quote;
use serde_json::Value;
use std::collections::BTreeMap;

/// An image to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Built {
    /// The Dockerfile.
    pub(crate) dockerfile: String,
    /// Where the work takes place, if the registry says so.
    pub(crate) workdir: Option<String>,
    /// Whom the processes belong to, if the registry says so.
    pub(crate) user: Option<String>,
    /// Cores.
    pub(crate) cpu: Option<u32>,
    /// Memory in GB.
    pub(crate) memory: Option<u32>,
    /// Disk in GB.
    pub(crate) disk: Option<u32>,
    /// Whether the harness's program is put in from outside.
    pub(crate) tools: bool,
}

/// The keys that make layers, or say what goes with them.
pub(crate) const KEYS: [&str; 14] = [
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
    "tools",
    "user",
    "workdir",
];

/// The Python of the image that is taken when the registry asks for none.
const DEFAULT_PYTHON: &str = "3.12";
/// A user that nearly every image knows, and that owns nothing: nobody.
pub(crate) const NOBODY: &str = "65534:65534";

/// Why only docker sandboxes take `tools`.
pub(crate) const NO_TOOLS: &str =
    "puts a program in from outside, which only docker sandboxes can; install it with `run`";

/// The Dockerfile of a provider whose images have Loopy's runner for their program.
/// `more` says why it refuses a key beside those that no such provider takes. Without
/// an image to begin with, it is Python's.
pub(crate) fn build_for_runner(
    image: &BTreeMap<String, Value>,
    provider: &str,
    more: impl Fn(&str) -> Option<&'static str>,
) -> Result<Built, String> {
    for key in image.keys() {
        let why = match key.as_str() {
            "dockerfile" | "pip_requirements" => Some(
                "names a file of the project, which this version doesn't send to a build; write it out with \
                 `base`, `apt`, `pip` and `run`, or build the image yourself and name it with `base`",
            ),
            "snapshot" => Some("names a snapshot of Daytona; name an image with `base`"),
            "entrypoint" | "cmd" => {
                Some("has no effect where the program is Loopy's runner; leave it out")
            }
            key => more(key),
        };
        if let Some(why) = why {
            return Err(format!("`image.{key}` {why}"));
        }
        if !KEYS.contains(&key.as_str()) {
            let known = |key: &&&str| !["entrypoint", "cmd"].contains(*key) && more(key).is_none();
            return Err(format!(
                "`image.{key}` is not known to {provider} sandboxes; known are {}",
                KEYS.iter()
                    .filter(known)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
    }
    let mut asked = image.clone();
    if !asked.contains_key("base") && !asked.contains_key("debian_slim") {
        asked.insert("debian_slim".to_owned(), Value::from(DEFAULT_PYTHON));
    }
    build(&asked)
}

/// The Dockerfile that the keys ask for. The error is a sentence that names the key.
pub(crate) fn build(image: &BTreeMap<String, Value>) -> Result<Built, String> {
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
        tools: truth(image, "tools")?,
    })
}

/// The exec form takes any command as it is: no continuation lines, no
/// comments, no here-documents of Dockerfile's own.
pub(crate) fn run(command: &str) -> String {
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
pub(crate) fn word(key: &str, value: &Value) -> Result<String, String> {
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

/// A whole number above 0. The error is a sentence that names the key.
pub(crate) fn amount(image: &BTreeMap<String, Value>, key: &str) -> Result<Option<u32>, String> {
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

fn truth(image: &BTreeMap<String, Value>, key: &str) -> Result<bool, String> {
    match image.get(key) {
        None => Ok(false),
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(other) => Err(format!(
            "`image.{key}` is {}; it has to be true or false",
            kind(other)
        )),
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
