//! Where this machine runs a project's sensors, and whether it can.

use crate::dotenv::{self, DotenvError};
use loopy_contract::manifest::Manifest;
use loopy_engine::memory::MemoryManifests;
use loopy_engine::ports::{PortError, SensorCode};
use loopy_sandbox::local;
use loopy_sensors::{Config, Environment, SensorsHere};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// How the sensors of `project` are run; `dir` is its state folder and `environment`
/// the process's own.
pub(crate) fn config(project: &Path, dir: &Path, environment: &BTreeMap<String, String>) -> Config {
    let search_path = environment
        .get("PATH")
        .map_or_else(|| OsString::from(local::PLAIN_PATH), OsString::from);
    let mut config = Config::new(project, dir, search_path, own_environment(project));
    config.python = environment.get("LOOPY_PYTHON").map(PathBuf::from);
    config.node = environment.get("LOOPY_NODE").map(PathBuf::from);
    config
}

/// Loads the code of all sensors without calling one and without a home. Gives those
/// that cannot be loaded, with why. `state` is a folder for what that writes.
///
/// # Errors
/// When the sensors' environment cannot be read, or no process can be started.
pub async fn load_sensors(
    project: &Path,
    state: &Path,
    manifest: &Manifest,
    files: &BTreeMap<String, Vec<u8>>,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, PortError> {
    let manifests = MemoryManifests::new(manifest.clone(), files.clone());
    let sensors = SensorsHere::new(config(project, state, environment), Arc::new(manifests));
    sensors.load(manifest).await
}

/// Reads the variables of the project's sensors, where it has a file of them.
fn own_environment(project: &Path) -> Environment {
    let path = project.join("sensors/.env");
    Arc::new(move || match dotenv::read(&path) {
        Err(DotenvError::Read { why, .. }) if why.kind() == ErrorKind::NotFound => {
            Ok(BTreeMap::new())
        }
        found => found.map_err(|why| PortError::new("read the sensors' environment", why)),
    })
}
