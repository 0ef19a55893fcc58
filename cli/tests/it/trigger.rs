//! `loopy trigger`.

use crate::support::{Project, SHELL, json};
use loopy_testkit::daytona::{Daytona, StandInOptions};
use serde_json::json;
use snapbox::str;
use std::fs;
use std::net::TcpListener;

/// A project whose one step is this script.
fn one(events: &str, front: &str, script: &str) -> Project {
    Project::of(&[
        ("registry.yml", &format!("{SHELL}events:\n{events}")),
        (
            "workflows/work/first.md",
            &format!("---\nagent: Shell\n{front}\n---\n{script}\n"),
        ),
    ])
}

#[test]
fn people_see_each_run_with_what_its_steps_put_out() {
    let project = Project::hello();
    let output = project.loopy(&["trigger", "--event", "Hello", "--field", "name=Ada"]);
    let output = output.assert().code(0).stdout_eq(str![[r#"
greet-[ID]  succeeded  [TOOK]  $0.0000
  compose: succeeded
    greeting = "Hello, Ada!"
  measure: succeeded
    length = 11

record-[ID]  succeeded  [TOOK]  $0.0000
  keep: succeeded
    line = "Hello, Ada! (11 letters)"

"#]]);
    output.stderr_eq(str![[r#"
greet-[ID]  run started: on Hello (hand-[ID])
greet-[ID]/compose  step started: limit 3600 s
greet-[ID]/compose  attempt succeeded
greet-[ID]/compose  step succeeded
greet-[ID]/measure  step started: limit 3600 s
greet-[ID]/measure  attempt succeeded
greet-[ID]/measure  event emitted: Greeted (evt-[ID])
greet-[ID]/measure  step succeeded
greet-[ID]  run succeeded
record-[ID]  run started: on Greeted (evt-[ID])
record-[ID]/keep  step started: limit 3600 s
record-[ID]/keep  attempt succeeded
record-[ID]/keep  step succeeded
record-[ID]  run succeeded

"#]]);
}

#[test]
fn machines_get_one_document_with_everything() {
    let project = Project::hello();
    let output = project.loopy(&[
        "trigger",
        ".",
        "--json",
        "--event",
        "Hello",
        "--fields",
        r#"{"name": "Ada"}"#,
    ]);
    let document = json(&output.assert().code(0));
    let keys: Vec<_> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["dead_letters", "event", "outcomes", "runs"]);
    assert_eq!(document["outcomes"]["greet"]["decision"]["kind"], "started");
    assert_eq!(document["dead_letters"], json!([]));
    let event = &document["event"];
    assert_eq!(event["name"], "Hello");
    assert_eq!(event["fields"], json!({ "name": "Ada" }));
    assert_eq!(event["source"], json!({ "kind": "hand" }));

    let [greet, record] = document["runs"].as_array().unwrap().as_slice() else {
        panic!("{document:#}");
    };
    assert_eq!(greet["workflow"], "greet");
    assert_eq!(greet["status"], "succeeded");
    assert_eq!(greet["failure"], json!(null));
    assert_eq!(greet["event"], *event);
    assert_eq!(
        greet["steps"]["compose"]["output"],
        json!({ "greeting": "Hello, Ada!" })
    );
    assert_eq!(greet["steps"]["measure"]["output"], json!({ "length": 11 }));
    assert_eq!(
        greet["steps"]["measure"]["attempts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let history = greet["history"].as_array().unwrap().iter();
    let kinds: Vec<_> = history.map(|line| line["kind"].as_str().unwrap()).collect();
    for kind in ["run_started", "step_succeeded", "run_succeeded"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }

    assert_eq!(record["workflow"], "record");
    assert_eq!(record["event"]["cascade"], event["id"]);
    assert_eq!(record["event"]["source"]["run"], greet["id"]);
    let line = json!({ "line": "Hello, Ada! (11 letters)" });
    assert_eq!(record["steps"]["keep"]["output"], line);
}

#[test]
fn text_arrives_as_it_was_given() {
    let project = one(
        "  Said: { text: str, file: str }",
        "on: Said",
        "text={{ event.text }}\nprintf '%s' \"$text\" > \"{{ event.file }}\"",
    );
    let file = project.outside("said");
    let to = format!("file={}", file.display());
    for text in [
        "it's \"quoted\" `twice` \\n",
        "$(touch hurt) ${HOME} $HOME; touch hurt && true | false > hurt",
        "two\nlines\n\nand\ttabs",
        "{{ event.file }} {# #} %s %%",
        "naïve café, 日本語, 🦀, \u{202e}reversed",
        "a=b=c",
        "123",
        "null",
        "",
        "-n",
    ] {
        let field = format!("text={text}");
        let output = project.loopy(&[
            "trigger", "--event", "Said", "--field", &field, "--field", &to, "--json",
        ]);
        let document = json(&output.assert().code(0));
        assert_eq!(document["event"]["fields"]["text"], text);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn fields_of_other_types_are_read_as_json() {
    let project = one(
        "  Sum: { count: int, names: 'list[str]', on: bool, note: 'str?' }",
        "on: Sum\noutput: { count: int, names: 'list[str]', on: bool }",
        r#"printf '{"count": %s, "names": %s, "on": %s}' {{ event.count }} "{{ event.names }}" {{ event.on }} > "$LOOPY_OUTPUT""#,
    );
    let output = project.loopy(&[
        "trigger",
        "--json",
        "--event",
        "Sum",
        "--fields",
        r#"{"on": true}"#,
        "--field",
        "count=7",
        "--field",
        r#"names=["a b", "c"]"#,
    ]);
    let document = json(&output.assert().code(0));
    let output = &document["runs"][0]["steps"]["first"]["output"];
    assert_eq!(
        *output,
        json!({ "count": 7, "names": ["a b", "c"], "on": true })
    );

    for (field, why) in [
        (
            "count=many",
            str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Sum`
  3 | on: Sum
    |     ^^^
  hint: only `loopy trigger` can start this workflow
error: --field count=many: not JSON: expected value at line 1 column 1

hint: as in --field name=Ada or --field count=3

"#]],
        ),
        (
            "count=1.5",
            str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Sum`
  3 | on: Sum
    |     ^^^
  hint: only `loopy trigger` can start this workflow
error: event `Sum` breaks its contract: "names" is a required property; /count: 1.5 is not of type "integer"

hint: give each field with --field NAME=VALUE

"#]],
        ),
        (
            "names=a",
            str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Sum`
  3 | on: Sum
    |     ^^^
  hint: only `loopy trigger` can start this workflow
error: --field names=a: not JSON: expected value at line 1 column 1

hint: as in --field name=Ada or --field count=3

"#]],
        ),
        (
            r#"names=["a", 1]"#,
            str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Sum`
  3 | on: Sum
    |     ^^^
  hint: only `loopy trigger` can start this workflow
error: event `Sum` breaks its contract: "count" is a required property; /names/1: 1 is not of type "string"

hint: give each field with --field NAME=VALUE

"#]],
        ),
    ] {
        let output = project.loopy(&[
            "trigger",
            "--event",
            "Sum",
            "--fields",
            r#"{"on": true, "note": "-"}"#,
            "--field",
            field,
        ]);
        output.assert().code(2).stdout_eq(str![""]).stderr_eq(why);
    }
}

#[test]
fn an_event_must_keep_its_contract() {
    let project = Project::hello();
    let refused = |arguments: &[&str]| {
        let output = project.loopy(&[&["trigger"], arguments].concat()).assert();
        output.code(2).stdout_eq(str![""])
    };
    refused(&["--event", "Hello"]).stderr_eq(str![[r#"
error: event `Hello` breaks its contract: "name" is a required property

hint: give each field with --field NAME=VALUE

"#]]);
    refused(&[
        "--event",
        "Hello",
        "--fields",
        r#"{"name": "Ada", "nom": "Ada"}"#,
    ])
    .stderr_eq(str![[r#"
error: event `Hello` breaks its contract: Additional properties are not allowed ('nom' was unexpected)

hint: give each field with --field NAME=VALUE

"#]]);
    refused(&["--event", "Hallo", "--field", "name=Ada"]).stderr_eq(str![[r#"
error: the project has no event `Hallo`; it has Greeted, Hello

"#]]);
    refused(&["--event", "Hello", "--field", "name"]).stderr_eq(str![[r#"
error: --field name: a name, `=` and a value are wanted

hint: as in --field name=Ada or --field count=3

"#]]);
    refused(&["--event", "Hello", "--fields", "{name: Ada}"]).stderr_eq(str![[r#"
error: --fields {name: Ada}: not a JSON object: key must be a string at line 1 column 2

hint: as in --field name=Ada or --field count=3

"#]]);
    refused(&["--event", "Hello", "--fields", r#"["Ada"]"#]).stderr_eq(str![[r#"
error: --fields ["Ada"]: not a JSON object: invalid type: sequence, expected a map at line 1 column 0

hint: as in --field name=Ada or --field count=3

"#]]);
    refused(&[
        "--event", "Hello", "--field", "name=Ada", "--field", "name=Ben",
    ])
    .stderr_eq(str![[r#"
error: --field name=Ben: the field `name` is given twice

hint: as in --field name=Ada or --field count=3

"#]]);
    refused(&[
        "--event",
        "Hello",
        "--fields",
        r#"{"name": "Ada"}"#,
        "--field",
        "name=Ben",
    ])
    .stderr_eq(str![[r#"
error: --field name=Ben: the field `name` is given twice

hint: as in --field name=Ada or --field count=3

"#]]);
    refused(&[]).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  --event <NAME>

Usage: loopy trigger --event <NAME> [PROJECT]

For more information, try '--help'.

"#]]);
    assert!(!project.path().join(".loopy").exists());
}

#[test]
fn an_event_that_starts_nothing_is_refused() {
    let project = one("  Heard: {}\n  Unheard: {}", "on: Heard", "true");
    let output = project.loopy(&["trigger", "--event", "Unheard"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
warning LOOPY-W504 registry.yml:9:3: nothing emits the event `Unheard`, and no workflow waits for it
  9 |   Unheard: {}
    |   ^^^^^^^
  hint: write on: Unheard in the first step of a workflow, or remove it
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Heard`
  3 | on: Heard
    |     ^^^^^
  hint: only `loopy trigger` can start this workflow
error: no workflow of this project starts on the event `Unheard`

hint: a step with `on: Unheard` starts one

"#]]);
}

#[test]
fn a_project_with_errors_runs_nothing() {
    let project = one("  Go: { a: nothing }", "on: Go", "true");
    let output = project.loopy(&["trigger", "--event", "Go"]).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error LOOPY-E201 registry.yml:8:12: field `a`: `nothing` is not a type
  8 |   Go: { a: nothing }
    |            ^^^^^^^
  hint: types are str, int, float, bool, url, id, datetime, json, enum[a, b], list[T], T? and nested maps of them

"#]]);
    assert!(!project.path().join(".loopy").exists());
}

#[test]
fn a_folder_that_is_not_there_is_wrong_usage() {
    let project = Project::hello();
    let output = project.loopy(&["trigger", "nowhere", "--event", "Hello"]);
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
error: cannot read the project nowhere: No such file or directory (os error 2)

hint: give the folder that holds registry.yml

"#]]);
}

#[test]
fn a_step_that_fails_ends_its_run_with_the_reason() {
    let project = one("  Go: {}", "on: Go", "echo 'no such luck' >&2\nexit 7");
    project.write(
        "workflows/work/second.md",
        "---\nafter: first\nagent: Shell\n---\ntouch ran\n",
    );
    let output = project.loopy(&["trigger", "--event", "Go"]).assert();
    let output = output.code(3).stdout_eq(str![[r#"
work-[ID]  failed  [TOOK]  $0.0000
  first failed (crash): the script ended with code 7: no such luck
  first: failed
  second: skipped (step first failed)

"#]]);
    output.stderr_eq(str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Go`
  3 | on: Go
    |     ^^
  hint: only `loopy trigger` can start this workflow
work-[ID]  run started: on Go (hand-[ID])
work-[ID]/first  step started: limit 3600 s
work-[ID]/first  attempt failed: crash: the script ended with code 7: no such luck
work-[ID]/second  step skipped: step first failed
work-[ID]  run failed: step first failed

"#]]);

    let document = json(
        &project
            .loopy(&["trigger", "--event", "Go", "--json"])
            .assert()
            .code(3),
    );
    let run = &document["runs"][0];
    assert_eq!(run["status"], "failed");
    assert_eq!(run["failure"]["step"], "first");
    assert_eq!(run["failure"]["class"], "crash");
    assert_eq!(
        run["steps"]["first"]["failure"]["message"],
        run["failure"]["message"]
    );
    assert_eq!(run["steps"]["second"]["state"], "skipped");
    assert_eq!(run["steps"]["second"]["attempts"], json!([]));
}

#[test]
fn an_output_that_breaks_its_schema_fails_the_step() {
    let project = one(
        "  Go: {}",
        "on: Go\noutput: { count: int }",
        r#"echo '{"count": "three"}' > "$LOOPY_OUTPUT""#,
    );
    let output = project.loopy(&["trigger", "--event", "Go"]).assert();
    output.code(3).stdout_eq(str![[r#"
work-[ID]  failed  [TOOK]  $0.0000
  first failed (output): what the script wrote to $LOOPY_OUTPUT breaks the step's contract: /output/count: "three" is not of type "integer"
  first: failed

"#]]);
}

#[test]
fn one_failed_run_of_a_cascade_fails_the_command() {
    let project = Project::hello();
    project.write(
        "workflows/record/keep.md",
        "---\non: Greeted\nagent: Shell\n---\nexit 1\n",
    );
    let output = project.loopy(&["trigger", "--event", "Hello", "--field", "name=Ada"]);
    output.assert().code(3).stdout_eq(str![[r#"
greet-[ID]  succeeded  [TOOK]  $0.0000
  compose: succeeded
    greeting = "Hello, Ada!"
  measure: succeeded
    length = 11

record-[ID]  failed  [TOOK]  $0.0000
  keep failed (crash): the script ended with code 1: it said nothing
  keep: failed

"#]]);
}

#[test]
fn a_sandbox_that_only_a_stack_has_is_named() {
    let project = Project::hello();
    project.replace("registry.yml", "provider: local", "provider: fargate");
    let output = project.loopy(&["trigger", "--event", "Hello", "--field", "name=Ada"]);
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
error: sandbox `Here` is a task of an AWS account, and this is one machine; deploy the project, or use `provider: docker` or `provider: local`

"#]]);
}

#[test]
fn a_sandbox_on_another_machine_needs_a_way_back_and_a_runner() {
    let project = Project::hello();
    project.replace("registry.yml", "provider: local", "provider: daytona");
    let trigger = ["trigger", "--event", "Hello", "--field", "name=Ada"];
    let output = project.loopy(&trigger).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: sandbox `Here` is on another machine and has to reach this one; give the public URL of this listener, or use `provider: local`

hint: pass --public-url, as in --public-url https://loopy.example.com

"#]]);

    let no_runner = str![[r#"
error: sandbox `Here` is on another machine and needs the binary loopy-runner for x86-64 Linux; say where it is, or use `provider: local`

hint: `cargo xtask dist` builds it; pass --runner with the file, or set LOOPY_RUNNER

"#]];
    let url = "https://loopy.example.com";
    let output = project.loopy(&[&trigger[..], &["--public-url", url]].concat());
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(no_runner.clone());
    let output = project.loopy(&trigger).env("LOOPY_PUBLIC_URL", url);
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(no_runner);
}

#[test]
fn daytona_without_a_key_is_refused() {
    let dist = std::env::var("LOOPY_TEST_DIST");
    let dist = dist.expect("run `cargo xtask test`, which prepares LOOPY_TEST_DIST");
    let project = Project::hello();
    project.replace("registry.yml", "provider: local", "provider: daytona");
    let trigger = ["trigger", "--event", "Hello", "--field", "name=Ada"];
    let url = ["--public-url", "https://loopy.example.com"];
    let runner = format!("{dist}/loopy-runner");
    let output = project.loopy(&[&trigger[..], &url, &["--runner", &runner]].concat());
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
error: sandbox `Here` is at Daytona and DAYTONA_API_KEY is not set; set it in the environment or in loopy.env, or use `provider: local`

"#]]);
}

#[test]
fn a_runner_that_is_no_file_is_refused() {
    let project = Project::hello();
    project.replace("registry.yml", "provider: local", "provider: daytona");
    let trigger = ["trigger", "--event", "Hello", "--field", "name=Ada"];
    let url = ["--public-url", "https://loopy.example.com"];
    for (runner, why) in [
        (
            "nowhere",
            str![[r#"
error: cannot start: the runner nowhere: No such file or directory (os error 2)

"#]],
        ),
        (
            "sensors",
            str![[r#"
error: cannot start: the runner sensors: it is not a file

"#]],
        ),
    ] {
        let output = project.loopy(&[&trigger[..], &url, &["--runner", runner]].concat());
        output.assert().code(2).stdout_eq(str![""]).stderr_eq(why);
    }
}

#[test]
fn steps_run_in_a_sandbox_on_another_machine() {
    let dist = std::env::var("LOOPY_TEST_DIST");
    let dist = dist.expect("run `cargo xtask test`, which prepares LOOPY_TEST_DIST");
    let daytona = Daytona::start(StandInOptions::default()).unwrap();
    let project = Project::hello();
    project.replace("registry.yml", "provider: local", "provider: daytona");

    // Free a moment ago, and nobody asks for a certain port here.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = project
        .loopy(&[
            "trigger",
            "--event",
            "Hello",
            "--field",
            "name=Ada",
            "--listen",
            &address.to_string(),
            "--public-url",
            &format!("http://{address}"),
            "--runner",
            &format!("{dist}/loopy-runner"),
        ])
        .env("DAYTONA_API_URL", daytona.url())
        .env("DAYTONA_API_KEY", daytona.key())
        .assert();
    let output = output.code(0).stdout_eq(str![[r#"
greet-[ID]  succeeded  [TOOK]  $0.0000
  compose: succeeded
    greeting = "Hello, Ada!"
  measure: succeeded
    length = 11

record-[ID]  succeeded  [TOOK]  $0.0000
  keep: succeeded
    line = "Hello, Ada! (11 letters)"

"#]]);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    assert!(!said.contains(daytona.key()), "{said}");
    assert!(daytona.sandboxes().is_empty(), "a sandbox was left");
    let requests = daytona.requests();
    let made = requests
        .iter()
        .filter(|request| request.method == "POST" && request.path == "/api/sandbox");
    assert_eq!(made.count(), 3);
}
