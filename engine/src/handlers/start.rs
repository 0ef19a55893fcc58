//! `start`: makes the runs that an event or a schedule's tick begins, and writes
//! down what became of each event.

use super::{Engine, check_event};
use crate::admission::update;
use crate::condition::{self, Values};
use crate::driver::Driver;
use crate::files::PackOf;
use crate::limits::day;
use crate::message::{Again, Message};
use crate::ports::PortError;
use crate::record::{Decision, EventOutcome, EventRecord};
use crate::run::Run;
use crate::schedule;
use crate::transition;
use futures::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::{CatchUp, Manifest, Trigger};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many events deep a cascade may go. It bounds projects whose emitted
/// events lead back to their own triggers.
pub const MAX_CASCADE_DEPTH: u32 = 32;

/// How often the record of an event is written again when others write it in
/// between.
const MAX_CONFLICTS: u32 = 20;

/// How long counts of runs are kept.
const KEEP: SignedDuration = SignedDuration::from_hours(24 * 100);

/// How many of the runs counted last are remembered, so that a redelivery is not
/// counted twice.
const REMEMBERED: usize = 256;

/// How many events that nobody waits for are written down at the same time.
const AT_ONCE: usize = 32;

/// How many runs of some kind there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RunCount {
    count: u32,
    last: VecDeque<RunId>,
}

impl RunCount {
    /// Counts the run, once, unless there are `cap` already. Whether it counts.
    fn add(&mut self, run: &RunId, cap: u32) -> bool {
        if self.last.contains(run) {
            return true;
        }
        if self.count >= cap {
            return false;
        }
        self.count += 1;
        self.last.push_back(run.clone());
        if self.last.len() > REMEMBERED {
            self.last.pop_front();
        }
        true
    }

    /// Takes back one that did not come about after all.
    fn remove(&mut self, run: &RunId) {
        if let Some(at) = self.last.iter().position(|other| other == run) {
            self.last.remove(at);
            self.count = self.count.saturating_sub(1);
        }
    }
}

/// The events that a trigger with `debounce` has seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Debounce {
    /// The last one, not yet decided on.
    waiting: Option<Event>,
    /// Those that are being decided on. They are kept here until that is written
    /// down, for a redelivery to go on with.
    #[serde(default)]
    settling: Vec<Event>,
    /// When and what the last decided one was.
    done: Option<(Timestamp, EventId)>,
}

/// Events are ordered by when they were made.
fn order(event: &Event) -> (Timestamp, EventId) {
    (event.emitted_at, event.id.clone())
}

impl Driver {
    /// Puts an event on the bus. One that no workflow starts on goes nowhere; it
    /// is only written down.
    pub(crate) async fn publish(
        &self,
        manifest: &Manifest,
        event: &Event,
    ) -> Result<(), PortError> {
        if manifest.subscribers(&event.name).is_empty() {
            tracing::info!(event = event.name, id = %event.id, "no workflow starts on this event");
            return self.write_down(event, BTreeMap::new()).await;
        }
        self.ports.bus.publish(event).await
    }

    /// Puts many events on the bus, as [`Driver::publish`] does.
    pub(crate) async fn publish_all(
        &self,
        manifest: &Manifest,
        events: Vec<Event>,
    ) -> Result<(), PortError> {
        let (heard, unheard): (Vec<Event>, Vec<Event>) = events
            .into_iter()
            .partition(|event| !manifest.subscribers(&event.name).is_empty());
        let noted: Vec<_> = unheard
            .iter()
            .map(|event| self.publish(manifest, event))
            .collect();
        let mut noted = stream::iter(noted).buffer_unordered(AT_ONCE);
        while let Some(noted) = noted.next().await {
            noted?;
        }
        drop(noted);
        if heard.is_empty() {
            return Ok(());
        }
        self.ports.bus.publish_all(&heard).await
    }

    /// Writes down what became of an event.
    async fn write_down(
        &self,
        event: &Event,
        decisions: BTreeMap<String, Decision>,
    ) -> Result<(), PortError> {
        let at = self.ports.clock.now();
        let outcomes = decisions
            .into_iter()
            .map(|(workflow, decision)| (workflow, EventOutcome { at, decision }))
            .collect();
        let mut record = EventRecord {
            event: event.clone(),
            recorded_at: at,
            outcomes,
        };
        let mut expected = 0;
        for _ in 0..MAX_CONFLICTS {
            if self.ports.store.write_event(&record, expected).await? {
                return Ok(());
            }
            if let Some((mut known, version)) = self.ports.store.event(&event.id).await? {
                let before = known.clone();
                known.merge(&record);
                if known == before {
                    return Ok(());
                }
                (record, expected) = (known, version);
            }
        }
        Err(PortError::new(
            format!("write down event {}", event.id),
            format!("others wrote it first {MAX_CONFLICTS} times"),
        ))
    }
}

impl Engine {
    pub(super) async fn start_event(&self, event: Event) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let mut decisions = BTreeMap::new();
        let too_deep = event.depth > MAX_CASCADE_DEPTH;
        // What is repeated was checked against the contract of its time.
        let outdated = match &event.source {
            Source::Replay { .. } => check_event(&manifest, &event).err(),
            _ => None,
        };
        for workflow in manifest.subscribers(&event.name) {
            let decision = if too_deep {
                let because = format!(
                    "it is {} events deep in its cascade; the limit is {MAX_CASCADE_DEPTH}",
                    event.depth
                );
                Some(Decision::Refused { because })
            } else if let Some(why) = &outdated {
                let because = format!("it is repeated, and the project has changed: {why}");
                Some(Decision::Refused { because })
            } else {
                self.decide(&manifest, workflow, &event).await?
            };
            decisions.extend(decision.map(|decision| (workflow.to_owned(), decision)));
        }
        self.driver.write_down(&event, decisions).await?;
        Ok(too_deep.then(|| {
            format!(
                "event {} is {} events deep in cascade {}; the limit is {MAX_CASCADE_DEPTH}",
                event.name, event.depth, event.cascade
            )
        }))
    }

    /// What a workflow does with an event, and does it; nothing when that is
    /// decided elsewhere.
    async fn decide(
        &self,
        manifest: &Arc<Manifest>,
        workflow: &str,
        event: &Event,
    ) -> Result<Option<Decision>, PortError> {
        let plan = manifest.workflows.get(workflow);
        if let Some(Trigger::Event { when, debounce, .. }) =
            plan.and_then(|plan| plan.entry_trigger())
        {
            let fields = Value::Object(event.fields.clone());
            let seen = Values::from([("event".to_owned(), fields)]);
            if let Some(condition) = when
                && !condition::holds(condition, &seen)
            {
                return Ok(Some(Decision::Filtered {
                    condition: condition.source.clone(),
                }));
            }
            if let Some(seconds) = debounce {
                return self.wait_for_more(workflow, event, *seconds).await;
            }
        }
        self.start_run(manifest, workflow, event).await.map(Some)
    }

    /// Starts a run, if the limits of the project allow another one.
    async fn start_run(
        &self,
        manifest: &Arc<Manifest>,
        workflow: &str,
        event: &Event,
    ) -> Result<Decision, PortError> {
        let run = RunId::derive(workflow, &event.id);
        if let Some(because) = self.count_run(manifest, workflow, event, &run).await? {
            return Ok(Decision::Refused { because });
        }
        self.driver.start(manifest, workflow, event).await?;
        Ok(Decision::Started { run })
    }

    /// Counts a run where its number is limited; a sentence when it is one too
    /// many.
    async fn count_run(
        &self,
        manifest: &Manifest,
        workflow: &str,
        event: &Event,
        run: &RunId,
    ) -> Result<Option<String>, PortError> {
        let Some(limits) = &manifest.registry.limits else {
            return Ok(None);
        };
        let now = self.ports.clock.now();
        let (cascade, day) = (&event.cascade, day(now));
        let of_day = limits.day.as_ref().and_then(|cap| cap.runs);
        let of_workflow = limits.workflows.get(workflow).and_then(|cap| cap.runs);
        let caps = [
            (
                limits.cascade_runs,
                format!("cascade/{cascade}"),
                "in a cascade",
            ),
            (
                of_workflow,
                format!("workflow/{cascade}/{workflow}"),
                "of this workflow in a cascade",
            ),
            (of_day, format!("day/{day}"), "on one day"),
        ];
        let caps: Vec<_> = caps
            .into_iter()
            .filter_map(|(cap, key, what)| Some((cap?, format!("runs/{key}"), what)))
            .collect();
        // One that was counted and made is not counted again.
        if caps.is_empty() || self.ports.store.load(run).await?.is_some() {
            return Ok(None);
        }
        let expires = now.checked_add(KEEP).unwrap_or(Timestamp::MAX);
        for (index, (cap, key, what)) in caps.iter().enumerate() {
            let count = |count: &mut RunCount| count.add(run, *cap);
            let (counted, _) = update(&self.ports, key, expires, count).await?;
            if !counted {
                for (_, key, _) in caps.iter().take(index) {
                    let remove = |count: &mut RunCount| count.remove(run);
                    update(&self.ports, key, expires, remove).await?;
                }
                return Ok(Some(format!("the limit of {cap} runs {what} is reached")));
            }
        }
        Ok(None)
    }

    /// Keeps an event until no other one comes for a while.
    async fn wait_for_more(
        &self,
        workflow: &str,
        event: &Event,
        seconds: u64,
    ) -> Result<Option<Decision>, PortError> {
        let now = self.ports.clock.now();
        let rest = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        let until = now.checked_add(rest).unwrap_or(Timestamp::MAX);
        let expires = until.checked_add(KEEP).unwrap_or(Timestamp::MAX);
        let keep = |known: &mut Debounce| -> Result<Option<Event>, EventId> {
            let mine = order(event);
            if known.settling.iter().any(|other| other.id == event.id) {
                return Err(event.id.clone());
            }
            match (&known.waiting, &known.done) {
                (Some(waiting), _) if waiting.id == event.id => Ok(None),
                (Some(waiting), _) if order(waiting) > mine => Err(waiting.id.clone()),
                (_, Some((at, id))) if (*at, id.clone()) >= mine => Err(id.clone()),
                _ => Ok(known.waiting.replace(event.clone())),
            }
        };
        let key = debounce_key(workflow);
        let (kept, _) = update(&self.ports, &key, expires, keep).await?;
        match kept {
            // A redelivery of the one that counted: whether it started a run is
            // written down by those who decide on it.
            Err(by) if by == event.id => Ok(None),
            Err(by) => Ok(Some(Decision::Superseded { by })),
            Ok(before) => {
                let message = Message::Settled {
                    workflow: workflow.to_owned(),
                    event: event.id.clone(),
                };
                let timer = format!("settled/{workflow}/{}", event.id);
                self.ports.timers.arm(&timer, until, &message).await?;
                if let Some(before) = before {
                    let by = event.id.clone();
                    let decision = Decision::Superseded { by };
                    let decisions = BTreeMap::from([(workflow.to_owned(), decision)]);
                    self.driver.write_down(&before, decisions).await?;
                }
                Ok(Some(Decision::Waiting { until }))
            }
        }
    }

    /// No other event came after this one for as long as its trigger waits.
    pub(super) async fn start_settled(
        &self,
        workflow: String,
        id: EventId,
    ) -> Result<Option<String>, PortError> {
        let key = debounce_key(&workflow);
        let expires = self.ports.clock.now().checked_add(KEEP);
        let expires = expires.unwrap_or(Timestamp::MAX);
        // From here on no other event can take its place, though this process may
        // die before the run is there.
        let claim = |known: &mut Debounce| -> Result<Event, Option<EventId>> {
            if let Some(event) = known.settling.iter().find(|event| event.id == id) {
                return Ok(event.clone());
            }
            let Some(event) = known.waiting.take_if(|event| event.id == id) else {
                let done = known.done.as_ref().map(|(_, id)| id);
                return Err(known
                    .waiting
                    .as_ref()
                    .map(|event| &event.id)
                    .or(done)
                    .cloned());
            };
            known.done = Some(order(&event));
            known.settling.push(event.clone());
            Ok(event)
        };
        let (claimed, _) = update(&self.ports, &key, expires, claim).await?;
        let event = match claimed {
            Ok(event) => event,
            Err(by) => return self.superseded(&workflow, &id, by).await,
        };
        let manifest = self.ports.manifests.current().await?;
        let decision = self.start_run(&manifest, &workflow, &event).await?;
        let decisions = BTreeMap::from([(workflow.clone(), decision)]);
        self.driver.write_down(&event, decisions).await?;
        let done = |known: &mut Debounce| known.settling.retain(|event| event.id != id);
        update(&self.ports, &key, expires, done).await?;
        Ok(None)
    }

    /// The time of an event has come that does not wait any more: it has been
    /// decided on, or `by` counts instead. Whoever took its place may have died
    /// before it wrote that down.
    async fn superseded(
        &self,
        workflow: &str,
        id: &EventId,
        by: Option<EventId>,
    ) -> Result<Option<String>, PortError> {
        let Some(by) = by.filter(|by| by != id) else {
            return Ok(None);
        };
        let known = self.ports.store.event(id).await?;
        let outcome = known
            .as_ref()
            .and_then(|(record, _)| record.outcomes.get(workflow));
        match (&known, outcome.map(|outcome| &outcome.decision)) {
            (Some((record, _)), Some(Decision::Waiting { .. })) => {
                let decision = Decision::Superseded { by };
                let decisions = BTreeMap::from([(workflow.to_owned(), decision)]);
                self.driver.write_down(&record.event, decisions).await?;
                Ok(None)
            }
            (_, Some(_)) => Ok(None),
            // It would be written down as waiting after this.
            (_, None) => Err(PortError::new(
                format!("settle event {id}"),
                "it is not written down yet",
            )),
        }
    }

    pub(super) async fn start_cron(
        &self,
        step: String,
        scheduled_at: Timestamp,
    ) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let workflow = manifest.workflows.iter().find_map(|(name, workflow)| {
            let entry = workflow.entry.as_ref()?;
            (workflow.steps.get(entry)?.id == step).then_some((name, workflow.entry_trigger()?))
        });
        let Some((workflow, Trigger::Cron { expr, tz, .. })) = workflow else {
            return Ok(Some(format!(
                "the current manifest has no schedule on {step}"
            )));
        };
        let watermark = cron_watermark(&step);
        let stored = self.ports.store.watermark(&watermark).await?;
        let last_run = match stored.filter(|last| *last < scheduled_at) {
            Some(last) => last,
            None => match schedule::last_before(expr, tz.as_deref(), scheduled_at) {
                Ok(last) => last,
                Err(error) => return Ok(Some(error.to_string())),
            },
        };
        let mut fields = Map::new();
        fields.insert("scheduled_at".to_owned(), json!(scheduled_at.to_string()));
        fields.insert("last_run".to_owned(), json!(last_run.to_string()));
        let event = Event::root(
            EventId::from_tick(&step, &scheduled_at.to_string()),
            format!("cron:{step}"),
            fields,
            Source::Cron { step },
            scheduled_at,
        );
        let decision = self.start_run(&manifest, workflow, &event).await?;
        let decisions = BTreeMap::from([(workflow.clone(), decision)]);
        self.driver.write_down(&event, decisions).await?;
        if stored.is_none_or(|last| last < scheduled_at) {
            self.ports
                .store
                .set_watermark(&watermark, scheduled_at)
                .await?;
        }
        Ok(None)
    }

    /// The firing of a schedule that was missed and is to be caught up: the last
    /// one before now, if its trigger says `once` and nothing fired since.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn missed(
        &self,
        manifest: &Manifest,
        workflow: &str,
    ) -> Result<Option<Message>, PortError> {
        let Some(plan) = manifest.workflows.get(workflow) else {
            return Ok(None);
        };
        let Some(Trigger::Cron { expr, tz, catch_up }) = plan.entry_trigger() else {
            return Ok(None);
        };
        let entry = plan.entry.as_ref().and_then(|entry| plan.steps.get(entry));
        let Some(step) = entry.filter(|_| *catch_up == CatchUp::Once) else {
            return Ok(None);
        };
        // One that never fired has missed nothing.
        let watermark = cron_watermark(&step.id);
        let Some(fired) = self.ports.store.watermark(&watermark).await? else {
            return Ok(None);
        };
        let last = schedule::last_before(expr, tz.as_deref(), self.ports.clock.now())
            .map_err(|why| PortError::new(format!("look for what {workflow} missed"), why))?;
        Ok((last > fired).then(|| Message::Cron {
            step: step.id.clone(),
            scheduled_at: last,
        }))
    }

    /// Goes over a run again.
    pub(super) async fn start_again(&self, again: Again) -> Result<Option<String>, PortError> {
        let Some(stored) = self.driver.load(&again.original).await? else {
            return Ok(Some(format!("there is no run {}", again.original)));
        };
        let original = &stored.run;
        let manifest = if again.latest {
            self.ports.manifests.current().await?
        } else {
            self.ports.manifests.get(&original.manifest).await?
        };
        let event = &original.event;
        let over = self
            .count_run(&manifest, &original.workflow, event, &again.id)
            .await?;
        if let Some(because) = over {
            return Ok(Some(because));
        }
        let now = self.ports.clock.now();
        let from = again.from.as_deref();
        match transition::again(&manifest, original, again.id, from, &again.edits, now) {
            Err(why) => Ok(Some(why)),
            Ok(run) => {
                // Before anything can ask for them.
                self.copy_files(&original.id, &run).await?;
                self.driver.create(&manifest, run).await?;
                Ok(None)
            }
        }
    }
}

impl Engine {
    /// Keeps for `run` what it took over of the files of `original`, so that each
    /// run has its own for as long as it is there.
    async fn copy_files(&self, original: &RunId, run: &Run) -> Result<(), PortError> {
        let mut copies = Vec::new();
        for (step, record) in &run.steps {
            let packs = record.files.iter().flat_map(|kept| &kept.packs);
            copies.extend(
                packs
                    .flatten()
                    .map(|kept| (kept.place(&run.id, step), kept.pack.size)),
            );
        }
        for (to, size) in copies {
            let from = PackOf {
                run: original.clone(),
                ..to.clone()
            };
            self.ports.packs.copy(&from, &to, size).await?;
        }
        Ok(())
    }
}

fn debounce_key(workflow: &str) -> String {
    format!("debounce/{workflow}")
}

fn cron_watermark(step: &str) -> String {
    format!("cron/{step}")
}
