//! Files from step to step, as a runner sends and fetches them.

use crate::engine::{Attempt, Server, code, envelope, failed, lives, succeeded, until};
use crate::workspace::shell;
use loopy_contract::files::PACK_PART;
use loopy_contract::ids::sha256_hex;
use loopy_contract::report::{FailureClass, Pack};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn named(bytes: &[u8]) -> Pack {
    Pack {
        sha256: sha256_hex(bytes),
        size: bytes.len() as u64,
    }
}

/// The pack of what a script leaves behind, made by a runner.
async fn packed(script: &str, keeps: Value) -> Vec<u8> {
    let attempt = Attempt::of(envelope(script, json!({ "keeps": keeps })));
    let result = attempt.run().await;
    succeeded(&result);
    let pack = attempt.record.pack.lock().unwrap().clone();
    assert_eq!(result.files, Some(named(&pack)));
    pack
}

/// An attempt that is handed these packs.
fn handed(script: &str, packs: &[(&str, Option<u32>, &[u8])], changes: &Value) -> Attempt {
    let files: Vec<Value> = packs
        .iter()
        .map(|(step, item, bytes)| {
            json!({"step": step, "item": item, "paths": ["**"], "pack": named(bytes)})
        })
        .collect();
    let mut changes = changes.clone();
    changes["files"] = json!(files);
    let attempt = Attempt::of(envelope(script, changes));
    let mut kept = attempt.record.packs.lock().unwrap();
    for (step, item, bytes) in packs {
        kept.insert(((*step).to_owned(), *item), bytes.to_vec());
    }
    drop(kept);
    attempt
}

/// More than two parts of what does not pack.
const NOISE: &str = "mkdir -p dist/deep; head -c 1300000 /dev/urandom > dist/noise; echo a > dist/deep/a; chmod +x dist/deep/a; echo n > notes.md; echo x > other";

#[tokio::test]
async fn files_are_sent_before_the_result_and_found_by_the_next_step() {
    let pack = packed(NOISE, json!(["dist/**", "notes.md"])).await;
    assert!(pack.len() > 2 * PACK_PART);
    // Any tar reads it.
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("pack.tgz"), &pack).unwrap();
    let list = shell(place.path(), "tar -tzf pack.tgz");
    assert_eq!(list, "dist/deep/a\ndist/noise\nnotes.md");

    let small = packed("echo 1 > f", json!(["f"])).await;
    let script = "test -x build/dist/deep/a; wc -c < build/dist/noise > size; \
                  cat build/notes.md each/0/f each/12/f > seen; find build each -type f | sort > found";
    let attempt = handed(
        script,
        &[
            ("build", None, &pack),
            ("each", Some(0), &small),
            ("each", Some(12), &small),
        ],
        &json!({}),
    );
    succeeded(&attempt.run().await);
    let read = |name: &str| std::fs::read_to_string(attempt.workspace().join(name)).unwrap();
    assert_eq!(read("size").trim(), "1300000");
    assert_eq!(read("seen"), "n\n1\n1\n");
    assert_eq!(
        read("found"),
        "build/dist/deep/a\nbuild/dist/noise\nbuild/notes.md\neach/0/f\neach/12/f\n"
    );
}

#[tokio::test]
async fn parts_whose_answer_is_lost_are_sent_and_asked_for_again() {
    let attempt = Attempt::of(envelope(NOISE, json!({"keeps": ["dist"]})));
    attempt.record.lost.store(2, Ordering::SeqCst);
    let result = attempt.run().await;
    succeeded(&result);
    let pack = attempt.record.pack.lock().unwrap().clone();
    assert_eq!(result.files, Some(named(&pack)));
    let parts = pack.chunks(PACK_PART).count() as u64;
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), parts + 2);

    let attempt = handed(
        "cat build/dist/deep/a > seen",
        &[("build", None, &pack)],
        &json!({}),
    );
    attempt.record.lost.store(2, Ordering::SeqCst);
    succeeded(&attempt.run().await);
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), parts + 2);
    let seen = std::fs::read_to_string(attempt.workspace().join("seen")).unwrap();
    assert_eq!(seen, "a\n");
}

#[tokio::test]
async fn files_survive_an_engine_that_is_down_for_a_while() {
    let attempt = Attempt::of(envelope(
        &format!("{NOISE}; touch ended"),
        json!({"keeps": ["dist"]}),
    ));
    let server = Server::start(&attempt.record, 0);
    let (port, url) = (server.port, server.url());
    let runner = attempt.launch(&url);
    until("the envelope is served", || {
        attempt.record.served.load(Ordering::SeqCst)
    })
    .await;
    drop(server);
    let ended = attempt.workspace().join("ended");
    until("the script ended", || ended.exists()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _server = Server::start(&attempt.record, port);
    assert_eq!(code(runner).await, 0);
    let result = attempt.result();
    succeeded(&result);
    let pack = attempt.record.pack.lock().unwrap().clone();
    assert_eq!(result.files, Some(named(&pack)));
}

#[tokio::test]
async fn files_that_are_not_what_was_reported_are_not_worked_with() {
    let pack = packed("echo 1 > f", json!(["f"])).await;
    let changed = [&pack[..pack.len() - 1], b"x"].concat();
    let short = &pack[..pack.len() - 1];
    for (kept, said) in [
        (Some(changed.as_slice()), "somebody has changed them"),
        (Some(short), "have only"),
        (None, "kept no longer"),
    ] {
        let attempt = handed("touch ran", &[("build", None, &pack)], &json!({}));
        let kept = kept.map(|kept| (("build".to_owned(), None), kept.to_vec()));
        *attempt.record.packs.lock().unwrap() = kept.into_iter().collect();
        let result = attempt.run().await;
        let message = &failed(&result, FailureClass::Sandbox).message;
        assert!(message.contains(said), "{message}");
        assert!(!attempt.workspace().join("ran").exists());
    }
    // More than a step is handed is not even begun with.
    let many: Vec<(&str, Option<u32>, &[u8])> = vec![("build", Some(0), &pack)];
    let attempt = handed("touch ran", &many, &json!({}));
    let mut document = attempt.record.envelope.clone();
    document["files"][0]["pack"]["size"] = json!(300 * 1024 * 1024);
    let result = Attempt::of(document).run().await;
    let message = &failed(&result, FailureClass::Sandbox).message;
    assert!(message.contains("ask for fewer"), "{message}");
}

#[tokio::test]
async fn only_a_success_hands_files_on_and_only_once_nothing_writes_them() {
    let attempt = Attempt::of(envelope("echo 1 > f; exit 3", json!({"keeps": ["f"]})));
    let result = attempt.run().await;
    failed(&result, FailureClass::Crash);
    assert_eq!(result.files, None);
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), 0);

    let attempt = Attempt::of(envelope("echo 1 > f", json!({"keeps": ["g/*"]})));
    let result = attempt.run().await;
    succeeded(&result);
    assert_eq!(result.files, None);
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), 0);

    let attempt = Attempt::of(envelope(
        "echo 1 > f",
        json!({"keeps": ["f", "dist/app.js"]}),
    ));
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Output).message;
    assert!(
        message.contains("dist/app.js, which was not in the workspace"),
        "{message}"
    );
    assert_eq!(result.files, None);

    // What a script left behind is ended before its files are looked at.
    let attempt = Attempt::of(envelope(
        "sleep 4077 & setsid sh -c 'trap \"\" HUP; sleep 4078; echo late > f' & echo 1 > f",
        json!({"keeps": ["f"]}),
    ));
    succeeded(&attempt.run().await);
    assert!(!lives("4077") && !lives("4078"));
    assert_eq!(attempt.record.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_a_repository_brought_is_not_written_over() {
    let origin = tempfile::tempdir().unwrap();
    shell(
        origin.path(),
        "git init -q -b main work && cd work
         git config user.email t@example.com && git config user.name t
         mkdir dist && echo theirs > dist/a && git add . && git commit -qm 1",
    );
    let url = format!("file://{}/work", origin.path().display());
    let repos = json!([{"url": url, "path": "build"}]);
    let pack = packed("mkdir dist; echo ours > dist/a", json!(["dist"])).await;
    let attempt = handed(
        "touch ran",
        &[("build", None, &pack)],
        &json!({"repos": repos}),
    );
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Sandbox).message;
    assert!(
        message.contains("build/dist/a") && message.contains("already"),
        "{message}"
    );
    let left = std::fs::read_to_string(attempt.workspace().join("build/dist/a")).unwrap();
    assert_eq!(left, "theirs\n");
    // Beside them there is room.
    let pack = packed("mkdir dist; echo ours > dist/b", json!(["dist"])).await;
    let script = "cat build/dist/a build/dist/b > seen";
    let attempt = handed(script, &[("build", None, &pack)], &json!({"repos": repos}));
    succeeded(&attempt.run().await);
    let seen = std::fs::read_to_string(attempt.workspace().join("seen")).unwrap();
    assert_eq!(seen, "theirs\nours\n");
}
