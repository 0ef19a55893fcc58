//! The functions' binaries: from a folder of ready ones, or built by
//! cargo-lambda in a checkout.

use crate::archive::{self, Entry};
use crate::stack::{Architecture, BINARIES, Binaries};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// With a C library older than Lambda's and than most images'. Sandboxes always
/// run on this one.
const X86_64_TARGET: &str = "x86_64-unknown-linux-gnu.2.17";
const ARM64_TARGET: &str = "aarch64-unknown-linux-gnu.2.17";

/// The binaries are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// A file of the folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not a zip with `bootstrap` in it.
    #[error("{} is not a function's zip: {why}", path.display())]
    Zip {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Built for another processor.
    #[error("{} holds a binary for {found}, but the stack is to run on {wanted}", path.display())]
    Architecture {
        /// Which.
        path: PathBuf,
        /// What it was built for.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// No checkout around, and no folder given.
    #[error(
        "there are no function binaries here, and this is no checkout of Loopy to build them in"
    )]
    NoCheckout,
    /// cargo-lambda is not installed.
    #[error("cargo-lambda, which builds the functions, is not installed")]
    NoCargoLambda,
    /// A build command failed.
    #[error("`{command}` failed; its output is above")]
    Build {
        /// The command.
        command: String,
    },
    /// A build command gave no sense.
    #[error("`{command}`: {why}")]
    Command {
        /// The command.
        command: String,
        /// What went wrong.
        why: String,
    },
}

impl BinariesError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } | Self::Zip { .. } => Some(
                "the folder must hold webhook.zip, sensor.zip, start.zip, step.zip, report.zip, \
                 watch.zip, shell.zip and loopy-runner, as `cargo xtask dist` writes them"
                    .to_owned(),
            ),
            Self::Architecture { .. } => {
                Some("pass the --arch that the binaries were built for".to_owned())
            }
            Self::NoCheckout => Some("name a folder of ready binaries with --functions".to_owned()),
            Self::NoCargoLambda => Some(
                "install it with `pip install cargo-lambda`, or name a folder of ready binaries \
                 with --functions"
                    .to_owned(),
            ),
            Self::Build { .. } | Self::Command { .. } => None,
        }
    }
}

/// Reads a folder as `cargo xtask dist` writes it: a zip per function, and
/// `loopy-runner`.
///
/// # Errors
/// [`BinariesError`] names the file that is missing or not what it should be.
pub fn read_folder(folder: &Path, architecture: Architecture) -> Result<Binaries, BinariesError> {
    let mut functions = BTreeMap::new();
    for name in BINARIES {
        let path = folder.join(format!("{name}.zip"));
        let zip = read(&path)?;
        let bootstrap = archive::bootstrap_of(&zip).map_err(|why| BinariesError::Zip {
            path: path.clone(),
            why,
        })?;
        check_architecture(&path, &bootstrap, architecture)?;
        functions.insert(name, zip);
    }
    let path = folder.join("loopy-runner");
    let runner = read(&path)?;
    check_architecture(&path, &runner, Architecture::X86_64)?;
    Ok(Binaries {
        architecture,
        functions,
        runner,
    })
}

/// Builds the binaries with cargo-lambda in the checkout that holds one of
/// `around` (the working directory, the program's own). Cargo speaks on stderr.
///
/// # Errors
/// [`BinariesError`]: no checkout, no cargo-lambda, or a build that failed.
pub fn build(around: &[PathBuf], architecture: Architecture) -> Result<Binaries, BinariesError> {
    let checkout = around
        .iter()
        .flat_map(|place| place.ancestors())
        .find(|folder| is_checkout(folder))
        .ok_or(BinariesError::NoCheckout)?;
    let known = Command::new("cargo")
        .args(["lambda", "--version"])
        .current_dir(checkout)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !known {
        return Err(BinariesError::NoCargoLambda);
    }
    let out = target_directory(checkout)?.join("loopy-deploy");
    let (function_out, sandbox_out) = match architecture {
        // One call, as a second one would compile what they share anew.
        Architecture::X86_64 => {
            let out = out.join("x86_64");
            let packages = ["loopy-functions", "loopy-runner"];
            cargo_lambda(checkout, &packages, X86_64_TARGET, &out)?;
            (out.clone(), out)
        }
        Architecture::Arm64 => {
            let (functions, sandbox) = (out.join("arm64"), out.join("sandbox"));
            cargo_lambda(checkout, &["loopy-functions"], ARM64_TARGET, &functions)?;
            cargo_lambda(checkout, &["loopy-runner"], X86_64_TARGET, &sandbox)?;
            (functions, sandbox)
        }
    };

    let mut functions = BTreeMap::new();
    for name in BINARIES {
        let path = function_out.join(name).join("bootstrap");
        let bytes = read(&path)?;
        check_architecture(&path, &bytes, architecture)?;
        let entry = Entry {
            path: "bootstrap",
            bytes: &bytes,
            executable: true,
        };
        let zip = archive::pack(vec![entry]).map_err(|source| BinariesError::Read {
            path: path.clone(),
            source,
        })?;
        functions.insert(name, zip);
    }
    let runner = read(&sandbox_out.join("loopy-runner").join("bootstrap"))?;
    Ok(Binaries {
        architecture,
        functions,
        runner,
    })
}

fn is_checkout(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("functions/Cargo.toml"))
        .is_ok_and(|text| text.contains("name = \"loopy-functions\""))
}

fn cargo_lambda(
    checkout: &Path,
    packages: &[&str],
    target: &str,
    out: &Path,
) -> Result<(), BinariesError> {
    let packages = packages.join(" -p ");
    let command = format!("cargo lambda build --profile function -p {packages} --target {target}");
    let status = Command::new("cargo")
        .args(command.split(' ').skip(1))
        .arg("--lambda-dir")
        .arg(out)
        .current_dir(checkout)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| BinariesError::Command {
            command: command.clone(),
            why: error.to_string(),
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(BinariesError::Build { command })
    }
}

fn target_directory(checkout: &Path) -> Result<PathBuf, BinariesError> {
    let command = "cargo metadata";
    let fault = |why: String| BinariesError::Command {
        command: command.to_owned(),
        why,
    };
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(checkout)
        .output()
        .map_err(|error| fault(error.to_string()))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| fault(error.to_string()))?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| fault("it names no target_directory".to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, BinariesError> {
    std::fs::read(path).map_err(|source| BinariesError::Read {
        path: path.to_owned(),
        source,
    })
}

/// By the machine field of the ELF header. A function built for another
/// processor would deploy well and fail at its first call.
fn check_architecture(
    path: &Path,
    binary: &[u8],
    wanted: Architecture,
) -> Result<(), BinariesError> {
    let found = match (binary.get(..4), binary.get(18..20)) {
        (Some(b"\x7fELF"), Some([0x3e, 0])) => Architecture::X86_64.name().to_owned(),
        (Some(b"\x7fELF"), Some([0xb7, 0])) => Architecture::Arm64.name().to_owned(),
        (Some(b"\x7fELF"), _) => "another processor".to_owned(),
        _ => "something other than Linux".to_owned(),
    };
    if found == wanted.name() {
        return Ok(());
    }
    Err(BinariesError::Architecture {
        path: path.to_owned(),
        found,
        wanted: wanted.name(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn elf(machine: u8) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.resize(64, 0);
        bytes[18] = machine;
        bytes
    }

    fn folder(machine: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in BINARIES {
            let bytes = elf(machine);
            let entry = Entry {
                path: "bootstrap",
                bytes: &bytes,
                executable: true,
            };
            let zip = archive::pack(vec![entry]).unwrap();
            std::fs::write(folder.path().join(format!("{name}.zip")), zip).unwrap();
        }
        std::fs::write(folder.path().join("loopy-runner"), elf(0x3e)).unwrap();
        folder
    }

    #[test]
    fn a_folder_of_ready_binaries_is_taken_as_it_is() {
        let folder = folder(0xb7);
        let binaries = read_folder(folder.path(), Architecture::Arm64).unwrap();
        assert_eq!(
            binaries.functions["step"],
            std::fs::read(folder.path().join("step.zip")).unwrap()
        );
        assert_eq!(binaries.runner, elf(0x3e));
    }

    #[test]
    fn another_processor_is_refused() {
        let folder = folder(0xb7);
        let error = read_folder(folder.path(), Architecture::X86_64)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("holds a binary for arm64"),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = folder(0x3e);
        std::fs::remove_file(folder.path().join("watch.zip")).unwrap();
        let error = read_folder(folder.path(), Architecture::X86_64)
            .err()
            .unwrap();
        assert!(error.to_string().contains("watch.zip"), "{error}");
        assert!(error.hint().unwrap().contains("xtask dist"));
    }

    #[test]
    fn outside_a_checkout_there_is_nothing_to_build() {
        let folder = tempfile::tempdir().unwrap();
        let error = build(&[folder.path().to_owned()], Architecture::X86_64)
            .err()
            .unwrap();
        assert!(matches!(error, BinariesError::NoCheckout), "{error}");
    }
}
