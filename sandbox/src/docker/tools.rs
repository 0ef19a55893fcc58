//! The programs of harnesses, for images that do not have them: installed once on this
//! machine, each at the version that Loopy was tested with, and put into containers
//! from outside, as the runner is.
//!
//! npm fetches them, from the registry and by the settings of whoever runs Loopy. Its
//! lock file is written here, so what it takes has the hash that is pinned here.

use super::work::{Ready, Work};
use loopy_contract::manifest::Harness;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Where the program lies in a container.
pub(super) const FOLDER: &str = "/opt/loopy/tools";

/// The last of what npm says that a message holds, in bytes.
const LAST_WORDS: usize = 2000;

/// A package with a harness's program, as it was published.
struct Package {
    harness: Harness,
    /// `x86_64` or `aarch64`.
    machine: &'static str,
    name: &'static str,
    version: &'static str,
    /// The hash of its archive, as npm has it.
    integrity: &'static str,
    /// The folder with the program, inside of the package.
    programs: &'static str,
}

/// The packages, as of 2026-11-21. Of opencode there is none for aarch64.
const PACKAGES: [Package; 5] = [
    Package {
        harness: Harness::ClaudeCode,
        machine: "x86_64",
        name: "@anthropic-ai/claude-code-linux-x64",
        version: "2.1.329",
        integrity: "sha512-+n4lu1ubYAp02Y0X/MAUnxw9yY6SHHZ77F+IoW+V0wVoFuiI9opdH6gofjf14gXJCEYMTNpks7Gn1i8XZTKAWA==",
        programs: "",
    },
    Package {
        harness: Harness::ClaudeCode,
        machine: "aarch64",
        name: "@anthropic-ai/claude-code-linux-arm64",
        version: "2.1.329",
        integrity: "sha512-IiG5umFToSCVWqB1lEsxxwIxKgxPXyZ3DRU915v8J4Bz5Q3JpslM0ew1m5yaT+lFXBPvYxmsEgi0XI68XHND0A==",
        programs: "",
    },
    Package {
        harness: Harness::Codex,
        machine: "x86_64",
        name: "@openai/codex",
        version: "0.169.0-linux-x64",
        integrity: "sha512-o05NyAOCDygSPRo1yinzxvkRSdmsZyBD9E7mbpmjRanSfM8lypqWtQgEo4XfNkwhuCR2aFu8mlGOsQGFXVbVww==",
        programs: "vendor/x86_64-unknown-linux-musl/bin",
    },
    Package {
        harness: Harness::Codex,
        machine: "aarch64",
        name: "@openai/codex",
        version: "0.169.0-linux-arm64",
        integrity: "sha512-NZ/DaQUpcQmxmqee7Z9uC1rzw3GhSbooawcaTe1LN5Yk+WlinUKGdTXJgClRT/9ogQEEM9TWxYzvxPfj5G/xFg==",
        programs: "vendor/aarch64-unknown-linux-musl/bin",
    },
    Package {
        harness: Harness::Opencode,
        machine: "x86_64",
        name: "opencode-linux-x64",
        version: "1.18.33",
        integrity: "sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMNRqiKQjiAWw==",
        programs: "bin",
    },
];

/// A program on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    /// The folder that goes to [`FOLDER`].
    pub(super) folder: PathBuf,
    /// The folder of programs in a container, for its `PATH`.
    pub(super) programs: String,
}

/// What can be had of a harness's program.
pub(super) enum Found {
    /// The harness needs none.
    Nothing,
    /// It is here.
    Here(Tool),
    /// It is being installed.
    Later,
    /// It can't be had, for this reason.
    Never(String),
}

/// The programs of this user.
pub(super) struct Tools {
    folder: PathBuf,
    work: Work,
}

impl Tools {
    /// Those in this folder, which is made when it is needed.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            work: Work::default(),
        }
    }

    /// The program of a harness; has it installed where it is not, and waits that
    /// long for it.
    pub(super) async fn ready(&self, harness: Harness, patience: Duration) -> Found {
        if matches!(harness, Harness::Command | Harness::Loop) {
            return Found::Nothing;
        }
        let machine = std::env::consts::ARCH;
        let fits = |package: &&Package| package.harness == harness && package.machine == machine;
        let Some(package) = PACKAGES.iter().find(fits) else {
            return Found::Never(format!(
                "`image.tools`: there is no program of {harness} for {machine} that Loopy knows; \
                 install one in the image"
            ));
        };
        let place = package.place(&self.folder);
        let tool = Tool {
            folder: place.join("node_modules").join(package.name),
            programs: format!("{FOLDER}/{}", package.programs)
                .trim_end_matches('/')
                .to_owned(),
        };
        // It is put there as a whole.
        if place.is_dir() {
            return Found::Here(tool);
        }
        let folder = self.folder.clone();
        let name = place.to_string_lossy().into_owned();
        let make = async move { install(package, &folder).await };
        match self.work.done(&name, patience, make).await {
            Ready::Now => Found::Here(tool),
            Ready::Later => Found::Later,
            Ready::Never(why) => Found::Never(format!(
                "`image.tools`: {} {} can't be installed: {why}",
                package.name, package.version
            )),
        }
    }
}

impl Package {
    fn place(&self, folder: &Path) -> PathBuf {
        let name = self.name.replace(['@', '/'], "-");
        folder.join(format!("{}-{}", name.trim_start_matches('-'), self.version))
    }

    /// A project of npm that needs this package alone, and its lock file.
    fn project(&self) -> [(&'static str, String); 2] {
        let needs = json!({ self.name: self.version });
        let package = json!({"private": true, "dependencies": needs});
        let mut packages = json!({"": {"dependencies": needs}});
        packages[format!("node_modules/{}", self.name)] =
            json!({"version": self.version, "integrity": self.integrity});
        let lock = json!({"lockfileVersion": 3, "requires": true, "packages": packages});
        [
            ("package.json", package.to_string()),
            ("package-lock.json", lock.to_string()),
        ]
    }
}

/// Installs a package beside its place, and moves it there.
async fn install(package: &Package, folder: &Path) -> Result<(), String> {
    tracing::info!("installing {} {}", package.name, package.version);
    let file = |error: io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(file)?;
    let draft = tempfile::Builder::new()
        .prefix(".draft-")
        .tempdir_in(folder)
        .map_err(file)?;
    for (name, text) in package.project() {
        std::fs::write(draft.path().join(name), text).map_err(file)?;
    }
    let ended = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--loglevel", "error"])
        .current_dir(draft.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "it takes npm, which is not on the PATH; install Node.js, \
                                        or install the program in the image"
                .to_owned(),
            _ => format!("npm does not start: {error}"),
        })?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let start = said.ceil_char_boundary(said.len().saturating_sub(LAST_WORDS));
        return Err(said.get(start..).unwrap_or_default().trim().to_owned());
    }
    // Whoever works in a container has to be able to read it.
    let draft = draft.keep();
    let place = package.place(folder);
    let moved = open_to_all(&draft).and_then(|()| std::fs::rename(&draft, &place));
    match moved {
        Ok(()) => Ok(()),
        // Another process was faster.
        Err(_) if place.is_dir() => std::fs::remove_dir_all(&draft).map_err(file),
        Err(error) => Err(file(error)),
    }
}

/// Lets everybody into a folder that was made for this user alone.
fn open_to_all(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(600);

    fn opencode() -> &'static Package {
        let fits = |package: &&Package| package.harness == Harness::Opencode;
        PACKAGES.iter().find(fits).unwrap()
    }

    /// Fetches a real package, as npm is set up here.
    #[tokio::test]
    async fn a_program_is_installed_once_and_complete() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::new(folder.path().join("tools"));
        // What was left by a process that died is in nobody's way.
        std::fs::create_dir_all(folder.path().join("tools/.draft-old")).unwrap();
        let (one, two) = tokio::join!(
            tools.ready(Harness::Opencode, PATIENCE),
            tools.ready(Harness::Opencode, PATIENCE)
        );
        let Found::Here(tool) = one else {
            match one {
                Found::Never(why) => panic!("{why}"),
                _ => panic!("not there"),
            }
        };
        assert!(matches!(two, Found::Here(same) if same == tool));
        assert!(tool.folder.join("bin/opencode").is_file());
        assert_eq!(tool.programs, "/opt/loopy/tools/bin");
        assert!(matches!(
            tools.ready(Harness::Command, PATIENCE).await,
            Found::Nothing
        ));
    }

    #[tokio::test]
    async fn what_has_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let real = opencode();
        let other = Package {
            integrity: PACKAGES[0].integrity,
            ..*real
        };
        let why = install(&other, folder.path()).await.unwrap_err();
        assert!(why.contains("EINTEGRITY"), "{why}");
        assert!(!other.place(folder.path()).exists());
    }
}
