//! Shared by the tests of this crate: sample manifests, events, a Python.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod home;

use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::Manifest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The Python that the tests use.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("LOOPY_TEST_PYTHON")
        .map(PathBuf::from)
        .expect("LOOPY_TEST_PYTHON is not set; run `cargo xtask test`, which prepares it")
}

/// A sealed manifest of these workflows and sensors. It has the events `Go`
/// (`n`: integer) and `Done` (`text`: string) and one `command` agent in a
/// local sandbox.
pub(crate) fn manifest(workflows: Value, sensors: Value) -> Manifest {
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": loopy_contract::manifest::SCHEMA_VERSION,
        "loopy_version": "0",
        "registry": {
            "sandboxes": {"Here": {
                "provider": "local", "image": {}, "network": [],
                "env_file": ["secrets/base.env"], "repos": [],
            }},
            "agents": {"Shell": {
                "harness": "command", "model": null, "sandbox": "Here", "skills": [],
            }},
            "events": {
                "Go": {"fields": {"n": {"type": "integer"}}},
                "Done": {"fields": {"text": {"type": "string"}}},
            },
        },
        "workflows": workflows,
        "sensors": sensors,
        "lineage": {"events": {}},
        "skills": {},
        "sensor_files": {},
    }))
    .unwrap();
    manifest.seal()
}

/// A step as a manifest has it.
pub(crate) fn step(
    id: &str,
    on: Option<&str>,
    after: &[&str],
    output: Value,
    emits: &[&str],
) -> Value {
    json!({
        "id": id,
        "trigger": on.map(|event| json!({"kind": "event", "event": event})),
        "after": after,
        "agent": "Shell",
        "output": output,
        "emits": emits,
        "budget": null,
        "body": "true",
        "refs": [],
    })
}

/// `first` runs two steps on `Go` and emits `Done`, on which `second` runs one.
pub(crate) fn two_workflows() -> Value {
    json!({
        "first": {"entry": "one", "steps": {
            "one": step("first/one", Some("Go"), &[], json!({"text": {"type": "string"}}), &[]),
            "two": step("first/two", None, &["one"], json!({}), &["Done"]),
        }},
        "second": {"entry": "only", "steps": {
            "only": step("second/only", Some("Done"), &[], json!({"text": {"type": "string"}}), &[]),
        }},
    })
}

/// A `Go` event by hand.
pub(crate) fn go(id: &str, n: i64) -> Event {
    let fields = json!({"n": n}).as_object().cloned().unwrap();
    Event::root(
        EventId::from(id),
        "Go".to_owned(),
        fields,
        Source::Hand,
        Timestamp::now(),
    )
}

/// An environment with a `PATH` and nothing else.
pub(crate) fn bare_environment() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "PATH".to_owned(),
        loopy_sandbox::local::PLAIN_PATH.to_owned(),
    )])
}
