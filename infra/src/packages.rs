//! The packages of other people that a project's sensors bring along: what lies in
//! `sensors/node_modules` and `sensors/site-packages`. They are no part of the manifest;
//! whoever deploys reads them where they are installed.

use loopy_contract::manifest::Manifest;
use loopy_engine::sensor_host::Language;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What tools leave in the folders and no sensor imports.
const SKIPPED: [&str; 3] = [".bin", ".cache", "__pycache__"];

/// The files of packages, by language and path from the project's root.
#[derive(Clone, Debug, Default)]
pub struct Packages(BTreeMap<Language, BTreeMap<String, PackageFile>>);

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct PackageFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) executable: bool,
}

/// The packages cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot take along {} as a package of the sensors: {why}; install the packages again",
    path.display()
)]
pub struct PackagesError {
    path: PathBuf,
    why: String,
}

impl Packages {
    /// Those of a project, for the languages that it has sensors in.
    ///
    /// # Errors
    /// [`PackagesError`] names what cannot be read, or leads out of the project.
    pub fn read(project: &Path, manifest: &Manifest) -> Result<Self, PackagesError> {
        let fault = |path: &Path, why: &dyn std::fmt::Display| PackagesError {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let root = project.canonicalize().map_err(|why| fault(project, &why))?;
        let mut found = BTreeMap::new();
        for language in Language::ALL {
            let Some(folder) = folder(language).filter(|_| language.is_in(manifest)) else {
                continue;
            };
            let folder = project.join(folder);
            if !folder.is_dir() {
                continue;
            }
            let mut files = BTreeMap::new();
            // Some installers make links of packages; those are followed.
            let walk = WalkDir::new(&folder).follow_links(true).into_iter();
            let walk = walk.filter_entry(|entry| {
                let name = entry.file_name().to_string_lossy();
                !SKIPPED.contains(&name.as_ref())
            });
            for entry in walk {
                let entry = entry.map_err(|why| fault(why.path().unwrap_or(&folder), &why))?;
                let path = entry.path();
                if !entry.file_type().is_file() {
                    continue;
                }
                let real = path.canonicalize().map_err(|why| fault(path, &why))?;
                if !real.starts_with(&root) {
                    return Err(fault(path, &"it leads out of the project"));
                }
                let inside = path.strip_prefix(project).ok().and_then(Path::to_str);
                let inside = inside.ok_or_else(|| fault(path, &"its name is not UTF-8"))?;
                let metadata = entry.metadata().map_err(|why| fault(path, &why))?;
                let file = PackageFile {
                    bytes: std::fs::read(path).map_err(|why| fault(path, &why))?,
                    executable: metadata.permissions().mode() & 0o111 != 0,
                };
                files.insert(inside.to_owned(), file);
            }
            found.insert(language, files);
        }
        Ok(Self(found))
    }

    /// Those of a language.
    pub(crate) fn of(&self, language: Language) -> impl Iterator<Item = (&str, &PackageFile)> {
        let files = self.0.get(&language).into_iter().flatten();
        files.map(|(path, file)| (path.as_str(), file))
    }
}

/// Where the packages of a language are.
fn folder(language: Language) -> Option<&'static str> {
    match language {
        Language::Python => Some("sensors/site-packages"),
        Language::Typescript => Some("sensors/node_modules"),
        Language::Shell => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn manifest(source: &str) -> Manifest {
        serde_json::from_value(json!({
            "schema_version": "3", "loopy_version": "0",
            "registry": {"sandboxes": {}, "agents": {}, "events": {}}, "workflows": {},
            "sensors": [{"name": "a", "trigger": {"kind": "poll", "interval": "5m"},
                         "emits": "A", "source": source, "module": "sensors/a", "fn": "a"}],
            "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
        }))
        .unwrap()
    }

    #[test]
    fn packages_are_read_for_the_languages_in_use() {
        let project = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = project.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for path in [
            "sensors/node_modules/.bin/tool",
            "sensors/node_modules/@scope/a/index.js",
            "sensors/site-packages/a/__init__.py",
            "sensors/site-packages/a/__pycache__/__init__.pyc",
            "store/b/index.js",
            "node_modules/c/index.js",
        ] {
            write(path);
        }
        let link = project.path().join("sensors/node_modules/b");
        std::os::unix::fs::symlink("../../store/b", &link).unwrap();
        let names = |source: &str, language| -> Vec<String> {
            let packages = Packages::read(project.path(), &manifest(source)).unwrap();
            packages
                .of(language)
                .map(|(path, _)| path.to_owned())
                .collect()
        };
        assert_eq!(
            names("typescript", Language::Typescript),
            [
                "sensors/node_modules/@scope/a/index.js",
                "sensors/node_modules/b/index.js"
            ]
        );
        assert_eq!(
            names("module", Language::Python),
            ["sensors/site-packages/a/__init__.py"]
        );
        assert_eq!(names("module", Language::Typescript), [""; 0]);
        assert_eq!(names("shell", Language::Shell), [""; 0]);
        let out = project.path().join("sensors/node_modules/out");
        std::os::unix::fs::symlink("/etc", &out).unwrap();
        let found = Packages::read(project.path(), &manifest("typescript"));
        let why = found.err().unwrap().to_string();
        assert!(
            why.contains("leads out of the project") || why.contains("denied"),
            "{why}"
        );
    }
}
