//! Why a deployment did not come about, and what to do about it.

use crate::assets::AssetsError;
use crate::events::explain;
use crate::secrets::SecretsError;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use loopy_engine::ports::PortError;

/// The longest stack name: the schedule group, which takes 64 characters, has
/// the same name.
pub const MAX_STACK_NAME: usize = 58;

/// A deployment that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Not a name for a stack.
    #[error(
        "`{0}` is not a stack name; use a letter, then letters, digits and hyphens, at most {MAX_STACK_NAME}"
    )]
    StackName(String),
    /// Not a parameter of the template.
    #[error("the stack has no parameter {name}; it has {}", known.join(", "))]
    Parameter {
        /// What was given.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A parameter that a stack has for good.
    #[error(
        "{name} cannot be changed once a stack is made: it is {}",
        if had.is_empty() { "empty" } else { had }
    )]
    Lasting {
        /// The parameter.
        name: &'static str,
        /// What the stack has.
        had: String,
    },
    /// More than the account may have.
    #[error("the stack {what}, and the account has {has}; its quota is {quota}")]
    Quota {
        /// What the stack asks for.
        what: String,
        /// The quota, with the code it has in Service Quotas.
        quota: &'static str,
        /// What there is.
        has: String,
    },
    /// A key that a service may not use.
    #[error("the policy of {key} does not let {service} do {lacks}, and every event would be lost")]
    Key {
        /// The key.
        key: String,
        /// Who may not use it.
        service: &'static str,
        /// The actions.
        lacks: String,
    },
    /// A name that together with its prefix is too long.
    #[error("`{0}` is too long for the names it begins: at most {MAX_STACK_NAME} with NamePrefix")]
    Prefixed(String),
    /// The sensors' functions, or what is known of them, cannot be reached.
    #[error("cannot tell whether the sensors can be loaded: {0}")]
    Sensors(PortError),
    /// The credentials do not work, or the endpoint does not answer.
    #[error("cannot reach the AWS account: {0}")]
    Account(String),
    /// The stack cannot be updated as it stands.
    #[error("stack {stack} is {status}")]
    Status {
        /// The stack's name.
        stack: String,
        /// Its status.
        status: String,
    },
    /// There is no such stack.
    #[error("there is no stack {0} in this account and region")]
    NoStack(String),
    /// The stack is not one of Loopy's.
    #[error("stack {stack} has no output {output}, so it is not one that Loopy made")]
    NotOurs {
        /// The stack's name.
        stack: String,
        /// What it lacks.
        output: &'static str,
    },
    /// The stack never stood as one of Loopy's.
    #[error(
        "stack {stack} is {status} and has no tag loopy:project, so it is not one that Loopy made"
    )]
    Foreign {
        /// The stack's name.
        stack: String,
        /// Its status.
        status: String,
    },
    /// The assets bucket cannot be used.
    #[error(transparent)]
    Assets(#[from] AssetsError),
    /// CloudFormation refused a call.
    #[error("cannot {what}: {why}")]
    Service {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
    },
    /// The change was tried and rolled back.
    #[error("stack {stack} ended {status}:\n{}", reasons.iter().map(|r| format!("  {r}")).collect::<Vec<_>>().join("\n"))]
    Failed {
        /// The stack's name.
        stack: String,
        /// Its status.
        status: String,
        /// The resources that failed, with the reason of each.
        reasons: Vec<String>,
    },
    /// An image of a sandbox cannot be had.
    #[error("there is no image for sandbox {sandboxes}: {why}")]
    Image {
        /// The sandboxes that are made from it.
        sandboxes: String,
        /// Why not.
        why: String,
    },
    /// A deployment that cannot be gone back to.
    #[error(
        "the deployment of {at} cannot be gone back to: {key} is no longer in the assets bucket"
    )]
    Gone {
        /// When it was done.
        at: jiff::Timestamp,
        /// What is missing.
        key: String,
    },
    /// The stack stands, its secrets do not.
    #[error("the stack is deployed, but {0}")]
    Secrets(#[from] SecretsError),
    /// The stack's secrets cannot be looked at.
    #[error(transparent)]
    Values(SecretsError),
    /// Nobody knows whether a function works.
    #[error("cannot tell whether function {function} works: {why}")]
    Check {
        /// Which.
        function: String,
        /// Why not.
        why: String,
    },
}

impl DeployError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Account(_) => Some(
                "log in, or name a --profile; `aws sts get-caller-identity` shows what works"
                    .to_owned(),
            ),
            Self::Status { stack, status } => Some(match status.as_str() {
                "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" | "DELETE_FAILED" => {
                    format!(
                        "it was never completed or half deleted, and cannot be updated: run \
                         `loopy destroy --stack {stack}`, then deploy again"
                    )
                }
                "UPDATE_ROLLBACK_FAILED" => format!(
                    "its last update could not be undone: run `aws cloudformation \
                     continue-update-rollback --stack-name {stack}`, then deploy again"
                ),
                "UPDATE_FAILED" => format!(
                    "its last update stopped half-way: run `aws cloudformation rollback-stack \
                     --stack-name {stack}`, then deploy again"
                ),
                _ => "somebody is changing it; try again when that is over".to_owned(),
            }),
            Self::Failed { status, stack, .. } if status == "ROLLBACK_COMPLETE" => Some(format!(
                "mend the cause, run `loopy destroy --stack {stack}`, then deploy again"
            )),
            Self::Failed { .. } => Some("mend the cause, then deploy again".to_owned()),
            Self::Image { .. } => {
                Some("mend the cause, then deploy again; --images says who builds it".to_owned())
            }
            Self::Quota { .. } => Some(
                "ask for more in Service Quotas, or make room; PublicConcurrency sets what is \
                 reserved"
                    .to_owned(),
            ),
            Self::Key { .. } => Some(
                "add a statement to the key's policy; docs/deploy.md, \"Parameters\", says what \
                 it has to allow"
                    .to_owned(),
            ),
            Self::Lasting { .. } => Some(
                "what it encrypted could no longer be read, and its timers would go with their \
                 group: leave it out, or deploy another stack with --stack"
                    .to_owned(),
            ),
            Self::Secrets(_) => Some("mend the cause, then deploy again".to_owned()),
            Self::Check { .. } => Some(
                "the stack stays as it is; mend the cause, then deploy again, which looks again"
                    .to_owned(),
            ),
            Self::NotOurs { .. } | Self::Foreign { .. } => {
                Some("name another stack; this one is left alone".to_owned())
            }
            _ => None,
        }
    }

    pub(crate) fn service<E, R>(
        what: impl Into<String>,
        error: &aws_sdk_cloudformation::error::SdkError<E, R>,
    ) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug + 'static,
    {
        Self::Service {
            what: what.into(),
            why: explain(error),
        }
    }
}

/// Whether a stack can have this name.
///
/// # Errors
/// [`DeployError::StackName`].
pub fn check_name(stack: &str) -> Result<(), DeployError> {
    let fits = stack.len() <= MAX_STACK_NAME
        && stack.starts_with(|c: char| c.is_ascii_alphabetic())
        && stack.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fits {
        Ok(())
    } else {
        Err(DeployError::StackName(stack.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_stack_can_have() {
        for name in ["a", "My-Project-2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "2x", "a_b", "a.b", "ä", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_stack_that_never_stood_has_to_go_first() {
        let error = DeployError::Status {
            stack: "pr".to_owned(),
            status: "ROLLBACK_COMPLETE".to_owned(),
        };
        assert_eq!(error.to_string(), "stack pr is ROLLBACK_COMPLETE");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("loopy destroy --stack pr"))
        );
    }
}
