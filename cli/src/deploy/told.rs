//! What is said of a deployment: its plan, its progress, what of earlier versions goes
//! on.

use loopy_engine::run::short_hash;
use loopy_infra::{Change, Deployment, OpenRuns, Plan, Progress};

/// One line about a sensor.
pub(super) fn unloadable_line((sensor, why): (&String, &String)) -> String {
    format!("sensor {sensor} cannot be loaded: {why}")
}

/// What of earlier versions goes on.
pub(super) fn draining(open: &OpenRuns, manifest: &str) -> Option<String> {
    let current = short_hash(manifest);
    let others = open.iter().filter(|(hash, _)| *hash != current);
    let count: usize = others.map(|(_, runs)| runs.len()).sum();
    match count {
        0 => None,
        1 => Some("1 run goes on with an earlier version".to_owned()),
        _ => Some(format!("{count} runs go on with an earlier version")),
    }
}

/// What CloudFormation would do, a line a resource.
pub(super) fn shown_plan(plan: &Plan, name: &str, deployment: &Deployment) -> String {
    let mut text = format!(
        "{} stack {name} in account {}, region {}:\n",
        if plan.is_new { "create" } else { "change" },
        deployment.account(),
        deployment.region(),
    );
    for Change {
        action,
        logical_id,
        kind,
        replaced,
    } in &plan.changes
    {
        let sign = match action.as_str() {
            "Add" => "+",
            "Remove" => "-",
            _ => "~",
        };
        let note = match replaced {
            Some(true) => "  (made anew)",
            None if action == "Modify" => "  (perhaps made anew)",
            _ => "",
        };
        text.push_str(&format!("  {sign} {kind}  {logical_id}{note}\n"));
    }
    text
}

/// One line about what happened.
pub(crate) fn line(event: &Progress) -> String {
    match event {
        Progress::BucketCreated { bucket } => format!("created bucket {bucket}"),
        Progress::Uploaded { key, bytes } => {
            format!("uploaded {key} ({} KB)", bytes.div_ceil(1024))
        }
        Progress::Resource {
            logical_id,
            kind,
            status,
            reason,
        } => {
            let reason = reason.as_deref().filter(|_| status.ends_with("_FAILED"));
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            format!("  {status:<20}  {kind}  {logical_id}{reason}")
        }
        Progress::ImageBegun {
            sandboxes,
            in_account,
        } => {
            let place = if *in_account { "the account" } else { "Docker" };
            format!("building the image of {sandboxes} with {place}")
        }
        Progress::ImagePushed { sandboxes } => format!("pushed the image of {sandboxes}"),
        Progress::TasksStopped { count } => format!("stopped {count} tasks that worked"),
        Progress::Waiting { status } => {
            format!("the stack is {status}: waiting until that is over")
        }
        Progress::Doubt { what } => format!("warning: {what}"),
        Progress::Healthy { functions } => format!("all {functions} functions answer"),
        Progress::SecretStored { logical_id } => format!("stored the values of {logical_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_reason() {
        let event = Progress::Resource {
            logical_id: "Table".to_owned(),
            kind: "AWS::DynamoDB::Table".to_owned(),
            status: "CREATE_FAILED".to_owned(),
            reason: Some("no capacity".to_owned()),
        };
        assert_eq!(
            line(&event),
            "  CREATE_FAILED         AWS::DynamoDB::Table  Table: no capacity"
        );
    }
}
