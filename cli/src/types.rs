//! Writes the types for sensor code into a project: what `loopy compile` does
//! beside the manifest.

use crate::output::Terminal;
use loopy_compiler::generate::{FOLDER, MARK};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the types for sensors to {}: {source}", .path.display())]
pub(crate) struct TypesError {
    path: PathBuf,
    source: io::Error,
}

impl TypesError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        "--check writes nothing into the project".to_owned()
    }
}

/// Brings the generated files of the project up to date. A file that is as it
/// should be is not touched, and neither is one that somebody else wrote.
pub(crate) fn write(
    project: &Path,
    files: &BTreeMap<&str, String>,
    terminal: &Terminal,
) -> Result<(), TypesError> {
    let folder = project.join(FOLDER);
    // A link could lead out of the project.
    match folder.symlink_metadata() {
        Ok(found) if !found.is_dir() => {
            leave_alone(&folder, terminal);
            return Ok(());
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir(&folder).map_err(at(&folder))?;
        }
        Err(error) => return Err(at(&folder)(error)),
    }
    for (name, text) in files {
        let path = folder.join(name);
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => {
                leave_alone(&path, terminal);
                continue;
            }
            Ok(_) => {
                let found = std::fs::read(&path).map_err(at(&path))?;
                if found == text.as_bytes() {
                    continue;
                }
                if !is_generated(&found) {
                    leave_alone(&path, terminal);
                    continue;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path)(error)),
        }
        // Whole or not at all, as an editor may be reading it.
        let beside = folder.join(format!(".{name}.{}", std::process::id()));
        let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path));
        if let Err(source) = written {
            // What went wrong is told; a half-written file beside it is no news.
            let _ = std::fs::remove_file(&beside);
            return Err(at(&path)(source));
        }
    }
    Ok(())
}

/// Whether the first line says that `loopy compile` wrote the file.
fn is_generated(bytes: &[u8]) -> bool {
    let first = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(first).contains(MARK)
}

fn leave_alone(path: &Path, terminal: &Terminal) {
    terminal.say(&format!(
        "left {} as it is: `loopy compile` did not write it; the types for sensors go there once it is moved away",
        path.display()
    ));
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> TypesError {
    let path = path.to_owned();
    move |source| TypesError { path, source }
}
