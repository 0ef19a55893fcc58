//! What the engine was asked in a story, asked again of an engine over another
//! store, one after the other: every store must come to the same histories.

use crate::play::{Play, Story};
use crate::ports::TOKEN_KEY;
use crate::world::Asked;
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{ManifestHash, RunId};
use loopy_contract::manifest::{Manifest, Sandbox, Sensor};
use loopy_engine::Engine;
use loopy_engine::memory::{ManualClock, MemoryPacks, MemoryTranscripts};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::{
    Bus, Clock, Launch, LaunchError, LaunchSpec, Manifests, PortError, Ports, Queues, SandboxState,
    Sandboxes, Secrets, Sensed, SensorCall, SensorCode, SensorError, Store, Timers,
};
use loopy_engine::run::{Run, SandboxRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What an engine was asked, and when by its clock.
pub struct Recording {
    asked: Vec<(Timestamp, Asked)>,
    manifests: [Arc<Manifest>; 2],
    runs: Vec<RunId>,
}

/// Plays a story and keeps what the engine was asked.
pub fn record(story: &Story) -> Recording {
    let mut play = Play::new(story);
    play.world.lock().asked = Some(Vec::new());
    play.run();
    let mut world = play.world.lock();
    Recording {
        asked: world.asked.take().unwrap_or_default(),
        manifests: world.manifests.clone(),
        runs: world.runs.keys().cloned().collect(),
    }
}

impl Recording {
    /// A clock that shows when the recording begins, for the store to read.
    pub fn clock(&self) -> Arc<ManualClock> {
        let first = self.asked.first().map(|(at, _)| *at);
        Arc::new(ManualClock::new(first.unwrap_or(Timestamp::UNIX_EPOCH)))
    }

    /// How often the engine was asked something.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether it was asked nothing.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

/// Asks the same of an engine over this store, which reads this clock, and gives
/// back the runs that came of it.
///
/// # Errors
/// When the store cannot be read in the end.
pub async fn replay(
    recording: &Recording,
    clock: &Arc<ManualClock>,
    store: Arc<dyn Store>,
) -> Result<Vec<Run>, PortError> {
    let nowhere = || {
        Arc::new(Nowhere {
            manifests: recording.manifests.clone(),
        })
    };
    let engine = Engine::new(Ports {
        store: Arc::clone(&store),
        queues: nowhere(),
        bus: nowhere(),
        timers: nowhere(),
        manifests: nowhere(),
        secrets: nowhere(),
        sandboxes: nowhere(),
        transcripts: Arc::new(MemoryTranscripts::default()),
        packs: Arc::new(MemoryPacks::default()),
        sensor_code: nowhere(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
    });
    for (at, asked) in &recording.asked {
        clock.advance(at.duration_since(clock.now()));
        // What fails here would come again; over any store it fails alike.
        match asked.clone() {
            Asked::Submit(event) => drop(engine.submit(&event).await),
            Asked::Process(queue, body) => drop(engine.process(queue, &body).await),
            Asked::Report(request) => drop(engine.report(request).await),
            Asked::Lost(run, step, attempt) => drop(engine.lost(&run, &step, attempt).await),
            Asked::Resume(run) => drop(engine.resume(&run).await),
        }
    }
    let mut runs = Vec::new();
    for id in &recording.runs {
        if let Some(stored) = store.load(id).await? {
            let mut run = stored.run;
            // A store with queues of its own performs some effects by itself.
            run.pending.clear();
            runs.push(run);
        }
    }
    Ok(runs)
}

/// Takes all that is sent and does nothing with it: what would come of it is in
/// the recording already.
struct Nowhere {
    manifests: [Arc<Manifest>; 2],
}

#[async_trait]
impl Queues for Nowhere {
    async fn send(&self, _: &Message, _: Duration) -> Result<(), PortError> {
        Ok(())
    }
    async fn bury(&self, _: QueueName, _: &str, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Bus for Nowhere {
    async fn publish(&self, _: &Event) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Timers for Nowhere {
    async fn arm(&self, _: &str, _: Timestamp, _: &Message) -> Result<(), PortError> {
        Ok(())
    }
    async fn disarm(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl Manifests for Nowhere {
    async fn current(&self) -> Result<Arc<Manifest>, PortError> {
        let [first, _] = &self.manifests;
        Ok(Arc::clone(first))
    }
    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError> {
        let found = self
            .manifests
            .iter()
            .find(|manifest| manifest.hash == hash.0);
        found
            .cloned()
            .ok_or_else(|| PortError::new("manifest", "there is none"))
    }
    async fn file(&self, hash: &str) -> Result<Vec<u8>, PortError> {
        Err(PortError::new(format!("file {hash}"), "there is none"))
    }
}

#[async_trait]
impl Secrets for Nowhere {
    async fn sandbox_env(
        &self,
        _: &str,
        _: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
    async fn webhook_secrets(&self, _: &str) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }
    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Ok(TOKEN_KEY.to_vec())
    }
}

#[async_trait]
impl Sandboxes for Nowhere {
    async fn launch(&self, _: &LaunchSpec) -> Result<Launch, LaunchError> {
        Ok(Launch::Started)
    }
    async fn stop(&self, _: &SandboxRef) -> Result<(), PortError> {
        Ok(())
    }
    async fn state(&self, _: &SandboxRef) -> Result<SandboxState, PortError> {
        Ok(SandboxState::Alive)
    }
}

#[async_trait]
impl SensorCode for Nowhere {
    async fn call(
        &self,
        _: &Manifest,
        _: &Sensor,
        _: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        Ok(Vec::new())
    }

    async fn load(&self, _: &Manifest) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
}
