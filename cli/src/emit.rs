//! `loopy compile --emit`: writes the project's stack to a folder, for those
//! who deploy with the AWS command line. Also where every command that makes a
//! stack gets the functions' binaries from.

use crate::output::Terminal;
use clap::{Args, ValueEnum};
use loopy_contract::manifest::{FileHash, Manifest};
use loopy_infra::{
    Architecture, Binaries, BinariesError, Packages, PackagesError, Stack, StackError,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where the functions' binaries come from.
#[derive(Args, Clone, Debug)]
pub(crate) struct Code {
    /// Take the functions from this folder of ready binaries; without it they
    /// are built by cargo-lambda, which takes a checkout of Loopy
    #[arg(long, value_name = "DIR")]
    functions: Option<PathBuf>,
    /// What the functions run on [default: x86_64]
    #[arg(long, value_enum)]
    arch: Option<Arch>,
}

/// What the functions run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// Intel and AMD
    #[value(name = "x86_64")]
    X86_64,
    /// Graviton
    Arm64,
}

impl Arch {
    /// What was asked for, or what it is without.
    pub(crate) fn architecture(asked: Option<Self>) -> Architecture {
        match asked {
            None | Some(Self::X86_64) => Architecture::X86_64,
            Some(Self::Arm64) => Architecture::Arm64,
        }
    }
}

/// Arguments of `loopy compile` about the stack.
#[derive(Args, Clone, Debug)]
pub(crate) struct Emit {
    /// Write the manifest and the project's stack (template.yaml, assets/) to
    /// this folder, for `aws cloudformation deploy`
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    emit: Option<PathBuf>,
    #[command(flatten)]
    code: Code,
}

impl Emit {
    /// Whether the command line says anything about a stack.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.emit.is_some() || self.code.functions.is_some() || self.code.arch.is_some()
    }
}

/// Why no stack came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmitError {
    /// The project asks for what a deployed stack cannot do.
    #[error("this project cannot be deployed:\n{}", list(.0))]
    Refused(Vec<String>),
    /// There are no binaries.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// No stack can be made of this project.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The packages of its sensors cannot be read.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] loopy_infra::EmitError),
    /// Options about a stack, and none is made.
    #[error("--functions and --arch say how a stack is made, but none is asked for")]
    Idle,
    /// The working directory is gone.
    #[error("cannot tell the working directory: {0}")]
    WorkingDirectory(io::Error),
}

impl EmitError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Binaries(error) => error.hint(),
            Self::Refused(_) => Some("`loopy run` serves a project on one machine".to_owned()),
            Self::Idle => Some("pass --emit with the folder to write it to".to_owned()),
            Self::Stack(_) | Self::Packages(_) | Self::Write(_) | Self::WorkingDirectory(_) => None,
        }
    }
}

fn list(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Refuses what a deployed stack cannot do, naming each.
pub(crate) fn check(manifest: &Manifest) -> Result<(), EmitError> {
    let refusals = loopy_infra::refusals(manifest);
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(EmitError::Refused(refusals))
    }
}

/// Makes the stack of a project.
pub(crate) fn stack(
    code: &Code,
    project: &Path,
    manifest: &Manifest,
    files: &BTreeMap<FileHash, Vec<u8>>,
) -> Result<Stack, EmitError> {
    let binaries = binaries(code)?;
    let packages = Packages::read(project, manifest)?;
    Ok(loopy_infra::stack_with(
        manifest,
        files,
        &binaries,
        has_sensor_env(project),
        &packages,
    )?)
}

/// Whether the project has an environment for its sensors.
pub(crate) fn has_sensor_env(project: &Path) -> bool {
    project.join(loopy_infra::secrets::SENSOR_FILE).is_file()
}

fn binaries(code: &Code) -> Result<Binaries, EmitError> {
    let architecture = Arch::architecture(code.arch);
    if let Some(folder) = &code.functions {
        return Ok(loopy_infra::read_folder(folder, architecture)?);
    }
    let here = std::env::current_dir().map_err(EmitError::WorkingDirectory)?;
    let around: Vec<PathBuf> = [Some(here), std::env::current_exe().ok()]
        .into_iter()
        .flatten()
        .collect();
    Ok(loopy_infra::build(&around, architecture)?)
}

/// Writes the stack, if that was asked for.
pub(crate) fn run(
    arguments: &Emit,
    project: &Path,
    manifest: &Manifest,
    files: &BTreeMap<FileHash, Vec<u8>>,
    terminal: &Terminal,
) -> Result<(), EmitError> {
    let Some(folder) = &arguments.emit else {
        return if arguments.is_asked_for() {
            Err(EmitError::Idle)
        } else {
            Ok(())
        };
    };
    check(manifest)?;
    let stack = stack(&arguments.code, project, manifest, files)?;
    let (_, template) = loopy_infra::emit(&stack, manifest, folder)?;
    let shown = folder.display();
    terminal.say(&format!(
        "wrote {} and {} assets; deploy them with\n  aws s3 sync {shown}/assets s3://BUCKET\n  \
         aws cloudformation deploy --stack-name NAME --template-file {} --s3-bucket BUCKET \
         --capabilities CAPABILITY_IAM --parameter-overrides AssetsBucket=BUCKET",
        template.display(),
        stack.assets.len(),
        template.display(),
    ));
    if !stack.images.is_empty() {
        terminal.say(&format!(
            "then have the images of its fargate sandboxes built, with the project that the output SandboxBuild names\n  {}",
            loopy_infra::images::commands(&stack.images, "BUCKET", "PROJECT").join("\n  ")
        ));
    }
    let secrets = stack.secrets.outputs();
    if !secrets.is_empty() {
        terminal.say(&format!(
            "then put values into the secrets that the outputs {} name",
            secrets.join(", ")
        ));
    }
    Ok(())
}
