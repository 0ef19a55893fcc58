//! Model APIs for sandboxes that have no keys of their own: takes a request, puts the
//! key on, hands it on and passes the answer back as it comes. What calls use is read
//! out of the answers, listed, and held against the attempt's ceilings.
//!
//! Only what asks a model is handed on; the rest of an API could read or spend what is
//! the account's, and would not be counted.

mod account;
mod apis;
mod usage;

pub use account::Terms;

use super::{Guest, refusals};
use account::{Account, Accounts, Call, LIST};
use apis::{Api, ApisError, Form, PREFIX, Place, apis, stand_in};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use loopy_contract::manifest::{ModelKeys, Sandbox};
use loopy_contract::price::Price;
use loopy_engine::ports::{PortError, Secrets};
use reqwest::Url;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;
use usage::Reading;

/// Bytes of the longest request: twice what the APIs themselves take.
const LONGEST_BODY: usize = 64 * 1024 * 1024;
/// How long a sandbox may take over one.
const BODY_TIME: Duration = Duration::from_secs(120);
/// How long a connection to an API may take.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long an API may be silent. The tools have limits of their own, which are
/// shorter; this one is for a sandbox that vanished.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// Pieces of an answer on their way.
const PIECES: usize = 16;

/// Headers that are of one connection, or that are the proxy's own business.
const NOT_PASSED: [HeaderName; 16] = [
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static(API_KEY),
];
const API_KEY: &str = "x-api-key";

/// There is no client to ask APIs with.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client for model APIs: {0}")]
pub struct SetupError(reqwest::Error);

/// The way to model APIs.
pub struct Models {
    secrets: Arc<dyn Secrets>,
    http: reqwest::Client,
    accounts: Accounts,
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// An answer, which costs tokens.
    Answer,
    /// Something that is free: a count, a list of models.
    Free,
}

/// Why a request is not handed on, or has no answer.
struct Refusal {
    status: StatusCode,
    /// As the API would say it.
    kind: &'static str,
    why: String,
    /// Whether it is one of those that the sandbox's file lists.
    noted: bool,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, why: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            why: why.into(),
            noted: false,
        }
    }

    fn bad(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", why)
    }

    fn ours(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "api_error", why)
    }

    fn forbidden(why: impl Into<String>) -> Self {
        Self {
            noted: true,
            ..Self::new(StatusCode::FORBIDDEN, "permission_error", why)
        }
    }

    /// As the API writes its errors, so that its clients show the reason.
    fn response(&self, form: Form) -> Response<Answer> {
        let message = format!("loopy: {}", self.why);
        let body = match form {
            Form::Anthropic => json!({
                "type": "error", "error": {"type": self.kind, "message": message},
            }),
            Form::OpenAi => json!({
                "error": {"message": message, "type": self.kind, "param": null, "code": null},
            }),
        };
        let mut response = Response::new(Answer::Whole(Some(body.to_string().into())));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

/// The body of an answer.
enum Answer {
    Whole(Option<Bytes>),
    /// In pieces, as they come; the connection breaks off after an error.
    Pieces(mpsc::Receiver<Result<Bytes, Broken>>),
}

/// The API broke its answer off.
#[derive(Debug, thiserror::Error)]
#[error("the model API broke its answer off")]
struct Broken;

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Models {
    /// With the keys that these secrets hold.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(secrets: Arc<dyn Secrets>) -> Result<Self, SetupError> {
        let http = reqwest::Client::builder()
            // A redirect would carry the key to a place nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE)
            .build()
            .map_err(SetupError)?;
        Ok(Self {
            secrets,
            http,
            accounts: Accounts::default(),
        })
    }

    /// Whether a path is for this.
    pub(crate) fn serves(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Takes the keys out of a sandbox's variables, and leads them to `proxy`, its
    /// address as a URL without a path.
    ///
    /// # Errors
    /// A sentence that names the variable with which that cannot be done.
    pub(crate) fn keep(env: &mut BTreeMap<String, String>, proxy: &str) -> Result<(), String> {
        let apis = apis(env).map_err(|error| error.to_string())?;
        stand_in(env, &apis, proxy);
        Ok(())
    }

    /// Whether the keys of this sandbox can be kept out of it; if not, why.
    ///
    /// # Errors
    /// Its variables cannot be read.
    pub(crate) async fn cannot(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<Option<String>, PortError> {
        let env = self.secrets.sandbox_env(name, sandbox).await?;
        Ok(apis(&env).err().map(|error| error.to_string()))
    }

    /// The sandbox is gone.
    pub(crate) fn close(&self, sandbox: &str) {
        self.accounts.close(sandbox);
    }

    /// Serves a request of which these bytes came already, its head among them.
    pub(crate) async fn serve(
        self: Arc<Self>,
        client: TcpStream,
        read: Vec<u8>,
        guest: Arc<Guest>,
    ) {
        let (reader, writer) = client.into_split();
        let stream = tokio::io::join(Cursor::new(read).chain(reader), writer);
        let answer = service_fn(|request| {
            let (this, guest) = (Arc::clone(&self), Arc::clone(&guest));
            async move { Ok::<_, Infallible>(this.answer(request, &guest).await) }
        });
        let served = http1::Builder::new()
            // As for all requests: one, and the next one is looked at anew.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            // The sandbox hung up, or the API did, which it is to see.
            tracing::debug!(sandbox = guest.name, %error, "a call of a model broke off");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        guest: &Guest,
    ) -> Response<Answer> {
        let what = format!("{} {}", request.method(), request.uri().path());
        // Until the API is known.
        let mut form = Form::OpenAi;
        match self.hand_on(request, guest, &mut form).await {
            Ok(response) => response,
            Err(refusal) => {
                if refusal.noted {
                    let what: String = what.chars().take(super::LONGEST_NAME).collect();
                    refusals::warn_and_note(guest, &what, &refusal.why).await;
                }
                refusal.response(form)
            }
        }
    }

    async fn hand_on(
        &self,
        request: Request<Incoming>,
        guest: &Guest,
        form: &mut Form,
    ) -> Result<Response<Answer>, Refusal> {
        let Some(terms) = &guest.models else {
            return Err(Refusal::forbidden(
                "the keys of models are in this sandbox itself; nothing is added here",
            ));
        };
        let path = request.uri().path();
        let (name, rest) = path
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('/'))
            .unwrap_or((path, ""));
        if name == "anthropic" {
            *form = Form::Anthropic;
        }
        let api = self.api(terms, name).await?;
        *form = api.form;
        let rest = rest.strip_prefix("v1/").unwrap_or(rest).to_owned();
        let Some(asks) = asks(api.form, request.method(), &rest) else {
            return Err(Refusal::forbidden(
                "the proxy hands on what asks a model, and nothing else of its API",
            ));
        };
        if request.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request_error",
                "the proxy reads requests, so they have to be sent uncompressed",
            ));
        }
        let account = self
            .accounts
            .of(&guest.name, &guest.folder, terms)
            .map_err(|error| {
                Refusal::ours(format!("what the step has used cannot be read: {error}"))
            })?;
        let url = url(&api, &rest, request.uri().query());
        let headers = headers(request.headers(), &api);
        let method = request.method().clone();
        let body = match timeout(BODY_TIME, whole(request.into_body())).await {
            Ok(body) => body?,
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "invalid_request_error",
                    "the request did not come to its end",
                ));
            }
        };
        let model = match asks {
            Asks::Answer => Some(model(&body)?),
            Asks::Free => None,
        };
        let mut call = Call::new(api.name(), &rest, model.as_deref());
        let mut place = None;
        let mut price = None;
        if let Some(model) = &model {
            price = account.price(&call.api, model);
            // Nobody closes it.
            place = Arc::clone(&account.places).acquire_owned().await.ok();
            if let Some(why) = account.refusal(model, price) {
                // A status after which no client tries again.
                let refusal = Refusal::bad(why);
                call.over(
                    refusal.status.as_u16(),
                    Duration::ZERO,
                    Some(refusal.why.as_str()),
                );
                book(&account, call).await;
                return Err(refusal);
            }
        }
        let asked = body.len() as u64;
        let request = self.http.request(method, url.clone()).headers(headers);
        let underway = Underway {
            call,
            begun: Instant::now(),
            account,
            asks,
            form: api.form,
            asked,
            price,
            _place: place,
        };
        let (head, answered) = oneshot::channel();
        // A task of its own: when the sandbox hangs up, what was used is still counted.
        tokio::spawn(underway.run(request.body(body), head));
        answered
            .await
            .unwrap_or_else(|_| Err(Refusal::ours("the call was broken off")))
            .map_err(|mut refusal| {
                let host = url.host_str().unwrap_or_default();
                refusal.why = format!("{host} cannot be reached: {}", refusal.why);
                refusal
            })
    }

    /// The API that the sandbox's variables name so, with its keys as they are now.
    async fn api(&self, terms: &Terms, name: &str) -> Result<Api, Refusal> {
        let sandbox = Sandbox {
            provider: super::super::DOCKER.to_owned(),
            image: BTreeMap::new(),
            network: Vec::new(),
            env_file: terms.env_file.clone(),
            repos: Vec::new(),
            model_keys: ModelKeys::Proxy,
        };
        let env = self.secrets.sandbox_env(&terms.sandbox, &sandbox).await;
        let env = env.map_err(|error| Refusal::ours(format!("there is no key: {error}")))?;
        let found = apis(&env).map_err(|error: ApisError| Refusal::ours(error.to_string()))?;
        found
            .into_iter()
            .find(|api| api.name() == name)
            .ok_or_else(|| {
                Refusal::forbidden("the sandbox's env_file has no variables of this model API")
            })
    }
}

/// What a path of an API asks for, if it may be asked.
fn asks(form: Form, method: &Method, path: &str) -> Option<Asks> {
    let is_list = || {
        let id = path
            .strip_prefix("models")?
            .strip_prefix('/')
            .unwrap_or("-");
        // One part, which no URL takes for anything else.
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_:@".contains(&c) || c == b'.';
        let fits = id.bytes().all(plain) && id.bytes().any(|c| c != b'.');
        let alone = path == "models" || path.starts_with("models/");
        (fits && alone).then_some(Asks::Free)
    };
    match (form, method.as_str(), path) {
        (Form::Anthropic, "POST", "messages") => Some(Asks::Answer),
        (Form::Anthropic, "POST", "messages/count_tokens") => Some(Asks::Free),
        (Form::OpenAi, "POST", "responses" | "chat/completions") => Some(Asks::Answer),
        (_, "GET", _) => is_list(),
        _ => None,
    }
}

/// Where a request goes.
fn url(api: &Api, path: &str, query: Option<&str>) -> Url {
    let mut url = api.base.clone();
    let base = url.path().trim_end_matches('/');
    let path = format!("{base}/{path}");
    url.set_path(&path);
    if query.is_some() {
        url.set_query(query);
    }
    url
}

/// The headers of a request as the API gets them, with its key.
fn headers(asked: &HeaderMap, api: &Api) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in asked {
        if !NOT_PASSED.contains(name) {
            headers.append(name, value.clone());
        }
    }
    // The answer is read here, so it must not be compressed.
    let plain = HeaderValue::from_static("identity");
    headers.insert(header::ACCEPT_ENCODING, plain);
    let shown = |place: Place| match place {
        Place::ApiKey => asked.get(API_KEY),
        Place::Bearer => asked.get(header::AUTHORIZATION),
    };
    let written = |place: Place, key: &str| match place {
        Place::ApiKey => key.to_owned(),
        Place::Bearer => format!("Bearer {key}"),
    };
    let meant: Vec<_> = api
        .keys
        .iter()
        .filter(|key| {
            let placeholder = written(key.place, &key.placeholder());
            shown(key.place).is_some_and(|value| value.as_bytes() == placeholder.as_bytes())
        })
        .collect();
    // A program that shows none gets the first.
    let meant = match meant.as_slice() {
        [] => api.keys.first().into_iter().collect(),
        _ => meant,
    };
    for key in meant {
        let name = match key.place {
            Place::ApiKey => HeaderName::from_static(API_KEY),
            Place::Bearer => header::AUTHORIZATION,
        };
        match HeaderValue::from_str(&written(key.place, &key.value)) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            Err(_) => tracing::warn!("{} cannot stand in a header", key.variable),
        }
    }
    headers
}

/// Reads a body to its end.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Refusal> {
    let too_long = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!("a request has {LONGEST_BODY} bytes at most"),
        )
    };
    let announced = body.size_hint().lower();
    if announced > LONGEST_BODY as u64 {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Refusal::bad(format!("it broke off: {error}")))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > LONGEST_BODY {
                return Err(too_long());
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// The model that a request asks.
fn model(body: &[u8]) -> Result<String, Refusal> {
    #[derive(serde::Deserialize)]
    struct Asked {
        model: String,
        #[serde(default)]
        background: Option<Value>,
    }
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad(format!("the request names no model: {error}")))?;
    if asked
        .background
        .is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
    {
        return Err(Refusal::bad(
            "an answer in the background cannot be counted; ask without `background`",
        ));
    }
    Ok(asked.model)
}

/// A call that is handed on.
struct Underway {
    call: Call,
    begun: Instant,
    account: Arc<Account>,
    asks: Asks,
    form: Form,
    /// Bytes of the request.
    asked: u64,
    price: Option<Price>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Underway {
    async fn run(
        mut self,
        request: reqwest::RequestBuilder,
        mut head: oneshot::Sender<Result<Response<Answer>, Refusal>>,
    ) {
        let sent = tokio::select! {
            sent = request.send() => sent,
            () = head.closed() => {
                // Sent, most likely, and at work.
                let reading = Reading::new(self.form, true);
                return self.over(0, Some(reading), Some("the sandbox hung up")).await;
            }
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                let why = causes(&error);
                let refusal = Refusal::ours(why.clone());
                let status = refusal.status.as_u16();
                // Nobody may be left to hear it.
                let _gone = head.send(Err(refusal));
                let reading = (!error.is_connect()).then(|| Reading::new(self.form, true));
                return self.over(status, reading, Some(&why)).await;
            }
        };
        let status = response.status();
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let (pieces, body) = mpsc::channel(PIECES);
        let mut passed = Response::new(Answer::Pieces(body));
        *passed.status_mut() = status;
        for (name, value) in response.headers() {
            if !NOT_PASSED.contains(name) {
                passed.headers_mut().append(name, value.clone());
            }
        }
        let mut problem = None;
        if head.send(Ok(passed)).is_err() {
            problem = Some("the sandbox hung up");
        }
        let mut reading = Reading::new(self.form, is_stream);
        while problem.is_none() {
            let piece = tokio::select! {
                piece = response.chunk() => piece,
                () = pieces.closed() => {
                    problem = Some("the sandbox hung up");
                    break;
                }
            };
            match piece {
                Ok(Some(piece)) => {
                    reading.feed(&piece);
                    if pieces.send(Ok(piece)).await.is_err() {
                        problem = Some("the sandbox hung up");
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("an answer broke off: {}", causes(&error));
                    let _gone = pieces.send(Err(Broken)).await;
                    problem = Some("the API broke its answer off");
                }
            }
        }
        // What an API refuses it does not charge.
        let reading = status.is_success().then_some(reading);
        self.over(status.as_u16(), reading, problem).await;
    }

    /// Counts and lists it.
    async fn over(&mut self, status: u16, reading: Option<Reading>, problem: Option<&str>) {
        if self.asks == Asks::Answer
            && let Some(reading) = reading
        {
            let took = reading.end(self.asked);
            let answered = took.model.as_deref();
            let price = self
                .price
                .or_else(|| answered.and_then(|model| self.account.price(&self.call.api, model)));
            self.call.took(&took, price);
        }
        self.call.over(status, self.begun.elapsed(), problem);
        book(&self.account, self.call.clone()).await;
    }
}

async fn book(account: &Arc<Account>, call: Call) {
    let account = Arc::clone(account);
    let booked = tokio::task::spawn_blocking(move || account.book(&call)).await;
    if let Err(error) = booked
        .map_err(std::io::Error::other)
        .and_then(|booked| booked)
    {
        tracing::warn!(%error, "a call of a model is not listed in {LIST}");
    }
}

/// An error with what caused it, without the URL: it may hold a key.
fn causes(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "no connection".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_what_asks_a_model_is_handed_on() {
        let asked = |form, method: &str, path| {
            asks(form, &Method::from_bytes(method.as_bytes()).unwrap(), path)
        };
        for (form, method, path, what) in [
            (Form::Anthropic, "POST", "messages", Asks::Answer),
            (Form::Anthropic, "POST", "messages/count_tokens", Asks::Free),
            (Form::Anthropic, "GET", "models/claude-x", Asks::Free),
            (Form::OpenAi, "POST", "responses", Asks::Answer),
            (Form::OpenAi, "POST", "chat/completions", Asks::Answer),
            (Form::OpenAi, "GET", "models", Asks::Free),
            (Form::OpenAi, "GET", "models/gpt-4.1", Asks::Free),
        ] {
            assert_eq!(asked(form, method, path), Some(what), "{path}");
        }
        for (form, method, path) in [
            (Form::Anthropic, "GET", "messages"),
            (Form::Anthropic, "POST", "responses"),
            (Form::Anthropic, "POST", "messages/batches"),
            (Form::Anthropic, "POST", "messages/"),
            (Form::OpenAi, "POST", "messages"),
            (Form::OpenAi, "GET", "responses/resp_1"),
            (Form::OpenAi, "DELETE", "models/ft-mine"),
            (Form::OpenAi, "GET", "files"),
            (Form::OpenAi, "GET", "models/../files"),
            (Form::OpenAi, "GET", "models/.."),
            (Form::OpenAi, "GET", "models/%2e%2e"),
            (Form::OpenAi, "GET", "models/"),
            (Form::OpenAi, "GET", "modelsx"),
            (Form::OpenAi, "GET", "models/a/b"),
            (Form::OpenAi, "GET", ""),
        ] {
            assert_eq!(asked(form, method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn the_key_that_is_meant_is_put_on_and_no_other() {
        let env = [
            ("ANTHROPIC_API_KEY", "real-key"),
            ("ANTHROPIC_AUTH_TOKEN", "real-token"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let api = apis(&env.into()).unwrap().remove(0);
        let put = |pairs: &[(&str, &str)]| {
            let mut asked = HeaderMap::new();
            for (name, value) in pairs {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                asked.append(name, HeaderValue::from_str(value).unwrap());
            }
            let headers = headers(&asked, &api);
            let mut texts: Vec<String> = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            texts.sort();
            texts.join("; ")
        };
        let key = "accept-encoding: identity; x-api-key: real-key";
        let token = "accept-encoding: identity; authorization: Bearer real-token";
        assert_eq!(put(&[("x-api-key", "loopy-adds-ANTHROPIC_API_KEY")]), key);
        assert_eq!(
            put(&[("authorization", "Bearer loopy-adds-ANTHROPIC_AUTH_TOKEN")]),
            token
        );
        // What the sandbox brought along itself does not leave.
        assert_eq!(
            put(&[
                ("x-api-key", "its-own"),
                ("authorization", "Bearer its-own"),
                ("accept-encoding", "br"),
                ("connection", "keep-alive"),
            ]),
            key
        );
        assert!(put(&[("anthropic-beta", "a")]).contains("anthropic-beta: a"));
    }

    #[test]
    fn a_path_follows_that_of_the_base_url() {
        let of = |variable: &str, base: &str, path: &str, query| {
            let env = [(variable.to_owned(), base.to_owned())].into();
            url(&apis(&env).unwrap()[0], path, query).to_string()
        };
        assert_eq!(
            of(
                "ANTHROPIC_BASE_URL",
                "https://a.test/x",
                "messages",
                Some("beta=true")
            ),
            "https://a.test/x/v1/messages?beta=true"
        );
        assert_eq!(
            of("OPENAI_BASE_URL", "https://a.test?v=1", "responses", None),
            "https://a.test/responses?v=1"
        );
    }
}
