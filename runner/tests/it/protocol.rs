//! The report protocol under trouble.

use crate::engine::{Attempt, Server, code, envelope, failed, lives, succeeded, until};
use loopy_contract::report::FailureClass;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn a_result_survives_an_engine_that_is_down_for_a_while() {
    let attempt = Attempt::of(envelope("sleep 1", json!({})));
    let server = Server::start(&attempt.record, 0);
    let (port, url) = (server.port, server.url());
    let runner = attempt.launch(&url);
    until("the envelope is served", || {
        attempt.record.served.load(Ordering::SeqCst)
    })
    .await;
    drop(server);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let _server = Server::start(&attempt.record, port);
    assert_eq!(code(runner).await, 0);
    succeeded(&attempt.result());
}

#[tokio::test]
async fn a_transcript_waits_for_an_engine_that_is_gone_for_long() {
    let attempt = Attempt::of(envelope("echo the last words", json!({})));
    let server = Server::start(&attempt.record, 0);
    let (port, url) = (server.port, server.url());
    let runner = attempt.launch(&url);
    until("the envelope is served", || {
        attempt.record.served.load(Ordering::SeqCst)
    })
    .await;
    drop(server);
    // Longer than the transcript is offered to an engine that answers.
    tokio::time::sleep(Duration::from_secs(24)).await;
    let _server = Server::start(&attempt.record, port);
    assert_eq!(code(runner).await, 0);
    succeeded(&attempt.result());
    assert!(attempt.transcript().contains("the last words"));
}

#[tokio::test]
async fn a_transcript_that_is_not_taken_keeps_no_result_back() {
    let attempt = Attempt::of(envelope("echo the last words", json!({})));
    attempt.record.forgetful.store(true, Ordering::SeqCst);
    succeeded(&attempt.run().await);
    assert_eq!(attempt.transcript(), "");
}

#[tokio::test]
async fn an_engine_may_move_while_a_step_runs() {
    let attempt = Attempt::of(envelope("sleep 2", json!({})));
    let file = attempt.place.path().join("report-url");
    let runner = attempt.launch(&format!("file://{}", file.display()));
    // The file comes later than the runner.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let server = Server::start(&attempt.record, 0);
    std::fs::write(&file, format!("{}\n", server.url())).unwrap();
    until("the envelope is served", || {
        attempt.record.served.load(Ordering::SeqCst)
    })
    .await;
    let other = Server::start(&attempt.record, 0);
    std::fs::write(&file, other.url()).unwrap();
    drop(server);
    assert_eq!(code(runner).await, 0);
    succeeded(&attempt.result());
    assert!(attempt.record.heartbeats.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn an_attempt_that_is_over_ends_the_harness_without_a_result() {
    for how in ["410", "stop"] {
        let seconds = if how == "410" { "4021" } else { "4022" };
        let attempt = Attempt::of(envelope(&format!("sleep {seconds}"), json!({})));
        let server = Server::start(&attempt.record, 0);
        let runner = attempt.launch(&server.url());
        until("the script runs", || lives(seconds)).await;
        let flag = if how == "410" {
            &attempt.record.over
        } else {
            &attempt.record.stop
        };
        flag.store(true, Ordering::SeqCst);
        assert_eq!(code(runner).await, 0);
        assert!(!lives(seconds));
        assert!(attempt.record.results.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn sigterm_ends_the_harness_without_a_result() {
    let attempt = Attempt::of(envelope("sleep 4031", json!({})));
    let server = Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    until("the script runs", || lives("4031")).await;
    let pid = runner.id().unwrap().to_string();
    assert!(
        std::process::Command::new("kill")
            .arg(pid)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(code(runner).await, 0);
    assert!(!lives("4031"));
    assert!(attempt.record.results.lock().unwrap().is_empty());
}

#[tokio::test]
async fn sigterm_ends_a_runner_that_waits_for_its_engine() {
    let attempt = Attempt::of(envelope("sleep 1; touch ended", json!({})));
    let server = Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    until("the envelope is served", || {
        attempt.record.served.load(Ordering::SeqCst)
    })
    .await;
    drop(server);
    let ended = attempt.workspace().join("ended");
    until("the script ended", || ended.exists()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pid = runner.id().unwrap().to_string();
    let killed = std::process::Command::new("kill").arg(pid).status();
    assert!(killed.unwrap().success());
    assert_eq!(code(runner).await, 0);
}

#[tokio::test]
async fn an_attempt_that_was_over_before_runs_nothing() {
    let attempt = Attempt::of(envelope("touch ran", json!({})));
    attempt.record.over.store(true, Ordering::SeqCst);
    let server = Server::start(&attempt.record, 0);
    assert_eq!(code(attempt.launch(&server.url())).await, 0);
    assert!(!attempt.workspace().exists());
}

#[tokio::test]
async fn another_protocol_is_refused_with_a_result() {
    let attempt = Attempt::of(json!({"protocol": 2, "steps": "unlike these"}));
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Sandbox).message;
    assert!(message.contains("protocol 1 and the engine 2"), "{message}");
}

#[tokio::test]
async fn run_and_step_may_be_called_anything_a_file_may() {
    for (run, step) in [
        ("a b-0c07", "."),
        ("ü%2e-432a", "100% ?#é"),
        (".w-5b91", ""),
        ("~-1a2b", ".."),
        ("w-1a2b", "a;b=c&d+\\\n\"'"),
    ] {
        let attempt = Attempt::of(envelope("true", json!({"run": run, "step": step})));
        assert!(succeeded(&attempt.run().await).0.is_empty(), "{run} {step}");
    }
}

#[test]
fn a_launch_without_its_variables_is_refused() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_loopy-runner"))
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("LOOPY_ATTEMPT"));
}
