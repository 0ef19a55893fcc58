//! Model APIs for sandboxes without keys: real connections to the proxy, and behind it
//! the stand-ins for the APIs, or servers that misbehave.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use loopy_contract::manifest::Sandbox;
use loopy_contract::price::Price;
use loopy_engine::ports::{Allowance, PortError, Secrets};
use loopy_sandbox::egress::{Egress, Guest, Guests, Models, ReportTo, SystemResolver, Terms};
use loopy_testkit::anthropic::{Block, InjectedError, ModelApi, Script, TokenUsage};
use loopy_testkit::openai::{OpenAi, Reply, Script as OpenAiScript};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const KEY: &str = "sk-ant-the-real-key";
const LIMIT: Duration = Duration::from_secs(30);

/// Everybody is this sandbox.
struct Everybody(Option<Arc<Guest>>);

#[async_trait]
impl Guests for Everybody {
    async fn guest(&self, _: IpAddr) -> Option<Arc<Guest>> {
        self.0.clone()
    }
}

/// The variables of the sandbox `Box` with the file `a.env`.
struct Env(BTreeMap<String, String>);

#[async_trait]
impl Secrets for Env {
    async fn sandbox_env(
        &self,
        name: &str,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        assert_eq!(
            (name, sandbox.env_file.as_slice()),
            ("Box", ["a.env".to_owned()].as_slice())
        );
        Ok(self.0.clone())
    }

    async fn webhook_secrets(&self, _: &str) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }

    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }

    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Ok(Vec::new())
    }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(pair).collect()
}

fn usd(usd: f64) -> Allowance {
    Allowance {
        usd: Some(usd),
        ..Allowance::default()
    }
}

/// The proxy, for a sandbox whose folder this is.
struct Proxy {
    address: SocketAddr,
    folder: Arc<TempDir>,
}

impl Proxy {
    async fn new(env: BTreeMap<String, String>, allowance: Allowance) -> Self {
        Self::beside(Arc::new(TempDir::new().unwrap()), env, allowance).await
    }

    /// With what an earlier process left in the folder.
    async fn beside(
        folder: Arc<TempDir>,
        env: BTreeMap<String, String>,
        allowance: Allowance,
    ) -> Self {
        let terms = Terms {
            sandbox: "Box".to_owned(),
            env_file: vec!["a.env".to_owned()],
            allowance,
        };
        let guest = Guest {
            name: "box".to_owned(),
            allowed: None,
            folder: folder.path().to_owned(),
            models: Some(Arc::new(terms)),
        };
        Self::of(Some(guest), folder, env).await
    }

    async fn of(guest: Option<Guest>, folder: Arc<TempDir>, env: BTreeMap<String, String>) -> Self {
        let report = ReportTo {
            address: "127.0.0.1:9".parse().unwrap(),
            prefix: "/_loopy".to_owned(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let guests = Arc::new(Everybody(guest.map(Arc::new)));
        let models = Arc::new(Models::new(Arc::new(Env(env))).unwrap());
        let egress = Egress::new(guests, Arc::new(SystemResolver), report).with_models(models);
        tokio::spawn(Arc::new(egress).serve(listener));
        Self { address, folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/_models/{path}", self.address)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        client().post(self.url(path)).json(body)
    }

    /// The calls that are listed, once there are so many.
    async fn calls(&self, count: usize) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let text = self.file("model-calls.log");
            let calls: Vec<Value> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if calls.len() >= count {
                assert_eq!(calls.len(), count, "{text}");
                return calls;
            }
            assert!(begun.elapsed() < LIMIT, "{count} calls: {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// All that is kept of the sandbox.
    fn everything(&self) -> String {
        let files = fs::read_dir(self.folder.path()).unwrap();
        files
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect()
    }
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn anthropic(api: &ModelApi) -> BTreeMap<String, String> {
    env(&[
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_BASE_URL", &api.url()),
    ])
}

fn openai(api: &OpenAi) -> BTreeMap<String, String> {
    env(&[("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", &api.url())])
}

fn message(model: &str, stream: bool) -> Value {
    json!({
        "model": model, "max_tokens": 9, "stream": stream,
        "messages": [{"role": "user", "content": "the task"}],
    })
}

fn saying(text: &str, input_tokens: u64, output_tokens: u64) -> ModelApi {
    ModelApi::start(Script {
        turns: vec![vec![Block::text(text)]],
        usage: TokenUsage {
            input_tokens,
            output_tokens,
        },
        ..Script::default()
    })
    .unwrap()
}

const CLAUDE: &str = "claude-sonnet-4-6";

#[tokio::test]
async fn anthropic_s_api_gets_the_key_and_is_counted_streamed_or_not() {
    let api = saying("hello", 1000, 100);
    let proxy = Proxy::new(anthropic(&api), Allowance::default()).await;
    for (path, stream) in [
        ("anthropic/v1/messages?beta=true", false),
        ("anthropic/messages", true),
    ] {
        let answer = proxy
            .post(path, &message(CLAUDE, stream))
            .header("x-api-key", "loopy-adds-ANTHROPIC_API_KEY")
            .header("anthropic-version", "2023-06-01")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        assert!(text.contains("hello"), "{text}");
        assert_eq!(text.contains("event: message_stop"), stream);
    }
    let answer = proxy
        .post(
            "anthropic/v1/messages/count_tokens",
            &message(CLAUDE, false),
        )
        .send()
        .await
        .unwrap();
    assert!(answer.text().await.unwrap().contains("1000"));

    for request in api.requests() {
        assert_eq!(request.headers["x-api-key"], KEY);
        assert_eq!(request.headers.get("authorization"), None);
    }
    assert_eq!(api.messages()[0].headers["anthropic-version"], "2023-06-01");
    let calls = proxy.calls(3).await;
    for call in &calls[..2] {
        // 1000 at 3 and 100 at 15 dollars a million.
        assert!(
            (call["usd"].as_f64().unwrap() - 0.0045).abs() < 1e-9,
            "{call}"
        );
        assert_eq!(call["input_tokens"], 1000);
        assert_eq!(call["output_tokens"], 100);
        assert_eq!(call["api"], "anthropic");
        assert_eq!(call["model"], CLAUDE);
        assert_eq!(call["status"], 200);
        assert_eq!(call.get("reckoned"), None);
    }
    assert_eq!(calls[2]["input_tokens"], 0, "counting is free");
    let kept = proxy.everything();
    assert!(kept.contains(r#""input_tokens":2000"#), "{kept}");
    for secret in [KEY, "the task", "hello"] {
        assert!(!kept.contains(secret), "{kept}");
    }
}

#[tokio::test]
async fn both_apis_of_openai_get_the_key_and_are_counted_streamed_or_not() {
    let api = OpenAi::start(OpenAiScript::of([
        Reply::text("hello").using(1000, 400, 100)
    ]))
    .unwrap();
    let proxy = Proxy::new(openai(&api), Allowance::default()).await;
    for (path, asked, stream) in [
        ("openai/v1/responses", "input", false),
        ("openai/v1/responses", "input", true),
        ("openai/v1/chat/completions", "messages", false),
        ("openai/v1/chat/completions", "messages", true),
    ] {
        let mut body = json!({"model": "gpt-5.5", "stream": stream, asked: [{"role": "user", "content": "x"}]});
        if stream && asked == "messages" {
            body["stream_options"] = json!({"include_usage": true});
        }
        let answer = proxy
            .post(path, &body)
            .bearer_auth("loopy-adds-OPENAI_API_KEY")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        assert!(text.contains("llo"), "{text}");
    }
    let listed = client().get(proxy.url("openai/v1/models")).send().await;
    assert_eq!(listed.unwrap().status(), 200);

    for request in api.all_requests() {
        assert_eq!(request.headers["authorization"], format!("Bearer {KEY}"));
    }
    for call in &proxy.calls(5).await[..4] {
        // 600 at 5, 400 at 0.5 and 100 at 30 dollars a million.
        assert!(
            (call["usd"].as_f64().unwrap() - 0.0062).abs() < 1e-9,
            "{call}"
        );
        assert_eq!(call["cached_tokens"], 400);
    }
}

/// What an upstream says; it ends when this is dropped.
type Say = mpsc::UnboundedSender<&'static str>;

/// An upstream that answers what it is told, each request something else.
async fn upstream<const N: usize>() -> (String, [Say; N], Arc<Mutex<usize>>) {
    let mut receivers = VecDeque::new();
    let says = [(); N].map(|()| {
        let (say, hear) = mpsc::unbounded_channel::<&'static str>();
        receivers.push_back(hear);
        say
    });
    let receivers = Arc::new(Mutex::new(receivers));
    let gone = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&gone);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(move || {
        let hear = receivers.lock().unwrap().pop_front().unwrap();
        let gone = Hangup(Arc::clone(&seen));
        async move {
            let pieces = futures::stream::unfold((hear, gone), |(mut hear, gone)| async move {
                let piece = Bytes::from_static(hear.recv().await?.as_bytes());
                Some((Ok::<_, Infallible>(piece), (hear, gone)))
            });
            axum::response::Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(pieces))
                .unwrap()
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (format!("http://{address}"), says, gone)
}

/// Counts answers that are over.
struct Hangup(Arc<Mutex<usize>>);

impl Drop for Hangup {
    fn drop(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

const BEGUN: &str = "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":900000,\"output_tokens\":1}}}\n\n";
const ENDED: &str = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":100000}}\n\n";

fn at(url: &str) -> BTreeMap<String, String> {
    env(&[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_BASE_URL", url)])
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece_and_one_under_way_ends_whatever_the_cap() {
    let (url, [say, say_other], _) = upstream().await;
    let proxy = Proxy::new(at(&url), usd(1.0)).await;
    let ask = || {
        proxy
            .post("anthropic/v1/messages", &message(CLAUDE, true))
            .send()
    };
    say.send(BEGUN).unwrap();
    let mut first = ask().await.unwrap();
    // The upstream has nothing more to say until this is here.
    assert_eq!(first.chunk().await.unwrap().unwrap(), BEGUN);
    say_other.send(BEGUN).unwrap();
    let mut second = ask().await.unwrap();
    assert_eq!(second.chunk().await.unwrap().unwrap(), BEGUN);
    say.send(ENDED).unwrap();
    assert_eq!(first.chunk().await.unwrap().unwrap(), ENDED);
    drop(say);
    assert_eq!(first.chunk().await.unwrap(), None);
    // It cost more than there was: 2.7 for what was read, 1.5 for what was written.
    let calls = proxy.calls(1).await;
    assert!((calls[0]["usd"].as_f64().unwrap() - 4.2).abs() < 1e-9);

    say_other.send(ENDED).unwrap();
    assert_eq!(second.chunk().await.unwrap().unwrap(), ENDED);
    drop(say_other);
    assert_eq!(second.chunk().await.unwrap(), None);
    proxy.calls(2).await;

    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), 400);
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let why = error["error"]["message"].as_str().unwrap();
    assert!(why.contains("may spend $1 and has spent $8.4"), "{why}");
    let calls = proxy.calls(3).await;
    assert_eq!(calls[2]["status"], 400);
    assert!(
        calls[2]["problem"]
            .as_str()
            .unwrap()
            .contains("budget.spend")
    );

    // The next process knows what was spent.
    let folder = Arc::clone(&proxy.folder);
    let next = Proxy::beside(folder, at(&url), usd(5.0)).await;
    let refused = next.post("anthropic/v1/messages", &message(CLAUDE, true));
    assert_eq!(refused.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_cap_in_tokens_ends_calls_in_the_form_of_openai() {
    let api = OpenAi::start(OpenAiScript::of([Reply::text("hi").using(600, 0, 400)])).unwrap();
    let allowance = Allowance {
        tokens: Some(1001),
        ..Allowance::default()
    };
    let proxy = Proxy::new(openai(&api), allowance).await;
    let body = json!({"model": "whatever", "input": "x"});
    for status in [200, 200, 400] {
        let answer = proxy
            .post("openai/v1/responses", &body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
        if status == 400 {
            let error: Value = answer.json().await.unwrap();
            let why = error["error"]["message"].as_str().unwrap();
            assert!(
                why.contains("may use 1001 tokens and has used 2000"),
                "{why}"
            );
            assert_eq!(error["error"]["param"], Value::Null);
        } else {
            answer.bytes().await.unwrap();
            // It is counted when it is over.
            let begun = Instant::now();
            let before = api.requests().len();
            while proxy.file("model-calls.log").lines().count() < before {
                assert!(begun.elapsed() < LIMIT);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    assert_eq!(api.requests().len(), 2);
}

#[tokio::test]
async fn under_a_cap_in_dollars_a_model_without_a_price_is_not_asked() {
    let api = saying("hello", 10, 10);
    let mut allowance = usd(1.0);
    let price = Price {
        input: 1.0,
        output: 1.0,
        cached: None,
    };
    allowance.prices = [("anthropic/mine".to_owned(), price)].into();
    let proxy = Proxy::new(anthropic(&api), allowance).await;
    for (model, status) in [("nobody-knows", 400), ("mine", 200)] {
        let answer = proxy.post("anthropic/v1/messages", &message(model, false));
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), status, "{model}");
    }
    assert_eq!(api.messages().len(), 1);
}

#[tokio::test]
async fn a_sandbox_that_hangs_up_ends_the_call_and_is_counted() {
    let (url, [say], gone) = upstream().await;
    let proxy = Proxy::new(at(&url), Allowance::default()).await;
    say.send(BEGUN).unwrap();
    let asked = proxy.post("anthropic/v1/messages", &message(CLAUDE, true));
    let mut answer = asked.send().await.unwrap();
    answer.chunk().await.unwrap();
    assert_eq!(*gone.lock().unwrap(), 0);
    drop(answer);
    let calls = proxy.calls(1).await;
    assert_eq!(calls[0]["problem"], "the sandbox hung up");
    assert_eq!(calls[0]["input_tokens"], 900_000);
    assert_eq!(calls[0]["reckoned"], true);
    let begun = Instant::now();
    while *gone.lock().unwrap() == 0 {
        assert!(begun.elapsed() < LIMIT, "the upstream is still asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // Before a byte of the answer, too.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let proxy = Proxy::new(at(&url), Allowance::default()).await;
    let asked = proxy.post("anthropic/v1/messages", &message(CLAUDE, true));
    let asked = tokio::spawn(asked.send());
    let (mut stream, _) = silent.accept().await.unwrap();
    let mut some = [0; 16];
    stream.read_exact(&mut some).await.unwrap();
    asked.abort();
    let calls = proxy.calls(1).await;
    let input = calls[0]["input_tokens"].as_u64().unwrap();
    assert!((10..100).contains(&input), "{input} tokens");
}

#[tokio::test]
async fn an_api_that_is_down_is_said_to_be_in_its_own_form() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:{KEY}@{}", free.local_addr().unwrap());
    drop(free);
    let env = env(&[
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_BASE_URL", &url),
        ("OPENAI_API_KEY", KEY),
        ("OPENAI_BASE_URL", &url),
    ]);
    let proxy = Proxy::new(env, usd(1.0)).await;
    for (path, pointer) in [
        ("anthropic/v1/messages", "/type"),
        ("openai/v1/responses", "/error/type"),
    ] {
        let answer = proxy
            .post(path, &message(CLAUDE, false))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 502);
        let error: Value = answer.json().await.unwrap();
        assert!(error.pointer(pointer).unwrap().is_string(), "{error}");
        let why = error["error"]["message"].as_str().unwrap();
        assert!(
            why.contains("127.0.0.1 cannot be reached: no connection"),
            "{why}"
        );
        assert!(!why.contains(KEY), "{why}");
    }
    for call in proxy.calls(2).await {
        assert_eq!(call["input_tokens"], 0, "nothing was sent");
    }
    assert!(!proxy.everything().contains(KEY));
}

#[tokio::test]
async fn what_the_api_refuses_is_passed_on_and_costs_nothing() {
    let api = ModelApi::start(Script {
        errors: vec![InjectedError {
            at: None,
            status: 529,
            kind: "overloaded_error".to_owned(),
            message: "later".to_owned(),
        }],
        retry_after: Some(7),
        ..Script::default()
    })
    .unwrap();
    let proxy = Proxy::new(anthropic(&api), usd(1.0)).await;
    let answer = proxy.post("anthropic/v1/messages", &message(CLAUDE, true));
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 529);
    assert_eq!(answer.headers()["retry-after"], "7");
    let error: Value = answer.json().await.unwrap();
    assert_eq!(error["error"]["message"], "later");
    let call = proxy.calls(1).await.remove(0);
    assert_eq!((&call["status"], &call["usd"]), (&json!(529), &Value::Null));
}

#[tokio::test]
async fn nothing_but_calls_of_models_is_handed_on() {
    let api = saying("hello", 1, 1);
    let proxy = Proxy::new(anthropic(&api), Allowance::default()).await;
    for path in [
        "anthropic/v1/messages/batches",
        "anthropic/v1/files",
        "anthropic/v1/organizations/usage_report",
        "anthropic/",
        "anthropic",
        "openai/v1/responses",
        "",
    ] {
        let answer = proxy
            .post(path, &message(CLAUDE, false))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }
    assert_eq!(proxy.file("refused.log").lines().count(), 7);
    assert!(
        proxy
            .file("refused.log")
            .contains("POST /_models/anthropic/v1/files: ")
    );

    let zipped = proxy.post("anthropic/v1/messages", &message(CLAUDE, false));
    let zipped = zipped.header("content-encoding", "zstd").send().await;
    assert_eq!(zipped.unwrap().status(), 415);
    for body in [
        json!({"model": CLAUDE, "background": true}),
        json!({"messages": []}),
        json!([]),
    ] {
        let answer = proxy.post("anthropic/v1/messages", &body).send().await;
        assert_eq!(answer.unwrap().status(), 400, "{body}");
    }
    assert_eq!(api.requests().len(), 0);
}

#[tokio::test]
async fn strangers_and_sandboxes_with_keys_of_their_own_get_nothing() {
    let api = saying("hello", 1, 1);
    let folder = Arc::new(TempDir::new().unwrap());
    let own_keys = Guest {
        name: "box".to_owned(),
        allowed: None,
        folder: folder.path().to_owned(),
        models: None,
    };
    for (guest, why) in [
        (None, "not a sandbox of this project"),
        (Some(own_keys), "in this sandbox itself"),
    ] {
        let proxy = Proxy::of(guest, Arc::clone(&folder), anthropic(&api)).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let asked = b"GET /_models/anthropic/v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(asked).await.unwrap();
        let mut answer = Vec::new();
        // Who is a stranger is not listened to, which resets the connection.
        let _reset = stream.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 403"), "{text}");
        assert!(text.contains(why), "{text}");
    }
    assert_eq!(api.requests().len(), 0);
}

/// What comes back for a head, and for a body that goes on for as long as it is taken.
async fn pour(proxy: &Proxy, head: &str, mut piece: impl FnMut() -> Option<Vec<u8>>) -> String {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("POST /_models/anthropic/v1/messages HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = vec![0; 4096];
    loop {
        let Some(bytes) = piece() else {
            let length = reader.read(&mut answer).await.unwrap_or(0);
            return String::from_utf8_lossy(&answer[..length]).into_owned();
        };
        tokio::select! {
            biased;
            length = reader.read(&mut answer) => {
                let length = length.unwrap_or(0);
                return String::from_utf8_lossy(&answer[..length]).into_owned();
            }
            // A reader that hung up may still have answered.
            _written = writer.write_all(&bytes) => {}
        }
    }
}

#[tokio::test]
async fn a_body_without_end_is_refused() {
    let api = saying("hello", 1, 1);
    let proxy = Proxy::new(anthropic(&api), Allowance::default()).await;
    let said = pour(&proxy, "Content-Length: 99999999999", || None).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    assert!(said.contains(r#""type":"request_too_large""#), "{said}");

    let mut sent = 0;
    let said = pour(&proxy, "Transfer-Encoding: chunked", || {
        sent += 1;
        assert!(sent < 200, "more than 200 MiB are taken");
        let mut piece = b"100000\r\n".to_vec();
        piece.resize(piece.len() + (1 << 20), b' ');
        piece.extend_from_slice(b"\r\n");
        Some(piece)
    })
    .await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    assert_eq!(api.requests().len(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = saying("hello", 1, 1);
    let target = format!("{}/v1/messages", elsewhere.url());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(async move || axum::response::Redirect::temporary(&target));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let proxy = Proxy::new(at(&url), Allowance::default()).await;
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = client
        .post(proxy.url("anthropic/v1/messages"))
        .json(&message(CLAUDE, false))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(elsewhere.requests().len(), 0);
}
