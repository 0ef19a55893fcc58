//! Builds the folder of ready binaries: a zip for each function, and the runner.

use crate::error::Error;
use crate::process;
use crate::tools::Tools;
use crate::workspace::Workspace;
use clap::ValueEnum;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

/// The functions, by the name of their binary.
pub(crate) const FUNCTIONS: [&str; 7] = [
    "webhook", "sensor", "start", "step", "report", "watch", "shell",
];
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

    /// That of this machine, on which the emulator runs functions as processes.
    pub(crate) fn host() -> Self {
        if std::env::consts::ARCH == "aarch64" {
            Self::Arm64
        } else {
            Self::X86_64
        }
    }

    /// As AWS writes it.
    pub(crate) fn name(self) -> &'static str {
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
    for (package, profile) in [("loopy-functions", "function"), ("loopy-runner", "runner")] {
        process::run_beside(
            workspace
                .cargo()
                .env("PATH", &path)
                .args(["lambda", "build", "--profile", profile])
                .args(["--target", arch.target(), "--package", package])
                .arg("--lambda-dir")
                .arg(&built),
        )?;
    }
    std::fs::create_dir_all(&out).map_err(Error::file(&out))?;
    for function in FUNCTIONS {
        let bootstrap = built.join(function).join("bootstrap");
        let binary = std::fs::read(&bootstrap).map_err(Error::file(&bootstrap))?;
        place(&out.join(format!("{function}.zip")), |fresh| {
            write_zip(fresh, &binary)
        })?;
    }
    let runner = built.join(RUNNER).join("bootstrap");
    place(&out.join(RUNNER), |fresh| {
        std::fs::copy(&runner, fresh).map_err(Error::file(&runner))?;
        Ok(())
    })?;
    Ok(out)
}

/// Where the binaries for `arch` go if nothing else is said.
pub(crate) fn default_folder(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.tools.join(match arch {
        Arch::X86_64 => "dist",
        Arch::Arm64 => "dist-arm64",
    })
}

/// Has `write` make a new file beside `path`, which then takes its place: whoever
/// reads meanwhile sees the old file or the new one, and a runner that is running
/// could not be written over.
fn place(path: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let fresh = tempfile::Builder::new()
        .prefix(".fresh-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(Error::file(folder))?
        .into_temp_path();
    write(&fresh)?;
    fresh
        .persist(path)
        .map_err(|error| Error::file(path)(error.error))
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
    fn a_file_takes_its_place_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.zip");
        std::fs::write(&path, "old").unwrap();
        let mut reader = File::open(&path).unwrap();
        let failed = place(&path, |fresh| {
            std::fs::write(fresh, "half").map_err(Error::file(fresh))?;
            Err(Error::Missing {
                missing: "the rest".to_owned(),
                remedy: String::new(),
            })
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        place(&path, |fresh| write_zip(fresh, b"binary")).unwrap();
        assert!(zip::ZipArchive::new(File::open(&path).unwrap()).is_ok());
        // Whoever had it open reads on in the old one.
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "old");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
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
