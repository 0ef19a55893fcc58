//! `loopy replay`.

use crate::support::{Project, json, until};
use serde_json::{Value, json};
use snapbox::str;

fn events(project: &Project) -> Vec<Value> {
    let list = project
        .loopy(&["events", "list", "--json", "--limit", "100"])
        .assert();
    json(&list.code(0)).as_array().unwrap().clone()
}

#[test]
fn what_came_in_comes_in_again_and_starts_what_is_there_now() {
    let project = Project::scripts(
        "events:\n  Go: { size: int }\n  Done: {}\n",
        &[(
            "all/first",
            "on: Go\nemits: Done",
            r#"echo '{"emits": {"Done": {}}}' > "$LOOPY_OUTPUT""#,
        )],
    );
    for size in 1..=3 {
        project
            .trigger("Go", &format!(r#"{{"size": {size}}}"#))
            .assert()
            .code(0);
    }
    let before = events(&project);
    assert_eq!(before.len(), 6);
    // The time of the second one: it is in, the first is not, the last is before the end.
    let of = |size: u64| {
        let found = before
            .iter()
            .find(|record| record["event"]["fields"]["size"] == size);
        found.unwrap()["recorded_at"].as_str().unwrap().to_owned()
    };
    let (second, third) = (of(2), of(3));

    let only = [
        "replay",
        "--from",
        &second,
        "--to",
        &third,
        "--event",
        "Go",
        "--dry-run",
    ];
    project
        .loopy(&only)
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
EVENT                          NAME  CAME                  REPEATED AS
hand-[ID]  Go    [TIME]  replay-[..]

"#]])
        .stderr_eq(str![""]);
    assert_eq!(events(&project).len(), 6, "a dry run sends nothing");

    // A workflow that was not there then, over the event that nobody wanted.
    project.write(
        "workflows/late/first.md",
        "---\non: Done\nagent: Shell\n---\ntrue\n",
    );
    let all = project
        .loopy(&["replay", "--from", &second, "--json"])
        .assert()
        .code(0);
    let said = String::from_utf8_lossy(&all.get_output().stderr).into_owned();
    assert!(said.contains(" of 2 events"), "{said}");
    assert!(said.contains("nothing serves this project now"), "{said}");
    let told = json(&all);
    let names: Vec<&Value> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["name"])
        .collect();
    assert_eq!(
        names,
        ["Go", "Go"],
        "oldest first, and none that a step emitted"
    );

    // Resumed, it repeats nothing twice.
    let id = said.split_whitespace().nth(1).unwrap();
    project
        .loopy(&["replay", "--from", &second, "--resume", id])
        .assert()
        .code(0);
    // By its name, what steps emitted when nobody waited for it.
    let from = before[5]["recorded_at"].as_str().unwrap();
    let done = ["replay", "--from", from, "--event", "Done", "--json"];
    let done = json(&project.loopy(&done).assert().code(0));
    assert_eq!(done.as_array().unwrap().len(), 3);
    let serving = project.serve();
    until("the runs", || {
        (project
            .runs()
            .iter()
            .filter(|run| run["status"] == "succeeded")
            .count()
            == 10)
            .then_some(())
    });
    serving.stop().code(0);
    let after = events(&project);
    let replayed: Vec<&Value> = after
        .iter()
        .filter(|record| record["event"]["source"]["kind"] == "replay")
        .collect();
    assert_eq!(replayed.len(), 5, "{replayed:?}");
    let late = project.runs();
    assert_eq!(
        late.iter().filter(|run| run["workflow"] == "late").count(),
        5
    );
    let of_go = replayed
        .iter()
        .find(|record| record["event"]["name"] == "Go");
    assert_eq!(
        of_go.unwrap()["event"]["source"]["source"],
        json!({ "kind": "hand" })
    );
}

#[test]
fn a_resumed_replay_takes_in_nothing_that_it_made_itself() {
    let project = Project::scripts(
        "events:\n  Go: { size: int }\n",
        &[("all/first", "on: Go", "true")],
    );
    for size in 1..=2 {
        project
            .trigger("Go", &format!(r#"{{"size": {size}}}"#))
            .assert()
            .code(0);
    }
    let from = ["replay", "--from", "2020-01-01T00:00:00Z", "--json"];
    let replay = |more: &[&str]| {
        let done = project.loopy(&[&from, more].concat()).assert().code(0);
        let said = String::from_utf8_lossy(&done.get_output().stderr).into_owned();
        let id = said
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let ids: Vec<String> = json(&done)
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["repeated_as"].as_str().unwrap().to_owned())
            .collect();
        (id, ids)
    };
    // Each is let in before the next, so that what it made is on record.
    let settle = |count: usize| {
        let serving = project.serve();
        until("the events", || {
            (events(&project).len() >= count).then_some(())
        });
        serving.stop().code(0);
        assert_eq!(events(&project).len(), count);
    };
    let (id, first) = replay(&[]);
    assert_eq!(first.len(), 2);
    settle(4);
    project.trigger("Go", r#"{"size": 3}"#).assert().code(0);
    for _ in 0..2 {
        let (_, again) = replay(&["--resume", &id]);
        assert_eq!(again, first);
        settle(5);
    }
    // Another one takes what came from outside, and the first one's only if wanted.
    assert_eq!(replay(&["--dry-run"]).1.len(), 3);
    assert_eq!(replay(&["--dry-run", "--replayed"]).1.len(), 5);
    let resumed = [&from[..], &["--resume", "0a1b2c3d4e5f"]].concat();
    let refused = project.loopy(&resumed).assert().code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("a replay says its id first"), "{said}");
}

#[test]
fn what_no_longer_fits_the_project_starts_nothing_and_says_why() {
    let project = Project::scripts(
        "events:\n  Go: { size: int }\n",
        &[("all/first", "on: Go", "true")],
    );
    project.trigger("Go", r#"{"size": 1}"#).assert().code(0);
    project.replace("registry.yml", "size: int", "size: str");
    project
        .loopy(&["replay", "--from", "2020-01-01T00:00:00Z"])
        .assert()
        .code(0);
    let serving = project.serve();
    let refused = until("the replay", || {
        let found = events(&project);
        let replayed = found
            .iter()
            .find(|record| record["event"]["source"]["kind"] == "replay")?;
        Some(replayed["outcomes"]["all"]["decision"].clone())
    });
    assert_eq!(refused["kind"], "refused");
    let because = refused["because"].as_str().unwrap();
    assert!(
        because.contains("the project has changed") && because.contains("size"),
        "{because}"
    );
    serving.stop().code(0);
    assert_eq!(project.runs().len(), 1);
}
