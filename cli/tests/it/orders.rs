//! What people ask of runs: `loopy runs cancel`, `pause`, `resume`, `approve`,
//! `deny`, `rerun`, `fork` and `export`.

use crate::support::{Project, json, until};
use serde_json::json;
use snapbox::str;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Whether the process is there and has not ended.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The id of a run that a command printed.
fn printed(output: &snapbox::cmd::OutputAssert) -> String {
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn cancel_ends_a_running_step_with_all_its_processes() {
    let project = Project::scripts(
        "events:\n  Go: { pids: str }\n",
        &[
            (
                "work/first",
                "on: Go",
                "sleep 1001 &\necho $$ $! > \"{{ event.pids }}.part\"\n\
                 mv \"{{ event.pids }}.part\" \"{{ event.pids }}\"\nwait",
            ),
            ("work/second", "after: first", "true"),
        ],
    );
    let serving = project.serve();
    let file = project.outside("pids");
    let trigger = project
        .trigger("Go", &json!({ "pids": file }).to_string())
        .spawn();
    until("the step", || file.exists().then_some(()));
    let pids = read(&file);
    assert!(pids.split_whitespace().all(lives), "{pids}");
    let id = project.until_run("work", "running");

    let cancel = ["runs", "cancel", &id, "--by", "Ada"];
    let output = project.loopy(&[&cancel[..], &["--because", "wrong branch"]].concat());
    output
        .assert()
        .code(0)
        .stderr_eq(str![""])
        .stdout_eq(str![[r#"
work-[ID]  cancelled

"#]]);
    until("the processes to end", || {
        (!pids.split_whitespace().any(lives)).then_some(())
    });
    trigger.end().code(3).stdout_eq(str![[r#"
work-[ID]  cancelled  [TOOK]  $0.0000
  cancelled by Ada: wrong branch
  first: cancelled (cancelled by Ada: wrong branch)
  second: skipped (cancelled by Ada: wrong branch)

"#]]);

    // What is over cannot be cancelled, and asking for that changes nothing.
    let before = project.run(&id);
    let output = project.loopy(&cancel).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error: not done: the run is over: cancelled

"#]]);
    let output = project.loopy(&[&cancel[..], &["--json"]].concat()).assert();
    let told = json(&output.code(1));
    assert_eq!(told["state"], "refused");
    assert_eq!(told["refused"], "the run is over: cancelled");
    assert_eq!(project.run(&id)["ended_at"], before["ended_at"]);

    let output = project.loopy(&["runs", "show", &id]).assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  cancelled  [TOOK]  $0.0000
  cancelled by Ada: wrong branch
  first: cancelled (cancelled by Ada: wrong branch)
  second: skipped (cancelled by Ada: wrong branch)
event     Go (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]          run started: on Go (hand-[ID])
  [TIME]  first   step started: limit 3600 s
  [TIME]  first   step cancelled: cancelled by Ada: wrong branch
  [TIME]  second  step skipped: cancelled by Ada: wrong branch
  [TIME]          run cancelled: cancelled by Ada: wrong branch
  [TIME]          command refused: Ada: the run is over: cancelled
  [TIME]          command refused: Ada: the run is over: cancelled

"#]]);
    let listed = project.loopy(&["runs", "list", "--status", "cancelled", "--json"]);
    assert_eq!(json(&listed.assert().code(0))[0]["id"], *id);
    serving.stop().code(0);
}

#[test]
fn a_paused_run_finishes_what_works_and_begins_nothing_until_it_is_resumed() {
    let project = Project::scripts(
        "events:\n  Go: { gate: str }\n",
        &[
            (
                "work/first",
                "on: Go",
                "while ! test -e \"{{ event.gate }}\"; do sleep 0.05; done",
            ),
            ("work/second", "after: first", "true"),
        ],
    );
    let serving = project.serve();
    let gate = project.outside("gate");
    let trigger = project
        .trigger("Go", &json!({ "gate": gate }).to_string())
        .spawn();
    let id = project.until_run("work", "running");
    until("the step", || {
        (project.run(&id)["steps"]["first"]["state"] == "running").then_some(())
    });

    let order = |name: &str| project.loopy(&["runs", name, &id, "--by", "Ada"]).assert();
    order("pause").code(0).stdout_eq(str![[r#"
work-[ID]  paused

"#]]);
    order("pause").code(1).stderr_eq(str![[r#"
error: not done: the run is paused already

"#]]);
    fs::write(&gate, "").unwrap();
    // Whoever waits for the run need not wait for a person.
    trigger.end().code(5);
    sleep(Duration::from_millis(300));
    let run = project.run(&id);
    assert_eq!(run["status"], "paused");
    assert_eq!(run["steps"]["first"]["state"], "succeeded");
    assert_eq!(run["steps"]["second"]["state"], "waiting");

    order("resume").code(0);
    project.until_run("work", "succeeded");
    order("resume").code(1).stderr_eq(str![[r#"
error: not done: the run is over: succeeded

"#]]);
    assert_eq!(
        project.notes(&id, "run_paused"),
        ["by Ada; what works goes on, nothing new begins"]
    );
    serving.stop().code(0);
}

/// A project that asks before it ships, and once more whether what it shipped
/// counts.
fn asking(approve: &str) -> Project {
    Project::scripts(
        "events:\n  Go: {}\n",
        &[
            (
                "work/build",
                "on: Go\noutput: { size: int }",
                r#"echo '{"size": 7}' > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/ship",
                &format!("after: build\napprove: {approve}\noutput: {{ url: str }}"),
                r#"printf '{"url": "x://%s"}' "{{ build.size }}" > "$LOOPY_OUTPUT""#,
            ),
        ],
    )
}

#[test]
fn a_step_that_asks_parks_its_run_until_somebody_answers() {
    let project = asking("{ before: true, after: true }");
    // Nothing serves: the process that runs the event ends when it is parked.
    let output = project.trigger("Go", "{}").assert();
    output
        .code(5)
        .stdout_eq(str![[r#"
work-[ID]  parked  [TOOK]  $0.0000
  build: succeeded
    size = 7
  ship: asking whether it may start

"#]])
        .stderr_eq(str![[r#"
warning LOOPY-W501 workflows/work/build.md:3:5: no sensor and no step makes the event `Go`
  3 | on: Go
    |     ^^
  hint: only `loopy trigger` can start this workflow
work-[ID]  run started: on Go (hand-[ID])
work-[ID]/build  step started: limit 3600 s
work-[ID]/build  attempt succeeded
work-[ID]/build  step succeeded
work-[ID]/ship  approval asked: whether it may start
work-[ID]  run parked: until a person answers

hint: `loopy runs approve work-[ID]` has it go on, `deny` ends it

"#]]);
    let id = project.until_run("work", "parked");

    let serving = project.serve();
    let answer = |arguments: &[&str]| {
        let all = [&["runs"], arguments, &["--by", "Ada"]].concat();
        project.loopy(&all).assert()
    };
    answer(&["approve", &id, "--step", "build"])
        .code(1)
        .stderr_eq(str![[r#"
error: not done: step build asks nothing

"#]]);
    answer(&["approve", &id, "--step", "ship"]).code(0);
    until("the second question", || {
        let run = project.run(&id);
        (run["status"] == "parked" && run["steps"]["ship"]["asks"] == "after").then_some(())
    });
    answer(&["approve", &id]).code(0);
    project.until_run("work", "succeeded");
    let output = project.loopy(&["runs", "show", &id]).assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  succeeded  [TOOK]  $0.0000
  build: succeeded
    size = 7
  ship: succeeded
    url = "x://7"
event     Go (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]         run started: on Go (hand-[ID])
  [TIME]  build  step started: limit 3600 s
  [TIME]  build  attempt succeeded
  [TIME]  build  step succeeded
  [TIME]  ship   approval asked: whether it may start
  [TIME]         run parked: until a person answers
  [TIME]         command refused: Ada: step build asks nothing
  [TIME]  ship   approved: by Ada
  [TIME]  ship   step started: limit 3600 s
  [TIME]  ship   attempt succeeded
  [TIME]  ship   approval asked: whether its output counts
  [TIME]         run parked: until a person answers
  [TIME]  ship   approved: by Ada
  [TIME]  ship   step succeeded
  [TIME]         run succeeded

"#]]);
    answer(&["approve", &id]).code(1).stderr_eq(str![[r#"
error: not done: the run is over: succeeded

"#]]);
    serving.stop().code(0);
}

#[test]
fn a_step_that_is_denied_ends_its_run() {
    let project = asking("{ before: true }");
    let serving = project.serve();
    project.trigger("Go", "{}").assert().code(5);
    let id = project.until_run("work", "parked");
    // Of several that ask the same at once, each is told what became of its own.
    let deny = ["runs", "deny", &id, "--by", "Ada", "--json"];
    let all: Vec<_> = (0..4).map(|_| project.loopy(&deny).spawn()).collect();
    let mut told: Vec<_> = all.into_iter().map(|one| json(&one.end())).collect();
    told.sort_by_key(|one| one["state"].to_string());
    let states: Vec<_> = told.iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["refused", "refused", "refused", "taken"]);
    assert_eq!(told[0]["refused"], "the run is over: denied");
    assert_eq!(told[3]["status"], "denied");
    let output = project.loopy(&["runs", "show", &id]).assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  denied  [TOOK]  $0.0000
  ship was denied: by Ada
  build: succeeded
    size = 7
  ship: skipped (step ship was denied)
event     Go (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]         run started: on Go (hand-[ID])
  [TIME]  build  step started: limit 3600 s
  [TIME]  build  attempt succeeded
  [TIME]  build  step succeeded
  [TIME]  ship   approval asked: whether it may start
  [TIME]         run parked: until a person answers
  [TIME]  ship   denied: by Ada
  [TIME]  ship   step skipped: step ship was denied
  [TIME]         run denied: step ship was denied
  [TIME]         command refused: Ada: the run is over: denied
  [TIME]         command refused: Ada: the run is over: denied
  [TIME]         command refused: Ada: the run is over: denied

"#]]);
    let run = project.run(&id);
    assert_eq!(run["denied"], "ship");
    assert_eq!(run["because"], "by Ada");
    serving.stop().code(0);
}

#[test]
fn a_question_that_nobody_answers_is_answered_as_the_step_says() {
    for (otherwise, status, kind, code) in [
        ("", "denied", "denied", 6),
        (", otherwise: approve", "succeeded", "approved", 0),
    ] {
        let project = asking(&format!("{{ before: true, within: 1s{otherwise} }}"));
        // Something works until long after, so nobody need wait for a person.
        project.write(
            "workflows/other/slow.md",
            "---\nagent: Shell\non: Go\n---\nsleep 4\n",
        );
        project.trigger("Go", "{}").assert().code(code);
        let id = project.until_run("work", status);
        assert_eq!(project.notes(&id, kind), ["nobody answered in time"]);
    }
}

#[test]
fn a_run_that_only_waits_is_cancelled_too() {
    let project = asking("{ before: true, within: 24h }");
    let serving = project.serve();
    project.trigger("Go", "{}").assert().code(5);
    let id = project.until_run("work", "parked");
    let order = |name: &str| project.loopy(&["runs", name, &id, "--by", "Ada"]).assert();
    order("pause").code(0);
    // While it is paused it can be answered, and begins nothing.
    order("approve").code(0);
    let run = project.run(&id);
    assert_eq!(run["status"], "paused");
    assert_eq!(run["steps"]["ship"]["attempts"], json!([]));
    order("cancel").code(0);
    let run = project.run(&id);
    assert_eq!(run["status"], "cancelled");
    assert_eq!(run["because"], "cancelled by Ada");
    assert_eq!(run["steps"]["build"]["state"], "succeeded");
    serving.stop().code(0);
}

#[test]
fn an_order_outlives_the_process_that_was_to_take_it() {
    let project = asking("{ before: true }");
    let serving = project.serve();
    project.trigger("Go", "{}").assert().code(5);
    let id = project.until_run("work", "parked");
    let output = project.loopy(&["runs", "cancel", &id, "--by", "Ada", "--no-wait"]);
    output.assert().code(0).stderr_eq(str![""]);
    serving.run.kill();
    let serving = project.serve();
    project.until_run("work", "cancelled");
    let cancelled = project.notes(&id, "run_cancelled");
    assert_eq!(cancelled, ["cancelled by Ada"], "once");
    serving.stop().code(0);
}

#[test]
fn what_is_asked_while_nothing_serves_is_taken_when_something_does() {
    let project = asking("{ before: true }");
    project.trigger("Go", "{}").assert().code(5);
    let id = project.until_run("work", "parked");
    let output = project.loopy(&["runs", "approve", &id]).assert();
    output
        .code(0)
        .stdout_eq(str![[r#"
work-[ID]

"#]])
        .stderr_eq(str![[r#"
nothing serves this project; what was asked waits until something does

hint: `loopy run` serves it

"#]]);
    let output = project.loopy(&["runs", "approve", &id, "--no-wait", "--json"]);
    assert_eq!(json(&output.assert().code(0))["state"], "waiting");
    assert_eq!(project.run(&id)["status"], "parked");
    let serving = project.serve();
    project.until_run("work", "succeeded");
    // The second one came too late, and says so.
    until("the second answer", || {
        let refused = project.notes(&id, "command_refused");
        (refused == ["a person: the run is over: succeeded"]
            || refused == ["a person: no step asks anything"])
        .then_some(())
    });
    serving.stop().code(0);
}

/// Three steps in a row that put out what they read.
fn chain() -> Project {
    Project::scripts(
        "events:\n  Go: { name: str, count: int }\n",
        &[
            (
                "work/plan",
                "on: Go\noutput: { text: str, parts: 'list[int]' }",
                r#"printf '{"text": "%s", "parts": [1, 2]}' "{{ event.name }}" > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/build",
                "after: plan\noutput: { said: str }",
                r#"printf '{"said": "%s %s %s"}' "{{ plan.text }}" "{{ plan.parts }}" "{{ event.count }}" > "$LOOPY_OUTPUT""#,
            ),
        ],
    )
}

#[test]
fn a_run_is_gone_over_again_with_the_project_it_knew_or_the_present_one() {
    let project = chain();
    let fields = r#"{"name": "Ada", "count": 3}"#;
    project.trigger("Go", fields).assert().code(0);
    let first = project.until_run("work", "succeeded");
    project.replace(
        "workflows/work/build.md",
        r#""said": ""#,
        r#""said": "now "#,
    );

    let serving = project.serve();
    let rerun = |more: &[&str]| {
        let all = [&["runs", "rerun", &first, "--by", "Ada"], more].concat();
        let id = printed(&project.loopy(&all).assert().code(0));
        until("the run", || {
            let run = project.run(&id);
            (run["status"] == "succeeded").then_some(run)
        })
    };
    let same = rerun(&[]);
    assert_ne!(same["id"], *first);
    assert_eq!(same["origin"], json!({ "run": first }));
    assert_eq!(same["steps"]["build"]["output"]["said"], "Ada [1,2] 3");
    let latest = rerun(&["--latest"]);
    assert_eq!(
        latest["steps"]["build"]["output"]["said"],
        "now Ada [1,2] 3"
    );
    assert_ne!(latest["manifest"], same["manifest"]);
    serving.stop().code(0);
}

#[test]
fn a_run_is_forked_from_a_step_with_its_inputs_edited() {
    let project = chain();
    let fields = r#"{"name": "Ada", "count": 3}"#;
    project.trigger("Go", fields).assert().code(0);
    let first = project.until_run("work", "succeeded");
    let serving = project.serve();
    let fork = |more: &[&str]| {
        let all = [&["runs", "fork", &first, "--by", "Ada"], more].concat();
        project.loopy(&all).assert()
    };
    let output = fork(&[
        "--from",
        "build",
        "--set",
        "plan.text=Eve = 12",
        "--set",
        "plan.parts=[3]",
        "--field",
        "event.count=4",
    ]);
    let id = printed(&output.code(0));
    until("the run", || {
        (project.run(&id)["status"] == "succeeded").then_some(())
    });
    let output = project.loopy(&["runs", "show", &id]).assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  succeeded  [TOOK]  $0.0000
  build: succeeded
    said = "Eve = 12 [3] 4"
  plan: succeeded
    parts = [3]
    text = "Eve = 12"
event     Go (hand-[ID])
from      a person
again     work-[ID], from step build
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]         run started: again after work-[ID] from step build
  [TIME]  build  step started: limit 3600 s
  [TIME]  build  attempt succeeded
  [TIME]  build  step succeeded
  [TIME]         run succeeded

"#]]);
    let run = project.run(&id);
    assert_eq!(run["steps"]["plan"]["attempts"], json!([]), "taken over");

    // What makes no sense is refused, by this command or by the engine.
    fork(&["--from", "nothing"]).code(2).stderr_eq(str![[r#"
error: run work-[ID] has no step `nothing`; it has build, plan

"#]]);
    fork(&["--from", "build", "--set", "text=x"])
        .code(2)
        .stderr_eq(str![[r#"
error: --set text=x: a step, `.`, a name, `=` and a value are wanted

hint: as in --field event.name=Ada or --set plan.count=3

"#]]);
    fork(&["--from", "build", "--field", "event.count=many"])
        .code(2)
        .stderr_eq(str![[r#"
error: --field event.count=many: not JSON: expected value at line 1 column 1

hint: as in --field event.name=Ada or --set plan.count=3

"#]]);
    fork(&["--from", "build", "--field", "event.nom=x"])
        .code(1)
        .stderr_eq(str![[r#"
error: not done: event Go breaks its contract: Additional properties are not allowed ('nom' was unexpected)

"#]]);
    fork(&["--from", "build", "--set", "plan.parts=[\"x\"]"])
        .code(1)
        .stderr_eq(str![[r#"
error: not done: the output of step plan breaks its contract: /parts/0: "x" is not of type "integer"

"#]]);
    fork(&["--from", "plan", "--set", "plan.text=x"])
        .code(1)
        .stderr_eq(str![[r#"
error: not done: the output of step plan cannot be edited: it is not taken over from work-[ID]

"#]]);
    serving.stop().code(0);
}

#[test]
fn all_that_is_known_of_a_run_is_exported_as_one_document() {
    let project = Project::hello();
    let trigger = ["trigger", "--event", "Hello", "--field", "name=Ada"];
    project.loopy(&trigger).assert().code(0);
    let id = project.until_run("greet", "succeeded");
    let document = json(&project.loopy(&["runs", "export", &id]).assert().code(0));
    assert_eq!(document["run"]["id"], *id);
    assert_eq!(document["run"]["schema"], 2);
    let events = document["events"].as_array().unwrap();
    let names: Vec<_> = events.iter().map(|it| &it["event"]["name"]).collect();
    assert_eq!(names, ["Hello", "Greeted"]);
    assert_eq!(
        events[1]["outcomes"]["record"]["decision"]["kind"],
        "started"
    );
    assert_eq!(document["dead_letters"], json!([]));
    let none = project.loopy(&["runs", "export", "greet-none"]).assert();
    none.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: there is no run greet-none

hint: `loopy runs list` shows the runs there are

"#]]);
}
