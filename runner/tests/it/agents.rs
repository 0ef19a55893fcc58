//! What the tests of several agents' tools share.

use crate::engine::{Attempt, Server, code, lives, until};
use crate::workspace::shell;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

/// A key that must not get into a transcript.
pub(crate) const KEY: &str = "sk-a-key-that-nobody-may-see";

/// A skill `lint`, described as one that checks the spelling of toads.
pub(crate) fn skill() -> Value {
    json!({"lint": {"SKILL.md": "LS0tCm5hbWU6IGxpbnQKZGVzY3JpcHRpb246IENoZWNrcyBzcGVsbGluZyBvZiB0b2Fkcy4KLS0tCkdvLgo="}})
}

/// The folder of the tool that `variable` names.
pub(crate) fn folder_of(variable: &str) -> String {
    let path = std::env::var(variable).unwrap_or_default();
    assert!(
        Path::new(&path).is_file(),
        "{variable} names no file; run `cargo xtask test`, which prepares it"
    );
    Path::new(&path).parent().unwrap().display().to_string()
}

/// A repository whose test fails until `greeting` says `hello`.
pub(crate) fn repository() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    shell(
        place.path(),
        "git init -q -b main app && cd app
         git config user.email t@example.com && git config user.name t
         echo good day > greeting
         printf '#!/bin/sh\\ngrep -qx hello greeting && echo the test passed\\n' > check
         chmod +x check && git add . && git commit -qm 1",
    );
    place
}

/// Where to clone it from.
pub(crate) fn url(repository: &TempDir) -> String {
    format!("file://{}/app", repository.path().display())
}

/// A price at which a thousand tokens read cost a dollar, from the cache half of
/// it, and a thousand written two.
pub(crate) fn price() -> Value {
    json!({"input": 1000.0, "cached": 500.0, "output": 2000.0})
}

/// `all` with `changes` over it.
pub(crate) fn with(all: Value, changes: &Value) -> Value {
    let mut all: Map<String, Value> = all.as_object().unwrap().clone();
    for (name, value) in changes.as_object().unwrap() {
        match (name.as_str(), all.get_mut(name)) {
            ("env", Some(Value::Object(env))) => env.extend(value.as_object().unwrap().clone()),
            _ => {
                all.insert(name.clone(), value.clone());
            }
        }
    }
    all.into()
}

/// Runs an attempt whose agent runs `sleep SECONDS`, and has the engine ask to
/// stop meanwhile.
pub(crate) async fn is_stopped(attempt: &Attempt, seconds: &str, program: &str) {
    let server = Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    until("the command runs", || lives(seconds)).await;
    attempt.record.stop.store(true, Ordering::SeqCst);
    assert_eq!(code(runner).await, 0);
    assert!(!lives(seconds));
    assert!(attempt.record.results.lock().unwrap().is_empty());
    let workspace = attempt.workspace().display().to_string();
    let left = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&workspace)
    });
    assert!(!left, "no process of {program} is left");
}
