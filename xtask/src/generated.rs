//! Writes the files that are checked in and follow from the code: JSON Schemas
//! and the list of codes.

use crate::error::Error;
use loopy_compiler::{docs, schema};
use loopy_contract::manifest::Manifest;
use std::path::{Path, PathBuf};

/// All generated files: path below the root, and content.
fn files() -> Result<Vec<(&'static str, String)>, Error> {
    // As a `Schema`, it is written with its keywords in their usual order.
    let schemas = [
        (
            "schemas/manifest.schema.json",
            schemars::schema_for!(Manifest),
        ),
        (
            "schemas/registry.schema.json",
            schema::registry().try_into()?,
        ),
        ("schemas/step.schema.json", schema::step().try_into()?),
    ];
    let mut files = vec![("docs/errors.md", docs::errors())];
    for (path, schema) in schemas {
        files.push((path, serde_json::to_string_pretty(&schema)? + "\n"));
    }
    Ok(files)
}

/// Writes those that are not what they should be.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(root: &Path) -> Result<(), Error> {
    for (path, content) in stale(root)? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        std::fs::write(&path, content).map_err(Error::file(&path))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// Fails when a file is not what it should be.
///
/// # Errors
/// [`Error::Stale`] names the first.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    match stale(root)?.into_iter().next() {
        None => Ok(()),
        Some((path, _)) => Err(Error::Stale { path }),
    }
}

fn stale(root: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut stale = Vec::new();
    for (path, content) in files()? {
        let path = root.join(path);
        match std::fs::read_to_string(&path) {
            Ok(found) if found == content => {}
            Ok(_) => stale.push((path, content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                stale.push((path, content));
            }
            Err(error) => return Err(Error::file(&path)(error)),
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_code_generates() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        check(root).unwrap();
    }

    #[test]
    fn a_missing_or_changed_file_is_stale_until_written() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(check(folder.path()), Err(Error::Stale { .. })));
        write(folder.path()).unwrap();
        check(folder.path()).unwrap();
        let path = folder.path().join("schemas/manifest.schema.json");
        let content = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, content.replace("Manifest", "manifest")).unwrap();
        let error = check(folder.path()).unwrap_err().to_string();
        assert!(error.contains("cargo xtask gen"), "{error}");
    }
}
