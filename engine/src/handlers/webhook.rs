//! `webhook`: verifies a delivery over its raw bytes, drops a repeated one,
//! queues it and answers 202 before any work is done. Answers say nothing that
//! would help a stranger.

use super::{Answer, Engine};
use crate::message::{Body, Delivery, Message};
use crate::ports::PortError;
use crate::verify;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::derive;
use loopy_contract::manifest::{Manifest, Sensor, SensorTrigger, VerifyScheme};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The largest body that is accepted, in bytes: with its headers it still fits
/// one queue message of 1 MiB.
pub const MAX_BODY_BYTES: usize = 640 * 1024;

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
    /// Takes a webhook delivery: 202 accepted (or seen before), 401 not
    /// verified, 404 no such path, 405 not a POST, 413 too large, 503 when it
    /// cannot be verified or queued now, or a sensor on the path cannot be loaded.
    pub async fn webhook(&self, request: WebhookRequest) -> Answer {
        match self.take_delivery(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "webhook delivery not accepted");
                Answer::refused(503, "not accepted now; send it again")
            }
        }
    }

    async fn take_delivery(&self, request: WebhookRequest) -> Result<Answer, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let Some(schemes) = schemes(&manifest, &request.path) else {
            return Ok(Answer::refused(404, "no webhook here"));
        };
        if request.method != "POST" {
            return Ok(Answer::refused(405, "only POST"));
        }
        if request.body.len() > MAX_BODY_BYTES {
            return Ok(Answer::refused(413, "too large"));
        }
        let now = self.ports.clock.now();
        for scheme in &schemes {
            let secrets = match scheme.secret_variable() {
                Some(variable) => {
                    let secrets = self.ports.secrets.webhook_secrets(&variable).await?;
                    if secrets.is_empty() {
                        tracing::error!(path = request.path, variable, "webhook secret is not set");
                        return Ok(Answer::refused(503, "not ready"));
                    }
                    secrets
                }
                None => continue,
            };
            if let Err(why) =
                verify::verify(*scheme, &secrets, &request.headers, &request.body, now)
            {
                tracing::warn!(path = request.path, %why, "webhook delivery refused");
                return Ok(Answer::refused(401, "not verified"));
            }
        }
        let id = delivery_id(&request);
        if self.ports.store.seen(&id).await? {
            return Ok(Answer {
                status: 202,
                body: json!({ "delivery": id, "repeated": true }),
            });
        }
        let listening = listening(&manifest, &request.path).map(|sensor| sensor.name.as_str());
        if let Some((sensor, why)) = self.unloadable_of(&manifest, listening).await? {
            tracing::error!(
                path = request.path,
                sensor,
                why,
                "the sensor cannot be loaded"
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
        Ok(Answer {
            status: 202,
            body: json!({ "delivery": id, "repeated": false }),
        })
    }
}

/// The sensors on a path.
fn listening<'a>(manifest: &'a Manifest, path: &'a str) -> impl Iterator<Item = &'a Sensor> {
    manifest.sensors.iter().filter(move |sensor| {
        matches!(&sensor.trigger, SensorTrigger::Webhook { path: on, .. } if on == path)
    })
}

/// The verification schemes on a path; `None` when no sensor listens there.
fn schemes(manifest: &Manifest, path: &str) -> Option<BTreeSet<VerifyScheme>> {
    let mut listens = false;
    let mut schemes = BTreeSet::new();
    for sensor in &manifest.sensors {
        if let SensorTrigger::Webhook {
            path: listening,
            verify,
        } = &sensor.trigger
            && listening == path
        {
            listens = true;
            schemes.extend(verify);
        }
    }
    listens.then_some(schemes)
}

/// The sender's own id of the delivery; without one, a hash of path and body.
fn delivery_id(request: &WebhookRequest) -> String {
    const ID_HEADERS: [&str; 3] = ["x-github-delivery", "webhook-id", "linear-delivery"];
    let given = ID_HEADERS
        .iter()
        .find_map(|name| request.headers.get(*name))
        .filter(|id| !id.is_empty() && id.len() <= 200);
    match given {
        Some(id) => derive(&["delivery", &request.path, id], 32),
        None => {
            let body = STANDARD.encode(&request.body);
            derive(&["delivery-body", &request.path, &request.query, &body], 32)
        }
    }
}

fn delivery(id: String, request: WebhookRequest, received_at: Timestamp) -> Delivery {
    let mut headers = request.headers;
    headers.retain(|name, _| !PRIVATE_HEADERS.contains(&name.as_str()));
    let body = match String::from_utf8(request.body) {
        Ok(text) => Body::Text(text),
        Err(error) => Body::Base64(STANDARD.encode(error.as_bytes())),
    };
    Delivery {
        id,
        path: request.path,
        method: request.method,
        query: request.query,
        headers,
        body,
        received_at,
    }
}
