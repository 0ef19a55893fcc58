//! Projects by seed: small manifests that use all that the engine executes.

use crate::rng::Rng;
use loopy_contract::expression::{Comparison, Condition, Expression};
use loopy_contract::failure::FailureClass;
use loopy_contract::manifest::{
    Agent, Answer, Approve, Budget, Cap, CatchUp, Concurrency, Contract, Each, FieldRef, Harness,
    Limits, Lineage, Loop, Manifest, ModelKeys, Registry, Retry, SCHEMA_VERSION, Sandbox, Step,
    Strategy, Trigger, Usd, Workflow,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The provider of all sandboxes here.
pub(crate) const PROVIDER: &str = "sim";

/// What one world serves.
pub(crate) struct Project {
    /// What it serves at first, and what is deployed later.
    pub(crate) manifests: [Arc<Manifest>; 2],
    /// Events that come from outside.
    pub(crate) roots: Vec<String>,
    /// Steps with a schedule.
    pub(crate) crons: Vec<String>,
}

const STEPS: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Project {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let count = 1 + rng.index(4);
        let mut workflows = BTreeMap::new();
        let mut roots = vec![event_name(0)];
        let mut crons = Vec::new();
        let limits = limits(rng, count);
        let bounded = limits
            .as_ref()
            .is_some_and(|all| all.cascade_runs.is_some());
        for index in 0..count {
            let name = workflow_name(index);
            // Several may start on one event.
            let level = if rng.chance(300) {
                rng.index(index + 1)
            } else {
                index
            };
            let trigger = if index > 0 && rng.chance(120) {
                crons.push(format!("{name}/a"));
                Trigger::Cron {
                    expr: "*/10 * * * *".to_owned(),
                    tz: None,
                    catch_up: CatchUp::Once,
                }
            } else {
                let event = event_name(level);
                if rng.chance(250) && !roots.contains(&event) {
                    roots.push(event.clone());
                }
                Trigger::Event {
                    event,
                    when: rng.chance(150).then(|| below("event", "n", 7)),
                    debounce: rng.chance(120).then(|| *rng.pick(&[5, 60]).unwrap_or(&5)),
                }
            };
            // What a workflow emits leads on, and back only where that is capped.
            let lowest = if bounded { 0 } else { level + 1 };
            let scheduled = matches!(trigger, Trigger::Cron { .. });
            let emits: Vec<String> = (lowest..count)
                .filter(|_| rng.chance(500))
                .map(event_name)
                .take(2)
                .collect();
            let workflow = workflow(rng, &name, trigger, &emits, !scheduled);
            workflows.insert(name, workflow);
        }
        let agent = |harness, model: Option<&str>| Agent {
            harness,
            model: model.map(str::to_owned),
            sandbox: Some("Box".to_owned()),
            skills: Vec::new(),
            tools: Vec::new(),
        };
        let registry = Registry {
            sandboxes: BTreeMap::from([(
                "Box".to_owned(),
                Sandbox {
                    provider: PROVIDER.to_owned(),
                    image: BTreeMap::new(),
                    network: Vec::new(),
                    env_file: Vec::new(),
                    repos: Vec::new(),
                    model_keys: ModelKeys::default(),
                },
            )]),
            agents: BTreeMap::from([
                ("Coder".to_owned(), agent(Harness::ClaudeCode, Some("m"))),
                ("Script".to_owned(), agent(Harness::Command, None)),
            ]),
            events: (0..count)
                .map(|index| {
                    let fields = event_fields();
                    (
                        event_name(index),
                        Contract {
                            fields,
                            ..Contract::default()
                        },
                    )
                })
                .collect(),
            limits,
            prices: BTreeMap::new(),
        };
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION.to_owned(),
            loopy_version: "1".to_owned(),
            hash: String::new(),
            registry,
            workflows,
            sensors: Vec::new(),
            lineage: Lineage::default(),
            skills: BTreeMap::new(),
            sensor_files: BTreeMap::new(),
            sensor_modules: BTreeMap::new(),
        };
        let mut next = manifest.clone();
        next.loopy_version = "2".to_owned();
        // The content stands for itself here: no hash over it is needed to tell
        // the two apart.
        let seal = |mut manifest: Manifest, hash: &str| {
            manifest.hash = hash.repeat(64);
            Arc::new(manifest)
        };
        Self {
            manifests: [seal(manifest, "1"), seal(next, "2")],
            roots,
            crons,
        }
    }
}

fn event_name(index: usize) -> String {
    format!("E{index}")
}

fn workflow_name(index: usize) -> String {
    format!("w{index}")
}

fn event_fields() -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("n".to_owned(), json!({"type": "integer"})),
        ("key".to_owned(), json!({"type": "string"})),
        ("items".to_owned(), json!({"type": "array"})),
    ])
}

fn limits(rng: &mut Rng, workflows: usize) -> Option<Limits> {
    if !rng.chance(600) {
        return None;
    }
    let usd = |rng: &mut Rng, low, high| Usd {
        usd: rng.between(low, high) as f64 / 100.0,
    };
    let runs = |rng: &mut Rng| u32::try_from(rng.between(1, 6)).unwrap_or(1);
    let mut limits = Limits::default();
    if rng.chance(400) {
        limits.cascade_spend = Some(usd(rng, 50, 600));
    }
    if rng.chance(500) {
        limits.cascade_runs = Some(runs(rng));
    }
    if rng.chance(300) {
        let spend = rng.chance(700).then(|| usd(rng, 100, 1500));
        let cap = rng.chance(500).then(|| runs(rng).saturating_add(2));
        if spend.is_some() || cap.is_some() {
            limits.day = Some(Cap { spend, runs: cap });
        }
    }
    for index in 0..workflows {
        if rng.chance(250) {
            let spend = rng.chance(700).then(|| usd(rng, 30, 500));
            let cap = rng.chance(500).then(|| runs(rng));
            if spend.is_some() || cap.is_some() {
                limits
                    .workflows
                    .insert(workflow_name(index), Cap { spend, runs: cap });
            }
        }
    }
    (limits != Limits::default()).then_some(limits)
}

fn workflow(
    rng: &mut Rng,
    name: &str,
    trigger: Trigger,
    emits: &[String],
    has_fields: bool,
) -> Workflow {
    let count = 1 + rng.index(STEPS.len());
    let mut steps: BTreeMap<String, Step> = BTreeMap::new();
    // Plain ones: their outputs are no lists.
    let mut plain: Vec<String> = Vec::new();
    let mut has_loop = false;
    for (index, step) in STEPS.iter().take(count).enumerate() {
        let mut after = BTreeSet::new();
        if index > 0 {
            for _ in 0..1 + rng.index(2) {
                after.extend(STEPS.get(rng.index(index)).map(|name| (*name).to_owned()));
            }
        }
        let before = after.iter().find(|name| plain.contains(name)).cloned();
        let when = match &before {
            Some(before) if rng.chance(300) => Some(if rng.chance(500) {
                is_true(before, "ok")
            } else {
                below(before, "n", 6)
            }),
            _ => None,
        };
        let each = rng.chance(180).then(|| {
            let producer = match &before {
                Some(before) if rng.chance(500) => Some(before.clone()),
                _ => has_fields.then(|| "event".to_owned()),
            };
            producer.map(|producer| Each {
                over: FieldRef {
                    producer,
                    field: "items".to_owned(),
                },
                name: "item".to_owned(),
            })
        });
        let each = each.flatten();
        let back = (each.is_none() && !has_loop && rng.chance(180)).then(|| {
            let mut targets = vec![(*step).to_owned()];
            targets.extend(after.iter().cloned());
            Loop {
                to: rng.pick(&targets).cloned().unwrap_or_default(),
                until: is_true(step, "ok"),
                max: u32::try_from(rng.between(1, 3)).unwrap_or(1),
            }
        });
        has_loop |= back.is_some();
        if each.is_none() {
            plain.push((*step).to_owned());
        }
        let script = rng.chance(400);
        let last = index + 1 == count;
        let mut mine: Vec<String> = Vec::new();
        if each.is_none() || rng.chance(300) {
            mine.extend(
                emits
                    .iter()
                    .filter(|_| rng.chance(if last { 700 } else { 250 }))
                    .cloned(),
            );
        }
        let emits_when = mine
            .iter()
            .filter(|_| each.is_none() && rng.chance(400))
            .map(|event| (event.clone(), is_true(step, "ok")))
            .collect();
        let made = Step {
            id: format!("{name}/{step}"),
            trigger: (index == 0).then(|| trigger.clone()),
            after: after.into_iter().collect(),
            agent: Some(if script { "Script" } else { "Coder" }.to_owned()),
            output: BTreeMap::from([
                ("ok".to_owned(), json!({"type": "boolean"})),
                ("n".to_owned(), json!({"type": "integer"})),
                ("items".to_owned(), json!({"type": "array"})),
            ]),
            output_optional: BTreeSet::new(),
            files: Vec::new(),
            keeps: Vec::new(),
            emits: mine,
            emits_when,
            when,
            each,
            retry: rng.chance(500).then(|| retry(rng)),
            approve: rng.chance(150).then(|| approve(rng)),
            concurrency: rng.chance(300).then(|| concurrency(rng, has_fields)),
            r#loop: back,
            budget: rng.chance(700).then(|| budget(rng, script)),
            body: "x".to_owned(),
            refs: Vec::new(),
        };
        steps.insert((*step).to_owned(), made);
    }
    Workflow {
        entry: Some("a".to_owned()),
        steps,
    }
}

fn retry(rng: &mut Rng) -> Retry {
    let on: BTreeSet<FailureClass> = FailureClass::ALL
        .into_iter()
        .filter(|class| *class != FailureClass::NoProgress && rng.chance(800))
        .collect();
    Retry {
        max: u32::try_from(rng.between(1, 3)).unwrap_or(1),
        backoff: *rng
            .pick(&[None, Some(5), Some(60), Some(2000)])
            .unwrap_or(&None),
        on,
    }
}

fn approve(rng: &mut Rng) -> Approve {
    let before = rng.chance(500);
    Approve {
        before,
        after: !before || rng.chance(300),
        within: *rng.pick(&[None, Some(60), Some(3600)]).unwrap_or(&None),
        otherwise: if rng.chance(500) {
            Answer::Approve
        } else {
            Answer::Deny
        },
    }
}

fn concurrency(rng: &mut Rng, has_fields: bool) -> Concurrency {
    Concurrency {
        key: (has_fields && rng.chance(400)).then(|| FieldRef {
            producer: "event".to_owned(),
            field: "key".to_owned(),
        }),
        limit: u32::try_from(rng.between(1, 2)).unwrap_or(1),
        strategy: *rng
            .pick(&[
                Strategy::Queue,
                Strategy::Queue,
                Strategy::CancelRunning,
                Strategy::Drop,
            ])
            .unwrap_or(&Strategy::Queue),
    }
}

fn budget(rng: &mut Rng, script: bool) -> Budget {
    let usd = rng.between(5, 200) as f64 / 100.0;
    Budget {
        wall_clock: rng.chance(700).then(|| rng.between(1, 40)),
        spend: (!script && rng.chance(700))
            .then(|| BTreeMap::from([("usd".to_owned(), json!(usd))])),
        ..Budget::default()
    }
}

fn reference(producer: &str, field: &str) -> Box<Expression> {
    Box::new(Expression::Reference {
        producer: producer.to_owned(),
        field: field.to_owned(),
    })
}

fn compare(source: String, operator: Comparison, left: Box<Expression>, value: Value) -> Condition {
    Condition {
        source,
        expression: Expression::Compare {
            operator,
            left,
            right: Box::new(Expression::Literal { value }),
        },
    }
}

fn is_true(producer: &str, field: &str) -> Condition {
    let source = format!("{producer}.{field} == true");
    compare(
        source,
        Comparison::Equal,
        reference(producer, field),
        json!(true),
    )
}

fn below(producer: &str, field: &str, end: i64) -> Condition {
    let source = format!("{producer}.{field} < {end}");
    compare(
        source,
        Comparison::Less,
        reference(producer, field),
        json!(end),
    )
}
