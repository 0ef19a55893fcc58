//! Environment files: `KEY=VALUE` a line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An environment file could not be used. Never shows a value.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    /// The file is not there or cannot be read.
    #[error("cannot read {path}: {why}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The path leads out of the project.
    #[error("`{0}` leads out of the project; environment files must be inside it")]
    Outside(String),
    /// The file is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    NotText(PathBuf),
    /// A line has another form.
    #[error(
        "{path}, line {line}: expected `KEY=VALUE` with a key of letters, digits and `_` (no \
         `export`, and nothing that spans lines)"
    )]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

/// Reads the file at `path`.
///
/// # Errors
/// [`DotenvError`] says what is wrong, without showing a value.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>, DotenvError> {
    let bytes = std::fs::read(path).map_err(|why| DotenvError::Read {
        path: path.to_owned(),
        why,
    })?;
    let text = String::from_utf8(bytes).map_err(|_| DotenvError::NotText(path.to_owned()))?;
    parse(&text).map_err(|line| DotenvError::Line {
        path: path.to_owned(),
        line,
    })
}

/// Reads the file `relative` of the project; symbolic links must stay inside it.
///
/// # Errors
/// As [`read`], and [`DotenvError::Outside`].
pub fn read_inside(
    project: &Path,
    relative: &str,
) -> Result<BTreeMap<String, String>, DotenvError> {
    let outside = || DotenvError::Outside(relative.to_owned());
    let path = project.join(relative);
    let climbs = Path::new(relative).components().any(|part| {
        !matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if climbs {
        return Err(outside());
    }
    let resolve = |path: &Path| {
        path.canonicalize().map_err(|why| DotenvError::Read {
            path: path.to_owned(),
            why,
        })
    };
    if !resolve(&path)?.starts_with(resolve(project)?) {
        return Err(outside());
    }
    read(&path)
}

/// The pairs in `text`: a line is blank, a `#` comment, or `KEY=VALUE`; spaces
/// around key and value do not count, then quotes around the value do not
/// (first `"`, then `'`). A later line wins. An error is the number of the
/// first line that has another form, counted from 1.
///
/// # Errors
/// The line's number.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut pairs = BTreeMap::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(index + 1)?;
        let key = key.trim_end();
        if !is_name(key) || value.contains('\0') {
            return Err(index + 1);
        }
        let value = value.trim().trim_matches('"').trim_matches('\'');
        pairs.insert(key.to_owned(), value.to_owned());
    }
    Ok(pairs)
}

fn is_name(key: &str) -> bool {
    key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_rules_of_values() {
        let text =
            "# c\n\n A = 1 \nB=\"two words\"\nC='\"x\"'\nD=a=b # kept\nE=\nA=2\nF=\"'q'\"\r\n";
        let pairs = parse(text).unwrap();
        let get = |key: &str| pairs.get(key).map(String::as_str);
        assert_eq!(get("A"), Some("2"), "later lines win");
        assert_eq!(get("B"), Some("two words"));
        assert_eq!(get("C"), Some("\"x\""), "double quotes go first");
        assert_eq!(get("D"), Some("a=b # kept"), "no comments inside a line");
        assert_eq!(get("E"), Some(""));
        assert_eq!(get("F"), Some("q"), "double quotes, then single ones");
        assert_eq!(pairs.len(), 6);
    }

    #[test]
    fn what_is_no_pair_is_an_error_with_its_line() {
        assert_eq!(parse("A=1\nexport B=2"), Err(2));
        assert_eq!(parse("just text"), Err(1));
        assert_eq!(parse("\n\n1A=x"), Err(3));
        assert_eq!(parse("=x"), Err(1));
    }

    #[test]
    fn files_outside_the_project_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let project = outer.path().join("project");
        std::fs::create_dir_all(project.join("secrets")).unwrap();
        std::fs::write(outer.path().join("other.env"), "A=1").unwrap();
        std::fs::write(project.join("secrets/base.env"), "A=2").unwrap();
        std::os::unix::fs::symlink("../other.env", project.join("link.env")).unwrap();
        let inside = read_inside(&project, "./secrets/base.env").unwrap();
        assert_eq!(inside.get("A").map(String::as_str), Some("2"));
        for path in [
            "../other.env",
            "/etc/hostname",
            "secrets/../../other.env",
            "link.env",
        ] {
            let found = read_inside(&project, path);
            assert!(
                matches!(found, Err(DotenvError::Outside(_))),
                "{path}: {found:?}"
            );
        }
        let missing = read_inside(&project, "secrets/none.env")
            .unwrap_err()
            .to_string();
        assert!(missing.contains("secrets/none.env"), "{missing}");
    }

    #[test]
    fn an_error_never_shows_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.env");
        std::fs::write(&path, "export KEY=hunter2").unwrap();
        let error = read(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
