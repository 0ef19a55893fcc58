//! `loopy events`, and `loopy dlq`: what became of what came in.

use crate::support::{Project, json, until};
use serde_json::{Value, json};
use snapbox::str;

/// The newest event of this name.
fn newest(project: &Project, name: &str) -> Value {
    let list = ["events", "list", "--json", "--event", name, "--limit", "1"];
    json(&project.loopy(&list).assert().code(0))[0].clone()
}

fn id(record: &Value) -> String {
    record["event"]["id"].as_str().unwrap().to_owned()
}

#[test]
fn where_nothing_has_run_there_are_no_events() {
    let project = Project::hello();
    for command in [
        &["events", "list"][..],
        &["events", "show", "x"],
        &["dlq", "list"],
        &["dlq", "redrive", "--all"],
        &["runs", "cancel", "x"],
    ] {
        let output = project.loopy(command).assert();
        output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: ./.loopy/state.db does not exist: nothing has run in this project yet

hint: name the project's folder with --project, or a deployed stack with --stack

"#]]);
    }
    assert!(!project.path().join(".loopy").exists());
}

#[test]
fn each_event_tells_what_every_workflow_did_with_it() {
    let project = Project::scripts(
        "events:\n  Go: { size: int }\n  Done: {}\n",
        &[
            (
                "all/first",
                "on: Go\nemits: Done",
                r#"echo '{"emits": {"Done": {}}}' > "$LOOPY_OUTPUT""#,
            ),
            (
                "big/first",
                "on: { event: Go, when: event.size > 3 }",
                "true",
            ),
        ],
    );
    let small = project.trigger("Go", r#"{"size": 2}"#).assert().code(0);
    let said = String::from_utf8_lossy(&small.get_output().stderr).into_owned();
    assert!(
        said.contains("big  event filtered: `when: event.size > 3` does not hold"),
        "{said}"
    );
    project.trigger("Go", r#"{"size": 4}"#).assert().code(0);

    let output = project.loopy(&["events", "list"]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
EVENT                          NAME  CAME                  BECAME
evt-[ID]   Done  [TIME]  nothing: no workflow starts on it
hand-[ID]  Go    [TIME]  started all, started big
evt-[ID]   Done  [TIME]  nothing: no workflow starts on it
hand-[ID]  Go    [TIME]  started all, filtered big

"#]]);
    let all = json(
        &project
            .loopy(&["events", "list", "--json"])
            .assert()
            .code(0),
    );
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 4);
    let small = all
        .iter()
        .find(|record| record["event"]["fields"]["size"] == 2)
        .unwrap();
    assert_eq!(small["outcomes"]["big"]["decision"]["kind"], "filtered");
    let show = |id: &str| project.loopy(&["events", "show", id]).assert().code(0);
    show(&id(small)).stdout_eq(str![[r#"
hand-[ID]  Go
  size = 2
from      a person
made      [TIME]
cascade   hand-[ID], depth 0
became
  [TIME]  all  started: started all-[ID]
  [TIME]  big  filtered: `when: event.size > 3` does not hold

"#]]);
    // What no workflow starts on is known all the same.
    let unheard = newest(&project, "Done");
    show(&id(&unheard)).stdout_eq(str![[r#"
evt-[ID]  Done
from      step first of run all-[ID]
made      [TIME]
cascade   hand-[ID], depth 1
became
  nothing: no workflow starts on it

"#]]);
    let output = project.loopy(&["events", "show", &id(&unheard), "--json"]);
    let shown = json(&output.assert().code(0));
    assert_eq!(shown["event"], unheard["event"]);
    assert_eq!(shown["outcomes"], json!({}));
    assert_eq!(shown["queued_until"], Value::Null);
    assert_eq!(shown["dead_letters"], json!([]));

    let output = project.loopy(&["events", "show", "nothing"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no event nothing

hint: `loopy events list` shows the events there are

"#]]);
}

#[test]
fn events_settle_before_the_last_of_them_starts_a_run() {
    let project = Project::scripts(
        "events:\n  Go: { n: int }\n",
        &[(
            "work/first",
            "on: { event: Go, debounce: 8s }\noutput: { n: int }",
            r#"printf '{"n": %s}' "{{ event.n }}" > "$LOOPY_OUTPUT""#,
        )],
    );
    let serving = project.serve();
    let first = project.trigger("Go", r#"{"n": 1}"#).spawn();
    until("the first to wait", || {
        let record = project
            .loopy(&["events", "list", "--json"])
            .assert()
            .code(0);
        (json(&record)[0]["outcomes"]["work"]["decision"]["kind"] == "waiting").then_some(())
    });
    let superseded = newest(&project, "Go");
    let output = project.trigger("Go", r#"{"n": 2}"#).assert().code(0);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains("n = 2"), "{text}");
    first.end().code(0).stdout_eq(str![""]);
    assert_eq!(project.runs().len(), 1);
    let output = project
        .loopy(&["events", "show", &id(&superseded)])
        .assert();
    output.code(0).stdout_eq(str![[r#"
hand-[ID]  Go
  n = 1
from      a person
made      [TIME]
cascade   hand-[ID], depth 0
became
  [TIME]  work  superseded: hand-[ID] came after it and counts instead

"#]]);
    serving.stop().code(0);
}

/// A project that may run once a day.
fn once_a_day() -> Project {
    Project::scripts(
        "events:\n  Go: {}\nlimits:\n  day: { runs: 1 }\n",
        &[("work/first", "on: Go", "true")],
    )
}

#[test]
fn an_event_that_a_limit_refuses_says_so() {
    let project = once_a_day();
    project.trigger("Go", "{}").assert().code(0);
    let output = project.trigger("Go", "{}").assert();
    output.code(4).stdout_eq(str![""]).stderr_eq(str![[r#"
warning LOOPY-W501 workflows/work/first.md:3:5: no sensor and no step makes the event `Go`
  3 | on: Go
    |     ^^
  hint: only `loopy trigger` can start this workflow
work  event refused: the limit of 1 runs on one day is reached

"#]]);
    let output = project
        .loopy(&["events", "show", &id(&newest(&project, "Go"))])
        .assert();
    output.code(0).stdout_eq(str![[r#"
hand-[ID]  Go
from      a person
made      [TIME]
cascade   hand-[ID], depth 0
became
  [TIME]  work  refused: the limit of 1 runs on one day is reached

"#]]);
    assert_eq!(project.runs().len(), 1);
}

#[test]
fn what_was_given_up_is_shown_and_sent_again() {
    let project = once_a_day();
    project.trigger("Go", "{}").assert().code(0);
    let first = project.until_run("work", "succeeded");
    let empty = project.loopy(&["dlq", "list", "--json"]).assert().code(0);
    assert_eq!(json(&empty), json!([]));

    // A rerun counts, and the limit is reached.
    let serving = project.serve();
    let output = project
        .loopy(&["runs", "rerun", &first, "--latest", "--by", "Ada"])
        .assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error: not done: the limit of 1 runs on one day is reached

"#]]);
    let output = project.loopy(&["dlq", "list"]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
LETTER  QUEUE   GIVEN UP              ABOUT                        REASON
1       events  [TIME]  again work-[ID]  the limit of 1 runs on one day is reached

"#]]);
    let letters = json(&project.loopy(&["dlq", "list", "--json"]).assert().code(0));
    assert_eq!(letters[0]["message"]["kind"], "again");
    let letter = letters[0]["id"].as_str().unwrap();
    let output = project.loopy(&["dlq", "show", letter]).assert();
    output.code(0).stdout_eq(str![[r#"
1  events  [TIME]
reason    the limit of 1 runs on one day is reached
message
{
  "by": "Ada",
  "edits": {
    "event": {},
    "outputs": {}
  },
  "id": "work-[ID]",
  "kind": "again",
  "latest": true,
  "original": "work-[ID]"
}

"#]]);
    let export = project.loopy(&["runs", "export", &first]).assert().code(0);
    assert_eq!(json(&export)["dead_letters"][0]["id"], letter);

    // Sent again, it is given up again: nothing has changed.
    let output = project.loopy(&["dlq", "redrive", letter]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
1

"#]]);
    until("it to come back", || {
        let letters = json(&project.loopy(&["dlq", "list", "--json"]).assert().code(0));
        (letters[0]["id"] == "2").then_some(())
    });
    serving.stop().code(0);

    // With another limit it is taken by whoever serves next.
    project.replace("registry.yml", "runs: 1", "runs: 9");
    let output = project.loopy(&["dlq", "redrive", "--all"]).assert();
    output
        .code(0)
        .stdout_eq(str![[r#"
2

"#]])
        .stderr_eq(str![[r#"
nothing serves this project; what was sent again waits until something does

hint: `loopy run` serves it

"#]]);
    let serving = project.serve();
    project.until_succeeded(2);
    serving.stop().code(0);
    for command in [
        &["dlq", "redrive", "1"][..],
        &["dlq", "redrive", "nothing"],
        &["dlq", "show", "1"],
    ] {
        let output = project.loopy(command).assert();
        output.code(2).stdout_eq(str![""]);
    }
    let output = project.loopy(&["dlq", "redrive"]).assert();
    output.code(2).stderr_eq(str![[r#"
error: the following required arguments were not provided:
  <ID|--all>

Usage: loopy dlq redrive <ID|--all>

For more information, try '--help'.

"#]]);
}
