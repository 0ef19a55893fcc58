//! `loopy runs`.

use crate::support::{Project, json};
use snapbox::str;

/// The example after it ran for Ada, and then failed for a name it cannot take.
fn ran() -> Project {
    let project = Project::hello();
    let trigger = ["trigger", "--event", "Hello", "--field"];
    let fine = project.loopy(&[&trigger[..], &["name=Ada"]].concat());
    fine.assert().code(0);
    project.replace(
        "workflows/greet/compose.md",
        "name={{ event.name }}",
        "exit 1\n: {{ event.name }}",
    );
    let failed = project.loopy(&[&trigger[..], &["name=Ben"]].concat());
    failed.assert().code(3);
    project
}

fn ids(project: &Project, arguments: &[&str]) -> Vec<String> {
    let output = project.loopy(&[&["runs", "list", "--json"], arguments].concat());
    let listed = json(&output.assert().code(0));
    let ids = listed.as_array().unwrap().iter().map(|run| {
        let id = run["id"].as_str().unwrap();
        id.to_owned()
    });
    ids.collect()
}

#[test]
fn where_nothing_has_run_there_is_nothing_to_read() {
    let project = Project::hello();
    let output = project.loopy(&["runs", "list"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: ./.loopy/state.db does not exist: nothing has run in this project yet

hint: name the project's folder with --project, or a deployed stack with --stack

"#]]);
    let output = project.loopy(&["runs", "show", "greet-1"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: ./.loopy/state.db does not exist: nothing has run in this project yet

hint: name the project's folder with --project, or a deployed stack with --stack

"#]]);
    assert!(!project.path().join(".loopy").exists());
}

#[test]
fn runs_are_listed_newest_first() {
    let project = ran();
    let output = project.loopy(&["runs", "list"]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
RUN                      STATUS     EVENT    STARTED               TOOK  COST
greet-[ID]   failed     Hello    [TIME]  [TOOK]  $0.0000
record-[ID]  succeeded  Greeted  [TIME]  [TOOK]  $0.0000
greet-[ID]   succeeded  Hello    [TIME]  [TOOK]  $0.0000

"#]]);

    // To the second, and never later than it was.
    let output = project.loopy(&["runs", "list"]).assert();
    let table = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for (line, run) in table.lines().skip(1).zip(project.runs()) {
        let (second, _) = run["created_at"].as_str().unwrap().split_once('.').unwrap();
        assert!(line.contains(&format!("  {second}Z  ")), "{line}: {run}");
    }

    let all = ids(&project, &[]);
    let workflows: Vec<_> = all.iter().map(|id| id.split('-').next().unwrap()).collect();
    assert_eq!(workflows, ["greet", "record", "greet"]);
    assert_eq!(ids(&project, &["--limit", "2"]), all[..2]);
    assert_eq!(ids(&project, &["--workflow", "record"]), all[1..2]);
    assert_eq!(ids(&project, &["--workflow", "nothing"]), [""; 0]);
    assert_eq!(ids(&project, &["--status", "failed"]), all[..1]);
    assert_eq!(ids(&project, &["--status", "succeeded"]), all[1..]);
    assert_eq!(
        ids(&project, &["--status", "succeeded", "--workflow", "greet"]),
        all[2..]
    );
    assert_eq!(ids(&project, &["--status", "running"]), [""; 0]);

    let output = project
        .loopy(&["runs", "list", "--workflow", "nothing"])
        .assert();
    output.code(0).stdout_eq(str![[r#"
RUN  STATUS  EVENT  STARTED  TOOK  COST

"#]]);
    let output = project
        .loopy(&["runs", "list", "--status", "lost"])
        .assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: invalid value 'lost' for '--status <STATUS>'
  [possible values: running, parked, paused, succeeded, failed, cancelled, denied]

For more information, try '--help'.

"#]]);
}

#[test]
fn a_run_is_told_as_a_story() {
    let project = ran();
    let [failed, record, _] = ids(&project, &[]).try_into().unwrap();
    let show = |id: &str| project.loopy(&["runs", "show", id]).assert().code(0);
    let output = show(&failed);
    output.stderr_eq(str![""]).stdout_eq(str![[r#"
greet-[ID]  failed  [TOOK]  $0.0000
  compose failed (crash): the script ended with code 1: it said nothing
  compose: failed
  measure: skipped (step compose failed)
event     Hello (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]           run started: on Hello (hand-[ID])
  [TIME]  compose  step started: limit 3600 s
  [TIME]  compose  attempt failed: crash: the script ended with code 1: it said nothing
  [TIME]  measure  step skipped: step compose failed
  [TIME]           run failed: step compose failed

"#]]);

    let output = show(&record);
    let story = String::from_utf8_lossy(&output.get_output().stdout);
    assert!(
        story.contains("from      step measure of run greet-"),
        "{story}"
    );
    assert!(
        story.contains(r#"line = "Hello, Ada! (11 letters)""#),
        "{story}"
    );
}

#[test]
fn a_run_is_told_to_machines() {
    let project = ran();
    let [failed, _, _] = ids(&project, &[]).try_into().unwrap();
    let output = project.loopy(&["runs", "show", &failed, "--json"]).assert();
    let run = json(&output.code(0));
    assert_eq!(run["id"], *failed);
    assert_eq!(run["status"], "failed");
    assert_eq!(run["failure"]["step"], "compose");
    assert_eq!(run["steps"]["measure"]["because"], "step compose failed");
    assert_eq!(run["event"]["fields"]["name"], "Ben");
}

#[test]
fn another_folder_can_be_named() {
    let project = ran();
    let place = project.path();
    let elsewhere = Project::of(&[]);
    let output = elsewhere.loopy(&[
        "runs",
        "list",
        "--json",
        "--project",
        place.to_str().unwrap(),
    ]);
    let listed = json(&output.assert().code(0));
    assert_eq!(listed.as_array().unwrap().len(), 3);
}

#[test]
fn a_run_that_does_not_exist_is_said_so() {
    let output = ran().loopy(&["runs", "show", "greet-none"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no run greet-none

hint: `loopy runs list` shows the runs there are

"#]]);
}
