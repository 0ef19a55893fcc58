//! Shell sensors: what they are given and what is made of what they print.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;

use bench::{Bench, bench, lives, request, tick, tick_after};
use loopy_engine::ports::SensorCode;
use loopy_sensors::Config;
use serde_json::json;
use std::time::{Duration, Instant};

/// A project with one script, named `one`, behind this header.
fn one(header: &str, script: &str, change: impl FnOnce(&mut Config)) -> Bench {
    let text = format!("{header}\n{script}\n");
    bench(&[("one.sh", &text)], change)
}

const POLL: &str = "# loopy: poll=\"5m\" emits=\"Done\"";

fn poll(script: &str) -> Bench {
    one(POLL, script, |_| {})
}

#[tokio::test]
async fn each_line_is_an_event() {
    for (script, count) in [
        ("true", 0),
        ("echo '{\"text\": 0}'", 1),
        ("printf '{\"text\": 0}'", 1),
        ("for n in 0 1 2; do echo '{\"text\": '$n'}'; done", 3),
    ] {
        let bench = poll(script);
        let expected: Vec<_> = (0..count).map(|n| json!({ "text": n })).collect();
        assert_eq!(bench.gives("one", tick()).await, expected, "{script}");
    }
}

#[tokio::test]
async fn anything_else_is_an_error() {
    for (script, part) in [
        (
            "echo '{\"text\": 0}'; echo hello",
            "line 2 of what it printed",
        ),
        ("echo; echo '{\"text\": 0}'", "line 1"),
        ("echo '[1]'", "JSON, but no object"),
        (
            "echo '{\"text\": 0}'; echo why >&2; exit 3",
            "exit status: 3",
        ),
        ("echo why it failed >&2; false", "why it failed"),
        ("kill -9 $$", "signal: 9"),
        ("head -c 7000000 /dev/zero", "printed more than 6000000"),
    ] {
        let message = poll(script).raises("one", tick()).await;
        assert!(message.contains(part), "{script}: {message}");
    }
}

#[tokio::test]
async fn a_delivery_is_in_its_variables_and_on_stdin() {
    let bench = one(
        "# loopy: webhook=\"/x\" emits=\"Done\" verify=\"none\"",
        "body=$(od -An -tx1 | tr -d ' \\n')\n\
         echo \"{\\\"text\\\": [\\\"$LOOPY_METHOD\\\", \\\"$LOOPY_PATH\\\", \\\"$LOOPY_QUERY\\\", \
         $LOOPY_HEADERS, \\\"$body\\\", \\\"${LOOPY_SNAPSHOT-none}\\\"]}\"",
        |_| {},
    );
    let seen = bench.gives("one", request(b"\xff\x00raw")).await;
    let expected = json!([
        "POST", "/x", "q=1&q=two%20words", {"x-kind": "push"}, "ff00726177", "none",
    ]);
    assert_eq!(seen, [json!({ "text": expected })]);
    // One that does not read a large body is no trouble.
    let bench = one(
        "# loopy: webhook=\"/x\" emits=\"Done\" verify=\"none\"",
        "echo '{}'",
        |_| {},
    );
    assert_eq!(
        bench.gives("one", request(&[7; 600_000])).await,
        [json!({})]
    );
}

#[tokio::test]
async fn a_poll_is_in_its_variables() {
    let bench = poll(
        "last=$(cat \"$LOOPY_SNAPSHOT\" | tr '\\n' ' ' | tr -d '\"')\n\
         echo \"{\\\"text\\\": [\\\"$LOOPY_SCHEDULED_AT\\\", \\\"$LOOPY_LAST_RUN\\\", \\\"$last\\\"]}\"",
    );
    let times = ["2026-03-01T00:05:00.123456789Z", "2026-03-01T00:00:00Z"];
    let seen = bench.gives("one", tick()).await;
    assert_eq!(seen, [json!({ "text": [times[0], times[1], ""] })]);
    let seen = bench
        .gives("one", tick_after(&[json!({"n": 1}), json!({"m": 2})]))
        .await;
    assert_eq!(
        seen,
        [json!({ "text": [times[0], times[1], "{n:1} {m:2} "] })]
    );
}

#[tokio::test]
async fn it_runs_in_the_project_with_its_own_environment() {
    let bench = poll(
        "names=$(env | sed 's/=.*//' | sort | tr '\\n' ' ')\n\
         echo \"{\\\"text\\\": [\\\"$(pwd)\\\", \\\"$TOKEN\\\", \\\"$names\\\"]}\"",
    );
    let seen = bench.gives("one", tick()).await;
    let project = bench.dir.path().canonicalize().unwrap();
    let own = "LOOPY_LAST_RUN LOOPY_SCHEDULED_AT LOOPY_SNAPSHOT PATH PWD TOKEN ";
    assert_eq!(seen, [json!({ "text": [project, "t", own] })]);
}

#[tokio::test]
async fn its_first_line_says_what_runs_it() {
    let shells = [
        ("#!/bin/bash", "bash"),
        ("#!/usr/bin/env bash", "bash"),
        ("#!/bin/sh -e", "sh"),
    ];
    for (line, shell) in shells {
        let text = format!(
            "{line}\n{POLL}\nname=$(tr '\\0' ' ' < /proc/$$/cmdline)\necho \"{{\\\"text\\\": \\\"$name\\\"}}\"\n"
        );
        let bench = bench(&[("one.sh", &text)], |_| {});
        let seen = bench.gives("one", tick()).await;
        let name = seen[0]["text"].as_str().unwrap();
        assert!(name.contains(shell) && name.contains("one.sh"), "{name}");
    }
}

#[tokio::test]
async fn one_that_cannot_be_run_is_not_loaded() {
    let text = format!("#!/usr/bin/env no-such-shell\n{POLL}\n");
    let bench = bench(&[("one.sh", &text)], |_| {});
    let why = bench.unloadable("one", tick()).await;
    assert!(why.contains("no-such-shell"), "{why}");
    let found = bench.sensors.load(&bench.manifest).await.unwrap();
    assert_eq!(found["one"], why);
    let file = bench.dir.path().join("sensors/one.sh");
    std::fs::write(&file, "echo '{}'\n").unwrap();
    assert!(
        bench
            .sensors
            .load(&bench.manifest)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(bench.gives("one", tick()).await, [json!({})]);
    std::fs::remove_file(&file).unwrap();
    let why = bench.unloadable("one", tick()).await;
    assert!(why.contains("one.sh cannot be read"), "{why}");
}

#[tokio::test]
async fn its_time_and_memory_are_limited() {
    let bench = one(POLL, "sleep 60 & sleep 60", |config| {
        config.time_limit = Duration::from_secs(2);
    });
    let begun = Instant::now();
    let message = bench.raises("one", tick()).await;
    assert!(message.contains("within 2 s"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!lives(bench.dir.path(), "sleep").await);
    let grow = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; sleep 0.05; done";
    let bench = one(POLL, grow, |config| config.memory_limit = 50 << 20);
    let message = bench.raises("one", tick()).await;
    assert!(message.contains("more than the 50 MB"), "{message}");
    // What is left in the background ends with it.
    let bench = poll("sleep 60 >/dev/null 2>&1 &");
    assert!(bench.gives("one", tick()).await.is_empty());
    assert!(!lives(bench.dir.path(), "sleep").await);
}

#[tokio::test]
async fn what_is_left_in_the_background_does_not_hold_back_what_was_printed() {
    let begun = Instant::now();
    let bench = poll("sleep 100 & echo '{\"text\": 1}'");
    assert_eq!(bench.gives("one", tick()).await, [json!({"text": 1})]);
    assert!(!lives(bench.dir.path(), "sleep").await);
    // What fills the pipe by far is read whole, and one that left the group ends nothing.
    let lines = "setsid sleep 15 & n=0; while [ $n -lt 3000 ]; do \
                 echo '{\"text\": \"0123456789012345678901234567890123456789\"}'; n=$((n+1)); done";
    let bench = poll(lines);
    assert_eq!(bench.gives("one", tick()).await.len(), 3000);
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn one_that_prints_too_much_and_reads_nothing_is_not_waited_for() {
    let bench = one(
        "# loopy: webhook=\"/x\" emits=\"Done\" verify=\"none\"",
        "head -c 7000000 /dev/zero; sleep 100",
        |_| {},
    );
    let begun = Instant::now();
    let message = bench.raises("one", request(&[7; 600_000])).await;
    assert!(message.contains("printed more than 6000000"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(15));
}
