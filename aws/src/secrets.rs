//! Secret values in Secrets Manager. The environment names the secrets; their
//! values are kept in memory for a few minutes and go nowhere else.

use crate::env::{Environment, var};
use crate::error::failed;
use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::manifest::{Sandbox, previous_secret};
use loopy_engine::ports::{Clock, PortError, Secrets};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::Mutex;

/// How long a value is used before it is read again, and so how long a change
/// of a secret takes to arrive.
pub const KEPT_FOR: SignedDuration = SignedDuration::from_mins(5);

/// The shortest key for attempt tokens, in bytes.
pub const MIN_TOKEN_KEY_BYTES: usize = 32;

/// Secrets by the ARNs in the environment.
pub struct SecretsManager {
    client: Client,
    environment: Arc<Environment>,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<String, Kept>>,
}

/// A value in memory.
struct Kept {
    read_at: Timestamp,
    value: Arc<Vec<u8>>,
}

impl SecretsManager {
    /// The secrets that `environment` names.
    pub fn new(client: Client, environment: Arc<Environment>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            environment,
            clock,
            kept: Mutex::default(),
        }
    }

    /// The text of a secret.
    ///
    /// # Errors
    /// When it cannot be read, or is no text.
    pub async fn text(&self, secret: &str) -> Result<String, PortError> {
        let value = self.value(secret).await?;
        String::from_utf8(value.to_vec())
            .map_err(|_| PortError::new(format!("read secret {secret}"), "it is not text"))
    }

    async fn value(&self, secret: &str) -> Result<Arc<Vec<u8>>, PortError> {
        // Held while reading, so that a batch reads a secret once.
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(known) = kept.get(secret) {
            let age = now.duration_since(known.read_at);
            if age >= SignedDuration::ZERO && age < KEPT_FOR {
                return Ok(Arc::clone(&known.value));
            }
        }
        let what = format!("read secret {secret}");
        let output = self
            .client
            .get_secret_value()
            .secret_id(secret)
            .send()
            .await
            .map_err(|error| failed(&what, &error))?;
        let value = match (output.secret_string, output.secret_binary) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(blob)) => blob.into_inner(),
            (None, None) => return Err(PortError::new(what, "it has no value yet")),
        };
        let value = Arc::new(value);
        let known = Kept {
            read_at: now,
            value: Arc::clone(&value),
        };
        kept.insert(secret.to_owned(), known);
        Ok(value)
    }

    /// The JSON map in the secret that the variable names; empty when the
    /// variable says that the project has none.
    async fn map<T: DeserializeOwned>(
        &self,
        variable: &str,
    ) -> Result<BTreeMap<String, T>, PortError> {
        let Some(secret) = self.environment.may_be_empty(variable)? else {
            return Ok(BTreeMap::new());
        };
        let value = self.value(secret).await?;
        // The parser's own message could quote a value.
        serde_json::from_slice(&value).map_err(|error| {
            PortError::new(
                format!("read secret {secret}"),
                format!(
                    "its value is not the JSON map that Loopy keeps there (line {}, column {})",
                    error.line(),
                    error.column()
                ),
            )
        })
    }
}

impl SecretsManager {
    /// The sensors' own variables, for the function that runs them.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub async fn sensor_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        if self.environment.required(var::SENSOR_SECRET).is_err() {
            return Ok(BTreeMap::new());
        }
        self.map(var::SENSOR_SECRET).await
    }
}

#[async_trait]
impl Secrets for SecretsManager {
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        if sandbox.env_file.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut sandboxes: BTreeMap<String, BTreeMap<String, String>> =
            self.map(var::SANDBOX_SECRET).await?;
        sandboxes.remove(name).ok_or_else(|| {
            PortError::new(
                format!("read the environment of sandbox `{name}`"),
                format!(
                    "it has env_file, but the secret that {} names holds nothing for it; \
                     deploy again from a machine that has the files",
                    var::SANDBOX_SECRET
                ),
            )
        })
    }

    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError> {
        let values: BTreeMap<String, String> = self.map(var::WEBHOOK_SECRET).await?;
        let variables = [variable.to_owned(), previous_secret(variable)];
        Ok(variables
            .iter()
            .filter_map(|variable| values.get(variable).filter(|value| !value.is_empty()))
            .cloned()
            .collect())
    }

    async fn github_app(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.map(var::GITHUB_SECRET).await
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.map(var::ENGINE_SECRET).await
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        let secret = self
            .environment
            .required(var::TOKEN_KEY_SECRET)
            .map_err(PortError::from)?;
        let key = self.value(secret).await?;
        if key.len() < MIN_TOKEN_KEY_BYTES {
            return Err(PortError::new(
                format!("read secret {secret}"),
                format!(
                    "the token key has {} bytes, it needs {MIN_TOKEN_KEY_BYTES} or more",
                    key.len()
                ),
            ));
        }
        Ok(key.to_vec())
    }
}
