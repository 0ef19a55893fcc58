//! The home in memory: every port over plain maps, with the same promises as
//! the durable homes minus durability. Tests and the simulation run on it.

use crate::files::PackOf;
use crate::message::{Message, QueueName};
use crate::ports::{
    Bus, Clock, Commit, Document, Manifests, Packs, PortError, Queues, RunFilter, Secrets, Store,
    Stored, Timers, Transcripts,
};
use crate::record::{EventFilter, EventRecord};
use crate::run::{Run, RunSummary};
use crate::transcript::TranscriptOf;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, ManifestHash, RunId};
use loopy_contract::manifest::{Manifest, Sandbox};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock only means that a test panicked; the maps are whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves it forward (or back).
    pub fn advance(&self, by: SignedDuration) {
        let mut now = lock(&self.0);
        *now = now.checked_add(by).unwrap_or(*now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// Runs, events, documents, deliveries and watermarks in maps.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    runs: Mutex<BTreeMap<RunId, Stored>>,
    events: Mutex<BTreeMap<EventId, (EventRecord, u64)>>,
    documents: Mutex<BTreeMap<String, Document>>,
    seen: Mutex<BTreeMap<String, Timestamp>>,
    watermarks: Mutex<BTreeMap<String, Timestamp>>,
    snapshots: Mutex<BTreeMap<String, String>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            runs: Mutex::default(),
            events: Mutex::default(),
            documents: Mutex::default(),
            seen: Mutex::default(),
            watermarks: Mutex::default(),
            snapshots: Mutex::default(),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        Ok(lock(&self.runs).get(id).cloned())
    }

    async fn create(&self, run: Run) -> Result<Commit, PortError> {
        let mut runs = lock(&self.runs);
        if runs.contains_key(&run.id) {
            return Ok(Commit::Conflict);
        }
        let stored = Stored { run, version: 1 };
        runs.insert(stored.run.id.clone(), stored.clone());
        Ok(Commit::Done(Box::new(stored)))
    }

    async fn commit(&self, run: Run, version: u64) -> Result<Commit, PortError> {
        let mut runs = lock(&self.runs);
        match runs.get_mut(&run.id) {
            Some(stored) if stored.version == version => {
                *stored = Stored {
                    run,
                    version: version.saturating_add(1),
                };
                Ok(Commit::Done(Box::new(stored.clone())))
            }
            _ => Ok(Commit::Conflict),
        }
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        let mut runs: Vec<RunSummary> = lock(&self.runs)
            .values()
            .map(|stored| stored.run.summary())
            .filter(|run| {
                filter
                    .workflow
                    .as_ref()
                    .is_none_or(|wanted| run.workflow == *wanted)
            })
            .filter(|run| {
                filter
                    .status
                    .as_ref()
                    .is_none_or(|wanted| run.status == *wanted)
            })
            .collect();
        runs.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        runs.truncate(filter.limit);
        Ok(runs)
    }

    async fn event(&self, id: &EventId) -> Result<Option<(EventRecord, u64)>, PortError> {
        Ok(lock(&self.events).get(id).cloned())
    }

    async fn write_event(&self, record: &EventRecord, expected: u64) -> Result<bool, PortError> {
        let mut events = lock(&self.events);
        let id = &record.event.id;
        let version = events.get(id).map_or(0, |(_, version)| *version);
        if version == expected {
            events.insert(id.clone(), (record.clone(), version.saturating_add(1)));
        }
        Ok(version == expected)
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        let mut events: Vec<EventRecord> = lock(&self.events)
            .values()
            .map(|(record, _)| record.clone())
            .filter(|record| filter.takes(record))
            .collect();
        events.sort_by(|a, b| (b.recorded_at, &b.event.id).cmp(&(a.recorded_at, &a.event.id)));
        events.truncate(filter.limit);
        Ok(events)
    }

    async fn document(&self, key: &str) -> Result<Option<Document>, PortError> {
        Ok(lock(&self.documents).get(key).cloned())
    }

    async fn write_document(
        &self,
        key: &str,
        text: &str,
        expected: Option<u64>,
        _: Timestamp,
    ) -> Result<bool, PortError> {
        let mut documents = lock(&self.documents);
        let version = documents.get(key).map_or(0, |found| found.version);
        if expected.is_some_and(|expected| expected != version) {
            return Ok(false);
        }
        let document = Document {
            text: text.to_owned(),
            version: version.saturating_add(1),
        };
        documents.insert(key.to_owned(), document);
        Ok(true)
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        let now = self.clock.now();
        Ok(lock(&self.seen)
            .get(delivery)
            .is_some_and(|expires| *expires > now))
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        lock(&self.seen).insert(delivery.to_owned(), expires);
        Ok(())
    }

    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        Ok(lock(&self.watermarks).get(name).copied())
    }

    async fn snapshot(&self, name: &str) -> Result<Option<(Timestamp, String)>, PortError> {
        let watermarks = lock(&self.watermarks);
        let text = lock(&self.snapshots).get(name).cloned().unwrap_or_default();
        Ok(watermarks.get(name).map(|at| (*at, text)))
    }

    async fn set_snapshot(
        &self,
        name: &str,
        expected: Option<Timestamp>,
        at: Timestamp,
        text: &str,
    ) -> Result<bool, PortError> {
        let mut watermarks = lock(&self.watermarks);
        if watermarks.get(name).copied() != expected {
            return Ok(false);
        }
        lock(&self.snapshots).insert(name.to_owned(), text.to_owned());
        watermarks.insert(name.to_owned(), at);
        Ok(true)
    }

    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError> {
        lock(&self.watermarks).insert(name.to_owned(), at);
        Ok(())
    }
}

/// What a dead-letter queue holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buried {
    /// The queue it was on.
    pub queue: QueueName,
    /// The message as it came.
    pub body: String,
    /// Why it can never be processed.
    pub reason: String,
}

/// Queues and timers: messages become due, are taken, and are gone.
pub struct MemoryQueues {
    clock: Arc<dyn Clock>,
    waiting: Mutex<VecDeque<(Timestamp, Message)>>,
    timers: Mutex<BTreeMap<String, (Timestamp, Message)>>,
    buried: Mutex<Vec<Buried>>,
}

impl MemoryQueues {
    /// Empty queues.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            waiting: Mutex::default(),
            timers: Mutex::default(),
            buried: Mutex::default(),
        }
    }

    /// Takes the first message that is due, if any; fired timers are messages.
    pub fn take(&self) -> Option<Message> {
        let now = self.clock.now();
        let mut timers = lock(&self.timers);
        let due = timers
            .iter()
            .find(|(_, (at, _))| *at <= now)
            .map(|(key, _)| key.clone());
        if let Some((_, message)) = due.and_then(|key| timers.remove(&key)) {
            return Some(message);
        }
        let mut waiting = lock(&self.waiting);
        let index = waiting.iter().position(|(at, _)| *at <= now)?;
        waiting.remove(index).map(|(_, message)| message)
    }

    /// What was buried, in order.
    pub fn buried(&self) -> Vec<Buried> {
        lock(&self.buried).clone()
    }

    /// Keys of the armed timers.
    pub fn armed(&self) -> Vec<String> {
        lock(&self.timers).keys().cloned().collect()
    }
}

#[async_trait]
impl Queues for MemoryQueues {
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError> {
        let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
        let at = self
            .clock
            .now()
            .checked_add(delay)
            .unwrap_or(Timestamp::MAX);
        lock(&self.waiting).push_back((at, message.clone()));
        Ok(())
    }

    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError> {
        let (body, reason) = (body.to_owned(), reason.to_owned());
        lock(&self.buried).push(Buried {
            queue,
            body,
            reason,
        });
        Ok(())
    }
}

#[async_trait]
impl Timers for MemoryQueues {
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError> {
        lock(&self.timers)
            .entry(key.to_owned())
            .or_insert_with(|| (at, message.clone()));
        Ok(())
    }

    async fn disarm(&self, key: &str) -> Result<(), PortError> {
        lock(&self.timers).remove(key);
        Ok(())
    }
}

#[async_trait]
impl Bus for MemoryQueues {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        self.send(&Message::Event(event.clone()), Duration::ZERO)
            .await
    }
}

/// One manifest and its files.
pub struct MemoryManifests {
    manifest: Arc<Manifest>,
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryManifests {
    /// Serves this manifest under its hash, and as the current one.
    pub fn new(manifest: Manifest, files: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            manifest: Arc::new(manifest),
            files,
        }
    }
}

#[async_trait]
impl Manifests for MemoryManifests {
    async fn current(&self) -> Result<Arc<Manifest>, PortError> {
        Ok(Arc::clone(&self.manifest))
    }

    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError> {
        if self.manifest.hash == hash.0 {
            Ok(Arc::clone(&self.manifest))
        } else {
            Err(PortError::new(
                format!("read manifest {hash}"),
                "there is none",
            ))
        }
    }

    async fn file(&self, hash: &str) -> Result<Vec<u8>, PortError> {
        let missing = || PortError::new(format!("read file {hash}"), "there is none");
        self.files.get(hash).cloned().ok_or_else(missing)
    }
}

/// Secrets given up front.
#[derive(Clone, Default)]
pub struct MemorySecrets {
    /// Environment of each sandbox.
    pub sandboxes: BTreeMap<String, BTreeMap<String, String>>,
    /// Webhook secrets by variable.
    pub webhooks: BTreeMap<String, Vec<String>>,
    /// The engine's own credentials.
    pub engine: BTreeMap<String, String>,
    /// The key of attempt tokens.
    pub token_key: Vec<u8>,
}

#[async_trait]
impl Secrets for MemorySecrets {
    async fn sandbox_env(
        &self,
        name: &str,
        _: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.sandboxes.get(name).cloned().unwrap_or_default())
    }

    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError> {
        Ok(self.webhooks.get(variable).cloned().unwrap_or_default())
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.engine.clone())
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Ok(self.token_key.clone())
    }
}

/// Transcripts in memory.
#[derive(Debug, Default)]
pub struct MemoryTranscripts {
    texts: Mutex<BTreeMap<(String, String), String>>,
}

impl MemoryTranscripts {
    /// What is kept of an attempt.
    pub fn text(&self, of: &TranscriptOf) -> String {
        let key = (TranscriptOf::folder(&of.run), of.name());
        lock(&self.texts).get(&key).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Transcripts for MemoryTranscripts {
    async fn append(&self, of: &TranscriptOf, offset: u64, text: &str) -> Result<(), PortError> {
        let key = (TranscriptOf::folder(&of.run), of.name());
        let mut texts = lock(&self.texts);
        let kept = texts.entry(key).or_default();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if kept.len() == offset {
            kept.push_str(text);
        }
        Ok(())
    }
}

/// The parts of a pack by their offset.
type Parts = BTreeMap<u64, Vec<u8>>;

/// Files that steps hand on, in memory.
#[derive(Debug, Default)]
pub struct MemoryPacks {
    /// By folder and name.
    parts: Mutex<BTreeMap<(String, String), Parts>>,
}

impl MemoryPacks {
    fn key(of: &PackOf) -> (String, String) {
        (PackOf::folder(&of.run), of.name())
    }

    /// Forgets all that is kept for a run.
    pub fn forget(&self, run: &RunId) {
        let folder = PackOf::folder(run);
        lock(&self.parts).retain(|(kept, _), _| *kept != folder);
    }
}

#[async_trait]
impl Packs for MemoryPacks {
    async fn put(&self, of: &PackOf, offset: u64, bytes: Vec<u8>) -> Result<(), PortError> {
        let mut parts = lock(&self.parts);
        parts
            .entry(Self::key(of))
            .or_default()
            .insert(offset, bytes);
        Ok(())
    }

    async fn part(
        &self,
        of: &PackOf,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, PortError> {
        let parts = lock(&self.parts);
        let found = parts.get(&Self::key(of)).and_then(|pack| pack.get(&offset));
        Ok(found
            .and_then(|bytes| bytes.get(..length))
            .map(<[u8]>::to_vec))
    }

    async fn copy(&self, from: &PackOf, to: &PackOf, _: u64) -> Result<(), PortError> {
        let mut parts = lock(&self.parts);
        let missing =
            || PortError::new(format!("copy files of step {}", from.step), "they are gone");
        let pack = parts.get(&Self::key(from)).cloned().ok_or_else(missing)?;
        parts.insert(Self::key(to), pack);
        Ok(())
    }
}
