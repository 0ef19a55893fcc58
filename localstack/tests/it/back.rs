//! The way back: by itself, by hand, after one that was cut off, and what it needs beside
//! the template.

use crate::project::{Project, broken, deploy, go, run, said};
use crate::stack::{Deployed, LONG};
use loopy_localstack::eventually;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// A project whose sandbox has a variable.
fn with_variable() -> Project {
    let project = Project::new();
    project.replace("registry.yml", "network:", "env_file: box.env, network:");
    project.write("box.env", "WORD=first\n");
    project.replace(
        "workflows/echo/say.md",
        "\"said\": \"first\"",
        "\"said\": \"'\"$WORD\"'\"",
    );
    project
}

fn rename(project: &Project, old: &str, new: &str) {
    project.replace("registry.yml", &format!("{old}:"), &format!("{new}:"));
    let sandbox = |name: &str| format!("sandbox: {name} ");
    project.replace("registry.yml", &sandbox(old), &sandbox(new));
}

/// What the secret with this output holds.
fn secret(deployed: &Deployed, output: &str) -> Value {
    let id = deployed.output(output);
    let get = ["secretsmanager", "get-secret-value", "--secret-id", &id];
    let found = deployed.account.aws(&get);
    serde_json::from_str(found["SecretString"].as_str().unwrap()).unwrap()
}

/// What a run says that begins now.
async fn says(deployed: &Deployed, project: &Project, runs: usize) -> Value {
    // Two with the same note would be one delivery.
    let gate = project.folder.path().join(format!("gate{runs}"));
    std::fs::write(&gate, "").unwrap();
    go(deployed, &gate).await;
    let found = deployed.runs_over(runs).await;
    let shown = deployed.show(&found[0]);
    assert_eq!(shown["status"], "succeeded", "{shown:#}");
    shown["steps"]["say"]["output"]["said"].clone()
}

/// Runs a command until it says something, and ends it there.
fn cut_off(deployed: &Deployed, arguments: &[&str], mark: &str) {
    let arguments = [arguments, &deployed.place()].concat();
    let mut child = deployed
        .loopy
        .command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        heard.push(line.unwrap());
        if heard.last().unwrap().contains(mark) {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    let heard = heard.join("\n");
    assert!(heard.contains(mark), "it never said {mark}:\n{heard}");
}

async fn comes_to_rest(deployed: &Deployed) {
    eventually("the stack to rest", LONG, async || {
        match deployed.status() {
            status if status.ends_with("_COMPLETE") && !status.contains("CLEANUP") => Ok(()),
            status => Err(status),
        }
    })
    .await
    .unwrap();
}

fn history(deployed: &Deployed) -> Vec<Value> {
    let list = run(deployed, &["rollback", "--list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let list = list.as_array().unwrap();
    list.iter()
        .map(|record| record["manifest"].clone())
        .collect()
}

#[tokio::test]
async fn a_version_that_comes_back_finds_the_values_of_its_secrets() {
    let project = with_variable();
    let deployed = Deployed::nothing("values");
    deploy(&deployed, &project, &[]);
    assert_eq!(says(&deployed, &project, 1).await, "first");
    let broken = broken();
    let functions = ["--functions", broken.path().to_str().unwrap(), "--approve"];

    // The bad one calls the sandbox otherwise, and has another value.
    rename(&project, "Cloud", "Renamed");
    project.write("box.env", "WORD=second\n");
    let arguments = ["deploy", project.path(), "--yes"];
    let bad = run(&deployed, &[&arguments[..], &functions].concat());
    assert!(
        said(&bad).contains("is again what it was before"),
        "{}",
        said(&bad)
    );
    assert_eq!(
        secret(&deployed, "SandboxSecret"),
        json!({"Cloud": {"WORD": "first"}})
    );
    assert_eq!(says(&deployed, &project, 2).await, "first");

    // This one needs no values, so that the secret goes with the change.
    rename(&project, "Renamed", "Cloud");
    project.replace("registry.yml", "env_file: box.env, ", "");
    let bad = run(&deployed, &[&arguments[..], &functions].concat());
    assert!(
        said(&bad).contains("is again what it was before"),
        "{}",
        said(&bad)
    );
    assert_eq!(
        secret(&deployed, "SandboxSecret"),
        json!({"Cloud": {"WORD": "first"}})
    );

    // A good one under another name leaves the values of the old one.
    project.replace("registry.yml", "network:", "env_file: box.env, network:");
    rename(&project, "Cloud", "Renamed");
    deploy(&deployed, &project, &["--approve"]);
    assert_eq!(
        secret(&deployed, "SandboxSecret"),
        json!({"Cloud": {"WORD": "first"}, "Renamed": {"WORD": "second"}})
    );
    let back = run(&deployed, &["rollback", "--yes", "--approve"]);
    assert!(back.status.success(), "{}", said(&back));
    assert_eq!(says(&deployed, &project, 3).await, "first");

    // One without a secret takes the values along: nobody has them any more.
    project.replace("registry.yml", "env_file: box.env, ", "");
    deploy(&deployed, &project, &["--approve"]);
    let manifest = deployed.output("Manifest");
    let refused = run(&deployed, &["rollback", "--yes"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    for expected in [
        "what this version needs is not there any more",
        "SandboxSecret has no value for Cloud",
        "deploy that version from its folder",
    ] {
        assert!(said(&refused).contains(expected), "{}", said(&refused));
    }
    assert_eq!(deployed.output("Manifest"), manifest, "nothing was changed");
    let back = run(&deployed, &["rollback", "--yes", "--approve"]);
    assert_eq!(back.status.code(), Some(1), "{}", said(&back));
    assert_ne!(deployed.output("Manifest"), manifest);
}

#[tokio::test]
async fn values_that_this_machine_has_otherwise_are_asked_for() {
    let project = with_variable();
    let deployed = Deployed::nothing("overwritten");
    deploy(&deployed, &project, &[]);
    let before = secret(&deployed, "SandboxSecret");
    project.write("box.env", "WORD=a-second-word\n");

    let told = "~ sandbox Cloud: WORD: gets another value";
    for arguments in [&["--plan"][..], &[]] {
        let output = deployed.deploy(project.path(), arguments);
        let text = said(&output);
        assert!(text.contains(told), "{text}");
        assert!(!text.contains("a-second-word"), "{text}");
        assert_eq!(secret(&deployed, "SandboxSecret"), before);
    }
    // One more may be read by whoever works there.
    project.write("box.env", "WORD=a-second-word\nMORE=x\n");
    let refused = deployed.deploy(project.path(), &["--yes"]);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(
        text.contains("secrets: sandbox Cloud: MORE: gets a value"),
        "{text}"
    );
    assert_eq!(secret(&deployed, "SandboxSecret"), before);
    let text = deploy(&deployed, &project, &["--approve"]);
    assert!(
        text.contains("stored the values of SandboxSecret"),
        "{text}"
    );
    assert_eq!(
        secret(&deployed, "SandboxSecret"),
        json!({"Cloud": {"MORE": "x", "WORD": "a-second-word"}})
    );
    let text = deploy(&deployed, &project, &[]);
    assert!(text.contains("is up to date, nothing to change"), "{text}");
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_is_finished_and_not_undone() {
    let project = Project::new();
    let deployed = Deployed::nothing("back-again");
    deploy(&deployed, &project, &[]);
    let good = json!(deployed.output("Manifest"));
    project.replace("workflows/echo/say.md", "first", "second");
    deploy(&deployed, &project, &[]);
    let bad = json!(deployed.output("Manifest"));

    cut_off(&deployed, &["rollback", "--yes"], "UPDATE_IN_PROGRESS");
    comes_to_rest(&deployed).await;
    assert_eq!(json!(deployed.output("Manifest")), good);
    assert_eq!(history(&deployed), [bad.clone(), good.clone()]);

    let back = run(&deployed, &["rollback", "--yes"]);
    assert!(back.status.success(), "{}", said(&back));
    assert!(said(&back).contains("that was cut off"), "{}", said(&back));
    assert_eq!(json!(deployed.output("Manifest")), good);
    assert_eq!(history(&deployed), [good.clone(), bad, good]);
}

#[tokio::test]
async fn a_broken_version_that_was_cut_off_goes_back_to_the_last_that_worked() {
    let project = Project::new();
    let deployed = Deployed::nothing("broken-off");
    deploy(&deployed, &project, &[]);
    let good = deployed.output("Manifest");
    let broken = broken();
    project.replace("workflows/echo/say.md", "first", "second");
    let mut arguments = vec!["deploy", project.path(), "--yes"];
    arguments.extend(["--functions", broken.path().to_str().unwrap()]);
    cut_off(&deployed, &arguments, "UPDATE_IN_PROGRESS");
    comes_to_rest(&deployed).await;
    assert_ne!(deployed.output("Manifest"), good);

    let output = run(&deployed, &arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("function webhook:"), "{text}");
    assert!(
        text.contains("stack broken-off is again what it was at "),
        "{text}"
    );
    assert_eq!(deployed.output("Manifest"), good);
    assert_eq!(says(&deployed, &project, 1).await, "first");
}

#[tokio::test]
async fn runs_that_go_on_are_named_before_their_sandbox_goes() {
    let project = Project::new();
    let deployed = Deployed::nothing("stranded");
    deploy(&deployed, &project, &[]);
    go(&deployed, &project.folder.path().join("gate")).await;
    let id = eventually("the run to work", LONG, async || {
        let runs = deployed.runs(&["list"]);
        let run = runs.get(0).ok_or("no run")?;
        Ok(run["id"].as_str().unwrap().to_owned())
    })
    .await
    .unwrap();

    project.replace(
        "registry.yml",
        "provider: daytona, image: { base: debian:bookworm-slim }",
        "provider: fargate, image: { base: debian:bookworm-slim }",
    );
    let manifest = deployed.output("Manifest");
    let refused = deployed.deploy(project.path(), &["--yes", "--images", "account"]);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    let line = format!(
        "run {id}: sandbox Cloud can be launched no longer, nor stopped, as the credentials of \
         Daytona go"
    );
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("wait until the runs are over"), "{text}");
    assert_eq!(deployed.output("Manifest"), manifest, "nothing was changed");
    std::fs::write(project.folder.path().join("gate"), "").unwrap();
    assert_eq!(deployed.runs_over(1).await[0]["status"], "succeeded");
}
