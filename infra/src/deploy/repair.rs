//! A stack that cannot be changed as it stands: waiting for whoever changes it, and
//! mending one that got stuck.

use super::change_set::TAG;
use super::history::OWN_OUTPUTS;
use super::{DeployError, Deployment, outputs};
use crate::events::{self, Progress};
use aws_sdk_cloudformation::types::{Stack as Described, Tag};

/// What brings a stuck stack back to where it can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It never stood, or is half deleted: it has to go. What holds state stays.
    Remove,
    /// Undoing its last change failed: that is tried again.
    GoOnUndoing,
    /// Its last change stopped half-way: it is undone.
    Undo,
}

impl Repair {
    /// What mends a stack of this status; `None` when nothing is wrong with it.
    pub(super) fn of(status: &str) -> Option<Self> {
        match status {
            "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" | "DELETE_FAILED" => {
                Some(Self::Remove)
            }
            "UPDATE_ROLLBACK_FAILED" => Some(Self::GoOnUndoing),
            "UPDATE_FAILED" => Some(Self::Undo),
            _ => None,
        }
    }

    /// What it does, and why that is needed.
    pub fn explained(self) -> &'static str {
        match self {
            Self::Remove => {
                "it was never completed, or is half deleted, and CloudFormation changes no such \
                 stack: it is removed and made anew (what holds state is kept)"
            }
            Self::GoOnUndoing => {
                "its last change failed, and so did undoing it: undoing goes on where it stopped"
            }
            Self::Undo => "its last change stopped half-way: it is undone first",
        }
    }
}

impl Deployment {
    /// Waits until nobody changes the stack, and says what is wrong with it then: its
    /// status, and what mends that.
    ///
    /// # Errors
    /// [`DeployError::Service`] when CloudFormation does not say, and
    /// [`DeployError::Foreign`] when a stuck stack is somebody else's.
    pub async fn settle(
        &self,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Option<(String, Repair)>, DeployError> {
        let mut told = None;
        for pause in events::pauses() {
            let status = self.status().await?;
            // One that is only planned may be planned anew.
            let busy = status.ends_with("_IN_PROGRESS") && status != "REVIEW_IN_PROGRESS";
            if !busy {
                let Some(repair) = Repair::of(&status) else {
                    return Ok(None);
                };
                // Whoever else made it has to say what becomes of it.
                if !self.describe().await?.is_none_or(|stack| is_ours(&stack)) {
                    let stack = self.stack.clone();
                    return Err(DeployError::Foreign { stack, status });
                }
                return Ok(Some((status, repair)));
            }
            if told.as_ref() != Some(&status) {
                progress(Progress::Waiting {
                    status: status.clone(),
                });
                told = Some(status);
            }
            tokio::time::sleep(pause).await;
        }
        Ok(None)
    }

    /// Mends the stack.
    ///
    /// # Errors
    /// [`DeployError::Failed`] with what stood in the way.
    pub async fn repair(
        &self,
        repair: Repair,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), DeployError> {
        let Some(stack) = self.describe().await? else {
            return Ok(());
        };
        let id = stack.stack_id().unwrap_or(&self.stack).to_owned();
        let what = format!("mend stack {}", self.stack);
        let fault = |why: String| DeployError::Service {
            what: what.clone(),
            why,
        };
        let seen = events::newest(&self.client, &id).await.map_err(fault)?;
        match repair {
            Repair::Remove => self
                .client
                .delete_stack()
                .stack_name(&id)
                .send()
                .await
                .map(|_| ())
                .map_err(|error| fault(events::explain(&error)))?,
            Repair::GoOnUndoing => self
                .client
                .continue_update_rollback()
                .stack_name(&id)
                .send()
                .await
                .map(|_| ())
                .map_err(|error| fault(events::explain(&error)))?,
            Repair::Undo => self
                .client
                .rollback_stack()
                .stack_name(&id)
                .send()
                .await
                .map(|_| ())
                .map_err(|error| fault(events::explain(&error)))?,
        }
        let ended = events::follow(&self.client, &id, seen, progress)
            .await
            .map_err(fault)?;
        if matches!(
            ended.status.as_str(),
            "DELETE_COMPLETE" | "UPDATE_ROLLBACK_COMPLETE"
        ) {
            return Ok(());
        }
        Err(DeployError::Failed {
            stack: self.stack.clone(),
            status: ended.status,
            reasons: ended.failures,
        })
    }

    /// The stack's status; empty where there is no stack.
    async fn status(&self) -> Result<String, DeployError> {
        let stack = self.describe().await?;
        let status = stack.as_ref().and_then(Described::stack_status);
        Ok(status.map_or_else(String::new, |status| status.as_str().to_owned()))
    }
}

/// Whether Loopy made the stack: it has the tag of one that `loopy deploy` makes, or
/// the outputs of one that stood.
pub(crate) fn is_ours(stack: &Described) -> bool {
    let tagged = |tag: &Tag| tag.key() == Some(TAG) && tag.value() == stack.stack_name();
    let outputs = outputs(stack);
    stack.tags().iter().any(tagged) || OWN_OUTPUTS.iter().all(|name| outputs.contains_key(*name))
}
