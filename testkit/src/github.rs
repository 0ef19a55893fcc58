//! A stand-in for GitHub's API, as far as an App needs it to get tokens: it checks
//! the App's signature and the JWT's times, knows which repositories its
//! installations reach, and hands out tokens that name what they are for. It keeps
//! repository webhooks too.

mod hooks;

pub use hooks::PERSON;

use crate::host::Host;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs1KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The private key of the App that the stand-in knows, made for tests.
pub const APP_KEY: &str = include_str!("../data/github-app.pem");

/// Its id.
pub const APP_ID: &str = "4711";

/// A running stand-in.
pub struct GithubApi {
    host: Host,
    shared: Arc<Shared>,
}

struct Shared {
    public_key: Vec<u8>,
    /// The installation that reaches a repository, by `owner/name`.
    installations: BTreeMap<String, u64>,
    /// What tokens were asked for: the installation, and the body.
    asked: Mutex<Vec<(u64, Value)>>,
    hooks: hooks::Hooks,
}

impl GithubApi {
    /// Starts one whose App is installed for these repositories.
    ///
    /// # Errors
    /// There is no port, or no thread, to be had; or the key of the tests is broken.
    pub fn start(installations: &[(&str, u64)]) -> std::io::Result<Self> {
        let broken = |_| std::io::Error::other("the App's key cannot be read");
        let der = PrivatePkcs1KeyDer::from_pem_slice(APP_KEY.as_bytes()).map_err(broken)?;
        let key = RsaKeyPair::from_der(der.secret_pkcs1_der())
            .map_err(|_| std::io::Error::other("the App's key is none"))?;
        let shared = Arc::new(Shared {
            public_key: key.public().as_ref().to_vec(),
            installations: installations
                .iter()
                .map(|(name, id)| ((*name).to_owned(), *id))
                .collect(),
            asked: Mutex::default(),
            hooks: hooks::Hooks::default(),
        });
        let router = Router::new()
            .route("/repos/{owner}/{name}/installation", get(installation))
            .route("/app/installations/{id}/access_tokens", post(token))
            .route(
                "/repos/{owner}/{name}/hooks",
                get(hooks::list).post(hooks::create),
            )
            .route("/repos/{owner}/{name}/hooks/{id}", patch(hooks::update))
            .route("/repos/{owner}/{name}/hooks/{id}/pings", post(hooks::ping))
            .route(
                "/repos/{owner}/{name}/hooks/{id}/deliveries",
                get(hooks::deliveries),
            )
            .with_state(Arc::clone(&shared));
        Ok(Self {
            host: Host::start("github-api", router)?,
            shared,
        })
    }

    /// The base URL, for `GITHUB_API_URL`.
    pub fn url(&self) -> String {
        self.host.url()
    }

    /// The webhooks of a repository (`owner/name`), as GitHub shows them.
    pub fn hooks(&self, name: &str) -> Vec<Value> {
        self.shared.hooks.of(name)
    }

    /// Changes all webhooks of a repository, as a person would on its pages: `body` is
    /// what the API takes ("Update a repository webhook").
    pub fn edit_hooks(&self, name: &str, body: &Value) {
        self.shared.hooks.edit(name, body);
    }

    /// The secrets of a repository's webhooks, which GitHub shows nobody.
    pub fn hook_secrets(&self, name: &str) -> Vec<String> {
        self.shared.hooks.secrets(name)
    }

    /// Answers all that is asked of a repository's webhooks from now on in this way.
    pub fn refuse_hooks(&self, name: &str, status: u16, body: &Value) {
        self.shared.hooks.refuse(name, status, body);
    }

    /// What tokens were asked for so far: the installation, and the body.
    pub fn asked(&self) -> Vec<(u64, Value)> {
        let asked = self.shared.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn refused(status: StatusCode, message: &str) -> Response {
    let body = json!({ "message": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body.to_string()).into_response()
}

impl Shared {
    /// What is wrong with the JWT, in GitHub's words.
    fn wrong(&self, headers: &HeaderMap) -> Option<&'static str> {
        const UNREADABLE: &str = "A JSON web token could not be decoded";
        let jwt = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some((signed, signature)) = jwt.and_then(|jwt| jwt.rsplit_once('.')) else {
            return Some(UNREADABLE);
        };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        if key.verify(signed.as_bytes(), &signature).is_err() {
            return Some(UNREADABLE);
        }
        let claims = signed
            .split_once('.')
            .and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok())
            .and_then(|claims| serde_json::from_slice::<Value>(&claims).ok())
            .unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let (iat, exp) = (claims["iat"].as_u64(), claims["exp"].as_u64());
        match (iat, exp) {
            _ if claims["iss"] != APP_ID => Some("Integration not found"),
            (Some(iat), _) if iat > now => Some("'Issued at' claim ('iat') must be in the past"),
            (_, Some(exp)) if exp > now + 600 => {
                Some("'Expiration time' claim ('exp') is too far in the future")
            }
            (Some(_), Some(exp)) if exp > now => None,
            _ => Some("'Expiration time' claim ('exp') must be a time in the future"),
        }
    }
}

async fn installation(
    State(shared): State<Arc<Shared>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(wrong) = shared.wrong(&headers) {
        return refused(StatusCode::UNAUTHORIZED, wrong);
    }
    match shared.installations.get(&format!("{owner}/{name}")) {
        None => refused(StatusCode::NOT_FOUND, "Not Found"),
        Some(id) => answer(StatusCode::OK, &json!({ "id": id, "app_id": 4711 })),
    }
}

async fn token(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: String,
) -> Response {
    if let Some(wrong) = shared.wrong(&headers) {
        return refused(StatusCode::UNAUTHORIZED, wrong);
    }
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked.push((id, body.clone()));
    let token = format!("ghs_{id}_{}", asked.len());
    let expires = "2100-01-01T00:00:00Z";
    let body =
        json!({ "token": token, "expires_at": expires, "repositories": body["repositories"] });
    answer(StatusCode::CREATED, &body)
}
