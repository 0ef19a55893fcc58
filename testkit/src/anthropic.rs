//! A model API: answers `POST /v1/messages` as Anthropic's does, streamed or
//! not, with turns that the test wrote down.
//!
//! The turn is chosen by the number of assistant messages already in the
//! request, so the server keeps no conversation: retries and agents at the same
//! time need no care.

use crate::host::Host;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The tool by which Claude Code takes a structured output.
pub const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// What the model says.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The turns of a conversation that no rule takes. Past the last one, the
    /// last is repeated.
    pub turns: Vec<Turn>,
    /// Turns for certain conversations; the first rule that fits is taken.
    pub rules: Vec<Rule>,
    /// The usage that each answer states.
    pub usage: TokenUsage,
    /// Errors in place of answers.
    pub errors: Vec<InjectedError>,
    /// The seconds that each error asks to wait (`retry-after`).
    pub retry_after: Option<u64>,
    /// How long each answer takes.
    pub delay: Duration,
}

impl Script {
    /// A script with these turns and nothing else.
    pub fn of(turns: impl IntoIterator<Item = Turn>) -> Self {
        Self {
            turns: turns.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Adds a rule: a request whose body contains `contains` gets these turns.
    #[must_use]
    pub fn when(mut self, contains: &str, turns: impl IntoIterator<Item = Turn>) -> Self {
        self.rules.push(Rule {
            contains: contains.to_owned(),
            turns: turns.into_iter().collect(),
        });
        self
    }

    fn turn(&self, raw: &str, request: &Value) -> Turn {
        let turns = self
            .rules
            .iter()
            .find(|rule| raw.contains(&rule.contains))
            .map_or(&self.turns, |rule| &rule.turns);
        let answered = request
            .get("messages")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter(|message| message.get("role").and_then(Value::as_str) == Some("assistant"))
            .count();
        turns
            .get(answered)
            .or_else(|| turns.last())
            .cloned()
            .unwrap_or_else(|| vec![Block::text("There is nothing to say.")])
    }
}

/// The blocks of one answer.
pub type Turn = Vec<Block>;

/// Turns for the requests whose raw body contains a text.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The text, as it stands in the JSON of the request.
    pub contains: String,
    /// The turns.
    pub turns: Vec<Turn>,
}

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Block {
    /// Plain text.
    Text(String),
    /// A call of a tool; the answer then stops for its result.
    ToolUse {
        /// The tool's name.
        name: String,
        /// What it is called with.
        input: Value,
    },
}

impl Block {
    /// Plain text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A call of `name` with `input`.
    pub fn tool(name: &str, input: Value) -> Self {
        Self::ToolUse {
            name: name.to_owned(),
            input,
        }
    }

    /// A call of [`STRUCTURED_OUTPUT`] with `input`.
    pub fn structured(input: Value) -> Self {
        Self::tool(STRUCTURED_OUTPUT, input)
    }
}

/// The tokens that an answer states.
#[derive(Clone, Copy, Debug)]
pub struct TokenUsage {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

impl Default for TokenUsage {
    fn default() -> Self {
        Self {
            input_tokens: 100,
            output_tokens: 20,
        }
    }
}

/// An error in place of an answer.
#[derive(Clone, Debug)]
pub struct InjectedError {
    /// The requests it is for, counted from 0 over the life of the server; all
    /// when `None`.
    pub at: Option<usize>,
    /// The HTTP status.
    pub status: u16,
    /// The error's type, `invalid_request_error` for instance.
    pub kind: String,
    /// The error's message.
    pub message: String,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body; `null` where it is no JSON.
    pub body: Value,
}

/// The running server, on a thread of its own. Ends when dropped.
#[derive(Debug)]
pub struct ModelApi {
    host: Host,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    requests: Mutex<Vec<RecordedRequest>>,
}

impl ModelApi {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Errors
    /// There is no port, or no thread, to be had.
    pub fn start(script: Script) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            script,
            requests: Mutex::default(),
        });
        let router = Router::new()
            .fallback(any(answer))
            // Claude Code sends its whole instructions with each request.
            .layer(axum::extract::DefaultBodyLimit::max(64 * 1024 * 1024))
            .with_state(Arc::clone(&shared));
        Ok(Self {
            host: Host::start("model-api", router)?,
            shared,
        })
    }

    /// The base URL, without a path: what `ANTHROPIC_BASE_URL` takes.
    pub fn url(&self) -> String {
        self.host.url()
    }

    /// The variables that lead Claude Code here, with a key that is none.
    pub fn env(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("ANTHROPIC_BASE_URL".to_owned(), self.url()),
            (
                "ANTHROPIC_API_KEY".to_owned(),
                "sk-ant-not-a-real-key".to_owned(),
            ),
        ])
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.lock().clone()
    }

    /// The requests to `/v1/messages` so far, in order.
    pub fn messages(&self) -> Vec<RecordedRequest> {
        self.requests()
            .into_iter()
            .filter(RecordedRequest::is_message)
            .collect()
    }
}

impl RecordedRequest {
    fn is_message(&self) -> bool {
        self.method == "POST" && self.path == "/v1/messages"
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<RecordedRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request; gives its number among those to `/v1/messages`.
    fn record(&self, request: RecordedRequest) -> usize {
        let mut requests = self.lock();
        let number = requests
            .iter()
            .filter(|earlier| earlier.is_message())
            .count();
        requests.push(request);
        number
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let raw = String::from_utf8_lossy(&body).into_owned();
    let request = RecordedRequest {
        method: method.to_string(),
        path: uri.path().to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        body: serde_json::from_str(&raw).unwrap_or(Value::Null),
    };
    let is_message = request.is_message();
    let content = request.body.clone();
    let number = shared.record(request);
    if method == Method::HEAD {
        return StatusCode::OK.into_response();
    }
    if method == Method::POST && uri.path() == "/v1/messages/count_tokens" {
        return json_response(
            StatusCode::OK,
            &json!({"input_tokens": shared.script.usage.input_tokens}),
        );
    }
    if !is_message {
        return error(
            StatusCode::NOT_FOUND,
            "not_found_error",
            &format!("there is no {method} {}", uri.path()),
        );
    }
    if !shared.script.delay.is_zero() {
        tokio::time::sleep(shared.script.delay).await;
    }
    let injected = shared
        .script
        .errors
        .iter()
        .find(|error| error.at.is_none_or(|at| at == number));
    if let Some(injected) = injected {
        let status =
            StatusCode::from_u16(injected.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = error(status, &injected.kind, &injected.message);
        if let Some(seconds) = shared.script.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        return response;
    }
    if !content.get("messages").is_some_and(Value::is_array) {
        return error(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            "messages: Field required",
        );
    }
    let turn = shared.script.turn(&raw, &content);
    let message = message(&content, &turn, shared.script.usage, number);
    if content.get("stream").and_then(Value::as_bool) == Some(true) {
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .header("request-id", format!("req_{number:08}"))
            .body(Body::from(stream(&message)))
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    } else {
        json_response(StatusCode::OK, &message)
    }
}

/// The whole message that answers a request.
fn message(request: &Value, turn: &Turn, usage: TokenUsage, number: usize) -> Value {
    let mut stop_reason = "end_turn";
    let content: Vec<Value> = turn
        .iter()
        .enumerate()
        .map(|(index, block)| match block {
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::ToolUse { name, input } => {
                stop_reason = "tool_use";
                json!({
                    "type": "tool_use",
                    "id": format!("toolu_{number:08}{index:04}"),
                    "name": name,
                    "input": input,
                })
            }
        })
        .collect();
    json!({
        "id": format!("msg_{number:08}"),
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": null,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    })
}

/// The message as server-sent events.
fn stream(message: &Value) -> String {
    let mut events = String::new();
    let mut event = |mut data: Value, kind: &str| {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), kind.into());
        }
        events.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
    };
    let mut start = message.clone();
    if let Some(members) = start.as_object_mut() {
        members.insert("content".to_owned(), json!([]));
        members.insert("stop_reason".to_owned(), Value::Null);
    }
    if let Some(written) = start.pointer_mut("/usage/output_tokens") {
        *written = json!(1);
    }
    event(json!({"message": start}), "message_start");
    let blocks = message
        .get("content")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for (index, block) in blocks.enumerate() {
        let mut opened = block.clone();
        let delta = match block.get("text") {
            Some(text) => {
                opened["text"] = json!("");
                json!({"type": "text_delta", "text": text})
            }
            None => {
                opened["input"] = json!({});
                json!({
                    "type": "input_json_delta",
                    "partial_json": block.get("input").unwrap_or(&Value::Null).to_string(),
                })
            }
        };
        event(
            json!({"index": index, "content_block": opened}),
            "content_block_start",
        );
        event(
            json!({"index": index, "delta": delta}),
            "content_block_delta",
        );
        event(json!({"index": index}), "content_block_stop");
    }
    let end = json!({
        "delta": {"stop_reason": message.get("stop_reason"), "stop_sequence": null},
        "usage": message.get("usage"),
    });
    event(end, "message_delta");
    event(json!({}), "message_stop");
    events
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    json_response(
        status,
        &json!({"type": "error", "error": {"type": kind, "message": message}}),
    )
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
