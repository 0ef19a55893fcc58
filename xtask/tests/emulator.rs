//! What `localstack/emulator.py` mends is mended, seen from outside through the AWS CLI.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

fn prepared(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name}: run `cargo xtask test`, which prepares it"))
}

/// An account of its own on the emulator.
struct Account {
    id: String,
}

impl Account {
    fn new() -> Self {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        Self {
            id: format!("{:012}", now.as_nanos() % 1_000_000_000_000),
        }
    }

    /// Runs the AWS CLI; its JSON answer, or what it said on stderr.
    fn try_aws(&self, args: &[&str]) -> Result<Value, String> {
        let output = Command::new(prepared("LOOPY_TEST_AWS"))
            .args([
                "--endpoint-url",
                &prepared("LOOPY_TEST_EMULATOR"),
                "--output",
                "json",
            ])
            .args(args)
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    fn aws(&self, args: &[&str]) -> Value {
        self.try_aws(args)
            .unwrap_or_else(|error| panic!("aws {}: {error}", args.join(" ")))
    }

    fn queue_url(&self, name: &str) -> String {
        let answer = self.aws(&["sqs", "get-queue-url", "--queue-name", name]);
        answer["QueueUrl"].as_str().unwrap().to_owned()
    }

    /// The body of the next message, which must come within 15 seconds.
    fn receive(&self, queue_url: &str) -> String {
        let answer = self.aws(&[
            "sqs",
            "receive-message",
            "--queue-url",
            queue_url,
            "--wait-time-seconds",
            "15",
        ]);
        let message = &answer["Messages"][0];
        let handle = message["ReceiptHandle"]
            .as_str()
            .unwrap_or_else(|| panic!("no message came"));
        self.aws(&[
            "sqs",
            "delete-message",
            "--queue-url",
            queue_url,
            "--receipt-handle",
            handle,
        ]);
        message["Body"].as_str().unwrap().to_owned()
    }

    fn create_stack(&self, template: &Value) -> Value {
        self.aws(&[
            "cloudformation",
            "create-stack",
            "--stack-name",
            "test",
            "--template-body",
            &template.to_string(),
        ]);
        let begin = Instant::now();
        loop {
            let answer = self.aws(&["cloudformation", "describe-stacks", "--stack-name", "test"]);
            let status = answer["Stacks"][0]["StackStatus"].clone();
            if !status.as_str().unwrap().ends_with("_IN_PROGRESS") {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{answer}");
        }
    }
}

fn schedule(name: &str, group: &str, expression: &str) -> Value {
    json!({
        "Type": "AWS::Scheduler::Schedule",
        "DependsOn": "Group",
        "Properties": {
            "Name": name,
            "GroupName": group,
            "ScheduleExpression": expression,
            "ScheduleExpressionTimezone": "Europe/Berlin",
            "ActionAfterCompletion": "DELETE",
            "FlexibleTimeWindow": { "Mode": "OFF" },
            "Target": {
                "Arn": { "Fn::GetAtt": ["Queue", "Arn"] },
                "RoleArn": "arn:aws:iam::000000000000:role/test",
                "Input": "{\"at\":\"<aws.scheduler.scheduled-time>\"}",
            },
        },
    })
}

#[test]
fn schedules_of_a_stack_keep_their_zone_and_fire() {
    let account = Account::new();
    let status = account.create_stack(&json!({ "Resources": {
        "Queue": { "Type": "AWS::SQS::Queue", "Properties": { "QueueName": "ticks" } },
        "Group": { "Type": "AWS::Scheduler::ScheduleGroup", "Properties": { "Name": "group" } },
        "Daily": schedule("daily", "group", "cron(0 9 * * ? *)"),
        "Once": schedule("once", "group", "at(2026-01-01T00:00:00)"),
    }}));
    assert_eq!(status, "CREATE_COMPLETE");

    let daily = account.aws(&[
        "scheduler",
        "get-schedule",
        "--group-name",
        "group",
        "--name",
        "daily",
    ]);
    assert_eq!(daily["ScheduleExpressionTimezone"], "Europe/Berlin");

    // Midnight in Berlin is 23:00 in UTC in winter.
    let queue = account.queue_url("ticks");
    assert_eq!(account.receive(&queue), r#"{"at":"2025-12-31T23:00:00Z"}"#);
    let gone = account.try_aws(&[
        "scheduler",
        "get-schedule",
        "--group-name",
        "group",
        "--name",
        "once",
    ]);
    assert!(gone.unwrap_err().contains("ResourceNotFoundException"));

    // A name that was used before fires again.
    let target = json!({
        "Arn": format!("arn:aws:sqs:eu-west-1:{}:ticks", account.id),
        "RoleArn": "arn:aws:iam::000000000000:role/test",
        "Input": "again",
    });
    account.aws(&[
        "scheduler",
        "create-schedule",
        "--group-name",
        "group",
        "--name",
        "once",
        "--schedule-expression",
        "at(2026-01-02T00:00:00)",
        "--flexible-time-window",
        "Mode=OFF",
        "--target",
        &target.to_string(),
    ]);
    assert_eq!(account.receive(&queue), "again");
}

#[test]
fn a_stack_with_a_schedule_in_no_group_fails() {
    let account = Account::new();
    let status = account.create_stack(&json!({ "Resources": {
        "Queue": { "Type": "AWS::SQS::Queue" },
        "Group": { "Type": "AWS::Scheduler::ScheduleGroup", "Properties": { "Name": "group" } },
        "Once": schedule("once", "another", "rate(1 hour)"),
    }}));
    assert_eq!(status, "ROLLBACK_COMPLETE");
}

#[test]
fn tables_of_a_stack_have_time_to_live_and_backups() {
    let account = Account::new();
    let status = account.create_stack(&json!({ "Resources": { "Table": {
        "Type": "AWS::DynamoDB::Table",
        "Properties": {
            "TableName": "table",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{ "AttributeName": "pk", "AttributeType": "S" }],
            "KeySchema": [{ "AttributeName": "pk", "KeyType": "HASH" }],
            "TimeToLiveSpecification": { "AttributeName": "expires", "Enabled": true },
            "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": "true" },
        },
    }}}));
    assert_eq!(status, "CREATE_COMPLETE");
    let ttl = account.aws(&["dynamodb", "describe-time-to-live", "--table-name", "table"]);
    assert_eq!(
        ttl["TimeToLiveDescription"],
        json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": "expires" })
    );
    let backups = account.aws(&[
        "dynamodb",
        "describe-continuous-backups",
        "--table-name",
        "table",
    ]);
    assert_eq!(
        backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
        "ENABLED"
    );
}

#[test]
fn functions_do_not_see_this_machines_environment() {
    let account = Account::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("code.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    zip.start_file("app.py", zip::write::SimpleFileOptions::default())
        .unwrap();
    zip.write_all(b"import os\ndef handle(event, context):\n    return sorted(os.environ)\n")
        .unwrap();
    zip.finish().unwrap();
    account.aws(&[
        "lambda",
        "create-function",
        "--function-name",
        "env",
        "--runtime",
        "python3.12",
        "--handler",
        "app.handle",
        "--role",
        "arn:aws:iam::000000000000:role/test",
        "--zip-file",
        &format!("fileb://{}", path.display()),
    ]);
    let answer = folder.path().join("answer.json");
    account.aws(&[
        "lambda",
        "invoke",
        "--function-name",
        "env",
        answer.to_str().unwrap(),
    ]);
    let names: Vec<String> = serde_json::from_slice(&std::fs::read(answer).unwrap()).unwrap();
    assert!(
        names.iter().any(|name| name == "AWS_ENDPOINT_URL"),
        "{names:?}"
    );
    // The emulator was started by cargo, which sets these.
    let leaked: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with("CARGO") || name.starts_with("LOOPY_"))
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn it_ends_when_what_started_it_is_gone() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../localstack/emulator.py");
    let mut emulator = Command::new(prepared("LOOPY_TEST_PYTHON"))
        .args([script, "--until-stdin-closes", "--port", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "it did not come up"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(emulator.stdin.take());
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = emulator.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(15) {
            emulator.kill().unwrap();
            panic!("it outlives its standard input");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
    let mut rest = Vec::new();
    let refused =
        TcpStream::connect(("127.0.0.1", port)).and_then(|mut s| s.read_to_end(&mut rest));
    assert!(refused.is_err(), "something still listens");
}
