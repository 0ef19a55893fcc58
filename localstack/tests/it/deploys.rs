//! The life of a stack: what a change is told as, what has to be agreed to, what is
//! undone, and what a deployment that was cut off leaves behind.

use crate::project::{Project, deploy, go, parameter, run, said};
use crate::stack::{Deployed, LONG};
use loopy_localstack::{eventually, prepared};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[tokio::test]
async fn a_deploy_in_the_middle_of_a_run_leaves_it_its_version() {
    let project = Project::new();
    let deployed = Deployed::nothing("versions");
    deploy(&deployed, &project, &[]);
    let gate = project.folder.path().join("gate");
    go(&deployed, &gate).await;
    let first = eventually("the run to work", LONG, async || {
        let runs = deployed.runs(&["list"]);
        let run = runs.get(0).cloned().ok_or("no run")?;
        let shown = deployed.show(&run);
        if shown["steps"]["say"]["state"] == "running" {
            Ok(run)
        } else {
            Err(shown.to_string())
        }
    })
    .await
    .unwrap();

    // The step says something else from now on, and another one comes behind it.
    project.replace("workflows/echo/say.md", "first", "second");
    project.write(
        "workflows/echo/more.md",
        "---\nafter: say\nagent: Shell\noutput: { heard: str }\n---\n\
         printf '{\"output\": {\"heard\": \"%s\"}}' \"{{ say.said }}\" > \"$LOOPY_OUTPUT\"\n",
    );
    let text = deploy(&deployed, &project, &[]);
    assert!(
        text.contains("~ echo: step more added, step say changed"),
        "{text}"
    );
    assert!(
        text.contains("1 run goes on with an earlier version"),
        "{text}"
    );

    go(&deployed, &gate).await;
    std::fs::write(&gate, "").unwrap();
    let runs = deployed.runs_over(2).await;
    let shown: Vec<Value> = runs.iter().map(|run| deployed.show(run)).collect();
    let (old, new): (Vec<&Value>, Vec<&Value>) =
        shown.iter().partition(|run| run["id"] == first["id"]);
    assert_eq!(old[0]["status"], "succeeded", "{old:?}");
    assert_eq!(old[0]["steps"]["say"]["output"]["said"], "first");
    assert_eq!(old[0]["steps"].as_object().unwrap().len(), 1);
    assert_eq!(new[0]["steps"]["more"]["output"]["heard"], "second");

    // Back to the first version; the listing tells all three.
    let back = run(&deployed, &["rollback", "--yes"]);
    assert!(back.status.success(), "{}", said(&back));
    assert!(
        said(&back).contains("- echo") || said(&back).contains("~ echo"),
        "{}",
        said(&back)
    );
    go(&deployed, &gate).await;
    let runs = deployed.runs_over(3).await;
    assert_eq!(
        deployed.show(&runs[0])["steps"]["say"]["output"]["said"],
        "first"
    );
    // All that came in comes in again, over the first version.
    let again = run(
        &deployed,
        &["replay", "--from", "2020-01-01T00:00:00Z", "--event", "Go"],
    );
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(String::from_utf8_lossy(&again.stdout).lines().count(), 4);
    let runs = deployed.runs_over(6).await;
    assert_eq!(runs.len(), 6);

    let list = run(&deployed, &["rollback", "--list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let manifests: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["manifest"])
        .collect();
    assert_eq!(manifests.len(), 3, "{list}");
    assert_eq!(manifests[0], manifests[2]);
    assert_ne!(manifests[0], manifests[1]);
}

#[tokio::test]
async fn what_lets_somebody_do_more_has_to_be_agreed_to() {
    let project = Project::new();
    let deployed = Deployed::nothing("approvals");
    // All of a new stack is new: nothing is asked for twice.
    deploy(&deployed, &project, &[]);
    let manifest = deployed.output("Manifest");

    project.replace("registry.yml", "[github.com]", "[github.com, evil.example]");
    project.replace("sensors/go.py", "/hooks/go", "/hooks/more");
    let refused = deployed.deploy(project.path(), &["--yes"]);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    for line in [
        "~ sandbox Cloud: github.com, evil.example (was github.com)",
        "egress: sandbox Cloud: github.com, evil.example (was github.com) (what works there reaches more)",
        "webhooks: /hooks/more: verified as none (anyone may post to it)",
        "hint: pass --approve",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(deployed.output("Manifest"), manifest, "nothing was changed");
    deploy(&deployed, &project, &["--approve"]);
    assert_ne!(deployed.output("Manifest"), manifest);

    // What takes away needs nobody's word.
    project.replace("registry.yml", "[github.com, evil.example]", "[github.com]");
    deploy(&deployed, &project, &[]);

    // An environment of its own beside it.
    let output = deployed.deploy(project.path(), &["--yes", "--env", "staging"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut list = vec!["runs", "list", "--stack", "approvals-staging"];
    list.extend(deployed.account.place());
    let runs = deployed.loopy.run(&list);
    assert!(runs.unwrap().status.success());

    // Nothing is wrong with it; what it was given up on is told.
    let doctor = run(&deployed, &["doctor", project.path()]);
    assert!(doctor.status.success(), "{}", said(&doctor));
    let queue = deployed.output("StepsQueue");
    let mut send = vec!["sqs", "send-message", "--queue-url", &queue];
    send.extend(["--message-body", "{}"]);
    deployed.account.aws(&send);
    eventually("the poison to be told", LONG, async || {
        let doctor = run(&deployed, &["doctor", project.path()]);
        let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let expected = "warning: stack approvals: 1 messages were given up";
        if told.contains(expected) && doctor.status.success() {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await
    .unwrap();

    // Somebody turns a queue's time down by hand.
    let clean = run(&deployed, &["drift", project.path()]);
    assert!(clean.status.success(), "{}", said(&clean));
    let queue = deployed.output("StepsQueue");
    let mut arguments = vec!["sqs", "set-queue-attributes", "--queue-url", &queue];
    arguments.extend(["--attributes", "VisibilityTimeout=7"]);
    deployed.account.aws(&arguments);
    project.replace("workflows/echo/say.md", "first", "else");
    let drifted = run(&deployed, &["drift", project.path(), "--json"]);
    assert_eq!(drifted.status.code(), Some(1), "{}", said(&drifted));
    let found: Value = serde_json::from_slice(&drifted.stdout).unwrap();
    assert_eq!(found["account"][0]["resource"], "StepsQueue", "{found}");
    assert_eq!(found["account"][0]["status"], "MODIFIED", "{found}");
    assert_eq!(found["project"][0]["about"], "step say changed", "{found}");
}

#[tokio::test]
async fn a_version_that_does_not_work_is_taken_back() {
    let project = Project::new();
    let deployed = Deployed::nothing("unhealthy");
    deploy(&deployed, &project, &[]);
    let manifest = deployed.output("Manifest");

    // Functions that cannot start.
    let broken = tempfile::tempdir().unwrap();
    let functions = prepared("LOOPY_TEST_DIST").unwrap();
    for entry in std::fs::read_dir(&functions).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), broken.path().join(entry.file_name())).unwrap();
    }
    // The start function's program in the place of the webhook's: it lacks variables there.
    std::fs::copy(
        broken.path().join("start.zip"),
        broken.path().join("webhook.zip"),
    )
    .unwrap();
    project.replace("workflows/echo/say.md", "first", "second");
    let mut arguments = vec!["deploy", project.path(), "--yes"];
    let folder = broken.path().to_str().unwrap();
    arguments.extend(["--functions", folder, "--set", "LogRetentionDays=7"]);
    let output = run(&deployed, &arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("function webhook:"), "{text}");
    assert!(text.contains("is again what it was before"), "{text}");
    assert_eq!(deployed.output("Manifest"), manifest);
    assert_eq!(parameter(&deployed, "LogRetentionDays"), "30");

    let gate = project.folder.path().join("gate");
    std::fs::write(&gate, "").unwrap();
    go(&deployed, &gate).await;
    let runs = deployed.runs_over(1).await;
    assert_eq!(
        deployed.show(&runs[0])["steps"]["say"]["output"]["said"],
        "first"
    );
}

#[tokio::test]
async fn a_deploy_that_was_cut_off_is_mended_by_the_next() {
    let project = Project::new();
    let deployed = Deployed::nothing("cut-off");
    let functions = prepared("LOOPY_TEST_DIST").unwrap();
    // Cut off at a line that it says: before, amid and after the change.
    let marks = [
        "created bucket",
        "uploaded templates/",
        "uploaded functions/",
        "CREATE_IN_PROGRESS",
        "CREATE_COMPLETE",
        "stored the values",
    ];
    for mark in marks {
        let mut arguments = vec!["deploy", project.path(), "--yes", "--functions", &functions];
        arguments.extend(deployed.place());
        let mut child = deployed
            .loopy
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut heard = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            heard.push_str(&line);
            heard.push('\n');
            if line.contains(mark) {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
    }
    deploy(&deployed, &project, &[]);
    // It is written down, whoever of them carried it out, and once.
    let list = run(&deployed, &["rollback", "--list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let manifests: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["manifest"])
        .collect();
    assert_eq!(manifests, [&json!(deployed.output("Manifest"))]);
    let gate = project.folder.path().join("gate");
    std::fs::write(&gate, "").unwrap();
    go(&deployed, &gate).await;
    let runs = deployed.runs_over(1).await;
    assert_eq!(runs[0]["status"], "succeeded");
}
