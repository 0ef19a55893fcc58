//! The ports, over the world. Each call gives way before it does anything, so
//! that all else may happen first; it may fail before its work, or after it.

use crate::executor::{at_once, give_way};
use crate::faults::Fault;
use crate::mutants::{self, Mutant};
use crate::sandbox::Look;
use crate::world::{Dead, Home, Shared, World, title};
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, ManifestHash, RunId};
use loopy_contract::manifest::{Manifest, Sandbox, Sensor};
use loopy_engine::gate::Gate;
use loopy_engine::memory::MemoryStore;
use loopy_engine::memory::{MemoryPacks, MemoryTranscripts};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::outgoing::{Outgoing, outgoing};
use loopy_engine::ports::{
    Bus, Clock, Commit, Document, Launch, LaunchError, LaunchSpec, Manifests, PortError, Ports,
    Queues, RunFilter, SandboxState, Sandboxes, Secrets, Sensed, SensorCall, SensorCode,
    SensorError, Store, Stored, Timers,
};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{Run, RunSummary, SandboxRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The key that attempt tokens are derived from.
pub(crate) const TOKEN_KEY: &[u8] = b"simulation";

/// All ports of one process.
#[derive(Clone)]
pub(crate) struct SimPorts {
    pub(crate) world: Shared,
    pub(crate) store: Arc<MemoryStore>,
    /// Which process, for the trace.
    pub(crate) process: usize,
}

/// The engine's clock.
pub(crate) struct SimClock(pub(crate) Shared);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.lock().read_clock()
    }
}

impl SimPorts {
    pub(crate) fn ports(&self) -> Ports {
        let this = || Arc::new(self.clone());
        Ports {
            store: this(),
            queues: this(),
            bus: this(),
            timers: this(),
            manifests: this(),
            secrets: this(),
            sandboxes: this(),
            transcripts: Arc::new(MemoryTranscripts::default()),
            packs: Arc::new(MemoryPacks::default()),
            sensor_code: this(),
            clock: Arc::new(SimClock(self.world.clone())),
        }
    }

    /// Gives way, and may fail before anything was done.
    async fn begin(&self, what: &str) -> Result<(), PortError> {
        give_way().await;
        let mut world = self.world.lock();
        if world.strikes(Fault::FailBefore) {
            let process = self.process;
            world.note(20, || format!("p{process} {what}: FAILS before"));
            return Err(PortError::new(what, "it failed before it did anything"));
        }
        Ok(())
    }

    /// May fail though all was done.
    fn end<T>(&self, what: &str, done: T) -> Result<T, PortError> {
        let mut world = self.world.lock();
        if world.strikes(Fault::FailAfter) {
            let process = self.process;
            world.note(21, || format!("p{process} {what}: FAILS after"));
            return Err(PortError::new(what, "it failed after it was done"));
        }
        Ok(done)
    }

    /// A call that does its work in one go.
    async fn call<T>(
        &self,
        what: &str,
        work: impl FnOnce(&mut World) -> T + Send,
    ) -> Result<T, PortError> {
        self.begin(what).await?;
        let done = work(&mut self.world.lock());
        self.end(what, done)
    }

    fn mutant(&self) -> Option<Mutant> {
        self.world.lock().mutant
    }

    /// What a store that has its queues beside it performs as it commits, taken
    /// out of what is pending.
    fn take_outgoing(&self, run: &mut Run) -> Vec<Outgoing> {
        let now = {
            let world = self.world.lock();
            if world.home == Home::Cloud {
                return Vec::new();
            }
            world.shown()
        };
        let mut all = Vec::new();
        let pending = std::mem::take(&mut run.pending);
        for one in pending {
            match outgoing(run, &one.effect, now) {
                Some(out) => all.extend(out),
                None => run.pending.push(one),
            }
        }
        all
    }

    fn committed(&self, run: &Run, outgoing: Vec<Outgoing>) {
        let mut world = self.world.lock();
        world.committed(run);
        for one in outgoing {
            world.perform(one);
        }
    }

    fn memory<T>(result: Option<Result<T, PortError>>) -> Result<T, PortError> {
        result.unwrap_or_else(|| Err(PortError::new("store", "the store in memory waited")))
    }
}

#[async_trait]
impl Store for SimPorts {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        self.begin("load").await?;
        Self::memory(at_once(self.store.load(id)))
    }

    async fn create(&self, mut run: Run) -> Result<Commit, PortError> {
        self.begin("create").await?;
        let out = self.take_outgoing(&mut run);
        let done = Self::memory(at_once(self.store.create(run)))?;
        if let Commit::Done(stored) = &done {
            self.committed(&stored.run, out);
        }
        self.end("create", done)
    }

    async fn commit(&self, mut run: Run, version: u64) -> Result<Commit, PortError> {
        let mut version = version;
        match self.mutant() {
            Some(Mutant::EffectsBeforeCommit) => mutants::effects_first(self, &run).await?,
            Some(Mutant::NoVersion) => {
                let stored = Self::memory(at_once(self.store.load(&run.id)))?;
                version = stored.map_or(version, |stored| stored.version);
            }
            Some(Mutant::DisarmFirst) => mutants::disarm_first(&mut run),
            _ => {}
        }
        self.begin("commit").await?;
        if self.mutant() == Some(Mutant::NoVersion) {
            let stored = Self::memory(at_once(self.store.load(&run.id)))?;
            version = stored.map_or(version, |stored| stored.version);
        }
        if self.world.lock().strikes(Fault::Conflict) {
            return Ok(Commit::Conflict);
        }
        let out = self.take_outgoing(&mut run);
        let done = Self::memory(at_once(self.store.commit(run, version)))?;
        if let Commit::Done(stored) = &done {
            self.committed(&stored.run, out);
        }
        self.end("commit", done)
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        self.begin("list").await?;
        Self::memory(at_once(self.store.list(filter)))
    }

    async fn event(&self, id: &EventId) -> Result<Option<(EventRecord, u64)>, PortError> {
        self.begin("event").await?;
        Self::memory(at_once(self.store.event(id)))
    }

    async fn write_event(&self, record: &EventRecord, expected: u64) -> Result<bool, PortError> {
        self.begin("write_event").await?;
        if self.world.lock().strikes(Fault::Conflict) {
            return Ok(false);
        }
        let done = Self::memory(at_once(self.store.write_event(record, expected)))?;
        let mut world = self.world.lock();
        world.note(22, || {
            let outcomes: Vec<String> = record
                .outcomes
                .iter()
                .map(|(workflow, it)| format!("{workflow} {}", it.decision.name()))
                .collect();
            format!(
                "    event {}: {} ({done})",
                record.event.id,
                outcomes.join(", ")
            )
        });
        drop(world);
        self.end("write_event", done)
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        self.begin("events").await?;
        Self::memory(at_once(self.store.events(filter)))
    }

    async fn document(&self, key: &str) -> Result<Option<Document>, PortError> {
        self.begin("document").await?;
        Self::memory(at_once(self.store.document(key)))
    }

    async fn write_document(
        &self,
        key: &str,
        text: &str,
        expected: Option<u64>,
        expires: Timestamp,
    ) -> Result<bool, PortError> {
        self.begin("write_document").await?;
        if expected.is_some() && self.world.lock().strikes(Fault::Conflict) {
            return Ok(false);
        }
        let mut text = text.to_owned();
        if self.mutant() == Some(Mutant::ReleaseWithoutKey) && key.starts_with("gate/") {
            let before = self.world.lock().gates.get(key).cloned();
            mutants::release_another(before, &mut text);
        }
        let write = self.store.write_document(key, &text, expected, expires);
        let done = Self::memory(at_once(write))?;
        if done && key.starts_with("gate/") {
            let mut world = self.world.lock();
            match serde_json::from_str::<Gate>(&text) {
                Ok(gate) => world.gate_written(key, gate),
                Err(_) => world.breaks(format!("gate {key} cannot be read")),
            }
        }
        self.end("write_document", done)
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        self.begin("seen").await?;
        Self::memory(at_once(self.store.seen(delivery)))
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        self.begin("mark_seen").await?;
        Self::memory(at_once(self.store.mark_seen(delivery, expires)))
    }

    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        self.begin("watermark").await?;
        Self::memory(at_once(self.store.watermark(name)))
    }

    async fn snapshot(&self, name: &str) -> Result<Option<(Timestamp, String)>, PortError> {
        self.begin("snapshot").await?;
        Self::memory(at_once(self.store.snapshot(name)))
    }

    async fn set_snapshot(
        &self,
        name: &str,
        expected: Option<Timestamp>,
        at: Timestamp,
        text: &str,
    ) -> Result<bool, PortError> {
        self.begin("set_snapshot").await?;
        let set = self.store.set_snapshot(name, expected, at, text);
        let done = Self::memory(at_once(set))?;
        self.end("set_snapshot", done)
    }

    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError> {
        self.begin("set_watermark").await?;
        Self::memory(at_once(self.store.set_watermark(name, at)))?;
        self.end("set_watermark", ())
    }
}

#[async_trait]
impl Queues for SimPorts {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        let process = self.process;
        self.call("send", |world| {
            world.note(23, || format!("p{process}   send {}", title(message)));
            world.send(message, delay);
        })
        .await
    }

    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        self.call("bury", |world| {
            world.note(24, || format!("  BURIED on {queue}: {reason}: {body}"));
            world.dead.push(Dead {
                queue,
                body: body.into(),
                reason: Some(reason.to_owned()),
            });
        })
        .await
    }
}

#[async_trait]
impl Bus for SimPorts {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        let process = self.process;
        let mut event = event.clone();
        self.call("publish", |world| {
            let emitted = matches!(event.source, Source::Step { .. });
            if world.mutant == Some(Mutant::RandomEventId) && emitted {
                event.id = EventId(format!("evt-{:016x}", world.rng.next()));
            }
            world.note(25, || {
                format!("p{process}   publish {} {}", event.name, event.id)
            });
            world.publish(&event);
        })
        .await
    }
}

#[async_trait]
impl Timers for SimPorts {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        let process = self.process;
        self.call("arm", |world| {
            world.note(26, || format!("p{process}   arm {key}"));
            world.arm(key, at, message);
        })
        .await
    }

    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        let process = self.process;
        self.call("disarm", |world| {
            world.note(27, || format!("p{process}   disarm {key}"));
            world.timers.remove(key);
        })
        .await
    }
}

#[async_trait]
impl Manifests for SimPorts {
    async fn current(&self) -> Result<Arc<Manifest>, PortError> {
        self.begin("current manifest").await?;
        let world = self.world.lock();
        let [first, second] = &world.manifests;
        Ok(Arc::clone(if world.deployed == 0 { first } else { second }))
    }

    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError> {
        // Manifests never change, so every home keeps them in memory.
        let world = self.world.lock();
        let found = world
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
impl Secrets for SimPorts {
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
impl Sandboxes for SimPorts {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let mut spec = spec.clone();
        let process = self.process;
        let outcome = self
            .call("launch", |world| {
                if world.mutant == Some(Mutant::RandomClientToken) {
                    spec.client_token = format!("loopy-{:016x}", world.rng.next());
                }
                let (run, step, attempt) = (&spec.run, &spec.step, spec.attempt);
                if world.strikes(Fault::RefusedLaunch) {
                    world.note(28, || {
                        format!("p{process}   launch {run}/{step}#{attempt}: REFUSED")
                    });
                    world.give_up_launch(&spec.client_token);
                    return Err("there is no such image".to_owned());
                }
                let look = world.launch(&spec);
                let far = if matches!(look, Look::Started) {
                    "started"
                } else {
                    "pending"
                };
                world.note(29, || {
                    format!("p{process}   launch {run}/{step}#{attempt}: {far}")
                });
                Ok(look)
            })
            .await?;
        match outcome {
            Err(why) => Err(LaunchError::Refused(why)),
            Ok(Look::Started) => Ok(Launch::Started),
            Ok(Look::Pending(wait)) => {
                Ok(Launch::Pending(Duration::from_millis(wait.unsigned_abs())))
            }
        }
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        let process = self.process;
        self.call("stop", |world| {
            world.note(30, || format!("p{process}   stop {}", sandbox.id));
            world.stop(&sandbox.id);
        })
        .await
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        self.call("state", |world| {
            let alive = world.sandboxes.get(&sandbox.id).is_some_and(|it| it.alive);
            if alive {
                SandboxState::Alive
            } else {
                SandboxState::Gone
            }
        })
        .await
    }
}

#[async_trait]
impl SensorCode for SimPorts {
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
