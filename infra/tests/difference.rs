//! What a change of a project is told as, and what of it lets somebody do more.

#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_contract::manifest::Manifest;
use loopy_infra::{Action, Difference, differences, parameters};
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
            "!~ approvals: step review/ship: asks a person never (was before, else is denied after 60 s)",
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

/// A project with a weaker agent beside a stronger one, each in a sandbox of its own.
fn two_agents() -> Value {
    let mut project = project();
    let registry = &mut project["registry"];
    registry["sandboxes"]["Open"] = json!({"provider": "daytona", "image": {}, "network": [],
        "env_file": ["secrets/base.env", "secrets/live.env"],
        "repos": [{"url": "octo/private", "ref": null, "path": null, "depth": null}]});
    registry["agents"]["Strong"] = json!({"harness": "claude-code", "model": "m", "sandbox": "Open",
        "skills": []});
    let steps = &mut project["workflows"]["nightly"]["steps"];
    steps["sweep"]["agent"] = json!("Strong");
    project
}

fn between(old: Value, new: Value) -> Vec<String> {
    told(differences((&read(old), TEMPLATE), (&read(new), TEMPLATE)).unwrap())
}

#[test]
fn a_step_that_is_given_to_a_stronger_agent_has_to_be_agreed_to() {
    let mut new = two_agents();
    new["workflows"]["review"]["steps"]["read"]["agent"] = json!("Strong");
    assert_eq!(
        between(two_agents(), new.clone()),
        [
            "~ workflows: review: step read changed",
            "!~ tools: step review/read: agent Strong: all (was agent Worker: read)",
            "!+ secrets: step review/read: keys of models: in the sandbox (was with the engine)",
            "!+ secrets: step review/read: secrets/live.env: given to what does the step",
            "!~ egress: step review/read: sandbox Open: all (was sandbox Cloud: github.com)",
            "!+ repositories: step review/read: octo/private: cloned for the step",
        ]
    );
    // The other way round only what it did not have is marked.
    assert_eq!(
        between(new, two_agents()),
        [
            "~ workflows: review: step read changed",
            "~ tools: step review/read: agent Worker: read (was agent Strong: all)",
            "~ egress: step review/read: sandbox Cloud: github.com (was sandbox Open: all)",
            "!+ repositories: step review/read: octo/hello: cloned for the step",
        ]
    );
    // An agent that moves takes its steps along.
    let mut moved = two_agents();
    moved["registry"]["agents"]["Worker"]["sandbox"] = json!("Open");
    let found = between(two_agents(), moved);
    for expected in [
        "~ agents: Worker: sandbox Open (was Cloud)",
        "!~ egress: step review/ship: sandbox Open: all (was sandbox Cloud: github.com)",
    ] {
        assert!(found.iter().any(|line| line == expected), "{found:#?}");
    }
}

#[test]
fn nothing_of_the_registry_changes_unseen() {
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let cases: [Case<'_>; 14] = [
        ("~ agents: Worker: model m (was none)", &|new| {
            new["registry"]["agents"]["Worker"]["model"] = json!("m");
        }),
        ("~ agents: Worker: skills review (was none)", &|new| {
            new["registry"]["agents"]["Worker"]["skills"] = json!(["review"]);
        }),
        ("~ agents: Worker: harness codex (was command)", &|new| {
            new["registry"]["agents"]["Worker"]["harness"] = json!("codex");
        }),
        ("!+ tools: agent More: all", &|new| {
            new["registry"]["agents"]["More"] =
                json!({"harness": "codex", "model": null, "sandbox": null, "skills": []});
        }),
        (
            "!~ sandboxes: Cloud: provider fargate (was daytona)",
            &|new| {
                new["registry"]["sandboxes"]["Cloud"]["provider"] = json!("fargate");
            },
        ),
        (
            r#"~ sandboxes: Cloud: image {"base":"debian"} (was {})"#,
            &|new| {
                new["registry"]["sandboxes"]["Cloud"]["image"] = json!({"base": "debian"});
            },
        ),
        ("+ limits: a day in dollars: 5", &|new| {
            new["registry"]["limits"] = json!({"day": {"spend": {"usd": 5.0}}});
        }),
        ("!+ limits: price of m: 1 in, 2 out", &|new| {
            new["registry"]["prices"] = json!({"m": {"input": 1.0, "output": 2.0}});
        }),
        (
            "~ sensor code: sensor pulls: emits Other (was emits PullRequest)",
            &|new| {
                new["sensors"][0]["emits"] = json!("Other");
            },
        ),
        (
            "~ approvals: step review/ship: asks a person before, else is denied after 30 s \
             (was before, else is denied after 60 s)",
            &|new| {
                new["workflows"]["review"]["steps"]["ship"]["approve"]["within"] = json!(30);
            },
        ),
        (
            "!~ approvals: step review/ship: asks a person before, else goes on after 60 s \
             (was before, else is denied after 60 s)",
            &|new| {
                new["workflows"]["review"]["steps"]["ship"]["approve"]["otherwise"] =
                    json!("approve");
            },
        ),
        (
            "~ the rest: the manifest: compiled by Loopy 1 (was 0)",
            &|new| {
                new["loopy_version"] = json!("1");
            },
        ),
        ("~ the rest: the manifest: something else changed", &|new| {
            new["sensor_modules"] = json!({"sensors/hooks.ts.mjs": "00"});
        }),
        ("!~ tools: agent Worker: read, bash (was read)", &|new| {
            new["registry"]["agents"]["Worker"]["tools"] = json!(["read", "bash"]);
        }),
    ];
    for (expected, change) in cases {
        let found = after(|new| change(new));
        assert!(
            found.iter().any(|line| line == expected),
            "{expected}: {found:#?}"
        );
    }
}

#[test]
fn a_cap_that_is_raised_or_goes_has_to_be_agreed_to() {
    let limited = |limits: Value, price: f64| {
        let mut project = project();
        project["registry"]["limits"] = limits;
        project["registry"]["prices"] = json!({"m": {"input": price, "output": 2.0}});
        project
    };
    let old = || {
        let limits = json!({"cascade_runs": 9, "workflows": {"review": {"spend": {"usd": 1.5}}}});
        limited(limits, 1.0)
    };
    let new = json!({"workflows": {"review": {"spend": {"usd": 2.0}}}});
    let wider = limited(new, 0.5);
    assert_eq!(
        between(old(), wider.clone()),
        [
            "!~ limits: price of m: 0.5 in, 2 out (was 1 in, 2 out)",
            "!~ limits: workflow review in dollars: 2 (was 1.5)",
            "!- limits: a cascade in runs: 9",
        ]
    );
    let back = between(wider, old());
    assert!(back.iter().all(|line| !line.starts_with('!')), "{back:#?}");
    assert_eq!(back.len(), 3);
}

#[test]
fn a_poll_that_tells_of_everything_again_is_told() {
    let polls = |on_change: bool| {
        let mut project = project();
        project["sensors"][0]["trigger"] =
            json!({"kind": "poll", "interval": "5m", "on_change": on_change});
        project
    };
    assert_eq!(
        between(polls(true), polls(false)),
        ["~ sensor code: sensor pulls: emits PullRequest (was emits PullRequest when it changes)"]
    );
}

#[test]
fn what_held_a_role_back_and_policies_beside_it_are_seen() {
    let policies = r#"
  Bound:
    Type: AWS::IAM::Role
    Properties:
      PermissionsBoundary: { Ref: Boundary }
      Policies:
        - PolicyName: never
          PolicyDocument:
            Statement: [{ Effect: Deny, Action: "s3:*", NotResource: "arn:mine" }]
  Beside:
    Type: AWS::IAM::Policy
    Properties:
      Roles: [{ Ref: Bound }]
      PolicyDocument:
        Statement:
          - { Effect: Allow, Action: xray:PutTraceSegments, Resource: "*" }
          - { Effect: Deny, Action: iam:PassRole, Resource: "*" }
"#;
    let manifest = read(project());
    let with = |more: &str| format!("{TEMPLATE}{more}");
    let differ =
        |old: &str, new: &str| told(differences((&manifest, old), (&manifest, new)).unwrap());
    let bound = with(policies);
    let loose = bound
        .replace("      PermissionsBoundary: { Ref: Boundary }\n", "")
        .replace("NotResource: \"arn:mine\"", "Resource: \"arn:mine\"")
        .replace("xray:PutTraceSegments", "xray:*");
    assert_eq!(
        differ(&bound, &loose),
        [
            "!+ permissions: Beside: xray:* on * for Bound",
            "+ permissions: Bound: never s3:* on arn:mine",
            "- permissions: Beside: xray:PutTraceSegments on * for Bound",
            "!- permissions: Bound: is bounded by Boundary; never s3:* on all but arn:mine",
        ]
    );
    // A policy that goes lets loose the role that it was for.
    let (head, _) = bound.split_once("  Beside:").unwrap();
    let found = differ(&bound, head);
    let expected = "!- permissions: Beside: never iam:PassRole on * for Bound";
    assert!(found.iter().any(|line| line == expected), "{found:#?}");
    // Who goes itself is let loose from nothing.
    let found = differ(&bound, TEMPLATE);
    assert!(
        found.iter().all(|line| !line.starts_with('!')),
        "{found:#?}"
    );
}

#[test]
fn a_boundary_that_is_taken_away_by_a_parameter_has_to_be_agreed_to() {
    let had = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let before = had(&[
        ("PermissionsBoundary", "arn:b"),
        ("PublicConcurrency", "50"),
        ("Tracing", "off"),
        ("AlarmEmail", ""),
    ]);
    let told = |given: &[(&str, &str)]| told(parameters(&before, &had(given)));
    assert_eq!(
        told(&[
            ("PermissionsBoundary", ""),
            ("PublicConcurrency", ""),
            ("Tracing", "on"),
            ("AlarmEmail", ""),
        ]),
        [
            "!~ parameters: PermissionsBoundary: nothing (was arn:b)",
            "!~ parameters: PublicConcurrency: nothing (was 50)",
            "~ parameters: Tracing: on (was off)",
        ]
    );
    assert_eq!(
        told(&[("PublicConcurrency", "51")]),
        ["!~ parameters: PublicConcurrency: 51 (was 50)"]
    );
    assert_eq!(
        told(&[("PublicConcurrency", "49")]),
        ["~ parameters: PublicConcurrency: 49 (was 50)"]
    );
}
