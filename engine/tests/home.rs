//! The engine over the in-memory home: whole cascades, crashes between any two
//! effects, duplicates, results that break their schema.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use jiff::SignedDuration;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::Manifest;
use loopy_contract::report::{
    Envelope, Failure, FailureClass, MAX_TRANSCRIPT_PART, ResultReply, StepResult,
};
use loopy_engine::memory::{ManualClock, MemoryStore};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{Clock, LaunchSpec, RunFilter, Store};
use loopy_engine::run::{Run, RunStatus, StepState};
use loopy_engine::transcript::TranscriptOf;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use world::{World, object, step, success};

fn world() -> World {
    world::world(manifest())
}

/// review: read -> (lint, judge) -> close, which emits Done; audit: on Done.
fn manifest() -> Manifest {
    let text = json!({"type": "string"});
    let verdict = json!({"type": "string", "enum": ["pass", "fail"]});
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {"provider": "local", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": []}},
            "events": {"Opened": {"fields": {"title": text}}, "Done": {"fields": {"verdict": verdict}}},
        },
        "workflows": {
            "review": {"entry": "read", "steps": {
                "read": step("review/read", json!({"trigger": {"kind": "event", "event": "Opened"}, "output": {"notes": text}})),
                "lint": step("review/lint", json!({"after": ["read"]})),
                "judge": step("review/judge", json!({"after": ["read"], "output": {"verdict": verdict}})),
                "close": step("review/close", json!({"after": ["lint", "judge"], "emits": ["Done"]})),
            }},
            "audit": {"entry": "look", "steps": {
                "look": step("audit/look", json!({"trigger": {"kind": "event", "event": "Done"}})),
            }},
            "nightly": {"entry": "scan", "steps": {
                "scan": step("nightly/scan", json!({"trigger": {"kind": "cron", "expr": "0 3 * * *", "tz": "Europe/Berlin"}})),
            }},
        },
        "sensors": [{"name": "hook", "trigger": {"kind": "webhook", "path": "/hooks/x", "verify": "github"},
            "emits": "Opened", "source": "module", "module": "sensors.x", "fn": "hook"}],
        "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))
    .unwrap();
    manifest.seal()
}

fn opened(id: &str) -> Event {
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    Event::root(
        EventId::from(id),
        "Opened".into(),
        object(json!({"title": "t"})),
        Source::Hand,
        at,
    )
}

/// What each step of the sample reports.
fn result_of(spec: &LaunchSpec) -> StepResult {
    match spec.step.as_str() {
        "read" => success(json!({"notes": "n"}), json!({})),
        "judge" => success(json!({"verdict": "pass"}), json!({})),
        "close" => success(json!({}), json!({"Done": {"verdict": "pass"}})),
        _ => success(json!({}), json!({})),
    }
}

fn kinds(run: &Run) -> Vec<String> {
    run.history
        .iter()
        .map(|line| match &line.step {
            Some(step) => format!("{} {step}", line.kind),
            None => line.kind.clone(),
        })
        .collect()
}

#[tokio::test]
async fn a_cascade_runs_to_its_end_and_leaves_nothing_behind() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.finish(result_of).await;
    let review = world.the_run("review").await;
    assert_eq!(review.status, RunStatus::Succeeded);
    assert!((review.cost_usd() - 1.0).abs() < 1e-9);
    let audit = world.the_run("audit").await;
    assert_eq!(audit.status, RunStatus::Succeeded);
    assert_eq!(audit.event.depth, 1);
    assert_eq!(audit.event.cascade, review.event.cascade);
    assert_eq!(world.queues.armed(), Vec::<String>::new());
    assert_eq!(world.launcher.stopped.lock().unwrap().len(), 5);
    assert_eq!(world.queues.buried(), vec![]);
    let story = kinds(&review);
    assert_eq!(story.first().map(String::as_str), Some("run_started"));
    assert_eq!(story.last().map(String::as_str), Some("run_succeeded"));
    assert!(
        story.contains(&"event_emitted close".to_owned()),
        "{story:?}"
    );
}

#[tokio::test]
async fn independent_branches_are_under_way_at_the_same_time() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    let read = world.spec("read");
    world.report(&read, "result", json!(result_of(&read))).await;
    world.work().await;
    let run = world.the_run("review").await;
    for step in ["lint", "judge"] {
        assert_eq!(run.steps[step].state.name(), "running", "{step}");
    }
    assert_eq!(run.steps["close"].state, StepState::Waiting);
}

/// Every crash point: the whole cascade, with the n-th port call after a commit
/// failing, then everything delivered again.
#[tokio::test]
async fn a_crash_between_any_two_effects_loses_nothing_and_repeats_nothing() {
    for crash_at in 0..60 {
        let world = world();
        world.engine.submit(&opened("e1")).await.unwrap();
        world.fuse.store(crash_at, Ordering::SeqCst);
        let mut reported: BTreeSet<String> = BTreeSet::new();
        let mut unacked: Vec<Message> = Vec::new();
        loop {
            let message = unacked.pop().or_else(|| world.queues.take());
            if let Some(message) = message {
                let body = serde_json::to_string(&message).unwrap();
                if world.engine.process(message.queue(), &body).await.is_err() {
                    world.fuse.store(i64::MAX, Ordering::SeqCst);
                    unacked.push(message);
                }
                continue;
            }
            let launched = world.launcher.launched.lock().unwrap().clone();
            let Some(spec) = launched
                .iter()
                .find(|spec| !reported.contains(&spec.client_token))
            else {
                break;
            };
            let (status, _) = world.report(spec, "result", json!(result_of(spec))).await;
            if status == 200 {
                reported.insert(spec.client_token.clone());
            } else {
                world.fuse.store(i64::MAX, Ordering::SeqCst);
            }
        }
        assert_eq!(
            world.the_run("review").await.status,
            RunStatus::Succeeded,
            "at {crash_at}"
        );
        assert_eq!(
            world.the_run("audit").await.status,
            RunStatus::Succeeded,
            "at {crash_at}"
        );
        assert_eq!(
            world.launcher.launched.lock().unwrap().len(),
            5,
            "at {crash_at}"
        );
        assert_eq!(world.queues.armed(), Vec::<String>::new(), "at {crash_at}");
    }
}

#[tokio::test]
async fn effects_that_no_message_brings_back_are_performed_by_resume_or_the_time_limit() {
    for by_time_limit in [false, true] {
        let world = world();
        world.engine.submit(&opened("e1")).await.unwrap();
        world.work().await;
        let read = world.spec("read");
        // The runner reports, the engine commits and dies, the runner dies too.
        world.fuse.store(0, Ordering::SeqCst);
        assert_eq!(
            world
                .report(&read, "result", json!(result_of(&read)))
                .await
                .0,
            503
        );
        world.fuse.store(i64::MAX, Ordering::SeqCst);
        assert!(world.queues.take().is_none());
        if by_time_limit {
            world.clock.advance(SignedDuration::from_hours(2));
        } else {
            world.engine.resume(&read.run).await.unwrap();
        }
        world.work().await;
        let run = world.the_run("review").await;
        assert_eq!(
            run.steps["lint"].state.name(),
            "running",
            "time limit: {by_time_limit}"
        );
    }
}

#[tokio::test]
async fn the_same_event_twice_starts_one_run_and_the_same_result_twice_counts_once() {
    let world = world();
    for _ in 0..2 {
        world.engine.submit(&opened("e1")).await.unwrap();
    }
    world.work().await;
    let read = world.spec("read");
    let (_, first) = world.report(&read, "result", json!(result_of(&read))).await;
    let (status, second) = world.report(&read, "result", json!(result_of(&read))).await;
    assert_eq!(first, json!(ResultReply { taken: true }));
    assert_eq!((status, second), (200, json!(ResultReply { taken: false })));
    world.work().await;
    assert_eq!(world.launcher.launched.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_result_that_breaks_its_schema_fails_the_step_and_the_run_with_the_reason() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    let read = world.spec("read");
    world.report(&read, "result", json!(result_of(&read))).await;
    world.work().await;
    let judge = world.spec("judge");
    let wrong = success(json!({"verdict": "perhaps"}), json!({}));
    world.report(&judge, "result", json!(wrong)).await;
    world.work().await;
    let run = world.the_run("review").await;
    let RunStatus::Failed { step, failure } = &run.status else {
        panic!("{:?}", run.status)
    };
    assert_eq!(
        (step.as_str(), failure.class),
        ("judge", FailureClass::Output)
    );
    assert!(failure.message.contains("/verdict"), "{}", failure.message);
    assert!(
        (run.cost_usd() - 0.5).abs() < 1e-9,
        "the failed attempt's cost counts"
    );
    assert_eq!(run.steps["close"].state.name(), "skipped");
    // The sibling was stopped, and whatever it says now is refused.
    let lint = world.spec("lint");
    assert!(
        world
            .launcher
            .stopped
            .lock()
            .unwrap()
            .contains(&lint.client_token)
    );
    assert_eq!(
        world
            .report(&lint, "result", json!(result_of(&lint)))
            .await
            .0,
        410
    );
    assert_eq!(
        world
            .report(&lint, "heartbeat", json!({"sequence": 1}))
            .await
            .1["stop"],
        true
    );
}

#[tokio::test]
async fn undeclared_and_missing_events_are_refused() {
    for emits in [
        json!({}),
        json!({"Done": {"verdict": "pass"}, "Opened": {"title": "x"}}),
    ] {
        let world = world();
        world.engine.submit(&opened("e1")).await.unwrap();
        for step in ["read", "lint", "judge"] {
            world.work().await;
            let spec = world.spec(step);
            world.report(&spec, "result", json!(result_of(&spec))).await;
        }
        world.work().await;
        world
            .report(
                &world.spec("close"),
                "result",
                json!(success(json!({}), emits)),
            )
            .await;
        assert_eq!(world.the_run("review").await.status.name(), "failed");
    }
}

#[tokio::test]
async fn a_time_limit_ends_the_attempt_and_a_later_result_is_refused() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    world.clock.advance(SignedDuration::from_hours(2));
    world.work().await;
    let run = world.the_run("review").await;
    let RunStatus::Failed { failure, .. } = &run.status else {
        panic!("{:?}", run.status)
    };
    assert_eq!(failure.class, FailureClass::Timeout);
    let read = world.spec("read");
    assert_eq!(
        world
            .report(&read, "result", json!(result_of(&read)))
            .await
            .0,
        410
    );
    assert_eq!(world.report(&read, "envelope", json!(null)).await.0, 410);
}

#[tokio::test]
async fn a_lost_sandbox_is_followed_by_another_attempt_that_hears_of_it() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    for attempt in 1..=3 {
        world.work().await;
        let read = world.spec("read");
        assert_eq!(read.attempt, attempt);
        let (status, envelope) = world.report(&read, "envelope", json!(null)).await;
        assert_eq!(status, 200);
        let envelope: Envelope = serde_json::from_value(envelope).unwrap();
        let last = envelope.last_failure.map(|failure| failure.class);
        assert_eq!(last, (attempt > 1).then_some(FailureClass::Lost));
        world.engine.lost(&read.run, "read", attempt).await.unwrap();
        world.engine.lost(&read.run, "read", attempt).await.unwrap();
    }
    world.work().await;
    let run = world.the_run("review").await;
    assert_eq!(run.status.name(), "failed");
    assert_eq!(run.steps["read"].attempts.len(), 3);
}

#[tokio::test]
async fn a_launch_that_takes_long_is_looked_at_again_and_one_that_is_refused_fails() {
    let slow = world();
    *slow.launcher.pending.lock().unwrap() = 3;
    slow.engine.submit(&opened("e1")).await.unwrap();
    for _ in 0..3 {
        slow.work().await;
        assert!(slow.launcher.launched.lock().unwrap().is_empty());
        slow.clock.advance(SignedDuration::from_secs(2));
    }
    slow.work().await;
    assert_eq!(
        slow.the_run("review").await.steps["read"].state.name(),
        "running"
    );
    assert_eq!(slow.launcher.launched.lock().unwrap().len(), 1);

    let refused = world();
    *refused.launcher.refuse.lock().unwrap() = Some("no such image".into());
    refused.engine.submit(&opened("e1")).await.unwrap();
    refused.work().await;
    let run = refused.the_run("review").await;
    let expected = Failure {
        class: FailureClass::Sandbox,
        message: "no such image".to_owned(),
    };
    assert_eq!(
        run.status,
        RunStatus::Failed {
            step: "read".into(),
            failure: expected
        }
    );
    assert_eq!(refused.queues.armed(), Vec::<String>::new());
}

#[tokio::test]
async fn poison_is_buried_at_once_with_its_reason_and_nowhere_else() {
    let world = world();
    let absent = json!({"kind": "handoff", "run": "review-none", "step": "read", "attempt": 1});
    let cases = [
        (QueueName::Steps, "not json".to_owned(), "not a message"),
        (QueueName::Steps, absent.to_string(), "no run review-none"),
        (QueueName::Events, absent.to_string(), "came on events"),
        (
            QueueName::Events,
            json!({"kind": "cron", "step": "nightly/none", "scheduled_at": "2026-11-21T03:00:00Z"})
                .to_string(),
            "no schedule on nightly/none",
        ),
    ];
    for (queue, body, _) in &cases {
        world.engine.process(*queue, body).await.unwrap();
    }
    let buried = world.queues.buried();
    assert_eq!(buried.len(), cases.len());
    for (buried, (queue, body, reason)) in buried.iter().zip(&cases) {
        assert_eq!((buried.queue, &buried.body), (*queue, body));
        assert!(buried.reason.contains(reason), "{}", buried.reason);
    }
    assert!(world.queues.take().is_none());
}

#[tokio::test]
async fn a_schedule_s_tick_starts_one_run_with_its_times() {
    let world = world();
    for at in [
        "2026-11-21T02:00:00Z",
        "2026-11-21T02:00:00Z",
        "2026-11-22T02:00:00Z",
    ] {
        let tick = json!({"kind": "cron", "step": "nightly/scan", "scheduled_at": at});
        world
            .engine
            .process(QueueName::Events, &tick.to_string())
            .await
            .unwrap();
    }
    let runs = world
        .store
        .list(&RunFilter {
            workflow: Some("nightly".into()),
            status: None,
            limit: 9,
        })
        .await
        .unwrap();
    assert_eq!(runs.len(), 2);
    let mut ticks = Vec::new();
    for run in &runs {
        let run = world.engine.run(&run.id).await.unwrap().unwrap();
        ticks.push((
            run.event.fields["last_run"].as_str().unwrap().to_owned(),
            run.event.fields["scheduled_at"]
                .as_str()
                .unwrap()
                .to_owned(),
        ));
    }
    ticks.sort();
    let expected = [
        ("2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z"),
        ("2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"),
    ];
    assert_eq!(ticks, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[tokio::test]
async fn a_token_opens_its_own_attempt_alone() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    let mut spec = world.spec("read");
    assert_eq!(world.report(&spec, "envelope", json!(null)).await.0, 200);
    spec.attempt = 2;
    assert_eq!(world.report(&spec, "envelope", json!(null)).await.0, 401);
    spec.attempt = 1;
    spec.run = RunId::from("review-other");
    assert_eq!(
        world
            .report(&spec, "result", json!(result_of(&spec)))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn the_memory_store_passes_the_suite() {
    let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    loopy_engine::conformance::store(store, clock.now(), "s")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_step_that_nothing_holds_back_begins_with_the_commit_of_the_one_before_it() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    let id = world.the_run("review").await.id;
    let version = async || world.store.load(&id).await.unwrap().unwrap().version;
    let launched = || world.launcher.launched.lock().unwrap().len();
    assert_eq!((version().await, launched()), (1, 1));
    let read = world.spec("read");
    let told = world.report(&read, "result", json!(result_of(&read))).await;
    assert_eq!(told.0, 200);
    assert_eq!((version().await, launched()), (2, 1), "one commit for both");
    world.work().await;
    assert_eq!(
        (version().await, launched()),
        (2, 3),
        "their turns commit nothing"
    );
    assert_eq!(
        world.queues.armed().len(),
        2,
        "and have their limits looked at"
    );
}

#[tokio::test]
async fn an_attempt_whose_turn_comes_late_has_all_its_time() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    // The event's turn comes, and the step's only after a day.
    let event = world.queues.take().unwrap();
    let body = serde_json::to_string(&event).unwrap();
    world.engine.process(event.queue(), &body).await.unwrap();
    world.clock.advance(SignedDuration::from_hours(24));
    world.work().await;
    let run = world.the_run("review").await;
    assert_eq!(run.status, RunStatus::Running);
    assert_eq!(
        kinds(&run).last().map(String::as_str),
        Some("step_delayed read")
    );
    let attempt = run.attempt("read", 1).unwrap();
    assert_eq!(attempt.started_at, Some(world.clock.now()));
    // A second delivery changes nothing, however late it is.
    let again = Message::Handoff {
        run: run.id.clone(),
        step: "read".into(),
        attempt: 1,
    };
    world.clock.advance(SignedDuration::from_mins(6));
    world.work().await;
    let body = serde_json::to_string(&again).unwrap();
    world.engine.process(again.queue(), &body).await.unwrap();
    assert_eq!(world.the_run("review").await.history, run.history);
    world.finish(result_of).await;
    assert_eq!(world.the_run("review").await.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn a_transcript_is_kept_once_whole_and_only_while_the_attempt_lives() {
    let world = world();
    world.engine.submit(&opened("e1")).await.unwrap();
    world.work().await;
    let read = world.spec("read");
    let part = |offset: usize, text: &str| json!({"offset": offset, "text": text});
    let (first, second) = ("{\"ms\":1}\n", "{\"ms\":2}\n");
    for body in [part(0, first), part(0, first), part(first.len(), second)] {
        assert_eq!(world.report(&read, "transcript", body).await.0, 200);
    }
    let of = TranscriptOf {
        run: read.run.clone(),
        step: "read".into(),
        attempt: 1,
    };
    assert_eq!(world.transcripts.text(&of), format!("{first}{second}"));
    let long = "x".repeat(MAX_TRANSCRIPT_PART) + "\n";
    for (body, status) in [
        (part(0, "half a line"), 400),
        (json!({"offset": -1, "text": first}), 400),
        (part(0, &long), 413),
        (part(usize::MAX >> 11, first), 413),
    ] {
        assert_eq!(world.report(&read, "transcript", body).await.0, status);
    }
    world.report(&read, "result", json!(result_of(&read))).await;
    let late = part(first.len() + second.len(), first);
    assert_eq!(world.report(&read, "transcript", late).await.0, 410);
    assert_eq!(world.transcripts.text(&of), format!("{first}{second}"));
}
