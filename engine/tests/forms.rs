//! What each form of the language does to a run: `when`, `each`, `retry`,
//! `approve`, `concurrency`, `loop`, conditional `emits`, filters and debounce,
//! limits; and what people can ask of a run.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use jiff::SignedDuration;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::Manifest;
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome, StepResult, Usage};
use loopy_engine::message::{Again, Message};
use loopy_engine::ports::{LaunchSpec, RunFilter, Store};
use loopy_engine::record::Decision;
use loopy_engine::run::{Run, RunStatus, StepState};
use loopy_engine::transition::{Command, Edits, Order};
use serde_json::{Value, json};
use world::{World, object, step, success};

fn condition(expression: Value) -> Value {
    json!({"source": "…", "expression": expression})
}

fn is(producer: &str, field: &str, value: Value) -> Value {
    condition(json!({
        "kind": "compare", "operator": "==",
        "left": {"kind": "reference", "producer": producer, "field": field},
        "right": {"kind": "literal", "value": value},
    }))
}

/// A project of one workflow `w` on the event `Go`, and `next` on `Done`.
fn project(steps: Value, limits: Value) -> Manifest {
    let mut all = serde_json::Map::new();
    let mut entry = None;
    for (name, extra) in steps.as_object().unwrap() {
        let mut extra = extra.clone();
        if extra.get("after").is_none() {
            entry = Some(name.clone());
            if extra.get("trigger").is_none() {
                extra["trigger"] = json!({"kind": "event", "event": "Go"});
            }
        }
        all.insert(name.clone(), step(&format!("w/{name}"), extra));
    }
    let mut manifest = json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {"provider": "local", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {
                "Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": []},
                "Coder": {"harness": "claude-code", "model": "claude-x", "sandbox": "Box", "skills": []},
            },
            "events": {
                "Go": {"fields": {"n": {"type": "integer"}}, "optional": ["n"]},
                "Done": {"fields": {}},
            },
        },
        "workflows": {
            "w": {"entry": entry, "steps": all},
            "next": {"entry": "s", "steps": {
                "s": step("next/s", json!({"trigger": {"kind": "event", "event": "Done"}})),
            }},
        },
        "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    });
    if !limits.is_null() {
        manifest["registry"]["limits"] = limits;
    }
    serde_json::from_value::<Manifest>(manifest).unwrap().seal()
}

fn world(steps: Value) -> World {
    world::world(project(steps, Value::Null))
}

fn go(id: &str, fields: Value) -> Event {
    let at = "2026-11-21T10:00:00Z".parse().unwrap();
    let id = EventId::from(id);
    Event::root(id, "Go".into(), object(fields), Source::Hand, at)
}

fn ok(output: Value) -> StepResult {
    success(output, json!({}))
}

fn failed(class: FailureClass) -> StepResult {
    StepResult {
        outcome: Outcome::Failed(Failure {
            class,
            message: "no".into(),
        }),
        usage: Usage::default(),
        duration_ms: 1,
        files: None,
    }
}

fn fields(name: &str, kind: &str) -> Value {
    json!({ name: {"type": kind} })
}

/// The kinds of history lines about a step.
fn story(run: &Run, step: &str) -> Vec<String> {
    let lines = run.history.iter();
    lines
        .filter(|line| line.step.as_deref() == Some(step))
        .map(|line| line.kind.clone())
        .collect()
}

trait Tell {
    async fn begin(&self, fields: Value) -> Run;
    async fn tell(&self, spec: &LaunchSpec, result: &StepResult) -> u16;
    async fn order(&self, id: &str, order: Order) -> Run;
    async fn envelope(&self, spec: &LaunchSpec) -> Envelope;
    fn working(&self) -> Vec<LaunchSpec>;
    async fn pass(&self, time: SignedDuration);
}

impl Tell for World {
    async fn begin(&self, fields: Value) -> Run {
        self.engine.submit(&go("e1", fields)).await.unwrap();
        self.work().await;
        self.the_run("w").await
    }

    async fn tell(&self, spec: &LaunchSpec, result: &StepResult) -> u16 {
        let (status, _) = self.report(spec, "result", json!(result)).await;
        self.work().await;
        status
    }

    async fn order(&self, id: &str, order: Order) -> Run {
        let run = self.the_run("w").await.id;
        let command = Command {
            id: id.into(),
            by: "ada".into(),
            order,
        };
        let message = Message::Command { run, command };
        // As every message, it may come twice.
        for _ in 0..2 {
            let body = serde_json::to_string(&message).unwrap();
            self.engine.process(message.queue(), &body).await.unwrap();
        }
        self.work().await;
        self.the_run("w").await
    }

    async fn envelope(&self, spec: &LaunchSpec) -> Envelope {
        let (status, body) = self.report(spec, "envelope", json!(null)).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_value(body).unwrap()
    }

    /// What was launched and not stopped.
    fn working(&self) -> Vec<LaunchSpec> {
        let stopped = self.launcher.stopped.lock().unwrap();
        let launched = self.launcher.launched.lock().unwrap();
        let alive = launched
            .iter()
            .filter(|spec| !stopped.contains(&spec.client_token));
        alive.cloned().collect()
    }

    async fn pass(&self, time: SignedDuration) {
        self.clock.advance(time);
        self.work().await;
    }
}

#[tokio::test]
async fn a_step_whose_condition_fails_is_skipped_and_those_that_only_wait_for_it_run() {
    let steps = json!({
        "a": {"output": fields("x", "string")},
        "b": {"after": ["a"], "when": is("a", "x", json!("yes")), "output": fields("y", "string")},
        "c": {"after": ["b"]},
        "d": {"after": ["b"], "when": is("a", "x", json!("yes"))},
    });
    for (x, b) in [("no", "skipped"), ("yes", "succeeded")] {
        let world = world(steps.clone());
        world.begin(json!({})).await;
        world
            .finish(|spec| match spec.step.as_str() {
                "a" => ok(json!({"x": x})),
                "b" => ok(json!({"y": "z"})),
                _ => ok(json!({})),
            })
            .await;
        let run = world.the_run("w").await;
        assert_eq!(run.status, RunStatus::Succeeded, "{x}");
        assert_eq!(run.steps["b"].state.name(), b);
        assert_eq!(run.steps["c"].state.name(), "succeeded");
        assert_eq!(run.steps["d"].state.name(), b);
    }
}

#[tokio::test]
async fn each_item_has_a_sandbox_of_its_own_within_a_width_and_the_outputs_are_a_list() {
    let world = world(json!({
        "plan": {"output": fields("items", "array")},
        "build": {
            "after": ["plan"], "output": fields("n", "integer"),
            "each": {"over": {"producer": "plan", "field": "items"}, "name": "item"},
        },
        "sum": {"after": ["build"], "output": fields("all", "array")},
    }));
    world.begin(json!({})).await;
    let items: Vec<u32> = (0..25).collect();
    world
        .tell(&world.spec("plan"), &ok(json!({"items": items})))
        .await;
    let mut most = 0;
    loop {
        let working = world.working();
        let building: Vec<_> = working.iter().filter(|spec| spec.step == "build").collect();
        most = most.max(building.len());
        // The last first: the outputs are in the order of the items anyway.
        let Some(spec) = building.last() else { break };
        let envelope = world.envelope(spec).await;
        let item = envelope.values["item"].as_u64().unwrap();
        let status = world.tell(spec, &ok(json!({"n": item * 2}))).await;
        assert_eq!(status, 200);
    }
    assert_eq!(most, loopy_engine::transition::WIDTH);
    let envelope = world.envelope(&world.spec("sum")).await;
    let expected: Vec<Value> = items.iter().map(|n| json!({"n": n * 2})).collect();
    assert_eq!(envelope.values["build"], json!(expected));
    world
        .tell(&world.spec("sum"), &ok(json!({"all": []})))
        .await;
    let run = world.the_run("w").await;
    assert_eq!(run.status, RunStatus::Succeeded);
    assert_eq!(run.steps["build"].attempts.len(), 25);
    assert!(world.working().is_empty());
}

#[tokio::test]
async fn no_items_are_an_empty_list_and_too_many_are_an_error() {
    let steps = json!({
        "plan": {"output": fields("items", "array")},
        "build": {
            "after": ["plan"],
            "each": {"over": {"producer": "plan", "field": "items"}, "name": "item"},
        },
    });
    let none = world(steps.clone());
    none.begin(json!({})).await;
    none.tell(&none.spec("plan"), &ok(json!({"items": []})))
        .await;
    let run = none.the_run("w").await;
    assert_eq!(run.status, RunStatus::Succeeded);
    let output = json!([]);
    assert_eq!(run.steps["build"].state, StepState::Succeeded { output });

    let many = world(steps);
    many.begin(json!({})).await;
    let items = vec![0; 1001];
    many.tell(&many.spec("plan"), &ok(json!({"items": items})))
        .await;
    let RunStatus::Failed { failure, .. } = many.the_run("w").await.status else {
        panic!("it did not fail");
    };
    assert_eq!(
        failure.message,
        "`each` has 1001 items, and a step takes 1000"
    );
}

#[tokio::test]
async fn a_failed_item_ends_its_siblings() {
    let world = world(json!({
        "plan": {"output": fields("items", "array")},
        "build": {
            "after": ["plan"], "retry": {"max": 1, "on": ["crash"]},
            "each": {"over": {"producer": "plan", "field": "items"}, "name": "item"},
        },
    }));
    world.begin(json!({})).await;
    world
        .tell(&world.spec("plan"), &ok(json!({"items": [1, 2, 3]})))
        .await;
    let second = world.working()[1].clone();
    world.tell(&second, &failed(FailureClass::Crash)).await;
    // Tried again as the item it was, beside the others.
    let again = world.spec("build");
    assert_eq!(again.attempt, 4);
    let envelope = world.envelope(&again).await;
    assert_eq!(envelope.values["item"], json!(2));
    assert_eq!(envelope.last_failure.unwrap().message, "no");
    world.tell(&again, &failed(FailureClass::Crash)).await;
    let run = world.the_run("w").await;
    assert_eq!(run.status.name(), "failed");
    assert!(world.working().is_empty(), "{:?}", world.working());
}

#[tokio::test]
async fn retries_rest_longer_each_time_and_only_for_the_failures_that_are_named() {
    let steps = json!({"a": {"retry": {"max": 2, "backoff": 100, "on": ["crash"]}}});
    let crashing = world(steps.clone());
    crashing.begin(json!({})).await;
    let mut rests = Vec::new();
    for attempt in 1..=3 {
        let spec = crashing.spec("a");
        assert_eq!(spec.attempt, attempt);
        crashing.tell(&spec, &failed(FailureClass::Crash)).await;
        let mut rest = 0;
        while attempt < 3 && crashing.spec("a").attempt == attempt {
            assert!(rest < 1000, "nothing follows");
            crashing.pass(SignedDuration::from_secs(5)).await;
            rest += 5;
        }
        rests.push(rest);
    }
    assert!((90..=115).contains(&rests[0]), "{rests:?}");
    assert!((180..=225).contains(&rests[1]), "{rests:?}");
    let run = crashing.the_run("w").await;
    assert_eq!(run.status.name(), "failed");
    assert_eq!(run.steps["a"].attempts.len(), 3);

    let wrong = world(steps);
    wrong.begin(json!({})).await;
    wrong
        .tell(&wrong.spec("a"), &failed(FailureClass::Budget))
        .await;
    assert_eq!(wrong.the_run("w").await.status.name(), "failed");
}

#[tokio::test]
async fn a_loop_goes_back_until_its_condition_holds_and_tells_why() {
    let steps = json!({
        "plan": {},
        "fix": {"after": ["plan"], "output": fields("d", "string")},
        "review": {
            "after": ["fix"], "output": fields("verdict", "string"),
            "loop": {"to": "fix", "until": is("review", "verdict", json!("pass")), "max": 2},
        },
        "aside": {"after": ["fix"]},
        "ship": {"after": ["review"]},
    });
    let world = world(steps.clone());
    world.begin(json!({})).await;
    world.tell(&world.spec("plan"), &ok(json!({}))).await;
    for (round, verdict) in [(1, "fail"), (2, "pass")] {
        let fix = world.spec("fix");
        let envelope = world.envelope(&fix).await;
        assert_eq!((fix.attempt, envelope.iteration), (round, round));
        let feedback = envelope
            .feedback
            .map(|feedback| (feedback.step, feedback.output));
        let expected = ("review".to_owned(), json!({"verdict": "fail"}));
        assert_eq!(feedback, (round == 2).then_some(expected));
        world.tell(&fix, &ok(json!({"d": "x"}))).await;
        // Beside the loop nothing starts before it is done.
        assert_eq!(
            world.the_run("w").await.steps["aside"].state,
            StepState::Waiting
        );
        let review = world.spec("review");
        world.tell(&review, &ok(json!({"verdict": verdict}))).await;
    }
    world.finish(|_| ok(json!({}))).await;
    let run = world.the_run("w").await;
    assert_eq!(run.status, RunStatus::Succeeded);
    assert_eq!(run.steps["fix"].iteration, 2);
    assert_eq!(run.steps["plan"].attempts.len(), 1);
    assert_eq!(run.steps["aside"].attempts.len(), 1);

    let stuck = self::world(steps);
    stuck.begin(json!({})).await;
    stuck
        .finish(|spec| match spec.step.as_str() {
            "fix" => ok(json!({"d": "x"})),
            "review" => ok(json!({"verdict": "fail"})),
            _ => ok(json!({})),
        })
        .await;
    let run = stuck.the_run("w").await;
    let RunStatus::Failed { step, failure } = &run.status else {
        panic!("{:?}", run.status);
    };
    assert_eq!(
        (step.as_str(), failure.class),
        ("review", FailureClass::NoProgress)
    );
    assert_eq!(run.steps["fix"].attempts.len(), 3);
}

#[tokio::test]
async fn a_step_that_asks_parks_its_run_until_a_person_answers() {
    let steps = json!({
        "a": {},
        "b": {"after": ["a"], "approve": {"before": true, "after": true, "otherwise": "deny"},
              "emits": ["Done"]},
    });
    let world = world(steps);
    world.begin(json!({})).await;
    world.tell(&world.spec("a"), &ok(json!({}))).await;
    let run = world.the_run("w").await;
    assert_eq!(run.status, RunStatus::Parked);
    assert!(world.working().is_empty(), "a parked run costs nothing");
    assert_eq!(world.queues.armed(), Vec::<String>::new());
    let yes = |step: Option<&str>| Order::Answer {
        step: step.map(str::to_owned),
        approve: true,
    };
    let run = world.order("c1", yes(Some("a"))).await;
    let refused = run.history.last().unwrap();
    assert_eq!(refused.kind, "command_refused");
    assert_eq!(refused.note, "ada: step a asks nothing");
    let run = world.order("c2", yes(None)).await;
    assert_eq!(run.status, RunStatus::Running);
    world
        .tell(&world.spec("b"), &success(json!({}), json!({"Done": {}})))
        .await;
    let run = world.the_run("w").await;
    assert_eq!(run.status, RunStatus::Parked);
    // Its output does not count yet.
    assert!(!story(&run, "b").contains(&"event_emitted".to_owned()));
    let run = world.order("c3", yes(Some("b"))).await;
    assert_eq!(run.status, RunStatus::Succeeded);
    world.finish(|_| ok(json!({}))).await;
    assert_eq!(world.the_run("next").await.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn a_question_that_nobody_answers_is_answered_in_time() {
    for (otherwise, expected) in [("deny", "denied"), ("approve", "succeeded")] {
        let steps = json!({"a": {"approve": {
            "before": true, "after": false, "within": 3600, "otherwise": otherwise,
        }}});
        let world = world(steps);
        world.begin(json!({})).await;
        world.pass(SignedDuration::from_mins(59)).await;
        assert_eq!(world.the_run("w").await.status, RunStatus::Parked);
        world.pass(SignedDuration::from_mins(2)).await;
        world.finish(|_| ok(json!({}))).await;
        assert_eq!(world.the_run("w").await.status.name(), expected);
        assert_eq!(world.queues.armed(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_event_under_a_condition_goes_out_only_when_it_holds() {
    let steps = json!({"a": {
        "output": fields("x", "string"), "emits": ["Done"],
        "emits_when": {"Done": is("a", "x", json!("yes"))},
    }});
    for (x, emits, expected, runs) in [
        ("yes", json!({"Done": {}}), "succeeded", 1),
        ("yes", json!({}), "failed", 0),
        ("no", json!({"Done": {}}), "succeeded", 0),
        ("no", json!({}), "succeeded", 0),
    ] {
        let world = world(steps.clone());
        world.begin(json!({})).await;
        let envelope = world.envelope(&world.spec("a")).await;
        assert!(envelope.emits_optional.contains("Done"));
        let result = success(json!({"x": x}), emits);
        world.tell(&world.spec("a"), &result).await;
        assert_eq!(world.the_run("w").await.status.name(), expected);
        let filter = RunFilter {
            workflow: Some("next".into()),
            limit: 9,
            ..RunFilter::default()
        };
        assert_eq!(world.store.list(&filter).await.unwrap().len(), runs);
    }
}

#[tokio::test]
async fn each_event_can_tell_what_became_of_it() {
    let steps = json!({"a": {"trigger": {
        "kind": "event", "event": "Go", "when": is("event", "n", json!(1)),
    }}});
    let world = world(steps);
    world.begin(json!({"n": 1})).await;
    world
        .engine
        .submit(&go("e2", json!({"n": 2})))
        .await
        .unwrap();
    let mut done = go("e3", json!({}));
    done.name = "Done".into();
    world.engine.submit(&done).await.unwrap();
    world.work().await;
    let decision = async |id: &str, workflow: &str| {
        let id = EventId::from(id);
        let (record, _) = world.store.event(&id).await.unwrap().unwrap();
        record.outcomes[workflow].decision.clone()
    };
    let run = world.the_run("w").await.id;
    assert_eq!(decision("e1", "w").await, Decision::Started { run });
    assert_eq!(decision("e2", "w").await.name(), "filtered");
    assert_eq!(decision("e3", "next").await.name(), "started");
}

#[tokio::test]
async fn of_events_in_quick_succession_the_last_one_starts_a_run() {
    let steps = json!({"a": {"trigger": {"kind": "event", "event": "Go", "debounce": 30}}});
    let world = world(steps);
    for n in 0..3 {
        let mut event = go(&format!("e{n}"), json!({"n": n}));
        event.emitted_at += SignedDuration::from_secs(n * 10);
        world.engine.submit(&event).await.unwrap();
        world.engine.submit(&event).await.unwrap();
        world.pass(SignedDuration::from_secs(10)).await;
    }
    let all = RunFilter {
        limit: 9,
        ..RunFilter::default()
    };
    assert_eq!(world.store.list(&all).await.unwrap().len(), 0);

    world.pass(SignedDuration::from_secs(31)).await;
    let run = world.the_run("w").await;
    assert_eq!(run.event.id, EventId::from("e2"));
    // One that comes late, from before, starts nothing.
    world
        .engine
        .submit(&go("e1", json!({"n": 1})))
        .await
        .unwrap();
    world.pass(SignedDuration::from_mins(5)).await;
    world.the_run("w").await;
    for (id, expected) in [
        ("e0", "superseded"),
        ("e1", "superseded"),
        ("e2", "started"),
    ] {
        let id = EventId::from(id);
        let (record, _) = world.store.event(&id).await.unwrap().unwrap();
        assert_eq!(record.outcomes["w"].decision.name(), expected, "{id}");
    }
}

/// Two runs of a step of which one may work at a time.
async fn two(strategy: &str) -> (World, RunId, RunId) {
    let steps = json!({"a": {"concurrency": {
        "key": {"producer": "event", "field": "n"}, "limit": 1, "strategy": strategy,
    }}});
    let world = world(steps);
    for id in ["e1", "e2"] {
        world.engine.submit(&go(id, json!({"n": 1}))).await.unwrap();
        world.work().await;
    }
    // Of another key, which nobody holds back.
    world
        .engine
        .submit(&go("e3", json!({"n": 2})))
        .await
        .unwrap();
    world.work().await;
    let id = |event: &str| RunId::derive("w", &EventId::from(event));
    let other = world.working();
    assert!(other.iter().any(|spec| spec.run == id("e3")));
    let spec = other.into_iter().find(|spec| spec.run == id("e3")).unwrap();
    world.tell(&spec, &ok(json!({}))).await;
    (world, id("e1"), id("e2"))
}

async fn run(world: &World, id: &RunId) -> Run {
    world.store.load(id).await.unwrap().unwrap().run
}

#[tokio::test]
async fn one_too_many_waits_for_its_turn() {
    let (world, first, second) = two("queue").await;
    let working = world.working();
    assert_eq!(working.len(), 1);
    assert_eq!(working[0].run, first);
    let waits = run(&world, &second).await;
    assert_eq!(waits.steps["a"].state.name(), "throttled");
    let line = waits.history.last().unwrap();
    assert_eq!(
        line.note,
        "waits for the limit of 1 at a time for event.n = 1"
    );
    world.tell(&working[0], &ok(json!({}))).await;
    let working = world.working();
    assert_eq!(working.len(), 1);
    assert_eq!(working[0].run, second);
    world.tell(&working[0], &ok(json!({}))).await;
    assert_eq!(run(&world, &second).await.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn one_that_waits_and_is_cancelled_leaves_its_place() {
    let (world, first, second) = two("queue").await;
    let third = go("e4", json!({"n": 1}));
    world.engine.submit(&third).await.unwrap();
    world.work().await;
    let command = Command {
        id: "c".into(),
        by: "ada".into(),
        order: Order::Cancel {
            because: String::new(),
        },
    };
    for id in [&second, &first] {
        let message = Message::Command {
            run: id.clone(),
            command: command.clone(),
        };
        let body = serde_json::to_string(&message).unwrap();
        world.engine.process(message.queue(), &body).await.unwrap();
        world.work().await;
        assert_eq!(run(&world, id).await.status.name(), "cancelled");
    }
    let working = world.working();
    assert_eq!(working.len(), 1);
    assert_eq!(working[0].run, RunId::derive("w", &third.id));
}

#[tokio::test]
async fn one_too_many_takes_the_place_of_the_oldest() {
    let (world, first, second) = two("cancel-running").await;
    let cancelled = run(&world, &first).await;
    let RunStatus::Cancelled { because } = &cancelled.status else {
        panic!("{:?}", cancelled.status);
    };
    assert_eq!(
        *because,
        format!("cancelled by loopy: {second} takes its place")
    );
    let working = world.working();
    assert_eq!(working.len(), 1);
    assert_eq!(working[0].run, second);
}

#[tokio::test]
async fn one_too_many_is_dropped_with_a_reason() {
    let (world, first, second) = two("drop").await;
    let dropped = run(&world, &second).await;
    let RunStatus::Cancelled { because } = &dropped.status else {
        panic!("{:?}", dropped.status);
    };
    assert_eq!(
        because,
        "dropped: 1 at a time for event.n = 1 are at work already"
    );
    assert_eq!(world.working()[0].run, first);
}

fn spent(usd: f64) -> StepResult {
    let mut result = ok(json!({}));
    result.usage.usd = Some(usd);
    result
}

#[tokio::test]
async fn dollars_are_reserved_before_and_settled_after() {
    let steps = json!({"a": {"agent": "Coder", "budget": {"spend": {"usd": 4}}}});
    let limits = json!({"day": {"spend": {"usd": 10}}});
    let world = world::world(project(steps, limits));
    for id in ["e1", "e2", "e3"] {
        world.engine.submit(&go(id, json!({}))).await.unwrap();
        world.work().await;
    }
    // Of ten dollars, twice four are reserved, and the third has to wait.
    let working = world.working();
    assert_eq!(working.len(), 2);
    assert_eq!(world.envelope(&working[0]).await.usd, Some(4.0));
    let mut failing = failed(FailureClass::Crash);
    failing.usage.usd = Some(1.5);
    world.tell(&working[0], &failing).await;
    let working = world.working();
    assert_eq!(
        working.len(),
        2,
        "a failed attempt gives back what it did not use"
    );
    for spec in &working {
        world.tell(spec, &spent(4.0)).await;
    }
    // 9.5 are gone: another four can never be had today.
    world.engine.submit(&go("e4", json!({}))).await.unwrap();
    world.work().await;
    let id = RunId::derive("w", &EventId::from("e4"));
    let RunStatus::Failed { failure, .. } = run(&world, &id).await.status else {
        panic!("it was let through");
    };
    assert_eq!(failure.class, FailureClass::Budget);
    assert_eq!(
        failure.message,
        "the limit of $10 for the day 2026-11-21 leaves too little: $9.50 are spent"
    );
    // Tomorrow it can.
    world.pass(SignedDuration::from_hours(24)).await;
    world.engine.submit(&go("e5", json!({}))).await.unwrap();
    world.work().await;
    assert_eq!(world.working().len(), 1);
}

#[tokio::test]
async fn a_step_without_a_budget_gets_what_is_left() {
    let steps = json!({"a": {"agent": "Coder"}, "b": {"agent": "Coder", "after": ["a"]}});
    let limits = json!({"workflows": {"w": {"spend": {"usd": 3}}}});
    let world = world::world(project(steps, limits));
    world.begin(json!({})).await;
    let first = world.spec("a");
    assert_eq!(world.envelope(&first).await.usd, Some(3.0));
    assert_eq!(first.allowance.usd, Some(3.0));
    world.tell(&first, &spent(1.0)).await;
    let second = world.spec("b");
    assert_eq!(world.envelope(&second).await.usd, Some(2.0));
    assert_eq!(second.allowance.usd, Some(2.0));
    // One that vanishes may have spent all it was let have.
    for _ in 0..2 {
        let _ = world.engine.lost(&second.run, "b", 1).await;
    }
    world.work().await;
    assert_eq!(world.the_run("w").await.status.name(), "failed");
}

#[tokio::test]
async fn a_cascade_has_only_so_many_runs() {
    let steps = json!({"a": {"emits": ["Done"]}});
    let world = world::world(project(steps, json!({"cascade_runs": 1})));
    world.begin(json!({})).await;
    let result = success(json!({}), json!({"Done": {}}));
    world.tell(&world.spec("a"), &result).await;
    let run = world.the_run("w").await;
    assert_eq!(run.status, RunStatus::Succeeded);
    let id = EventId::from_attempt(&run.id, "a", 1, "Done");
    let (record, _) = world.store.event(&id).await.unwrap().unwrap();
    let Decision::Refused { because } = &record.outcomes["next"].decision else {
        panic!("{record:?}");
    };
    assert_eq!(because, "the limit of 1 runs in a cascade is reached");
    // The event that was let through is, however often it comes.
    world.begin(json!({})).await;
}

#[tokio::test]
async fn a_paused_run_begins_nothing_and_goes_on_when_it_is_told_to() {
    let world = world(json!({"a": {}, "b": {"after": ["a"]}, "c": {"after": ["b"]}}));
    world.begin(json!({})).await;
    let run = world.order("p", Order::Pause).await;
    assert_eq!(run.status, RunStatus::Paused);
    world.tell(&world.spec("a"), &ok(json!({}))).await;
    assert!(world.working().is_empty());
    let run = world.order("r", Order::Resume).await;
    assert_eq!(run.status, RunStatus::Running);
    // Commands that come again change nothing.
    let run = world.order("p", Order::Pause).await;
    assert_eq!(run.status, RunStatus::Running);
    world.finish(|_| ok(json!({}))).await;
    assert_eq!(world.the_run("w").await.status, RunStatus::Succeeded);
}

#[tokio::test]
async fn a_cancelled_run_stops_what_works() {
    let world = world(json!({"a": {}, "b": {"after": ["a"]}}));
    world.begin(json!({})).await;
    let because = "no longer needed".to_owned();
    let run = world.order("c", Order::Cancel { because }).await;
    let because = "cancelled by ada: no longer needed".to_owned();
    assert_eq!(run.status, RunStatus::Cancelled { because });
    assert_eq!(run.steps["a"].state.name(), "cancelled");
    assert_eq!(run.steps["b"].state.name(), "skipped");
    assert!(world.working().is_empty());
    assert_eq!(world.queues.armed(), Vec::<String>::new());
    let run = world.order("c2", Order::Pause).await;
    assert_eq!(
        run.history.last().unwrap().note,
        "ada: the run is over: cancelled"
    );
}

#[tokio::test]
async fn a_run_is_gone_over_again_from_a_step_with_other_inputs() {
    let world = world(json!({
        "a": {"output": fields("x", "string")},
        "b": {"after": ["a"], "output": fields("y", "string")},
    }));
    world.begin(json!({"n": 1})).await;
    let result = |spec: &LaunchSpec| match spec.step.as_str() {
        "a" => ok(json!({"x": "old"})),
        _ => ok(json!({"y": "z"})),
    };
    world.finish(result).await;
    let original = world.the_run("w").await;
    let edits: Edits = serde_json::from_value(json!({
        "event": {"n": 7}, "outputs": {"a": {"x": "new"}},
    }))
    .unwrap();
    let id = RunId::again("w", &original.id, "c1");
    let again = Message::Again(Again {
        id: id.clone(),
        original: original.id.clone(),
        from: Some("b".into()),
        edits,
        latest: false,
        by: "ada".into(),
    });
    let body = serde_json::to_string(&again).unwrap();
    for _ in 0..2 {
        world.engine.process(again.queue(), &body).await.unwrap();
    }
    world.work().await;
    let working = world.working();
    assert_eq!(working.len(), 1);
    let envelope = world.envelope(&working[0]).await;
    assert_eq!(envelope.step, "b");
    assert_eq!(envelope.values["a"], json!({"x": "new"}));
    assert_eq!(envelope.values["event"], json!({"n": 7}));
    world.tell(&working[0], &ok(json!({"y": "z"}))).await;
    let forked = run(&world, &id).await;
    assert_eq!(forked.status, RunStatus::Succeeded);
    assert_eq!(forked.origin.unwrap().from.as_deref(), Some("b"));
    // The run it goes over is as it was.
    assert_eq!(run(&world, &original.id).await, original);
}

#[tokio::test]
async fn a_runner_that_falls_silent_counts_as_gone() {
    let world = world(json!({"a": {"budget": {"wall_clock": 60}}}));
    world.begin(json!({})).await;
    let spec = world.spec("a");
    for minute in 0..20 {
        world.pass(SignedDuration::from_mins(1)).await;
        let (status, body) = world
            .report(&spec, "heartbeat", json!({"sequence": minute}))
            .await;
        assert_eq!((status, &body["stop"]), (200, &json!(false)), "{minute}");
    }
    // It has stopped; the next look is five minutes off at most.
    world.pass(SignedDuration::from_mins(7)).await;
    world.pass(SignedDuration::from_mins(5)).await;
    let run = world.the_run("w").await;
    assert_eq!(run.steps["a"].attempts.len(), 2);
    let failure = run.steps["a"].attempts[0].failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::Lost);
    assert!(
        failure.message.starts_with("no sign of life"),
        "{failure:?}"
    );
}
