//! The HTTP server: webhooks on any path, the report protocol below `/_loopy`,
//! `GET /healthz`. One listener for all three.

use crate::worker::Worker;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
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

/// How many webhook requests are in hand at once: with [`MAX_BODY`] it bounds the
/// memory that strangers can take. Reports of runners do not count.
const WEBHOOKS_AT_ONCE: usize = 128;

#[derive(Clone)]
struct Served {
    home: Arc<Worker>,
    webhooks: Arc<Semaphore>,
}

pub(crate) fn router(home: Arc<Worker>) -> Router {
    let webhooks = Arc::new(Semaphore::new(WEBHOOKS_AT_ONCE));
    Router::new()
        .route("/healthz", get(health))
        .fallback(other)
        .with_state(Served { home, webhooks })
}

async fn health(State(served): State<Served>) -> Response {
    match served.home.healthy().await {
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

async fn other(State(served): State<Served>, request: Request) -> Response {
    let (method, uri) = (request.method().as_str().to_owned(), request.uri().clone());
    let map = request.headers().clone();
    let path = uri.path().to_owned();
    let below = path
        .strip_prefix(REPORT_PREFIX)
        .filter(|rest| rest.starts_with('/'));
    let _place = match below {
        Some(_) => None,
        None => match Arc::clone(&served.webhooks).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => return refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests"),
        },
    };
    let body = match read_body(request).await {
        Ok(body) => body,
        Err((status, error)) => return refuse(status, error),
    };
    let home = served.home;
    // On a task of its own: when the sender hangs up, this future is dropped,
    // but what has been begun must be finished.
    let answer = match below {
        Some(below) => {
            let authorization = map
                .get(AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned);
            let request = ReportRequest {
                method,
                path: below.to_owned(),
                authorization,
                body,
            };
            tokio::spawn(async move { home.report(request).await }).await
        }
        None => {
            let query = uri.query().unwrap_or_default().to_owned();
            let headers = headers(&map);
            let request = WebhookRequest {
                method,
                path,
                query,
                headers,
                body,
            };
            tokio::spawn(async move { home.webhook(request).await }).await
        }
    };
    match answer {
        Ok(answer) => respond(&answer),
        Err(error) => {
            tracing::error!(%error, "a request was not finished");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "not served")
        }
    }
}

/// The whole body. One that is too large is heard out, up to a limit, and thrown away:
/// a sender that is still sending would not hear the answer.
async fn read_body(request: Request) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    let mut body = Vec::new();
    let mut length = 0;
    let mut parts = request.into_body().into_data_stream();
    let read = async {
        while let Some(part) = parts.next().await {
            let part = part.map_err(|_| (StatusCode::BAD_REQUEST, "the body cannot be read"))?;
            length += part.len();
            if length > HEARD_OUT {
                break;
            }
            if length > MAX_BODY {
                body = Vec::new();
            } else {
                body.extend_from_slice(&part);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(())) if length > MAX_BODY => Err((StatusCode::PAYLOAD_TOO_LARGE, "too large")),
        Ok(Ok(())) => Ok(body),
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
