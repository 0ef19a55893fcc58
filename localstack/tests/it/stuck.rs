//! Stacks that CloudFormation changes no more as they stand, and what a deployment does
//! about them.

use crate::project::{Project, deploy, go, parameter, run, said};
use crate::stack::{Deployed, LONG};
use loopy_localstack::eventually;

/// A queue that the service refuses.
const BROKEN: &str = "Resources:
  Q:
    Type: AWS::SQS::Queue
    Properties: { RedrivePolicy: { deadLetterTargetArn: nowhere } }
  F:
    Type: AWS::Lambda::Function
    Properties: { Runtime: none }
";

#[tokio::test]
async fn a_stack_of_somebody_else_is_neither_changed_nor_removed() {
    let project = Project::new();
    for (stack, template, status, why) in [
        (
            "foreign",
            "Resources: { Q: { Type: AWS::SQS::Queue } }",
            "CREATE_COMPLETE",
            "stack foreign has no output Manifest, so it is not one that Loopy made",
        ),
        (
            "foreign-stuck",
            BROKEN,
            "ROLLBACK_COMPLETE",
            "stack foreign-stuck is ROLLBACK_COMPLETE and has no tag loopy:project",
        ),
    ] {
        let deployed = Deployed::nothing(stack);
        let file = project.folder.path().join("foreign.yaml");
        std::fs::write(&file, template).unwrap();
        let body = format!("file://{}", file.display());
        deployed.cloudformation("create-stack", &["--template-body", &body]);
        becomes(&deployed, status).await;
        for arguments in [["--plan"], ["--yes"]] {
            let output = deployed.deploy(project.path(), &arguments);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(why), "{text}");
        }
        let output = run(&deployed, &["destroy", "--yes"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("not one that Loopy made"), "{text}");
        assert_eq!(deployed.status(), status);
        let sets = deployed.cloudformation("list-change-sets", &[]);
        assert_eq!(
            sets["Summaries"].as_array().map_or(0, Vec::len),
            0,
            "{sets}"
        );
    }
}

#[tokio::test]
async fn a_stack_that_never_stood_is_made_anew() {
    let project = Project::new();
    let deployed = Deployed::nothing("never-stood");
    let template = project.folder.path().join("broken.yaml");
    std::fs::write(&template, BROKEN).unwrap();
    let body = format!("file://{}", template.display());
    let mut create = vec!["--template-body", &body, "--tags"];
    create.push("Key=loopy:project,Value=never-stood");
    deployed.cloudformation("create-stack", &create);
    becomes(&deployed, "ROLLBACK_COMPLETE").await;
    let planned = deployed.deploy(project.path(), &["--plan"]);
    assert_eq!(planned.status.code(), Some(1), "{}", said(&planned));
    let text = said(&planned);
    assert!(
        text.contains("stack never-stood is ROLLBACK_COMPLETE: it was never completed"),
        "{text}"
    );
    deploy(&deployed, &project, &[]);
    assert_eq!(deployed.status(), "CREATE_COMPLETE");
}

/// What somebody else does to the stack with a tool of their own: it says what the
/// webhook's address is by default anyway, and then it waits for what nobody ever says.
fn change_by_hand(deployed: &Deployed, project: &Project, arguments: &[&str]) {
    let found = deployed.cloudformation("get-template", &[]);
    let template = found["TemplateBody"].as_str().unwrap();
    let (resources, outputs) = template.split_once("\nOutputs:").unwrap();
    let before = "{ TargetFunctionArn: { Fn::GetAtt: [WebhookFunction, Arn] }";
    let changed = resources.replace(before, &format!("{before}, InvokeMode: BUFFERED"));
    assert_ne!(changed, resources);
    let template = format!("{changed}\n{WAIT}\nOutputs:{outputs}");
    let path = project.folder.path().join("by-hand.yaml");
    std::fs::write(&path, template).unwrap();
    // Too long to be handed over itself.
    let bucket = parameter(deployed, "AssetsBucket");
    let mut put = vec!["s3api", "put-object", "--bucket", &bucket];
    put.extend(["--key", "by-hand.yaml", "--body", path.to_str().unwrap()]);
    deployed.account.aws(&put);
    let account = &deployed.account;
    let host = match &account.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://s3.{}.amazonaws.com", account.region()),
    };
    let url = format!("{host}/{bucket}/by-hand.yaml");
    let found = deployed.cloudformation("describe-stacks", &[]);
    let parameters = found["Stacks"][0]["Parameters"].as_array().unwrap();
    let names = parameters
        .iter()
        .map(|it| it["ParameterKey"].as_str().unwrap());
    let kept: Vec<String> = names
        .map(|name| format!("ParameterKey={name},UsePreviousValue=true"))
        .collect();
    let mut update = vec!["--template-url", &url];
    update.extend(["--capabilities", "CAPABILITY_NAMED_IAM", "--parameters"]);
    update.extend(kept.iter().map(String::as_str));
    update.extend(arguments);
    deployed.cloudformation("update-stack", &update);
}

const WAIT: &str = "  ByHandHandle: { Type: AWS::CloudFormation::WaitConditionHandle }
  ByHand:
    Type: AWS::CloudFormation::WaitCondition
    DependsOn: WebhookUrl
    Properties: { Handle: { Ref: ByHandHandle }, Timeout: '15' }";

async fn becomes(deployed: &Deployed, expected: &str) {
    eventually(expected, LONG, async || match deployed.status() {
        status if status == expected => Ok(()),
        status => Err(status),
    })
    .await
    .unwrap();
}

async fn works(deployed: &Deployed, project: &Project) {
    let gate = project.folder.path().join("gate");
    std::fs::write(&gate, "").unwrap();
    go(deployed, &gate).await;
    let runs = deployed.runs_over(1).await;
    assert_eq!(runs[0]["status"], "succeeded");
}

#[tokio::test]
async fn a_change_that_stopped_half_way_is_undone_first() {
    let project = Project::new();
    let deployed = Deployed::nothing("half-way");
    deploy(&deployed, &project, &[]);
    change_by_hand(&deployed, &project, &["--disable-rollback"]);
    becomes(&deployed, "UPDATE_FAILED").await;

    let planned = deployed.deploy(project.path(), &["--plan"]);
    assert_eq!(planned.status.code(), Some(1), "{}", said(&planned));
    let text = said(&planned);
    let expected =
        "stack half-way is UPDATE_FAILED: its last change stopped half-way: it is undone";
    assert!(text.contains(expected), "{text}");
    assert_eq!(deployed.status(), "UPDATE_FAILED", "planning mends nothing");

    project.replace("workflows/echo/say.md", "first", "second");
    deploy(&deployed, &project, &[]);
    assert_eq!(deployed.status(), "UPDATE_COMPLETE");
    works(&deployed, &project).await;
}

#[tokio::test]
async fn undoing_that_failed_goes_on_where_it_stopped() {
    let project = Project::new();
    let deployed = Deployed::nothing("undoing");
    deploy(&deployed, &project, &[]);
    let function = deployed.resource("WebhookFunction");
    // The address is changed, something after it fails, and the address is gone by then.
    change_by_hand(&deployed, &project, &[]);
    eventually("the change to wait", LONG, async || {
        let found = deployed.cloudformation("describe-stack-events", &[]);
        let mut events = found["StackEvents"].as_array().unwrap().iter();
        let waits = events.any(|event| event["LogicalResourceId"] == "ByHand");
        waits.then_some(()).ok_or_else(|| found.to_string())
    })
    .await
    .unwrap();
    let named = ["--function-name", &function];
    let aws = |command, more: &[&str]| {
        deployed
            .account
            .aws(&[&["lambda", command], &named[..], more].concat())
    };
    aws("delete-function-url-config", &[]);
    becomes(&deployed, "UPDATE_ROLLBACK_FAILED").await;

    // What stands in the way is told, and stays in the way.
    let output = deployed.deploy(project.path(), &["--yes"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for expected in [
        "stack undoing is UPDATE_ROLLBACK_FAILED: its last change failed, and so did undoing it",
        "WebhookUrl: AWS::Lambda::Url update failed",
        "hint: mend the cause, then deploy again",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }

    aws("create-function-url-config", &["--auth-type", "NONE"]);
    deploy(&deployed, &project, &[]);
    assert_eq!(deployed.status(), "UPDATE_ROLLBACK_COMPLETE");
    project.replace("workflows/echo/say.md", "first", "second");
    deploy(&deployed, &project, &[]);
    assert_eq!(deployed.status(), "UPDATE_COMPLETE");
}
