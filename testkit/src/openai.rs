//! A model API: answers as OpenAI's does, `POST /v1/responses` (streamed or not)
//! and `POST /v1/chat/completions` (streamed or not), with replies that the test
//! wrote down.
//!
//! Replies are given in order, one a request, whatever the request holds; past
//! the last one, the last is repeated. A rule takes certain requests out of that
//! order and gives them replies of its own.

use crate::anthropic::RecordedRequest;
use crate::host::Host;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt as _;
use futures::stream;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The key that [`OpenAi::env`] gives.
pub const KEY: &str = "sk-not-a-real-key-of-openai";

/// What the model says.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The replies, in order.
    pub replies: Vec<Reply>,
    /// Replies for certain requests; the first rule that fits is taken.
    pub rules: Vec<Rule>,
}

impl Script {
    /// A script with these replies and nothing else.
    pub fn of(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self {
            replies: replies.into_iter().collect(),
            rules: Vec::new(),
        }
    }

    /// Adds a rule: a request whose body contains `contains` gets these replies,
    /// in an order of their own.
    #[must_use]
    pub fn when(mut self, contains: &str, replies: impl IntoIterator<Item = Reply>) -> Self {
        self.rules.push(Rule {
            contains: contains.to_owned(),
            replies: replies.into_iter().collect(),
        });
        self
    }
}

/// Replies for the requests whose raw body contains a text.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The text, as it stands in the JSON of the request.
    pub contains: String,
    /// The replies.
    pub replies: Vec<Reply>,
}

/// The reply to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    what: What,
    usage: TokenUsage,
    after: Duration,
}

#[derive(Clone, Debug)]
enum What {
    Parts(Vec<Part>),
    Error {
        status: u16,
        kind: String,
        message: String,
    },
    Hang,
    Stall,
    Cut(Vec<Part>),
    Failed {
        code: String,
        message: String,
    },
}

impl Reply {
    fn plain(what: What) -> Self {
        Self {
            what,
            usage: TokenUsage::default(),
            after: Duration::ZERO,
        }
    }

    /// An answer of these parts.
    pub fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self::plain(What::Parts(parts.into_iter().collect()))
    }

    /// An answer that is plain text.
    pub fn text(text: &str) -> Self {
        Self::of([Part::Text(text.to_owned())])
    }

    /// An answer that calls the function `name` with `input`.
    pub fn call(name: &str, input: Value) -> Self {
        Self::of([Part::call(name, input)])
    }

    /// An error with this HTTP status. Its `type` is the one OpenAI gives there.
    pub fn error(status: u16, message: &str) -> Self {
        let kind = match status {
            400 | 401 | 403 | 404 => "invalid_request_error",
            429 => "rate_limit_error",
            _ => "server_error",
        };
        Self::plain(What::Error {
            status,
            kind: kind.to_owned(),
            message: message.to_owned(),
        })
    }

    /// No byte, ever.
    pub fn hang() -> Self {
        Self::plain(What::Hang)
    }

    /// The beginning of a stream, and then nothing. A request without a stream
    /// gets no byte.
    pub fn stall() -> Self {
        Self::plain(What::Stall)
    }

    /// An answer whose stream breaks off before it says that it is complete.
    pub fn cut(parts: impl IntoIterator<Item = Part>) -> Self {
        Self::plain(What::Cut(parts.into_iter().collect()))
    }

    /// An answer that fails after it began: `response.failed` in the Responses
    /// API, an `error` chunk in a stream of chat completions.
    pub fn failed(code: &str, message: &str) -> Self {
        Self::plain(What::Failed {
            code: code.to_owned(),
            message: message.to_owned(),
        })
    }

    /// States these tokens. `cached` are part of `input`.
    #[must_use]
    pub fn using(mut self, input: u64, cached: u64, output: u64) -> Self {
        self.usage = TokenUsage {
            input,
            cached,
            output,
        };
        self
    }

    /// Takes so long to begin.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// A call of a function.
    Call {
        /// Its name.
        name: String,
        /// Its arguments as the model writes them: JSON, when it makes no mistake.
        arguments: String,
    },
    /// A call of a tool that takes plain text (`apply_patch`); Responses only.
    Custom {
        /// Its name.
        name: String,
        /// The text.
        input: String,
    },
}

impl Part {
    /// Plain text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A call of the function `name` with `input`.
    pub fn call(name: &str, input: Value) -> Self {
        Self::Call {
            name: name.to_owned(),
            arguments: input.to_string(),
        }
    }

    /// A call of the tool `name` that takes plain text.
    pub fn custom(name: &str, input: &str) -> Self {
        Self::Custom {
            name: name.to_owned(),
            input: input.to_owned(),
        }
    }
}

/// The tokens that an answer states.
#[derive(Clone, Copy, Debug)]
pub struct TokenUsage {
    /// Tokens read.
    pub input: u64,
    /// Those of them that came from the cache.
    pub cached: u64,
    /// Tokens written.
    pub output: u64,
}

impl Default for TokenUsage {
    fn default() -> Self {
        Self {
            input: 100,
            cached: 0,
            output: 20,
        }
    }
}

/// The running server, on a thread of its own. Ends when dropped.
#[derive(Debug)]
pub struct OpenAi {
    host: Host,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    seen: Mutex<Seen>,
}

/// What came in so far.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<RecordedRequest>,
    /// Replies given, by rule; those in order stand under the number of rules.
    given: BTreeMap<usize, usize>,
}

impl OpenAi {
    /// Starts it on a free port of the loopback interface.
    ///
    /// # Errors
    /// There is no port, or no thread, to be had.
    pub fn start(script: Script) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            script,
            seen: Mutex::default(),
        });
        let router = Router::new()
            .fallback(any(answer))
            // Agents send their whole instructions with each request.
            .layer(axum::extract::DefaultBodyLimit::max(64 * 1024 * 1024))
            .with_state(Arc::clone(&shared));
        Ok(Self {
            host: Host::start("openai", router)?,
            shared,
        })
    }

    /// The base URL, ending in `/v1`: what `OPENAI_BASE_URL` takes.
    pub fn url(&self) -> String {
        format!("{}/v1", self.host.url())
    }

    /// The variables that lead a client here, with a key that is none.
    pub fn env(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("OPENAI_BASE_URL".to_owned(), self.url()),
            ("OPENAI_API_KEY".to_owned(), KEY.to_owned()),
        ])
    }

    /// Every request for an answer so far, in order.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared
            .lock()
            .requests
            .iter()
            .filter(|request| asks(&request.method, &request.path).is_some())
            .cloned()
            .collect()
    }

    /// Every request so far, in order, those included that ask for something
    /// else than an answer.
    pub fn all_requests(&self) -> Vec<RecordedRequest> {
        self.shared.lock().requests.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply to a request with this body, and its number.
    fn next(&self, raw: &str) -> (Reply, usize) {
        let mut seen = self.lock();
        let number = seen.given.values().sum();
        let rules = &self.script.rules;
        let rule = rules
            .iter()
            .position(|rule| raw.contains(&rule.contains))
            .unwrap_or(rules.len());
        let replies = rules
            .get(rule)
            .map_or(&self.script.replies, |rule| &rule.replies);
        let given = seen.given.entry(rule).or_default();
        let reply = replies
            .get(*given)
            .or_else(|| replies.last())
            .cloned()
            .unwrap_or_else(|| Reply::text("There is nothing to say."));
        *given += 1;
        (reply, number)
    }
}

/// The two ways to ask.
#[derive(Clone, Copy)]
enum Api {
    Responses,
    Chat,
}

/// Which API a request asks, if it asks for an answer at all.
fn asks(method: &str, path: &str) -> Option<Api> {
    match (method, path) {
        ("POST", "/v1/responses") => Some(Api::Responses),
        ("POST", "/v1/chat/completions") => Some(Api::Chat),
        _ => None,
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
    let request: Value = serde_json::from_str(&raw).unwrap_or(Value::Null);
    let headers: BTreeMap<String, String> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let is_codex = headers
        .get("user-agent")
        .is_some_and(|agent| agent.contains("codex"));
    shared.lock().requests.push(RecordedRequest {
        method: method.to_string(),
        path: uri.path().to_owned(),
        headers,
        body: request.clone(),
    });
    let Some(api) = asks(method.as_str(), uri.path()) else {
        if method == Method::GET && uri.path() == "/v1/models" {
            // Codex asks for a list of its own under the same path.
            let models = if is_codex {
                json!({"models": []})
            } else {
                json!({"object": "list", "data": []})
            };
            return json_response(StatusCode::OK, &models);
        }
        return error(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            &format!("there is no {method} {}", uri.path()),
        );
    };
    let asked = match api {
        Api::Responses => "input",
        Api::Chat => "messages",
    };
    if request.get(asked).is_none_or(Value::is_null) {
        return error(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            &format!("Missing required parameter: '{asked}'."),
        );
    }
    let (reply, number) = shared.next(&raw);
    if !reply.after.is_zero() {
        tokio::time::sleep(reply.after).await;
    }
    let streamed = request.get("stream").and_then(Value::as_bool) == Some(true);
    match &reply.what {
        What::Hang => std::future::pending().await,
        What::Stall if !streamed => std::future::pending().await,
        What::Error {
            status,
            kind,
            message,
        } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            error(status, kind, message)
        }
        What::Failed { message, .. } if !streamed => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
        }
        _ => match api {
            Api::Responses => responses(&request, &reply, number, streamed),
            Api::Chat => chat(&request, &reply, number, streamed),
        },
    }
}

impl What {
    fn parts(&self) -> &[Part] {
        match self {
            Self::Parts(parts) | Self::Cut(parts) => parts,
            _ => &[],
        }
    }
}

/// An answer of the Responses API.
fn responses(request: &Value, reply: &Reply, number: usize, streamed: bool) -> Response {
    let items: Vec<Value> = reply
        .what
        .parts()
        .iter()
        .enumerate()
        .map(|(index, part)| item(part, number, index))
        .collect();
    let TokenUsage {
        input,
        cached,
        output,
    } = reply.usage;
    let begun = json!({
        "id": format!("resp_{number:08}"),
        "object": "response",
        "created_at": 1_780_000_000,
        "model": request.get("model"),
        "status": "in_progress",
        "output": [],
    });
    let with = |status: &str, more: Value| {
        let mut response = begun.clone();
        response["status"] = status.into();
        if let (Some(members), Value::Object(more)) = (response.as_object_mut(), more) {
            members.extend(more);
        }
        response
    };
    let completed = with(
        "completed",
        json!({
            "output": items,
            "usage": {
                "input_tokens": input,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": input + output,
            },
        }),
    );
    if !streamed {
        return json_response(StatusCode::OK, &completed);
    }
    let mut events = Events::default();
    events.push("response.created", json!({"response": begun}));
    match &reply.what {
        What::Stall => return events.stall(),
        What::Failed { code, message } => {
            let failed = with(
                "failed",
                json!({"error": {"code": code, "message": message}}),
            );
            events.push("response.failed", json!({"response": failed}));
            return events.end();
        }
        _ => {}
    }
    for (index, item) in items.iter().enumerate() {
        let text = item.pointer("/content/0/text").and_then(Value::as_str);
        let mut added = item.clone();
        added["status"] = "in_progress".into();
        if text.is_some() {
            added["content"] = json!([]);
        }
        events.push(
            "response.output_item.added",
            json!({"output_index": index, "item": added}),
        );
        for piece in text.map(halves).into_iter().flatten() {
            events.push(
                "response.output_text.delta",
                json!({"item_id": item.get("id"), "output_index": index, "content_index": 0, "delta": piece}),
            );
        }
        events.push(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
        );
    }
    if !matches!(reply.what, What::Cut(_)) {
        events.push("response.completed", json!({"response": completed}));
    }
    events.end()
}

/// A part as an item of the Responses API.
fn item(part: &Part, number: usize, index: usize) -> Value {
    let id = format!("{number:08}{index:04}");
    match part {
        Part::Text(text) => json!({
            "type": "message", "id": format!("msg_{id}"), "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Part::Call { name, arguments } => json!({
            "type": "function_call", "id": format!("fc_{id}"), "call_id": format!("call_{id}"),
            "name": name, "arguments": arguments, "status": "completed",
        }),
        Part::Custom { name, input } => json!({
            "type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": format!("call_{id}"),
            "name": name, "input": input, "status": "completed",
        }),
    }
}

/// An answer of the Chat Completions API.
fn chat(request: &Value, reply: &Reply, number: usize, streamed: bool) -> Response {
    let mut text = String::new();
    let mut calls = Vec::new();
    for (index, part) in reply.what.parts().iter().enumerate() {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Call { name, arguments }
            | Part::Custom {
                name,
                input: arguments,
            } => calls.push(json!({
                "id": format!("call_{number:08}{index:04}"),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })),
        }
    }
    let finish = if calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    let usage = json!({
        "prompt_tokens": reply.usage.input,
        "completion_tokens": reply.usage.output,
        "total_tokens": reply.usage.input + reply.usage.output,
        "prompt_tokens_details": {"cached_tokens": reply.usage.cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    });
    let whole = |object: &str, choices: Value| {
        json!({
            "id": format!("chatcmpl-{number:08}"),
            "object": object,
            "created": 1_780_000_000,
            "model": request.get("model"),
            "choices": choices,
        })
    };
    if !streamed {
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        let content = if text.is_empty() {
            Value::Null
        } else {
            text.into()
        };
        message.insert("content".to_owned(), content);
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), calls.into());
        }
        let choice = json!([{"index": 0, "message": message, "finish_reason": finish}]);
        let mut answer = whole("chat.completion", choice);
        answer["usage"] = usage;
        return json_response(StatusCode::OK, &answer);
    }
    let mut events = Events::default();
    let chunk = |delta: Value, finish: Value| {
        let choice = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        whole("chat.completion.chunk", choice)
    };
    events.data(&chunk(
        json!({"role": "assistant", "content": ""}),
        Value::Null,
    ));
    match &reply.what {
        What::Stall => return events.stall(),
        What::Failed { code, message } => {
            events.data(&json!({
                "error": {"message": message, "type": "server_error", "param": null, "code": code},
            }));
            return events.end();
        }
        _ => {}
    }
    for piece in halves(&text) {
        events.data(&chunk(json!({"content": piece}), Value::Null));
    }
    for (index, call) in calls.iter().enumerate() {
        let mut first = call.clone();
        first["index"] = index.into();
        let arguments = call.pointer("/function/arguments").and_then(Value::as_str);
        first["function"]["arguments"] = "".into();
        events.data(&chunk(json!({"tool_calls": [first]}), Value::Null));
        for piece in arguments.map(halves).into_iter().flatten() {
            let rest = json!({"index": index, "function": {"arguments": piece}});
            events.data(&chunk(json!({"tool_calls": [rest]}), Value::Null));
        }
    }
    if matches!(reply.what, What::Cut(_)) {
        return events.end();
    }
    events.data(&chunk(json!({}), finish.into()));
    let asked = request.pointer("/stream_options/include_usage");
    if asked.and_then(Value::as_bool) == Some(true) {
        let mut last = whole("chat.completion.chunk", json!([]));
        last["usage"] = usage;
        events.data(&last);
    }
    events.text.push_str("data: [DONE]\n\n");
    events.end()
}

/// A text in two pieces, so that whoever reads them has to put them together.
fn halves(text: &str) -> impl Iterator<Item = &str> {
    let mut middle = text.len() / 2;
    while !text.is_char_boundary(middle) {
        middle += 1;
    }
    let (first, second) = text.split_at(middle);
    [first, second]
        .into_iter()
        .filter(|piece| !piece.is_empty())
}

/// Server-sent events.
#[derive(Default)]
struct Events {
    text: String,
    sequence: u64,
}

impl Events {
    /// Adds an event with a name, as the Responses API has them.
    fn push(&mut self, kind: &str, mut data: Value) {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), kind.into());
            members.insert("sequence_number".to_owned(), self.sequence.into());
        }
        self.sequence += 1;
        self.text
            .push_str(&format!("event: {kind}\ndata: {data}\n\n"));
    }

    /// Adds an event without a name, as Chat Completions has them.
    fn data(&mut self, data: &Value) {
        self.text.push_str(&format!("data: {data}\n\n"));
    }

    fn end(self) -> Response {
        Self::response(Body::from(self.text))
    }

    /// Sends what there is and leaves the stream open.
    fn stall(self) -> Response {
        let first = stream::iter([Ok::<_, Infallible>(self.text)]);
        Self::response(Body::from_stream(first.chain(stream::pending())))
    }

    fn response(body: Body) -> Response {
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(body)
            .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
    }
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    json_response(
        status,
        &json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
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
