//! What the engine makes of sensors: a poll that remembers, code that cannot be loaded.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use async_trait::async_trait;
use jiff::SignedDuration;
use loopy_contract::ids::EventId;
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{
    MAX_SNAPSHOT, PortError, Sensed, SensorCall, SensorCode, SensorError, Store,
};
use loopy_engine::sensor_host::MAX_EVENTS;
use loopy_engine::{LAPSES, WebhookRequest, unloadable};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use world::{World, object, world_with};

/// What a sensor does in one turn.
#[derive(Clone)]
enum Turn {
    /// Gives the fields of these events.
    Gives(Vec<Value>),
    Raises(&'static str),
    CannotLoad(&'static str),
    /// Gives these once it is let go on.
    Waits(Arc<Notify>, Vec<Value>),
}

/// Sensor code that does what it is told, and keeps what it was called with.
#[derive(Default)]
struct Told {
    turns: Mutex<BTreeMap<String, VecDeque<Turn>>>,
    calls: Mutex<Vec<(String, SensorCall)>>,
    not_loaded: Mutex<BTreeMap<String, String>>,
}

impl Told {
    fn tell(&self, sensor: &str, turn: Turn) {
        let mut turns = self.turns.lock().unwrap();
        turns.entry(sensor.to_owned()).or_default().push_back(turn);
    }

    /// Which sensors were called, in order.
    fn called(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The snapshots that polls saw, in order.
    fn snapshots(&self) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        let seen = calls.iter().filter_map(|(_, call)| match call {
            SensorCall::Tick { snapshot, .. } => Some(json!(snapshot)),
            SensorCall::Request { .. } => None,
        });
        seen.collect()
    }
}

#[async_trait]
impl SensorCode for Told {
    async fn call(
        &self,
        _: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        let name = sensor.name.clone();
        self.calls
            .lock()
            .unwrap()
            .push((name.clone(), call.clone()));
        let gives = |events: Vec<Value>| {
            let sensed = events.into_iter().map(|fields| Sensed {
                event: sensor.emits.clone(),
                fields: object(fields),
            });
            Ok(sensed.collect())
        };
        let turn = {
            let mut turns = self.turns.lock().unwrap();
            turns.get_mut(&name).and_then(VecDeque::pop_front).unwrap()
        };
        match turn {
            Turn::Gives(events) => gives(events),
            Turn::Waits(go, events) => {
                go.notified().await;
                gives(events)
            }
            Turn::Raises(message) => Err(SensorError::Raised {
                sensor: name,
                message: message.to_owned(),
            }),
            Turn::CannotLoad(reason) => Err(SensorError::Unloadable {
                sensor: name,
                reason: reason.to_owned(),
            }),
        }
    }

    async fn load(&self, _: &Manifest) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.not_loaded.lock().unwrap().clone())
    }
}

fn manifest() -> Manifest {
    let hook = |name: &str, path: &str| {
        json!({"name": name, "trigger": {"kind": "webhook", "path": path, "verify": "none"},
               "emits": "Seen", "source": "module", "module": "sensors.a", "fn": name})
    };
    let poll = |name: &str, on_change: bool| {
        json!({"name": name, "trigger": {"kind": "poll", "interval": "5m", "on_change": on_change},
               "emits": "Seen", "source": "module", "module": "sensors.a", "fn": name})
    };
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {}, "agents": {},
            "events": {"Seen": {"fields": {"n": {"type": "integer"}, "text": {"type": "string"}},
                                "optional": ["text"]}},
        },
        "workflows": {"w": {"entry": "s", "steps": {"s": world::step("w/s", json!({
            "agent": null, "trigger": {"kind": "event", "event": "Seen"},
        }))}}},
        "sensors": [hook("a", "/x"), hook("b", "/x"), hook("c", "/y"), poll("p", false), poll("q", true)],
        "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))
    .unwrap();
    manifest.seal()
}

fn told() -> (World, Arc<Told>) {
    let code = Arc::new(Told::default());
    (
        world_with(manifest(), Arc::clone(&code) as Arc<dyn SensorCode>),
        code,
    )
}

impl World {
    async fn poll(&self, sensor: &str, minute: u32) -> Result<(), String> {
        let message = json!({"kind": "poll", "sensor": sensor,
                             "scheduled_at": format!("2026-11-21T10:{minute:02}:00Z")});
        let body = message.to_string();
        let done = self.engine.process(QueueName::Deliveries, &body);
        done.await.map_err(|error| error.to_string())
    }

    async fn post(&self, path: &str, body: &str) -> u16 {
        let request = WebhookRequest {
            method: "POST".into(),
            path: path.into(),
            query: String::new(),
            headers: BTreeMap::new(),
            body: body.as_bytes().to_vec(),
        };
        self.engine.webhook(request).await.status
    }

    /// Takes the one message that waits, and processes it.
    async fn deliver(&self) -> Result<(), String> {
        let message = self.queues.take().unwrap();
        let body = serde_json::to_string(&message).unwrap();
        let done = self.engine.process(message.queue(), &body);
        done.await.map_err(|error| error.to_string())
    }

    /// The field `n` of the events on the bus, in order.
    fn published(&self) -> Vec<i64> {
        self.events().into_iter().map(|(_, n)| n).collect()
    }

    /// The ids of the events on the bus, with their field `n`, in order.
    fn events(&self) -> Vec<(EventId, i64)> {
        let mut found = Vec::new();
        while let Some(message) = self.queues.take() {
            if let Message::Event(event) = message {
                let n = event.fields["n"].as_i64().unwrap();
                found.push((event.id, n));
            }
        }
        found
    }

    /// From here on the process dies before its `calls`-th call of bus or queue.
    fn dies_after(&self, calls: i64) {
        self.fuse.store(calls, Ordering::SeqCst);
    }

    fn lives(&self) {
        self.fuse.store(i64::MAX, Ordering::SeqCst);
    }
}

/// Each event once, as whoever starts runs sees them: the field `n` by id.
fn known(events: &[(EventId, i64)]) -> Vec<i64> {
    let by_id: BTreeMap<_, _> = events.iter().cloned().collect();
    let mut all: Vec<i64> = by_id.into_values().collect();
    all.sort_unstable();
    all
}

fn numbers(all: &[i64]) -> Turn {
    Turn::Gives(all.iter().map(|n| json!({ "n": n })).collect())
}

#[tokio::test]
async fn a_poll_finds_what_its_last_turn_gave() {
    let (world, code) = told();
    code.tell("p", Turn::Gives(vec![json!({"n": 1}), json!({"n": 2})]));
    code.tell("p", Turn::Raises("not now"));
    code.tell("p", Turn::Gives(vec![json!({"n": 2})]));
    code.tell("p", Turn::Gives(vec![]));
    code.tell("p", Turn::Gives(vec![]));
    world.poll("p", 0).await.unwrap();
    assert!(world.poll("p", 5).await.unwrap_err().contains("not now"));
    for minute in [5, 10, 15] {
        world.poll("p", minute).await.unwrap();
    }
    let both = json!([{"n": 1}, {"n": 2}]);
    let expected = [json!([]), both.clone(), both, json!([{"n": 2}]), json!([])];
    assert_eq!(code.snapshots(), expected);
    assert_eq!(world.published(), [1, 2, 2]);
    // A turn that was had is not had again.
    world.poll("p", 15).await.unwrap();
    assert_eq!(code.snapshots().len(), 5);
}

#[tokio::test]
async fn what_the_last_turn_gave_as_well_is_no_event_on_change() {
    let (world, code) = told();
    for turn in [
        vec![json!({"n": 1}), json!({"n": 2})],
        vec![json!({"n": 2}), json!({"n": 1})],
        vec![json!({"n": 2}), json!({"n": 2, "text": "x"})],
        vec![],
        vec![json!({"n": 2})],
    ] {
        code.tell("q", Turn::Gives(turn));
    }
    for minute in [0, 5, 10, 15, 20] {
        world.poll("q", minute).await.unwrap();
    }
    assert_eq!(world.published(), [1, 2, 2, 2]);
    assert_eq!(code.snapshots()[2], json!([{"n": 2}, {"n": 1}]));
}

#[tokio::test]
async fn what_breaks_the_contract_is_told_at_each_turn() {
    let (world, code) = told();
    for minute in [0, 5] {
        code.tell("q", Turn::Gives(vec![json!({"n": "one"}), json!({"n": 2})]));
        world.poll("q", minute).await.unwrap();
    }
    assert_eq!(world.published(), [2]);
    let buried = world.queues.buried();
    assert_eq!(buried.len(), 2);
    assert!(buried[1].reason.contains("/n"), "{}", buried[1].reason);
}

#[tokio::test]
async fn a_turn_that_gives_too_much_fails_before_anything_is_published() {
    let (world, code) = told();
    let large = json!({"n": 1, "text": "x".repeat(MAX_SNAPSHOT)});
    code.tell("p", Turn::Gives(vec![json!({"n": 0}), large]));
    let why = world.poll("p", 0).await.unwrap_err();
    assert!(why.contains("262144") && why.contains("sensor p"), "{why}");
    assert_eq!(world.published(), [0; 0]);
    assert_eq!(world.store.snapshot("poll/p").await.unwrap(), None);
}

#[tokio::test]
async fn a_delivery_that_only_what_cannot_be_loaded_waits_for_is_refused_until_it_can() {
    let (world, code) = told();
    // The first one was accepted: it is tried again, and no event is made up for it.
    assert_eq!(world.post("/x", "1").await, 202);
    code.tell("a", Turn::CannotLoad("no module named x"));
    code.tell("b", Turn::CannotLoad("no module named y"));
    let why = world.deliver().await.unwrap_err();
    assert!(why.contains("no module named x"), "{why}");
    assert_eq!(world.published(), [0; 0]);
    assert_eq!(world.post("/x", "2").await, 503);
    assert_eq!(world.post("/y", "2").await, 202);
    world.queues.take().unwrap();
    let kept = unloadable(&*world.store, &manifest()).await.unwrap();
    assert_eq!(kept["a"].reason, "no module named x");

    assert_eq!(world.post("/y", "3").await, 202);
    code.tell("c", Turn::Gives(vec![]));
    world.deliver().await.unwrap();
    assert_eq!(world.post("/x", "2").await, 503);
    code.tell("p", Turn::Gives(vec![]));
    world.poll("p", 0).await.unwrap();
    assert_eq!(world.post("/x", "2").await, 503);
    let loaded = world.engine.load_sensors().await.unwrap();
    assert_eq!(loaded, BTreeMap::new());
    assert_eq!(world.post("/x", "2").await, 202);
}

#[tokio::test]
async fn one_broken_sensor_does_not_take_its_path_from_its_neighbours() {
    let (world, code) = told();
    for (body, n) in [("1", 7), ("2", 8)] {
        // Not every sender sends again what is refused.
        assert_eq!(world.post("/x", body).await, 202);
        code.tell("a", Turn::CannotLoad("no module named x"));
        code.tell("b", numbers(&[n]));
        let why = world.deliver().await.unwrap_err();
        assert!(why.contains("no module named x"), "{why}");
        assert_eq!(world.published(), [n]);
    }
}

#[tokio::test]
async fn a_neighbour_that_is_done_is_not_called_again_because_another_one_raised() {
    let (world, code) = told();
    assert_eq!(world.post("/x", "1").await, 202);
    let delivery = world.queues.take().unwrap();
    let body = serde_json::to_string(&delivery).unwrap();
    let process = async || world.engine.process(delivery.queue(), &body).await;
    code.tell("a", Turn::Raises("not now"));
    code.tell("b", Turn::Gives(vec![json!({"n": 7}), json!({"n": "x"})]));
    process().await.unwrap_err();
    assert_eq!(world.published(), [7]);
    code.tell("a", Turn::Raises("not now"));
    process().await.unwrap_err();
    assert_eq!(world.queues.buried(), []);
    code.tell("a", numbers(&[1]));
    process().await.unwrap();
    assert_eq!(world.published(), [1]);
    assert_eq!(code.called(), ["a", "b", "a", "a"]);
    // What could not be accepted of the one that was done is told all the same.
    let buried = world.queues.buried();
    assert_eq!(buried.len(), 1);
    assert!(buried[0].reason.contains("/n"), "{}", buried[0].reason);
}

#[tokio::test]
async fn an_answer_in_another_order_on_a_repeated_call_loses_and_doubles_nothing() {
    let (world, code) = told();
    assert_eq!(world.post("/y", "1").await, 202);
    let delivery = world.queues.take().unwrap();
    let body = serde_json::to_string(&delivery).unwrap();
    code.tell("c", numbers(&[1, 2]));
    world.dies_after(1);
    world
        .engine
        .process(delivery.queue(), &body)
        .await
        .unwrap_err();
    world.lives();
    let mut events = world.events();
    assert_eq!(known(&events), [1]);
    // What lists the newest first begins with another one meanwhile.
    code.tell("c", numbers(&[3, 2, 1]));
    world.engine.process(delivery.queue(), &body).await.unwrap();
    events.extend(world.events());
    assert_eq!(events.len(), 4, "one came twice");
    assert_eq!(known(&events), [1, 2, 3]);
}

#[tokio::test]
async fn events_that_say_the_same_are_as_many_as_there_are() {
    let (world, code) = told();
    assert_eq!(world.post("/y", "1").await, 202);
    code.tell("c", numbers(&[5, 5, 6, 5]));
    world.deliver().await.unwrap();
    assert_eq!(known(&world.events()), [5, 5, 5, 6]);
}

#[tokio::test]
async fn more_events_than_can_be_published_in_time_are_refused_by_number() {
    let (world, code) = told();
    code.tell("p", numbers(&vec![1; MAX_EVENTS + 1]));
    let why = world.poll("p", 0).await.unwrap_err();
    assert!(why.contains("5001 events"), "{why}");
    assert!(why.contains("may give 5000"), "{why}");
    assert_eq!(world.published(), [0; 0]);
    code.tell("p", numbers(&vec![1; MAX_EVENTS]));
    world.poll("p", 0).await.unwrap();
    assert_eq!(known(&world.events()).len(), MAX_EVENTS);
}

#[tokio::test]
async fn a_turn_that_failed_midway_and_the_next_one_give_the_same_events() {
    let (world, code) = told();
    code.tell("q", numbers(&[1, 2]));
    world.dies_after(1);
    world.poll("q", 0).await.unwrap_err();
    world.lives();
    code.tell("q", numbers(&[3, 2, 1]));
    // The next one comes first.
    world.poll("q", 5).await.unwrap();
    world.poll("q", 0).await.unwrap();
    let events = world.events();
    assert_eq!(events.len(), 4, "one came twice");
    assert_eq!(known(&events), [1, 2, 3]);
    assert_eq!(code.called().len(), 2);
    // From one turn that succeeded to the next, the same is another event.
    code.tell("q", numbers(&[]));
    world.poll("q", 10).await.unwrap();
    code.tell("q", numbers(&[1]));
    world.poll("q", 15).await.unwrap();
    let later = world.events();
    assert_eq!(later.len(), 1);
    assert!(!events.contains(&later[0]));
}

#[tokio::test]
async fn polls_that_waited_for_an_hour_are_one_turn() {
    let (world, code) = told();
    code.tell("p", numbers(&[1]));
    world.poll("p", 0).await.unwrap();
    world.clock.advance(SignedDuration::from_secs(3600 + 7));
    code.tell("p", numbers(&[2]));
    // In no order, as queues give them.
    for minute in [30, 55, 5, 10, 15, 20, 25, 35, 40, 45, 50] {
        world.poll("p", minute).await.unwrap();
    }
    assert_eq!(world.published(), [1, 2]);
    let calls = code.calls.lock().unwrap().clone();
    let (
        _,
        SensorCall::Tick {
            scheduled_at,
            last_run,
            ..
        },
    ) = &calls[1]
    else {
        unreachable!("{calls:?}");
    };
    // It stands for all that were due, and nothing between lies in no turn.
    assert_eq!(scheduled_at.to_string(), "2026-11-21T11:00:00Z");
    assert_eq!(last_run.to_string(), "2026-11-21T10:00:00Z");
}

#[tokio::test]
async fn a_turn_waits_for_the_one_under_way() {
    let (world, code) = told();
    let go = Arc::new(Notify::new());
    code.tell("q", Turn::Waits(Arc::clone(&go), vec![json!({"n": 1})]));
    code.tell("q", numbers(&[1, 2]));
    let second = async {
        let why = world.poll("q", 5).await.unwrap_err();
        assert!(why.contains("another turn of it is under way"), "{why}");
        go.notify_one();
    };
    let (first, ()) = tokio::join!(world.poll("q", 0), second);
    first.unwrap();
    world.poll("q", 5).await.unwrap();
    assert_eq!(world.published(), [1, 2]);
    assert_eq!(code.snapshots(), [json!([]), json!([{"n": 1}])]);
}

#[tokio::test]
async fn a_turn_that_ends_after_a_newer_one_leaves_what_that_one_gave() {
    let (world, code) = told();
    let go = Arc::new(Notify::new());
    code.tell("q", Turn::Waits(Arc::clone(&go), vec![json!({"n": 1})]));
    code.tell("q", numbers(&[1, 2]));
    let second = async {
        // The first one has been at it for longer than any function may.
        world.clock.advance(SignedDuration::from_secs(66));
        world.poll("q", 5).await.unwrap();
        go.notify_one();
    };
    let (first, ()) = tokio::join!(world.poll("q", 0), second);
    first.unwrap();
    let (at, text) = world.store.snapshot("poll/q").await.unwrap().unwrap();
    assert_eq!(at.to_string(), "2026-11-21T10:05:00Z");
    assert_eq!(text, r#"[{"n":1},{"n":2}]"#);
    // What both found is one event.
    assert_eq!(known(&world.events()), [1, 2]);
}

#[tokio::test]
async fn a_note_goes_when_its_sensor_works_and_lapses_when_nobody_repeats_it() {
    let (world, code) = told();
    code.not_loaded
        .lock()
        .unwrap()
        .insert("c".to_owned(), "r".repeat(2000));
    let loaded = world.engine.load_sensors().await.unwrap();
    assert_eq!(loaded["c"].len(), 2000);
    let kept = unloadable(&*world.store, &manifest()).await.unwrap();
    assert!(kept["c"].reason.chars().count() < 600);
    assert_eq!(world.post("/y", "1").await, 503);
    world.clock.advance(LAPSES);
    assert_eq!(world.post("/y", "1").await, 202);
    code.tell("c", Turn::Gives(vec![json!({"n": 1})]));
    world.deliver().await.unwrap();
    assert!(
        unloadable(&*world.store, &manifest())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(world.published(), [1]);
}
