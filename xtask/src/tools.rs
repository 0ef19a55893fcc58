//! Installs the tools the tests use, each pinned, into the target folder: a Python
//! virtual environment (emulator, cfn-lint, cargo-lambda, AWS CLI, mypy), one for
//! checkov, and npm packages (the agents' tools, real webhook deliveries, pyright, TypeScript). Does
//! nothing when they are there already.

use crate::debian::{self, Need};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const CLAUDE_CODE: &str = "2.1.329";
const CODEX: &str = "0.169.0";
const OPENCODE: &str = "1.18.33";
const WEBHOOKS: &str = "@octokit/webhooks-examples@7.6.1";
const PYRIGHT: &str = "pyright@1.1.414";
const TYPESCRIPT: &str = "typescript@7.0.2";

const NEEDS: [Need; 3] = [
    Need {
        name: "Python 3.10 or later with venv",
        check: &[
            "python3",
            "-c",
            "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))",
        ],
        packages: &["python3", "python3-venv"],
    },
    Need {
        name: "npm",
        check: &["npm", "--version"],
        packages: &["npm"],
    },
    Need {
        name: "git",
        check: &["git", "--version"],
        packages: &["git"],
    },
];

/// Where the tools are.
pub(crate) struct Tools {
    /// The programs of the virtual environment.
    pub(crate) bin: PathBuf,
    /// The checker of templates.
    pub(crate) checkov: PathBuf,
    /// The `node_modules` folder.
    pub(crate) node_modules: PathBuf,
    /// This machine's architecture.
    arch: NodeArch,
    /// Held as long as the tools are changed or built with, so that two tasks on
    /// one target folder don't get into each other's way.
    lock: File,
}

impl Tools {
    /// A program of the virtual environment.
    pub(crate) fn python_program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A program of the npm packages.
    pub(crate) fn node_program(&self, name: &str) -> PathBuf {
        self.node_modules.join(".bin").join(name)
    }

    /// The Claude Code binary.
    pub(crate) fn claude(&self) -> PathBuf {
        self.node_modules
            .join(self.arch.claude_package())
            .join("claude")
    }

    /// The Codex binary, in the tree of what it brings along.
    pub(crate) fn codex(&self) -> PathBuf {
        self.node_modules
            .join("@openai/codex/vendor")
            .join(format!("{}-unknown-linux-musl", self.arch.machine))
            .join("bin/codex")
    }

    /// The opencode binary.
    pub(crate) fn opencode(&self) -> PathBuf {
        self.node_modules
            .join(self.arch.opencode_package())
            .join("bin/opencode")
    }

    /// The folder of real webhook deliveries.
    pub(crate) fn webhooks(&self) -> PathBuf {
        self.node_modules.join("@octokit/webhooks-examples")
    }

    /// Lets other tasks at the tools.
    ///
    /// # Errors
    /// When the lock file cannot be unlocked.
    pub(crate) fn unlock(&self, workspace: &Workspace) -> Result<(), Error> {
        self.lock
            .unlock()
            .map_err(Error::file(&lock_path(workspace)))
    }
}

/// Installs what is missing.
///
/// # Errors
/// When an installer fails, or something is missing that cannot be installed.
pub(crate) fn prepare(workspace: &Workspace) -> Result<Tools, Error> {
    debian::ensure(&NEEDS)?;
    let path = lock_path(workspace);
    let lock = File::create(&path).map_err(Error::file(&path))?;
    lock.lock().map_err(Error::file(&path))?;

    let venv = workspace.tools.join("venv");
    install(&venv, &stamp(&requirement_files(&workspace.root))?, || {
        python(&workspace.root, &venv)
    })?;

    let checkov = workspace.tools.join("checkov");
    let pins = workspace.root.join("localstack/checkov.txt");
    install(&checkov, &stamp(std::slice::from_ref(&pins))?, || {
        eprintln!("installing checkov");
        virtual_environment(&checkov, &["--requirement".as_ref(), pins.as_ref()])
    })?;

    let arch = NodeArch::host()?;
    let npm = workspace.tools.join("npm");
    let packages = [
        format!("{}@{CLAUDE_CODE}", arch.claude_package()),
        // Its binaries are versions of the one package.
        format!("@openai/codex@{CODEX}-linux-{}", arch.node),
        format!("{}@{OPENCODE}", arch.opencode_package()),
        WEBHOOKS.to_owned(),
        PYRIGHT.to_owned(),
        TYPESCRIPT.to_owned(),
    ];
    install(&npm, &packages.join("\n"), || node(&npm, &packages))?;

    Ok(Tools {
        bin: venv.join("bin"),
        checkov: checkov.join("bin/checkov"),
        node_modules: npm.join("node_modules"),
        arch,
        lock,
    })
}

fn lock_path(workspace: &Workspace) -> PathBuf {
    workspace.tools.join("lock")
}

/// Runs `make` on a fresh `folder`, unless what `stamp` describes is there already.
///
/// # Errors
/// When the folder cannot be written, and those of `make`.
pub(crate) fn install(
    folder: &Path,
    stamp: &str,
    make: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let stamp_path = folder.join(".stamp");
    if std::fs::read_to_string(&stamp_path).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::file(folder))?;
    }
    std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
    make()?;
    // Last, so that an installation that broke off is begun again.
    std::fs::write(&stamp_path, stamp).map_err(Error::file(&stamp_path))
}

fn requirement_files(root: &Path) -> [PathBuf; 2] {
    [
        root.join("localstack/requirements.txt"),
        root.join("localstack/constraints.txt"),
    ]
}

/// What a virtual environment is made of: the pins and the interpreter.
fn stamp(pins: &[PathBuf]) -> Result<String, Error> {
    let mut stamp = process::read(
        Command::new("python3").args(["-c", "import sys; print(sys.executable, sys.version)"]),
    )?;
    for path in pins {
        stamp.push_str(&std::fs::read_to_string(path).map_err(Error::file(path))?);
    }
    Ok(stamp)
}

fn python(root: &Path, venv: &Path) -> Result<(), Error> {
    eprintln!("installing the emulator, cfn-lint, cargo-lambda, the AWS CLI and mypy");
    let [requirements, constraints] = requirement_files(root);
    let arguments: [&OsStr; 4] = [
        "--requirement".as_ref(),
        requirements.as_ref(),
        "--constraint".as_ref(),
        constraints.as_ref(),
    ];
    virtual_environment(venv, &arguments)
}

/// Makes a virtual environment with what pip is told to install.
fn virtual_environment(venv: &Path, arguments: &[&OsStr]) -> Result<(), Error> {
    process::run_beside(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    process::run_beside(
        Command::new(venv.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(arguments),
    )
}

/// What an architecture is called in the names of packages.
#[derive(Clone, Copy)]
struct NodeArch {
    /// By npm.
    node: &'static str,
    /// By compilers.
    machine: &'static str,
}

impl NodeArch {
    fn host() -> Result<Self, Error> {
        let (node, machine) = match std::env::consts::ARCH {
            "x86_64" => ("x64", "x86_64"),
            "aarch64" => ("arm64", "aarch64"),
            other => {
                return Err(Error::Missing {
                    missing: format!("the agents' tools for {other}"),
                    remedy: "The tests run on x86_64 and aarch64.".to_owned(),
                });
            }
        };
        Ok(Self { node, machine })
    }

    fn claude_package(self) -> String {
        format!("@anthropic-ai/claude-code-linux-{}", self.node)
    }

    fn opencode_package(self) -> String {
        format!("opencode-linux-{}", self.node)
    }
}

/// Installs npm packages in a fresh folder.
///
/// # Errors
/// When npm fails.
pub(crate) fn node(folder: &Path, packages: &[String]) -> Result<(), Error> {
    eprintln!("installing {}", packages.join(" and "));
    process::run_beside(
        Command::new("npm")
            .arg("install")
            .arg("--prefix")
            .arg(folder)
            .args([
                "--ignore-scripts",
                "--no-fund",
                "--no-audit",
                "--save-exact",
            ])
            .args(["--loglevel", "error"])
            .args(packages),
    )
}
