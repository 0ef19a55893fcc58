//! Python sensors in their worker: what they may be, what they may give back.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::ports::{Sensed, SensorCall, SensorCode, SensorError};
use loopy_local::sensor_code::PythonSensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const HOOKS: &str = r#"
import asyncio, os, subprocess, sys
from datetime import datetime, timedelta, timezone
from loopy import sensor
from loopy.events import Go, Done

print("printed while it is imported")
calls = 0

@sensor(emits="Go", webhook="/x", verify="none")
def plain(request):
    print("printed in a call")
    subprocess.run(["sh", "-c", "echo printed by a child; cat"])
    return Go(n=request.json["n"])

@sensor(emits="Go", webhook="/x", verify="none")
async def asynchronous(request):
    await asyncio.sleep(0)
    return [Go(n=1), {"n": 2}]

@sensor(emits="Go", poll="5m")
def generator(tick):
    yield Go(n=1)
    yield Go(n=2)
    yield {"n": 3}

@sensor(emits="Go", poll="5m")
async def stream(tick):
    for n in range(2):
        await asyncio.sleep(0)
        yield Go(n=n)

@sensor(emits="Done", webhook="/x", verify="none")
def request_parts(request):
    return Done(text=repr([
        request.method, request.path, request.headers["X-Kind"], request.headers.get("x-none"),
        request.query["q"], request.query.getlist("q"), request.body,
    ]))

@sensor(emits="Done", poll="5m")
def tick_parts(tick):
    return {"text": [tick.scheduled_at, tick.last_run, tick.scheduled_at.tzinfo is not None],
            "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))}

def nothing(tick): return None
def number(tick): return 5
def text(tick): return "Go"
def other_event(tick): return Done(text="x")
def unknown_field(tick): return Go(m=1)
def naive(tick): return {"n": datetime(2026, 1, 1)}
def not_json(tick): return {"n": object()}
def half(tick): yield Go(n=1); raise RuntimeError("broke in the middle")
def exits(tick): sys.exit(3)
def dies(tick): os._exit(7)
def sleeps(tick):
    subprocess.Popen(["sleep", "60"]); import time; time.sleep(60)
def counts(tick):
    global calls
    calls += 1
    return Go(n=calls)
def pid(tick): return Go(n=os.getpid())
def environment(tick): return {"names": sorted(os.environ), "token": os.environ.get("TOKEN")}
"#;

struct Bench {
    dir: tempfile::TempDir,
    manifest: Manifest,
    sensors: PythonSensors,
}

fn bench(time_limit: Duration) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sensors");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    std::fs::write(folder.join("hooks.py"), HOOKS).unwrap();
    std::fs::write(folder.join("broken.py"), "import no_such_module\n").unwrap();
    std::fs::write(folder.join("syntax.py"), "def f(:\n").unwrap();
    std::fs::write(
        folder.join("deep/more.py"),
        "from sensors.hooks import generator\n",
    )
    .unwrap();
    std::fs::write(folder.join(".env"), "TOKEN='t'\n").unwrap();
    let sensors = PythonSensors::new(
        dir.path(),
        &dir.path().join(".loopy"),
        loopy_sandbox::local::PLAIN_PATH.into(),
        Some(common::python()),
        time_limit,
    );
    Bench {
        dir,
        manifest: common::manifest(json!({}), json!([])),
        sensors,
    }
}

fn sensor(module: &str, function: &str, emits: &str) -> Sensor {
    serde_json::from_value(json!({
        "name": function, "trigger": {"kind": "poll", "interval": "5m"}, "emits": emits,
        "source": "module", "module": module, "fn": function,
    }))
    .unwrap()
}

fn tick() -> SensorCall {
    SensorCall::Tick {
        scheduled_at: "2026-03-01T00:05:00.123456789Z".parse().unwrap(),
        last_run: "2026-03-01T00:00:00Z".parse().unwrap(),
    }
}

fn request(body: &[u8]) -> SensorCall {
    SensorCall::Request {
        method: "POST".to_owned(),
        path: "/x".to_owned(),
        query: "q=1&q=two%20words".to_owned(),
        headers: BTreeMap::from([("x-kind".to_owned(), "push".to_owned())]),
        body_base64: STANDARD.encode(body),
    }
}

impl Bench {
    async fn call(
        &self,
        function: &str,
        emits: &str,
        call: SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        self.sensors
            .call(
                &self.manifest,
                &sensor("sensors.hooks", function, emits),
                &call,
            )
            .await
    }

    async fn fields(&self, function: &str, emits: &str, call: SensorCall) -> Vec<Value> {
        let sensed = self.call(function, emits, call).await.unwrap();
        assert!(sensed.iter().all(|event| event.event == emits));
        sensed
            .into_iter()
            .map(|event| Value::Object(event.fields))
            .collect()
    }

    async fn raised(&self, module: &str, function: &str) -> String {
        let sensor = sensor(module, function, "Go");
        match self.sensors.call(&self.manifest, &sensor, &tick()).await {
            Err(SensorError::Raised { message, .. }) => message,
            other => panic!("{function}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_kind_of_function_delivers_all_its_events() {
    let bench = bench(Duration::from_secs(20));
    let body = request(br#"{"n": 7}"#);
    assert_eq!(
        bench.fields("plain", "Go", body.clone()).await,
        [json!({"n": 7})]
    );
    let two = [json!({"n": 1}), json!({"n": 2})];
    assert_eq!(bench.fields("asynchronous", "Go", body).await, two);
    let three = [json!({"n": 1}), json!({"n": 2}), json!({"n": 3})];
    assert_eq!(bench.fields("generator", "Go", tick()).await, three);
    assert_eq!(
        bench.fields("stream", "Go", tick()).await,
        [json!({"n": 0}), json!({"n": 1})]
    );
    assert!(bench.fields("nothing", "Go", tick()).await.is_empty());
    let deep = sensor("sensors.deep.more", "generator", "Go");
    assert_eq!(
        bench
            .sensors
            .call(&bench.manifest, &deep, &tick())
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_sensor_sees_the_whole_request_and_the_tick() {
    let bench = bench(Duration::from_secs(20));
    let seen = bench
        .fields("request_parts", "Done", request(b"\xffraw"))
        .await;
    let expected = r"['POST', '/x', 'push', None, '1', ['1', 'two words'], b'\xffraw']";
    assert_eq!(seen, [json!({ "text": expected })]);
    let seen = bench.fields("tick_parts", "Done", tick()).await;
    let times = json!(["2026-03-01T00:05:00.123456Z", "2026-03-01T00:00:00Z", true]);
    assert_eq!(seen, [json!({"text": times, "at": "2026-01-02T01:04:05Z"})]);
    let bad = bench
        .call("plain", "Go", request(b"no json"))
        .await
        .unwrap_err()
        .to_string();
    assert!(bad.contains("not JSON"), "{bad}");
}

#[tokio::test]
async fn what_breaks_the_rules_is_an_error_that_says_which() {
    let bench = bench(Duration::from_secs(20));
    for (function, part) in [
        ("number", "gave back a int"),
        ("text", "gave back a str"),
        ("other_event", "event Done, but it declares emits='Go'"),
        ("unknown_field", "event Go has no field `m`; it has: n"),
        ("naive", "without a time zone"),
        ("not_json", "Go.n is a object"),
        ("half", "broke in the middle"),
        ("exits", "SystemExit: 3"),
        ("missing", "no function `missing`"),
    ] {
        let message = bench.raised("sensors.hooks", function).await;
        assert!(message.contains(part), "{function}: {message}");
    }
    let trace = bench.raised("sensors.hooks", "half").await;
    assert!(
        trace.contains("hooks.py"),
        "the trace names the file: {trace}"
    );
    assert!(
        !trace.contains("importlib"),
        "the trace begins in the sensor: {trace}"
    );
}

#[tokio::test]
async fn a_module_that_cannot_be_imported_fails_each_time() {
    let bench = bench(Duration::from_secs(20));
    for _ in 0..2 {
        let message = bench.raised("sensors.broken", "f").await;
        assert!(message.contains("no_such_module"), "{message}");
    }
    let message = bench.raised("sensors.syntax", "f").await;
    assert!(
        message.contains("SyntaxError") && message.contains("syntax.py"),
        "{message}"
    );
    // Once it is mended it works, without a restart.
    let path = bench.dir.path().join("sensors/broken.py");
    std::fs::write(path, "def f(tick): return {'n': 1}\n").unwrap();
    let mended = sensor("sensors.broken", "f", "Go");
    assert_eq!(
        bench
            .sensors
            .call(&bench.manifest, &mended, &tick())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn the_worker_stays_warm_and_comes_back_when_it_dies() {
    let bench = bench(Duration::from_secs(20));
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})]
    );
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 2})]
    );
    let died = bench.call("dies", "Go", tick()).await.unwrap_err();
    assert!(matches!(died, SensorError::Trouble(_)), "{died:?}");
    assert!(died.to_string().contains("exit status: 7"), "{died}");
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})],
        "a new process"
    );

    let pid = bench.fields("pid", "Go", tick()).await[0]["n"]
        .as_i64()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})],
        "found dead"
    );
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_killed_with_its_children() {
    let bench = bench(Duration::from_secs(2));
    assert_eq!(bench.fields("counts", "Go", tick()).await.len(), 1);
    let begun = Instant::now();
    let message = bench.raised("sensors.hooks", "sleeps").await;
    assert!(message.contains("within 2 s"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})]
    );
    assert!(
        !a_child_lives(bench.dir.path()),
        "`sleep` outlived its sensor"
    );
}

/// Whether a `sleep` works in this directory.
fn a_child_lives(dir: &Path) -> bool {
    let dir = dir.canonicalize().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir)
            && std::fs::read(entry.path().join("cmdline")).is_ok_and(|c| c.starts_with(b"sleep"))
    })
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_answer_the_next_one() {
    let bench = bench(Duration::from_secs(20));
    assert_eq!(bench.fields("counts", "Go", tick()).await.len(), 1);
    let given_up = tokio::time::timeout(
        Duration::from_millis(200),
        bench.call("sleeps", "Go", tick()),
    )
    .await;
    assert!(given_up.is_err());
    assert_eq!(bench.fields("generator", "Go", tick()).await.len(), 3);
}

#[tokio::test]
async fn the_workers_environment_is_path_and_the_sensors_own() {
    let bench = bench(Duration::from_secs(20));
    let seen = bench.fields("environment", "Done", tick()).await;
    assert_eq!(seen[0]["token"], "t");
    let names: Vec<&str> = seen[0]["names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let set = |name: &&str| !matches!(*name, "LC_CTYPE" | "__CF_USER_TEXT_ENCODING");
    assert_eq!(
        names.into_iter().filter(set).collect::<Vec<_>>(),
        ["PATH", "TOKEN"]
    );
}

#[tokio::test]
async fn new_events_reach_code_that_is_loaded_already() {
    let mut bench = bench(Duration::from_secs(20));
    let message = bench.raised("sensors.hooks", "unknown_field").await;
    assert!(message.contains("no field `m`"), "{message}");
    let go = bench.manifest.registry.events.get_mut("Go").unwrap();
    go.fields.insert("m".to_owned(), json!({"type": "integer"}));
    assert_eq!(
        bench.fields("unknown_field", "Go", tick()).await,
        [json!({"m": 1})]
    );
}

#[tokio::test]
async fn other_languages_are_refused_by_name() {
    let bench = bench(Duration::from_secs(20));
    let mut shell = sensor("sensors/x.sh", "x", "Go");
    shell.source = loopy_contract::manifest::SensorSource::Shell;
    let error = bench
        .sensors
        .call(&bench.manifest, &shell, &tick())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not shell scripts"), "{error}");
}

#[tokio::test]
async fn a_missing_python_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().as_os_str().to_owned();
    let state = dir.path().join(".loopy");
    let sensors = PythonSensors::new(dir.path(), &state, empty, None, Duration::from_secs(5));
    let manifest = common::manifest(json!({}), json!([]));
    let call = sensors
        .call(&manifest, &sensor("sensors.x", "f", "Go"), &tick())
        .await;
    let error = call.unwrap_err().to_string();
    assert!(error.contains("LOOPY_PYTHON"), "{error}");
}

#[tokio::test]
async fn the_sensors_folder_stays_as_it_is() {
    let bench = bench(Duration::from_secs(20));
    assert_eq!(bench.fields("generator", "Go", tick()).await.len(), 3);
    assert!(!bench.dir.path().join("sensors/__pycache__").exists());
    assert!(!bench.dir.path().join("loopy").exists());
}
