//! Tokens of a GitHub App for sandboxes that clone from GitHub: minted for each
//! attempt, for its sandbox's repositories and no others. GitHub lets them expire
//! after an hour.
//!
//! The protocol is GitHub's own ("Authenticating as a GitHub App installation"): a
//! JWT that the App's key signed (RS256, ten minutes at most) asks which installation
//! has a repository, then for a token of that installation.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use loopy_contract::manifest::{Repo, Sandbox};
use loopy_engine::ports::{Clock, PortError, Secrets};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The App's id, among the engine's own variables.
pub const APP_ID: &str = "GITHUB_APP_ID";
/// The App's private key as PEM; its newlines may be written as `\n`.
pub const APP_KEY: &str = "GITHUB_APP_PRIVATE_KEY";
/// A file with that key, for a home on one machine.
pub const APP_KEY_FILE: &str = "GITHUB_APP_PRIVATE_KEY_FILE";
/// Where the API is, when not at `https://api.github.com`.
pub const API_URL: &str = "GITHUB_API_URL";
/// The engine's variables that this needs or takes.
pub const VARIABLES: [&str; 3] = [APP_ID, APP_KEY, API_URL];
/// The variable that a sandbox finds its token in.
pub const TOKEN: &str = "GITHUB_TOKEN";

/// Where the API is, when nothing else is said.
pub const API: &str = "https://api.github.com";
/// How long GitHub may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Clocks differ: a JWT counts as made this many seconds ago.
const BACKDATED: i64 = 60;
/// Seconds until a JWT expires; GitHub takes ten minutes at most.
const JWT_SECONDS: i64 = 540;

/// The secrets of a home, with a token for each sandbox that clones from GitHub and
/// brings none of its own.
pub struct GithubTokens {
    secrets: Arc<dyn Secrets>,
    clock: Arc<dyn Clock>,
    http: Client,
}

impl GithubTokens {
    /// Adds tokens to `secrets`.
    ///
    /// # Errors
    /// This machine's TLS set-up fails.
    pub fn new(secrets: Arc<dyn Secrets>, clock: Arc<dyn Clock>) -> Result<Self, PortError> {
        let http = Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|why| PortError::new("set up the client for GitHub", why))?;
        Ok(Self {
            secrets,
            clock,
            http,
        })
    }

    /// A token of the App's for one repository (`owner/name`) and all that the App may
    /// do there; `None` when no App is configured.
    ///
    /// # Errors
    /// The App is half configured, is not installed there, or GitHub refuses.
    pub async fn token_for(&self, name: &str) -> Result<Option<String>, PortError> {
        match App::read(&self.secrets.github_app().await?)? {
            Some(app) => Ok(Some(
                self.mint(&app, &BTreeSet::from([name.to_owned()])).await?,
            )),
            None => Ok(None),
        }
    }

    /// A token for these repositories, which are on GitHub.
    async fn mint(&self, app: &App, names: &BTreeSet<String>) -> Result<String, PortError> {
        let jwt = app.jwt(self.clock.now())?;
        let mut installations = BTreeSet::new();
        for name in names {
            let path = format!("/repos/{name}/installation");
            let found: Installation = self
                .ask(app, &jwt, Method::GET, &path, None)
                .await
                .map_err(|why| missing(name, why))?;
            installations.insert(found.id);
        }
        let (Some(id), 1) = (installations.first(), installations.len()) else {
            return Err(PortError::new(
                "mint a GitHub token",
                format!(
                    "{} belong to different accounts, and one token reaches one account; \
                     give the sandbox a {TOKEN} by env_file, or use two sandboxes",
                    names.iter().cloned().collect::<Vec<_>>().join(" and ")
                ),
            ));
        };
        // GitHub takes the names without their owner.
        let short: Vec<&str> = names
            .iter()
            .filter_map(|name| name.split('/').nth(1))
            .collect();
        let path = format!("/app/installations/{id}/access_tokens");
        let body = json!({ "repositories": short });
        let token: Token = self
            .ask(app, &jwt, Method::POST, &path, Some(body))
            .await
            .map_err(|refusal| PortError::new("mint a GitHub token", refusal.text))?;
        Ok(token.token)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        app: &App,
        jwt: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Refused> {
        let url = format!("{}{path}", app.api);
        let mut request: RequestBuilder = self
            .http
            .request(method, &url)
            .bearer_auth(jwt)
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", "loopy");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let plain = |text: String| Refused { status: None, text };
        let response = request
            .send()
            .await
            .map_err(|error| plain(format!("{url}: {error}")))?;
        let status = response.status();
        let bytes = response
            .bytes()
            .await
            .map_err(|error| plain(format!("{url}: {error}")))?;
        if !status.is_success() {
            let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let words = said["message"].as_str().unwrap_or("no reason given");
            return Err(Refused {
                status: Some(status),
                text: format!("{url} answered {status}: {words}"),
            });
        }
        // The answer holds the token: no error may quote it.
        serde_json::from_slice(&bytes).map_err(|error| {
            plain(format!(
                "{url} answered what cannot be read (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }
}

/// GitHub did not do it.
struct Refused {
    status: Option<StatusCode>,
    text: String,
}

/// Why a repository's installation was not found.
fn missing(name: &str, refusal: Refused) -> PortError {
    let hint = match refusal.status {
        Some(StatusCode::NOT_FOUND) => {
            format!("; install the GitHub App on {name}, or check how it is written")
        }
        Some(StatusCode::UNAUTHORIZED) => {
            format!("; check {APP_ID} and {APP_KEY}, and this machine's clock")
        }
        _ => String::new(),
    };
    PortError::new(
        format!("mint a GitHub token for {name}"),
        format!("{}{hint}", refusal.text),
    )
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

/// A configured App.
struct App {
    id: String,
    key: RsaKeyPair,
    api: String,
}

impl App {
    /// The App that these variables configure, if they do.
    fn read(variables: &BTreeMap<String, String>) -> Result<Option<Self>, PortError> {
        let value = |name: &str| {
            let value = variables.get(name).map(|value| value.trim());
            value.filter(|value| !value.is_empty())
        };
        let (id, pem) = match (value(APP_ID), value(APP_KEY)) {
            (None, None) => return Ok(None),
            (Some(id), Some(pem)) => (id, pem),
            (None, _) => return Err(half(APP_ID, APP_KEY)),
            (_, None) => return Err(half(APP_KEY, APP_ID)),
        };
        let bad = |why: &str| PortError::new(format!("read {APP_KEY}"), why);
        let pem = pem.replace("\\n", "\n");
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| bad("it is no private key in PEM"))?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(bad("it is no RSA key")),
        };
        Ok(Some(Self {
            id: id.to_owned(),
            key: key.map_err(|_| bad("it is no RSA key that can sign"))?,
            api: value(API_URL)
                .unwrap_or(API)
                .trim_end_matches('/')
                .to_owned(),
        }))
    }

    /// What the App shows for itself.
    fn jwt(&self, now: Timestamp) -> Result<String, PortError> {
        let now = now.as_second();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({ "alg": "RS256", "typ": "JWT" })),
            part(&json!({ "iat": now - BACKDATED, "exp": now + JWT_SECONDS, "iss": self.id })),
        );
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|_| PortError::new("sign for GitHub", "the key does not sign"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn half(missing: &str, there: &str) -> PortError {
    PortError::new(
        "mint a GitHub token",
        format!("{there} is set and {missing} is not; set both, or neither"),
    )
}

#[async_trait]
impl Secrets for GithubTokens {
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        let mut env = self.secrets.sandbox_env(name, sandbox).await?;
        let repos: BTreeSet<String> = sandbox.repos.iter().filter_map(Repo::on_github).collect();
        if repos.is_empty() || env.contains_key(TOKEN) {
            return Ok(env);
        }
        if let Some(app) = App::read(&self.secrets.github_app().await?)? {
            env.insert(TOKEN.to_owned(), self.mint(&app, &repos).await?);
        }
        Ok(env)
    }

    async fn webhook_secrets(&self, variable: &str) -> Result<Vec<String>, PortError> {
        self.secrets.webhook_secrets(variable).await
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.secrets.engine_env().await
    }

    async fn github_app(&self) -> Result<BTreeMap<String, String>, PortError> {
        self.secrets.github_app().await
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        self.secrets.token_key().await
    }
}
