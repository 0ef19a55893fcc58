//! Why a command that changes a stack broke off, and what to do about it.

use super::approval::Agreement;
use crate::emit::EmitError;
use crate::project::NoProject;
use loopy_aws::ConfigError;
use loopy_engine::ports::PortError;
use loopy_infra::{DeployError, SecretsError};
use std::fmt;
use std::io;

/// What became of a stack whose new version does not work.
#[derive(Debug)]
pub(crate) enum After {
    /// It is what it was.
    Back {
        /// Its name.
        stack: String,
        /// The deployment that it went back to, where that is not just the one before.
        to: Option<String>,
    },
    /// There is nothing else to go to.
    Alone,
    /// It was made of this already, and nothing was changed.
    Unchanged {
        /// Its name.
        stack: String,
    },
    /// It was to be made of this, and is.
    Stays {
        /// Its name.
        stack: String,
    },
    /// The way back failed too.
    Stuck {
        /// Its name.
        stack: String,
        /// Why.
        why: String,
    },
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back { stack, to: None } => {
                write!(f, "stack {stack} is again what it was before")
            }
            Self::Back {
                stack,
                to: Some(to),
            } => write!(f, "stack {stack} is again what it was at {to}"),
            Self::Alone => f.write_str("there is no version before it to go back to"),
            Self::Unchanged { stack } => {
                write!(f, "stack {stack} was made of this before, and stays so")
            }
            Self::Stays { stack } => write!(f, "stack {stack} stays as it is"),
            Self::Stuck { stack, why } => {
                write!(
                    f,
                    "going back failed too, so stack {stack} is as it is: {why}"
                )
            }
        }
    }
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// No stack can be made of it.
    #[error(transparent)]
    Stack(#[from] EmitError),
    /// A secret is missing.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// AWS, or the stack, refused.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// Somebody has to agree to it by name, and nobody did.
    #[error("{}", .0.told())]
    Unagreed(Agreement),
    /// The templates cannot be compared.
    #[error("cannot tell what would change: {0}")]
    Compare(String),
    /// What was deployed does not work.
    #[error(
        "what was deployed does not work:\n{}\n{after}",
        problems.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    )]
    Unhealthy {
        /// What does not work.
        problems: Vec<String>,
        /// What became of the stack.
        after: After,
    },
    /// There is nothing to go back to.
    #[error("stack {0} has no deployment to go back to")]
    NoRecord(String),
    /// There is nobody to ask.
    #[error("this would change stack {stack}, and there is no terminal to ask on")]
    NobodyToAsk {
        /// The stack's name.
        stack: String,
    },
    /// The state of the stack cannot be read.
    #[error(transparent)]
    State(#[from] PortError),
    /// Images are to be built here, and there is no engine.
    #[error("no Docker engine answers on a socket of this machine")]
    NoDocker,
    /// The terminal failed.
    #[error("cannot read the answer: {0}")]
    Answer(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The process has no threads or sockets left.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Stack(error) => error.hint(),
            Self::Deploy(error) => error.hint(),
            Self::Unagreed(agreement) => Some(agreement.hint()),
            Self::Unhealthy { after, .. } => Some(match after {
                After::Stuck { stack, .. } => format!(
                    "`loopy rollback --stack {stack}` tries the way back again; the functions' \
                     logs in CloudWatch say why the new version does not work"
                ),
                After::Unchanged { stack } => format!(
                    "the functions' logs in CloudWatch say why; `loopy rollback --stack {stack}` \
                     goes to the deployment before"
                ),
                After::Back { .. } | After::Alone | After::Stays { .. } => {
                    "the functions' logs in CloudWatch say why; mend it, then deploy again"
                        .to_owned()
                }
            }),
            Self::NoRecord(_) => Some("`loopy rollback --list` shows what there is".to_owned()),
            Self::NobodyToAsk { .. } => Some("pass --yes to go on without asking".to_owned()),
            Self::NoDocker => Some(
                "start Docker, or leave the images to the account with --images account".to_owned(),
            ),
            Self::Secrets(_)
            | Self::Compare(_)
            | Self::State(_)
            | Self::Config(_)
            | Self::Answer(_)
            | Self::Stdout(_)
            | Self::Runtime(_) => None,
        }
    }
}
