//! TypeScript sensors in their worker, as the compiler made JavaScript of them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bench;

use bench::{LONG, bench, lives, request, tick, tick_after, write};
use loopy_engine::ports::SensorCode;
use loopy_sensors::Config;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const HOOKS: &str = r#"
import { spawnSync } from "node:child_process";
import type { SensorRegistry, Request, Tick } from "../loopy/index.js";
import { numbers, type Numbered } from "./lib/numbers";
import { Kind } from "./lib/kind.js";
import words from "./lib/words.json" with { type: "json" };

console.log("printed while it is loaded");
enum Count { One = 1, Two }
let calls: number = 0;

const parts = (request: Request) => ({
  text: [
    request.method, request.path, request.headers.get("X-Kind"), request.headers.get("x-none"),
    request.headers.has("x-KIND"), request.query.get("q"), request.query.getAll("q"),
    [...request.body],
  ],
});

export const sensorRegistry = {
  plain: {
    emits: "Go", webhook: "/x", verify: "none",
    run(request: Request) {
      console.log("printed in a call");
      spawnSync("sh", ["-c", "echo printed by a child; cat"], { stdio: "inherit" });
      return { n: request.json.n as number };
    },
  },
  asynchronous: {
    emits: "Go", webhook: "/y", verify: "none",
    run: async () => { await null; return [{ n: Count.One }, { n: Count.Two }]; },
  },
  generator: { emits: "Go", poll: "5m", run: function* (): Generator<Numbered> { yield* numbers(3); } },
  stream: { emits: "Go", poll: "5m", run: async function* () { for (const n of [0, 1]) { await null; yield { n }; } } },
  request_parts: { emits: "Done", webhook: "/x", verify: "none", run: parts },
  tick_parts: {
    emits: "Done", poll: "5m",
    run: (tick: Tick) => ({ text: [tick.scheduled_at, tick.last_run, tick.scheduled_at instanceof Date, Kind.Poll, words.one] }),
  },
  nothing: { emits: "Go", poll: "5m", run: () => undefined },
  nil: { emits: "Go", poll: "5m", run: () => null },
  number: { emits: "Go", poll: "5m", run: () => 5 as any },
  text: { emits: "Go", poll: "5m", run: () => "Go" as any },
  holes: { emits: "Go", poll: "5m", run: () => [{ n: 1 }, null] as any },
  big: { emits: "Go", poll: "5m", run: () => ({ n: 1n }) as any },
  circle: { emits: "Go", poll: "5m", run: () => { const a: any = {}; a.a = a; return a; } },
  nan: { emits: "Go", poll: "5m", run: () => ({ n: Number.NaN }) },
  half: { emits: "Go", poll: "5m", run: function* () { yield { n: 1 }; throw new Error("broke in the middle"); } },
  throws_text: { emits: "Go", poll: "5m", run: () => { throw "only text"; } },
  unset: { emits: "Done", poll: "5m", run: () => ({ text: { a: undefined, __proto__: null, b: 1 } }) },
  exits: { emits: "Go", poll: "5m", run: () => { console.error("last words"); process.exit(7); } },
  rejects: { emits: "Go", poll: "5m", run: () => { Promise.reject(new Error("nobody looks")); return new Promise<null>(() => {}); } },
  sleeps: { emits: "Go", poll: "5m", run: () => { spawnSync("sleep", ["60"]); return null; } },
  never: { emits: "Go", poll: "5m", run: () => new Promise<null>(() => { setInterval(() => {}, 1000); }) },
  grows: { emits: "Go", poll: "5m", run: async () => { const kept = []; for (;;) { kept.push(Buffer.alloc(10 << 20, 1)); await new Promise((f) => setTimeout(f, 10)); } } },
  too_long: { emits: "Done", poll: "5m", run: () => Array.from({ length: 70 }, () => ({ text: "x".repeat(100000) })) },
  counts: { emits: "Go", poll: "5m", run: () => ({ n: ++calls }) },
  environment: { emits: "Done", poll: "5m", run: () => ({ text: process.env }) },
  snapshot: { emits: "Done", poll: "5m", run: (tick: Tick) => ({ text: tick.snapshot }) },
  no_function: { emits: "Go", poll: "5m", run: 5 as any },
} satisfies SensorRegistry;
"#;

const FILES: [(&str, &str); 4] = [
    ("hooks.ts", HOOKS),
    (
        "lib/numbers.ts",
        "export interface Numbered { n: number }\n\
         export function* numbers(count: number): Generator<Numbered> {\n\
           for (let n = 1; n <= count; n++) yield { n };\n\
         }\n",
    ),
    ("lib/kind.ts", "export { Kind } from './deep/kind';\n"),
    (
        "lib/deep/kind.ts",
        "import { kinds } from '../../plain.js';\nexport const Kind = kinds;\n",
    ),
];

fn hooks(change: impl FnOnce(&mut Config)) -> bench::Bench {
    let mut files = FILES.to_vec();
    files.push(("plain.js", "export const kinds = { Poll: 'poll' };\n"));
    files.push(("lib/words.json", "{ \"one\": \"eins\" }"));
    bench(&files, change)
}

fn standard(config: &mut Config) {
    config.time_limit = LONG;
}

#[tokio::test]
async fn every_kind_of_function_delivers_all_its_events() {
    let bench = hooks(standard);
    let body = request(br#"{"n": 7}"#);
    assert_eq!(bench.gives("plain", body.clone()).await, [json!({"n": 7})]);
    let two = [json!({"n": 1}), json!({"n": 2})];
    assert_eq!(bench.gives("asynchronous", body).await, two);
    let three = [json!({"n": 1}), json!({"n": 2}), json!({"n": 3})];
    assert_eq!(bench.gives("generator", tick()).await, three);
    let stream = bench.gives("stream", tick()).await;
    assert_eq!(stream, [json!({"n": 0}), json!({"n": 1})]);
    assert!(bench.gives("nothing", tick()).await.is_empty());
    assert!(bench.gives("nil", tick()).await.is_empty());
    let unset = bench.gives("unset", tick()).await;
    assert_eq!(unset, [json!({"text": {"b": 1}})]);
}

#[tokio::test]
async fn a_sensor_sees_the_whole_request_and_the_tick() {
    let bench = hooks(standard);
    let seen = bench.gives("request_parts", request(b"\xffraw")).await;
    let expected = json!([
        "POST",
        "/x",
        "push",
        null,
        true,
        "1",
        ["1", "two words"],
        [255, 114, 97, 119],
    ]);
    assert_eq!(seen, [json!({ "text": expected })]);
    let seen = bench.gives("tick_parts", tick()).await;
    let parts = json!([
        "2026-03-01T00:05:00.123Z",
        "2026-03-01T00:00:00.000Z",
        true,
        "poll",
        "eins"
    ]);
    assert_eq!(seen, [json!({ "text": parts })]);
    let bad = bench.raises("plain", request(b"no json")).await;
    assert!(bad.contains("not JSON"), "{bad}");
    let last = [json!({"n": 1}), json!({"n": 2})];
    let seen = bench.gives("snapshot", tick_after(&last)).await;
    assert_eq!(seen, [json!({ "text": last })]);
}

#[tokio::test]
async fn what_breaks_the_rules_is_an_error_that_says_which() {
    let bench = hooks(standard);
    for (sensor, part) in [
        ("number", "gave back a number"),
        ("text", "gave back a string"),
        ("holes", "gave back null in an iterable"),
        ("big", "Go.n is a bigint"),
        ("circle", "holds itself"),
        ("nan", "Go.n is NaN"),
        ("half", "broke in the middle"),
        ("throws_text", "it threw only text"),
        ("too_long", "one call may give 6000000"),
    ] {
        let message = bench.raises(sensor, tick()).await;
        assert!(message.contains(part), "{sensor}: {message}");
    }
    // The stack names the file and the line as they were written.
    let trace = bench.raises("half", tick()).await;
    let line = HOOKS
        .lines()
        .position(|line| line.contains("half:"))
        .unwrap()
        + 1;
    assert!(trace.contains(&format!("hooks.ts:{line}:")), "{trace}");
    assert!(!trace.contains("loopy_sensors.mjs"), "{trace}");
}

#[tokio::test]
async fn the_worker_stays_warm_and_comes_back_when_it_ends() {
    let bench = hooks(|config| config.time_limit = Duration::from_secs(4));
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 2})]);
    let message = bench.raises("exits", tick()).await;
    assert!(message.contains("exit status: 7"), "{message}");
    assert!(message.contains("last words"), "{message}");
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
    let message = bench.raises("rejects", tick()).await;
    assert!(message.contains("nobody looks"), "{message}");
    for sensor in ["sleeps", "never"] {
        let message = bench.raises(sensor, tick()).await;
        assert!(message.contains("within 4 s"), "{message}");
        assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
    }
    assert!(!lives(bench.dir.path(), "sleep").await);
}

#[tokio::test]
async fn a_worker_that_takes_too_much_memory_is_killed() {
    let bench = hooks(|config| config.memory_limit = 200 << 20);
    let message = bench.raises("grows", tick()).await;
    assert!(message.contains("more than the 200 MB"), "{message}");
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
}

#[tokio::test]
async fn its_environment_is_path_and_the_sensors_own() {
    let bench = hooks(standard);
    let seen = bench.gives("environment", tick()).await;
    let names: Vec<&String> = seen[0]["text"].as_object().unwrap().keys().collect();
    // The shell that starts it says where it is.
    let own: Vec<_> = names
        .into_iter()
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(&name.as_str()))
        .collect();
    assert_eq!(own, ["PATH", "TOKEN"]);
    assert_eq!(seen[0]["text"]["TOKEN"], "t");
}

#[tokio::test]
async fn packages_are_found_from_the_project() {
    let code = "import a from 'in-the-project';\nimport b from 'in-sensors';\n\
                export const sensorRegistry = {\n\
                  both: { emits: 'Done', poll: '5m', run: () => ({ text: a + b }) },\n\
                };\n";
    let bench = bench(&[("a.ts", code)], standard);
    let why = bench.unloadable("both", tick()).await;
    assert!(why.contains("in-the-project"), "{why}");
    for (folder, name) in [("", "in-the-project"), ("sensors/", "in-sensors")] {
        let package = format!("{folder}node_modules/{name}");
        let text = format!("module.exports = '{name} ';\n");
        write(bench.dir.path(), &format!("{package}/index.js"), &text);
    }
    // Mended without a restart.
    let seen = bench.gives("both", tick()).await;
    assert_eq!(seen, [json!({"text": "in-the-project in-sensors "})]);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_without_a_call() {
    let mut files = FILES.to_vec();
    files.push(("plain.js", "export const kinds = { Poll: 'poll' };\n"));
    files.push(("lib/words.json", "{ \"one\": \"eins\" }"));
    files.push((
        "broken.ts",
        "throw new Error('not today');\n\
         export const sensorRegistry = { broken: { emits: 'Go', poll: '5m', run() {} } };\n",
    ));
    let bench = bench(&files, standard);
    let found = bench.sensors.load(&bench.manifest).await.unwrap();
    let names: Vec<&String> = found.keys().collect();
    assert_eq!(names, ["broken", "no_function"]);
    assert!(found["broken"].contains("not today"), "{found:?}");
    let why = bench.unloadable("no_function", tick()).await;
    assert!(why.contains("`no_function.run`"), "{why}");
}

#[tokio::test]
async fn a_missing_node_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().as_os_str().to_owned();
    let bench = hooks(|config| config.search_path = path);
    let why = bench.unloadable("counts", tick()).await;
    assert!(why.contains("LOOPY_NODE"), "{why}");
    let bench = hooks(|config| config.node = Some("/no/node/here".into()));
    let why = bench.unloadable("counts", tick()).await;
    assert!(why.contains("/no/node/here"), "{why}");
}

#[tokio::test]
async fn a_separator_of_lines_in_a_request_shifts_no_answer() {
    let bench = hooks(standard);
    let odd = [json!({"n": "a\u{2028}b\u{2029}c\u{85}d\re\nf"})];
    let seen = bench.gives("snapshot", tick_after(&odd)).await;
    assert_eq!(seen, [json!({ "text": odd })]);
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 2})]);
}

#[tokio::test]
async fn a_host_that_answers_another_request_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host");
    let answer = r#"{"number": 7, "response": {"events": []}}"#;
    let script = format!("#!/bin/sh\nwhile read -r line; do echo '{answer}'; done <&3 >&4\n");
    std::fs::write(&host, script).unwrap();
    std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o755)).unwrap();
    let bench = hooks(|config| config.node = Some(host));
    for _ in 0..2 {
        let message = bench.raises("counts", tick()).await;
        assert!(message.contains("answered request 7"), "{message}");
    }
    assert!(!lives(bench.dir.path(), "/bin/sh").await);
}

#[tokio::test]
async fn code_that_somebody_removed_is_written_again() {
    let bench = hooks(standard);
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
    std::fs::remove_dir_all(bench.dir.path().join(".loopy/sensors/code")).unwrap();
    bench.raises("exits", tick()).await;
    assert_eq!(bench.gives("counts", tick()).await, [json!({"n": 1})]);
}

#[tokio::test]
async fn what_the_projects_own_package_says_is_not_seen_where_a_stack_has_it_not() {
    let code = "import a from '#shared';\n\
                export const sensorRegistry = {\n\
                  shared: { emits: 'Done', poll: '5m', run: () => ({ text: a }) },\n\
                };\n";
    let bench = bench(&[("a.ts", code)], standard);
    let project = bench.dir.path();
    write(
        project,
        "package.json",
        r##"{"imports": {"#shared": "./shared.mjs"}}"##,
    );
    write(project, "shared.mjs", "export default 1;\n");
    let why = bench.unloadable("shared", tick()).await;
    assert!(why.contains("#shared"), "{why}");
}

#[tokio::test]
async fn a_syntax_error_names_the_module() {
    let code = "import b from 'brought';\n\
                export const sensorRegistry = {\n\
                  uses: { emits: 'Done', poll: '5m', run: () => ({ text: b }) },\n\
                };\n";
    let bench = bench(&[("uses.ts", code)], standard);
    let package = "sensors/node_modules/brought";
    let about = r#"{"type": "module", "main": "index.js"}"#;
    write(bench.dir.path(), &format!("{package}/package.json"), about);
    write(
        bench.dir.path(),
        &format!("{package}/index.js"),
        "@a class B {}\n",
    );
    let why = bench.unloadable("uses", tick()).await;
    assert!(
        why.contains("sensors/uses.ts.mjs, or what it imports"),
        "{why}"
    );
    assert!(why.contains("SyntaxError"), "{why}");
}
