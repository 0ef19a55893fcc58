//! Builds the folder of ready binaries: a zip for each function, and the runner.

use crate::error::Error;
use crate::process;
use crate::tools::Tools;
use crate::workspace::Workspace;
use clap::ValueEnum;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

/// The functions, by the name of their binary.
pub(crate) const FUNCTIONS: [&str; 6] = ["webhook", "sensor", "start", "step", "report", "watch"];
/// The runner's binary.
const RUNNER: &str = "loopy-runner";

/// The processors that AWS Lambda offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// Intel and AMD.
    #[value(name = "x86_64")]
    X86_64,
    /// Graviton.
    #[value(name = "arm64")]
    Arm64,
}

impl Arch {
    /// The Rust target. glibc 2.17 is the oldest that Rust's standard library runs
    /// with, so that the runner starts in old sandbox images too.
    fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu.2.17",
            Self::Arm64 => "aarch64-unknown-linux-gnu.2.17",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

/// Builds the binaries and puts them into `out`, which it gives back.
///
/// # Errors
/// When the build fails or a file cannot be written.
pub(crate) fn build(
    workspace: &Workspace,
    tools: &Tools,
    arch: Arch,
    out: Option<PathBuf>,
) -> Result<PathBuf, Error> {
    let out = match out {
        Some(out) => out,
        None => default_folder(workspace, arch),
    };
    let built = workspace.tools.join(format!("lambda-{}", arch.name()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools.bin.clone()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).map_err(|error| Error::Missing {
        missing: "a usable PATH".to_owned(),
        remedy: error.to_string(),
    })?;
    eprintln!("building the functions and the runner for {}", arch.name());
    // Zig, which links against the old glibc, is found on the PATH. The target
    // folder is set by variable: cargo-lambda does not honour its own option.
    process::run_beside(
        workspace
            .cargo()
            .env("PATH", path)
            .args([
                "lambda",
                "build",
                "--profile",
                "function",
                "--target",
                arch.target(),
            ])
            .args(["--package", "loopy-functions", "--package", "loopy-runner"])
            .arg("--lambda-dir")
            .arg(&built),
    )?;
    std::fs::create_dir_all(&out).map_err(Error::file(&out))?;
    for function in FUNCTIONS {
        let bootstrap = built.join(function).join("bootstrap");
        let binary = std::fs::read(&bootstrap).map_err(Error::file(&bootstrap))?;
        write_zip(&out.join(format!("{function}.zip")), &binary)?;
    }
    let runner = built.join(RUNNER).join("bootstrap");
    let placed = out.join(RUNNER);
    // By way of a new file: a runner that is running cannot be written over.
    let fresh = out.join(format!(".{RUNNER}"));
    std::fs::copy(&runner, &fresh).map_err(Error::file(&runner))?;
    std::fs::rename(&fresh, &placed).map_err(Error::file(&placed))?;
    Ok(out)
}

/// Where the binaries for `arch` go if nothing else is said.
pub(crate) fn default_folder(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.tools.join(match arch {
        Arch::X86_64 => "dist",
        Arch::Arm64 => "dist-arm64",
    })
}

/// Writes a zip that holds `binary` as `bootstrap`. The same binary gives the same
/// bytes, so that an unchanged function is not uploaded again.
fn write_zip(path: &Path, binary: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Zip {
        path: path.to_owned(),
        source,
    };
    let file = File::create(path).map_err(Error::file(path))?;
    let mut zip = zip::ZipWriter::new(file);
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options).map_err(failed)?;
    zip.write_all(binary).map_err(Error::file(path))?;
    zip.finish().map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::io::Read;

    #[test]
    fn the_same_binary_gives_the_same_zip() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a.zip", "b.zip"].map(|name| folder.path().join(name));
        let binary = b"\x7fELF binary".repeat(1000);
        write_zip(&first, &binary).unwrap();
        // A zip stores times to two seconds.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        write_zip(&second, &binary).unwrap();
        assert_eq!(
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap()
        );
    }

    #[test]
    fn the_zip_holds_an_executable_bootstrap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.zip");
        write_zip(&path, b"binary").unwrap();
        let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(zip.len(), 1);
        let mut entry = zip.by_name("bootstrap").unwrap();
        assert_eq!(entry.unix_mode().unwrap() & 0o777, 0o755);
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"binary");
    }
}
