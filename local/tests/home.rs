//! The home as a whole: projects served with real processes as runners, over
//! HTTP, killed and taken up again.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::home::{LONG, MANY, cascade_manifest, follow, options};
use hmac::{Hmac, KeyInit, Mac};
use loopy_contract::ids::CascadeId;
use loopy_contract::report::FailureClass;
use loopy_engine::ports::RunFilter;
use loopy_engine::run::{Run, StepState};
use loopy_local::{Cascade, FollowError, HomeOptions, LocalHome, OpenError, State};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The project of a test: its directory and the runners' log.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        let log = dir.path().join("runners.log");
        let env = format!("LOG={}\n", log.display());
        std::fs::write(dir.path().join("secrets/base.env"), env).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `step attempt pid` of every runner that was started.
    fn started(&self) -> Vec<(String, u32, i32)> {
        let log = std::fs::read_to_string(self.path().join("runners.log")).unwrap_or_default();
        log.lines()
            .map(|line| {
                let mut parts = line.split(' ');
                let mut next = || parts.next().unwrap();
                (
                    next().to_owned(),
                    next().parse().unwrap(),
                    next().parse().unwrap(),
                )
            })
            .collect()
    }

    async fn until_started(&self, count: usize) -> Vec<(String, u32, i32)> {
        let begun = Instant::now();
        loop {
            let started = self.started();
            if started.len() >= count {
                return started;
            }
            assert!(
                begun.elapsed() < LONG,
                "only these were started: {started:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Serving {
    state: State,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start(options: HomeOptions) -> Self {
        let home = LocalHome::open(options).await.unwrap();
        Self::of(home)
    }

    fn of(home: LocalHome) -> Self {
        let (state, address) = (home.state(), home.address());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(home.serve(async {
            let _ = stopped.await;
        }));
        Self {
            state,
            address,
            stop,
            task,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(LONG, self.task)
            .await
            .unwrap()
            .unwrap();
    }

    async fn follow(&self, id: &str) -> Cascade {
        follow(&self.state, id).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn output(run: &Run, step: &str) -> Value {
    match &run.steps[step].state {
        StepState::Succeeded { output, .. } => json!(output),
        other => panic!("{step}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_runs_to_its_end() {
    let project = Project::new();
    let home = LocalHome::open(options(project.path(), cascade_manifest("ok", "ok"))).await;
    let home = home.unwrap();
    home.submit(&common::go("evt-1", 7)).await.unwrap();
    let serving = Serving::of(home);
    let mut seen = 0_u32;
    let id = CascadeId::from("evt-1");
    let cascade = serving.state.follow(&id, |_| seen += 1);
    let cascade = tokio::time::timeout(LONG, cascade).await.unwrap().unwrap();
    assert!(seen >= 2, "progress is shown on the way");
    assert!(cascade.dead_letters.is_empty());
    let [first, second] = cascade.runs.as_slice() else {
        panic!("{:?}", cascade.runs)
    };
    assert_eq!(
        (first.workflow.as_str(), second.workflow.as_str()),
        ("first", "second")
    );
    assert_eq!(
        output(first, "one"),
        json!({"text": r#"{"event": {"n": 7}}"#})
    );
    let sent = second.event.fields["text"].as_str().unwrap();
    assert!(
        sent.contains(r#""one": {"text""#),
        "what `two` emitted: {sent}"
    );
    let seen: Value =
        serde_json::from_str(output(second, "only")["text"].as_str().unwrap()).unwrap();
    assert_eq!(seen, json!({"event": {"text": sent}}));
    assert!((first.cost_usd() - 0.5).abs() < 1e-9);
    assert_eq!(project.started().len(), 3);

    let all = serving
        .state
        .runs(&RunFilter {
            limit: 9,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    serving.stop().await;

    // Also when nobody serves it.
    let state = State::open(project.path()).unwrap();
    assert_eq!(state.run(&first.id).await.unwrap().as_ref(), Some(first));
    assert!(state.cascade(&CascadeId::from("evt-1")).await.unwrap().over);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_nobody_waits_for_is_over_at_once() {
    let project = Project::new();
    let manifest = common::manifest(json!({}), json!([]));
    let home = LocalHome::open(options(project.path(), manifest))
        .await
        .unwrap();
    home.submit(&common::go("evt-1", 7)).await.unwrap();
    let serving = Serving::of(home);
    let cascade = serving.follow("evt-1").await;
    assert!(cascade.runs.is_empty() && cascade.dead_letters.is_empty());
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_given_up_ends_its_cascade_with_the_reason() {
    let project = Project::new();
    let home = LocalHome::open(options(project.path(), cascade_manifest("ok", "ok"))).await;
    let home = home.unwrap();
    let mut event = common::go("evt-1", 7);
    event.depth = 1000;
    home.submit(&event).await.unwrap();
    let serving = Serving::of(home);
    let cascade = serving.follow("evt-1").await;
    assert!(cascade.runs.is_empty());
    assert!(
        cascade.dead_letters[0].reason.contains("1000 events deep"),
        "{cascade:?}"
    );
    assert_eq!(
        serving.state.dead_letters().await.unwrap(),
        cascade.dead_letters
    );
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_vanishes_is_replaced() {
    let project = Project::new();
    let home = LocalHome::open(options(project.path(), cascade_manifest("vanish", "ok"))).await;
    let home = home.unwrap();
    home.submit(&common::go("evt-1", 7)).await.unwrap();
    let serving = Serving::of(home);
    let started = project.until_started(1).await;
    kill(started[0].2);
    let cascade = serving.follow("evt-1").await;
    let first = &cascade.runs[0];
    assert_eq!(first.status.name(), "succeeded");
    let attempts = &first.steps["one"].attempts;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert_eq!(
        attempts[0].failure.as_ref().unwrap().class,
        FailureClass::Lost
    );
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_home_leaves_running_steps_alone() {
    let project = Project::new();
    let gate = project.path().join("gate");
    let manifest = cascade_manifest(&format!("wait {}", gate.display()), "ok");
    let home = LocalHome::open(options(project.path(), manifest.clone()))
        .await
        .unwrap();
    home.submit(&common::go("evt-1", 7)).await.unwrap();
    let serving = Serving::of(home);
    project.until_started(1).await;
    serving.stop().await;
    // The runner reports while nobody listens, and again to the next home,
    // which listens elsewhere and serves another manifest.
    std::fs::write(&gate, "").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut changed = manifest;
    changed.loopy_version = "1".to_owned();
    let serving = Serving::start(options(project.path(), changed.seal())).await;
    let cascade = serving.follow("evt-1").await;
    assert_eq!(cascade.runs.len(), 2);
    assert!(
        cascade
            .runs
            .iter()
            .all(|run| run.status.name() == "succeeded")
    );
    assert_eq!(project.started().len(), 3, "nothing ran twice");
    serving.stop().await;
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Starts `tests/fixture/home_child.rs` with this part to play.
fn child(part: &str, project: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_home-child"))
        .arg(part)
        .arg(project)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing_and_repeats_nothing() {
    let project = Project::new();
    let mut serving = child("serve-gated", project.path());
    let started = project.until_started(2).await;
    assert_eq!(started[1].0, "two");
    let locked = LocalHome::open(options(project.path(), cascade_manifest("ok", "ok"))).await;
    assert!(matches!(locked.err(), Some(OpenError::Locked(_))));
    serving.kill().unwrap();
    serving.wait().unwrap();

    let state = State::open(project.path()).unwrap();
    let id = CascadeId::from("evt-1");
    let unserved = tokio::time::timeout(LONG, state.follow(&id, |_| ()))
        .await
        .unwrap();
    assert!(
        matches!(unserved, Err(FollowError::Unserved)),
        "{unserved:?}"
    );

    std::fs::write(project.path().join("gate"), "").unwrap();
    let serving = Serving::start(options(project.path(), cascade_manifest("ok", "ok"))).await;
    let cascade = serving.follow("evt-1").await;
    assert_eq!(cascade.runs.len(), 2);
    assert!(
        cascade
            .runs
            .iter()
            .all(|run| run.status.name() == "succeeded")
    );
    let steps: Vec<String> = project
        .started()
        .into_iter()
        .map(|(step, ..)| step)
        .collect();
    assert_eq!(steps, ["one", "two", "only"], "nothing ran twice");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_every_step_still_runs_once() {
    let project = Project::new();
    for kill in 0..8_u64 {
        let mut serving = child("serve-many", project.path());
        tokio::time::sleep(Duration::from_millis(120 + 97 * kill)).await;
        serving.kill().unwrap();
        serving.wait().unwrap();
    }
    let home = LocalHome::open(options(project.path(), cascade_manifest("ok", "ok"))).await;
    let home = home.unwrap();
    for n in 0..MANY {
        home.submit(&common::go(&format!("evt-{n}"), 1))
            .await
            .unwrap();
    }
    let serving = Serving::of(home);
    for n in 0..MANY {
        let cascade = serving.follow(&format!("evt-{n}")).await;
        assert_eq!(cascade.runs.len(), 2, "evt-{n}");
        assert!(
            cascade
                .runs
                .iter()
                .all(|run| run.status.name() == "succeeded"),
            "{cascade:?}"
        );
    }
    assert!(serving.state.dead_letters().await.unwrap().is_empty());
    serving.stop().await;
    let log = std::fs::read_to_string(project.path().join("runners.log")).unwrap();
    let mut starts: Vec<String> = log
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            format!("{} {} {}", parts[3], parts[0], parts[1])
        })
        .collect();
    starts.sort();
    let count = starts.len();
    starts.dedup();
    assert_eq!(starts.len(), count, "an attempt was started twice: {log}");
    assert_eq!(count, 3 * MANY, "a step took more than one attempt: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_can_hand_in_an_event() {
    let project = Project::new();
    let serving = Serving::start(options(project.path(), cascade_manifest("ok", "ok"))).await;
    let mut trigger = child("trigger", project.path());
    let status = tokio::task::spawn_blocking(move || trigger.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success(), "the other process saw something else");
    let cascade = serving.follow("evt-0").await;
    assert_eq!(cascade.runs.len(), 2);
    assert_eq!(project.started().len(), 3);
    serving.stop().await;
}

fn sensors(verify: Value) -> Value {
    json!([{
        "name": "pushes", "trigger": {"kind": "webhook", "path": "/hooks/x", "verify": verify},
        "emits": "Go", "source": "module", "module": "sensors.hooks", "fn": "pushes",
    }])
}

fn with_sensor_code(project: &Project) {
    std::fs::create_dir(project.path().join("sensors")).unwrap();
    let code = "from loopy import sensor\nfrom loopy.events import Go\n\n\
                @sensor(emits='Go', webhook='/hooks/x', verify='github')\n\
                def pushes(request):\n    return [Go(n=n) for n in request.json['ns']]\n";
    std::fs::write(project.path().join("sensors/hooks.py"), code).unwrap();
}

fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let bytes = mac.finalize().into_bytes();
    bytes.iter().fold("sha256=".to_owned(), |text, byte| {
        format!("{text}{byte:02x}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_delivery_starts_runs_once() {
    let project = Project::new();
    with_sensor_code(&project);
    std::fs::write(
        project.path().join("loopy.env"),
        "GITHUB_WEBHOOK_SECRET=s3\n",
    )
    .unwrap();
    let mut manifest = cascade_manifest("ok", "ok");
    manifest.sensors = serde_json::from_value(sensors(json!("github"))).unwrap();
    let serving = Serving::start(options(project.path(), manifest.seal())).await;
    let http = reqwest::Client::new();
    let body = br#"{"ns": [1, 2]}"#;
    let post = |path: &str, signature: String| {
        http.post(serving.url(path))
            .header("X-Hub-Signature-256", signature)
            .header("X-GitHub-Delivery", "d-1")
            .body(body.to_vec())
            .send()
    };
    assert_eq!(
        post("/hooks/x", signature("wrong", body))
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(
        post("/hooks/none", signature("s3", body))
            .await
            .unwrap()
            .status(),
        404
    );
    for repeated in [false, true] {
        let answer = post("/hooks/x", signature("s3", body)).await.unwrap();
        assert_eq!(answer.status(), 202);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["repeated"], repeated);
    }
    let begun = Instant::now();
    let filter = RunFilter {
        status: Some("succeeded".to_owned()),
        limit: 9,
        ..RunFilter::default()
    };
    while serving.state.runs(&filter).await.unwrap().len() < 4 {
        assert!(begun.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = serving
        .state
        .runs(&RunFilter {
            limit: 9,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(
        all.len(),
        4,
        "one run of each workflow for each of the two events"
    );
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_the_rest_as_it_should() {
    let project = Project::new();
    let mut manifest = cascade_manifest("ok", "ok");
    manifest.sensors = serde_json::from_value(sensors(Value::Null)).unwrap();
    let serving = Serving::start(options(project.path(), manifest.seal())).await;
    let http = reqwest::Client::new();
    let get = |path: &str| http.get(serving.url(path)).send();
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    assert_eq!(get("/hooks/x").await.unwrap().status(), 405);
    assert_eq!(get("/").await.unwrap().status(), 404);
    assert_eq!(
        get("/_loopy/v1/runs/r/steps/s/attempts/1/envelope")
            .await
            .unwrap()
            .status(),
        401
    );
    assert_eq!(get("/_loopy/v1/other").await.unwrap().status(), 404);

    let large = vec![b'x'; loopy_local::http::MAX_BODY + 1];
    let posted = http
        .post(serving.url("/hooks/x"))
        .body(large.clone())
        .send()
        .await;
    // The server may hang up before the client has sent it all.
    assert!(posted.map_or(true, |answer| answer.status() == 413));
    assert_eq!(chunked(serving.address, &large).await, 413);
    serving.stop().await;
}

/// Posts without saying the length beforehand; the status of the answer.
async fn chunked(address: SocketAddr, body: &[u8]) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST /hooks/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let send = async {
        for chunk in body.chunks(64 * 1024) {
            let frame = format!("{:x}\r\n", chunk.len());
            write.write_all(frame.as_bytes()).await?;
            write.write_all(chunk).await?;
            write.write_all(b"\r\n").await?;
        }
        write.write_all(b"0\r\n\r\n").await
    };
    let mut answer = [0; 12];
    let (_, got) = tokio::join!(send, read.read_exact(&mut answer));
    got.unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

/// Says `text` on a connection of its own and leaves it at that.
async fn begun(address: SocketAddr, text: &str) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_announce_bodies_and_send_none_do_not_shut_out_deliveries() {
    let project = Project::new();
    with_sensor_code(&project);
    let secret = "GITHUB_WEBHOOK_SECRET=s3\n";
    std::fs::write(project.path().join("loopy.env"), secret).unwrap();
    let mut manifest = cascade_manifest("ok", "ok");
    manifest.sensors = serde_json::from_value(sensors(json!("github"))).unwrap();
    let serving = Serving::start(options(project.path(), manifest.seal())).await;
    // Headers that look right, and bodies that never come: more than there are places,
    // and more than there are connections.
    let head = "POST /hooks/x HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=00\r\n\
                Content-Length: 600000\r\n\r\n";
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(begun(serving.address, head).await);
    }
    let http = reqwest::Client::new();
    for number in 0..3 {
        let body = format!(r#"{{"ns": [{number}]}}"#);
        let answer = http
            .post(serving.url("/hooks/x"))
            .header("X-Hub-Signature-256", signature("s3", body.as_bytes()))
            .header("X-GitHub-Delivery", number.to_string())
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202, "{number}");
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_before_their_bodies_are_read() {
    use tokio::io::AsyncReadExt;
    let project = Project::new();
    let mut manifest = cascade_manifest("ok", "ok");
    manifest.sensors = serde_json::from_value(sensors(json!("github"))).unwrap();
    let serving = Serving::start(options(project.path(), manifest.seal())).await;
    let report = "/_loopy/v1/runs/r/steps/s/attempts/1/result";
    for (line, status) in [
        ("POST /hooks/x", "401"),
        ("PUT /hooks/x", "405"),
        ("POST /elsewhere", "404"),
        ("POST /_loopy/v1/other", "404"),
        (&*format!("POST {report}"), "401"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
        let mut stream = begun(serving.address, &head).await;
        let mut answer = [0; 12];
        let heard = stream.read_exact(&mut answer);
        // Long before the time for a body is over.
        let heard = tokio::time::timeout(Duration::from_secs(15), heard).await;
        heard.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&answer[9..]).unwrap(), status, "{line}");
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_fires_at_once_and_then_each_interval() {
    let project = Project::new();
    std::fs::create_dir(project.path().join("sensors")).unwrap();
    let code = "from loopy.events import Go\n\
                def ticks(tick):\n    \
                return Go(n=round((tick.scheduled_at - tick.last_run).total_seconds()))\n";
    std::fs::write(project.path().join("sensors/polls.py"), code).unwrap();
    let workflow = json!({"count": {"entry": "one", "steps": {
        "one": common::step("count/one", Some("Go"), &[], json!({}), &[]),
    }}});
    let polls = json!([{
        "name": "ticks", "trigger": {"kind": "poll", "interval": "1s"}, "emits": "Go",
        "source": "module", "module": "sensors.polls", "fn": "ticks",
    }]);
    let manifest = common::manifest(workflow, polls);
    let serving = Serving::start(options(project.path(), manifest)).await;
    let begun = Instant::now();
    let filter = RunFilter {
        limit: 99,
        ..RunFilter::default()
    };
    while serving.state.runs(&filter).await.unwrap().len() < 3 {
        assert!(begun.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(1500),
        "three ticks came within {took:?}"
    );
    let runs = serving.state.runs(&filter).await.unwrap();
    for summary in runs.iter().rev().take(3) {
        let run = serving.state.run(&summary.id).await.unwrap().unwrap();
        // On a slow machine a tick that found the turn before not over was left out.
        let seconds = run.event.fields["n"].as_i64().unwrap();
        assert!(seconds >= 1, "the time since the tick before: {seconds} s");
    }
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_start_runs() {
    let project = Project::new();
    let unverified = common::manifest(json!({}), sensors(Value::Null));
    let mut public = options(project.path(), unverified.clone());
    public.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut tunnelled = options(project.path(), unverified.clone());
    tunnelled.public_url = Some("https://loopy.example".to_owned());
    for refused in [public, tunnelled] {
        let error = LocalHome::open(refused).await.err().unwrap();
        assert!(matches!(error, OpenError::Unverified { .. }), "{error}");
        assert!(error.to_string().contains("pushes"), "{error}");
    }
    // On this machine alone it may; so may one that opted out by name.
    drop(
        LocalHome::open(options(project.path(), unverified))
            .await
            .unwrap(),
    );
    let opted_out = common::manifest(json!({}), sensors(json!("none")));
    let mut public = options(project.path(), opted_out);
    public.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    drop(LocalHome::open(public).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_by_name() {
    let project = Project::new();
    let mut manifest = cascade_manifest("ok", "ok");
    manifest
        .registry
        .sandboxes
        .get_mut("Here")
        .unwrap()
        .provider = "daytona".to_owned();
    let manifest = manifest.seal();
    let error = LocalHome::open(options(project.path(), manifest.clone()))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, OpenError::NoPublicUrl(name) if name == "Here"),
        "{error}"
    );
    let mut public = options(project.path(), manifest);
    public.public_url = Some("https://loopy.example".to_owned());
    let error = LocalHome::open(public).await.err().unwrap();
    assert!(
        matches!(&error, OpenError::NoRunner(name) if name == "Here"),
        "{error}"
    );

    let mut manifest = cascade_manifest("ok", "ok");
    manifest
        .registry
        .sandboxes
        .get_mut("Here")
        .unwrap()
        .provider = "fargate".to_owned();
    let error = LocalHome::open(options(project.path(), manifest.seal()))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, OpenError::InAccount(name) if name == "Here"),
        "{error}"
    );
}
