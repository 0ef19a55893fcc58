//! The arithmetic, against sums done by hand.

#![expect(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]

use super::*;
use loopy_contract::manifest::SCHEMA_VERSION;
use serde_json::{Value, json};

fn step(id: &str, more: &Value) -> Value {
    let mut step = json!({
        "id": id, "trigger": null, "after": [], "agent": "Coder", "output": {}, "emits": [],
        "budget": null, "body": "", "refs": [],
    });
    for (key, value) in more.as_object().unwrap() {
        step[key] = value.clone();
    }
    step
}

fn on(event: &str) -> Value {
    json!({"kind": "event", "event": event})
}

fn manifest(provider: &str, image: &Value, workflows: &Value, sensors: &Value) -> Manifest {
    let manifest = json!({
        "schema_version": SCHEMA_VERSION,
        "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {
                "provider": provider, "image": image, "network": [], "env_file": ["a.env"],
                "repos": [],
            }},
            "agents": {
                "Coder": {"harness": "claude-code", "model": "m", "sandbox": "Box", "skills": []},
                "Shell": {"harness": "command", "model": null, "sandbox": "Box", "skills": []},
            },
            "events": {"Go": {"fields": {}}, "Done": {"fields": {}}},
        },
        "workflows": workflows,
        "sensors": sensors,
        "lineage": {"events": {}},
        "skills": {},
        "sensor_files": {},
    });
    serde_json::from_value(manifest).unwrap()
}

fn hook() -> Value {
    json!([{
        "name": "go", "emits": "Go", "source": "module", "module": "sensors.go", "fn": "go",
        "trigger": {"kind": "webhook", "path": "/go", "verify": "github"},
    }])
}

fn load(events: f64) -> Load {
    Load {
        events_per_day: Some(events),
        step_minutes: 10.0,
        ..Load::default()
    }
}

fn near(found: f64, expected: f64) {
    let apart = (found - expected).abs();
    assert!(apart <= expected.abs() * 1e-9, "{found} is not {expected}");
}

fn count(estimate: &Estimate, service: &str, what: &str) -> f64 {
    let mut lines = estimate.lines.iter();
    let line = lines.find(|line| line.service == service && line.what == what);
    line.map_or(0.0, |line| line.count)
}

#[test]
fn a_small_project_costs_what_it_does_by_hand() {
    // 100 deliveries a day, each a run of an agent's step and a script.
    let workflows = json!({"w": {"entry": "a", "steps": {
        "a": step("w/a", &json!({"trigger": on("Go"), "budget": {"spend": {"usd": 2}}})),
        "b": step("w/b", &json!({"after": ["a"], "agent": "Shell", "budget": {"wall_clock": 4}})),
    }}});
    let image = json!({"cpu": 1, "memory": 2});
    let manifest = manifest("fargate", &image, &workflows, &hook());
    let estimate = estimate(&manifest, &load(100.0)).unwrap();
    let events = 3000.0;

    // The run itself; two attempts; signs of life in 10 and 4 minutes.
    let runs_write = 2.0 + 2.0 * 2.0 + 3.0 * 14.0;
    // The delivery and the event before it.
    let write = events * (1.0 + 2.0 + runs_write);
    near(count(&estimate, "DynamoDB", "write units"), write);
    // Delivery, its code's note; attempts, signs of life, one look of the ten minutes.
    let read = events * (2.0 + 1.0 + 2.0 * 2.0 + 3.0 * 14.0 + 1.0);
    near(count(&estimate, "DynamoDB", "read units"), read);
    // Delivery and event, a turn each step, the look.
    near(
        count(&estimate, "SQS", "requests of fair queues"),
        events * (6.0 + 6.0 + 3.0),
    );
    // webhook, sensor, its code, start; four each attempt; three and twelve a minute; the look.
    let requests = events * (4.0 + 8.0 + 42.0 + 120.0 + 1.0);
    near(count(&estimate, "Lambda", "requests"), requests);
    near(
        count(&estimate, "CloudWatch", "GB of logs"),
        requests * 5e-7,
    );
    near(
        count(&estimate, "Lambda", "GB-seconds, x86"),
        requests * 0.023 / 4.0,
    );
    near(count(&estimate, "S3", "writes"), events * 120.0);
    near(count(&estimate, "EventBridge", "events"), events);
    near(count(&estimate, "Scheduler", "schedules that fire"), events);
    // 14 minutes of a core and 2 GB.
    let hours = events * 14.0 / 60.0;
    near(count(&estimate, "Fargate", "core hours, x86"), hours);
    near(count(&estimate, "Fargate", "GB hours, x86"), hours * 2.0);
    near(count(&estimate, "VPC", "hours of public addresses"), hours);
    assert_eq!(count(&estimate, "Fargate", "GB hours of disk"), 0.0);
    near(count(&estimate, "Secrets Manager", "reads"), events * 2.0);
    // Two keys, the webhook's and the sandbox's.
    near(count(&estimate, "Secrets Manager", "secrets"), 4.0);
    // 648,000 each queue.
    near(
        count(&estimate, "SQS", "requests of idle queues"),
        4.0 * 648_000.0,
    );
    near(estimate.idle_usd, 4.0 * 0.2592 + 4.0 * 0.4);

    let total: f64 = estimate.lines.iter().map(|line| line.usd).sum();
    near(estimate.total_usd, total);
    let [workflow] = estimate.workflows.as_slice() else {
        unreachable!("one workflow");
    };
    assert_eq!((workflow.runs, workflow.attempts), (events, 2.0));
    assert_eq!(workflow.models_cap_usd, Some(2.0));
    // Fargate and the address, then reads of the key, then all that is called.
    let sandbox = 14.0 / 60.0 * (0.04048 + 2.0 * 0.004_445 + 0.005) + 2.0 * 5e-6;
    let called = runs_write * 0.625e-6
        + 47.0 * 0.125e-6
        + 9.0 * 0.5e-6
        + 171.0 * (0.2e-6 + 0.00575 * 16.6667e-6 + 5e-7 * 0.5)
        + 1e-6
        + 120.0 * 5e-6;
    near(workflow.run_usd, sandbox + called);
}

#[test]
fn items_and_rounds_multiply_and_what_steps_emit_goes_on() {
    // w: plan, then 3 items, then a check that goes back to the items twice at most.
    let until = json!({
        "source": "true", "expression": {"kind": "literal", "value": true},
    });
    let workflows = json!({
        "w": {"entry": "plan", "steps": {
            "plan": step("w/plan", &json!({"trigger": on("Go")})),
            "work": step("w/work", &json!({
                "after": ["plan"], "each": {"over": {"producer": "plan", "field": "f"}, "name": "i"},
                "emits": ["Heard", "Unheard"],
            })),
            "check": step("w/check", &json!({
                "after": ["work"], "loop": {"to": "work", "until": until, "max": 2},
            })),
        }},
        "x": {"entry": "only", "steps": {
            "only": step("x/only", &json!({"trigger": on("Heard")})),
        }},
    });
    let manifest = manifest("daytona", &json!({}), &workflows, &json!([]));
    let load = Load {
        items: 3,
        ..load(10.0)
    };
    let estimate = estimate(&manifest, &load).unwrap();
    let [w, x] = estimate.workflows.as_slice() else {
        unreachable!("two workflows");
    };
    // 1 + 3 items × 3 rounds + 1 × 3 rounds.
    assert_eq!((w.runs, w.attempts), (300.0, 13.0));
    assert_eq!((x.runs, x.attempts), (300.0 * 9.0, 1.0));
    assert_eq!(w.models_cap_usd, None);
    // Nobody delivers `Go` by a sensor; `Unheard` never reaches the bus.
    near(
        count(&estimate, "EventBridge", "events"),
        300.0 + 300.0 * 9.0,
    );
    near(
        count(&estimate, "Daytona", "core hours"),
        (300.0 * 13.0 + 2700.0) / 6.0,
    );
    // The token key, the sandbox's environment, Daytona's key.
    near(count(&estimate, "Secrets Manager", "secrets"), 3.0);
}

#[test]
fn schedules_and_polls_count_by_themselves() {
    let workflows = json!({"w": {"entry": "a", "steps": {
        "a": step("w/a", &json!({
            "trigger": {"kind": "cron", "expr": "0 * * * *", "tz": null}, "agent": "Shell",
        })),
    }}});
    let sensors = json!([{
        "name": "p", "emits": "Go", "source": "shell", "module": "sensors/p.sh",
        "trigger": {"kind": "poll", "interval": "5m"},
    }]);
    let manifest = manifest("local", &json!({}), &workflows, &sensors);
    let load = Load {
        alarms: true,
        architecture: Architecture::Arm64,
        ..Load::default()
    };
    let estimate = estimate(&manifest, &load).unwrap();
    near(estimate.workflows[0].runs, 720.0);
    near(
        count(&estimate, "Scheduler", "schedules that fire"),
        720.0 + 8640.0,
    );
    near(count(&estimate, "CloudWatch", "alarms"), 9.0);
    assert_eq!(count(&estimate, "Lambda", "GB-seconds, x86"), 0.0);
    assert!(count(&estimate, "Lambda", "GB-seconds, arm") > 0.0);
    assert_eq!(count(&estimate, "Fargate", "core hours, arm"), 0.0);
}

#[test]
fn a_cascade_without_end_is_counted_to_its_limit() {
    let workflows = json!({"w": {"entry": "a", "steps": {
        "a": step("w/a", &json!({"trigger": on("Go"), "emits": ["Go"]})),
    }}});
    let manifest = manifest("daytona", &json!({}), &workflows, &hook());
    let estimate = estimate(&manifest, &load(1.0)).unwrap();
    assert_eq!(estimate.workflows[0].runs, 30.0 * 33.0);
    let said = estimate.assumptions.join("\n");
    assert!(said.contains("lead back to their own workflows"), "{said}");
}

#[test]
fn events_are_shared_and_those_nobody_knows_refused() {
    let workflows = json!({
        "w": {"entry": "a", "steps": {"a": step("w/a", &json!({"trigger": on("Go")}))}},
        "x": {"entry": "a", "steps": {"a": step("x/a", &json!({"trigger": on("Done")}))}},
    });
    let manifest = manifest("daytona", &json!({}), &workflows, &json!([]));
    let runs = |load: &Load| {
        let estimate = estimate(&manifest, load).unwrap();
        let runs = estimate.workflows.iter().map(|w| w.runs);
        runs.collect::<Vec<_>>()
    };
    assert_eq!(runs(&load(10.0)), [150.0, 150.0]);
    let named = |name: &str, together| Load {
        events: BTreeMap::from([(name.to_owned(), 1.0)]),
        events_per_day: together,
        ..Load::default()
    };
    assert_eq!(runs(&named("Go", Some(10.0))), [30.0, 300.0]);
    assert_eq!(runs(&named("Go", None)), [30.0, 0.0]);
    let refused = estimate(&manifest, &named("Gone", None)).unwrap_err();
    assert!(
        matches!(refused, EstimateError::UnknownEvent { known, .. } if known == ["Done", "Go"])
    );
    let refused = estimate(&manifest, &Load::default()).unwrap_err();
    assert!(matches!(refused, EstimateError::NoLoad { events } if events == ["Done", "Go"]));
}
