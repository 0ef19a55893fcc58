//! A project's state as others see it: listing and showing runs, following a
//! cascade, and handing an event to the process that serves the project.

use crate::clock::SystemClock;
use crate::db::{Db, ReadDb};
use crate::db_error::DbError;
use crate::dead_letters::{self, DeadLetter};
use crate::lock::ProjectLock;
use crate::queue::SqliteQueue;
use crate::transcripts::FileTranscripts;
use crate::{records, store};
use jiff::Timestamp;
use loopy_contract::event::Event;
use loopy_contract::ids::{CascadeId, EventId, RunId};
use loopy_contract::manifest::{Manifest, ManifestError};
use loopy_engine::message::Message;
use loopy_engine::ports::{PortError, Queues, RunFilter};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{Effect, Run, RunStatus, RunSummary, StoredRunError};
use loopy_engine::transcript::TranscriptOf;
use loopy_engine::{SubmitError, check_event};
use rusqlite::{Connection, OptionalExtension};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a followed cascade is looked at, if anything was committed.
const LOOK: Duration = Duration::from_millis(25);

/// How often all runs are looked at, if anything was committed.
const GLANCE: Duration = Duration::from_millis(200);

/// How much later than its creation a run may become visible to a reader.
const OVERLAP: Duration = Duration::from_secs(10);

/// How often it is checked that someone serves the project.
const SERVED: Duration = Duration::from_secs(1);

/// A cascade: all that one outside event has set off so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Cascade {
    /// Its runs, oldest first.
    pub runs: Vec<Run>,
    /// Events of it that were given up, with the reason.
    pub dead_letters: Vec<DeadLetter>,
    /// Nothing more will happen by itself: no event of it waits, and every run is
    /// over or waits for a person.
    pub over: bool,
}

/// A cascade could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// No process drives the project any more.
    #[error("nothing serves this project any more; `loopy run` goes on where it stopped")]
    Unserved,
    /// The state could not be read.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A reader of one project's state.
#[derive(Clone)]
pub struct State {
    dir: PathBuf,
    db: ReadDb,
}

impl State {
    /// Opens the state of `project`, whether or not a process serves it.
    ///
    /// # Errors
    /// [`DbError::Missing`] when nothing has run there yet; else what is wrong
    /// with the database.
    pub fn open(project: &Path) -> Result<Self, DbError> {
        let dir = project.join(crate::STATE_DIR);
        Ok(Self {
            db: ReadDb::open(&dir)?,
            dir,
        })
    }

    pub(crate) fn of(dir: &Path, db: &Db) -> Self {
        Self {
            dir: dir.to_owned(),
            db: ReadDb::from(db),
        }
    }

    /// What the transcript of an attempt says from `offset` bytes on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn transcript(&self, of: &TranscriptOf, offset: u64) -> Result<Vec<u8>, PortError> {
        FileTranscripts::new(&self.dir).read(of, offset).await
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        store::list(&self.db, filter).await
    }

    /// One run; `None` when there is none with this id.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn run(&self, id: &RunId) -> Result<Option<Run>, PortError> {
        Ok(store::load(&self.db, id).await?.map(|stored| stored.run))
    }

    /// Everything that was given up, oldest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, PortError> {
        self.db
            .read(|connection| dead_letters::dead_letters(connection, None))
            .await
            .map_err(|why| PortError::new("list dead letters", why))
    }

    /// The manifest that new runs begin with.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn manifest(&self) -> Result<Manifest, PortError> {
        let what = "read the manifest that is served";
        let json = self
            .db
            .read(current_manifest)
            .await
            .map_err(|why| PortError::new(what, why))?
            .ok_or_else(|| PortError::new(what, "nothing has served this project yet"))?;
        Manifest::from_json(json.as_bytes()).map_err(|why| PortError::new(what, why))
    }

    /// Hands an event to the process that serves the project: checked against
    /// the manifest that is served, then queued for it.
    ///
    /// # Errors
    /// As [`loopy_engine::Engine::submit`].
    pub async fn submit(&self, event: &Event) -> Result<(), SubmitError> {
        let manifest = self.manifest().await?;
        check_event(&manifest, event)?;
        Ok(self.send(&Message::Event(event.clone())).await?)
    }

    /// Hands a message to the process that serves the project, now or next.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn send(&self, message: &Message) -> Result<(), PortError> {
        let what = || format!("hand on a message for {}", message.queue());
        let db = Db::attach(&self.dir).map_err(|why| PortError::new(what(), why))?;
        SqliteQueue::new(db, Arc::new(SystemClock))
            .send(message, Duration::ZERO)
            .await
    }

    /// Whether a process drives the project, and so takes what is sent.
    ///
    /// # Errors
    /// When the lock cannot be looked at.
    pub fn is_served(&self) -> Result<bool, PortError> {
        ProjectLock::is_held(&self.dir)
            .map_err(|why| PortError::new("look at the project's lock", why))
    }

    /// The message of an event that nobody has looked at yet, and when it is due.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn queued_event(
        &self,
        id: &EventId,
    ) -> Result<Option<(Event, Timestamp)>, PortError> {
        let what = || format!("look for event {id} in its queue");
        let key = id.0.clone();
        let row: Option<(String, i64)> = self
            .db
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT body, visible_ms FROM messages WHERE queue = 'events' \
                         AND json_valid(body) AND json_extract(body, '$.kind') = 'event' \
                         AND json_extract(body, '$.id') = ?1",
                    )?
                    .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .await
            .map_err(|why| PortError::new(what(), why))?;
        let Some((body, due)) = row else {
            return Ok(None);
        };
        let event = serde_json::from_str(&body).map_err(|why| PortError::new(what(), why))?;
        let due = Timestamp::from_millisecond(due).map_err(|why| PortError::new(what(), why))?;
        Ok(Some((event, due)))
    }

    /// Has a dead letter tried again; false when there is none with this id.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn redrive(&self, id: i64) -> Result<bool, PortError> {
        let error = |why: DbError| PortError::new(format!("redrive dead letter {id}"), why);
        let db = Db::attach(&self.dir).map_err(error)?;
        let now = Timestamp::now().as_millisecond();
        let found = db.write(move |connection| dead_letters::redrive(connection, id, now));
        Ok(found.await.map_err(error)?.is_some())
    }

    /// What became of an event; `None` when it was never recorded.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn event(&self, id: &EventId) -> Result<Option<EventRecord>, PortError> {
        let found = records::event(&self.db, id).await?;
        Ok(found.map(|(record, _)| record))
    }

    /// Events, newest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        records::events(&self.db, filter).await
    }

    /// How far a cascade has come.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn cascade(&self, id: &CascadeId) -> Result<Cascade, PortError> {
        let what = || format!("read cascade {id}");
        let key = id.0.clone();
        let found = self
            .db
            .read(move |connection| Rows::read(connection, &key))
            .await
            .map_err(|why| PortError::new(what(), why))?;
        found.cascade().map_err(|why| PortError::new(what(), why))
    }

    /// Waits until a cascade is over, and calls `changed` with each state of it
    /// that is new, the last one included.
    ///
    /// # Errors
    /// [`FollowError`]; what has run so far is kept.
    pub async fn follow<F>(&self, id: &CascadeId, mut changed: F) -> Result<Cascade, FollowError>
    where
        F: FnMut(&Cascade),
    {
        let mut last: Option<Cascade> = None;
        let mut version = None;
        let mut served = tokio::time::Instant::now();
        loop {
            let now = self.data_version().await?;
            if version != Some(now) {
                version = Some(now);
                let found = self.cascade(id).await?;
                if last.as_ref() != Some(&found) {
                    changed(&found);
                }
                if found.over {
                    return Ok(found);
                }
                last = Some(found);
            }
            if served.elapsed() >= SERVED {
                let held = ProjectLock::is_held(&self.dir)
                    .map_err(|why| PortError::new("look at the project's lock", why))?;
                if !held {
                    return Err(FollowError::Unserved);
                }
                served = tokio::time::Instant::now();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Calls `changed` with each run that is new or has moved: first those that
    /// are running or quite new, then whatever comes. Never ends by itself.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn watch<F>(&self, mut changed: F) -> Result<Infallible, PortError>
    where
        F: FnMut(&Run),
    {
        let mut version = None;
        let mut known: BTreeMap<RunId, (i64, bool)> = BTreeMap::new();
        let mut newest = Timestamp::now();
        loop {
            let now = self.data_version().await?;
            if version != Some(now) {
                version = Some(now);
                let since = newest.checked_sub(OVERLAP).unwrap_or(newest);
                let open = known.iter().filter(|(_, (_, over))| !over);
                let open = open.map(|(id, _)| id.clone()).collect();
                let found = store::versions(&self.db, since, open).await?;
                let before = std::mem::take(&mut known);
                for (id, version) in found {
                    if let Some(seen) = before.get(&id).filter(|(seen, _)| *seen == version) {
                        known.insert(id, *seen);
                        continue;
                    }
                    if let Some(stored) = store::load(&self.db, &id).await? {
                        newest = newest.max(stored.run.created_at);
                        changed(&stored.run);
                        known.insert(id, (version, stored.run.status.is_over()));
                    }
                }
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Cascades that go on by themselves: an event of theirs waits, or a run is
    /// under way that nobody has paused and that waits for nobody. Oldest first.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<CascadeId>, PortError> {
        let ids = self
            .db
            .read(|connection| {
                connection
                    .prepare_cached(
                    "SELECT cascade FROM ( \
                         SELECT cascade, created_ns AS age FROM runs WHERE status = 'running' \
                         UNION ALL \
                         SELECT json_extract(body, '$.cascade'), visible_ms * 1000000 FROM messages \
                         WHERE queue = 'events' AND json_valid(body) \
                         AND json_extract(body, '$.cascade') IS NOT NULL \
                     ) GROUP BY cascade ORDER BY min(age), cascade",
                    )?
                    .query_map([], |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<String>>>()
            })
            .await
            .map_err(|why| PortError::new("look for unfinished cascades", why))?;
        Ok(ids.into_iter().map(CascadeId).collect())
    }

    async fn data_version(&self) -> Result<i64, PortError> {
        self.db
            .read(|connection| connection.query_row("PRAGMA data_version", [], |row| row.get(0)))
            .await
            .map_err(|why| PortError::new("look for changes", why))
    }
}

fn current_manifest(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT json FROM manifests WHERE current = 1", [], |row| {
            row.get(0)
        })
        .optional()
}

/// Whether a run does nothing more by itself.
fn rests(run: &Run) -> bool {
    let works = || {
        let mut steps = run.steps.values();
        steps.any(|step| step.state.name() == "running")
    };
    match run.status {
        RunStatus::Parked => true,
        RunStatus::Paused => !works(),
        _ => run.status.is_over(),
    }
}

/// What the database holds of a cascade at one moment.
struct Rows {
    event_waits: bool,
    runs: Vec<(bool, String)>,
    dead_letters: Vec<DeadLetter>,
    manifest: Option<String>,
}

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
enum RowError {
    #[error(transparent)]
    Run(#[from] StoredRunError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Rows {
    fn read(connection: &Connection, cascade: &str) -> rusqlite::Result<Self> {
        // One transaction: an event must not be missed between the queue, which
        // it has left, and the runs, which it has not reached.
        let tx = connection.unchecked_transaction()?;
        let event_waits = tx
            .prepare_cached(
                "SELECT 1 FROM messages WHERE queue = 'events' \
                 AND json_valid(body) AND json_extract(body, '$.cascade') = ?1",
            )?
            .exists([cascade])?
            // An event that waits for others to settle is in no queue itself.
            || tx
                .prepare_cached(
                    "SELECT 1 FROM messages JOIN events \
                     ON events.id = json_extract(messages.body, '$.event') \
                     WHERE messages.queue = 'watch' \
                     AND messages.body LIKE '{\"kind\":\"settled\",%' AND events.cascade = ?1",
                )?
                .exists([cascade])?;
        let runs = tx
            .prepare_cached(
                "SELECT unsettled, run FROM runs WHERE cascade = ?1 ORDER BY created_ns, id",
            )?
            .query_map([cascade], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let dead_letters = dead_letters::dead_letters(&tx, Some(cascade))?;
        let manifest = current_manifest(&tx)?;
        Ok(Self {
            event_waits,
            runs,
            dead_letters,
            manifest,
        })
    }

    fn cascade(self) -> Result<Cascade, RowError> {
        let mut runs = Vec::with_capacity(self.runs.len());
        // Events that a run may have yet to put on the bus.
        let mut unpublished = Vec::new();
        for (unsettled, text) in &self.runs {
            let run = loopy_engine::run::read(text)?;
            if *unsettled {
                unpublished.extend(run.pending.iter().filter_map(
                    |pending| match &pending.effect {
                        Effect::Publish { event } => Some(event.clone()),
                        _ => None,
                    },
                ));
            }
            runs.push(run);
        }
        let mut over = !self.event_waits && runs.iter().all(rests);
        if over
            && !unpublished.is_empty()
            && let Some(json) = &self.manifest
        {
            let manifest = Manifest::from_json(json.as_bytes())?;
            let known: BTreeSet<&RunId> = runs.iter().map(|run| &run.id).collect();
            // An event that waits nowhere was published if its runs are there,
            // or if it was given up.
            over = unpublished.iter().all(|event| {
                manifest
                    .subscribers(&event.name)
                    .iter()
                    .all(|workflow| known.contains(&RunId::derive(workflow, &event.id)))
                    || self
                        .dead_letters
                        .iter()
                        .any(|letter| letter.body.contains(event.id.as_str()))
            });
        }
        Ok(Cascade {
            runs,
            dead_letters: self.dead_letters,
            over,
        })
    }
}
