//! The part of the stand-in that keeps repository webhooks: it holds them as GitHub
//! does, shows a secret as stars, and really sends its pings.

use super::{Shared, answer, refused};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use ring::hmac;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a person shows to reach every repository's webhooks.
pub const PERSON: &str = "ghp_of_the_tests";

/// The kinds that no webhook of a repository carries (GitHub's OpenAPI description,
/// x-github.supported-webhook-types).
const OF_OTHERS: &str = "custom_property deployment_protection_rule deployment_review \
    github_app_authorization installation installation_repositories installation_target \
    marketplace_purchase membership merge_group org_block organization \
    personal_access_token_request projects_v2 projects_v2_item projects_v2_status_update \
    repository_dispatch security_advisory sponsorship team workflow_dispatch";

/// The webhooks of all repositories, by `owner/name`.
#[derive(Default)]
pub(super) struct Hooks(Mutex<BTreeMap<String, Vec<Stored>>>, Refusals);

/// What is refused whatever is asked, by `owner/name`.
type Refusals = Mutex<BTreeMap<String, (StatusCode, Value)>>;

#[derive(Clone)]
struct Stored {
    id: u64,
    hook: Value,
    secret: String,
    /// Newest first.
    deliveries: Vec<Value>,
}

impl Stored {
    /// As GitHub shows it.
    fn shown(&self) -> Value {
        let mut shown = self.hook.clone();
        shown["id"] = json!(self.id);
        if !self.secret.is_empty() {
            shown["config"]["secret"] = json!("********");
        }
        let last = self.deliveries.first();
        let code = last.map_or(Value::Null, |last| last["status_code"].clone());
        let status = if last.is_some() { "active" } else { "unused" };
        shown["last_response"] = json!({ "code": code, "status": status, "message": null });
        shown
    }

    fn take(&mut self, body: &Value) {
        for part in ["active", "events"] {
            if let Some(value) = body.get(part) {
                self.hook[part] = value.clone();
            }
        }
        if let Some(config) = body.get("config") {
            self.hook["config"] = config.clone();
            let secret = self.hook["config"]["secret"].take();
            self.secret = secret.as_str().unwrap_or_default().to_owned();
            if let Some(config) = self.hook["config"].as_object_mut() {
                config.remove("secret");
            }
        }
    }
}

impl Hooks {
    /// The webhooks of a repository, as GitHub shows them.
    pub(super) fn of(&self, name: &str) -> Vec<Value> {
        let hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = hooks.get(name).into_iter().flatten();
        of.map(Stored::shown).collect()
    }

    /// The secrets of a repository's webhooks.
    pub(super) fn secrets(&self, name: &str) -> Vec<String> {
        let hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = hooks.get(name).into_iter().flatten();
        of.map(|hook| hook.secret.clone()).collect()
    }

    /// Refuses all that is asked of a repository's webhooks.
    pub(super) fn refuse(&self, name: &str, status: u16, body: &Value) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut refused = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(name.to_owned(), (status, body.clone()));
    }

    /// Changes the webhooks of a repository as a person would on its pages.
    pub(super) fn edit(&self, name: &str, body: &Value) {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for hook in hooks.entry(name.to_owned()).or_default() {
            hook.take(body);
        }
    }

    fn with<T>(&self, name: &str, id: u64, change: impl FnOnce(&mut Stored) -> T) -> Option<T> {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = hooks.get_mut(name)?;
        of.iter_mut().find(|hook| hook.id == id).map(change)
    }
}

/// Whether the caller may administer the repository's webhooks.
fn may(shared: &Shared, headers: &HeaderMap, name: &str) -> Result<(), Box<Response>> {
    let refusals = shared.hooks.1.lock();
    let refusal = refusals.unwrap_or_else(PoisonError::into_inner);
    if let Some((status, body)) = refusal.get(name) {
        return Err(Box::new(answer(*status, body)));
    }
    drop(refusal);
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let installed = shared.installations.get(name);
    match token {
        Some(PERSON) => Ok(()),
        Some(token) if token.starts_with("ghs_") => match installed {
            Some(id) if token.starts_with(&format!("ghs_{id}_")) => Ok(()),
            _ => Err(Box::new(refused(StatusCode::NOT_FOUND, "Not Found"))),
        },
        _ => Err(Box::new(refused(
            StatusCode::UNAUTHORIZED,
            "Bad credentials",
        ))),
    }
}

/// Refuses events that a repository's webhook cannot carry.
fn wrong_events(body: &Value) -> Option<Response> {
    let events = body["events"].as_array()?;
    let mut events = events.iter().filter_map(Value::as_str);
    events.find(|event| OF_OTHERS.split_whitespace().any(|other| other == *event))?;
    let error = json!({ "resource": "Hook", "code": "invalid", "field": "events" });
    let body = json!({ "message": "Validation Failed", "errors": [error] });
    Some(answer(StatusCode::UNPROCESSABLE_ENTITY, &body))
}

type Repo = Path<(String, String)>;
type One = Path<(String, String, u64)>;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Path((owner, name)): Repo,
    headers: HeaderMap,
) -> Response {
    let name = format!("{owner}/{name}");
    match may(&shared, &headers, &name) {
        Ok(()) => answer(StatusCode::OK, &json!(shared.hooks.of(&name))),
        Err(refusal) => *refusal,
    }
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Path((owner, name)): Repo,
    headers: HeaderMap,
    body: String,
) -> Response {
    let name = format!("{owner}/{name}");
    if let Err(refusal) = may(&shared, &headers, &name) {
        return *refusal;
    }
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    if body["name"] != "web" || !body["config"]["url"].is_string() {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed");
    }
    if let Some(refusal) = wrong_events(&body) {
        return refusal;
    }
    let hook = {
        let mut hooks = shared
            .hooks
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = 100 + hooks.values().map(Vec::len).sum::<usize>() as u64;
        let mut stored = Stored {
            id,
            hook: json!({ "type": "Repository", "name": "web" }),
            secret: String::new(),
            deliveries: Vec::new(),
        };
        stored.take(&body);
        hooks.entry(name.clone()).or_default().push(stored.clone());
        stored
    };
    // GitHub sends a ping to a new webhook by itself.
    send(&shared, &name, hook.id).await;
    answer(StatusCode::CREATED, &hook.shown())
}

pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, id)): One,
    headers: HeaderMap,
    body: String,
) -> Response {
    let name = format!("{owner}/{name}");
    if let Err(refusal) = may(&shared, &headers, &name) {
        return *refusal;
    }
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    if let Some(refusal) = wrong_events(&body) {
        return refusal;
    }
    let changed = shared.hooks.with(&name, id, |hook| {
        hook.take(&body);
        hook.shown()
    });
    match changed {
        Some(hook) => answer(StatusCode::OK, &hook),
        None => refused(StatusCode::NOT_FOUND, "Not Found"),
    }
}

pub(super) async fn ping(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, id)): One,
    headers: HeaderMap,
) -> Response {
    let name = format!("{owner}/{name}");
    if let Err(refusal) = may(&shared, &headers, &name) {
        return *refusal;
    }
    send(&shared, &name, id).await;
    answer(StatusCode::NO_CONTENT, &Value::Null)
}

pub(super) async fn deliveries(
    State(shared): State<Arc<Shared>>,
    Path((owner, name, id)): One,
    headers: HeaderMap,
) -> Response {
    let name = format!("{owner}/{name}");
    if let Err(refusal) = may(&shared, &headers, &name) {
        return *refusal;
    }
    match shared.hooks.with(&name, id, |hook| json!(hook.deliveries)) {
        Some(found) => answer(StatusCode::OK, &found),
        None => refused(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// Sends a ping, signed with the webhook's secret, and keeps what it was answered.
async fn send(shared: &Shared, name: &str, id: u64) {
    let told = shared.hooks.with(name, id, |hook| {
        let url = hook.hook["config"]["url"].as_str().unwrap_or_default();
        (url.to_owned(), hook.secret.clone(), hook.deliveries.len())
    });
    let Some((url, secret, sent)) = told else {
        return;
    };
    let body = json!({ "zen": "Keep it logically awesome.", "hook_id": id }).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let answer = reqwest::Client::new()
        .post(url)
        .timeout(Duration::from_secs(10))
        .header("content-type", "application/json")
        .header("x-github-event", "ping")
        .header("x-github-delivery", format!("ping-{name}-{id}-{sent}"))
        .header("x-hub-signature-256", format!("sha256={hex}"))
        .body(body)
        .send()
        .await;
    // As GitHub has it when there was no connection.
    let code = answer.map_or(502, |answer| answer.status().as_u16());
    let delivery = json!({ "id": id * 1000 + sent as u64, "event": "ping", "status_code": code });
    shared
        .hooks
        .with(name, id, |hook| hook.deliveries.insert(0, delivery));
}
