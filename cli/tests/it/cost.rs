//! `loopy cost estimate`: what it says of an example and of a schedule, and what it
//! refuses.

use crate::support::{Project, SHELL, json};
use serde_json::json;
use snapbox::{file, str};
use std::path::Path;

/// An example's folder.
fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    folder.to_str().unwrap().to_owned()
}

/// A script that a schedule starts.
fn nightly() -> Project {
    let registry = SHELL.replace("provider: local", "provider: fargate, image: { cpu: 1 }");
    let step = "---\non: cron(\"0 3 * * *\")\nagent: Shell\n---\ntrue\n";
    Project::of(&[
        ("registry.yml", &registry),
        ("workflows/tidy/sweep.md", step),
    ])
}

#[test]
fn an_example_is_estimated() {
    let project = Project::of(&[]);
    let github = example("github");
    let output = project.loopy(&["cost", "estimate", &github, "--events-per-day", "100"]);
    output
        .assert()
        .code(0)
        .stdout_eq(file!["cost/github.txt"].raw())
        .stderr_eq(file!["cost/github-said.txt"].raw());
}

#[test]
fn a_schedule_is_counted_by_itself() {
    let project = nightly();
    let arguments = [
        "cost",
        "estimate",
        "--step-minutes",
        "12",
        "--arch",
        "arm64",
    ];
    let output = project.loopy(&arguments);
    output
        .assert()
        .code(0)
        .stdout_eq(file!["cost/nightly.txt"].raw())
        .stderr_eq(file!["cost/nightly-said.txt"].raw());

    let told = |more: &[&str]| {
        let arguments = [&arguments[..], &["--format", "json"], more].concat();
        json(&project.loopy(&arguments).assert().code(0))
    };
    let (without, with) = (told(&[]), told(&["--alarms"]));
    assert_eq!(without["workflows"][0]["runs"], json!(30.0));
    let total = |told: &serde_json::Value| told["total_usd"].as_f64().unwrap();
    assert!((total(&with) - total(&without) - 0.9).abs() < 1e-9);
    let lines = without["lines"].as_array().unwrap();
    let sum: f64 = lines.iter().map(|line| line["usd"].as_f64().unwrap()).sum();
    assert!((sum - total(&without)).abs() < 1e-9);
    assert_eq!(without["region"], "us-east-1");
}

#[test]
fn what_cannot_be_is_refused() {
    let project = Project::of(&[]);
    let github = example("github");
    let refused = |more: &[&str]| {
        let arguments = [&["cost", "estimate", github.as_str()], more].concat();
        project
            .loopy(&arguments)
            .assert()
            .code(2)
            .stdout_eq(str![""])
    };
    refused(&["--event", "PullRequests=3"]).stderr_eq(str![[r#"
error: the project has no event `PullRequests`

hint: did you mean `PullRequest`?

"#]]);
    refused(&["--event", "Gone=3"]).stderr_eq(str![[r#"
error: the project has no event `Gone`

hint: it has PullRequest, PullRequestReviewed

"#]]);
    refused(&[]).stderr_eq(str![[r#"
error: how many events come in a day? Workflows start on PullRequest

hint: pass --events-per-day N, or --event NAME=N for each

"#]]);
    refused(&["--event", "PullRequest=3", "--events-per-day", "4"]).stderr_eq(str![[r#"
error: events come in a day, but there is none that they could be: each that workflows start on is counted for itself, or comes from a step

hint: leave --events-per-day out

"#]]);
    for (more, said) in [
        (
            &["--events-per-day", "-1"][..],
            "'-1' for '--events-per-day <N>': it has to be 0 or more",
        ),
        (&["--events-per-day", "NaN"], "it has to be 0 or more"),
        (&["--events-per-day", "many"], "it is no number"),
        (&["--event", "PullRequest=-2"], "it has to be 0 or more"),
        (&["--event", "PullRequest"], "write NAME=N"),
        (&["--step-minutes", "-5"], "it has to be 0 or more"),
        (&["--items", "-5"], "-5"),
    ] {
        let output = refused(more);
        let stderr = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(stderr.contains(said), "{more:?}: {stderr}");
    }
}

#[test]
fn a_project_with_errors_has_no_estimate() {
    let project = nightly();
    project.replace("workflows/tidy/sweep.md", "agent: Shell", "agent: Nobody");
    let output = project.loopy(&["cost", "estimate"]).assert();
    let output = output.code(1).stdout_eq(str![""]);
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(said.contains("Nobody"), "{said}");
}
