//! Files handed on from step to step: kept in parts, held against the result that
//! names them, served to the steps that ask for them, and taken over by runs that go
//! over another one again.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::event::{Event, Source};
use loopy_contract::files::{MAX_PACK_BYTES, PACK_PART};
use loopy_contract::ids::{EventId, RunId, sha256_hex};
use loopy_contract::manifest::Manifest;
use loopy_contract::report::{Envelope, Pack, StepResult};
use loopy_engine::files::PackOf;
use loopy_engine::message::{Again, Message};
use loopy_engine::ports::{LaunchSpec, Packs, Store};
use loopy_engine::run::{Run, RunStatus};
use loopy_engine::transition::{self, Edits};
use serde_json::{Value, json};
use world::{World, object, step, success};

fn project(steps: &Value) -> Manifest {
    let mut all = serde_json::Map::new();
    for (name, extra) in steps.as_object().unwrap() {
        let mut extra = extra.clone();
        if extra.get("after").is_none() {
            extra["trigger"] = json!({"kind": "event", "event": "Go"});
        }
        all.insert(name.clone(), step(&format!("w/{name}"), extra));
    }
    let manifest = json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {"provider": "local", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": []}},
            "events": {"Go": {"fields": {"names": {"type": "array"}}}},
        },
        "workflows": {"w": {"entry": "build", "steps": all}},
        "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    });
    serde_json::from_value::<Manifest>(manifest).unwrap().seal()
}

/// One step that hands files on to another, which is not the only one behind it.
fn two() -> Value {
    json!({
        "build": {"keeps": ["dist/**", "log"]},
        "check": {"after": ["build"], "files": [
            {"step": "build", "path": "dist/**"}, {"step": "build", "path": "log"},
        ]},
        "other": {"after": ["build"]},
    })
}

async fn begun(steps: &Value, names: Value) -> World {
    let world = world::world(project(steps));
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    let fields = object(json!({ "names": names }));
    let id = EventId::from("e1");
    let event = Event::root(id, "Go".into(), fields, Source::Hand, at);
    world.engine.submit(&event).await.unwrap();
    world.work().await;
    world
}

/// The pack of these bytes; what is in it is no matter to the engine.
fn pack(bytes: &[u8]) -> Pack {
    Pack {
        sha256: sha256_hex(bytes),
        size: bytes.len() as u64,
    }
}

fn done(files: Option<Pack>) -> StepResult {
    StepResult {
        files,
        ..success(json!({}), json!({}))
    }
}

fn part(offset: usize, bytes: &[u8]) -> Value {
    json!({"offset": offset, "data": STANDARD.encode(bytes)})
}

/// More than one part, and not a whole number of them.
fn long(seed: u8) -> Vec<u8> {
    (0..PACK_PART + 1000)
        .map(|index| seed.wrapping_add((index % 251) as u8))
        .collect()
}

impl World {
    /// Sends a pack in its parts.
    async fn put(&self, spec: &LaunchSpec, bytes: &[u8]) {
        for (index, bytes) in bytes.chunks(PACK_PART).enumerate() {
            let sent = self.report(spec, "files", part(index * PACK_PART, bytes));
            assert_eq!(sent.await.0, 200);
        }
    }

    /// A step comes to its end with these files.
    async fn hand_on(&self, spec: &LaunchSpec, bytes: &[u8]) {
        self.put(spec, bytes).await;
        let result = json!(done(Some(pack(bytes))));
        let (status, said) = self.report(spec, "result", result).await;
        assert_eq!(status, 200, "{said}");
        self.work().await;
    }

    async fn envelope(&self, spec: &LaunchSpec) -> Envelope {
        let (status, body) = self.report(spec, "envelope", json!(null)).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// All bytes of a pack that a step is handed.
    async fn fetch(&self, spec: &LaunchSpec, step: &str, item: Option<u32>) -> Vec<u8> {
        let envelope = self.envelope(spec).await;
        let handed = envelope.files.iter();
        let handed = handed.clone().find(|h| h.step == step && h.item == item);
        let size = usize::try_from(handed.unwrap().pack.size).unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let ask = json!({"step": step, "item": item, "offset": bytes.len()});
            let (status, body) = self.report(spec, "fetch", ask).await;
            assert_eq!(status, 200, "{body}");
            bytes.extend(STANDARD.decode(body["data"].as_str().unwrap()).unwrap());
        }
        bytes
    }

    /// Goes over the run again as `id`, and gives back the new one.
    async fn again(&self, original: &Run, id: &str, from: &str) -> Option<Run> {
        let message = Message::Again(Again {
            id: RunId::from(id),
            original: original.id.clone(),
            from: Some(from.to_owned()),
            edits: Edits::default(),
            latest: false,
            by: "ada".into(),
        });
        // As every message, it may come twice.
        for _ in 0..2 {
            let body = serde_json::to_string(&message).unwrap();
            self.engine.process(message.queue(), &body).await.unwrap();
        }
        self.work().await;
        let stored = self.store.load(&RunId::from(id)).await.unwrap();
        stored.map(|stored| stored.run)
    }
}

#[tokio::test]
async fn files_are_handed_to_the_step_that_asks_for_them() {
    let world = begun(&two(), json!([])).await;
    let build = world.spec("build");
    let envelope = world.envelope(&build).await;
    assert_eq!(envelope.keeps, ["dist/**", "log"]);
    assert_eq!(envelope.files, []);
    let bytes = long(1);
    // A part that was lost on its way back comes twice.
    world.put(&build, &bytes[..PACK_PART]).await;
    world.hand_on(&build, &bytes).await;

    let check = world.spec("check");
    let envelope = world.envelope(&check).await;
    assert_eq!(envelope.keeps, [""; 0]);
    let handed = json!([{
        "step": "build", "paths": ["dist/**", "log"], "pack": pack(&bytes),
    }]);
    assert_eq!(json!(envelope.files), handed);
    assert_eq!(world.fetch(&check, "build", None).await, bytes);
    let other = world.spec("other");
    assert_eq!(world.envelope(&other).await.files, []);
    for (spec, ask) in [
        (&other, json!({"step": "build", "offset": 0})),
        (&check, json!({"step": "build", "item": 0, "offset": 0})),
        (&check, json!({"step": "build", "offset": 1})),
        (&check, json!({"step": "build", "offset": 2 * PACK_PART})),
        (&check, json!({"step": "other", "offset": 0})),
        (&check, json!({"step": "none", "offset": 0})),
    ] {
        assert_eq!(
            world.report(spec, "fetch", ask.clone()).await.0,
            400,
            "{ask}"
        );
    }
    // What is gone is not asked for for ever.
    let run = world.the_run("w").await;
    world.packs.forget(&run.id);
    let ask = json!({"step": "build", "offset": 0});
    let (status, said) = world.report(&check, "fetch", ask.clone()).await;
    assert_eq!(status, 409, "{said}");
    world.report(&check, "result", json!(done(None))).await;
    assert_eq!(world.report(&check, "fetch", ask).await.0, 410);
    world.report(&other, "result", json!(done(None))).await;
    assert_eq!(world.the_run("w").await.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn a_result_counts_only_with_the_files_that_it_names() {
    let world = begun(&two(), json!([])).await;
    let build = world.spec("build");
    let bytes = long(1);
    let result = json!(done(Some(pack(&bytes))));
    let huge = Pack {
        size: MAX_PACK_BYTES + 1,
        ..pack(&bytes)
    };
    assert_eq!(world.report(&build, "result", result.clone()).await.0, 409);
    world.put(&build, &bytes[..PACK_PART]).await;
    assert_eq!(world.report(&build, "result", result.clone()).await.0, 409);
    let end = part(PACK_PART, &[0; 1000]);
    assert_eq!(world.report(&build, "files", end).await.0, 200);
    let (status, said) = world.report(&build, "result", result.clone()).await;
    assert_eq!(status, 409, "{said}");
    let huge = json!(done(Some(huge)));
    assert_eq!(world.report(&build, "result", huge).await.0, 413);
    assert_eq!(
        world.the_run("w").await.steps["build"].state.name(),
        "running"
    );

    world.put(&build, &bytes).await;
    for taken in [true, false] {
        let (status, said) = world.report(&build, "result", result.clone()).await;
        assert_eq!((status, &said["taken"]), (200, &json!(taken)));
        // Once it is taken, a repetition does not look for the files again.
        world.packs.forget(&build.run);
    }
    let late = part(0, &bytes[..PACK_PART]);
    assert_eq!(world.report(&build, "files", late).await.0, 410);
}

#[tokio::test]
async fn parts_that_are_none_and_files_that_nobody_asked_for_are_refused() {
    let world = begun(&two(), json!([])).await;
    let build = world.spec("build");
    let last = usize::try_from(MAX_PACK_BYTES).unwrap() - PACK_PART;
    for (body, status) in [
        (part(1, b"x"), 400),
        (part(0, b""), 400),
        (json!({"offset": 0, "data": "no base64!"}), 400),
        (part(0, &[0; PACK_PART + 1]), 413),
        (part(last + PACK_PART, b"x"), 413),
        (part(last, b"x"), 200),
    ] {
        let (found, said) = world.report(&build, "files", body).await;
        assert_eq!(found, status, "{said}");
    }
    world.hand_on(&build, b"small").await;
    let other = world.spec("other");
    assert_eq!(world.report(&other, "files", part(0, b"x")).await.0, 400);
    let result = json!(done(Some(pack(b"x"))));
    assert_eq!(world.report(&other, "result", result).await.0, 400);
}

#[tokio::test]
async fn each_item_has_files_of_its_own_and_may_have_none() {
    let world = begun(
        &json!({
            "build": {
                "keeps": ["out"],
                "each": {"over": {"producer": "event", "field": "names"}, "name": "name"},
            },
            "join": {"after": ["build"], "files": [{"step": "build", "path": "out"}]},
        }),
        json!(["a", "b", "c"]),
    )
    .await;
    let launched = world.launcher.launched.lock().unwrap().clone();
    assert_eq!(launched.len(), 3);
    // In another order than that of the items, and the second has none.
    world.hand_on(&launched[2], b"of c").await;
    world
        .report(&launched[1], "result", json!(done(None)))
        .await;
    world.hand_on(&launched[0], b"of a").await;
    let join = world.spec("join");
    let envelope = world.envelope(&join).await;
    let items: Vec<_> = envelope.files.iter().map(|handed| handed.item).collect();
    assert_eq!(items, [Some(0), Some(2)]);
    assert_eq!(world.fetch(&join, "build", Some(0)).await, b"of a");
    assert_eq!(world.fetch(&join, "build", Some(2)).await, b"of c");
    for item in [json!(1), json!(3), json!(null)] {
        let ask = json!({"step": "build", "item": item, "offset": 0});
        assert_eq!(world.report(&join, "fetch", ask).await.0, 400, "{item}");
    }
}

#[tokio::test]
async fn a_round_of_a_loop_has_the_files_of_that_round() {
    let again = json!({
        "source": "…", "expression": {
            "kind": "compare", "operator": "==",
            "left": {"kind": "reference", "producer": "check", "field": "ok"},
            "right": {"kind": "literal", "value": true},
        },
    });
    let world = begun(
        &json!({
            "build": {"keeps": ["out"]},
            "check": {
                "after": ["build"], "files": [{"step": "build", "path": "out"}],
                "output": {"ok": {"type": "boolean"}},
                "loop": {"to": "build", "until": again, "max": 3},
            },
            "tell": {"after": ["build", "check"], "files": [{"step": "build", "path": "out"}]},
        }),
        json!([]),
    )
    .await;
    let said = |ok: bool| json!(success(json!({ "ok": ok }), json!({})));
    world.hand_on(&world.spec("build"), b"first").await;
    let check = world.spec("check");
    assert_eq!(world.fetch(&check, "build", None).await, b"first");
    world.report(&check, "result", said(false)).await;
    assert_eq!(world.the_run("w").await.steps["build"].files, None);
    world.work().await;

    // This round's attempt has no file, the next one's has another.
    world
        .report(&world.spec("build"), "result", json!(done(None)))
        .await;
    world.work().await;
    let check = world.spec("check");
    assert_eq!(world.envelope(&check).await.files, []);
    world.report(&check, "result", said(false)).await;
    world.work().await;
    world.hand_on(&world.spec("build"), b"third").await;
    world
        .report(&world.spec("check"), "result", said(true))
        .await;
    world.work().await;
    let tell = world.spec("tell");
    assert_eq!(world.fetch(&tell, "build", None).await, b"third");
}

#[tokio::test]
async fn a_run_that_goes_over_another_again_has_the_files_of_what_it_takes_over() {
    let world = begun(&two(), json!([])).await;
    let bytes = long(3);
    world.hand_on(&world.spec("build"), &bytes).await;
    world.finish(|_| done(None)).await;
    let first = world.the_run("w").await;
    assert_eq!(first.status, RunStatus::Succeeded);

    let second = world.again(&first, "w-again", "check").await.unwrap();
    let check = world.spec("check");
    assert_eq!(check.run, second.id);
    // Each has its own, so that the first may go.
    world.packs.forget(&first.id);
    assert_eq!(world.fetch(&check, "build", None).await, bytes);
    let third = world.again(&second, "w-third", "check").await.unwrap();
    world.packs.forget(&second.id);
    let check = world.spec("check");
    assert_eq!(check.run, third.id);
    assert_eq!(world.fetch(&check, "build", None).await, bytes);
    let kept = third.steps["build"].files.clone().unwrap();
    let pack = kept.packs[0].clone().unwrap();
    assert_eq!(pack.from, Some(first.id.clone()));

    // An attempt of the new run does not write into what it took over.
    let own = PackOf {
        from: third.id.clone(),
        ..pack.place(&third.id, "build")
    };
    world.packs.put(&own, 0, b"other".to_vec()).await.unwrap();
    assert_eq!(world.fetch(&check, "build", None).await, bytes);

    // From the beginning there is nothing to take over.
    let anew = world.again(&first, "w-anew", "build").await.unwrap();
    assert_eq!(anew.steps["build"].files, None);
    // And what is gone cannot be taken over: somebody has to look at that.
    let message = Message::Again(Again {
        id: RunId::from("w-lost"),
        original: first.id.clone(),
        from: Some("check".to_owned()),
        edits: Edits::default(),
        latest: false,
        by: "ada".into(),
    });
    let body = serde_json::to_string(&message).unwrap();
    let lost = world.engine.process(message.queue(), &body).await;
    assert!(lost.unwrap_err().to_string().contains("gone"));
}

#[tokio::test]
async fn a_newer_manifest_may_ask_only_for_what_was_kept() {
    let world = begun(&two(), json!([])).await;
    world.hand_on(&world.spec("build"), b"x").await;
    world.finish(|_| done(None)).await;
    let run = world.the_run("w").await;
    let mut steps = two();
    steps["check"]["files"] = json!([{"step": "build", "path": "log"}]);
    steps["build"]["keeps"] = json!(["log"]);
    let again = |steps: &Value, from: &str| {
        let now = "2026-11-21T11:00:00Z".parse().unwrap();
        let id = RunId::from("w-2");
        transition::again(
            &project(steps),
            &run,
            id,
            Some(from),
            &Edits::default(),
            now,
        )
    };
    assert!(again(&steps, "check").is_ok());
    steps["check"]["files"] = json!([{"step": "build", "path": "new"}]);
    steps["build"]["keeps"] = json!(["new"]);
    let why = again(&steps, "check").unwrap_err();
    assert!(
        why.contains("the files new of step build were not kept"),
        "{why}"
    );
    assert!(again(&steps, "build").is_ok());
    // A step that is taken over itself asks for nothing any more.
    assert!(again(&steps, "other").is_ok());
}
