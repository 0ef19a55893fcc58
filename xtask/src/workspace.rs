//! Where things are: the checkout, cargo's target folder and our folder in it.

use crate::error::Error;
use crate::process;
use std::path::PathBuf;
use std::process::Command;

/// The folders that every task works with.
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever `CARGO_TARGET_DIR` or a configuration put it.
    pub(crate) target: PathBuf,
    /// What tasks install and build, in the target folder: nothing outside it is touched.
    pub(crate) tools: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo fails or the tools folder cannot be made.
    pub(crate) fn find() -> Result<Self, Error> {
        let mut command = cargo();
        command
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
            ])
            .arg(manifest_dir().join("Cargo.toml"));
        let answer: serde_json::Value = serde_json::from_str(&process::read(&mut command)?)?;
        let folder = |key: &str| {
            answer[key]
                .as_str()
                .map(PathBuf::from)
                .ok_or_else(|| Error::Answer {
                    command: process::line(&command),
                    problem: format!("it names no {key}"),
                })
        };
        let target = folder("target_directory")?;
        let tools = target.join("loopy-tools");
        std::fs::create_dir_all(&tools).map_err(Error::file(&tools))?;
        Ok(Self {
            root: folder("workspace_root")?,
            target,
            tools,
        })
    }

    /// A cargo that works in this checkout.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo();
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }
}

/// This crate's folder: as cargo says now, for checkouts that share a target
/// folder share this binary too, and it may have been built in another one.
fn manifest_dir() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The cargo that runs us.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` set for this crate is not meant for other builds.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH");
    command
}
