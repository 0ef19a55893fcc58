//! The network goes away while the real Claude Code works: that to the engine, and that
//! to the model.

use crate::claude_code::{attempt, good};
use crate::engine::{Attempt, Server, code, failed, succeeded, until};
use loopy_contract::report::{FailureClass, StepResult};
use loopy_testkit::anthropic::{Block, InjectedError, ModelApi, Script};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Says what it does and does it: marks that it began, and waits to be let on.
fn work(number: u32) -> Vec<Block> {
    let wait = format!("touch began-{number}; until test -e go-{number}; do sleep 0.05; done");
    vec![
        Block::text(&format!("Now to part {number} of the work.")),
        Block::tool("Bash", json!({"command": wait, "description": "x"})),
    ]
}

async fn began(attempt: &Attempt, number: u32) {
    let mark = attempt.workspace().join(format!("began-{number}"));
    until("the agent works on", || mark.exists()).await;
}

fn let_on(attempt: &Attempt, number: u32) {
    std::fs::write(attempt.workspace().join(format!("go-{number}")), "").unwrap();
}

#[tokio::test]
async fn an_agents_result_and_transcript_arrive_though_the_engine_was_gone_meanwhile() {
    let api = ModelApi::start(Script::of([work(1), work(2), work(3), vec![good()]])).unwrap();
    let attempt = attempt(&api, json!({"transcript_seconds": 1}));
    let server = Server::start(&attempt.record, 0);
    let (port, url) = (server.port, server.url());
    let runner = attempt.launch(&url);
    began(&attempt, 1).await;
    until("the transcript begins", || {
        attempt.transcript().contains("part 1 of the work")
    })
    .await;

    // Connections are refused, and the agent works on.
    drop(server);
    let_on(&attempt, 1);
    began(&attempt, 2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let known = attempt.transcript();
    assert!(!known.contains("part 2 of the work"), "{known}");

    // It answers, with errors; the agent is done meanwhile.
    attempt.record.failing.store(true, Ordering::SeqCst);
    let server = Server::start(&attempt.record, port);
    let_on(&attempt, 2);
    began(&attempt, 3).await;
    let asked = attempt.record.refused.load(Ordering::SeqCst);
    let_on(&attempt, 3);
    until("the runner asks again and again", || {
        attempt.record.refused.load(Ordering::SeqCst) >= asked + 4
    })
    .await;
    assert!(attempt.record.results.lock().unwrap().is_empty());
    drop(server);
    tokio::time::sleep(Duration::from_millis(500)).await;

    // It is back.
    attempt.record.failing.store(false, Ordering::SeqCst);
    let _server = Server::start(&attempt.record, port);
    assert_eq!(code(runner).await, 0);
    // Of which there is one.
    assert_eq!(succeeded(&attempt.result()).0["verdict"], "pass");
    assert_eq!(api.messages().len(), 4, "no work was done twice");

    let lines: Vec<Value> = attempt
        .transcript()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let times: Vec<u64> = lines
        .iter()
        .map(|line| line["ms"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    for number in 1..=3 {
        let said = format!("Now to part {number} of the work.");
        let text = |line: &&Value| line["event"]["message"]["content"][0]["text"] == said.as_str();
        assert_eq!(lines.iter().filter(text).count(), 1, "{said}");
    }
    let kind = |line: &Value| line["event"]["type"].as_str().map(str::to_owned);
    assert_eq!(kind(&lines[0]).as_deref(), Some("system"), "its beginning");
    assert_eq!(
        kind(&lines[lines.len() - 1]).as_deref(),
        Some("result"),
        "its end"
    );
}

/// The way to a server, which can be taken away.
struct Way {
    port: u16,
    to: String,
    connections: Option<JoinSet<()>>,
}

impl Way {
    /// To the server at `url`.
    async fn to(url: &str) -> Self {
        let mut way = Self {
            port: 0,
            to: url.trim_start_matches("http://").to_owned(),
            connections: None,
        };
        way.open().await;
        way
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let to = self.to.clone();
        let mut all = JoinSet::new();
        all.spawn(async move {
            // Goes, with the listener, when this is aborted.
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let to = to.clone();
                connections.spawn(async move {
                    let mut to = TcpStream::connect(to).await.unwrap();
                    // Either side may break off.
                    let _broken = copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        self.connections = Some(all);
    }

    /// Breaks off what there is and refuses what comes.
    async fn close(&mut self) {
        if let Some(mut all) = self.connections.take() {
            all.shutdown().await;
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Has the way to the model taken away while the agent runs a command, for `outage`,
/// if it comes back at all.
async fn without_model(api: &ModelApi, retries: &str, outage: Option<Duration>) -> StepResult {
    let mut way = Way::to(&api.url()).await;
    let env = json!({"ANTHROPIC_BASE_URL": way.url(), "CLAUDE_CODE_MAX_RETRIES": retries});
    let attempt = attempt(
        api,
        json!({"seconds": 80, "transcript_seconds": 1, "env": env}),
    );
    let server = Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    began(&attempt, 1).await;
    way.close().await;
    let_on(&attempt, 1);
    if let Some(outage) = outage {
        tokio::time::sleep(outage).await;
        way.open().await;
    }
    assert_eq!(code(runner).await, 0);
    attempt.result()
}

#[tokio::test]
async fn an_agent_goes_on_when_its_model_is_back_in_time() {
    let api = ModelApi::start(Script::of([work(1), vec![good()]])).unwrap();
    let result = without_model(&api, "4", Some(Duration::from_secs(2))).await;
    assert_eq!(succeeded(&result).0["verdict"], "pass");
    assert_eq!(result.usage.turns, 2);
}

#[tokio::test]
async fn an_agent_whose_model_is_gone_for_good_fails_with_what_was_wrong() {
    let api = ModelApi::start(Script::of([work(1), vec![good()]])).unwrap();
    let result = without_model(&api, "2", None).await;
    let message = &failed(&result, FailureClass::Crash).message;
    assert!(
        message.contains("API Error") && message.contains("ECONNREFUSED"),
        "{message}"
    );
    assert_eq!(result.usage.turns, 1, "what was used by then counts");
}

#[tokio::test]
async fn an_agent_goes_on_after_errors_of_its_model() {
    let overloaded = |at| InjectedError {
        at: Some(at),
        status: 529,
        kind: "overloaded_error".into(),
        message: "Overloaded".into(),
    };
    let api = ModelApi::start(Script {
        turns: vec![work(1), vec![good()]],
        errors: vec![overloaded(1), overloaded(2)],
        ..Script::default()
    })
    .unwrap();
    let attempt = attempt(&api, json!({"env": {"CLAUDE_CODE_MAX_RETRIES": "4"}}));
    let server = Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    began(&attempt, 1).await;
    let_on(&attempt, 1);
    assert_eq!(code(runner).await, 0);
    assert_eq!(succeeded(&attempt.result()).0["verdict"], "pass");
    assert_eq!(api.messages().len(), 4);
}
