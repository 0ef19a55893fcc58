//! The world: all that outlives a process, and the truth about it. One lock
//! holds it; nothing in here waits.

use crate::faults::{Fault, Weather};
use crate::laws;
use crate::rng::Rng;
use crate::sandbox::SandboxSim;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::Event;
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::Manifest;
use loopy_engine::message::{Again, Message, QueueName};
use loopy_engine::outgoing::Outgoing;
use loopy_engine::run::Run;
use loopy_engine::transition::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A moment of the true time: milliseconds since the world began.
pub(crate) type Millis = i64;

/// A second.
pub(crate) const SECOND: Millis = 1000;

/// When the world begins: 2026-11-21T10:00:00Z.
const BEGIN: i64 = 1_795_255_200;

/// How far the engine's clock may be from the true time.
const MAX_SKEW: Millis = 20 * 60 * SECOND;

/// How far clocks in a cloud are apart.
const MAX_DRIFT: Millis = 3 * SECOND;

/// How long the cloud knows a timer that has fired: armed again under its key
/// meanwhile, it is taken for the one that fired.
const REMEMBERED: Millis = 60 * SECOND;

/// What is due sooner than this goes through the queue in the cloud, not by a
/// timer.
const TOO_CLOSE: Millis = 5 * SECOND;

/// What kind of home the engine has here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// One process; the queues lie beside the store, in one transaction. After
    /// a crash it goes on with all that is pending.
    Machine,
    /// Several processes; each effect is a call of its own. Nobody looks after
    /// what a crash left but the messages that come again.
    Cloud,
}

/// A message on a queue.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) id: u64,
    pub(crate) queue: QueueName,
    pub(crate) body: Arc<str>,
    /// Nobody gets it before.
    pub(crate) visible_at: Millis,
    pub(crate) receives: u32,
    /// Deliveries that are being worked on.
    pub(crate) in_hand: u32,
}

/// What failed too often, or can never be processed.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub(crate) queue: QueueName,
    pub(crate) body: Arc<str>,
    /// Why it was buried; absent when it only failed too often.
    pub(crate) reason: Option<String>,
}

/// An armed timer.
#[derive(Clone, Debug)]
pub(crate) struct Timer {
    pub(crate) at: Millis,
    pub(crate) message: Message,
}

/// What the engine was asked, for another engine to be asked the same.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Submit(Event),
    Process(QueueName, Arc<str>),
    Report(loopy_engine::ReportRequest),
    Lost(RunId, String, u32),
    Resume(RunId),
}

/// All there is.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) home: Home,
    pub(crate) now: Millis,
    /// What the engine's clock shows beyond the true time.
    pub(crate) skew: Millis,
    /// How often the clock was read.
    readings: i64,
    pub(crate) manifests: [Arc<Manifest>; 2],
    pub(crate) deployed: usize,
    pub(crate) messages: Vec<Queued>,
    next_id: u64,
    pub(crate) timers: BTreeMap<String, Timer>,
    /// When timers fired, by key.
    fired: BTreeMap<String, Millis>,
    pub(crate) dead: Vec<Dead>,
    pub(crate) sandboxes: BTreeMap<String, SandboxSim>,
    /// Runs as they were last committed.
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Gates as they were last written.
    pub(crate) gates: BTreeMap<String, loopy_engine::gate::Gate>,
    /// Events that somebody was told are accepted.
    pub(crate) accepted: BTreeMap<EventId, Event>,
    /// Ticks of schedules that came.
    pub(crate) ticks: BTreeSet<EventId>,
    pub(crate) commands: Vec<(RunId, Command)>,
    pub(crate) agains: Vec<Again>,
    /// Attempts whose result was answered with "taken".
    pub(crate) taken: BTreeMap<(RunId, String, u32), u32>,
    /// The first law that was broken.
    pub(crate) broken: Option<String>,
    /// Which deliberate bug there is; see [`crate::mutants`].
    pub(crate) mutant: Option<crate::Mutant>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) asked: Option<Vec<(Timestamp, Asked)>>,
    /// Of all that happened, in order.
    pub(crate) hash: u64,
    pub(crate) polls: u64,
}

/// The world, as its parts share it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub(crate) fn new(
        rng: Rng,
        weather: Weather,
        home: Home,
        manifests: [Arc<Manifest>; 2],
    ) -> Self {
        Self {
            rng,
            weather,
            home,
            now: 0,
            skew: 0,
            readings: 0,
            manifests,
            deployed: 0,
            messages: Vec::new(),
            next_id: 0,
            timers: BTreeMap::new(),
            fired: BTreeMap::new(),
            dead: Vec::new(),
            sandboxes: BTreeMap::new(),
            runs: BTreeMap::new(),
            gates: BTreeMap::new(),
            accepted: BTreeMap::new(),
            ticks: BTreeSet::new(),
            commands: Vec::new(),
            agains: Vec::new(),
            taken: BTreeMap::new(),
            broken: None,
            mutant: None,
            trace: None,
            asked: None,
            hash: 0xcbf2_9ce4_8422_2325,
            polls: 0,
        }
    }

    /// Whether this trouble comes now.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        let Self { weather, rng, .. } = self;
        weather.strikes(fault, rng)
    }

    /// What the engine's clock shows.
    pub(crate) fn shown(&self) -> Timestamp {
        let shown = self.now.saturating_add(self.skew);
        Timestamp::from_second(BEGIN)
            .unwrap_or_default()
            .saturating_add(SignedDuration::from_millis(shown))
            .unwrap_or(Timestamp::MAX)
    }

    /// Reads the engine's clock. No two readings are the same, as on a machine.
    pub(crate) fn read_clock(&mut self) -> Timestamp {
        self.readings = (self.readings + 1) % 1_000_000;
        self.shown()
            .saturating_add(SignedDuration::from_nanos(self.readings))
            .unwrap_or(Timestamp::MAX)
    }

    /// The true moment at which a timer for `at` fires. On a machine it goes by
    /// the clock that the engine reads; in the cloud by one that goes right.
    fn true_time(&self, at: Timestamp) -> Millis {
        let shown = at
            .as_millisecond()
            .saturating_sub(BEGIN.saturating_mul(SECOND));
        match self.home {
            Home::Machine => shown.saturating_sub(self.skew),
            Home::Cloud => shown,
        }
    }

    /// Sets the engine's clock forward or back. That of a machine may be far off
    /// before somebody sets it; those of a cloud stay close together.
    pub(crate) fn jump(&mut self) {
        let most = match self.home {
            Home::Machine => MAX_SKEW,
            Home::Cloud => MAX_DRIFT,
        };
        let before = self.skew;
        let by = self.rng.between(-most, most);
        self.skew = self.skew.saturating_add(by).clamp(-most, most);
        if self.home == Home::Machine {
            // What is due at a moment of that clock is due sooner or later now.
            let moved = self.skew.saturating_sub(before);
            for timer in self.timers.values_mut() {
                timer.at = timer.at.saturating_sub(moved);
            }
            for message in &mut self.messages {
                message.visible_at = message.visible_at.saturating_sub(moved);
            }
        }
        let skew = self.skew / SECOND;
        self.note(3, || format!("CLOCK shows {skew:+} s"));
    }

    /// A line of the trace; it counts for the hash whether it is kept or not.
    pub(crate) fn note(&mut self, kind: u64, line: impl FnOnce() -> String) {
        for part in [kind, self.now.unsigned_abs(), self.messages.len() as u64] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(trace) = &mut self.trace {
            let line = format!("{:>10.3} {}", self.now as f64 / 1000.0, short(&line()));
            trace.push(line);
        }
    }

    /// A law is broken.
    pub(crate) fn breaks(&mut self, law: impl Into<String>) {
        if self.broken.is_none() {
            let law = short(&law.into());
            self.note(99, || format!("BROKEN: {law}"));
            self.broken = Some(law);
        }
    }

    /// Puts a message on its queue.
    pub(crate) fn send(&mut self, message: &Message, delay: Duration) {
        let delay = Millis::try_from(delay.as_millis()).unwrap_or(Millis::MAX);
        self.enqueue(message, delay);
        if self.strikes(Fault::Duplicate) {
            self.enqueue(message, delay);
        }
    }

    fn enqueue(&mut self, message: &Message, delay: Millis) {
        let Ok(body) = serde_json::to_string(message) else {
            return self.breaks("a message cannot be written");
        };
        let late = if self.strikes(Fault::Delay) {
            self.rng.between(0, 120 * SECOND)
        } else {
            0
        };
        self.next_id += 1;
        self.messages.push(Queued {
            id: self.next_id,
            queue: message.queue(),
            body: body.into(),
            visible_at: self.now.saturating_add(delay).saturating_add(late),
            receives: 0,
            in_hand: 0,
        });
    }

    /// Puts what is dead back to where it came from.
    pub(crate) fn redrive(&mut self) -> bool {
        let (buried, failed): (Vec<Dead>, Vec<Dead>) = std::mem::take(&mut self.dead)
            .into_iter()
            .partition(|dead| dead.reason.is_some());
        self.dead = buried;
        let any = !failed.is_empty();
        for dead in failed {
            self.note(4, || format!("redrive {}", dead.body));
            self.next_id += 1;
            self.messages.push(Queued {
                id: self.next_id,
                queue: dead.queue,
                body: dead.body,
                visible_at: self.now,
                receives: 0,
                in_hand: 0,
            });
        }
        any
    }

    pub(crate) fn arm(&mut self, key: &str, at: Timestamp, message: &Message) {
        if self.home == Home::Cloud {
            let left = at.duration_since(self.shown()).as_millis();
            let left = Millis::try_from(left).unwrap_or(Millis::MAX).max(0);
            if left < TOO_CLOSE {
                return self.send(message, Duration::from_millis(left.unsigned_abs()));
            }
            let fired = self.fired.get(key);
            if fired.is_some_and(|at| self.now.saturating_sub(*at) < REMEMBERED) {
                return;
            }
        }
        if self.timers.contains_key(key) {
            return;
        }
        let mut at = self.true_time(at).max(self.now);
        if self.strikes(Fault::TimerJitter) {
            at = at.saturating_add(self.rng.between(0, 90 * SECOND));
        }
        let message = message.clone();
        self.timers.insert(key.to_owned(), Timer { at, message });
    }

    /// Fires what is due.
    pub(crate) fn fire(&mut self) {
        let due: Vec<String> = self
            .timers
            .iter()
            .filter(|(_, timer)| timer.at <= self.now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(timer) = self.timers.remove(&key) {
                self.note(5, || format!("timer {key}"));
                self.fired.insert(key, self.now);
                self.send(&timer.message, Duration::ZERO);
            }
        }
    }

    /// An event is on the bus.
    pub(crate) fn publish(&mut self, event: &Event) {
        self.accepted.insert(event.id.clone(), event.clone());
        self.send(&Message::Event(event.clone()), Duration::ZERO);
    }

    /// Performs what a store with queues of its own performs as it commits.
    pub(crate) fn perform(&mut self, outgoing: Outgoing) {
        self.note(6, || format!("    with it {}", describe(&outgoing)));
        match outgoing {
            Outgoing::Send { message, delay } => self.send(&message, delay),
            Outgoing::Arm { key, at, message } => self.arm(&key, at, &message),
            Outgoing::Disarm { key } => {
                self.timers.remove(&key);
            }
            Outgoing::Publish { event } => self.publish(&event),
        }
    }

    /// A run was made or changed.
    pub(crate) fn committed(&mut self, after: &Run) {
        let before = self.runs.insert(after.id.clone(), after.clone());
        let lines = before.as_ref().map_or(0, |run| run.history.len());
        let news: Vec<String> = after
            .history
            .get(lines..)
            .into_iter()
            .flatten()
            .map(|line| match (&line.step, line.attempt) {
                (Some(step), Some(attempt)) => format!("{} {step}#{attempt}", line.kind),
                (Some(step), None) => format!("{} {step}", line.kind),
                _ => line.kind.clone(),
            })
            .collect();
        self.note(7, || {
            format!("    commit {}: {}", after.id, news.join(", "))
        });
        if let Err(law) = laws::commit(self, before.as_ref(), after) {
            self.breaks(law);
        }
    }

    /// When something next happens by itself.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        let messages = self
            .messages
            .iter()
            .filter(|message| message.in_hand == 0)
            .map(|message| message.visible_at);
        let timers = self.timers.values().map(|timer| timer.at);
        let sandboxes = self.sandboxes.values().filter_map(SandboxSim::next_due);
        messages.chain(timers).chain(sandboxes).min()
    }
}

/// What is sent, in few words.
pub(crate) fn describe(outgoing: &Outgoing) -> String {
    match outgoing {
        Outgoing::Send { message, delay } => {
            format!("send {} after {} s", title(message), delay.as_secs())
        }
        Outgoing::Arm { key, .. } => format!("arm {key}"),
        Outgoing::Disarm { key } => format!("disarm {key}"),
        Outgoing::Publish { event } => format!("publish {} {}", event.name, event.id),
    }
}

/// A message, in few words.
pub(crate) fn title(message: &Message) -> String {
    match message {
        Message::Event(event) => format!("Event {} {}", event.name, event.id),
        Message::Handoff { run, step, attempt } => format!("Handoff {run}/{step}#{attempt}"),
        Message::Wake { run, step, attempt } => format!("Wake {run}/{step}#{attempt}"),
        Message::Ended {
            run,
            step,
            attempt,
            why,
        } => format!("Ended {run}/{step}#{attempt} {why}"),
        Message::TimeLimit {
            run,
            step,
            attempt,
            check,
        } => format!("TimeLimit {run}/{step}#{attempt} look {check}"),
        Message::Command { run, command } => format!("Command {run} {:?}", command.order),
        Message::Stop { sandbox } => format!("Stop {}", sandbox.id),
        Message::Unanswered { run, step, .. } => format!("Unanswered {run}/{step}"),
        Message::Settled { workflow, event } => format!("Settled {workflow} {event}"),
        Message::Again(again) => format!("Again {} of {}", again.id, again.original),
        Message::Cron { step, scheduled_at } => format!("Cron {step} {scheduled_at}"),
        Message::Poll { .. } | Message::Delivery(_) => "sensor".to_owned(),
    }
}

/// A line with its long ids cut to four digits.
pub(crate) fn short(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    for c in line.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
            word.push(c);
            continue;
        }
        if word.len() >= 16 {
            out.extend(word.chars().take(4));
        } else {
            out.push_str(&word);
        }
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}
