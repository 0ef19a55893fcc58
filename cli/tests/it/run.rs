//! `loopy run`.

use crate::support::{Project, json, until};
use rustix::process::Signal;
use serde_json::json;
use snapbox::{assert_data_eq, str};
use std::net::TcpListener;

#[test]
fn a_webhook_starts_runs_which_can_be_read_meanwhile() {
    let project = Project::hello();
    let serving = project.serve();
    assert_eq!(
        serving.post("/hooks/hello", r#"{"name": "Ada \"x\" $(id)"}"#),
        202
    );
    assert_eq!(serving.post("/hooks/nothing", "{}"), 404);
    project.until_succeeded(2);
    let [record, greet] = project.runs().try_into().unwrap();
    assert_eq!(greet["event"], "Hello");

    let id = record["id"].as_str().unwrap();
    let output = project.loopy(&["runs", "show", id, "--json"]).assert();
    let run = json(&output.code(0));
    let line = json!({ "line": "Hello, Ada \"x\" $(id)! (21 letters)" });
    assert_eq!(run["steps"]["keep"]["output"], line);

    serving.run.until_says(&format!("{id}  run succeeded"));
    let output = serving.stop().code(0);
    output.stdout_eq(str![[r#"
hello	http://127.0.0.1:[PORT]/hooks/hello

"#]]);
}

/// The example `sensors`: one of each language.
#[test]
fn sensors_in_three_languages_serve_beside_each_other() {
    let project = Project::example("sensors");
    project.write("inbox/letter", "Dear all\n\nYours\n");
    let serving = project.serve();
    let order = r#"{"lines": [{"item": "tea", "count": 2}, {"item": "cup", "count": 0}, {"item": "pot", "count": 1}]}"#;
    assert_eq!(serving.post("/hooks/orders", order), 202);
    assert_eq!(serving.post("/hooks/stock", "item=tea&left=3"), 202);
    assert_eq!(serving.post("/hooks/stock", "item=cup&left=30"), 202);
    project.until_succeeded(4);
    // The letter is still there in the next turn.
    project.write("inbox/bill", "");
    project.until_succeeded(5);
    let mut lines: Vec<String> = project
        .runs()
        .iter()
        .map(|run| {
            let run = project.run(run["id"].as_str().unwrap());
            let mut steps = run["steps"].as_object().unwrap().values();
            let step = steps.next().unwrap();
            step["output"]["line"].as_str().unwrap().to_owned()
        })
        .collect();
    lines.sort();
    let expected = [
        "1 of pot packed",
        "2 of tea packed",
        "bill has 0 lines",
        "letter has 3 lines",
        "only 3 of tea left",
    ];
    assert_eq!(lines, expected);
    serving.stop().code(0);
}

#[test]
fn it_says_what_it_serves_and_that_it_ends() {
    for signal in [Signal::TERM, Signal::INT] {
        let project = Project::hello();
        let serving = project.serve();
        serving.run.signal(signal);
        let output = serving.run.end().code(0);
        output
            .stdout_eq(str![[r#"
hello	http://127.0.0.1:[PORT]/hooks/hello

"#]])
            .stderr_eq(str![[r#"
serving . on http://127.0.0.1:[PORT]
stopping; running steps go on, and their results are taken next time

"#]]);
    }
}

#[test]
fn a_project_is_served_by_one_process() {
    let project = Project::hello();
    let serving = project.serve();
    let second = project.loopy(&["run", "--listen", "127.0.0.1:0"]).assert();
    second.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: another process serves [DIR]/project already; stop it first

hint: `loopy trigger` hands an event to the process that serves, `loopy runs` reads what it does

"#]]);
    serving.stop().code(0);
}

#[test]
fn a_trigger_hands_its_event_to_the_process_that_serves() {
    let project = Project::hello();
    let serving = project.serve();
    let trigger = ["trigger", "--event", "Hello", "--field", "name=Ada"];
    let output = project.loopy(&trigger).assert().code(0);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    let handed = "another process serves this project; handing it the event\n";
    assert!(said.starts_with(handed), "{said}");
    assert!(said.ends_with("  run succeeded\n"), "{said}");
    output.stdout_eq(str![[r#"
greet-[ID]  succeeded  [TOOK]  $0.0000
  compose: succeeded
    greeting = "Hello, Ada!"
  measure: succeeded
    length = 11

record-[ID]  succeeded  [TOOK]  $0.0000
  keep: succeeded
    line = "Hello, Ada! (11 letters)"

"#]]);

    // What serves goes on with what it began with.
    project.replace("workflows/record/keep.md", "letters", "signs");
    let output = project.loopy(&trigger).assert().code(0);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    assert!(said.contains("as it was before its last change"), "{said}");
    let shown = String::from_utf8_lossy(&output.get_output().stdout);
    assert!(shown.contains("(11 letters)"), "{shown}");

    // Both processes tell of it.
    let runs = project.runs();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let id = run["id"].as_str().unwrap();
        serving.run.until_says(&format!("{id}  run succeeded"));
    }
    serving.stop().code(0);
}

#[test]
fn an_event_that_starts_nothing_where_it_is_handed_to_is_refused() {
    let project = Project::hello();
    project.replace("registry.yml", "events:", "events:\n  Parted: {}");
    let serving = project.serve();
    project.write(
        "workflows/part/wave.md",
        "---\non: Parted\nagent: Shell\n---\ntrue\n",
    );
    let output = project.loopy(&["trigger", "--event", "Parted"]).assert();
    let output = output.code(2).stdout_eq(str![""]);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    let (_, said) = said.split_once("error: ").unwrap();
    assert_data_eq!(
        said,
        str![[r#"
no workflow starts on the event `Parted` in the process that serves this project; it serves the project as it was before its last change

hint: stop it, and start `loopy run` again

"#]]
    );

    // One that it does not even know.
    project.replace("registry.yml", "Parted", "Left");
    project.replace("workflows/part/wave.md", "Parted", "Left");
    let output = project.loopy(&["trigger", "--event", "Left"]).assert();
    let output = output.code(2).stdout_eq(str![""]);
    let said = String::from_utf8_lossy(&output.get_output().stderr);
    let (_, said) = said.split_once("error: ").unwrap();
    assert_data_eq!(
        said,
        str![[r#"
no workflow starts on the event `Left` in the process that serves this project; it serves the project as it was before its last change

hint: stop it, and start `loopy run` again

"#]]
    );
    assert_eq!(project.runs().len(), 0);
    serving.stop().code(0);
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Project::hello()
        .loopy(&["run", "--listen", &address])
        .assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: cannot listen on 127.0.0.1:[PORT]: Address already in use (os error 98)

hint: pass --listen with another address, as in --listen 127.0.0.1:[PORT]

"#]]);
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    let output = Project::hello()
        .loopy(&["run", "--listen", "8000"])
        .assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: invalid value '8000' for '--listen <ADDRESS>': invalid socket address syntax

For more information, try '--help'.

"#]]);
}

#[test]
fn a_project_with_errors_is_not_served() {
    let project = Project::hello();
    project.replace("registry.yml", "length: int", "length: integer");
    let output = project.loopy(&["run", "--listen", "127.0.0.1:0"]).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error LOOPY-E201 registry.yml:14:37: field `length`: `integer` is not a type
  14 |   Greeted: { greeting: str, length: integer }
     |                                     ^^^^^^^
  hint: did you mean `int`?

"#]]);
}

#[test]
fn strangers_are_not_let_in_by_accident() {
    let project = Project::hello();
    project.replace("sensors/hello.py", ", verify=\"none\"", "");
    let output = project.loopy(&["run", "--listen", "0.0.0.0:0"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
warning LOOPY-W401 sensors/hello.py:10:5: anyone can post to `/hooks/hello`: sensor `hello` verifies no signature
  10 | def hello(request: Request) -> Hello:
     |     ^^^^^
  hint: name the scheme, such as verify="github"; verify="none" opts out, and deploy refuses what says nothing
error: sensor `hello` would take deliveries from anyone, and 0.0.0.0:0 can be reached from outside; give `verify=` a scheme (or "none" to allow it)

"#]]);
}

#[test]
fn a_sensor_that_fails_is_told_of_and_starts_nothing() {
    let project = Project::hello();
    project.replace(
        "sensors/hello.py",
        "return Hello(",
        "raise ValueError('no name') or Hello(",
    );
    let serving = project.serve();
    assert_eq!(serving.post("/hooks/hello", "{}"), 202);
    until("the sensor's failure", || {
        serving.run.stderr().contains("no name").then_some(())
    });
    assert_eq!(project.runs().len(), 0);
    serving.stop().code(0);
}
