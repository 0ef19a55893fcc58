//! The life of a stack: what a change is told as, what has to be agreed to, what is
//! undone, and what a deployment that was cut off leaves behind.

use crate::project::{Project, broken, deploy, go, parameter, run, said};
use crate::stack::{Deployed, LONG};
use loopy_infra::Deployment;
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

    // A parameter can let more through, too.
    deploy(&deployed, &project, &["--set", "PublicConcurrency=5"]);
    let more = ["--yes", "--set", "PublicConcurrency="];
    let refused = deployed.deploy(project.path(), &more);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    let expected = "parameters: PublicConcurrency: nothing (was 5)";
    assert!(text.contains(expected), "{text}");
    assert_eq!(parameter(&deployed, "PublicConcurrency"), "5");

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

    let broken = broken();
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

#[tokio::test]
async fn a_plan_that_is_taken_back_leaves_the_stack_that_somebody_made_meanwhile() {
    let deployed = Deployed::nothing("meanwhile");
    let config = deployed.account.config().await;
    let deployment = Deployment::connect(&config, deployed.stack).await.unwrap();
    let template = "Parameters: { AssetsBucket: { Type: String } }\n\
                    Resources: { Q: { Type: AWS::SQS::Queue } }\n";
    let planned = async || {
        let given = Default::default();
        let plan = deployment.plan(template, &given, &|_| ()).await;
        plan.unwrap()
    };
    // Nobody did anything: nothing remains.
    let plan = planned().await;
    assert!(plan.is_new);
    assert_eq!(deployed.status(), "REVIEW_IN_PROGRESS");
    deployment.discard(&plan).await.unwrap();
    let stacks = deployed.account.aws(&["cloudformation", "list-stacks"]);
    let left = stacks["StackSummaries"].as_array().unwrap();
    let left = left
        .iter()
        .filter(|it| it["StackStatus"] != "DELETE_COMPLETE");
    assert_eq!(left.count(), 0, "{stacks}");

    // Somebody else carries it out before the answer is no.
    let plan = planned().await;
    let sets = deployed.cloudformation("list-change-sets", &[]);
    let name = sets["Summaries"][0]["ChangeSetName"].as_str().unwrap();
    deployed.cloudformation("execute-change-set", &["--change-set-name", name]);
    let stands = async || match deployed.status() {
        status if status == "CREATE_COMPLETE" => Ok(()),
        status => Err(status),
    };
    eventually("the stack to stand", LONG, stands)
        .await
        .unwrap();
    deployment.discard(&plan).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(deployed.status(), "CREATE_COMPLETE");
}

#[tokio::test]
async fn what_was_uploaded_a_moment_ago_is_kept_whoever_needs_it() {
    let project = Project::new();
    // At the root, where nothing can be asked for.
    project.replace("sensors/go.py", "/hooks/go", "/");
    let deployed = Deployed::nothing("tidied");
    deploy(&deployed, &project, &[]);
    let bucket = parameter(&deployed, "AssetsBucket");
    let put = |key: &str, body: &str| {
        let file = project.folder.path().join("object");
        std::fs::write(&file, body).unwrap();
        let put = ["s3api", "put-object", "--bucket", &bucket, "--key", key];
        let body = ["--body", file.to_str().unwrap()];
        deployed.account.aws(&[&put[..], &body].concat());
    };
    // Deployments of long ago, which named what somebody has just uploaded again.
    put("files/just-now", "again");
    for day in 1..=14 {
        let at = format!("2020-01-{day:02}T00:00:00Z");
        let assets = if day == 1 {
            json!(["files/just-now"])
        } else {
            json!([])
        };
        let record = json!({"at": at, "by": "x", "manifest": "0", "template": "templates/gone.yaml",
            "assets": assets});
        let key = format!("deployments/tidied/{at}.json");
        put(&key, &record.to_string());
    }
    project.replace("workflows/echo/say.md", "first", "second");
    deploy(&deployed, &project, &[]);
    let list = ["s3api", "list-objects-v2", "--bucket", &bucket];
    let found = deployed.account.aws(&list);
    let objects = found["Contents"].as_array().unwrap();
    let keys: Vec<&str> = objects
        .iter()
        .map(|it| it["Key"].as_str().unwrap())
        .collect();
    let records = |folder: &str| {
        let all = keys.iter().filter(|key| key.starts_with(folder));
        all.count()
    };
    assert!(keys.contains(&"files/just-now"), "{keys:?}");
    // Ten can be gone back to; the oldest names what stays.
    assert_eq!(records("deployments/tidied/"), 11, "{keys:?}");
    assert!(keys.contains(&"deployments/tidied/2020-01-01T00:00:00Z.json"));
    // What came about is announced no longer.
    assert_eq!(records("announced/"), 0, "{keys:?}");
}
