//! A project with more triggers than one template holds: they lie in stacks inside the
//! stack, each where its name puts it for ever.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loopy_contract::manifest::Manifest;
use loopy_infra::{Architecture, Binaries, Stack, stack};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// So many workflows on an event each, and so many on a schedule.
fn project(events: usize, crons: usize) -> Manifest {
    let step = |workflow: &str, trigger: Value| {
        let step = json!({
            "id": format!("{workflow}/go"), "trigger": trigger, "after": [], "agent": "Worker",
            "output": {}, "emits": [], "budget": null, "body": "true", "refs": [],
        });
        json!({"entry": "go", "steps": {"go": step}})
    };
    let mut workflows = Map::new();
    let mut contracts = Map::new();
    for n in 0..events {
        let (name, event) = (format!("on-{n}"), format!("EventNumber{n}"));
        contracts.insert(event.clone(), json!({"fields": {}}));
        workflows.insert(
            name.clone(),
            step(&name, json!({"kind": "event", "event": event})),
        );
    }
    for n in 0..crons {
        let name = format!("at-{n}");
        // Every third has two schedules.
        let days = if n % 3 == 0 { "1 * 5" } else { "* * *" };
        let expr = format!("{} {} {days}", n % 60, n % 24);
        workflows.insert(
            name.clone(),
            step(&name, json!({"kind": "cron", "expr": expr, "tz": null})),
        );
    }
    serde_json::from_value::<Manifest>(json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Cloud": {"provider": "daytona", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Cloud", "skills": []}},
            "events": contracts,
        },
        "workflows": workflows, "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))
    .unwrap()
    .seal()
}

fn made(manifest: &Manifest) -> Stack {
    let functions = loopy_infra::stack::FUNCTIONS.map(|name| (name, name.as_bytes().to_vec()));
    let binaries = Binaries {
        architecture: Architecture::X86_64,
        functions: functions.into(),
        runner: b"runner".to_vec(),
    };
    stack(manifest, &BTreeMap::new(), &binaries, false).unwrap()
}

fn read(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The templates inside, by the name of the resource that holds each.
fn nested(stack: &Stack) -> BTreeMap<String, Value> {
    let outer = read(&stack.template);
    let resources = outer["Resources"].as_object().unwrap();
    let inner = resources
        .iter()
        .filter(|(_, it)| it["Type"] == "AWS::CloudFormation::Stack");
    inner
        .map(|(name, resource)| {
            let url = resource["Properties"]["TemplateURL"]["Fn::Sub"]
                .as_str()
                .unwrap();
            let key = url.split_once("${AssetsBucket}/").unwrap().1;
            let asset = stack.assets.iter().find(|asset| asset.key == key).unwrap();
            let template = read(std::str::from_utf8(&asset.bytes).unwrap());
            let given = resource["Properties"]["Parameters"].as_object().unwrap();
            let declared = template["Parameters"].as_object().unwrap();
            assert!(given.keys().eq(declared.keys()), "{name}");
            (name.clone(), template)
        })
        .collect()
}

/// Where each event is named: the stack and the rule.
fn places(stack: &Stack) -> BTreeMap<String, (String, String)> {
    let mut places = BTreeMap::new();
    for (name, template) in nested(stack) {
        for (rule, resource) in template["Resources"].as_object().unwrap() {
            let pattern = &resource["Properties"]["EventPattern"];
            assert!(pattern.to_string().len() <= 2048, "{rule}");
            for event in pattern["detail-type"].as_array().into_iter().flatten() {
                let event = event.as_str().unwrap().to_owned();
                let before = places.insert(event, (name.clone(), rule.clone()));
                assert_eq!(before, None, "an event is in one rule");
            }
        }
    }
    places
}

#[test]
fn a_thousand_workflows_fit_and_none_is_left_out() {
    let stack = made(&project(600, 400));
    let outer = read(&stack.template);
    let count = outer["Resources"].as_object().unwrap().len();
    assert!(count < 200, "{count}");
    let inner = nested(&stack);
    assert!(inner.len() <= 16, "{}", inner.len());
    let mut schedules = 0;
    for template in inner.values() {
        let resources = template["Resources"].as_object().unwrap();
        assert!(resources.len() <= 400, "{}", resources.len());
        let of = |kind: &str| resources.values().filter(|it| it["Type"] == kind).count();
        schedules += of("AWS::Scheduler::Schedule");
    }
    assert_eq!(schedules, 400 + 134, "every third has two");
    let named: BTreeSet<String> = places(&stack).into_keys().collect();
    let wanted: BTreeSet<String> = (0..600).map(|n| format!("EventNumber{n}")).collect();
    assert_eq!(named, wanted);
    // Below the limit all is in one template.
    assert!(nested(&made(&project(100, 50))).is_empty());
}

#[test]
fn what_is_there_stays_where_it_is_when_more_comes() {
    let (before, after) = (
        places(&made(&project(500, 10))),
        places(&made(&project(900, 300))),
    );
    for (event, place) in before {
        assert_eq!(after[&event], place, "{event} would be missed on its way");
    }
}

#[test]
fn a_large_stack_is_clean_too() {
    let lint = std::env::var("LOOPY_TEST_CFN_LINT")
        .unwrap_or_else(|_| panic!("run `cargo xtask test`, which prepares LOOPY_TEST_CFN_LINT"));
    let folder = tempfile::tempdir().unwrap();
    let stack = made(&project(450, 30));
    let mut files = vec![("outer.yaml".to_owned(), stack.template.clone())];
    files.extend(
        nested(&stack)
            .into_iter()
            .take(2)
            .map(|(name, template)| (format!("{name}.yaml"), template.to_string())),
    );
    for (name, text) in files {
        let path = folder.path().join(&name);
        std::fs::write(&path, text).unwrap();
        let output = Command::new(&lint)
            .args(["--include-checks", "I", "--"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.trim().is_empty(),
            "{name}: {said}"
        );
    }
}
