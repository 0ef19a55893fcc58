//! Fuzzes the compiler at length, by cargo-fuzz on a nightly toolchain. The
//! short form, a few seconds on any toolchain, is one of the compiler's tests.

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use std::path::Path;
use std::process::Command;

const CARGO_FUZZ: &str = "0.13.2";

/// A readable input of this size takes a few milliseconds.
const INPUT_SECONDS: u32 = 10;
const MEMORY_MB: u32 = 1024;
const INPUT_BYTES: u32 = 4096;

/// Fuzzes one target, or each in turn, for `seconds` each.
///
/// # Errors
/// When there is no nightly toolchain, the targets cannot be built, or an input
/// breaks something; it is written to `fuzz/artifacts` then.
pub(crate) fn run(workspace: &Workspace, seconds: u32, target: Option<&str>) -> Result<(), Error> {
    let fuzz = workspace.root.join("fuzz");
    let targets = targets(&fuzz)?;
    let chosen: Vec<&String> = match target {
        None => targets.iter().collect(),
        Some(name) => targets.iter().filter(|target| *target == name).collect(),
    };
    if chosen.is_empty() {
        return Err(Error::Missing {
            missing: format!("The fuzz target {}", target.unwrap_or_default()),
            remedy: format!("There are {}.", targets.join(", ")),
        });
    }
    let cargo_fuzz = cargo_fuzz(workspace)?;
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(&cargo_fuzz);
        command
            .current_dir(&fuzz)
            .args(arguments)
            .args(["--fuzz-dir", ".", "--sanitizer", "none"])
            .env("RUSTUP_TOOLCHAIN", "nightly")
            // The cargo that runs us is of another toolchain.
            .env_remove("CARGO")
            .env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
        command
    };
    process::run(&mut cargo(&["build"]))?;
    for name in chosen {
        let corpus = fuzz.join("corpus").join(name);
        std::fs::create_dir_all(&corpus).map_err(Error::file(&corpus))?;
        process::run(
            cargo(&["run"])
                .arg(name)
                .arg(&corpus)
                .arg(fuzz.join("seeds").join(name))
                .arg("--")
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-timeout={INPUT_SECONDS}"))
                .arg(format!("-rss_limit_mb={MEMORY_MB}"))
                .arg(format!("-max_len={INPUT_BYTES}"))
                .arg("-print_final_stats=1"),
        )?;
    }
    Ok(())
}

/// The targets, by name.
fn targets(fuzz: &Path) -> Result<Vec<String>, Error> {
    let folder = fuzz.join("targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::file(&folder))? {
        let path = entry.map_err(Error::file(&folder))?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// The cargo-fuzz that is pinned here, installed when it is not there yet.
fn cargo_fuzz(workspace: &Workspace) -> Result<std::path::PathBuf, Error> {
    if !process::succeeds(
        Command::new("rustc")
            .arg("--version")
            .env("RUSTUP_TOOLCHAIN", "nightly"),
    ) {
        return Err(Error::Missing {
            missing: "A nightly toolchain, which libFuzzer needs".to_owned(),
            remedy: "Install it: rustup toolchain install nightly --profile minimal".to_owned(),
        });
    }
    let root = workspace.tools.join("cargo-fuzz");
    let program = root.join("bin/cargo-fuzz");
    let is_pinned = process::read(Command::new(&program).arg("--version"))
        .is_ok_and(|version| version.trim().ends_with(CARGO_FUZZ));
    if !is_pinned {
        eprintln!("installing cargo-fuzz {CARGO_FUZZ}");
        process::run_beside(
            workspace
                .cargo()
                .args([
                    "install",
                    "cargo-fuzz",
                    "--locked",
                    "--force",
                    "--version",
                    CARGO_FUZZ,
                ])
                .arg("--root")
                .arg(&root),
        )?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_target_has_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let targets = targets(&fuzz).unwrap();
        assert!(targets.len() >= 9, "{targets:?}");
        for target in targets {
            let seeds = fuzz.join("seeds").join(&target);
            assert!(seeds.read_dir().unwrap().count() > 0, "{target}");
        }
    }
}
