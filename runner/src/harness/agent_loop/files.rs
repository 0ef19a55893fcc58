//! `read` and `edit`: files of the workspace, and of what commands said.

use super::super::Job;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Bytes of the largest file that is read or edited.
const LARGEST: u64 = 8 * 1024 * 1024;
/// Bytes of one `read`.
const MOST_BYTES: usize = 32 * 1024;
/// Lines of one `read` that does not say how many.
const LINES: usize = 400;
/// Names of a folder.
const NAMES: usize = 500;
/// The beginning of the names of files with what a command said.
pub(super) const OUTPUT: &str = "output-";

/// The schema of `read`.
pub(super) fn read_schema() -> Value {
    json!({
        "type": "object",
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "description": "a file or a folder"},
            "from": {"type": "integer", "minimum": 1, "description": "the first line, 1 if left out"},
            "lines": {"type": "integer", "minimum": 1, "description": "how many lines, 400 if left out"},
        },
        "additionalProperties": false,
    })
}

/// The schema of `edit`.
pub(super) fn edit_schema() -> Value {
    json!({
        "type": "object",
        "required": ["path", "new"],
        "properties": {
            "path": {"type": "string"},
            "old": {"type": "string", "description": "the exact text to replace, which must occur once; left out, a new file is made"},
            "new": {"type": "string", "description": "the text in its place, or the content of the new file"},
            "all": {"type": "boolean", "description": "replace each occurrence"},
        },
        "additionalProperties": false,
    })
}

#[derive(Deserialize)]
struct Read {
    path: String,
    from: Option<usize>,
    lines: Option<usize>,
}

#[derive(Deserialize)]
struct Edit {
    path: String,
    old: Option<String>,
    new: String,
    #[serde(default)]
    all: bool,
}

/// Reads lines of a file, or the names in a folder.
///
/// # Errors
/// What is wrong, for the model.
pub(super) fn read(job: &Job<'_>, input: &Value) -> Result<String, String> {
    let input = Read::deserialize(input).map_err(|error| error.to_string())?;
    let place = place(job, &input.path, true)?;
    let about = std::fs::metadata(&place).map_err(|error| format!("{}: {error}", input.path))?;
    if about.is_dir() {
        return folder(&place).map_err(|error| format!("{}: {error}", input.path));
    }
    let text = content(&place, &input.path)?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let first = input.from.unwrap_or(1).max(1);
    let wanted = input.lines.unwrap_or(LINES);
    let mut shown = String::new();
    let mut last = first - 1;
    for line in lines.iter().skip(first - 1).take(wanted) {
        if shown.len() + line.len() > MOST_BYTES {
            if shown.is_empty() {
                shown = crate::redact::head(line, MOST_BYTES);
                last += 1;
            }
            break;
        }
        shown.push_str(line);
        last += 1;
    }
    let total = lines.len();
    if first > total.max(1) {
        return Err(format!("{} has {total} lines", input.path));
    }
    if first == 1 && last == total {
        return Ok(shown);
    }
    Ok(format!("[lines {first} to {last} of {total}]\n{shown}"))
}

/// Replaces text in a file, or makes a file.
///
/// # Errors
/// What is wrong, for the model.
pub(super) fn edit(job: &Job<'_>, input: &Value) -> Result<String, String> {
    let input = Edit::deserialize(input).map_err(|error| error.to_string())?;
    let place = place(job, &input.path, false)?;
    let failed = |error: std::io::Error| format!("{}: {error}", input.path);
    let Some(old) = input.old.filter(|old| !old.is_empty()) else {
        if std::fs::metadata(&place).is_ok_and(|about| !about.is_file() || about.len() > 0) {
            return Err(format!(
                "{} is there already; say in `old` which text of it is to be replaced",
                input.path
            ));
        }
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::write(&place, &input.new).map_err(failed)?;
        return Ok(format!("made {}, {} bytes", input.path, input.new.len()));
    };
    let text = content(&place, &input.path)?;
    let count = text.matches(&old).count();
    if count == 0 {
        return Err(format!(
            "`old` does not occur in {}; read the file and take the text exactly as it stands there",
            input.path
        ));
    }
    if count > 1 && !input.all {
        return Err(format!(
            "`old` occurs {count} times in {}; take more of the text around it, or set `all`",
            input.path
        ));
    }
    if old == input.new {
        return Err("`old` and `new` are the same".to_owned());
    }
    std::fs::write(&place, text.replace(&old, &input.new)).map_err(failed)?;
    let line = text
        .split(&old)
        .next()
        .unwrap_or_default()
        .matches('\n')
        .count()
        + 1;
    Ok(format!(
        "replaced {count} in {}, the first at line {line}",
        input.path
    ))
}

/// Where a path of the model is.
fn place(job: &Job<'_>, path: &str, may_be_output: bool) -> Result<PathBuf, String> {
    let given = Path::new(path);
    if given.is_absolute() {
        let name = given.file_name().and_then(|name| name.to_str());
        if may_be_output
            && let Some(name) = name.filter(|name| name.starts_with(OUTPUT))
            && job.control.file(name) == given
        {
            return Ok(given.to_owned());
        }
    }
    let relative = given.strip_prefix(job.workspace.root()).unwrap_or(given);
    job.workspace
        .inside(&relative.to_string_lossy())
        .map_err(|failure| failure.message)
}

fn content(place: &Path, path: &str) -> Result<String, String> {
    let about = std::fs::metadata(place).map_err(|error| format!("{path}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{path} is no file"));
    }
    if about.len() > LARGEST {
        return Err(format!(
            "{path} has {} bytes, too many for this tool; look at parts of it with a command",
            about.len()
        ));
    }
    let bytes = std::fs::read(place).map_err(|error| format!("{path}: {error}"))?;
    String::from_utf8(bytes)
        .map_err(|error| format!("{path} is no text; it has {} bytes", error.as_bytes().len()))
}

fn folder(place: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let more = names.len().saturating_sub(NAMES);
    names.truncate(NAMES);
    if more > 0 {
        names.push(format!("[and {more} more]"));
    }
    if names.is_empty() {
        return Ok("[an empty folder]".to_owned());
    }
    Ok(names.join("\n"))
}
