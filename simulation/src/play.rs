//! The story of a seed: a storm, in which everything goes wrong that the weather
//! has, and a calm, in which all must come to rest.

use crate::executor::Task;
use crate::faults::{Fault, Weather};
use crate::mutants::Mutant;
use crate::ports::{SimClock, SimPorts};
use crate::project::Project;
use crate::rng::Rng;
use crate::sandbox::Leaf;
use crate::world::{Asked, Dead, Home, Millis, SECOND, Shared, World};
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_engine::memory::MemoryStore;
use loopy_engine::message::{Again, MAX_RECEIVES, Message, redelivery_delay};
use loopy_engine::run::RunStatus;
use loopy_engine::transition::{Command, Edits, Order};
use loopy_engine::{Answer, Engine, ReportRequest};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How many steps the calm may take.
const MAX_CALM: u64 = 200_000;

/// Messages and requests that are worked on at the same time.
const MAX_TASKS: usize = 10;

/// Which story.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Decides everything.
    pub seed: u64,
    /// How many steps the storm has; as the seed says, when absent.
    pub storm: Option<u64>,
    /// What does not go wrong, whatever the seed says.
    pub without: Vec<Fault>,
    /// The deliberate bug, if there is one.
    pub mutant: Option<Mutant>,
}

impl Story {
    /// The story of this seed.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }
}

/// How a story went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The law that was broken, if one was.
    pub broken: Option<String>,
    /// Of all that happened, in order.
    pub hash: u64,
    /// How many steps the storm had.
    pub storm: u64,
    /// How often a future went on.
    pub polls: u64,
    /// How many runs there were, by how they ended.
    pub runs: Vec<String>,
    /// What happened, one line each, when it was asked for.
    pub trace: Vec<String>,
}

/// What a task works on.
enum Work {
    Message(u64),
    Report(String, u64, Leaf),
    Forged,
    Submit(Event, u32),
    Resume(RunId),
    Lost(String),
}

/// What came of it.
enum Done {
    Ok,
    Failed,
    Answered(Answer),
}

struct Running {
    task: Task<Done>,
    process: usize,
    work: Work,
}

/// What can be done next.
#[derive(Clone, Copy)]
enum Choice {
    Poll,
    Deliver,
    Act,
    Care,
    Submit,
    Tick,
}

pub(crate) struct Play {
    pub(crate) world: Shared,
    store: Arc<MemoryStore>,
    engines: Vec<Engine>,
    tasks: Vec<Running>,
    /// Runs that a home with one process goes on with by itself.
    troubled: BTreeSet<RunId>,
    project: Project,
    events_left: u64,
    asked: u64,
    /// Parked runs that nobody answers.
    left: BTreeSet<RunId>,
    pub(crate) storm: u64,
}

/// Plays the story; keeps what happened when `trace` says so.
pub fn play(story: &Story, trace: bool) -> Outcome {
    let mut play = Play::new(story);
    play.world.lock().trace = trace.then(Vec::new);
    play.run();
    let mut world = play.world.lock();
    Outcome {
        broken: world.broken.clone(),
        hash: world.hash,
        storm: play.storm,
        polls: world.polls,
        runs: world
            .runs
            .values()
            .map(|run| run.status.name().to_owned())
            .collect(),
        trace: world.trace.take().unwrap_or_default(),
    }
}

impl Play {
    pub(crate) fn new(story: &Story) -> Self {
        let mut rng = Rng::new(story.seed);
        let project = Project::draw(&mut rng);
        let weather = Weather::draw(&mut rng, &story.without);
        let home = if rng.chance(400) {
            Home::Machine
        } else {
            Home::Cloud
        };
        let processes = match home {
            Home::Machine => 1,
            Home::Cloud => 1 + rng.index(3),
        };
        let length = rng.between(100, 900).unsigned_abs();
        let events_left = 1 + rng.below(6);
        let mut world = World::new(rng, weather, home, project.manifests.clone());
        world.mutant = story.mutant;
        let world = Shared::new(world);
        let store = Arc::new(MemoryStore::new(Arc::new(SimClock(world.clone()))));
        let mut play = Self {
            world,
            store,
            engines: Vec::new(),
            tasks: Vec::new(),
            troubled: BTreeSet::new(),
            project,
            events_left,
            asked: 0,
            left: BTreeSet::new(),
            storm: story.storm.unwrap_or(length),
        };
        for process in 0..processes {
            let engine = play.engine(process);
            play.engines.push(engine);
        }
        play
    }

    fn engine(&self, process: usize) -> Engine {
        let ports = SimPorts {
            world: self.world.clone(),
            store: Arc::clone(&self.store),
            process,
        };
        Engine::new(ports.ports())
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..self.storm {
            self.strike();
            self.step(true);
            if self.world.lock().broken.is_some() {
                return;
            }
        }
        {
            let mut world = self.world.lock();
            world.weather = Weather::calm();
            world.note(50, || "CALM".to_owned());
        }
        for _ in 0..MAX_CALM {
            if !self.step(false) && !self.ask_the_rest() {
                let store = Arc::clone(&self.store);
                self.world.lock().rest(&store);
                return;
            }
            if self.world.lock().broken.is_some() {
                return;
            }
        }
        self.world.lock().breaks("the world does not come to rest");
    }

    /// What strikes between two steps.
    fn strike(&mut self) {
        let mut world = self.world.lock();
        let crash = world.strikes(Fault::Crash);
        if world.strikes(Fault::ClockJump) {
            world.jump();
        }
        if world.strikes(Fault::Deploy) {
            world.deployed = 1;
        }
        let command = world.strikes(Fault::Command);
        let again = world.strikes(Fault::Again);
        let forged = if world.strikes(Fault::Forgery) {
            world.forged()
        } else {
            None
        };
        let process = world.rng.index(self.engines.len());
        drop(world);
        if let Some(request) = forged {
            self.forge(request);
        }
        if command {
            self.command();
        }
        if again {
            self.again();
        }
        if crash {
            self.crash(process);
        }
    }

    /// One step; false when there is nothing to do.
    fn step(&mut self, storm: bool) -> bool {
        let mut world = self.world.lock();
        let ready: Vec<usize> = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, running)| running.task.is_ready())
            .map(|(index, _)| index)
            .collect();
        let now = world.now;
        let room = self.tasks.len() < MAX_TASKS;
        let visible: Vec<u64> = world
            .messages
            .iter()
            .filter(|message| room && message.in_hand == 0 && message.visible_at <= now)
            .map(|message| message.id)
            .collect();
        let acts: Vec<String> = world
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| sandbox.next_due().is_some_and(|due| due <= now))
            .map(|(token, _)| token.clone())
            .collect();
        let careless = world.home == Home::Cloud;
        let lost: Option<String> = world
            .sandboxes
            .iter()
            .find(|(token, sandbox)| !careless && sandbox.unnoticed && !self.is_told(token))
            .map(|(token, _)| token.clone());
        let troubled = self
            .troubled
            .iter()
            .find(|run| !self.is_resumed(run))
            .cloned();
        let mut choices: Vec<(u64, Choice)> = Vec::with_capacity(6);
        if !ready.is_empty() {
            choices.push((10, Choice::Poll));
        }
        if !visible.is_empty() {
            choices.push((3, Choice::Deliver));
        }
        if !acts.is_empty() {
            choices.push((3, Choice::Act));
        }
        if room && (lost.is_some() || troubled.is_some()) {
            choices.push((1, Choice::Care));
        }
        if storm && self.events_left > 0 && room {
            choices.push((1, Choice::Submit));
        }
        if choices.is_empty() || storm {
            choices.push((1, Choice::Tick));
        }
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut dice = world.rng.below(total);
        let chosen = choices.iter().find(|(weight, _)| {
            let here = dice < *weight;
            dice = dice.saturating_sub(*weight);
            here
        });
        let idle = choices.len() == 1;
        match chosen.map(|(_, choice)| *choice) {
            Some(Choice::Poll) => {
                let index = world.rng.pick(&ready).copied().unwrap_or_default();
                world.polls += 1;
                drop(world);
                self.poll(index);
            }
            Some(Choice::Deliver) => {
                let id = world.rng.pick(&visible).copied().unwrap_or_default();
                drop(world);
                self.deliver(id);
            }
            Some(Choice::Act) => {
                let token = world.rng.pick(&acts).cloned().unwrap_or_default();
                let asks = world.act(&token);
                drop(world);
                if let Some((leaf, request)) = asks {
                    self.report(token, leaf, request);
                }
            }
            Some(Choice::Care) => {
                drop(world);
                match (lost, troubled) {
                    (Some(token), _) => self.lost(token),
                    (None, Some(run)) => self.resume(run),
                    (None, None) => {}
                }
            }
            Some(Choice::Submit) => {
                drop(world);
                self.submit_next();
            }
            Some(Choice::Tick) | None => {
                if !idle {
                    world.now += world.rng.between(0, 3 * SECOND);
                } else if !self.tasks.is_empty() {
                    // All wait for one another.
                    world.breaks("nothing can go on, though something is under way");
                } else {
                    match world.next_due() {
                        Some(due) => world.now = due.max(world.now),
                        None if storm => world.now += 60 * SECOND,
                        None => return false,
                    }
                }
                world.fire();
            }
        }
        true
    }

    fn is_told(&self, token: &str) -> bool {
        let told = |running: &Running| matches!(&running.work, Work::Lost(it) if it == token);
        self.tasks.iter().any(told)
    }

    fn is_resumed(&self, run: &RunId) -> bool {
        let resumed = |running: &Running| matches!(&running.work, Work::Resume(it) if it == run);
        self.tasks.iter().any(resumed)
    }

    /// Where the next request or message goes.
    fn process(&self) -> (usize, Option<Engine>) {
        let process = self.world.lock().rng.index(self.engines.len());
        (process, self.engines.get(process).cloned())
    }

    fn spawn(&mut self, process: usize, work: Work, task: Task<Done>) {
        self.tasks.push(Running {
            task,
            process,
            work,
        });
    }

    fn deliver(&mut self, id: u64) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        let mut world = self.world.lock();
        let Some(index) = world.messages.iter().position(|message| message.id == id) else {
            return;
        };
        let Some(message) = world.messages.get_mut(index) else {
            return;
        };
        message.receives += 1;
        message.in_hand = 1;
        let (queue, body, receives) = (message.queue, Arc::clone(&message.body), message.receives);
        if receives > MAX_RECEIVES {
            world.messages.remove(index);
            world.note(51, || format!("DEAD {body}"));
            world.dead.push(Dead {
                queue,
                body,
                reason: None,
            });
            return;
        }
        if world.mutant == Some(Mutant::AckBeforeCommit) {
            world.messages.remove(index);
        }
        world.note(52, || {
            let title = serde_json::from_str::<Message>(&body).map_or_else(
                |_| body.to_string(),
                |message| crate::world::title(&message),
            );
            format!("p{process} TAKES {title} ({receives})")
        });
        world.keep(|| Asked::Process(queue, Arc::clone(&body)));
        drop(world);
        let task = Task::new(async move {
            match engine.process(queue, &body).await {
                Ok(()) => Done::Ok,
                Err(_) => Done::Failed,
            }
        });
        self.spawn(process, Work::Message(id), task);
    }

    fn report(&mut self, token: String, leaf: Leaf, request: ReportRequest) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        {
            let mut world = self.world.lock();
            world.note(53, || format!("p{process} ASKED {leaf:?} {}", request.path));
            world.keep(|| Asked::Report(request.clone()));
        }
        let made = self
            .world
            .lock()
            .sandboxes
            .get(&token)
            .map_or(0, |sandbox| sandbox.made);
        let task = Task::new(async move { Done::Answered(engine.report(request).await) });
        self.spawn(process, Work::Report(token, made, leaf), task);
    }

    fn forge(&mut self, request: ReportRequest) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        self.world
            .lock()
            .note(64, || format!("p{process} FORGED {}", request.path));
        let task = Task::new(async move { Done::Answered(engine.report(request).await) });
        self.spawn(process, Work::Forged, task);
    }

    fn lost(&mut self, token: String) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        let mut world = self.world.lock();
        let Some(spec) = world
            .sandboxes
            .get(&token)
            .map(|sandbox| sandbox.spec.clone())
        else {
            return;
        };
        world.note(54, || {
            format!(
                "p{process} TOLD LOST {}/{}#{}",
                spec.run, spec.step, spec.attempt
            )
        });
        world.keep(|| Asked::Lost(spec.run.clone(), spec.step.clone(), spec.attempt));
        drop(world);
        let task = Task::new(async move {
            match engine.lost(&spec.run, &spec.step, spec.attempt).await {
                Ok(()) => Done::Ok,
                Err(_) => Done::Failed,
            }
        });
        self.spawn(process, Work::Lost(token), task);
    }

    fn resume(&mut self, run: RunId) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        {
            let mut world = self.world.lock();
            world.note(55, || format!("p{process} RESUMES {run}"));
            world.keep(|| Asked::Resume(run.clone()));
        }
        let id = run.clone();
        let task = Task::new(async move {
            match engine.resume(&id).await {
                Ok(()) => Done::Ok,
                Err(_) => Done::Failed,
            }
        });
        self.spawn(process, Work::Resume(run), task);
    }

    /// An event from outside, or a schedule's tick.
    fn submit_next(&mut self) {
        self.events_left -= 1;
        let mut world = self.world.lock();
        if !self.project.crons.is_empty() && world.rng.chance(400) {
            let step = world
                .rng
                .pick(&self.project.crons)
                .cloned()
                .unwrap_or_default();
            let second = world.shown().as_second();
            let round = second
                .div_euclid(600)
                .saturating_sub(world.rng.between(0, 2));
            let scheduled_at = Timestamp::from_second(round * 600).unwrap_or_default();
            let id = EventId::from_tick(&step, &scheduled_at.to_string());
            world.ticks.insert(id);
            let message = Message::Cron { step, scheduled_at };
            world.note(56, || format!("TICK {}", crate::world::title(&message)));
            world.send(&message, Duration::ZERO);
            return;
        }
        self.asked += 1;
        let name = world
            .rng
            .pick(&self.project.roots)
            .cloned()
            .unwrap_or_default();
        let contract = self
            .project
            .manifests
            .first()
            .and_then(|manifest| manifest.registry.events.get(&name))
            .cloned()
            .unwrap_or_default();
        let fields = world.fields(&contract);
        let id = EventId(format!("evt-root-{}", self.asked));
        let event = Event::root(id, name, fields, Source::Hand, world.shown());
        drop(world);
        self.submit(event, 1);
    }

    fn submit(&mut self, event: Event, tries: u32) {
        let (process, Some(engine)) = self.process() else {
            return;
        };
        {
            let mut world = self.world.lock();
            world.note(57, || {
                format!("p{process} SUBMIT {} {}", event.name, event.id)
            });
            world.keep(|| Asked::Submit(event.clone()));
        }
        let sent = event.clone();
        let task = Task::new(async move {
            match engine.submit(&sent).await {
                Ok(()) => Done::Ok,
                Err(_) => Done::Failed,
            }
        });
        self.spawn(process, Work::Submit(event, tries), task);
    }

    fn poll(&mut self, index: usize) {
        let Some(done) = self
            .tasks
            .get_mut(index)
            .and_then(|running| running.task.poll())
        else {
            return;
        };
        let Running { work, .. } = self.tasks.swap_remove(index);
        let ok = matches!(done, Done::Ok);
        match work {
            Work::Message(id) => self.processed(id, ok),
            Work::Report(token, made, leaf) => {
                let Done::Answered(answer) = done else { return };
                let mut world = self.world.lock();
                if answer.status >= 500
                    && world.home == Home::Machine
                    && let Some(sandbox) = world.sandboxes.get(&token)
                {
                    self.troubled.insert(sandbox.spec.run.clone());
                }
                world.answered(&token, made, leaf, Some(&answer));
            }
            Work::Forged => {
                if let Done::Answered(answer) = done
                    && answer.status != 401
                {
                    let status = answer.status;
                    self.world
                        .lock()
                        .breaks(format!("a forged report was answered {status}"));
                }
            }
            Work::Submit(event, tries) => {
                let lost = self.world.lock().strikes(Fault::AnswerLost);
                if ok {
                    self.world
                        .lock()
                        .accepted
                        .insert(event.id.clone(), event.clone());
                }
                if (lost || !ok) && tries < 4 {
                    self.submit(event, tries + 1);
                }
            }
            Work::Resume(run) => {
                if ok {
                    self.troubled.remove(&run);
                }
            }
            Work::Lost(token) => {
                let mut world = self.world.lock();
                if let Some(sandbox) = world.sandboxes.get_mut(&token) {
                    if ok {
                        sandbox.unnoticed = false;
                    } else {
                        self.troubled.insert(sandbox.spec.run.clone());
                    }
                }
            }
        }
    }

    /// A message was processed, or was not.
    fn processed(&mut self, id: u64, ok: bool) {
        let mut world = self.world.lock();
        let lost = world.strikes(Fault::AckLost);
        let late = world.rng.between(30 * SECOND, 120 * SECOND);
        let now = world.now;
        let Some(index) = world.messages.iter().position(|message| message.id == id) else {
            return;
        };
        let Some(message) = world.messages.get_mut(index) else {
            return;
        };
        message.in_hand = 0;
        if ok && lost {
            message.visible_at = now.saturating_add(late);
            world.note(58, || "  its ack is LOST".to_owned());
        } else if ok {
            world.messages.remove(index);
        } else if message.receives >= MAX_RECEIVES {
            let (queue, body) = (message.queue, Arc::clone(&message.body));
            world.messages.remove(index);
            world.note(59, || format!("DEAD {body}"));
            world.dead.push(Dead {
                queue,
                body,
                reason: None,
            });
        } else {
            let rest = redelivery_delay(message.receives);
            let rest = Millis::try_from(rest.as_millis()).unwrap_or(Millis::MAX);
            message.visible_at = now.saturating_add(rest);
            world.note(60, || "  it is left for redelivery".to_owned());
        }
    }

    /// A process dies, with all it had in hand and in memory.
    fn crash(&mut self, process: usize) {
        let (gone, rest): (Vec<Running>, Vec<Running>) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|running| running.process == process);
        self.tasks = rest;
        let count = gone.len();
        self.world
            .lock()
            .note(61, || format!("CRASH of p{process}, {count} in hand"));
        for running in gone {
            match running.work {
                Work::Message(id) => {
                    let mut world = self.world.lock();
                    let rest = match world.home {
                        Home::Machine => world.rng.between(0, 2 * SECOND),
                        Home::Cloud => world.rng.between(30 * SECOND, 360 * SECOND),
                    };
                    let now = world.now;
                    if let Some(message) = world.messages.iter_mut().find(|it| it.id == id) {
                        message.in_hand = 0;
                        message.visible_at = now.saturating_add(rest);
                    }
                }
                Work::Report(token, made, leaf) => {
                    self.world.lock().answered(&token, made, leaf, None);
                }
                Work::Submit(event, tries) if tries < 4 => self.submit(event, tries + 1),
                Work::Submit(..) | Work::Resume(_) | Work::Lost(_) | Work::Forged => {}
            }
        }
        let engine = self.engine(process);
        if let Some(place) = self.engines.get_mut(process) {
            *place = engine;
        }
        let world = self.world.lock();
        if world.home == Home::Machine {
            let pending = world.runs.values().filter(|run| !run.pending.is_empty());
            self.troubled.extend(pending.map(|run| run.id.clone()));
        }
    }

    /// Somebody asks something of a run.
    fn command(&mut self) {
        let mut world = self.world.lock();
        let runs: Vec<RunId> = world.runs.keys().cloned().collect();
        let Some(run) = world.rng.pick(&runs).cloned() else {
            return;
        };
        let because = String::new();
        let order = match world.rng.below(8) {
            0 | 1 => Order::Cancel { because },
            2 | 3 => Order::Pause,
            4 => Order::Resume,
            dice => Order::Answer {
                step: None,
                approve: dice < 7,
            },
        };
        drop(world);
        self.order(run, order);
    }

    fn order(&mut self, run: RunId, order: Order) {
        self.asked += 1;
        let command = Command {
            id: format!("c{}", self.asked),
            by: "ann".to_owned(),
            order,
        };
        let mut world = self.world.lock();
        world.note(62, || format!("ORDER {run} {:?}", command.order));
        world.commands.push((run.clone(), command.clone()));
        world.send(&Message::Command { run, command }, Duration::ZERO);
    }

    /// Somebody has a run gone over again.
    fn again(&mut self) {
        self.asked += 1;
        let mut world = self.world.lock();
        if world.agains.len() >= 4 {
            return;
        }
        let runs: Vec<RunId> = world.runs.keys().cloned().collect();
        let Some(original) = world.rng.pick(&runs).cloned() else {
            return;
        };
        let Some(run) = world.runs.get(&original) else {
            return;
        };
        let (workflow, steps) = (
            run.workflow.clone(),
            run.steps.keys().cloned().collect::<Vec<_>>(),
        );
        let mut edits = Edits::default();
        let from = if world.rng.chance(500) {
            world.rng.pick(&steps).cloned()
        } else {
            None
        };
        if world.rng.chance(300) {
            edits.event.insert("n".to_owned(), json!(3));
        }
        let id = RunId::again(&workflow, &original, &format!("c{}", self.asked));
        let again = Again {
            id,
            original,
            from,
            edits,
            latest: world.rng.chance(300),
            by: "ann".to_owned(),
        };
        world.note(63, || {
            format!(
                "AGAIN {} from {:?} as {}",
                again.original, again.from, again.id
            )
        });
        world.agains.push(again.clone());
        world.send(&Message::Again(again), Duration::ZERO);
    }

    /// When nothing moves by itself: dead letters go back, paused runs go on,
    /// some questions are answered. False when there is nothing left to ask.
    fn ask_the_rest(&mut self) -> bool {
        let mut world = self.world.lock();
        if world.redrive() {
            return true;
        }
        let open: Vec<(RunId, RunStatus)> = world
            .runs
            .values()
            .filter(|run| !run.status.is_over() && !self.left.contains(&run.id))
            .map(|run| (run.id.clone(), run.status.clone()))
            .collect();
        for (run, status) in open {
            match status {
                RunStatus::Paused => {
                    drop(world);
                    self.order(run, Order::Resume);
                    return true;
                }
                RunStatus::Parked if world.rng.chance(300) => {
                    self.left.insert(run);
                }
                RunStatus::Parked => {
                    let approve = world.rng.chance(700);
                    let steps = world.runs.get(&run).map(|run| &run.steps);
                    let asks = steps
                        .into_iter()
                        .flatten()
                        .find(|(_, step)| step.state.is_asking());
                    let step = asks.map(|(name, _)| name.clone());
                    drop(world);
                    self.order(run, Order::Answer { step, approve });
                    return true;
                }
                _ => {}
            }
        }
        false
    }
}

impl World {
    /// Keeps what the engine was asked, when that is recorded.
    fn keep(&mut self, asked: impl FnOnce() -> Asked) {
        let at = self.shown();
        if let Some(all) = &mut self.asked {
            all.push((at, asked()));
        }
    }
}
