//! What `loopy compile --emit` writes, deployed by plain CloudFormation.

use crate::around::{Around, Delivery, SECRET};
use crate::stack::Deployed;
use crate::story;
use loopy_localstack::prepared;
use serde_json::json;
use std::process::Command;

#[tokio::test]
async fn the_emitted_stack_works_by_plain_cloudformation() {
    let around = Around::new();
    let deployed = Deployed::nothing("plain-reviews");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    let functions = prepared("LOOPY_TEST_DIST").unwrap();
    let arguments = [
        "compile",
        around.folder(),
        "--emit",
        to,
        "--functions",
        &functions,
    ];
    let emitted = deployed.loopy.run(&arguments).unwrap();
    let said = String::from_utf8_lossy(&emitted.stderr);
    assert!(emitted.status.success(), "{said}");

    let template = format!("{to}/template.yaml");
    let lint = Command::new(prepared("LOOPY_TEST_CFN_LINT").unwrap())
        .args(["--non-zero-exit-code", "informational", &template])
        .output()
        .unwrap();
    assert!(
        lint.status.success(),
        "{}",
        String::from_utf8_lossy(&lint.stdout)
    );

    let bucket = &deployed.account.bucket;
    let aws = |arguments: &[&str]| deployed.account.aws(arguments);
    aws(&["s3", "mb", &format!("s3://{bucket}")]);
    let assets = format!("{to}/assets");
    aws(&["s3", "sync", &assets, &format!("s3://{bucket}")]);
    let overrides = format!("AssetsBucket={bucket}");
    let mut deploy = vec!["cloudformation", "deploy", "--stack-name", deployed.stack];
    deploy.extend(["--template-file", &template, "--s3-bucket", bucket]);
    deploy.extend(["--capabilities", "CAPABILITY_IAM"]);
    deploy.extend(["--parameter-overrides", &overrides]);
    aws(&deploy);

    // The command says which secrets want values.
    let mut agent = serde_json::Map::new();
    for (name, value) in around.model.env() {
        agent.insert(name, json!(value));
    }
    let daytona = &around.daytona;
    for (output, value) in [
        ("WebhookSecret", json!({ "GITHUB_WEBHOOK_SECRET": SECRET })),
        ("SandboxSecret", json!({ "Cloud": agent })),
        (
            "EngineSecret",
            json!({ "DAYTONA_API_KEY": daytona.key(), "DAYTONA_API_URL": daytona.url() }),
        ),
    ] {
        assert!(said.contains(output), "{said}");
        let (secret, value) = (deployed.output(output), value.to_string());
        let mut put = vec!["secretsmanager", "put-secret-value", "--secret-id", &secret];
        put.extend(["--secret-string", &value]);
        aws(&put);
    }

    let webhook = deployed.output("WebhookUrl");
    let webhook = loopy_aws::endpoint::function_url(&webhook, deployed.account.endpoint.as_deref());
    let url = format!("{}/hooks/github", webhook.trim_end_matches('/'));
    let delivery = Delivery::opened("33333333-cccc", None);
    assert_eq!(delivery.send(&url).await, 202);
    let runs = deployed.runs_over(2).await;
    let shown: Vec<_> = runs.iter().map(|run| deployed.show(run)).collect();
    story::told(&shown, &delivery.payload());
}
