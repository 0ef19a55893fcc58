//! What a runner is handed, and that it can be sent: a step that is handed too much
//! fails once, for good, with the sizes, and without a sandbox where that is known before.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::event::{Event, Source};
use loopy_contract::files::PACK_PART;
use loopy_contract::ids::{EventId, sha256_hex};
use loopy_contract::manifest::Manifest;
use loopy_contract::report::{Envelope, FailureClass, MAX_ENVELOPE_BYTES, wire_bytes};
use loopy_engine::run::{Run, RunStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use world::{World, object, step};

/// One step with the agent's skill `big`, which is tried again whatever goes wrong.
fn manifest(skill: &BTreeMap<String, String>) -> Manifest {
    let text = json!({"type": "string"});
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {"provider": "local", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": ["big"]}},
            "events": {"Opened": {"fields": {"title": text}}},
        },
        "workflows": {"review": {"entry": "read", "steps": {
            "read": step("review/read", json!({
                "trigger": {"kind": "event", "event": "Opened"},
                "retry": {"max": 2, "on": ["sandbox", "lost", "crash"]},
            })),
        }}},
        "sensors": [], "lineage": {"events": {}}, "skills": {"big": skill, "other": {"x": "y"}},
        "sensor_files": {},
    }))
    .unwrap();
    manifest.seal()
}

async fn started(world: &World, title: &str) -> Run {
    let event = Event::root(
        EventId::from("e1"),
        "Opened".to_owned(),
        object(json!({ "title": title })),
        Source::Hand,
        "2026-11-21T10:00:00Z".parse().unwrap(),
    );
    world.engine.submit(&event).await.unwrap();
    world.work().await;
    world.the_run("review").await
}

#[track_caller]
fn failed_for_good(run: &Run, sizes: &[&str]) {
    let RunStatus::Failed { failure, .. } = &run.status else {
        unreachable!("{:?}", run.status);
    };
    assert_eq!(failure.class, FailureClass::Sandbox);
    for size in sizes {
        assert!(failure.message.contains(size), "{}", failure.message);
    }
    assert_eq!(run.steps["read"].attempts.len(), 1, "it is not tried again");
}

#[tokio::test]
async fn a_step_that_is_handed_more_than_can_be_sent_fails_before_a_sandbox_is_paid() {
    let world = world::world(manifest(&BTreeMap::new()));
    let run = started(&world, &"x".repeat(MAX_ENVELOPE_BYTES)).await;
    failed_for_good(&run, &["6000000", "`event` 60000", "`files`"]);
    assert_eq!(world.launcher.launched.lock().unwrap().len(), 0);
    // Counted as it goes over the wire: each quote is four bytes there.
    let world = world::world(manifest(&BTreeMap::new()));
    let run = started(&world, &"\"".repeat(MAX_ENVELOPE_BYTES / 4)).await;
    failed_for_good(&run, &["6000000"]);
    let world = world::world(manifest(&BTreeMap::new()));
    let run = started(&world, &"\"".repeat(MAX_ENVELOPE_BYTES / 4 - 1000)).await;
    assert_eq!(run.status, RunStatus::Running);
    let (status, envelope) = world
        .report(&world.spec("read"), "envelope", Value::Null)
        .await;
    assert_eq!(status, 200);
    let answered = serde_json::to_string(&envelope.to_string()).unwrap();
    assert!(answered.len() < MAX_ENVELOPE_BYTES);
}

#[tokio::test]
async fn an_envelope_that_turns_out_too_large_ends_its_attempt_for_good() {
    let environment = BTreeMap::from([("LONG".to_owned(), "x".repeat(1000))]);
    let sandboxes = BTreeMap::from([("Box".to_owned(), environment)]);
    let world = world::world_holding(manifest(&BTreeMap::new()), BTreeMap::new(), sandboxes);
    let bare = started(&world, "").await;
    assert_eq!(bare.status, RunStatus::Running);
    let (_, envelope) = world
        .report(&world.spec("read"), "envelope", Value::Null)
        .await;
    let room = MAX_ENVELOPE_BYTES - wire_bytes(&envelope);

    // With its environment there is one byte too much.
    for (more, status) in [(0, 200), (1, 410)] {
        let environment = BTreeMap::from([("LONG".to_owned(), "x".repeat(1000))]);
        let sandboxes = BTreeMap::from([("Box".to_owned(), environment)]);
        let world = world::world_holding(manifest(&BTreeMap::new()), BTreeMap::new(), sandboxes);
        started(&world, &"x".repeat(room + more)).await;
        let spec = world.spec("read");
        let (found, answer) = world.report(&spec, "envelope", Value::Null).await;
        assert_eq!(found, status, "{answer}");
        if more > 0 {
            failed_for_good(&world.the_run("review").await, &["6000000", "`event`"]);
            world.work().await;
            assert_eq!(world.launcher.launched.lock().unwrap().len(), 1);
        }
    }
}

#[tokio::test]
async fn skills_that_no_envelope_holds_are_handed_over_in_parts() {
    let large: Vec<u8> = (0..9 * PACK_PART + 5).map(|at| (at % 251) as u8).collect();
    let files = [
        ("SKILL.md", b"# Big\n".to_vec()),
        ("empty", Vec::new()),
        ("data/a.bin", large),
    ];
    let hashes = files
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), sha256_hex(bytes)));
    let by_hash = files
        .iter()
        .map(|(_, bytes)| (sha256_hex(bytes), bytes.clone()));
    let manifest = manifest(&hashes.collect());
    let world = world::world_holding(manifest, by_hash.collect(), BTreeMap::new());
    assert_eq!(started(&world, "t").await.status, RunStatus::Running);
    let spec = world.spec("read");
    let (status, envelope) = world.report(&spec, "envelope", Value::Null).await;
    assert_eq!(status, 200);
    let envelope: Envelope = serde_json::from_value(envelope).unwrap();
    // They would have been 6.3 MB in base64.
    assert_eq!(envelope.skills, BTreeMap::new());
    for (path, bytes) in &files {
        let size = envelope.skill_files["big"][*path];
        assert_eq!(size, bytes.len() as u64, "{path}");
        let mut whole = Vec::new();
        while (whole.len() as u64) < size {
            let ask = json!({"skill": "big", "path": path, "offset": whole.len()});
            let (status, answer) = world.report(&spec, "skill", ask).await;
            assert_eq!(status, 200, "{answer}");
            whole.extend(STANDARD.decode(answer["data"].as_str().unwrap()).unwrap());
        }
        assert!(whole == *bytes, "{path}");
    }
    let end = 9 * PACK_PART + PACK_PART;
    for wrong in [
        json!({"skill": "big", "path": "data/a.bin", "offset": 1}),
        json!({"skill": "big", "path": "data/a.bin", "offset": end}),
        json!({"skill": "big", "path": "../SKILL.md", "offset": 0}),
        json!({"skill": "other", "path": "x", "offset": 0}),
    ] {
        assert_eq!(
            world.report(&spec, "skill", wrong.clone()).await.0,
            400,
            "{wrong}"
        );
    }
    let result = json!(world::success(json!({}), json!({})));
    assert_eq!(world.report(&spec, "result", result).await.0, 200);
    let ask = json!({"skill": "big", "path": "SKILL.md", "offset": 0});
    assert_eq!(world.report(&spec, "skill", ask).await.0, 410);
}
