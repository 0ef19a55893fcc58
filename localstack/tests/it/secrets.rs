//! No secret is where it does not belong: all that a stack wrote is looked through.

use crate::around::Around;
use crate::stack::Deployed;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// What a sandbox is given and nothing asks for.
pub(crate) const PLANTED: &str = "planted-4711-in-the-sandbox";

/// Looks through everything that the stack wrote, but for Secrets Manager.
pub(crate) fn are_nowhere(deployed: &Deployed, around: &Around, secrets: &[&str]) {
    // It was planted, and is where it belongs.
    let kept = deployed.output("SandboxSecret");
    let kept = ["secretsmanager", "get-secret-value", "--secret-id", &kept];
    let kept = deployed.account.aws(&kept).to_string();
    assert!(kept.contains(PLANTED) && secrets.contains(&PLANTED));
    let mut texts = vec![("the prompts".to_owned(), around.prompts().join("\n"))];
    for run in deployed
        .runs(&["list", "--limit", "1000"])
        .as_array()
        .unwrap()
    {
        // Uncompressed, with the events it came from and made.
        let id = run["id"].as_str().unwrap();
        for what in ["export", "logs"] {
            let mut arguments = vec!["runs", what, id];
            arguments.extend(deployed.place());
            let output = deployed.loopy.run(&arguments).unwrap();
            assert!(output.status.success(), "{what} {id}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // A script may have said nothing.
            assert!(what == "logs" || !text.is_empty(), "{what} {id}");
            texts.push((format!("runs {what} {id}"), text));
        }
    }
    let stack = ["--stack-name", deployed.stack];
    for what in [
        "get-template",
        "describe-stacks",
        "describe-stack-events",
        "describe-stack-resources",
    ] {
        let found = deployed
            .account
            .aws(&[&["cloudformation", what], &stack[..]].concat());
        texts.push((what.to_owned(), found.to_string()));
    }
    let table = deployed.output("Table");
    let scan = ["dynamodb", "scan", "--table-name", &table];
    texts.push((
        "the table".to_owned(),
        deployed.account.aws(&scan).to_string(),
    ));
    let functions = deployed.account.aws(&["lambda", "list-functions"]);
    assert!(!functions["Functions"].as_array().unwrap().is_empty());
    texts.push(("the functions".to_owned(), functions.to_string()));
    texts.extend(logs(deployed));
    for (place, text) in &texts {
        for secret in secrets {
            assert!(!text.contains(secret), "{place} hold {secret}");
        }
    }
    // Manifests, functions, state, transcripts.
    let folder = TempDir::new().unwrap();
    let buckets = deployed.account.aws(&["s3api", "list-buckets"]);
    for bucket in buckets["Buckets"].as_array().unwrap() {
        let name = bucket["Name"].as_str().unwrap();
        let target = folder.path().join(name);
        let target = target.to_str().unwrap();
        deployed
            .account
            .aws(&["s3", "sync", "--quiet", &format!("s3://{name}"), target]);
    }
    let files = look_through(folder.path(), secrets);
    assert!(files > 10, "{files} objects");
}

/// What the functions logged, a text a group.
fn logs(deployed: &Deployed) -> Vec<(String, String)> {
    let groups = deployed.account.aws(&["logs", "describe-log-groups"]);
    let groups = groups["logGroups"].as_array().cloned().unwrap_or_default();
    let name = |group: &Value| group["logGroupName"].as_str().unwrap().to_owned();
    groups
        .iter()
        .map(name)
        .map(|name| {
            let filter = ["logs", "filter-log-events", "--log-group-name", &name];
            let events = deployed.account.aws(&filter);
            (format!("the logs {name}"), events.to_string())
        })
        .collect()
}

/// How many files there are; none holds a secret.
fn look_through(folder: &Path, secrets: &[&str]) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count += look_through(&path, secrets);
            continue;
        }
        count += 1;
        let bytes = fs::read(&path).unwrap();
        for secret in secrets {
            let holds = memchr::memmem::find(&bytes, secret.as_bytes()).is_some();
            assert!(!holds, "{} holds {secret}", path.display());
        }
    }
    count
}
