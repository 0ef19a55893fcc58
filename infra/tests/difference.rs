//! What a change of a project is told as, and what of it lets somebody do more.

#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_contract::manifest::Manifest;
use loopy_infra::{Action, Difference, differences};
use serde_json::{Value, json};

fn project() -> Value {
    let step = |id: &str, more: Value| {
        let mut step = json!({
            "id": id, "trigger": null, "after": [], "agent": "Worker", "output": {},
            "emits": [], "budget": null, "body": "true", "refs": [],
        });
        for (key, value) in more.as_object().unwrap() {
            step[key] = value.clone();
        }
        step
    };
    json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Cloud": {"provider": "daytona", "image": {}, "network": ["github.com"],
                "env_file": ["secrets/base.env"], "repos": [{"url": "octo/hello", "ref": null, "path": null, "depth": 1}],
                "model_keys": "proxy"}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Cloud", "skills": [], "tools": ["read"]}},
            "events": {"PullRequest": {"fields": {"number": {"type": "integer"}}}},
        },
        "workflows": {
            "review": {"entry": "read", "steps": {
                "read": step("review/read", json!({"trigger": {"kind": "event", "event": "PullRequest"}})),
                "ship": step("review/ship", json!({"after": ["read"], "approve": {"before": true, "after": false, "within": 60, "otherwise": "deny"}})),
            }},
            "nightly": {"entry": "sweep", "steps": {
                "sweep": step("nightly/sweep", json!({"trigger": {"kind": "cron", "expr": "30 4 * * *", "tz": "Europe/Berlin"}})),
            }},
        },
        "sensors": [{"name": "pulls", "trigger": {"kind": "webhook", "path": "/hooks/pr", "verify": "github"},
            "emits": "PullRequest", "source": "module", "provider": null, "module": "sensors.hooks", "fn": "pulls"}],
        "lineage": {"events": {}}, "skills": {}, "sensor_files": {"sensors/hooks.py": "00"},
    })
}

const TEMPLATE: &str = r#"
Resources:
  StepRole:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Statement: [{ Effect: Allow, Principal: { Service: lambda.amazonaws.com }, Action: sts:AssumeRole }]
      Policies:
        - PolicyName: step
          PolicyDocument:
            Statement:
              - { Effect: Allow, Action: [logs:PutLogEvents], Resource: "*" }
              - { Effect: Allow, Action: [sqs:SendMessage], Resource: { Fn::GetAtt: [StepsQueue, Arn] } }
  Url:
    Type: AWS::Lambda::Url
    Properties: { AuthType: AWS_IAM }
"#;

fn read(value: Value) -> Manifest {
    serde_json::from_value::<Manifest>(value).unwrap().seal()
}

/// The differences after a change, each in a line; what widens is marked by `!`.
fn after(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut new = project();
    change(&mut new);
    told(differences((&read(project()), TEMPLATE), (&read(new), TEMPLATE)).unwrap())
}

fn told(differences: Vec<Difference>) -> Vec<String> {
    let line = |difference: Difference| {
        let sign = match difference.action {
            Action::Added => '+',
            Action::Changed => '~',
            Action::Removed => '-',
        };
        let mark = if difference.widens.is_some() { "!" } else { "" };
        let Difference {
            part, name, about, ..
        } = difference;
        format!("{mark}{sign} {}: {name}: {about}", part.title())
    };
    differences.into_iter().map(line).collect()
}

#[test]
fn nothing_that_stays_is_told() {
    assert_eq!(after(|_| ()), Vec::<String>::new());
}

#[test]
fn what_a_workflow_does_is_told_by_its_steps() {
    let change = |new: &mut Value| {
        let steps = &mut new["workflows"]["review"]["steps"];
        steps["read"]["body"] = json!("false");
        steps["more"] = json!({
            "id": "review/more", "trigger": null, "after": ["read"], "agent": "Worker", "output": {},
            "emits": [], "budget": null, "body": "true", "refs": [],
        });
        new["workflows"].as_object_mut().unwrap().remove("nightly");
        new["registry"]["events"]["Incident"] = json!({"fields": {"title": {"type": "string"}}});
        new["sensor_files"]["sensors/hooks.py"] = json!("01");
    };
    assert_eq!(
        after(change),
        [
            "~ workflows: review: step more added, step read changed",
            "- workflows: nightly: 1 step, at 30 4 * * * Europe/Berlin",
            "+ events: Incident: title",
            "- schedules: step nightly/sweep: 30 4 * * * Europe/Berlin",
            "~ sensor code: sensors/hooks.py: ",
        ]
    );
}

#[test]
fn what_lets_somebody_do_more_is_marked() {
    let sandbox = |new: &mut Value, part: &str, value: Value| {
        new["registry"]["sandboxes"]["Cloud"][part] = value;
    };
    let told = |change: &dyn Fn(&mut Value)| after(|new| change(new));
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let cases: [Case<'_>; 9] = [
        (
            "!~ egress: sandbox Cloud: github.com, evil.example (was github.com)",
            &|new| sandbox(new, "network", json!(["github.com", "evil.example"])),
        ),
        ("!~ egress: sandbox Cloud: all (was github.com)", &|new| {
            sandbox(new, "network", json!([]));
        }),
        (
            "!+ secrets: sandbox Cloud: secrets/more.env: given to what works there",
            &|new| {
                sandbox(
                    new,
                    "env_file",
                    json!(["secrets/base.env", "secrets/more.env"]),
                )
            },
        ),
        (
            "!~ secrets: sandbox Cloud: keys of models: in the sandbox (was with the engine)",
            &|new| sandbox(new, "model_keys", json!("sandbox")),
        ),
        ("!~ tools: agent Worker: read, bash (was read)", &|new| {
            new["registry"]["agents"]["Worker"]["tools"] = json!(["read", "bash"])
        }),
        ("!~ tools: agent Worker: all (was read)", &|new| {
            new["registry"]["agents"]["Worker"]["tools"] = json!([]);
        }),
        (
            "!~ webhooks: /hooks/pr: verified as none (was verified as github)",
            &|new| new["sensors"][0]["trigger"]["verify"] = json!("none"),
        ),
        ("!+ webhooks: /hooks/more: verified as github", &|new| {
            let mut sensor = new["sensors"][0].clone();
            sensor["name"] = json!("more");
            sensor["trigger"]["path"] = json!("/hooks/more");
            new["sensors"].as_array_mut().unwrap().push(sensor);
        }),
        (
            "!~ approvals: step review/ship: asks a person never (was before)",
            &|new| new["workflows"]["review"]["steps"]["ship"]["approve"] = json!(null),
        ),
    ];
    for (expected, change) in cases {
        let found = told(change);
        assert!(
            found.iter().any(|line| line == expected),
            "{expected}: {found:#?}"
        );
    }
    // The other way round nothing is.
    let mut wide = project();
    for (_, change) in cases {
        change(&mut wide);
    }
    let back = differences((&read(wide), TEMPLATE), (&read(project()), TEMPLATE)).unwrap();
    assert!(!back.is_empty());
    let marked: Vec<_> = back
        .iter()
        .filter(|difference| difference.widens.is_some())
        .collect();
    assert!(marked.is_empty(), "{marked:#?}");
}

#[test]
fn what_a_role_may_do_more_is_marked_and_its_log_is_not() {
    let wider = TEMPLATE
        .replace(
            "Action: [sqs:SendMessage]",
            "Action: [sqs:SendMessage, sqs:PurgeQueue]",
        )
        .replace("AuthType: AWS_IAM", "AuthType: NONE")
        .replace("logs:PutLogEvents", "logs:CreateLogStream");
    let manifest = read(project());
    let found = told(differences((&manifest, TEMPLATE), (&manifest, &wider)).unwrap());
    assert_eq!(
        found,
        [
            "!+ permissions: StepRole: sqs:PurgeQueue on StepsQueue",
            "!+ permissions: Url: a public address (AuthType NONE)",
            "- permissions: Url: a public address (AuthType AWS_IAM)",
        ]
    );
    assert!(differences((&manifest, ": ["), (&manifest, TEMPLATE)).is_err());
}
