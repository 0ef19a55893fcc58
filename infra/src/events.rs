//! What CloudFormation says while it works on a stack, and what any service
//! says when it refuses.

use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_cloudformation::types::StackEvent;
use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

/// How often a stack is looked at: soon at first, then seldom.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const LAST_LOOK: Duration = Duration::from_secs(3);

/// What happened meanwhile, for whoever waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The assets bucket did not exist and was made.
    BucketCreated {
        /// Its name.
        bucket: String,
    },
    /// An asset was uploaded; those that were there already are not mentioned.
    Uploaded {
        /// Its key.
        key: String,
        /// Its size in bytes.
        bytes: usize,
    },
    /// A resource changed its status.
    Resource {
        /// Its name in the template.
        logical_id: String,
        /// `AWS::SQS::Queue` and so on.
        kind: String,
        /// `CREATE_IN_PROGRESS` and so on.
        status: String,
        /// What CloudFormation says to it.
        reason: Option<String>,
    },
    /// An image is being built.
    ImageBegun {
        /// The sandboxes it is for.
        sandboxes: String,
        /// Whether the account builds it, and not this machine.
        in_account: bool,
    },
    /// An image is in the stack's repository.
    ImagePushed {
        /// The sandboxes it is for.
        sandboxes: String,
    },
    /// Tasks that worked were stopped.
    TasksStopped {
        /// How many there were at a time.
        count: usize,
    },
    /// Somebody else changes the stack, and that is waited for.
    Waiting {
        /// The stack's status.
        status: String,
    },
    /// Something that could not be looked at, and should be.
    Doubt {
        /// What, and why it matters.
        what: String,
    },
    /// Every function answered.
    Healthy {
        /// How many there are.
        functions: usize,
    },
    /// A secret got new values.
    SecretStored {
        /// Its name in the template.
        logical_id: String,
    },
}

/// How work on a stack ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The stack's last status.
    pub(crate) status: String,
    /// For each resource that failed by itself, its name and the reason.
    pub(crate) failures: Vec<String>,
}

/// Gives the next pause before looking again, each longer than the last.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_LOOK), |pause| {
        Some(pause.mul_f32(1.3).min(LAST_LOOK))
    })
}

/// The newest event of the stack, to know later what is new. Without it an earlier
/// change's end would be taken for that of the next.
pub(crate) async fn newest(client: &Client, stack: &str) -> Result<Option<String>, String> {
    let page = client
        .describe_stack_events()
        .stack_name(stack)
        .send()
        .await
        .map_err(|error| explain(&error))?;
    let newest = page.stack_events().first();
    Ok(newest.and_then(|event| event.event_id().map(str::to_owned)))
}

/// Reports every event after `seen` until the stack itself comes to rest.
pub(crate) async fn follow(
    client: &Client,
    stack_id: &str,
    mut seen: Option<String>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Ended, String> {
    let mut failures = Vec::new();
    for pause in pauses() {
        tokio::time::sleep(pause).await;
        let events = since(client, stack_id, seen.as_deref()).await?;
        if let Some(event) = events.last() {
            seen = event.event_id().map(str::to_owned);
        }
        for event in &events {
            let status = event
                .resource_status()
                .map_or("", |status| status.as_str())
                .to_owned();
            let logical_id = event.logical_resource_id().unwrap_or_default().to_owned();
            let reason = event.resource_status_reason().map(str::to_owned);
            let own = event.physical_resource_id() == Some(stack_id);
            // What was cancelled because something else failed explains nothing.
            if status.ends_with("_FAILED")
                && let Some(reason) = &reason
                && !reason.contains("cancelled")
                && !own
            {
                failures.push(format!("{logical_id}: {reason}"));
            }
            progress(Progress::Resource {
                logical_id,
                kind: event.resource_type().unwrap_or_default().to_owned(),
                status: status.clone(),
                reason: reason.clone(),
            });
            if own && at_rest(&status) {
                if failures.is_empty() {
                    failures.extend(reason);
                }
                return Ok(Ended { status, failures });
            }
        }
    }
    Err("the wait ended".to_owned())
}

fn at_rest(status: &str) -> bool {
    (status.ends_with("_COMPLETE") || status.ends_with("_FAILED"))
        && !status.ends_with("CLEANUP_IN_PROGRESS")
}

/// The events after `seen`, oldest first. The service lists the newest first.
async fn since(
    client: &Client,
    stack_id: &str,
    seen: Option<&str>,
) -> Result<Vec<StackEvent>, String> {
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    'pages: loop {
        let page = client
            .describe_stack_events()
            .stack_name(stack_id)
            .set_next_token(token)
            .send()
            .await
            .map_err(|error| explain(&error))?;
        for event in page.stack_events() {
            if seen.is_some() && event.event_id() == seen {
                break 'pages;
            }
            found.push(event.clone());
        }
        token = page.next_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// A failed call in a sentence: the service's code and message where it
/// answered, every cause from the outermost in where it did not.
pub(crate) fn explain<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
    R: Debug + 'static,
{
    if let Some(service) = error.as_service_error() {
        match (service.code(), service.message()) {
            (Some(code), Some(message)) => return format!("{message} ({code})"),
            (Some(code), None) => return code.to_owned(),
            (None, Some(message)) => return message.to_owned(),
            (None, None) => {}
        }
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
