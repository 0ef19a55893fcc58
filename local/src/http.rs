//! The HTTP server: webhooks on any path, the report protocol below `/_loopy`,
//! `GET /healthz`. One listener for all three. What a stranger sends is refused by its
//! head alone, before its body is read.

use crate::connections::Turn;
use crate::worker::Worker;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use hyper::body::{Body as _, Incoming};
use loopy_engine::{Answer, ReportRequest, WebhookRequest};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The report protocol's place.
pub(crate) const REPORT_PREFIX: &str = "/_loopy";

/// The largest body that is read, in bytes; the engine's own limits are lower.
pub const MAX_BODY: usize = 1024 * 1024;

/// How much of a larger one is heard out.
const HEARD_OUT: usize = 16 * MAX_BODY;

/// How long a sender may take over a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a body is heard out that was refused before it came.
const UNWANTED_TIME: Duration = Duration::from_secs(5);

/// How many webhook requests are verified and queued at once. Reports of runners do not
/// count.
const WEBHOOKS_AT_ONCE: usize = 128;

/// How long one more waits for its turn; GitHub gives up after ten seconds.
const PLACE_TIME: Duration = Duration::from_secs(5);

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Served {
    home: Arc<Worker>,
    webhooks: Arc<Semaphore>,
}

impl Served {
    pub(crate) fn new(home: Arc<Worker>) -> Self {
        let webhooks = Arc::new(Semaphore::new(WEBHOOKS_AT_ONCE));
        Self { home, webhooks }
    }

    /// Answers a request.
    pub(crate) async fn answer(self, turn: Turn, request: Request<Incoming>) -> Response {
        let path = request.uri().path();
        if path == "/healthz" {
            return match *request.method() {
                Method::GET | Method::HEAD => self.health().await,
                _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
            };
        }
        let below = path
            .strip_prefix(REPORT_PREFIX)
            .filter(|rest| rest.starts_with('/'))
            .map(str::to_owned);
        match below {
            Some(below) => self.report(turn, below, request).await,
            None => self.webhook(turn, request).await,
        }
    }

    async fn health(&self) -> Response {
        match self.home.healthy().await {
            Ok(()) => respond(&Answer {
                status: 200,
                body: json!({ "status": "ok" }),
            }),
            Err(error) => {
                tracing::error!(%error, "not healthy");
                respond(&Answer {
                    status: 503,
                    body: json!({ "status": "the state cannot be read" }),
                })
            }
        }
    }

    async fn report(self, turn: Turn, below: String, request: Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let authorization = head
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut request = ReportRequest {
            method: head.method.as_str().to_owned(),
            path: below,
            authorization,
            body: Vec::new(),
        };
        if let Some(answer) = self.home.report_head(&request).await {
            hear_out(body);
            return respond(&answer);
        }
        request.body = match read_body(&turn, body).await {
            Ok(body) => body,
            Err((status, error)) => return refuse(status, error),
        };
        turn.served();
        let home = self.home;
        finish(async move {
            let _turn = turn;
            home.report(request).await
        })
        .await
    }

    async fn webhook(self, turn: Turn, request: Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let mut request = WebhookRequest {
            method: head.method.as_str().to_owned(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: headers(&head.headers),
            body: Vec::new(),
        };
        if let Some(answer) = self.home.webhook_head(&request).await {
            hear_out(body);
            return respond(&answer);
        }
        request.body = match read_body(&turn, body).await {
            Ok(body) => body,
            Err((status, error)) => return refuse(status, error),
        };
        turn.served();
        // Only now, so that nobody has a place who keeps us waiting for a body.
        let place = tokio::time::timeout(PLACE_TIME, self.webhooks.acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests");
        };
        let home = self.home;
        finish(async move {
            let (_turn, _place) = (turn, place);
            home.webhook(request).await
        })
        .await
    }
}

/// Answers on a task of its own: when the sender hangs up, the request's future is
/// dropped, but what has been begun must be finished.
async fn finish(work: impl Future<Output = Answer> + Send + 'static) -> Response {
    match tokio::spawn(work).await {
        Ok(answer) => respond(&answer),
        Err(error) => {
            tracing::error!(%error, "a request was not finished");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "not served")
        }
    }
}

/// Hears out, for a while, a body that nobody wants, and keeps nothing of it: a sender
/// that is still sending would not hear the answer, which it is given meanwhile.
fn hear_out(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(async move {
        let mut parts = Body::new(body).into_data_stream();
        let read = async {
            let mut length = 0;
            while let Some(Ok(part)) = parts.next().await {
                length += part.len();
                if length > HEARD_OUT {
                    break;
                }
            }
        };
        // That it took too long is nobody's loss.
        let _ = tokio::time::timeout(UNWANTED_TIME, read).await;
    });
}

/// The whole body. One that is too large is heard out, up to a limit, and thrown away:
/// a sender that is still sending would not hear the answer.
async fn read_body(turn: &Turn, body: Incoming) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    let mut kept = Vec::new();
    let mut length = 0;
    let mut parts = Body::new(body).into_data_stream();
    let read = async {
        while let Some(part) = parts.next().await {
            let part = part.map_err(|_| (StatusCode::BAD_REQUEST, "the body cannot be read"))?;
            length += part.len();
            if length > HEARD_OUT {
                break;
            }
            if length > MAX_BODY {
                kept = Vec::new();
                turn.release();
            } else if turn.hold(part.len()) {
                kept.extend_from_slice(&part);
            } else {
                return Err((StatusCode::TOO_MANY_REQUESTS, "too many requests"));
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(())) if length > MAX_BODY => Err((StatusCode::PAYLOAD_TOO_LARGE, "too large")),
        Ok(Ok(())) => Ok(kept),
        Ok(Err(refused)) => Err(refused),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body takes too long")),
    }
}

/// Names in lower case; several values of one name are joined as HTTP has it.
fn headers(map: &HeaderMap) -> BTreeMap<String, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    headers
}

fn refuse(status: StatusCode, error: &str) -> Response {
    respond(&Answer {
        status: status.as_u16(),
        body: json!({ "error": error }),
    })
}

fn respond(answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = if answer.body.is_null() {
        status.into_response()
    } else {
        (status, axum::Json(&answer.body)).into_response()
    };
    if let Some(seconds) = answer.retry_after() {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    response
}
