//! Shared by the tests: a project in a folder of its own, compiled, and its sensors.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "tests"
)]
#![allow(dead_code, reason = "each test file uses its own part")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_compiler::{Sources, compile};
use loopy_contract::manifest::{Manifest, Sensor};
use loopy_engine::memory::MemoryManifests;
use loopy_engine::ports::{Sensed, SensorCall, SensorCode, SensorError};
use loopy_sensors::{Config, SensorsHere};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Long enough for anything on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(25);

/// A `PATH` with the programs of a plain system.
pub(crate) const PLAIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

const REGISTRY: &str = "events: { Go: { n: int }, Done: { text: json } }\n";

/// The Python that the tests use.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("LOOPY_TEST_PYTHON")
        .map(PathBuf::from)
        .expect("LOOPY_TEST_PYTHON is not set; run `cargo xtask test`, which prepares it")
}

/// A project and its sensors.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) manifest: Manifest,
    pub(crate) sensors: SensorsHere,
    files: BTreeMap<String, Vec<u8>>,
}

/// The sensors of the same project, in processes of their own.
pub(crate) fn fresh(bench: &Bench) -> SensorsHere {
    let mut config = Config::new(
        bench.dir.path(),
        &bench.dir.path().join(".loopy"),
        PLAIN_PATH.into(),
        Arc::new(|| Ok(BTreeMap::new())),
    );
    config.python = Some(python());
    config.time_limit = LONG;
    let manifests = MemoryManifests::new(bench.manifest.clone(), bench.files.clone());
    SensorsHere::new(config, Arc::new(manifests))
}

/// A project with these files below `sensors/`; `change` may change where they run.
pub(crate) fn bench(files: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("registry.yml"), REGISTRY).unwrap();
    for (path, text) in files {
        write(dir.path(), &format!("sensors/{path}"), text);
    }
    let compiled = compile(&Sources::read(dir.path()).unwrap());
    let Some(manifest) = compiled.manifest else {
        panic!("{:#?}", compiled.diagnostics);
    };
    let environment = BTreeMap::from([("TOKEN".to_owned(), "t".to_owned())]);
    let mut config = Config::new(
        dir.path(),
        &dir.path().join(".loopy"),
        PLAIN_PATH.into(),
        Arc::new(move || Ok(environment.clone())),
    );
    config.python = Some(python());
    config.time_limit = LONG;
    change(&mut config);
    let manifests = MemoryManifests::new(manifest.clone(), compiled.files.clone());
    Bench {
        files: compiled.files,
        sensors: SensorsHere::new(config, Arc::new(manifests)),
        manifest,
        dir,
    }
}

pub(crate) fn write(project: &Path, path: &str, text: &str) {
    let path = project.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A poll's turn.
pub(crate) fn tick() -> SensorCall {
    tick_after(&[])
}

/// A poll's turn after one that gave these.
pub(crate) fn tick_after(snapshot: &[Value]) -> SensorCall {
    let fields = |value: &Value| -> Map<String, Value> { value.as_object().unwrap().clone() };
    SensorCall::Tick {
        scheduled_at: "2026-03-01T00:05:00.123456789Z".parse().unwrap(),
        last_run: "2026-03-01T00:00:00Z".parse().unwrap(),
        snapshot: snapshot.iter().map(fields).collect(),
    }
}

/// A delivery.
pub(crate) fn request(body: &[u8]) -> SensorCall {
    SensorCall::Request {
        method: "POST".to_owned(),
        path: "/x".to_owned(),
        query: "q=1&q=two%20words".to_owned(),
        headers: BTreeMap::from([("x-kind".to_owned(), "push".to_owned())]),
        body_base64: STANDARD.encode(body),
    }
}

impl Bench {
    /// The sensor of the project with this name.
    pub(crate) fn sensor(&self, name: &str) -> Sensor {
        let found = self.manifest.sensors.iter().find(|one| one.name == name);
        found.unwrap().clone()
    }

    pub(crate) async fn call_one(
        &self,
        sensor: &Sensor,
        call: SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        self.sensors.call(&self.manifest, sensor, &call).await
    }

    /// The fields of the events that a sensor of the project gives.
    pub(crate) async fn gives(&self, name: &str, call: SensorCall) -> Vec<Value> {
        let sensor = self.sensor(name);
        let sensed = self.call_one(&sensor, call).await.unwrap();
        assert!(sensed.iter().all(|event| event.event == sensor.emits));
        let fields = sensed.into_iter().map(|event| Value::Object(event.fields));
        fields.collect()
    }

    /// The error of a sensor of the project.
    pub(crate) async fn raises(&self, name: &str, call: SensorCall) -> String {
        match self.call_one(&self.sensor(name), call).await {
            Err(SensorError::Raised { message, .. }) => message,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Why a sensor of the project cannot be loaded.
    pub(crate) async fn unloadable(&self, name: &str, call: SensorCall) -> String {
        match self.call_one(&self.sensor(name), call).await {
            Err(SensorError::Unloadable { reason, .. }) => reason,
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Whether a process goes on working in this directory whose command line begins so.
/// One that was killed takes a moment to be gone.
pub(crate) async fn lives(dir: &Path, program: &str) -> bool {
    let dir = dir.canonicalize().unwrap();
    let is_there = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir)
                && std::fs::read(entry.path().join("cmdline"))
                    .is_ok_and(|line| line.starts_with(program.as_bytes()))
        })
    };
    for _ in 0..50 {
        if !is_there() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    true
}
