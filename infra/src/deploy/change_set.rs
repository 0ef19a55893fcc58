//! Change sets: what CloudFormation works out before it changes anything.

use super::{Change, ChangeSet, DeployError, Deployment, Plan};
use crate::events;
use aws_sdk_cloudformation::error::ProvideErrorMetadata;
use aws_sdk_cloudformation::types::{
    Capability, ChangeAction, ChangeSetStatus, ChangeSetType, ChangeSource, Parameter, Replacement,
    ResourceChange, Tag,
};

/// The tag that each stack has which is deployed from here.
pub(super) const TAG: &str = "loopy:project";

impl Deployment {
    pub(super) async fn create_change_set(
        &self,
        name: &str,
        template_url: &str,
        kind: ChangeSetType,
        parameters: Vec<Parameter>,
        is_new: bool,
    ) -> Result<Plan, DeployError> {
        let what = || format!("plan the change of stack {}", self.stack);
        let request = self
            .client
            .create_change_set()
            .stack_name(&self.stack)
            .change_set_name(name)
            .change_set_type(kind)
            .template_url(template_url)
            .capabilities(Capability::CapabilityIam)
            .set_parameters(Some(parameters))
            .tags(Tag::builder().key(TAG).value(&self.stack).build());
        let mut created = request.clone().send().await;
        // One that an interrupted deployment left behind.
        if created.as_ref().is_err_and(|error| {
            error
                .as_service_error()
                .is_some_and(|e| e.is_already_exists_exception())
        }) {
            self.delete_change_set_named(name).await?;
            created = request.send().await;
        }
        let created = created.map_err(|error| DeployError::service(what(), &error))?;
        let fault = |missing: &str| DeployError::Service {
            what: what(),
            why: format!("the answer has no {missing}"),
        };
        let id = created
            .id()
            .ok_or_else(|| fault("change set id"))?
            .to_owned();
        let stack_id = created
            .stack_id()
            .ok_or_else(|| fault("stack id"))?
            .to_owned();
        let change_set = ChangeSet { id, stack_id };

        for pause in events::pauses() {
            tokio::time::sleep(pause).await;
            let described = self
                .client
                .describe_change_set()
                .change_set_name(&change_set.id)
                .send()
                .await
                .map_err(|error| DeployError::service(what(), &error))?;
            match described.status() {
                Some(ChangeSetStatus::CreateComplete) => break,
                Some(ChangeSetStatus::Failed) => {
                    let reason = described.status_reason().unwrap_or("no reason was given");
                    let plan = Plan {
                        is_new,
                        changes: Vec::new(),
                        change_set: Some(change_set.clone()),
                    };
                    self.discard(&plan).await?;
                    if says_no_change(reason) {
                        return Ok(Plan {
                            change_set: None,
                            ..plan
                        });
                    }
                    return Err(DeployError::Service {
                        what: what(),
                        why: reason.to_owned(),
                    });
                }
                _ => {}
            }
        }
        let changes = self.changes(&change_set.id).await?;
        Ok(Plan {
            is_new,
            changes,
            change_set: Some(change_set),
        })
    }

    async fn changes(&self, id: &str) -> Result<Vec<Change>, DeployError> {
        let mut changes = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .client
                .describe_change_set()
                .change_set_name(id)
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| DeployError::service("read the planned change", &error))?;
            for change in page
                .changes()
                .iter()
                .filter_map(|change| change.resource_change())
                .filter(|change| !is_only_looked_at(change))
            {
                changes.push(Change {
                    action: change
                        .action()
                        .map_or("", |action| action.as_str())
                        .to_owned(),
                    logical_id: change.logical_resource_id().unwrap_or_default().to_owned(),
                    kind: change.resource_type().unwrap_or_default().to_owned(),
                    replaced: match change.replacement() {
                        Some(Replacement::True) => Some(true),
                        Some(Replacement::False) => Some(false),
                        _ => None,
                    },
                });
            }
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                return Ok(changes);
            }
        }
    }

    pub(super) async fn delete_change_set(&self, id: &str) -> Result<(), DeployError> {
        let deleted = self.client.delete_change_set().change_set_name(id).send();
        match deleted.await {
            Ok(_) => Ok(()),
            // It went with its stack, or with another change that was carried out.
            Err(error) if error.code() == Some("ChangeSetNotFound") => Ok(()),
            Err(error) => Err(DeployError::service("take back the planned change", &error)),
        }
    }

    async fn delete_change_set_named(&self, name: &str) -> Result<(), DeployError> {
        self.client
            .delete_change_set()
            .stack_name(&self.stack)
            .change_set_name(name)
            .send()
            .await
            .map(|_| ())
            .map_err(|error| DeployError::service("take back an older planned change", &error))
    }
}

/// Whether nothing says that a stack inside the stack changes. CloudFormation lists each
/// of them, as its template might have changed under the same address; ours never does,
/// as the address holds its hash.
fn is_only_looked_at(change: &ResourceChange) -> bool {
    let details = change.details();
    change.resource_type() == Some("AWS::CloudFormation::Stack")
        && change.action() == Some(&ChangeAction::Modify)
        && !details.is_empty()
        && details
            .iter()
            .all(|detail| detail.change_source() == Some(&ChangeSource::Automatic))
}

fn says_no_change(reason: &str) -> bool {
    reason.contains("didn't contain changes") || reason.contains("No updates are to be performed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_cloudformation::types::ResourceChangeDetail;

    #[test]
    fn stacks_inside_the_stack_that_nothing_changes_are_left_out() {
        let change = |kind: &str, action: ChangeAction, sources: &[ChangeSource]| {
            let details = sources.iter().map(|source| {
                let detail = ResourceChangeDetail::builder();
                detail.change_source(source.clone()).build()
            });
            ResourceChange::builder()
                .resource_type(kind)
                .action(action)
                .set_details(Some(details.collect()))
                .build()
        };
        let nested = "AWS::CloudFormation::Stack";
        let automatic = ChangeSource::Automatic;
        let direct = ChangeSource::DirectModification;
        let once = std::slice::from_ref(&automatic);
        for (left_out, change) in [
            (true, change(nested, ChangeAction::Modify, once)),
            (
                false,
                change(
                    nested,
                    ChangeAction::Modify,
                    &[automatic.clone(), direct.clone()],
                ),
            ),
            (false, change(nested, ChangeAction::Modify, &[])),
            (false, change(nested, ChangeAction::Add, &[])),
            (false, change("AWS::SQS::Queue", ChangeAction::Modify, once)),
        ] {
            assert_eq!(is_only_looked_at(&change), left_out, "{change:?}");
        }
    }
}
