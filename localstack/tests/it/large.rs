//! A project of a thousand workflows in a stack, and an event that is too long to travel.

use crate::project::{Project, SCRIPTS};
use crate::stack::Deployed;
use serde_json::Value;

#[tokio::test]
async fn a_thousand_workflows_are_deployed_and_the_last_one_runs() {
    let mut registry = format!("{SCRIPTS}events:\n");
    let project = Project::of(&[]);
    for n in 0..1000 {
        registry.push_str(&format!("  Go{n}: {{ n: int, text: str }}\n"));
        let step = format!("---\non: Go{n}\nagent: Shell\n---\ntrue\n");
        project.write(&format!("workflows/w{n}/go.md"), &step);
    }
    project.write("registry.yml", &registry);
    let sensor = "from loopy import sensor\n\n\n@sensor(webhook=\"/hooks/go\", emits=\"Go999\", verify=\"none\")\n\
                  def go(request):\n    return {\"n\": 999, \"text\": \"x\" * 2_000_000}\n";
    project.write("sensors/go.py", sensor);

    let deployed = Deployed::nothing("large");
    let folder = project.path();
    let output = deployed.deploy(folder, &["--yes"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let bus = deployed.output("Bus");
    let rules = deployed
        .account
        .aws(&["events", "list-rules", "--event-bus-name", &bus]);
    let rules = rules["Rules"].as_array().unwrap();
    // One of a thousand would be more than a bus has.
    assert!(!rules.is_empty() && rules.len() <= 64, "{}", rules.len());
    let named: usize = rules
        .iter()
        .map(|rule| {
            let pattern: Value =
                serde_json::from_str(rule["EventPattern"].as_str().unwrap()).unwrap();
            pattern["detail-type"].as_array().unwrap().len()
        })
        .sum();
    assert_eq!(named, 1000);

    let url = format!("{}hooks/go", deployed.address("WebhookUrl"));
    let answer = reqwest::Client::new()
        .post(url)
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    let runs = deployed.runs_over(1).await;
    assert_eq!(runs[0]["workflow"], "w999");
    // Its event is longer than what the bus and a queue take.
    let run = deployed.show(&runs[0]);
    let fields = &run["event"]["fields"];
    assert_eq!(fields["n"], 999);
    assert_eq!(fields["text"].as_str().unwrap().len(), 2_000_000);

    // Nothing has changed, so nothing is done.
    let second = deployed.deploy(folder, &["--yes"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        second.status.success() && said.contains("nothing to change"),
        "{said}"
    );

    // What somebody does to a stack inside the stack is seen.
    let rule = rules[0]["Name"].as_str().unwrap();
    let bus = ["--event-bus-name", &bus];
    let remove = [
        &[
            "events",
            "remove-targets",
            "--rule",
            rule,
            "--ids",
            "events",
        ],
        &bus[..],
    ];
    deployed.account.aws(&remove.concat());
    let delete = [&["events", "delete-rule", "--name", rule], &bus[..]];
    deployed.account.aws(&delete.concat());
    let mut drift = vec!["drift", folder, "--json"];
    drift.extend(deployed.place());
    let found = deployed.loopy.run(&drift).unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let changed = found["account"].as_array().unwrap();
    assert_eq!(changed.len(), 1, "{found:#}");
    assert_eq!(changed[0]["kind"], "AWS::Events::Rule");
    assert_eq!(changed[0]["status"], "DELETED");
}
