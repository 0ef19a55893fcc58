//! A stack whose sandboxes are tasks: their image built and pushed, tasks run by a
//! real Docker engine, stopped when their time is over, and tried again when they are
//! taken away.

use crate::project::{run, said};
use crate::secrets::PLANTED;
use crate::stack::{Deployed, LONG};
use loopy_localstack::{eventually, prepared};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// The variables that say who a step's processes are, and what they were given.
const LOOK: &str = r#"---
on: Go
agent: Shell
output:
  user: str
  place: str
  secret: str
  tool: str
---
printf '{"output": {"user": "%s", "place": "%s", "secret": "%s", "tool": "%s"}}' \
  "$(id -u)" "$PWD" "$PLANTED" "$(cat /tool)" > "$LOOPY_OUTPUT"
"#;

fn registry(layer: &str) -> String {
    format!(
        "sandboxes:
  Box:
    provider: fargate
    image: {{ base: loopy-test:1, run: [\"echo {layer} > /tool\"], cpu: 1 }}
    network: [github.com]
    env_file: box.env
agents:
  Shell: {{ harness: command, sandbox: Box }}
events:
  Go: {{ note: str }}
"
    )
}

const SENSOR: &str = r#"from loopy import sensor
from loopy.events import Go


@sensor(webhook="/hooks/go", emits="Go", verify="none")
def go(request):
    return Go(note=request.json["note"])
"#;

/// Waits when it is tried first, so that somebody can take its task away.
const TAKEN: &str = "---
on: Go
agent: Shell
---
test -n \"$LOOPY_LAST_FAILURE\" || sleep 600
";

const SLOW: &str = "---
on: Go
agent: Shell
budget:
  wall_clock: 1
---
sleep 600
";

fn write(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    std::fs::create_dir_all(file.parent().unwrap_or(folder)).unwrap();
    std::fs::write(file, text).unwrap();
}

/// The engine's containers in which a task of the cluster works.
fn containers(cluster: &str) -> Vec<String> {
    let label = format!("label=com.amazonaws.ecs.cluster={cluster}");
    let output = Command::new("docker")
        .args(["--host", &prepared("LOOPY_TEST_DOCKER").unwrap()])
        .args(["ps", "--quiet", "--filter", &label])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Two with the same note would be one delivery.
async fn go(url: &str, note: &str) {
    let body = json!({ "note": note }).to_string();
    let post = reqwest::Client::new().post(url).body(body);
    assert_eq!(post.send().await.unwrap().status(), 202);
}

async fn over(deployed: &Deployed, workflow: &str, count: usize) -> Value {
    let run = eventually(workflow, LONG, async || {
        let found = deployed.runs(&["list", "--workflow", workflow]);
        let runs = found.as_array().unwrap();
        let over = |run: &&Value| run["status"] != "running";
        if runs.len() == count && runs.iter().all(|run| over(&run)) {
            return Ok(runs[0].clone());
        }
        let shown: Vec<_> = runs.iter().map(|run| deployed.show(run)).collect();
        Err(format!("{shown:#?}"))
    })
    .await
    .unwrap();
    deployed.show(&run)
}

#[tokio::test]
async fn steps_work_in_tasks_of_the_account() {
    let project = tempfile::tempdir().unwrap();
    let folder = project.path();
    write(folder, "registry.yml", &registry("first"));
    write(folder, "box.env", &format!("PLANTED={PLANTED}\n"));
    write(folder, "sensors/go.py", SENSOR);
    write(folder, "workflows/look/look.md", LOOK);
    write(folder, "workflows/slow/wait.md", SLOW);
    write(folder, "workflows/taken/wait.md", TAKEN);

    let deployed = Deployed::nothing("tasks");
    let path = folder.to_str().unwrap();
    let deploy = |arguments: &[&str]| {
        let output = deployed.deploy(path, &[&["--yes", "--json"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (output.stdout, said)
    };
    let (answer, said) = deploy(&["--images", "docker"]);
    assert!(
        said.contains("building the image of Box with Docker"),
        "{said}"
    );
    assert!(said.contains("pushed the image of Box"), "{said}");
    let warning = "warning: sandbox Box: `network` names hosts";
    assert!(said.contains(warning), "{said}");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let url = answer["webhooks"]["go"].as_str().unwrap();

    go(url, "first").await;
    let look = over(&deployed, "look", 1).await;
    assert_eq!(
        look["steps"]["look"]["output"],
        json!({"user": "65534", "place": "/loopy/work", "secret": PLANTED, "tool": "first"}),
        "{look:#}"
    );

    // Past its time, the task is stopped.
    let slow = over(&deployed, "slow", 1).await;
    assert_eq!(slow["failure"]["class"], "timeout", "{slow:#}");

    // What a task was started with is seen by all who may describe it. It opens nothing.
    let cluster = deployed.resource("SandboxCluster");
    let aws = |arguments: &[&str]| deployed.account.aws(arguments);
    let waiting = eventually("the task that waits", LONG, async || {
        let tasks = aws(&["ecs", "list-tasks", "--cluster", &cluster]);
        let tasks = tasks["taskArns"].as_array().unwrap().clone();
        match tasks.as_slice() {
            [task] => Ok(task.as_str().unwrap().to_owned()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let described = aws(&[
        "ecs",
        "describe-tasks",
        "--cluster",
        &cluster,
        "--tasks",
        &waiting,
    ]);
    let task = &described["tasks"][0];
    let shown = task.to_string();
    assert!(!shown.contains(PLANTED), "{shown}");
    let variables = &task["overrides"]["containerOverrides"][0]["environment"];
    let variable = |name: &str| {
        let variables = variables.as_array().unwrap();
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.unwrap()["value"].as_str().unwrap().to_owned()
    };
    let envelope = format!(
        "{}/v1/runs/{}/steps/wait/attempts/1/envelope",
        variable("LOOPY_REPORT_URL").trim_end_matches('/'),
        variable("LOOPY_RUN_ID")
    );
    let asked = reqwest::Client::new()
        .get(envelope)
        .bearer_auth(variable("LOOPY_TOKEN"));
    assert_eq!(asked.send().await.unwrap().status(), 401);

    // Somebody takes the task away: the account says so, and the step is tried again.
    aws(&[
        "ecs",
        "stop-task",
        "--cluster",
        &cluster,
        "--task",
        &waiting,
        "--reason",
        "a storm",
    ]);
    let taken = over(&deployed, "taken", 1).await;
    assert_eq!(taken["status"], "succeeded", "{taken:#}");
    let attempts = taken["steps"]["wait"]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    let failure = &attempts[0]["failure"];
    assert_eq!(failure["class"], "lost", "{failure}");
    assert!(
        failure["message"].as_str().unwrap().contains("a storm"),
        "{failure}"
    );

    // Another image, built in the account this time, and used by what starts then.
    write(folder, "registry.yml", &registry("second"));
    let (_, said) = deploy(&["--images", "account"]);
    assert!(
        said.contains("building the image of Box with the account"),
        "{said}"
    );
    go(url, "second").await;
    let look = over(&deployed, "look", 2).await;
    assert_eq!(
        look["steps"]["look"]["output"]["tool"], "second",
        "{look:#}"
    );

    // A third time there is nothing to build.
    let (_, said) = deploy(&[]);
    assert!(!said.contains("building"), "{said}");

    // A stack goes with what works in it.
    let cluster_arn = aws(&["ecs", "describe-clusters", "--clusters", &cluster]);
    let cluster_arn = cluster_arn["clusters"][0]["clusterArn"].as_str().unwrap();
    eventually("tasks that work", LONG, async || {
        match containers(cluster_arn).len() {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    let destroyed = [&["destroy", "--yes"][..], &deployed.place()].concat();
    let destroyed = deployed.loopy.run(&destroyed).unwrap();
    let said = String::from_utf8_lossy(&destroyed.stderr);
    assert!(destroyed.status.success(), "{said}");
    assert!(said.contains("tasks that worked"), "{said}");
    eventually("the containers to go", LONG, async || {
        let left = containers(cluster_arn);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn images_that_went_with_their_repository_are_built_again_on_the_way_back() {
    let project = tempfile::tempdir().unwrap();
    let folder = project.path();
    write(folder, "registry.yml", &registry("first"));
    write(folder, "box.env", &format!("PLANTED={PLANTED}\n"));
    write(folder, "sensors/go.py", SENSOR);
    write(folder, "workflows/look/look.md", LOOK);
    let deployed = Deployed::nothing("images-again");
    let path = folder.to_str().unwrap();
    let first = deployed.deploy(path, &["--yes", "--images", "docker"]);
    assert!(first.status.success(), "{}", said(&first));
    let repository = deployed.resource("SandboxImages");

    // Without such a sandbox the repository goes, and all that is in it.
    let elsewhere = "provider: daytona\n    image: { base: debian:bookworm-slim }";
    let here = "provider: fargate\n    image: { base: loopy-test:1, run: [\"echo first > /tool\"], cpu: 1 }";
    let other = registry("first").replace(here, elsewhere);
    assert_ne!(other, registry("first"));
    write(folder, "registry.yml", &other);
    write(folder, "loopy.env", "DAYTONA_API_KEY=x\n");
    let second = deployed.deploy(path, &["--yes", "--approve"]);
    assert!(second.status.success(), "{}", said(&second));
    let left = deployed.account.aws(&["ecr", "describe-repositories"]);
    assert!(!left.to_string().contains(&repository), "{left}");

    let back = ["rollback", "--yes", "--approve", "--images", "docker"];
    let back = run(&deployed, &back);
    assert!(back.status.success(), "{}", said(&back));
    assert!(
        said(&back).contains("building the image of Box with Docker"),
        "{}",
        said(&back)
    );
    let url = format!("{}hooks/go", deployed.address("WebhookUrl"));
    go(&url, "again").await;
    let look = over(&deployed, "look", 1).await;
    assert_eq!(look["steps"]["look"]["output"]["tool"], "first", "{look:#}");
}
