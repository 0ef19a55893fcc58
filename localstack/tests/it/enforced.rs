//! The example `github` in an account that checks signatures and lets each role do
//! only what its policies say: what the template gives is enough, and each function
//! needs it.

use crate::around::{Around, Delivery, MISLEADING};
use crate::project::{Project, SCRIPTS};
use crate::stack::{Deployed, LONG};
use crate::story;
use loopy_localstack::eventually;
use serde_json::{Value, json};

const FUNCTIONS: [&str; 6] = ["Webhook", "Sensor", "Start", "Step", "Report", "Watch"];
const FAILED: &str = r#"{ $.target = "loopy_engine::driver" && $.message = "run failed" }"#;

impl Deployed {
    /// The lines of a function's log that match a pattern.
    fn logged(&self, function: &str, pattern: &str) -> Vec<String> {
        let group = self.resource(&format!("{function}Logs"));
        let arguments = ["logs", "filter-log-events", "--log-group-name", &group];
        let found = self
            .account
            .aws(&[&arguments[..], &["--filter-pattern", pattern]].concat());
        let events = found["events"].as_array().unwrap().iter();
        events
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// How often a function was refused something of the service of this action: the
    /// statement may have had others that it needs first.
    fn denials(&self, function: &str, action: &str) -> usize {
        let (service, _) = action.split_once(':').unwrap();
        let lines = self.logged(function, "AccessDenied");
        let of_service = |line: &&String| line.contains(&format!("{service}:"));
        lines.iter().filter(of_service).count()
    }
}

/// A role's own policy.
struct Policy<'a> {
    deployed: &'a Deployed,
    role: String,
    name: String,
    document: Value,
}

impl<'a> Policy<'a> {
    fn of(deployed: &'a Deployed, function: &str) -> Self {
        let role = deployed.resource(&format!("{function}Role"));
        let name = function.to_ascii_lowercase();
        let named = ["--role-name", &role, "--policy-name", &name];
        let found = deployed
            .account
            .aws(&[&["iam", "get-role-policy"], &named[..]].concat());
        let document = found["PolicyDocument"].clone();
        Self {
            deployed,
            role,
            name,
            document,
        }
    }

    fn put(&self, document: &Value) {
        let text = document.to_string();
        let named = ["--role-name", &self.role, "--policy-name", &self.name];
        let document = ["--policy-document", &text];
        self.deployed
            .account
            .aws(&[&["iam", "put-role-policy"], &named[..], &document[..]].concat());
    }

    /// Takes out the statements with an action.
    fn without(&self, action: &str) {
        let mut less = self.document.clone();
        let statements = less["Statement"].as_array_mut().unwrap();
        let before = statements.len();
        statements.retain(|statement| !statement["Action"].to_string().contains(action));
        assert_eq!(statements.len(), before - 1, "{action}: {}", self.document);
        self.put(&less);
    }
}

#[tokio::test]
async fn roles_let_each_function_do_its_work_and_nothing_else() {
    let around = Around::new();
    let deployed = Deployed::nothing_enforced("enforced");
    let aws = |arguments: &[&str]| deployed.account.aws(arguments);

    // With all that can be asked for.
    let everything = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
    ]});
    let mut create = vec!["iam", "create-policy", "--policy-name", "boundary"];
    let everything = everything.to_string();
    create.extend(["--policy-document", &everything]);
    let made = aws(&create);
    let boundary = made["Policy"]["Arn"].as_str().unwrap();
    let bounded = format!("PermissionsBoundary={boundary}");
    let wrong = deployed.deploy(around.folder(), &["--yes", "--set", "Nonsense=1"]);
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success(), "{said}");
    assert!(said.contains("no parameter Nonsense; it has"), "{said}");
    let mut more = vec!["--yes", "--json", "--set", &bounded];
    for parameter in [
        "AlarmEmail=somebody@example.com",
        "NamePrefix=acme-",
        "Tracing=on",
    ] {
        more.extend(["--set", parameter]);
    }
    let first = deployed.deploy(around.folder(), &more);
    let said = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{said}");
    let answer: Value = serde_json::from_slice(&first.stdout).unwrap();
    let url = answer["webhooks"]["pull_request"].as_str().unwrap();
    let alarms = aws(&["cloudwatch", "describe-alarms"]);
    assert_eq!(alarms["MetricAlarms"].as_array().unwrap().len(), 9);
    for function in FUNCTIONS {
        let role = deployed.resource(&format!("{function}Role"));
        let role = aws(&["iam", "get-role", "--role-name", &role]);
        let bound = &role["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"];
        assert_eq!(bound, boundary, "{role:#}");
        let tag = json!({"Key": "loopy:project", "Value": "enforced"});
        assert!(
            role["Role"]["Tags"].as_array().unwrap().contains(&tag),
            "{role:#}"
        );
    }
    let watch = deployed.resource("WatchFunction");
    assert_eq!(watch, "acme-enforced-watch");

    // The whole story, in which nobody is refused anything.
    let delivery = Delivery::opened("44444444-dddd", None);
    assert_eq!(delivery.send(url).await, 202);
    let runs = deployed.runs_over(2).await;
    let shown: Vec<Value> = runs.iter().map(|run| deployed.show(run)).collect();
    story::told(&shown, &delivery.payload());
    around.sandboxes_gone().await;
    // A run that fails leaves the line that is counted.
    let misleading = Delivery::opened("55555555-eeee", Some(MISLEADING));
    assert_eq!(misleading.send(url).await, 202);
    let runs = deployed.runs_over(3).await;
    let failed = runs.iter().find(|run| run["status"] == "failed").unwrap();
    let group = deployed.resource("ReportLogs");
    let filters = aws(&[
        "logs",
        "describe-metric-filters",
        "--log-group-name",
        &group,
    ]);
    assert_eq!(
        filters["metricFilters"][0]["filterPattern"], FAILED,
        "{filters:#}"
    );
    eventually("the failure to be logged", LONG, async || {
        // The emulator does not read patterns of this kind.
        let lines = deployed.logged("Report", "failed");
        let counted = |line: &&String| {
            serde_json::from_str(line).is_ok_and(|line: Value| {
                line["target"] == "loopy_engine::driver" && line["message"] == "run failed"
            })
        };
        let counted: Vec<_> = lines.iter().filter(counted).collect();
        match counted.as_slice() {
            [line] if line.contains(failed["id"].as_str().unwrap()) => Ok(()),
            _ => Err(format!("{lines:?}")),
        }
    })
    .await
    .unwrap();
    for function in FUNCTIONS {
        let lines = deployed.logged(function, "AccessDenied");
        assert_eq!(lines, Vec::<String>::new(), "{function}");
    }

    // Without one of its statements each function is refused.
    let id = failed["id"].as_str().unwrap();
    for (number, (function, action)) in [
        ("Webhook", "sqs:SendMessage"),
        ("Sensor", "events:PutEvents"),
        ("Start", "dynamodb:PutItem"),
        ("Step", "scheduler:CreateSchedule"),
        ("Report", "dynamodb:PutItem"),
        ("Watch", "dynamodb:GetItem"),
    ]
    .into_iter()
    .enumerate()
    {
        let policy = Policy::of(&deployed, function);
        policy.without(action);
        let taken = if function == "Watch" {
            // Nothing of the story asks it to look at a run so soon.
            let look = json!({"kind": "time_limit", "run": id, "step": "read", "attempt": 1});
            let (queue, look) = (deployed.output("WatchQueue"), look.to_string());
            let mut send = vec!["sqs", "send-message", "--queue-url", &queue];
            send.extend(["--message-body", &look]);
            aws(&send);
            true
        } else {
            let delivery = Delivery::opened(&format!("{number}6666666-ffff"), None);
            delivery.send(url).await == 202
        };
        assert_eq!(taken, function != "Webhook", "{function}");
        eventually("a refusal", LONG, async || {
            match deployed.denials(function, action) {
                0 => Err(format!("{:?}", deployed.logged(function, "ERROR"))),
                _ => Ok(()),
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{function} does without {action}: {error:?}"));
        policy.put(&policy.document);
    }
}

/// Set off by a schedule: a step by cron, and a sensor in each language.
const TIMED: [(&str, &str); 4] = [
    (
        "sensors/python.py",
        "from loopy import sensor


@sensor(poll=\"1m\", emits=\"Seen\")
def python(tick):
    return {\"by\": \"python\"}
",
    ),
    (
        "sensors/typescript.ts",
        "export const sensorRegistry = {
  typescript: { poll: \"1m\", emits: \"Seen\", run: () => ({ by: \"typescript\" }) },
};
",
    ),
    (
        "sensors/shell.sh",
        "# loopy: poll=\"1m\" emits=\"Seen\"\necho '{\"by\": \"shell\"}'\n",
    ),
    (
        "workflows/nightly/tick.md",
        "---\non: cron(\"* * * * *\")\nagent: Shell\n---\ntrue\n",
    ),
];

#[tokio::test]
async fn what_schedules_set_off_may_do_its_work_too() {
    let registry = format!("{SCRIPTS}events:\n  Seen: {{ by: str }}\n");
    let files = [&[("registry.yml", registry.as_str())], &TIMED[..]];
    let project = Project::of(&files.concat());
    let deployed = Deployed::nothing_enforced("timed");
    let first = deployed.deploy(project.path(), &["--yes"]);
    let said = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{said}");

    eventually("a tick", LONG, async || {
        let runs = deployed.runs(&["list", "--workflow", "nightly", "--status", "succeeded"]);
        match runs.as_array().unwrap().len() {
            0 => Err(format!("{:#}", deployed.runs(&["list"]))),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    eventually("a turn of each sensor", LONG, async || {
        let list = [
            &["events", "list", "--event", "Seen", "--json"][..],
            &deployed.place(),
        ];
        let seen = deployed.loopy.json(&list.concat()).unwrap();
        let by = ["python", "typescript", "shell"];
        let missing = by.iter().find(|by| !seen.to_string().contains(**by));
        missing.map_or(Ok(()), |by| Err(format!("{by}: {seen:#}")))
    })
    .await
    .unwrap();
    let sensors = ["PythonSensors", "TypescriptSensors", "ShellSensors"];
    for function in sensors.into_iter().chain(FUNCTIONS) {
        let lines = deployed.logged(function, "AccessDenied");
        assert_eq!(lines, Vec::<String>::new(), "{function}");
    }
}
