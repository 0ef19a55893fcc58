//! A home whose sandboxes are tasks of this process that do nothing but report.

use super::failed;
use crate::error::Error;
use async_trait::async_trait;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, RunId};
use loopy_contract::manifest::{Manifest, SCHEMA_VERSION};
use loopy_contract::report::attempt_path;
use loopy_engine::ReportRequest;
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use loopy_local::{Handle, HomeOptions, LocalHome};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// The steps of each run.
pub(super) const STEPS: usize = 3;

const WORKFLOW: &str = "chain";
const NAMES: [&str; STEPS] = ["first", "second", "third"];

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What every step reports.
const RESULT: &str = r#"{"outcome": {"kind": "succeeded", "output": {}, "emits": {}},
    "usage": {"usd": null, "input_tokens": 0, "output_tokens": 0, "turns": 0},
    "duration_ms": 0}"#;

/// Tells whoever waits for a run that it is over.
type Waiting = Mutex<HashMap<RunId, oneshot::Sender<Instant>>>;

/// How a step's result reaches the home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reports {
    /// By a call in the same process.
    Called,
    /// Through the home's listener, as a runner's.
    OverHttp,
}

/// Sandboxes that are tasks.
#[derive(Default)]
struct Tasks {
    home: OnceLock<Handle>,
    /// The listener's URL, when reports go through it.
    listener: Option<(reqwest::Client, OnceLock<String>)>,
    waiting: Waiting,
}

impl Tasks {
    fn wait_for(&self, run: &RunId) -> oneshot::Receiver<Instant> {
        let (over, wait) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(run.clone(), over);
        wait
    }

    /// The work of a step: its result.
    async fn work(&self, spec: LaunchSpec) {
        let path = attempt_path(spec.run.as_str(), &spec.step, spec.attempt, "result");
        let Some(status) = self.report(path, &spec.token).await else {
            return;
        };
        if status == 200 && NAMES.last() == Some(&spec.step.as_str()) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(over) = waiting.remove(&spec.run) {
                // Nobody waits for it any more only when all has failed.
                let _ = over.send(Instant::now());
            }
        }
    }
}

impl Tasks {
    /// Hands a result in; the status that it is answered with.
    async fn report(&self, path: String, token: &str) -> Option<u16> {
        if let Some((client, url)) = &self.listener {
            let request = client.post(format!("{}/_loopy{path}", url.get()?));
            let answer = request.bearer_auth(token).body(RESULT).send().await;
            return match answer {
                Ok(answer) => Some(answer.status().as_u16()),
                Err(error) => {
                    eprintln!("error: a report did not arrive: {error}");
                    None
                }
            };
        }
        let request = ReportRequest {
            method: "POST".to_owned(),
            path,
            authorization: Some(format!("Bearer {token}")),
            body: RESULT.as_bytes().to_vec(),
        };
        Some(self.home.get()?.report(request).await.status)
    }
}

/// The port over them.
struct Launcher(Arc<Tasks>);

#[async_trait]
impl Sandboxes for Launcher {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let (tasks, spec) = (Arc::clone(&self.0), spec.clone());
        tokio::spawn(async move { tasks.work(spec).await });
        Ok(Launch::Started)
    }

    async fn stop(&self, _: &SandboxRef) -> Result<(), PortError> {
        Ok(())
    }

    async fn state(&self, _: &SandboxRef) -> Result<SandboxState, PortError> {
        Ok(SandboxState::Alive)
    }
}

/// A home that serves.
pub(super) struct Serving {
    home: Handle,
    tasks: Arc<Tasks>,
    count: AtomicUsize,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Serving {
    /// Serves a project of its own in `folder`.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) async fn start(folder: &Path) -> Result<Self, Error> {
        Self::start_with(folder, Reports::Called).await
    }

    /// As [`Self::start`].
    ///
    /// # Errors
    /// When it cannot.
    pub(super) async fn start_with(folder: &Path, reports: Reports) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let manifest = manifest()?;
        let mut options =
            HomeOptions::new(folder.to_owned(), manifest, BTreeMap::new(), Vec::new());
        let listener = (reports == Reports::OverHttp).then(Default::default);
        let tasks = Arc::new(Tasks {
            listener,
            ..Tasks::default()
        });
        options.sandboxes = Some(Arc::new(Launcher(Arc::clone(&tasks))));
        let home = LocalHome::open(options).await;
        let home = home.map_err(|why| failed("open a home", why))?;
        let handle = home.handle();
        if let Some((_, url)) = &tasks.listener {
            url.get_or_init(|| format!("http://{}", home.address()));
        }
        if tasks.home.set(handle.clone()).is_err() {
            return Err(failed("open a home", "the sandboxes have one"));
        }
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(home.serve(async {
            let _ = stopped.await;
        }));
        Ok(Self {
            home: handle,
            tasks,
            count: AtomicUsize::new(0),
            stop,
            serving,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it broke off before.
    pub(super) async fn stop(self: Arc<Self>) -> Result<(), Error> {
        let serving = Arc::into_inner(self);
        let serving = serving.ok_or_else(|| failed("stop serving", "it is still in use"))?;
        let _ = serving.stop.send(());
        serving.serving.await.map_err(|why| failed("serve", why))
    }

    /// Hands an event in. Gives back when it was accepted, and what waits for the
    /// end of its run.
    async fn submit(&self) -> Result<(Instant, oneshot::Receiver<Instant>), Error> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = EventId::from(format!("bench-{number}").as_str());
        let over = self.tasks.wait_for(&RunId::derive(WORKFLOW, &id));
        let event = Event::root(
            id,
            "Go".to_owned(),
            Map::new(),
            Source::Hand,
            Timestamp::now(),
        );
        let accepted = self.home.submit(&event).await;
        accepted.map_err(|why| failed("hand an event in", why))?;
        Ok((Instant::now(), over))
    }

    /// One run, and how long it took.
    ///
    /// # Errors
    /// When it does not come to its end.
    pub(super) async fn one(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        let (_, over) = self.submit().await?;
        Ok(end(over).await?.duration_since(begun))
    }

    /// `runs` runs, so many at a time.
    ///
    /// # Errors
    /// When one does not come to its end.
    pub(super) async fn many(self: &Arc<Self>, runs: usize, at_a_time: usize) -> Result<(), Error> {
        let left = Arc::new(AtomicUsize::new(runs));
        let mut starters = JoinSet::new();
        for _ in 0..at_a_time {
            let (serving, left) = (Arc::clone(self), Arc::clone(&left));
            starters.spawn(async move {
                let take = |left: usize| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    serving.one().await?;
                }
                Ok::<_, Error>(())
            });
        }
        while let Some(starter) = starters.join_next().await {
            starter.map_err(|why| failed("start runs", why))??;
        }
        Ok(())
    }

    /// The times of runs one after another, after a few that do not count.
    ///
    /// # Errors
    /// When one does not come to its end.
    pub(super) async fn alone(self: &Arc<Self>, runs: usize) -> Result<Vec<Duration>, Error> {
        let serving = Arc::clone(self);
        let starter = tokio::spawn(async move {
            let mut times = Vec::with_capacity(runs);
            for index in 0..runs + runs / 10 {
                let time = serving.one().await?;
                if index >= runs / 10 {
                    times.push(time);
                }
            }
            Ok(times)
        });
        starter.await.map_err(|why| failed("start runs", why))?
    }

    /// Hands `events` events in at once: until all were accepted, and until all
    /// their runs are over.
    ///
    /// # Errors
    /// When one does not come to its end.
    pub(super) async fn burst(&self, events: usize) -> Result<(Duration, Duration), Error> {
        let begun = Instant::now();
        let submitted = (0..events).map(|_| self.submit());
        let submitted = futures::future::try_join_all(submitted).await?;
        let mut accepted = begun;
        let mut runs = JoinSet::new();
        for (at, over) in submitted {
            accepted = accepted.max(at);
            runs.spawn(end(over));
        }
        let mut last = accepted;
        while let Some(run) = runs.join_next().await {
            last = last.max(run.map_err(|why| failed("wait for a run", why))??);
        }
        Ok((accepted.duration_since(begun), last.duration_since(begun)))
    }
}

async fn end(over: oneshot::Receiver<Instant>) -> Result<Instant, Error> {
    tokio::time::timeout(PATIENCE, over)
        .await
        .map_err(|_| {
            failed(
                "wait for a run",
                format!("none in {} s", PATIENCE.as_secs()),
            )
        })?
        .map_err(|why| failed("wait for a run", why))
}

fn manifest() -> Result<Manifest, Error> {
    let step = |name: &str, on: Value, after: &[&str]| {
        json!({
            "id": format!("{WORKFLOW}/{name}"), "trigger": on, "after": after, "agent": "Shell",
            "output": {}, "emits": [], "budget": null, "body": "true", "refs": [],
        })
    };
    let [first, second, third] = NAMES;
    let mut steps = Map::new();
    let on = json!({"kind": "event", "event": "Go"});
    steps.insert(first.to_owned(), step(first, on, &[]));
    steps.insert(second.to_owned(), step(second, Value::Null, &[first]));
    steps.insert(third.to_owned(), step(third, Value::Null, &[second]));
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": SCHEMA_VERSION, "loopy_version": "0",
        "registry": {
            "sandboxes": {"Here": {
                "provider": "local", "image": {}, "network": [], "env_file": [], "repos": [],
            }},
            "agents": {"Shell": {
                "harness": "command", "model": null, "sandbox": "Here", "skills": [],
            }},
            "events": {"Go": {"fields": {}}},
        },
        "workflows": {WORKFLOW: {"entry": first, "steps": steps}},
        "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))?;
    Ok(manifest.seal())
}
