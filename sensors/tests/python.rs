//! Python sensors in their worker: what they may be, what they may give back.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bench;

use bench::{Bench, LONG, bench, lives, request, tick, tick_after};
use loopy_contract::manifest::Sensor;
use loopy_engine::ports::{Sensed, SensorCall, SensorCode, SensorError};
use loopy_sensors::Config;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const HOOKS: &str = r#"
import asyncio, os, subprocess, sys
from enum import Enum
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

@sensor(emits="Go", webhook="/y", verify="none")
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
def dies(tick):
    print("last words", flush=True)
    os._exit(7)
def sleeps(tick):
    subprocess.Popen(["sleep", "60"]); import time; time.sleep(60)
def counts(tick):
    global calls
    calls += 1
    return Go(n=calls)
def pid(tick): return Go(n=os.getpid())
def snapshot(tick): return {"text": tick.snapshot}
def grows(tick):
    kept = []
    while True:
        kept.append(b"x" * (10 << 20))
        import time; time.sleep(0.01)
def has_a_child_grow(tick):
    code = "import time; kept = [b'x' * (10 << 20) for _ in range(20)]; time.sleep(60)"
    subprocess.run(["python-child", "-c", code], executable=sys.executable)
def naps(tick):
    open("napping", "w").close()
    import time; time.sleep(3)
    return Go(n=1)
def nap_pid(tick):
    import time; time.sleep(1.5)
    return Go(n=os.getpid())
def too_long(tick):
    for n in range(70): yield {"n": "x" * 100000}
class Colour(str, Enum):
    RED = "red"
class Size(int, Enum):
    BIG = 3
class Half(float, Enum):
    ONE = 0.5
class Shout(str):
    def __str__(self): return "loud"
def members(tick):
    return {"text": [Colour.RED, Size.BIG, Half.ONE, Shout("quiet"), {Colour.RED: Colour.RED}]}
def environment(tick): return {"names": sorted(os.environ), "token": os.environ.get("TOKEN")}
"#;

fn hooks(time_limit: Duration) -> Bench {
    let files = [
        ("hooks.py", HOOKS),
        ("deep/more.py", "from sensors.hooks import generator\n"),
    ];
    let made = bench(&files, |config| config.time_limit = time_limit);
    // The compiler would refuse the second one.
    let folder = made.dir.path().join("sensors");
    std::fs::write(folder.join("broken.py"), "import no_such_module\n").unwrap();
    std::fs::write(folder.join("syntax.py"), "def f(:\n").unwrap();
    made
}

fn sensor(module: &str, function: &str, emits: &str) -> Sensor {
    serde_json::from_value(json!({
        "name": function, "trigger": {"kind": "poll", "interval": "5m"}, "emits": emits,
        "source": "module", "module": module, "fn": function,
    }))
    .unwrap()
}

trait Hooks {
    async fn call(
        &self,
        function: &str,
        emits: &str,
        call: SensorCall,
    ) -> Result<Vec<Sensed>, SensorError>;
    async fn fields(&self, function: &str, emits: &str, call: SensorCall) -> Vec<Value>;
    async fn raised(&self, module: &str, function: &str) -> String;
    async fn not_loaded(&self, module: &str, function: &str) -> String;
}

impl Hooks for Bench {
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

    async fn not_loaded(&self, module: &str, function: &str) -> String {
        let sensor = sensor(module, function, "Go");
        match self.sensors.call(&self.manifest, &sensor, &tick()).await {
            Err(SensorError::Unloadable { reason, .. }) => reason,
            other => panic!("{function}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_kind_of_function_delivers_all_its_events() {
    let bench = hooks(LONG);
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
    let bench = hooks(LONG);
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
    let bench = hooks(LONG);
    for (function, part) in [
        ("number", "gave back a int"),
        ("text", "gave back a str"),
        ("other_event", "event Done, but it declares emits='Go'"),
        ("unknown_field", "event Go has no field `m`; it has: n"),
        ("naive", "without a time zone"),
        ("not_json", "Go.n is a object"),
        ("half", "broke in the middle"),
        ("exits", "SystemExit: 3"),
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
    let bench = hooks(LONG);
    for _ in 0..2 {
        let message = bench.not_loaded("sensors.broken", "f").await;
        assert!(message.contains("no_such_module"), "{message}");
    }
    let message = bench.not_loaded("sensors.syntax", "f").await;
    assert!(
        message.contains("SyntaxError") && message.contains("syntax.py"),
        "{message}"
    );
    let message = bench.not_loaded("sensors.hooks", "missing").await;
    assert!(message.contains("no function `missing`"), "{message}");
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
    let bench = hooks(LONG);
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})]
    );
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 2})]
    );
    let died = bench.raised("sensors.hooks", "dies").await;
    assert!(died.contains("exit status: 7"), "{died}");
    assert!(died.contains("last words"), "{died}");
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
    // A process that is killed is there until somebody asks how it ended.
    let state = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let limit = Instant::now() + LONG;
    while std::fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < limit, "it does not die");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})],
        "found dead"
    );
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_killed_with_its_children() {
    let bench = hooks(Duration::from_secs(2));
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
        !lives(bench.dir.path(), "sleep").await,
        "`sleep` outlived its sensor"
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_does_not_answer_the_next_one() {
    let bench = hooks(LONG);
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
    let bench = hooks(LONG);
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
async fn a_variable_that_changed_is_there_at_the_next_call() {
    let value = Arc::new(Mutex::new("one".to_owned()));
    let read = Arc::clone(&value);
    let bench = bench(&[("hooks.py", HOOKS)], |config| {
        config.environment = Arc::new(move || {
            let value = read.lock().unwrap().clone();
            Ok(BTreeMap::from([("TOKEN".to_owned(), value)]))
        });
    });
    for token in ["one", "two"] {
        token.clone_into(&mut value.lock().unwrap());
        for _ in 0..2 {
            let seen = bench.fields("environment", "Done", tick()).await;
            assert_eq!(seen[0]["token"], token);
        }
    }
}

#[tokio::test]
async fn new_events_reach_code_that_is_loaded_already() {
    let mut bench = hooks(LONG);
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
async fn a_missing_python_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().as_os_str().to_owned();
    let change = |config: &mut Config| {
        config.python = None;
        config.search_path = path;
    };
    let bench = bench(&[("hooks.py", HOOKS)], change);
    let why = bench.not_loaded("sensors.hooks", "plain").await;
    assert!(why.contains("LOOPY_PYTHON"), "{why}");
}

#[tokio::test]
async fn a_poll_sees_what_its_last_turn_gave() {
    let bench = hooks(LONG);
    let last = [json!({"n": 1}), json!({"n": 2, "more": ["\u{e9}"]})];
    let seen = bench.fields("snapshot", "Done", tick_after(&last)).await;
    assert_eq!(seen, [json!({ "text": last })]);
    let seen = bench.fields("snapshot", "Done", tick()).await;
    assert_eq!(seen, [json!({ "text": [] })]);
}

#[tokio::test]
async fn a_worker_that_takes_too_much_memory_is_killed_with_its_children() {
    let bench = bench(&[("hooks.py", HOOKS)], |config| {
        config.memory_limit = 100 << 20;
    });
    for function in ["grows", "has_a_child_grow"] {
        let message = bench.raised("sensors.hooks", function).await;
        assert!(message.contains("more than the 100 MB"), "{message}");
        assert_eq!(
            bench.fields("counts", "Go", tick()).await,
            [json!({"n": 1})]
        );
    }
    assert!(!lives(bench.dir.path(), "python-child").await);
}

#[tokio::test]
async fn a_slow_sensor_does_not_hold_up_its_neighbours() {
    let bench = hooks(LONG);
    let begun = Instant::now();
    let slow = async {
        bench.fields("naps", "Go", tick()).await;
        begun.elapsed()
    };
    let quick = async {
        let napping = bench.dir.path().join("napping");
        while !napping.exists() {
            assert!(begun.elapsed() < LONG, "it does not nap");
            tokio::task::yield_now().await;
        }
        bench.fields("counts", "Go", tick()).await;
        begun.elapsed()
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(quick < slow, "{quick:?} {slow:?}");
    // Four at most; the fifth waits for one of them.
    let pids = (0..5).map(|_| bench.fields("nap_pid", "Go", tick()));
    let pids = futures::future::join_all(pids).await;
    let distinct: std::collections::BTreeSet<String> =
        pids.iter().map(|found| found[0].to_string()).collect();
    assert_eq!(distinct.len(), 4, "{distinct:?}");
}

#[tokio::test]
async fn packages_beside_the_sensors_are_found() {
    let bench = hooks(LONG);
    let folder = bench.dir.path().join("sensors/site-packages/brought");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("__init__.py"), "value = 4711\n").unwrap();
    let code = "from brought import value\ndef f(tick): return {'n': value}\n";
    std::fs::write(bench.dir.path().join("sensors/uses.py"), code).unwrap();
    let uses = sensor("sensors.uses", "f", "Go");
    let made = bench.call_one(&uses, tick()).await.unwrap();
    assert_eq!(made[0].fields["n"], 4711);
}

#[tokio::test]
async fn a_package_beside_the_sensors_comes_before_what_python_has() {
    let bench = hooks(LONG);
    let folder = bench.dir.path().join("sensors/site-packages");
    std::fs::create_dir_all(&folder).unwrap();
    // Of the standard library, which no host has imported.
    std::fs::write(folder.join("colorsys.py"), "value = 4711\n").unwrap();
    let code = "from colorsys import value\ndef f(tick): return {'n': value}\n";
    std::fs::write(bench.dir.path().join("sensors/uses.py"), code).unwrap();
    let uses = sensor("sensors.uses", "f", "Go");
    let made = bench.call_one(&uses, tick()).await.unwrap();
    assert_eq!(made[0].fields["n"], 4711);
}

#[tokio::test]
async fn what_lies_outside_of_sensors_is_not_imported_where_a_stack_has_it_not() {
    let bench = hooks(LONG);
    let project = bench.dir.path();
    std::fs::create_dir_all(project.join("shared")).unwrap();
    std::fs::write(project.join("shared/lib.py"), "value = 1\n").unwrap();
    std::fs::write(project.join("single.py"), "value = 1\n").unwrap();
    for (name, import) in [("one", "shared.lib"), ("two", "single")] {
        let code = format!("from {import} import value\ndef f(tick): return {{'n': value}}\n");
        std::fs::write(project.join(format!("sensors/{name}.py")), code).unwrap();
        let why = bench.not_loaded(&format!("sensors.{name}"), "f").await;
        assert!(why.contains("lies outside of sensors/"), "{why}");
    }
    let why = bench.not_loaded("sensors.three", "f").await;
    assert!(!why.contains("lies outside"), "{why}");
    // What is in it is found, with what its `__init__.py` does and without one.
    std::fs::write(project.join("sensors/lib.py"), "value = 7\n").unwrap();
    for init in [
        None,
        Some("begun = 5\n"),
        Some("from .lib import value as begun\n"),
    ] {
        if let Some(text) = init {
            std::fs::write(project.join("sensors/__init__.py"), text).unwrap();
        }
        let name = format!("after{}", init.map_or(0, str::len));
        let code = "import sensors\nfrom sensors import lib\nfrom .lib import value\n\
                    def f(tick): return {'n': value, 'm': getattr(sensors, 'begun', None)}\n";
        std::fs::write(project.join(format!("sensors/{name}.py")), code).unwrap();
        let fresh = bench::fresh(&bench);
        let found = sensor(&format!("sensors.{name}"), "f", "Go");
        let made = fresh.call(&bench.manifest, &found, &tick()).await.unwrap();
        assert_eq!(made[0].fields["n"], 7);
        let begun = match init {
            None => json!(null),
            Some(text) if text.starts_with("begun") => json!(5),
            Some(_) => json!(7),
        };
        assert_eq!(made[0].fields["m"], begun);
    }
}

#[tokio::test]
async fn a_member_of_an_enum_goes_out_as_its_value() {
    let bench = hooks(LONG);
    let seen = bench.fields("members", "Done", tick()).await;
    let values = json!(["red", 3, 0.5, "quiet", {"red": "red"}]);
    assert_eq!(seen, [json!({ "text": values })]);
}

#[tokio::test]
async fn a_separator_of_lines_in_a_request_shifts_no_answer() {
    let bench = hooks(LONG);
    let odd = [json!({"n": "a\u{2028}b\u{2029}c\u{85}d\re\nf\u{b}g"})];
    let seen = bench.fields("snapshot", "Done", tick_after(&odd)).await;
    assert_eq!(seen, [json!({ "text": odd })]);
    assert_eq!(
        bench.fields("counts", "Go", tick()).await,
        [json!({"n": 1})]
    );
}

#[tokio::test]
async fn a_host_that_answers_another_request_is_dropped() {
    for (answer, part) in [
        (
            r#"{"number": 7, "response": {"events": []}}"#,
            "answered request 7",
        ),
        (r#"{"events": []}"#, "answered no JSON"),
        (
            r#"{"number": 1, "response": {"events": []}}\n{"number": 2, "response": {"events": []}}"#,
            "more than its answer",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("host");
        let script = format!("#!/bin/sh\nwhile read -r line; do printf '{answer}\\n'; done\n");
        std::fs::write(&host, script).unwrap();
        std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o755)).unwrap();
        let bench = bench(&[("hooks.py", HOOKS)], |config| config.python = Some(host));
        for _ in 0..2 {
            let message = bench.raised("sensors.hooks", "counts").await;
            assert!(message.contains(part), "{message}");
        }
        assert!(!lives(bench.dir.path(), "/bin/sh").await, "{part}");
    }
}

#[tokio::test]
async fn what_a_call_gives_is_bounded() {
    let bench = hooks(LONG);
    let message = bench.raised("sensors.hooks", "too_long").await;
    assert!(message.contains("one call may give 6000000"), "{message}");
    assert_eq!(bench.fields("counts", "Go", tick()).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_without_a_call() {
    let mut bench = hooks(LONG);
    bench.manifest.sensors = vec![
        sensor("sensors.hooks", "plain", "Go"),
        sensor("sensors.hooks", "missing", "Go"),
        sensor("sensors.broken", "broken", "Go"),
    ];
    let found = bench.sensors.load(&bench.manifest).await.unwrap();
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(names, ["broken", "missing"]);
    assert!(found["broken"].contains("no_such_module"), "{found:?}");
    // One that ends the host does not hide the others.
    let file = bench.dir.path().join("sensors/ends.py");
    std::fs::write(file, "import os\nos._exit(3)\n").unwrap();
    bench
        .manifest
        .sensors
        .push(sensor("sensors.ends", "ends", "Go"));
    let found = bench.sensors.load(&bench.manifest).await.unwrap();
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(names, ["broken", "ends", "missing"]);
    assert!(found["ends"].contains("exit status: 3"), "{found:?}");
}

#[tokio::test]
async fn the_sensors_folder_stays_as_it_is() {
    let bench = hooks(LONG);
    assert_eq!(bench.fields("generator", "Go", tick()).await.len(), 3);
    assert!(!bench.dir.path().join("sensors/__pycache__").exists());
    assert!(!bench.dir.path().join("loopy").exists());
}
