//! Secret values on one machine: env files of the project, the process's
//! environment, and the token key.

use crate::dotenv::{self, DotenvError};
use async_trait::async_trait;
use loopy_contract::manifest::{Sandbox, previous_secret};
use loopy_engine::ports::{PortError, Secrets};
use loopy_sandbox::github;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The variables that are the engine's own.
const ENGINE_VARIABLES: [&str; 3] = ["DAYTONA_API_KEY", "DAYTONA_API_URL", "DAYTONA_TARGET"];

/// Bytes of a token key.
const KEY_BYTES: usize = 32;

/// Secrets from files and the environment; the project's files are read at each
/// look-up, so an edit holds from the next one on.
pub struct LocalSecrets {
    project: PathBuf,
    state: PathBuf,
    environment: BTreeMap<String, String>,
    /// It never changes, and is asked for with every launch and report.
    token_key: OnceLock<Vec<u8>>,
}

impl fmt::Debug for LocalSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSecrets")
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

impl LocalSecrets {
    /// Secrets of the project, with `environment` (the process's own) before
    /// what `loopy.env` says. `state` is the state directory.
    pub fn new(project: &Path, state: &Path, environment: BTreeMap<String, String>) -> Self {
        Self {
            project: project.to_owned(),
            state: state.to_owned(),
            environment,
            token_key: OnceLock::new(),
        }
    }

    /// The environment's value, or else that of `loopy.env`; an empty one
    /// counts as not set.
    fn engine_value(&self, file: &BTreeMap<String, String>, variable: &str) -> Option<String> {
        let set = |values: &BTreeMap<String, String>| {
            values
                .get(variable)
                .filter(|value| !value.trim().is_empty())
                .cloned()
        };
        set(&self.environment).or_else(|| set(file))
    }

    /// The secret that is set as `variable`, in the environment or in `loopy.env`.
    ///
    /// # Errors
    /// `loopy.env` cannot be read.
    pub fn webhook_secret(&self, variable: &str) -> Result<Option<String>, PortError> {
        let file = self
            .engine_file()
            .map_err(|why| PortError::new(format!("look up {variable}"), why))?;
        Ok(self.engine_value(&file, variable))
    }

    fn engine_file(&self) -> Result<BTreeMap<String, String>, DotenvError> {
        match dotenv::read(&self.project.join("loopy.env")) {
            Err(DotenvError::Read { why, .. }) if why.kind() == ErrorKind::NotFound => {
                Ok(BTreeMap::new())
            }
            found => found,
        }
    }
}

#[async_trait]
impl Secrets for LocalSecrets {
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        let mut env = BTreeMap::new();
        for file in &sandbox.env_file {
            let values = dotenv::read_inside(&self.project, file).map_err(|why| {
                PortError::new(format!("read the env_file `{file}` of sandbox {name}"), why)
            })?;
            env.extend(values);
        }
        Ok(env)
    }

    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError> {
        let previous = self.webhook_secret(&previous_secret(variable))?;
        let present = self.webhook_secret(variable)?;
        Ok(present.into_iter().chain(previous).collect())
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        let file = self
            .engine_file()
            .map_err(|why| PortError::new("look up the engine's credentials", why))?;
        Ok(ENGINE_VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.engine_value(&file, name)?)))
            .collect())
    }

    async fn github_app(&self) -> Result<BTreeMap<String, String>, PortError> {
        let error = |why: &dyn fmt::Display| PortError::new("look up the GitHub App", why);
        let file = self.engine_file().map_err(|why| error(&why))?;
        let mut app: BTreeMap<String, String> = github::VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.engine_value(&file, name)?)))
            .collect();
        if let Some(path) = self.engine_value(&file, github::APP_KEY_FILE) {
            let path = self.project.join(path);
            let key = std::fs::read_to_string(&path)
                .map_err(|why| error(&format!("{}: {why}", path.display())))?;
            app.entry(github::APP_KEY.to_owned()).or_insert(key);
        }
        Ok(app)
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        if let Some(key) = self.token_key.get() {
            return Ok(key.clone());
        }
        let key = token_key(&self.state.join("token.key"))
            .map_err(|why| PortError::new("read the token key .loopy/token.key", why))?;
        Ok(self.token_key.get_or_init(|| key).clone())
    }
}

/// Reads the key, making it first if there is none. Two processes that make it
/// at the same time end up with the same one.
fn token_key(path: &Path) -> std::io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(key) if key.len() == KEY_BYTES => return Ok(key),
        Ok(_) => {
            return Err(std::io::Error::new(
                ErrorKind::InvalidData,
                "it does not hold 32 bytes; delete it, and running steps will be started again",
            ));
        }
        Err(why) if why.kind() == ErrorKind::NotFound => {}
        Err(why) => return Err(why),
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    // Written whole beside its place, then linked there: a link never replaces
    // a key that another process put there in the meantime.
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(std::io::Error::other)?;
    let part = path.with_extension(format!("key.{}.part", hex::encode(name)));
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&key)?;
        file.sync_all()?;
        std::fs::hard_link(&part, path)
    };
    let linked = write();
    let _ = std::fs::remove_file(&part);
    match linked {
        Err(why) if why.kind() != ErrorKind::AlreadyExists => Err(why),
        _ => std::fs::read(path),
    }
}
