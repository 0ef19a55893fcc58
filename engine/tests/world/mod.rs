//! A home in memory whose sandboxes report what a test says, and whose port
//! calls can be made to fail from a given one on.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::manifest::{Manifest, Sensor, VerifyScheme};
use loopy_contract::report::{Outcome, StepResult, Usage, attempt_path};
use loopy_engine::memory::{
    ManualClock, MemoryManifests, MemoryPacks, MemoryQueues, MemorySecrets, MemoryStore,
    MemoryTranscripts,
};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{
    Bus, Launch, LaunchError, LaunchSpec, PortError, Ports, Queues, RunFilter, SandboxState,
    Sandboxes, Sensed, SensorCall, SensorCode, SensorError, Store, Timers,
};
use loopy_engine::run::{Run, SandboxRef};
use loopy_engine::{Engine, ReportRequest};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Remembers what it launched; the tests report in its place.
#[derive(Default)]
pub(crate) struct Launcher {
    pub(crate) launched: Mutex<Vec<LaunchSpec>>,
    pub(crate) stopped: Mutex<BTreeSet<String>>,
    pub(crate) refuse: Mutex<Option<String>>,
    pub(crate) pending: Mutex<u32>,
}

#[async_trait]
impl Sandboxes for Launcher {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        if let Some(why) = self.refuse.lock().unwrap().clone() {
            return Err(LaunchError::Refused(why));
        }
        let mut pending = self.pending.lock().unwrap();
        if *pending > 0 {
            *pending -= 1;
            return Ok(Launch::Pending(Duration::from_secs(2)));
        }
        let mut launched = self.launched.lock().unwrap();
        if !launched
            .iter()
            .any(|known| known.client_token == spec.client_token)
        {
            launched.push(spec.clone());
        }
        Ok(Launch::Started)
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        self.stopped.lock().unwrap().insert(sandbox.id.clone());
        Ok(())
    }

    async fn state(&self, _: &SandboxRef) -> Result<SandboxState, PortError> {
        Ok(SandboxState::Alive)
    }
}

/// A sensor that gives back its body's `events` list.
struct EchoSensor;

#[async_trait]
impl SensorCode for EchoSensor {
    async fn call(
        &self,
        _: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        use base64::Engine as _;
        let SensorCall::Request { body_base64, .. } = call else {
            return Ok(Vec::new());
        };
        let body = base64::engine::general_purpose::STANDARD
            .decode(body_base64)
            .unwrap();
        let body: Value = serde_json::from_slice(&body).map_err(|error| SensorError::Raised {
            sensor: sensor.name.clone(),
            message: error.to_string(),
        })?;
        Ok(serde_json::from_value(body["events"].clone()).unwrap())
    }

    async fn load(&self, _: &Manifest) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
}

/// Fails each port call once its fuse has burnt down: a crash at that point.
struct Fused<T> {
    inner: Arc<T>,
    fuse: Arc<AtomicI64>,
}

fn burn(fuse: &AtomicI64) -> Result<(), PortError> {
    if fuse.fetch_sub(1, Ordering::SeqCst) <= 0 {
        return Err(PortError::new("call", "the process crashed here"));
    }
    Ok(())
}

#[async_trait]
impl Queues for Fused<MemoryQueues> {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.send(message, delay).await
    }
    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.bury(queue, body, reason).await
    }
}

#[async_trait]
impl Timers for Fused<MemoryQueues> {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.arm(key, at, message).await
    }
    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.disarm(key).await
    }
}

#[async_trait]
impl Bus for Fused<MemoryQueues> {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.publish(event).await
    }
}

#[async_trait]
impl Sandboxes for Fused<Launcher> {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        burn(&self.fuse)?;
        self.inner.launch(spec).await
    }
    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        burn(&self.fuse)?;
        self.inner.stop(sandbox).await
    }
    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        self.inner.state(sandbox).await
    }
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) queues: Arc<MemoryQueues>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) transcripts: Arc<MemoryTranscripts>,
    pub(crate) packs: Arc<MemoryPacks>,
    pub(crate) fuse: Arc<AtomicI64>,
}

pub(crate) fn step(id: &str, extra: Value) -> Value {
    let mut step = json!({
        "id": id, "trigger": null, "after": [], "agent": "Worker", "output": {}, "emits": [],
        "budget": null, "body": "x", "refs": [],
    });
    for (key, value) in extra.as_object().unwrap() {
        step[key] = value.clone();
    }
    step
}

/// A home in memory that serves this manifest.
pub(crate) fn world(manifest: Manifest) -> World {
    world_with(manifest, Arc::new(EchoSensor))
}

/// As [`world`], with this sensor code.
pub(crate) fn world_with(manifest: Manifest, sensor_code: Arc<dyn SensorCode>) -> World {
    world_of(manifest, sensor_code, BTreeMap::new(), BTreeMap::new())
}

/// As [`world`], with these files by their hash, and the environment of each sandbox.
pub(crate) fn world_holding(
    manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
    sandboxes: BTreeMap<String, BTreeMap<String, String>>,
) -> World {
    world_of(manifest, Arc::new(EchoSensor), files, sandboxes)
}

fn world_of(
    manifest: Manifest,
    sensor_code: Arc<dyn SensorCode>,
    files: BTreeMap<String, Vec<u8>>,
    sandboxes: BTreeMap<String, BTreeMap<String, String>>,
) -> World {
    let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    let queues = Arc::new(MemoryQueues::new(clock.clone()));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let launcher = Arc::new(Launcher::default());
    let transcripts = Arc::new(MemoryTranscripts::default());
    let packs = Arc::new(MemoryPacks::default());
    let fuse = Arc::new(AtomicI64::new(i64::MAX));
    let fused = || {
        Arc::new(Fused {
            inner: queues.clone(),
            fuse: fuse.clone(),
        })
    };
    let engine = Engine::new(Ports {
        store: store.clone(),
        queues: fused(),
        bus: fused(),
        timers: fused(),
        manifests: Arc::new(MemoryManifests::new(manifest, files)),
        secrets: Arc::new(MemorySecrets {
            webhooks: VerifyScheme::ALL
                .iter()
                .filter_map(|scheme| scheme.secret_variable())
                .map(|variable| (variable, vec!["It's a Secret to Everybody".to_owned()]))
                .collect(),
            token_key: b"key".to_vec(),
            sandboxes,
            ..MemorySecrets::default()
        }),
        sandboxes: Arc::new(Fused {
            inner: launcher.clone(),
            fuse: fuse.clone(),
        }),
        transcripts: transcripts.clone(),
        packs: packs.clone(),
        sensor_code,
        clock: clock.clone(),
    });
    World {
        engine,
        clock,
        queues,
        store,
        launcher,
        transcripts,
        packs,
        fuse,
    }
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(crate) fn success(output: Value, emits: Value) -> StepResult {
    StepResult {
        outcome: Outcome::Succeeded {
            output: object(output),
            emits: serde_json::from_value(emits).unwrap(),
        },
        usage: Usage {
            usd: Some(0.25),
            ..Usage::default()
        },
        duration_ms: 5,
        files: None,
    }
}

impl World {
    pub(crate) async fn work(&self) {
        while let Some(message) = self.queues.take() {
            let body = serde_json::to_string(&message).unwrap();
            self.engine.process(message.queue(), &body).await.unwrap();
        }
    }

    pub(crate) async fn report(&self, spec: &LaunchSpec, leaf: &str, body: Value) -> (u16, Value) {
        let answer = self
            .engine
            .report(ReportRequest {
                method: if leaf == "envelope" {
                    "GET".into()
                } else {
                    "POST".into()
                },
                path: attempt_path(spec.run.as_str(), &spec.step, spec.attempt, leaf),
                authorization: Some(format!("Bearer {}", spec.token)),
                body: serde_json::to_vec(&body).unwrap(),
            })
            .await;
        (answer.status, answer.body)
    }

    /// Works and reports until nothing moves any more.
    pub(crate) async fn finish(&self, result_of: impl Fn(&LaunchSpec) -> StepResult) {
        let mut reported = BTreeSet::new();
        loop {
            self.work().await;
            let launched = self.launcher.launched.lock().unwrap().clone();
            let next = launched
                .into_iter()
                .find(|spec| reported.insert(spec.client_token.clone()));
            let Some(spec) = next else { return };
            let (status, body) = self.report(&spec, "result", json!(result_of(&spec))).await;
            assert_eq!(status, 200, "{body}");
        }
    }

    pub(crate) async fn the_run(&self, workflow: &str) -> Run {
        let filter = RunFilter {
            workflow: Some(workflow.into()),
            status: None,
            limit: 9,
        };
        let runs = self.store.list(&filter).await.unwrap();
        assert_eq!(runs.len(), 1, "{runs:?}");
        self.store.load(&runs[0].id).await.unwrap().unwrap().run
    }

    pub(crate) fn spec(&self, step: &str) -> LaunchSpec {
        let launched = self.launcher.launched.lock().unwrap();
        launched
            .iter()
            .rfind(|spec| spec.step == step)
            .unwrap()
            .clone()
    }
}
