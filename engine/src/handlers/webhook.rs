//! `webhook`: verifies a delivery over its raw bytes, drops a repeated one,
//! queues it and answers 202 before any work is done. Answers say nothing that
//! would help a stranger.

mod identity;

use super::unloadable::unloadable;
use super::{Answer, Engine};
use crate::message::{Body, Delivery, Message};
use crate::ports::PortError;
use crate::verify;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::delivery_id;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::manifest::{Manifest, Sensor, SensorSource, SensorTrigger, VerifyScheme};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The largest body that is accepted, in bytes: with its headers it still fits
/// one queue message of 1 MiB.
pub const MAX_BODY_BYTES: usize = 640 * 1024;

/// The most bytes of header names and values that are accepted.
pub(crate) const MAX_HEADER_BYTES: usize = 64 * 1024;

/// How long a repeated delivery is recognised.
const SEEN_FOR: SignedDuration = SignedDuration::from_hours(24 * 7);

/// Headers that may carry credentials; they are not handed to sensor code.
const PRIVATE_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// A request to a webhook's path.
#[derive(Clone, Debug)]
pub struct WebhookRequest {
    /// The HTTP method.
    pub method: String,
    /// The path, with its leading `/`.
    pub path: String,
    /// The raw query string; empty when there is none.
    pub query: String,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The raw bytes, as signed by the sender.
    pub body: Vec<u8>,
}

impl Engine {
    /// Takes a webhook delivery: 202 accepted (or seen before; some want a 200), 404 no
    /// such path, 405 not a POST, 431 or 413 too large, 401 not verified, 429 too many,
    /// 503 when it cannot be verified or queued now, or no sensor on the path can be
    /// loaded.
    pub async fn webhook(&self, request: WebhookRequest) -> Answer {
        match self.take_delivery(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "webhook delivery not accepted");
                not_now()
            }
        }
    }

    /// What a delivery is answered whatever its body is; `None` when the body decides.
    /// The body of `head` is not looked at: whoever serves asks this before reading it,
    /// so that a stranger's is not taken in. [`Engine::webhook`] checks the same again.
    pub async fn webhook_head(&self, head: &WebhookRequest) -> Option<Answer> {
        match self.ports.manifests.current().await {
            Ok(manifest) => check_head(&manifest, head).err(),
            Err(error) => {
                tracing::error!(%error, "webhook delivery not accepted");
                Some(not_now())
            }
        }
    }

    async fn take_delivery(&self, request: WebhookRequest) -> Result<Answer, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let scheme = match check_head(&manifest, &request) {
            Ok(scheme) => scheme,
            Err(answer) => return Ok(answer),
        };
        if request.body.len() > MAX_BODY_BYTES {
            return Ok(Answer::refused(413, "too large"));
        }
        let now = self.ports.clock.now();
        if let Some(variable) = scheme.secret_variable() {
            let secrets = self.ports.secrets.webhook_secrets(&variable).await?;
            if secrets.is_empty() {
                tracing::error!(path = request.path, variable, "webhook secret is not set");
                return Ok(Answer::refused(503, "not ready"));
            }
            if let Err(why) = verify::verify(scheme, &secrets, &request.headers, &request.body, now)
            {
                tracing::warn!(path = request.path, %why, "webhook delivery refused");
                return Ok(Answer::refused(401, "not verified"));
            }
        }
        if let Some(answer) = handshake(scheme, &request.body) {
            return Ok(answer);
        }
        let id = delivery_id(scheme, &request, now);
        if self.ports.store.seen(&id).await? {
            return Ok(accepted(scheme, &id, true));
        }
        // Counted only here, so that nobody without the secret can use it up.
        if !self.rate.take(&request.path, now) {
            tracing::warn!(path = request.path, "too many webhook deliveries");
            return Ok(Answer::refused(429, "too many requests"));
        }
        if let Some((sensor, why)) = self.nothing_loads(&manifest, &request.path).await? {
            tracing::error!(
                path = request.path,
                sensor,
                why,
                "no sensor on the path can be loaded"
            );
            return Ok(Answer::refused(503, "not ready"));
        }
        let delivery = delivery(id.clone(), request, now);
        // Queued first, marked after: a crash in between makes the sender's next
        // try a second message, whose events have the same ids and start nothing.
        self.ports
            .queues
            .send(&Message::Delivery(delivery), Duration::ZERO)
            .await?;
        let expires = now.checked_add(SEEN_FOR).unwrap_or(Timestamp::MAX);
        self.ports.store.mark_seen(&id, expires).await?;
        Ok(accepted(scheme, &id, false))
    }

    /// One of the sensors on a path, with why it cannot be loaded, where none of them
    /// can. While one of them works, deliveries are taken for it: not every sender
    /// sends again, and those beside it are tried again and dead-lettered by `sensor`.
    async fn nothing_loads(
        &self,
        manifest: &Manifest,
        path: &str,
    ) -> Result<Option<(String, String)>, PortError> {
        let listening: Vec<&Sensor> = manifest
            .sensors
            .iter()
            .filter(|sensor| {
                matches!(&sensor.trigger, SensorTrigger::Webhook { path: on, .. } if on == path)
            })
            .collect();
        // Built-in events have no code, and their deliveries need no read.
        if listening
            .iter()
            .any(|sensor| sensor.source == SensorSource::Builtin)
        {
            return Ok(None);
        }
        let kept = unloadable(&*self.ports.store, manifest).await?;
        let now = self.ports.clock.now();
        let mut why = None;
        for sensor in listening {
            match kept.get(&sensor.name).filter(|note| note.holds(now)) {
                Some(note) => why = Some((sensor.name.clone(), note.reason.clone())),
                None => return Ok(None),
            }
        }
        Ok(why)
    }
}

/// How a delivery is verified, or what it is answered by its path, its method and its
/// headers alone.
fn check_head(manifest: &Manifest, head: &WebhookRequest) -> Result<VerifyScheme, Answer> {
    let Some(scheme) = scheme(manifest, &head.path) else {
        return Err(Answer::refused(404, "no webhook here"));
    };
    if head.method != "POST" {
        return Err(Answer::refused(405, "only POST"));
    }
    if header_bytes(&head.headers) > MAX_HEADER_BYTES {
        return Err(Answer::refused(431, "too large"));
    }
    if let Err(why) = verify::signed(scheme, &head.headers) {
        tracing::warn!(path = head.path, %why, "webhook delivery refused");
        return Err(Answer::refused(401, "not verified"));
    }
    Ok(scheme)
}

fn not_now() -> Answer {
    Answer::refused(503, "not accepted now; send it again")
}

/// The answer to a delivery that was taken. Linear and Slack know no success but 200,
/// and Slack shows people what a slash command answers, so it hears nothing.
fn accepted(scheme: VerifyScheme, id: &str, repeated: bool) -> Answer {
    let status = match scheme {
        VerifyScheme::Slack | VerifyScheme::Linear => 200,
        _ => 202,
    };
    let body = match scheme {
        VerifyScheme::Slack => Value::Null,
        _ => json!({ "delivery": id, "repeated": repeated }),
    };
    Answer { status, body }
}

/// Slack asks a new address to say a word back before it sends events there
/// (docs.slack.dev: `url_verification`). No event comes of it.
fn handshake(scheme: VerifyScheme, body: &[u8]) -> Option<Answer> {
    if scheme != VerifyScheme::Slack {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    let challenge = body.get("challenge").and_then(Value::as_str)?;
    (body.get("type")? == "url_verification").then(|| Answer {
        status: 200,
        body: json!({ "challenge": challenge }),
    })
}

fn header_bytes(headers: &BTreeMap<String, String>) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum()
}

/// How deliveries to a path are verified; `None` when no sensor listens there.
/// Sensors of one path share a scheme (the compiler sees to it). Where no scheme is
/// named nothing is verified: whoever serves in public refuses such a project.
fn scheme(manifest: &Manifest, path: &str) -> Option<VerifyScheme> {
    let mut found = None;
    for sensor in &manifest.sensors {
        if let SensorTrigger::Webhook {
            path: listening,
            verify,
        } = &sensor.trigger
            && listening == path
        {
            match verify {
                None | Some(VerifyScheme::None) => found = Some(VerifyScheme::None),
                Some(scheme) => return Some(*scheme),
            }
        }
    }
    found
}

fn delivery(id: String, request: WebhookRequest, received_at: Timestamp) -> Delivery {
    let mut headers = request.headers;
    headers.retain(|name, _| !PRIVATE_HEADERS.contains(&name.as_str()));
    Delivery {
        id,
        path: request.path,
        method: request.method,
        query: request.query,
        headers,
        body: body(request.body),
        received_at,
    }
}

/// As text, unless base64 is shorter in a JSON message: a body of control
/// characters would grow to six times its length.
fn body(bytes: Vec<u8>) -> Body {
    let encoded = |bytes: &[u8]| Body::Base64(STANDARD.encode(bytes));
    match String::from_utf8(bytes) {
        Ok(text) => match serde_json::to_string(&text) {
            Ok(json) if json.len() <= text.len().div_ceil(3) * 4 + 2 => Body::Text(text),
            _ => encoded(text.as_bytes()),
        },
        Err(error) => encoded(error.as_bytes()),
    }
}
