//! `loopy doctor`: looks at what a project needs, on this machine or in a stack, and
//! says what is missing or broken, and what to do about it.

mod here;
mod stack;

use crate::Outcome;
use crate::deploy::{self, Aws, runtime};
use crate::output::{Format, Terminal};
use crate::present;
use crate::project::{self, NoProject};
use clap::Args;
use loopy_aws::ConfigError;
use loopy_engine::ports::PortError;
use loopy_infra::DeployError;
use serde::Serialize;
use serde_json::json;
use std::io;
use std::path::PathBuf;

/// Arguments of `loopy doctor`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Look at this stack, in place of this machine
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    #[command(flatten)]
    aws: Aws,
    #[command(flatten)]
    format: Format,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stack cannot be looked at.
    #[error(transparent)]
    Stack(#[from] DeployError),
    /// The stack and the project cannot be compared.
    #[error(transparent)]
    Compare(#[from] deploy::Error),
    /// Something cannot be looked at.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The process has no threads or files left.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl DoctorError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Stack(error) => error.hint(),
            Self::Compare(error) => error.hint(),
            Self::Config(_) | Self::Port(_) | Self::Start(_) | Self::Stdout(_) => None,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// Something does not work.
    Error,
    /// Something may not be what is wanted.
    Warning,
}

/// One thing that was found.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// What it is about: `sensor x`, `sandbox y`.
    about: String,
    /// What is wrong.
    what: String,
    /// What to do.
    hint: Option<String>,
}

impl Finding {
    fn error(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            about: about.into(),
            what: what.into(),
            hint: None,
        }
    }

    fn warning(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            ..Self::error(about, what)
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, DoctorError> {
    let Some(project) = project::load(&arguments.project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let runtime = runtime().map_err(DoctorError::Start)?;
    let mut findings = runtime.block_on(async {
        match &arguments.stack {
            None => here::look(&arguments.project, &project).await,
            Some(name) => {
                let (aws, folder) = (&arguments.aws, &arguments.project);
                stack::look(name, aws, folder, &project, *terminal).await
            }
        }
    })?;
    findings.sort_by_key(|finding| finding.level);
    let text = if arguments.format.is_json() {
        present::document(&json!(findings))
    } else {
        findings.iter().map(line).collect()
    };
    terminal.data(&text).map_err(DoctorError::Stdout)?;
    if findings.is_empty() {
        terminal.say("nothing is wrong");
    }
    let broken = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if broken {
        Outcome::Refused
    } else {
        Outcome::Fine
    })
}

fn line(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
    };
    let mut line = format!("{level}: {}: {}\n", finding.about, finding.what.trim_end());
    if let Some(hint) = &finding.hint {
        line.push_str(&format!("  hint: {hint}\n"));
    }
    line
}
