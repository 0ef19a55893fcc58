//! The Daytona provider over HTTP against the stand-in, with a real runner: a
//! small shell script that notes what it sees.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use bytes::Bytes;
use loopy_contract::manifest::{Harness, ModelKeys, Sandbox};
use loopy_engine::ports::{
    Allowance, Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes, Secrets,
};
use loopy_engine::run::SandboxRef;
use loopy_sandbox::Providers;
use loopy_sandbox::daytona::{API_KEY, API_URL, Daytona, RunnerBinary, TARGET};
use loopy_testkit::daytona as stand_in;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "secret'of one-attempt";
const REPORT: &str = "http://127.0.0.1:9/report";
/// A runner that notes its environment and stays.
const STAYS: &str =
    "#!/bin/sh\necho started >>starts\nenv >env.tmp && mv env.tmp env.seen\nexec sleep 300\n";

struct Env(BTreeMap<String, String>);

#[async_trait]
impl Secrets for Env {
    async fn sandbox_env(
        &self,
        _: &str,
        _: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        Err(PortError::new(
            "read sandbox_env",
            "a launch has no business with it",
        ))
    }
    async fn webhook_secrets(&self, _: &str) -> Result<Vec<String>, PortError> {
        Err(PortError::new(
            "read webhook_secrets",
            "a launch has no business with it",
        ))
    }
    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.0.clone())
    }
    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Err(PortError::new(
            "read token_key",
            "a launch has no business with it",
        ))
    }
}

struct Runner(Bytes);

#[async_trait]
impl RunnerBinary for Runner {
    async fn bytes(&self) -> Result<Bytes, PortError> {
        Ok(self.0.clone())
    }
}

fn start(options: stand_in::StandInOptions) -> stand_in::Daytona {
    stand_in::Daytona::start(options).unwrap()
}

fn env(server: &stand_in::Daytona) -> BTreeMap<String, String> {
    [
        (API_KEY, server.key()),
        (API_URL, server.url()),
        (TARGET, "eu"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn provider(env: BTreeMap<String, String>, runner: &str, report: &str) -> Daytona {
    let runner = Runner(Bytes::copy_from_slice(runner.as_bytes()));
    Daytona::new(Arc::new(Env(env)), Arc::new(runner), report.to_owned()).unwrap()
}

fn providers(server: &stand_in::Daytona, runner: &str) -> Providers {
    Providers::new().with_daytona(provider(env(server), runner, REPORT))
}

fn spec(token: &str, image: Value) -> LaunchSpec {
    LaunchSpec {
        run: "greet-1a2b".into(),
        step: "hello".into(),
        attempt: 2,
        client_token: token.into(),
        name: "Box".into(),
        sandbox: Sandbox {
            provider: "daytona".into(),
            image: serde_json::from_value(image).unwrap(),
            network: Vec::new(),
            env_file: Vec::new(),
            repos: Vec::new(),
            model_keys: ModelKeys::default(),
        },
        token: TOKEN.into(),
        time_limit: Duration::from_secs(601),
        harness: Harness::Command,
        allowance: Allowance::default(),
    }
}

async fn launched(providers: &Providers, spec: &LaunchSpec) -> SandboxRef {
    let launch = providers.launch(spec).await;
    assert!(matches!(launch, Ok(Launch::Started)), "{launch:?}");
    SandboxRef {
        provider: "daytona".into(),
        id: spec.client_token.clone(),
    }
}

fn refusal(launch: Result<Launch, LaunchError>) -> String {
    match launch {
        Err(LaunchError::Refused(why)) => why,
        other => unreachable!("not refused: {other:?}"),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} did not come about"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn count(server: &stand_in::Daytona, method: &str, end: &str) -> usize {
    server
        .requests()
        .iter()
        .filter(|one| one.method == method && one.path.ends_with(end))
        .count()
}

#[tokio::test]
async fn a_launch_makes_the_sandbox_and_starts_the_runner_with_its_variables() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    let started = launched(&providers, &spec("whole", json!({}))).await;

    let folder = server.root("whole").unwrap().join("tmp/.loopy");
    until("the runner", || folder.join("env.seen").exists()).await;
    assert_eq!(read(&folder.join("runner")), STAYS);
    let upload = server
        .requests()
        .into_iter()
        .find(|one| one.path.ends_with("upload-v2"))
        .unwrap();
    assert_eq!(upload.body, STAYS.as_bytes());
    let seen: BTreeMap<String, String> = read(&folder.join("env.seen"))
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.starts_with("LOOPY_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let workspace = server.root("whole").unwrap().join("home/daytona/workspace");
    let expected: BTreeMap<String, String> = [
        ("LOOPY_REPORT_URL", REPORT),
        ("LOOPY_TOKEN", TOKEN),
        ("LOOPY_RUN_ID", "greet-1a2b"),
        ("LOOPY_STEP", "hello"),
        ("LOOPY_ATTEMPT", "2"),
        ("LOOPY_WORKSPACE", workspace.to_str().unwrap()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(seen, expected);

    let made = server
        .requests()
        .into_iter()
        .find(|one| one.path == "/api/sandbox")
        .unwrap()
        .json();
    assert_eq!(
        made,
        json!({
            "name": "whole",
            "labels": {"loopy-run": "greet-1a2b", "loopy-step": "hello", "loopy-attempt": "2"},
            "target": "eu",
            "autoStopInterval": 0,
            "autoDeleteInterval": 30,
            "ttlMinutes": 41,
        })
    );
    assert_eq!(
        providers.state(&started).await.unwrap(),
        SandboxState::Alive
    );
}

#[tokio::test]
async fn key_and_token_stay_out_of_commands_and_files() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    launched(&providers, &spec("hidden", json!({}))).await;
    let folder = server.root("hidden").unwrap().join("tmp/.loopy");
    until("the runner", || folder.join("env.seen").exists()).await;
    for request in server
        .requests()
        .iter()
        .filter(|one| !one.path.ends_with("upload-v2"))
    {
        let text = format!(
            "{} {:?} {}",
            request.path,
            request.query,
            String::from_utf8_lossy(&request.body)
        );
        for secret in [server.key(), TOKEN, "one-attempt"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let command = server
        .requests()
        .into_iter()
        .find(|one| one.path.ends_with("/exec"))
        .unwrap();
    assert_eq!(command.json()["runAsync"], true);
    let left: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = ["env.seen", "runner", "runner.log", "started", "starts"];
    assert_eq!(
        left,
        expected.map(str::to_owned).into(),
        "the file with the token is gone"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_launch_repeated_starts_nothing_twice() {
    let server = start(stand_in::StandInOptions::default());
    let first = launched(&providers(&server, STAYS), &spec("again", json!({}))).await;
    let second = launched(&providers(&server, STAYS), &spec("again", json!({}))).await;
    assert_eq!(first, second);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        read(&server.root("again").unwrap().join("tmp/.loopy/starts")),
        "started\n"
    );
    assert_eq!(count(&server, "POST", "/api/sandbox"), 1);
    assert_eq!(count(&server, "POST", "/exec"), 1);
    assert_eq!(server.sandboxes(), ["again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launches_at_the_same_time_start_one_runner() {
    let server = Arc::new(start(stand_in::StandInOptions::default()));
    let launches: Vec<_> = (0..6)
        .map(|_| {
            let providers = providers(&server, STAYS);
            tokio::spawn(async move { providers.launch(&spec("race", json!({}))).await })
        })
        .collect();
    for one in launches {
        let launch = one.await.unwrap();
        assert!(matches!(launch, Ok(Launch::Started)), "{launch:?}");
    }
    let folder = server.root("race").unwrap().join("tmp/.loopy");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(read(&folder.join("starts")), "started\n");
    let tokens = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.is_file() && !path.ends_with("env.seen") && read(path).contains("LOOPY_TOKEN=")
        })
        .count();
    assert_eq!(tokens, 0, "no file with the token is left");
}

#[tokio::test]
async fn a_command_whose_answer_was_lost_is_sent_again_and_runs_once() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    server.fail_next("/exec", 502);
    let lost = providers.launch(&spec("lost", json!({}))).await;
    assert!(matches!(lost, Err(LaunchError::Trouble(_))), "{lost:?}");
    launched(&providers, &spec("lost", json!({}))).await;
    let folder = server.root("lost").unwrap().join("tmp/.loopy");
    until("the runner", || folder.join("env.seen").exists()).await;
    assert_eq!(read(&folder.join("starts")), "started\n");

    // The other way round: it arrived, and nobody knows. What `started` says
    // was hidden, so the whole start is gone through again.
    server.fail_next("/files/info", 404);
    launched(&providers, &spec("lost", json!({}))).await;
    assert_eq!(count(&server, "POST", "/exec"), 3);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(read(&folder.join("starts")), "started\n");
    let left = std::fs::read_dir(&folder).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("env-") || name.to_str().unwrap().starts_with("runner-")
    });
    assert_eq!(
        left.count(),
        0,
        "the second command cleaned up after itself"
    );
}

#[tokio::test]
async fn a_sandbox_that_takes_long_is_pending_and_then_started() {
    let server = start(stand_in::StandInOptions {
        start_delay: Duration::from_millis(1200),
        ..Default::default()
    });
    let providers = Providers::new().with_daytona(
        provider(env(&server), STAYS, REPORT).with_patience(Duration::from_millis(200)),
    );
    let first = providers
        .launch(&spec("slow", json!({"base": "debian:12"})))
        .await
        .unwrap();
    assert!(
        matches!(first, Launch::Pending(after) if after > Duration::ZERO),
        "{first:?}"
    );
    tokio::time::sleep(Duration::from_millis(1200)).await;
    launched(&providers, &spec("slow", json!({"base": "debian:12"}))).await;
    assert_eq!(count(&server, "POST", "/api/sandbox"), 1);
}

#[tokio::test]
async fn an_image_is_built_and_its_directory_is_the_workspace() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    let mut spec = spec(
        "built",
        json!({"base": "node:22-slim", "workdir": "/srv/desk", "user": "me", "cpu": 2, "memory": 4, "disk": 8}),
    );
    spec.sandbox.network = vec!["github.com".into()];
    launched(&providers, &spec).await;
    let made = server
        .requests()
        .into_iter()
        .find(|one| one.path == "/api/sandbox")
        .unwrap()
        .json();
    let dockerfile = made["buildInfo"]["dockerfileContent"].as_str().unwrap();
    assert!(
        dockerfile.starts_with("FROM node:22-slim\nWORKDIR /srv/desk\n"),
        "{dockerfile}"
    );
    assert_eq!(made["buildInfo"]["contextHashes"], json!([]));
    assert_eq!(
        (&made["user"], &made["cpu"], &made["memory"], &made["disk"]),
        (&json!("me"), &json!(2), &json!(4), &json!(8))
    );
    assert_eq!(made["domainAllowList"], "github.com");
    assert_eq!(
        made["networkAllowList"], "127.0.0.1/32",
        "the report URL's host"
    );

    let root = server.root("built").unwrap();
    let seen = root.join("tmp/.loopy/env.seen");
    until("the runner", || seen.exists()).await;
    let workspace = format!("LOOPY_WORKSPACE={}\n", root.join("srv/desk").display());
    assert!(read(&seen).contains(&workspace), "{}", read(&seen));
}

#[tokio::test]
async fn a_snapshot_is_named_and_nothing_else() {
    let server = start(stand_in::StandInOptions::default());
    launched(
        &providers(&server, STAYS),
        &spec("snap", json!({"snapshot": "acme/agent:1"})),
    )
    .await;
    let made = server
        .requests()
        .into_iter()
        .find(|one| one.path == "/api/sandbox")
        .unwrap()
        .json();
    assert_eq!(made["snapshot"], "acme/agent:1");
    assert!(
        made.get("buildInfo").is_none() && made.get("cpu").is_none(),
        "{made}"
    );
}

#[tokio::test]
async fn a_build_that_fails_is_refused_with_its_reason() {
    let server = start(stand_in::StandInOptions {
        unbuildable: BTreeSet::from(["acme/none:1".to_owned()]),
        ..Default::default()
    });
    let why = refusal(
        providers(&server, STAYS)
            .launch(&spec("broken", json!({"base": "acme/none:1"})))
            .await,
    );
    assert!(
        why.contains("sandbox `Box`") && why.contains("acme/none:1 not found"),
        "{why}"
    );
}

#[tokio::test]
async fn a_wrong_or_missing_key_is_refused_and_not_shown() {
    let server = start(stand_in::StandInOptions::default());
    let mut wrong = env(&server);
    wrong.insert(API_KEY.into(), "dtn_wrong".into());
    let with = |env| Providers::new().with_daytona(provider(env, STAYS, REPORT));
    let why = refusal(with(wrong.clone()).launch(&spec("key", json!({}))).await);
    assert!(why.contains(API_KEY) && !why.contains("dtn_wrong"), "{why}");
    let gone = SandboxRef {
        provider: "daytona".into(),
        id: "x".into(),
    };
    assert!(with(wrong.clone()).state(&gone).await.is_err());
    assert!(with(wrong).stop(&gone).await.is_err());

    let mut missing = env(&server);
    missing.remove(API_KEY);
    let before = server.requests().len();
    let why = refusal(with(missing).launch(&spec("key", json!({}))).await);
    assert!(
        why.contains("DAYTONA_API_KEY is not set") && why.contains("loopy.env"),
        "{why}"
    );
    assert_eq!(server.requests().len(), before, "nothing was asked");
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_made() {
    let server = start(stand_in::StandInOptions::default());
    let why = refusal(
        providers(&server, STAYS)
            .launch(&spec("bad", json!({"base": "a", "nonsense": 1})))
            .await,
    );
    assert!(
        why.contains("sandbox `Box`") && why.contains("image.nonsense"),
        "{why}"
    );

    let mut real = env(&server);
    real.insert(API_URL.into(), "https://daytona.invalid/api".into());
    for report in [
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "file:///var/lib/loopy/url",
    ] {
        let providers = Providers::new().with_daytona(provider(real.clone(), STAYS, report));
        let why = refusal(providers.launch(&spec("bad", json!({}))).await);
        assert!(why.contains(report) && why.contains("public URL"), "{why}");
    }
    assert!(server.sandboxes().is_empty());
}

#[tokio::test]
async fn trouble_is_worth_another_try() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    for (part, status) in [
        ("/api/sandbox", 429),
        ("/api/sandbox", 503),
        ("upload-v2", 500),
    ] {
        server.fail_next(part, status);
        let launch = providers.launch(&spec("trouble", json!({}))).await;
        assert!(
            matches!(launch, Err(LaunchError::Trouble(_))),
            "{part} {status}: {launch:?}"
        );
    }
    let started = launched(&providers, &spec("trouble", json!({}))).await;
    server.fail_next("/api/sandbox", 500);
    assert!(providers.stop(&started).await.is_err());
    providers.stop(&started).await.unwrap();

    let mut nobody = env(&server);
    // The discard port: nothing listens there.
    nobody.insert(API_URL.into(), "http://127.0.0.1:9/api".into());
    let launch = Providers::new()
        .with_daytona(provider(nobody, STAYS, REPORT))
        .launch(&spec("nobody", json!({})))
        .await;
    assert!(matches!(launch, Err(LaunchError::Trouble(_))), "{launch:?}");
}

#[tokio::test]
async fn a_sandbox_of_someone_else_is_left_alone() {
    let server = start(stand_in::StandInOptions::default());
    let mut other = spec("taken", json!({}));
    other.step = "another".into();
    launched(&providers(&server, STAYS), &other).await;
    let why = refusal(
        providers(&server, STAYS)
            .launch(&spec("taken", json!({})))
            .await,
    );
    assert!(
        why.contains("taken") && why.contains("not made for"),
        "{why}"
    );
}

#[tokio::test]
async fn a_runner_that_ended_is_gone_and_is_not_started_again() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, "#!/bin/sh\necho started >>starts\nexit 3\n");
    let started = launched(&providers, &spec("short", json!({}))).await;
    let folder = server.root("short").unwrap().join("tmp/.loopy");
    until("the end", || folder.join("ended").exists()).await;
    assert_eq!(read(&folder.join("ended")), "3\n");
    assert_eq!(providers.state(&started).await.unwrap(), SandboxState::Gone);
    assert_eq!(
        launched(&providers, &spec("short", json!({}))).await,
        started
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(read(&folder.join("starts")), "started\n");
}

#[tokio::test]
async fn a_runner_that_cannot_run_is_gone() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, "\u{7f}ELF is not what this is");
    let started = launched(&providers, &spec("wrong", json!({}))).await;
    let folder = server.root("wrong").unwrap().join("tmp/.loopy");
    until("the end", || folder.join("ended").exists()).await;
    assert_ne!(read(&folder.join("ended")), "0\n");
    assert_eq!(providers.state(&started).await.unwrap(), SandboxState::Gone);
}

#[tokio::test]
async fn stop_removes_the_sandbox_with_all_its_processes() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(
        &server,
        "#!/bin/sh\nsetsid sleep 300 &\nsleep 300 &\necho up >up\nexec sleep 300\n",
    );
    let started = launched(&providers, &spec("stop", json!({}))).await;
    let root = server.root("stop").unwrap();
    until("the runner", || root.join("tmp/.loopy/up").exists()).await;
    until("the processes", || server.processes("stop").len() >= 4).await;
    let pids = server.processes("stop");

    providers.stop(&started).await.unwrap();
    assert_eq!(providers.state(&started).await.unwrap(), SandboxState::Gone);
    assert!(!root.exists());
    for pid in pids {
        // A zombie's command line is empty.
        assert_eq!(
            read(Path::new(&format!("/proc/{pid}/cmdline"))),
            "",
            "{pid} still runs"
        );
    }
    providers.stop(&started).await.unwrap();
}

#[tokio::test]
async fn one_that_was_never_made_is_gone_and_one_that_is_coming_up_is_not() {
    let server = start(stand_in::StandInOptions {
        start_delay: Duration::from_millis(1500),
        ..Default::default()
    });
    let providers = Providers::new().with_daytona(
        provider(env(&server), STAYS, REPORT).with_patience(Duration::from_millis(50)),
    );
    let reference = SandboxRef {
        provider: "daytona".into(),
        id: "early".into(),
    };
    let state = providers.state(&reference).await.unwrap();
    assert_eq!(state, SandboxState::Gone);
    providers.stop(&reference).await.unwrap();

    let launch = providers.launch(&spec("early", json!({}))).await.unwrap();
    assert!(matches!(launch, Launch::Pending(_)), "{launch:?}");
    let state = providers.state(&reference).await.unwrap();
    assert_eq!(state, SandboxState::Alive);
    // What cannot be told is not said to be gone.
    server.fail_next("/api/sandbox", 500);
    assert!(providers.state(&reference).await.is_err());
    providers.stop(&reference).await.unwrap();
    assert!(server.sandboxes().is_empty());
}

#[tokio::test]
async fn a_sandbox_that_was_stopped_by_hand_is_gone() {
    let server = start(stand_in::StandInOptions::default());
    let providers = providers(&server, STAYS);
    let started = launched(&providers, &spec("byhand", json!({}))).await;
    assert!(server.stop("byhand"));
    assert_eq!(providers.state(&started).await.unwrap(), SandboxState::Gone);
    assert_eq!(
        launched(&providers, &spec("byhand", json!({}))).await,
        started
    );
}
