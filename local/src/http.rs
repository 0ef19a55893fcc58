//! The HTTP server: webhooks on any path, the report protocol below `/_loopy`,
//! `GET /healthz`. One listener for all three.

use crate::worker::Worker;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use loopy_engine::{Answer, ReportRequest, WebhookRequest};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The report protocol's place.
pub(crate) const REPORT_PREFIX: &str = "/_loopy";

/// The largest body that is read, in bytes; the engine's own limits are lower.
pub const MAX_BODY: usize = 1024 * 1024;

/// How long a sender may take over a body.
const BODY_TIME: Duration = Duration::from_secs(30);

pub(crate) fn router(home: Arc<Worker>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .fallback(other)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(home)
}

async fn health(State(home): State<Arc<Worker>>) -> Response {
    match home.healthy().await {
        Ok(()) => respond(StatusCode::OK, &json!({ "status": "ok" })),
        Err(error) => {
            tracing::error!(%error, "not healthy");
            respond(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "status": "the state cannot be read" }),
            )
        }
    }
}

async fn other(State(home): State<Arc<Worker>>, request: Request) -> Response {
    let (method, uri) = (request.method().as_str().to_owned(), request.uri().clone());
    let map = request.headers().clone();
    let body = match read_body(request).await {
        Ok(body) => body,
        Err((status, error)) => return respond(status, &json!({ "error": error })),
    };
    let path = uri.path().to_owned();
    // On a task of its own: when the sender hangs up, this future is dropped,
    // but what has been begun must be finished.
    let answer = match path
        .strip_prefix(REPORT_PREFIX)
        .filter(|rest| rest.starts_with('/'))
    {
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
        Ok(Answer { status, body }) => respond(
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            &body,
        ),
        Err(error) => {
            tracing::error!(%error, "a request was not finished");
            respond(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({ "error": "not served" }),
            )
        }
    }
}

async fn read_body(request: Request) -> Result<Vec<u8>, (StatusCode, String)> {
    match tokio::time::timeout(BODY_TIME, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body has at most {MAX_BODY} bytes"),
        )),
        Ok(Err(_)) => Err((
            StatusCode::BAD_REQUEST,
            "the body cannot be read".to_owned(),
        )),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the body takes too long".to_owned(),
        )),
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

fn respond(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, axum::Json(body)).into_response()
}
