//! The ports: what the engine needs of a home. Both homes and the in-memory
//! one implement these and nothing else; the engine knows no home.

use crate::files::PackOf;
use crate::message::{Message, QueueName};
use crate::record::{EventFilter, EventRecord};
use crate::run::{Run, RunSummary, SandboxRef};
use crate::transcript::TranscriptOf;
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, ManifestHash, RunId};
use loopy_contract::manifest::{Harness, Manifest, Sandbox, Sensor};
use loopy_contract::price::Price;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A port did not do what was asked; the same call may succeed later.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct PortError {
    /// What was attempted (`read run greet-1a2b`).
    pub what: String,
    /// What the other side said.
    pub why: String,
}

impl PortError {
    /// An error from anything that prints.
    pub fn new(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// The time. Injected so that tests and the simulation own it.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// A run as stored, with the version a commit must name.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The run.
    pub run: Run,
    /// Grows by one with each commit; the first is 1.
    pub version: u64,
}

/// What became of a commit.
#[derive(Clone, Debug)]
pub enum Commit {
    /// Durable, as it is given back here. A store that can perform effects in
    /// the same transaction has done so with those that are no longer pending.
    Done(Box<Stored>),
    /// Someone else committed in between (or created the run): load again.
    Conflict,
}

/// A small piece of state that is not a run: who may go on, what was spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// JSON.
    pub text: String,
    /// Grows by one with each write; the first is 1.
    pub version: u64,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only this workflow's.
    pub workflow: Option<String>,
    /// Only those with this status name, one of
    /// [`RunStatus::NAMES`](crate::run::RunStatus::NAMES).
    pub status: Option<String>,
    /// At most this many, newest first.
    pub limit: usize,
}

/// The longest text beside a watermark, in bytes.
pub const MAX_SNAPSHOT: usize = 256 << 10;

/// Run state. One conditional write a transition; nothing is durable until
/// `create` or `commit` gives back [`Commit::Done`].
///
/// The version is what fences: a driver that slept through its lease still holds
/// the old one, and its commit is refused.
#[async_trait]
pub trait Store: Send + Sync {
    /// The run, if there is one; always the last committed state.
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError>;
    /// Writes a run that must not exist yet, as version 1.
    async fn create(&self, run: Run) -> Result<Commit, PortError>;
    /// Writes the run if the stored version is still `version`.
    async fn commit(&self, run: Run, version: u64) -> Result<Commit, PortError>;
    /// Runs, newest first by creation.
    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError>;
    /// What became of an event, with its version.
    async fn event(&self, id: &EventId) -> Result<Option<(EventRecord, u64)>, PortError>;
    /// Writes what became of an event if the stored version is still `expected`;
    /// 0 when there must be none. False when it is not.
    async fn write_event(&self, record: &EventRecord, expected: u64) -> Result<bool, PortError>;
    /// Events, newest first by when they were recorded.
    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError>;
    /// A document, if there is one; always as it was last written.
    async fn document(&self, key: &str) -> Result<Option<Document>, PortError>;
    /// Writes a document if the stored version is still `expected`; 0 when there
    /// must be none, and without it whatever is there. False when it is not. It
    /// may be removed after `expires`.
    async fn write_document(
        &self,
        key: &str,
        text: &str,
        expected: Option<u64>,
        expires: Timestamp,
    ) -> Result<bool, PortError>;
    /// Whether this delivery was marked as accepted within the last days.
    async fn seen(&self, delivery: &str) -> Result<bool, PortError>;
    /// Marks a delivery as accepted, until `expires`.
    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError>;
    /// Reads a watermark (last run of a schedule or poll).
    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError>;
    /// Writes a watermark.
    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError>;
    /// Reads a watermark and what was written with it; empty when nothing was.
    async fn snapshot(&self, name: &str) -> Result<Option<(Timestamp, String)>, PortError>;
    /// Writes a watermark and a text of at most [`MAX_SNAPSHOT`] bytes, both or
    /// neither, if the watermark is still `expected`; `None` when there must be none.
    /// False when it is not.
    async fn set_snapshot(
        &self,
        name: &str,
        expected: Option<Timestamp>,
        at: Timestamp,
        text: &str,
    ) -> Result<bool, PortError>;
}

/// Durable queues, at least once, in no promised order.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Sends; durable when it returns. Not visible to receivers for `delay`
    /// (at most 15 minutes).
    async fn send(&self, message: &Message, delay: Duration) -> Result<(), PortError>;
    /// Puts what can never be processed into the queue's dead-letter queue,
    /// with the reason beside it.
    async fn bury(&self, queue: QueueName, body: &str, reason: &str) -> Result<(), PortError>;
}

/// The bus: takes events, hands each that has a subscriber to the event queue.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Publishes; durable when it returns. Publishing an id again is harmless:
    /// the runs it starts have derived ids.
    async fn publish(&self, event: &Event) -> Result<(), PortError>;
    /// Publishes many. When it fails some may be durable; publish all again.
    async fn publish_all(&self, events: &[Event]) -> Result<(), PortError> {
        for event in events {
            self.publish(event).await?;
        }
        Ok(())
    }
}

/// One-shot timers that put a message into a queue.
#[async_trait]
pub trait Timers: Send + Sync {
    /// Arms the timer `key`; arming it again with the same key changes nothing.
    async fn arm(&self, key: &str, at: Timestamp, message: &Message) -> Result<(), PortError>;
    /// Disarms it; unknown or fired keys are fine.
    async fn disarm(&self, key: &str) -> Result<(), PortError>;
}

/// Manifests by content hash, so that a run keeps the one it began with.
#[async_trait]
pub trait Manifests: Send + Sync {
    /// The manifest that new runs begin with.
    async fn current(&self) -> Result<Arc<Manifest>, PortError>;
    /// The manifest with this hash.
    async fn get(&self, hash: &ManifestHash) -> Result<Arc<Manifest>, PortError>;
    /// A skill or sensor file by content hash.
    async fn file(&self, hash: &str) -> Result<Vec<u8>, PortError>;
}

/// Secret values, looked up when needed and never stored by the engine.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The environment of a sandbox, from its `env_file`s.
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError>;
    /// The values of a webhook secret variable and of the one that holds what it
    /// was before, in this order; empty when neither is set.
    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError>;
    /// The engine's own credentials: `DAYTONA_API_KEY` and its like.
    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError>;
    /// The GitHub App whose tokens sandboxes clone with, as variables; empty when
    /// there is none.
    async fn github_app(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
    /// The key that attempt tokens are derived from.
    async fn token_key(&self) -> Result<Vec<u8>, PortError>;
}

/// What a sandbox is launched for.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The run's id.
    pub run: RunId,
    /// The step's name in its workflow.
    pub step: String,
    /// Counted from 1.
    pub attempt: u32,
    /// The client token: the same for every launch of this attempt, `[a-z0-9-]`,
    /// at most 40 characters. A second launch under it finds the first one, and
    /// it is the `id` by which [`Sandboxes::stop`] and [`Sandboxes::state`] know
    /// the sandbox.
    pub client_token: String,
    /// The sandbox's name in the registry.
    pub name: String,
    /// Its definition.
    pub sandbox: Sandbox,
    /// Bearer token of the attempt.
    pub token: String,
    /// How long the attempt may live.
    pub time_limit: Duration,
    /// What drives the work.
    pub harness: Harness,
    /// What it may use of models, for a provider that counts that itself.
    pub allowance: Allowance,
}

/// What an attempt may use of models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allowance {
    /// Dollars, if capped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Tokens, read and written together, if capped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What the project says that tokens cost, by model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, Price>,
}

/// How far a launch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// The runner has been started.
    Started,
    /// Still under way; call `launch` again with the same spec after this long.
    Pending(Duration),
}

/// A launch that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Trying again will not help (no such image, bad key, build failed).
    #[error("{0}")]
    Refused(String),
    /// It may help (network, rate limit, provider trouble).
    #[error(transparent)]
    Trouble(#[from] PortError),
}

/// Whether a sandbox still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// It does, as far as the provider knows.
    Alive,
    /// It ended or was removed.
    Gone,
}

/// Sandbox providers.
#[async_trait]
pub trait Sandboxes: Send + Sync {
    /// Launches, or goes on with a launch under the same client token. Returns
    /// within seconds; what takes longer is [`Launch::Pending`].
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError>;
    /// Ends and removes a sandbox; one that is gone already is fine.
    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError>;
    /// Looks after one.
    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError>;
}

/// Keeps what happened in attempts, for people.
#[async_trait]
pub trait Transcripts: Send + Sync {
    /// Keeps `text`, whole lines of JSON, at `offset` bytes of the transcript. The
    /// same part kept twice is there once.
    async fn append(&self, of: &TranscriptOf, offset: u64, text: &str) -> Result<(), PortError>;
}

/// Keeps the files that steps hand on, in the parts they come in.
#[async_trait]
pub trait Packs: Send + Sync {
    /// Keeps `bytes` at `offset` of a pack, a multiple of
    /// [`PACK_PART`](loopy_contract::files::PACK_PART); durable when it returns. The
    /// same part kept twice is there once.
    async fn put(&self, of: &PackOf, offset: u64, bytes: Vec<u8>) -> Result<(), PortError>;
    /// The part at `offset`, which has `length` bytes; `None` when not so many are
    /// kept there.
    async fn part(
        &self,
        of: &PackOf,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, PortError>;
    /// Keeps the pack `from`, which has `size` bytes, as `to` as well.
    async fn copy(&self, from: &PackOf, to: &PackOf, size: u64) -> Result<(), PortError>;
}

/// What wakes a sensor: a webhook's request, or a poll's tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SensorCall {
    /// A verified delivery.
    Request {
        /// `POST`.
        method: String,
        /// The path, with its leading `/`.
        path: String,
        /// The raw query string; empty when there is none.
        query: String,
        /// Header names in lower case.
        headers: BTreeMap<String, String>,
        /// Base64 of the raw body.
        body_base64: String,
    },
    /// A poll.
    Tick {
        /// RFC 3339.
        scheduled_at: Timestamp,
        /// RFC 3339; the tick before this one.
        last_run: Timestamp,
        /// The fields of each event that its last turn gave; none the first time.
        #[serde(default)]
        snapshot: Vec<Map<String, Value>>,
    },
}

/// An event as a sensor gave it back, not yet checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensed {
    /// The event's name.
    pub event: String,
    /// Its fields.
    pub fields: Map<String, Value>,
}

/// A sensor's code failed.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The code raised an error; the text is its own.
    #[error("sensor `{sensor}` failed: {message}")]
    Raised {
        /// The sensor's name.
        sensor: String,
        /// The error with the end of its trace.
        message: String,
    },
    /// The code cannot be loaded: it has no events, and it is no use to ask it.
    #[error("sensor `{sensor}` cannot be loaded: {reason}")]
    Unloadable {
        /// The sensor's name.
        sensor: String,
        /// Why not.
        reason: String,
    },
    /// The code could not be reached.
    #[error(transparent)]
    Trouble(#[from] PortError),
}

/// The project's sensor code, run outside the engine's process.
#[async_trait]
pub trait SensorCode: Send + Sync {
    /// Calls the sensor and gives back every event it made.
    async fn call(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError>;
    /// Loads the code of all sensors without calling one. Gives those that cannot be
    /// loaded, with why.
    async fn load(&self, manifest: &Manifest) -> Result<BTreeMap<String, String>, PortError>;
}

/// The ports of one home, as the engine takes them.
pub struct Ports {
    /// Run state.
    pub store: Arc<dyn Store>,
    /// Queues.
    pub queues: Arc<dyn Queues>,
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// One-shot timers.
    pub timers: Arc<dyn Timers>,
    /// Manifests and files.
    pub manifests: Arc<dyn Manifests>,
    /// Secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Sandbox providers.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Transcripts.
    pub transcripts: Arc<dyn Transcripts>,
    /// Files that steps hand on.
    pub packs: Arc<dyn Packs>,
    /// Sensor code.
    pub sensor_code: Arc<dyn SensorCode>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
