//! What people ask of the runs of a stack, and what became of what came in.

use crate::project::{GO, GOES, Project, SCRIPTS};
use crate::stack::{Deployed, LONG};
use loopy_localstack::eventually;
use serde_json::Value;
use std::process::Output;

const STEPS: [(&str, &str); 3] = [
    (
        "workflows/ship/build.md",
        "---
on: Go
agent: Shell
output: { text: str }
---
printf '{\"text\": \"%s\"}' \"{{ event.note }}\" > \"$LOOPY_OUTPUT\"
",
    ),
    (
        "workflows/ship/publish.md",
        "---
after: build
agent: Shell
approve: { before: true }
output: { said: str }
---
printf '{\"said\": \"%s\"}' \"{{ build.text }}\" > \"$LOOPY_OUTPUT\"
",
    ),
    (
        "workflows/slow/wait.md",
        "---
on: { event: Go, when: event.note == \"slowly\" }
agent: Shell
---
sleep 600
",
    ),
];

/// `loopy` with these arguments and `--json`, in this stack.
fn loopy(deployed: &Deployed, arguments: &[&str]) -> Output {
    let all = [arguments, &deployed.place(), &["--json"]].concat();
    deployed.loopy.run(&all).unwrap()
}

/// The document it printed, when it ended with this code.
#[track_caller]
fn told(output: &Output, code: i32) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {said}"))
}

#[tokio::test]
async fn runs_of_a_stack_are_told_what_to_do() {
    let registry = format!("{SCRIPTS}{GOES}");
    let files = [&[("registry.yml", registry.as_str()), GO], &STEPS[..]];
    let project = Project::of(&files.concat());
    let deployed = Deployed::nothing("orders");
    let first = told(&deployed.deploy(project.path(), &["--yes", "--json"]), 0);
    let url = first["webhooks"]["go"].as_str().unwrap();
    let sent = reqwest::Client::new()
        .post(url)
        .body(r#"{"note": "slowly"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 202);
    let run_of = async |workflow: &str, status: &str| -> String {
        eventually(&format!("{workflow} {status}"), LONG, async || {
            let list = ["list", "--workflow", workflow, "--status", status];
            let found = deployed.runs(&list);
            let id = found[0]["id"].as_str().map(str::to_owned);
            id.ok_or_else(|| format!("{:#}", deployed.runs(&["list"])))
        })
        .await
        .unwrap()
    };

    // What became of the event.
    let slow = run_of("slow", "running").await;
    let ship = run_of("ship", "parked").await;
    let events = told(&loopy(&deployed, &["events", "list"]), 0);
    let event = events[0]["event"]["id"].as_str().unwrap();
    let shown = told(&loopy(&deployed, &["events", "show", event]), 0);
    for (workflow, run) in [("ship", &ship), ("slow", &slow)] {
        let decision = &shown["outcomes"][workflow]["decision"];
        assert_eq!(decision["kind"], "started");
        assert_eq!(decision["run"], **run);
    }

    // A running step is cancelled with its sandbox.
    let order = |arguments: &[&str]| {
        let all = [&["runs"], arguments, &["--by", "Ada"]].concat();
        loopy(&deployed, &all)
    };
    let because = ["cancel", &slow, "--because", "no time"];
    let answer = told(&order(&because), 0);
    assert_eq!(
        (&answer["state"], &answer["status"]),
        (&"taken".into(), &"cancelled".into())
    );
    assert_eq!(told(&order(&["cancel", &slow]), 1)["state"], "refused");
    let run = deployed.runs(&["show", &slow]);
    assert_eq!(run["because"], "cancelled by Ada: no time");
    eventually("the sandbox to go", LONG, async || {
        let left = project.daytona.sandboxes();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    })
    .await
    .unwrap();

    // A question is answered, a run gone over again, and that one denied.
    assert_eq!(told(&order(&["pause", &ship]), 0)["status"], "paused");
    assert_eq!(told(&order(&["resume", &ship]), 0)["status"], "parked");
    told(&order(&["approve", &ship, "--step", "publish"]), 0);
    assert_eq!(run_of("ship", "succeeded").await, ship);
    let fork = [
        "fork",
        &ship,
        "--from",
        "publish",
        "--set",
        "build.text=edited",
    ];
    let fork = told(&order(&fork), 0)["run"].as_str().unwrap().to_owned();
    assert_eq!(run_of("ship", "parked").await, fork);
    told(&order(&["approve", &fork]), 0);
    let output = eventually("the fork", LONG, async || {
        let run = deployed.runs(&["show", &fork]);
        let output = run["steps"]["publish"]["output"]["said"].clone();
        output.is_string().then_some(output).ok_or(run.to_string())
    })
    .await
    .unwrap();
    assert_eq!(output, "edited");
    let again = told(&order(&["rerun", &ship]), 0)["run"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(run_of("ship", "parked").await, again);
    assert_eq!(told(&order(&["deny", &again]), 0)["status"], "denied");

    // What cannot be done is given up, shown, and can be sent again.
    let refused = ["fork", &ship, "--from", "build", "--set", "build.text=x"];
    let refused = told(&order(&refused), 1);
    assert!(
        refused["refused"]
            .as_str()
            .unwrap()
            .contains("cannot be edited")
    );
    let letters = told(&loopy(&deployed, &["dlq", "list"]), 0);
    let letter = letters[0]["id"].as_str().unwrap();
    assert_eq!(letters[0]["message"]["original"], *ship);
    let shown = told(&loopy(&deployed, &["dlq", "show", letter]), 0);
    assert_eq!(shown, letters[0]);
    let export = [&["runs", "export", &ship][..], &deployed.place()].concat();
    let export = told(&deployed.loopy.run(&export).unwrap(), 0);
    assert_eq!(export["dead_letters"], letters);
    assert_eq!(export["events"][0]["event"]["id"], *event);
    let sent = told(&loopy(&deployed, &["dlq", "redrive", "--all"]), 0);
    assert_eq!(sent["sent"], serde_json::json!([letter]));
    eventually("it to come back", LONG, async || {
        let letters = told(&loopy(&deployed, &["dlq", "list"]), 0);
        let back = letters[0]["id"].as_str().is_some_and(|id| id != letter);
        back.then_some(()).ok_or(letters.to_string())
    })
    .await
    .unwrap();
}
