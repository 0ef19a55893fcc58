//! The stack of a sample project: what is added to the template, that
//! cfn-lint and checkov find nothing in it, and what cannot be deployed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{Manifest, VerifyScheme};
use loopy_infra::{Architecture, Binaries, Stack, StackError, emit, refusals, stack};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const SKILL: &[u8] = b"# Review\n";
const SCRIPT: &[u8] = b"echo '{}'\n";
const TYPESCRIPT: &[u8] = b"export const sensorRegistry: R = {};\n";
const JAVASCRIPT: &[u8] = b"export const sensorRegistry = {};\n";
const SENSOR: &[u8] = b"def pull_request(request):\n    return {}\n";

fn manifest_value() -> Value {
    let step = |id: &str, trigger: Value, agent: &str| {
        json!({
            "id": id, "trigger": trigger, "after": [], "agent": agent, "output": {},
            "emits": [], "budget": null, "body": "true", "refs": [],
        })
    };
    let sandbox = |provider: &str, env_file: Value| json!({"provider": provider, "image": {}, "network": [], "env_file": env_file, "repos": []});
    let agent = |sandbox: &str| json!({"harness": "command", "model": null, "sandbox": sandbox, "skills": []});
    json!({
        "schema_version": "3",
        "loopy_version": "0.1.0",
        "registry": {
            "sandboxes": {
                "Cloud": sandbox("daytona", json!(["secrets/base.env"])),
                "Unused": sandbox("daytona", json!(["secrets/none.env"])),
            },
            "agents": {"Worker": agent("Cloud"), "Idle": agent("Unused")},
            "events": {
                "PullRequest": {"fields": {"number": {"type": "integer"}}},
                "Github.Push": {"fields": {}},
            },
        },
        "workflows": {
            "review": {"entry": "read", "steps": {
                "read": step("review/read", json!({"kind": "event", "event": "PullRequest"}), "Worker")}},
            "again": {"entry": "read", "steps": {
                "read": step("again/read", json!({"kind": "event", "event": "PullRequest"}), "Worker")}},
            "push": {"entry": "look", "steps": {
                "look": step("push/look", json!({"kind": "event", "event": "Github.Push"}), "Worker")}},
            "nightly": {"entry": "sweep", "steps": {
                "sweep": step("nightly/sweep", json!({"kind": "cron", "expr": "30 4 1,15 * 5", "tz": "Europe/Berlin"}), "Worker")}},
            "hourly": {"entry": "tick-tock", "steps": {
                "tick-tock": step("hourly/tick-tock", json!({"kind": "cron", "expr": "0 * * * *", "tz": null}), "Worker")}},
        },
        "sensors": [
            {"name": "pull_request", "trigger": {"kind": "webhook", "path": "/hooks/pr", "verify": "github"},
             "emits": "PullRequest", "source": "module", "provider": null,
             "module": "sensors.hooks", "fn": "pull_request"},
            {"name": "pushes", "trigger": {"kind": "poll", "interval": "5m"},
             "emits": "Github.Push", "source": "module", "provider": null,
             "module": "sensors.hooks", "fn": "pushes"},
            {"name": "open", "trigger": {"kind": "webhook", "path": "/hooks/open", "verify": "none"},
             "emits": "PullRequest", "source": "module", "provider": null,
             "module": "sensors.hooks", "fn": "open"},
            {"name": "tick", "trigger": {"kind": "poll", "interval": "1h"},
             "emits": "PullRequest", "source": "typescript", "provider": null,
             "module": "sensors/tick.ts", "fn": "tick"},
            {"name": "disk", "trigger": {"kind": "poll", "interval": "1h", "on_change": true},
             "emits": "PullRequest", "source": "shell", "provider": null,
             "module": "sensors/disk.sh", "fn": null},
        ],
        "lineage": {"events": {}},
        "skills": {"review": {"SKILL.md": sha256_hex(SKILL)}},
        "sensor_files": {
            "sensors/disk.sh": sha256_hex(SCRIPT),
            "sensors/hooks.py": sha256_hex(SENSOR),
            "sensors/tick.ts": sha256_hex(TYPESCRIPT),
        },
        "sensor_modules": {"sensors/tick.ts.mjs": sha256_hex(JAVASCRIPT)},
    })
}

fn manifest() -> Manifest {
    serde_json::from_value::<Manifest>(manifest_value())
        .unwrap()
        .seal()
}

fn files() -> BTreeMap<String, Vec<u8>> {
    [SKILL, SENSOR, SCRIPT, TYPESCRIPT, JAVASCRIPT]
        .into_iter()
        .map(|bytes| (sha256_hex(bytes), bytes.to_vec()))
        .collect()
}

fn binaries() -> Binaries {
    let functions = loopy_infra::stack::BINARIES.map(|name| (name, zip(name)));
    Binaries {
        architecture: Architecture::X86_64,
        functions: functions.into(),
        runner: b"runner".to_vec(),
    }
}

/// A function's zip.
fn zip(name: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("bootstrap", options).unwrap();
    std::io::Write::write_all(&mut zip, name.as_bytes()).unwrap();
    zip.finish().unwrap().into_inner()
}

/// The files in a zip, with their contents.
fn unzipped(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    (0..zip.len())
        .map(|index| {
            let mut file = zip.by_index(index).unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut file, &mut text).unwrap();
            (file.name().unwrap().into_owned(), text)
        })
        .collect()
}

#[test]
fn each_language_has_its_host_and_the_projects_files() {
    let made = sample();
    let files = |language: &str| {
        let asset = made.assets.iter().find(|asset| {
            let name = asset.key.strip_prefix("sensors/");
            name.is_some_and(|name| name.starts_with(&format!("{language}-")))
        });
        unzipped(&asset.unwrap().bytes)
    };
    let own = ["sensors/disk.sh", "sensors/hooks.py", "sensors/tick.ts"];
    for (language, host, more) in [
        ("python", "loopy_sensors.py", None),
        (
            "typescript",
            "loopy_sensors.mjs",
            Some("sensors/tick.ts.mjs"),
        ),
        ("shell", "bootstrap", None),
    ] {
        let found = files(language);
        let mut expected: Vec<&str> = own.into_iter().chain([host]).chain(more).collect();
        expected.sort_unstable();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected, "{language}");
    }
    assert_eq!(files("shell")["bootstrap"], "shell");
    assert_eq!(
        files("python")["loopy_sensors.py"],
        loopy_sensors::PYTHON_HOST
    );
    assert_eq!(
        files("typescript")["loopy_sensors.mjs"],
        loopy_sensors::NODE_HOST
    );
}

#[test]
fn what_a_kernel_runs_is_executable_in_a_stack_as_it_is_here() {
    let programs: [(&str, &[u8], u32); 4] = [
        ("sensors/bin/compiled", b"\x7fELF\x02\x01", 0o755),
        ("sensors/bin/script", b"#!/bin/sh\necho\n", 0o755),
        ("sensors/bin/list.txt", b"one\n", 0o644),
        ("sensors/hooks.py", SENSOR, 0o644),
    ];
    let mut value = manifest_value();
    let mut files = files();
    for (path, bytes, _) in programs {
        value["sensor_files"][path] = json!(sha256_hex(bytes));
        files.insert(sha256_hex(bytes), bytes.to_vec());
    }
    let manifest = serde_json::from_value::<Manifest>(value).unwrap().seal();
    let made = stack(&manifest, &files, &binaries(), true).unwrap();
    for language in ["python", "typescript", "shell"] {
        let begins = format!("sensors/{language}-");
        let asset = made.assets.iter().find(|one| one.key.starts_with(&begins));
        let bytes = std::io::Cursor::new(&asset.unwrap().bytes);
        let mut zip = zip::ZipArchive::new(bytes).unwrap();
        for (path, _, mode) in programs {
            let found = zip.by_name(path).unwrap().unix_mode().unwrap() & 0o777;
            assert_eq!(found, mode, "{language} {path}");
        }
    }
}

fn sample() -> Stack {
    stack(&manifest(), &files(), &binaries(), true).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The path of a checker that `cargo xtask test` installs.
fn checker(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set; run `cargo xtask test`, which prepares it")
    })
}

/// Neither checker has anything to say, but what the template itself answers.
fn assert_clean(template: &Path) {
    let output = Command::new(checker("LOOPY_TEST_CFN_LINT"))
        .args(["--include-checks", "I", "--"])
        .arg(template)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{text}{errors}");

    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("template.yaml");
    std::fs::copy(template, &copy).unwrap();
    let output = Command::new(checker("LOOPY_TEST_CHECKOV"))
        // Nothing of what it knows is asked for over the network.
        .args([
            "--framework",
            "cloudformation",
            "--skip-download",
            "--compact",
        ])
        .args(["--output", "json", "--file"])
        .arg(&copy)
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let failed: Vec<String> = found["results"]["failed_checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| {
            format!(
                "{}: {} {}",
                check["resource"], check["check_id"], check["check_name"]
            )
        })
        .collect();
    assert_eq!(failed, Vec::<String>::new());
    let summary = &found["summary"];
    assert_eq!(summary["parsing_errors"], 0, "{summary}");
    assert!(summary["passed"].as_u64() > Some(100), "{summary}");
    for check in found["results"]["skipped_checks"].as_array().unwrap() {
        let why = check["check_result"]["suppress_comment"].as_str();
        assert!(why.is_some_and(|why| why.len() > 30), "{check}");
    }
}

#[test]
fn what_the_project_adds() {
    let base = yaml(include_str!("../../template.yaml"));
    let made = yaml(&sample().template);
    let mut added = BTreeMap::new();
    for section in ["Resources", "Outputs"] {
        for (name, value) in made[section].as_object().unwrap() {
            if base[section][name].is_null() {
                added.insert(format!("{section}.{name}"), value.clone());
            }
        }
        for name in base[section].as_object().unwrap().keys() {
            assert!(!made[section][name].is_null(), "{section}.{name} was lost");
        }
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&added).unwrap());
}

#[test]
fn only_the_bucket_has_to_be_said() {
    let sample = sample();
    let made = yaml(&sample.template);
    let without_default: Vec<&String> = made["Parameters"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, parameter)| parameter["Default"].is_null())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(without_default, ["AssetsBucket"]);
    let all: Vec<&String> = made["Parameters"].as_object().unwrap().keys().collect();
    assert_eq!(
        all,
        [
            "AlarmEmail",
            "AlarmTopic",
            "AssetsBucket",
            "KmsKey",
            "LogRetentionDays",
            "NamePrefix",
            "PermissionsBoundary",
            "PublicConcurrency",
            "Tracing",
        ]
    );
    let variables = &made["Resources"]["WebhookFunction"]["Properties"]["Environment"]["Variables"];
    assert_eq!(variables["LOOPY_MANIFEST"], json!(manifest().hash));
}

#[test]
fn every_code_key_is_an_asset() {
    let sample = sample();
    let made = yaml(&sample.template);
    let mut found = 0;
    for (name, resource) in made["Resources"].as_object().unwrap() {
        if resource["Type"] == "AWS::Lambda::Function" {
            let key = resource["Properties"]["Code"]["S3Key"].as_str().unwrap();
            assert!(
                sample.assets.iter().any(|asset| asset.key == key),
                "{name}: {key}"
            );
            found += 1;
        }
    }
    assert_eq!(found, 9);
    let manifest = manifest();
    let runner = sha256_hex(b"runner");
    for key in [
        format!("manifests/{}.json", manifest.hash),
        format!("runner/{runner}"),
        format!("files/{}", sha256_hex(SKILL)),
    ] {
        assert!(sample.assets.iter().any(|asset| asset.key == key), "{key}");
    }
}

#[test]
fn a_role_names_only_resources_of_its_stack() {
    names_only_its_own(&sample());
    let tasks = with_tasks(json!({"base": "a"}));
    names_only_its_own(&stack(&tasks, &files(), &binaries(), true).unwrap());
}

fn names_only_its_own(stack: &Stack) {
    let made = yaml(&stack.template);
    for (name, resource) in made["Resources"].as_object().unwrap() {
        if resource["Type"] != "AWS::IAM::Role" {
            continue;
        }
        assert!(
            resource["Properties"]["ManagedPolicyArns"].is_null(),
            "{name}"
        );
        for policy in resource["Properties"]["Policies"].as_array().unwrap() {
            for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
                // What AWS lets nobody name: a trace, a login to the account's registry,
                // and tasks where they are listed, of one cluster.
                let traces = json!(["xray:PutTraceSegments", "xray:PutTelemetryRecords"]);
                let nameless = match statement["Action"].as_str() {
                    None => statement["Action"] == traces,
                    Some("ecr:GetAuthorizationToken") => true,
                    Some("ecs:ListTasks") => {
                        statement["Condition"]["ArnEquals"]["ecs:cluster"].is_object()
                    }
                    _ => false,
                };
                assert!(
                    nameless || statement["Resource"] != json!("*"),
                    "{name}: {statement}"
                );
                assert!(
                    !statement["Action"].to_string().contains('*'),
                    "{name}: {statement}"
                );
            }
        }
    }
}

#[test]
fn every_queue_waits_six_times_its_functions_timeout() {
    let made = yaml(&sample().template);
    let resources = &made["Resources"];
    let mut found = 0;
    for (name, mapping) in resources.as_object().unwrap() {
        if mapping["Type"] != "AWS::Lambda::EventSourceMapping" {
            continue;
        }
        let function = mapping["Properties"]["FunctionName"]["Ref"]
            .as_str()
            .unwrap();
        let queue = mapping["Properties"]["EventSourceArn"]["Fn::GetAtt"][0]
            .as_str()
            .unwrap();
        let timeout = resources[function]["Properties"]["Timeout"]
            .as_u64()
            .unwrap();
        let visible = resources[queue]["Properties"]["VisibilityTimeout"]
            .as_u64()
            .unwrap();
        assert!(visible >= 6 * timeout, "{name}: {visible} < 6 * {timeout}");
        assert_eq!(
            mapping["Properties"]["FunctionResponseTypes"],
            json!(["ReportBatchItemFailures"]),
            "{name}"
        );
        assert_eq!(
            resources[queue]["Properties"]["RedrivePolicy"]["maxReceiveCount"],
            json!(loopy_engine::message::MAX_RECEIVES)
        );
        found += 1;
    }
    assert_eq!(found, 4);
}

/// Whichever function applies an input of an attempt performs what an earlier
/// input of it left pending.
#[test]
fn a_result_taken_during_the_launch_left_the_step_function_an_event_it_could_not_publish() {
    let made = yaml(&sample().template);
    for function in ["Step", "Report", "Watch"] {
        let properties = &made["Resources"][format!("{function}Function")]["Properties"];
        for variable in [
            "LOOPY_BUS",
            "LOOPY_QUEUE_STEPS",
            "LOOPY_QUEUE_WATCH",
            "LOOPY_STATE_BUCKET",
            "LOOPY_SCHEDULE_GROUP",
            "LOOPY_SCHEDULE_ROLE",
        ] {
            let value = &properties["Environment"]["Variables"][variable];
            assert!(!value.is_null(), "{function}: {variable}");
        }
        let role = &made["Resources"][format!("{function}Role")]["Properties"];
        let statements = role["Policies"][0]["PolicyDocument"]["Statement"].to_string();
        for action in [
            "events:PutEvents",
            "sqs:SendMessage",
            "scheduler:CreateSchedule",
            "scheduler:DeleteSchedule",
            "iam:PassRole",
            "s3:PutObject",
        ] {
            assert!(statements.contains(action), "{function}: {action}");
        }
    }
}

/// What the fixed half has in writing is what any project's resources get.
#[test]
fn whatever_a_project_adds_is_bound_tagged_traced_and_encrypted_as_the_rest() {
    let tasks = with_tasks(json!({"base": "a"}));
    let full = stack(&tasks, &files(), &binaries(), true).unwrap();
    let base = yaml(include_str!("../../template.yaml"));
    let made = yaml(&full.template);
    let resources = made["Resources"].as_object().unwrap();
    for (name, resource) in base["Resources"].as_object().unwrap() {
        let now = resources[name]["Properties"].as_object().unwrap();
        for key in now.keys() {
            assert!(
                !resource["Properties"][key].is_null(),
                "{name}: {key} is not in template.yaml"
            );
        }
    }
    let attached = |policy: &str| {
        let roles = made["Resources"][policy]["Properties"]["Roles"]
            .as_array()
            .unwrap();
        roles
            .iter()
            .map(|role| role["Ref"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    let keyed = attached("KeyPolicy");
    let tag = json!({"Key": "loopy:project", "Value": {"Ref": "AWS::StackName"}});
    let (mut roles, mut functions, mut tagged) = (0, 0, 0);
    for (name, resource) in resources {
        let properties = &resource["Properties"];
        if let Some(tags) = properties["Tags"].as_array() {
            assert!(tags.contains(&tag), "{name}");
            tagged += 1;
        }
        match resource["Type"].as_str().unwrap() {
            "AWS::IAM::Role" => {
                let boundary = json!({"Fn::If": ["Bounded", {"Ref": "PermissionsBoundary"}, {"Ref": "AWS::NoValue"}]});
                assert_eq!(properties["PermissionsBoundary"], boundary, "{name}");
                assert!(keyed.contains(&name.as_str()), "{name}");
                roles += 1;
            }
            "AWS::Lambda::Function" => {
                assert_eq!(properties["TracingConfig"]["Fn::If"][0], "Traced", "{name}");
                let role = properties["Role"]["Fn::GetAtt"][0].as_str().unwrap();
                let policies = resources[role]["Properties"]["Policies"]
                    .as_array()
                    .unwrap();
                let traces = policies.iter().filter(|one| one["PolicyName"] == "traces");
                assert_eq!(traces.count(), 1, "{name}");
                functions += 1;
            }
            _ => {}
        }
    }
    assert_eq!((roles, functions), (12, 9));
    assert!(tagged > 50, "{tagged}");
}

/// Every permission of every function, to be read when it changes.
#[test]
fn who_may_do_what() {
    let made = yaml(&sample().template);
    let mut all = String::new();
    for (name, resource) in made["Resources"].as_object().unwrap() {
        if resource["Type"] != "AWS::IAM::Role" {
            continue;
        }
        all.push_str(&format!("{name}\n"));
        let policies = resource["Properties"]["Policies"].as_array().unwrap();
        let statements = policies
            .iter()
            .flat_map(|policy| policy["PolicyDocument"]["Statement"].as_array().unwrap());
        for statement in statements {
            let many = |value: &Value| match value {
                Value::Array(values) => values.clone(),
                one => vec![one.clone()],
            };
            let actions: Vec<String> = many(&statement["Action"])
                .iter()
                .map(|action| action.as_str().unwrap().to_owned())
                .collect();
            for resource in many(&statement["Resource"]) {
                let resource = match (&resource["Fn::GetAtt"][0], &resource["Fn::Sub"]) {
                    (Value::String(name), _) => name.clone(),
                    (_, Value::String(text)) => text.clone(),
                    _ => resource.to_string(),
                };
                all.push_str(&format!("  {} on {resource}\n", actions.join(", ")));
            }
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_project_without_secrets_and_sensors_gets_neither() {
    let mut value = manifest_value();
    value["sensors"] = json!([]);
    value["registry"]["sandboxes"]["Cloud"]["provider"] = json!("local");
    value["registry"]["sandboxes"]["Cloud"]["env_file"] = json!([]);
    let manifest = serde_json::from_value::<Manifest>(value).unwrap().seal();
    let stack = stack(&manifest, &files(), &binaries(), true).unwrap();
    let made = yaml(&stack.template);
    let secrets: Vec<&String> = made["Resources"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, resource)| resource["Type"] == "AWS::SecretsManager::Secret")
        .map(|(name, _)| name)
        .collect();
    assert_eq!(secrets, ["TokenKey"]);
    for language in ["Python", "Typescript", "Shell"] {
        let id = format!("{language}SensorsFunction");
        assert!(made["Resources"][&id].is_null(), "{id}");
    }
    let variables = &made["Resources"]["StepFunction"]["Properties"]["Environment"]["Variables"];
    assert_eq!(variables["LOOPY_ENGINE_SECRET"], json!(""));
}

/// The sample, its sandbox a task of the account.
fn with_tasks(image: Value) -> Manifest {
    let mut value = manifest_value();
    let sandbox = &mut value["registry"]["sandboxes"]["Cloud"];
    sandbox["provider"] = json!("fargate");
    sandbox["image"] = image;
    sandbox["network"] = json!(["github.com", "10.0.0.7:8080"]);
    serde_json::from_value::<Manifest>(value).unwrap().seal()
}

#[test]
fn what_tasks_add() {
    let manifest = with_tasks(json!({"base": "a", "apt": ["git"], "disk": 50}));
    let made = stack(&manifest, &files(), &binaries(), true).unwrap();
    let plain = yaml(&sample().template);
    let template = yaml(&made.template);
    let mut added = BTreeMap::new();
    for section in ["Resources", "Outputs"] {
        for (name, value) in template[section].as_object().unwrap() {
            if plain[section][name].is_null() {
                added.insert(format!("{section}.{name}"), value.clone());
            }
        }
    }
    let step = &template["Resources"]["StepRole"]["Properties"]["Policies"][0];
    let statements = step["PolicyDocument"]["Statement"].as_array().unwrap();
    let of_plain = &plain["Resources"]["StepRole"]["Properties"]["Policies"][0];
    let of_plain = of_plain["PolicyDocument"]["Statement"].as_array().unwrap();
    let more = statements.iter().filter(|one| !of_plain.contains(one));
    added.insert("the step function may".to_owned(), more.cloned().collect());
    let variables = &template["Resources"]["StepFunction"]["Properties"]["Environment"];
    added.insert(
        "the step function knows".to_owned(),
        variables["Variables"]["LOOPY_FARGATE"].clone(),
    );
    insta::assert_snapshot!(serde_json::to_string_pretty(&added).unwrap());

    let [image] = made.images.as_slice() else {
        panic!("{} images", made.images.len())
    };
    assert_eq!(image.sandboxes, ["Cloud"]);
    let key = format!("images/{}.zip", image.tag);
    assert!(made.assets.iter().any(|asset| asset.key == key));
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = emit(&made, &manifest, folder.path()).unwrap();
    assert_clean(&path);

    // Another size is another task from the same image; another layer is another image.
    let tag = |image: Value| {
        let made = stack(&with_tasks(image), &files(), &binaries(), true).unwrap();
        made.images[0].tag.clone()
    };
    assert_eq!(
        tag(json!({"base": "a", "apt": ["git"], "cpu": 8})),
        image.tag
    );
    assert_ne!(tag(json!({"base": "a", "apt": ["jq"]})), image.tag);
}

#[test]
fn what_no_task_can_be_is_refused_by_name() {
    let manifest = with_tasks(json!({"base": "a", "cpu": 3}));
    let [refusal] = refusals(&manifest).try_into().unwrap();
    assert!(
        refusal.starts_with("sandbox Cloud: `image.cpu` is 3; Fargate has 1 with"),
        "{refusal}"
    );
    let error = stack(&manifest, &files(), &binaries(), true).err().unwrap();
    assert_eq!(error.to_string(), refusal);
}

#[test]
fn the_same_project_gives_the_same_bytes() {
    let (one, two) = (sample(), sample());
    assert_eq!(one.template, two.template);
    assert!(one.assets == two.assets);
}

#[test]
fn checkers_find_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest_path, template) = emit(&sample(), &manifest(), folder.path()).unwrap();
    assert_clean(&template);
    assert_eq!(
        std::fs::read(manifest_path).unwrap(),
        manifest().to_json().into_bytes()
    );
    for asset in sample().assets {
        let path = folder.path().join("assets").join(&asset.key);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            asset.bytes,
            "{}",
            path.display()
        );
    }
}

#[test]
fn checkers_find_nothing_in_the_fixed_half() {
    assert_clean(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../template.yaml"));
}

#[test]
fn a_schedule_that_cannot_be_told_names_its_step() {
    let mut value = manifest_value();
    value["workflows"]["hourly"]["steps"]["tick-tock"]["trigger"]["expr"] = json!("0 0 15W * *");
    let manifest = serde_json::from_value::<Manifest>(value).unwrap().seal();
    let error = stack(&manifest, &files(), &binaries(), false)
        .err()
        .unwrap();
    assert!(matches!(error, StackError::Schedule { .. }));
    assert!(
        error
            .to_string()
            .starts_with("step hourly/tick-tock: the schedule `0 0 15W * *`: `15W`"),
        "{error}"
    );
}

#[test]
fn a_file_that_was_not_given_is_named() {
    let error = stack(&manifest(), &BTreeMap::new(), &binaries(), false)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("skills/review/SKILL.md"),
        "{error}"
    );
}

#[test]
fn what_may_not_be_deployed_is_said_by_name() {
    assert_eq!(refusals(&manifest()), Vec::<String>::new());
    let mut value = manifest_value();
    value["sensors"][0]["trigger"]["verify"] = json!(null);
    value["registry"]["sandboxes"]["Cloud"]["provider"] = json!("local");
    let manifest = serde_json::from_value::<Manifest>(value).unwrap();
    let found = refusals(&manifest);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("sensor pull_request: ") && found[0].contains("/hooks/pr"));
    assert!(found[1].starts_with("sandbox Cloud: the provider local"));
    assert_eq!(
        VerifyScheme::Github.secret_variable().unwrap(),
        "GITHUB_WEBHOOK_SECRET"
    );
}
