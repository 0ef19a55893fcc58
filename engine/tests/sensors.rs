//! What the engine makes of sensors: a poll that remembers, code that cannot be loaded.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use async_trait::async_trait;
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{
    MAX_SNAPSHOT, PortError, Sensed, SensorCall, SensorCode, SensorError, Store,
};
use loopy_engine::{LAPSES, WebhookRequest, unloadable};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use world::{World, object, world_with};

/// What a sensor does in one turn.
#[derive(Clone)]
enum Turn {
    /// Gives the fields of these events.
    Gives(Vec<Value>),
    Raises(&'static str),
    CannotLoad(&'static str),
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
        let mut turns = self.turns.lock().unwrap();
        match turns.get_mut(&name).and_then(VecDeque::pop_front).unwrap() {
            Turn::Gives(events) => Ok(events
                .into_iter()
                .map(|fields| Sensed {
                    event: sensor.emits.clone(),
                    fields: object(fields),
                })
                .collect()),
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
        let mut found = Vec::new();
        while let Some(message) = self.queues.take() {
            if let Message::Event(event) = message {
                found.push(event.fields["n"].as_i64().unwrap());
            }
        }
        found
    }
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
async fn a_delivery_to_what_cannot_be_loaded_is_refused_until_it_can() {
    let (world, code) = told();
    // The first one was accepted: it is tried again, and no event is made up for it.
    assert_eq!(world.post("/x", "1").await, 202);
    code.tell("a", Turn::CannotLoad("no module named x"));
    code.tell("b", Turn::Gives(vec![json!({"n": 7})]));
    let why = world.deliver().await.unwrap_err();
    assert!(why.contains("no module named x"), "{why}");
    // Its neighbour's event is not held up.
    assert_eq!(world.published(), [7]);
    assert_eq!(world.post("/x", "2").await, 503);
    assert_eq!(world.post("/y", "2").await, 202);
    world.queues.take().unwrap();
    // One that was accepted before is not sent again by its sender.
    assert_eq!(world.post("/x", "1").await, 202);
    let kept = unloadable(&*world.store, &manifest()).await.unwrap();
    assert_eq!(kept["a"].reason, "no module named x");

    // The accepted delivery comes again, and now it works.
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
