//! The sensors of the home on one machine: a warm worker for Python and for Node.js,
//! a process a call for scripts. They get `PATH` and `sensors/.env`, nothing else.

use crate::shell::Scripts;
use crate::worker::{Key, Limits, Pool};
use crate::{NODE_HOST, PYTHON_HOST};
use async_trait::async_trait;
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::{FileHash, Manifest, Sensor};
use loopy_engine::ports::{Manifests, PortError, Sensed, SensorCall, SensorCode, SensorError};
use loopy_engine::sensor_host::{HostRequest, HostResponse, Language, MEMORY_LIMIT, TIME_LIMIT};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Mutex;

/// Reads the sensors' own variables.
pub type Environment = Arc<dyn Fn() -> Result<BTreeMap<String, String>, PortError> + Send + Sync>;

/// Where the sensors are and what they may take.
pub struct Config {
    /// The project's folder.
    pub project: PathBuf,
    /// The state folder; the host programs and the sensors' JavaScript are written
    /// below it.
    pub state: PathBuf,
    /// The `PATH` of sensors, on which `python3` and `node` are looked for.
    pub search_path: OsString,
    /// Another Python than that.
    pub python: Option<PathBuf>,
    /// Another Node.js than that.
    pub node: Option<PathBuf>,
    /// Their own variables, read at each call; a change starts new processes.
    pub environment: Environment,
    /// How long one call may take.
    pub time_limit: Duration,
    /// Bytes of memory that a worker may take, with all its sensors start.
    pub memory_limit: u64,
}

impl Config {
    /// With the limits that hold everywhere.
    pub fn new(
        project: &Path,
        state: &Path,
        search_path: OsString,
        environment: Environment,
    ) -> Self {
        Self {
            project: project.to_owned(),
            state: state.to_owned(),
            search_path,
            python: None,
            node: None,
            environment,
            time_limit: TIME_LIMIT,
            memory_limit: MEMORY_LIMIT,
        }
    }
}

/// The sensors of one project on this machine.
pub struct SensorsHere {
    config: Config,
    manifests: Arc<dyn Manifests>,
    python: Pool,
    node: Pool,
    /// The folder with the JavaScript of a manifest, once it is written.
    code: Mutex<Option<(FileHash, PathBuf)>>,
}

impl SensorsHere {
    /// Sensors whose compiled code `manifests` has.
    pub fn new(config: Config, manifests: Arc<dyn Manifests>) -> Self {
        Self {
            config,
            manifests,
            python: Pool::new(),
            node: Pool::new(),
            code: Mutex::new(None),
        }
    }

    /// Asks the host of a language.
    ///
    /// # Errors
    /// The inner one says why there is no host.
    async fn ask(
        &self,
        manifest: &Manifest,
        language: Language,
        request: &HostRequest,
    ) -> Result<Result<HostResponse, String>, PortError> {
        let limits = Limits {
            time: self.config.time_limit,
            memory: self.config.memory_limit,
        };
        let environment = (self.config.environment)()?;
        Ok(match language {
            Language::Python => {
                let root = self.config.project.clone();
                let key = Key { root, environment };
                let command = || self.python_worker(&key);
                self.python.ask(request, limits, &key, command).await
            }
            Language::Typescript => {
                let root = self.code_of(manifest).await?;
                let key = Key { root, environment };
                let command = || self.node_worker(&key);
                self.node.ask(request, limits, &key, command).await
            }
            Language::Shell => {
                let scripts = Scripts {
                    project: self.config.project.clone(),
                    search_path: self.config.search_path.clone(),
                    environment,
                    memory_limit: limits.memory,
                };
                Ok(scripts.answer(request).await)
            }
        })
    }

    fn python_worker(&self, key: &Key) -> Result<Command, String> {
        let named = self.config.python.as_deref();
        let python = self.interpreter(named, "python3", "Python 3.9", "LOOPY_PYTHON")?;
        let host = self
            .host("loopy_sensors.py", PYTHON_HOST)
            .map_err(|why| why.to_string())?;
        let mut command = Command::new(python);
        // Without `.pyc` files in the project.
        command.arg("-B").arg(host).arg("--worker");
        command.arg(&self.config.project);
        self.give(&mut command, &key.environment);
        Ok(command)
    }

    fn node_worker(&self, key: &Key) -> Result<Command, String> {
        let named = self.config.node.as_deref();
        let node = self.interpreter(named, "node", "Node.js 18", "LOOPY_NODE")?;
        let host = self
            .host("loopy_sensors.mjs", NODE_HOST)
            .map_err(|why| why.to_string())?;
        // Node.js itself cannot give another place to what sensors, or programs that
        // they start, read and print; so they get it from the beginning.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2"])
            .arg(node)
            .arg("--enable-source-maps")
            .arg(host)
            .arg("--worker")
            .arg(&key.root);
        self.give(&mut command, &key.environment);
        Ok(command)
    }

    fn give(&self, command: &mut Command, environment: &BTreeMap<String, String>) {
        command
            .current_dir(&self.config.project)
            .env_clear()
            .env("PATH", &self.config.search_path)
            .envs(environment);
    }

    fn interpreter(
        &self,
        named: Option<&Path>,
        program: &str,
        version: &str,
        variable: &str,
    ) -> Result<PathBuf, String> {
        if let Some(path) = named {
            return if path.is_file() {
                Ok(path.to_owned())
            } else {
                Err(format!(
                    "{variable} names {}, where there is nothing",
                    path.display()
                ))
            };
        }
        std::env::split_paths(&self.config.search_path)
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                format!(
                    "there is no `{program}` on PATH; install {version} or later, or name one in \
                     {variable}"
                )
            })
    }

    /// Puts a host program beside the state.
    fn host(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let dir = self.config.state.join("sensors/host");
        make_private(&dir)?;
        let path = dir.join(name);
        if !fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            write_whole(&path, text.as_bytes())?;
        }
        Ok(path)
    }

    /// The folder with the sensors' JavaScript, below the project so that the packages
    /// in its `node_modules` are found from there. It is named by its content, as
    /// Node.js never loads one path twice.
    async fn code_of(&self, manifest: &Manifest) -> Result<PathBuf, PortError> {
        let mut code = self.code.lock().await;
        // Whoever tidies up the state folder does not know what is in use.
        if let Some((hash, root)) = &*code
            && *hash == manifest.hash
            && root.exists()
        {
            return Ok(root.clone());
        }
        let what = "write the JavaScript of the sensors";
        let mut files = BTreeMap::new();
        for (path, hash) in manifest.sensor_files.iter().chain(&manifest.sensor_modules) {
            files.insert(path.as_str(), hash.as_str());
        }
        let listed = serde_json::to_string(&files).map_err(|why| PortError::new(what, why))?;
        let all = self.config.state.join("sensors/code");
        let root = all.join(
            sha256_hex(listed.as_bytes())
                .chars()
                .take(16)
                .collect::<String>(),
        );
        if !root.exists() {
            let fault = |why: io::Error| PortError::new(what, why);
            make_private(&all).map_err(fault)?;
            // Those of other manifests are of no use.
            for entry in fs::read_dir(&all).map_err(fault)?.flatten() {
                let _ = fs::remove_dir_all(entry.path());
            }
            let part = tempfile::Builder::new()
                .prefix(".part-")
                .tempdir_in(&all)
                .map_err(fault)?;
            for (path, hash) in files {
                let bytes = self.manifests.file(hash).await?;
                let target = part.path().join(path);
                if let Some(folder) = target.parent() {
                    fs::create_dir_all(folder).map_err(fault)?;
                }
                fs::write(target, bytes).map_err(fault)?;
            }
            // What the project's own says of imports and of kinds of modules is in no
            // stack, either.
            fs::write(part.path().join("package.json"), "{}\n").map_err(fault)?;
            let packages = self.config.project.join("sensors/node_modules");
            symlink(packages, part.path().join("sensors/node_modules")).map_err(fault)?;
            fs::rename(part.keep(), &root).map_err(fault)?;
        }
        *code = Some((manifest.hash.clone(), root.clone()));
        Ok(root)
    }
}

#[async_trait]
impl SensorCode for SensorsHere {
    async fn call(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
    ) -> Result<Vec<Sensed>, SensorError> {
        let request = HostRequest::call(manifest, sensor, call, self.config.time_limit);
        let (Some(language), Some(request)) = (Language::of(sensor), request) else {
            let what = format!("call sensor {}", sensor.name);
            return Err(PortError::new(what, "the manifest names no code for it").into());
        };
        match self.ask(manifest, language, &request).await? {
            Ok(response) => response.events(&sensor.name),
            Err(reason) => Err(SensorError::Unloadable {
                sensor: sensor.name.clone(),
                reason,
            }),
        }
    }

    async fn load(&self, manifest: &Manifest) -> Result<BTreeMap<String, String>, PortError> {
        let mut found = BTreeMap::new();
        for language in Language::ALL {
            if !language.is_in(manifest) {
                continue;
            }
            let request = HostRequest::load(manifest, language);
            if let Ok(HostResponse::Loaded(not)) = self.ask(manifest, language, &request).await? {
                found.extend(not);
                continue;
            }
            // One that ends the host, or never comes back, is to be told from the others.
            for (sensor, request) in request.each() {
                match self.ask(manifest, language, &request).await? {
                    Ok(HostResponse::Loaded(not)) => found.extend(not),
                    Ok(HostResponse::Error(why) | HostResponse::Unloadable(why)) | Err(why) => {
                        found.insert(sensor, why);
                    }
                    Ok(HostResponse::Events(_)) => {}
                }
            }
        }
        Ok(found)
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&part, bytes)?;
    fs::rename(&part, path)
}
