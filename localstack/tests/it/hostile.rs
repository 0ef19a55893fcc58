//! What strangers send to the two public addresses, in both homes: no answer is a
//! server's error, none tells anything, nothing starts and nothing is lost.

use crate::around::{Around, Delivery, SECRET, sign};
use crate::machine::Machine;
use crate::secrets::PLANTED;
use crate::stack::Deployed;
use loopy_localstack::eventually;
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What no answer may hold: secrets, and what an attacker would like to know.
const LEAKS: [&str; 10] = [
    SECRET,
    PLANTED,
    "panicked",
    "arn:aws",
    "src/",
    "/tmp/",
    "loopy-",
    "sha256=",
    "Traceback",
    "DAYTONA",
];

/// The public addresses of a home.
struct Target {
    /// Where deliveries go.
    webhook: Url,
    /// Below it lies the report protocol.
    report: Url,
}

/// An answer to a stranger.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Target {
    fn new(webhook: &str, report: &str) -> Self {
        Self {
            webhook: Url::parse(webhook).unwrap(),
            report: Url::parse(report).unwrap(),
        }
    }

    /// Sends these very bytes after a request line and the headers that are always
    /// there, and reads the answer, if there is one.
    /// With `hang_up` nothing more is sent after that.
    fn raw(&self, line: &str, headers: &str, body: &[u8], hang_up: bool) -> Option<Answer> {
        let host = self.webhook.host_str().unwrap();
        let port = self.webhook.port_or_known_default().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{line} HTTP/1.1\r\nhost: {host}:{port}\r\n{headers}\r\n");
        // The other side may have answered and closed before it has heard all.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        if hang_up {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some(Answer {
            status,
            body: body.to_owned(),
        })
    }

    /// The path of a URL with its prefix on the endpoint, to be sent as it is.
    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.webhook.path().trim_end_matches('/'))
    }
}

/// All that strangers try at the webhook. `delivery` is one that was accepted before.
async fn assault_webhook(target: &Target, delivery: &Delivery) {
    let http = Client::builder().timeout(PATIENCE).build().unwrap();
    let url = format!(
        "{}/hooks/github",
        target.webhook.as_str().trim_end_matches('/')
    );
    let good = &delivery.signature;
    let other_body = sign(SECRET, b"{}");
    let sha1 = good.replace("sha256=", "sha1=");
    let signatures: [(&str, Option<&str>); 12] = [
        ("none", None),
        ("empty", Some("")),
        ("no value", Some("sha256=")),
        ("odd", Some("sha256=abc")),
        ("no hex", Some("sha256=zz")),
        (
            "zeros",
            Some(concat!(
                "sha256=",
                "0000000000000000000000000000000000000000000000000000000000000000"
            )),
        ),
        ("another algorithm", Some(&sha1)),
        ("bare", Some(&good["sha256=".len()..])),
        ("twice", Some("sha256=00,sha256=00")),
        ("of another body", Some(&other_body)),
        ("cut", Some(&good[..good.len() - 2])),
        ("with more", Some(concat!("sha256=", "00", " or 1=1"))),
    ];
    for (name, signature) in signatures {
        let mut request = http
            .post(&url)
            .header("x-github-event", "pull_request")
            .header("x-github-delivery", format!("hostile-{name}"))
            .body(delivery.body.clone());
        if let Some(signature) = signature {
            request = request.header("x-hub-signature-256", signature);
        }
        refused(name, request, &[401]).await;
    }
    // A body that was changed by one byte, and wrong encodings of the right one.
    let mut changed = delivery.body.clone();
    changed.push(b' ');
    let utf16: Vec<u8> = String::from_utf8_lossy(&delivery.body)
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let bodies = [
        ("changed", changed),
        ("nothing", Vec::new()),
        ("utf-16", utf16),
        ("no text", vec![0xff, 0xfe, 0x00, 0x80]),
        ("nulls", vec![0; 1000]),
        ("half", delivery.body[..delivery.body.len() / 2].to_vec()),
        ("deep", "[".repeat(100_000).into_bytes()),
    ];
    for (name, body) in bodies {
        let request = http
            .post(&url)
            .header("x-hub-signature-256", good)
            .header("content-encoding", "gzip")
            .body(body);
        refused(name, request, &[401]).await;
    }
    for method in [
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
    ] {
        let request = http
            .request(method.clone(), &url)
            .header("x-hub-signature-256", good);
        refused(method.as_str(), request, &[405]).await;
    }
    // Right but for its size: 10 MB.
    let large = vec![b' '; 10_000_000];
    let request = http
        .post(&url)
        .header("x-hub-signature-256", sign(SECRET, &large))
        .body(large);
    refused("10 MB", request, &[413]).await;
    let mut request = http.post(&url).body("{}");
    for index in 0..80 {
        request = request.header(format!("x-flood-{index}"), "x".repeat(900));
    }
    refused("long headers", request, &[401, 431]).await;

    // Paths that mean another one to somebody.
    let long = format!("/hooks/{}", "a".repeat(6000));
    let paths = [
        "/",
        "/hooks",
        "/hooks/github/",
        "//hooks/github",
        "/hooks//github",
        "/HOOKS/github",
        "/hooks/%67ithub",
        "/hooks/github%00",
        "/hooks/github%2f..%2fgithub",
        "/hooks/github;a=1",
        "/hooks/../hooks/github",
        "/hooks/./github",
        "/hooks/github/..;/x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/hooks/github%0d%0aX-Hub-Signature-256:%20x",
        "/hooks\\github",
        &long,
    ];
    let length = delivery.body.len();
    let headers = format!(
        "x-hub-signature-256: {other_body}\r\nx-github-delivery: path\r\ncontent-length: {length}\r\nconnection: close\r\n"
    );
    for path in paths {
        // An endpoint may decode the path first; then it is the path, and forged.
        let line = format!("POST {}", target.path(path));
        let answer = target.raw(&line, &headers, &delivery.body, false);
        quiet(path, &answer.unwrap(), &[400, 401, 404, 414]);
    }
    // Requests that are not whole, or none.
    let line = format!("POST {}", target.path("/hooks/github"));
    let cut = headers.replace(&format!("length: {length}"), "length: 999999");
    let chunked = "transfer-encoding: chunked\r\nconnection: close\r\n";
    let torn: [(&str, &str, &str, &[u8]); 5] = [
        ("truncated", &line, &cut, b"{\"action\":"),
        ("torn chunk", &line, chunked, b"ffffff\r\nabc"),
        ("no chunk", &line, chunked, b"zz\r\n\r\n"),
        (
            "negative length",
            &line,
            "content-length: -5\r\nconnection: close\r\n",
            b"{}",
        ),
        ("no method", "\u{1}\u{2}", "connection: close\r\n", b""),
    ];
    for (name, line, headers, body) in torn {
        // To hang up is an answer too.
        if let Some(answer) = target.raw(line, headers, body, true) {
            quiet(name, &answer, &[400, 401, 405, 408, 411, 501]);
        }
    }
    let flood: String = (0..2000)
        .map(|index| format!("x-flood-{index}: x\r\n"))
        .collect();
    let flood = format!("{flood}content-length: 2\r\nconnection: close\r\n");
    if let Some(answer) = target.raw(&line, &flood, b"{}", false) {
        quiet("2000 headers", &answer, &[400, 401, 431]);
    }
    // What was accepted before is known, and by its id.
    let again = http
        .post(&url)
        .header("x-github-event", "pull_request")
        .header("x-github-delivery", &delivery.id)
        .header("x-hub-signature-256", good)
        .body(delivery.body.clone());
    let again: Value = again.send().await.unwrap().json().await.unwrap();
    assert_eq!(again["repeated"], true);
}

/// All that strangers try at the report protocol. `own` is a token of an attempt of
/// `path` that is over.
async fn assault_report(target: &Target, path: &str, own: &str) {
    let http = Client::builder().timeout(PATIENCE).build().unwrap();
    let base = target.report.as_str().trim_end_matches('/').to_owned();
    let url = |leaf: &str| format!("{base}{path}/{leaf}");
    let forged = "A".repeat(43);
    let longer = format!("{own}A");
    let tokens = [
        ("none", None),
        ("empty", Some("")),
        ("forged", Some(forged.as_str())),
        ("cut", Some(&own[..own.len() - 1])),
        ("longer", Some(&longer)),
        ("no base64", Some("../../etc/passwd")),
        ("long", Some(&"x".repeat(5000)[..4000])),
    ]
    .map(|(name, token)| (name, token.map(str::to_owned)));
    for leaf in [
        "envelope",
        "heartbeat",
        "transcript",
        "files",
        "fetch",
        "result",
        "nothing",
    ] {
        for (name, token) in &tokens {
            for method in [Method::GET, Method::POST, Method::PUT] {
                let mut request = http.request(method, url(leaf)).body("{}");
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                refused(&format!("{leaf} {name}"), request, &[401, 404, 405]).await;
            }
        }
        // Basic instead of bearer.
        let request = http.post(url(leaf)).basic_auth("loopy", Some(own));
        refused(&format!("{leaf} basic"), request, &[401, 404]).await;
    }
    // The token of an attempt that is over opens nothing any more; what may be asked
    // is answered by 410, the rest by 4xx.
    for leaf in [
        "envelope",
        "heartbeat",
        "transcript",
        "files",
        "fetch",
        "result",
    ] {
        for method in [Method::GET, Method::POST] {
            let request = http.request(method, url(leaf)).bearer_auth(own).body("{}");
            let answer = ask(request).await;
            let over = answer.status == 200 && answer.body == "{\"stop\":true}";
            if !over {
                quiet(
                    &format!("{leaf} over"),
                    &answer,
                    &[400, 404, 405, 410, 413, 422],
                );
            }
        }
    }
    // A token is good for its own attempt only.
    let (run, rest) = path.rsplit_once("/steps/").unwrap();
    let foreign = [
        format!("{run}x/steps/{rest}"),
        path.replace("/attempts/1", "/attempts/2"),
        path.replace("/attempts/1", "/attempts/01"),
        path.replace("/attempts/1", "/attempts/1/../1"),
        path.replace("/attempts/1", "/attempts/4294967297"),
        path.replace("/attempts/1", "/attempts/-1"),
        path.replace("/v1/", "/v2/"),
        path.replace("/v1/", "//v1/"),
        path.replace("/steps/", "/steps/%2e%2e/"),
    ];
    for path in &foreign {
        let line = format!(
            "GET {}{path}/envelope",
            target.report.path().trim_end_matches('/')
        );
        let headers = format!("authorization: Bearer {own}\r\nconnection: close\r\n");
        let report = Target::new(target.report.as_str(), target.report.as_str());
        let answer = report.raw(&line, &headers, b"", false).unwrap();
        quiet(path, &answer, &[400, 401, 404]);
    }
    // Bodies of every kind, by chance but the same each time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        "null",
        "true",
        "-1",
        "1e999",
        "\"\"",
        "\"\\u0000\"",
        ":",
        ",",
        "\"outcome\"",
        "\"usage\"",
        "\"offset\"",
        "\"text\"",
        "\"output\"",
        "18446744073709551616",
        "\u{feff}",
        "\"\u{10ffff}\"",
    ];
    for _ in 0..150 {
        let count = next(12);
        let body: String = (0..count).map(|_| pieces[next(20) as usize]).collect();
        let leaf = [
            "envelope",
            "heartbeat",
            "transcript",
            "files",
            "fetch",
            "result",
        ][next(6) as usize];
        let token = if next(2) == 0 { own } else { &forged };
        let request = http.post(url(leaf)).bearer_auth(token).body(body.clone());
        let answer = ask(request).await;
        let over = answer.status == 200 && answer.body == "{\"stop\":true}";
        if !over {
            quiet(
                &format!("{leaf} {body}"),
                &answer,
                &[400, 401, 404, 405, 410, 422],
            );
        }
    }
}

async fn ask(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    Answer {
        status: answer.status().as_u16(),
        body: answer.text().await.unwrap(),
    }
}

async fn refused(name: &str, request: reqwest::RequestBuilder, statuses: &[u16]) {
    quiet(name, &ask(request).await, statuses);
}

/// It is one of these statuses and tells nothing.
fn quiet(name: &str, answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "{name}: {answer:?}");
    for leak in LEAKS {
        assert!(!answer.body.contains(leak), "{name}: {answer:?}");
    }
    assert!(answer.body.len() < 200, "{name}: {answer:?}");
}

/// The report path, below the report URL, and the token of a finished attempt, as the
/// service of sandboxes was told them.
fn finished_attempt(around: &Around) -> (String, String) {
    let requests = around.daytona.requests();
    let told = requests
        .iter()
        .map(|request| String::from_utf8_lossy(&request.body).into_owned())
        .find(|body| body.contains("LOOPY_TOKEN="))
        .unwrap();
    let value = |name: &str| {
        let (_, rest) = told.split_once(&format!("{name}=")).unwrap();
        let value = rest.lines().next().unwrap_or_default();
        value.trim_matches(['\'', '"', '\r']).to_owned()
    };
    let (run, step) = (value("LOOPY_RUN_ID"), value("LOOPY_STEP"));
    let path = loopy_contract::report::attempt_path(&run, &step, 1, "");
    (path.trim_end_matches('/').to_owned(), value("LOOPY_TOKEN"))
}

#[tokio::test]
async fn strangers_get_nowhere_on_one_machine() {
    let around = Around::new();
    let machine = Machine::serve(around.folder()).await;
    let delivery = Delivery::opened("11111111-aaaa", None);
    let url = format!("{}/hooks/github", machine.base);
    assert_eq!(delivery.send(&url).await, 202);
    machine.runs_over(2).await;
    around.sandboxes_gone().await;

    let runs = machine.ask(&["runs", "list"]);
    let events = machine.ask(&["events", "list"]);
    let target = Target::new(&machine.base, &format!("{}/_loopy", machine.base));
    let (path, token) = finished_attempt(&around);
    assault_webhook(&target, &delivery).await;
    assault_report(&target, &path, &token).await;

    // It serves on, and has not taken anything.
    let after = Delivery::opened("33333333-cccc", None);
    assert_eq!(after.send(&url).await, 202);
    let found = machine.runs_over(4).await;
    assert_eq!(found[2..], runs.as_array().unwrap()[..]);
    let found = machine.ask(&["events", "list"]);
    assert_eq!(
        found.as_array().unwrap().len(),
        2 * events.as_array().unwrap().len()
    );
    assert_eq!(machine.ask(&["dlq", "list"]), json!([]));
}

#[tokio::test]
async fn strangers_get_nowhere_at_a_stack() {
    let around = Around::new();
    let deployed = Deployed::nothing("strangers");
    let output = deployed.deploy(around.folder(), &["--yes"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let delivery = Delivery::opened("11111111-aaaa", None);
    let webhook = deployed.address("WebhookUrl");
    let url = format!("{}/hooks/github", webhook.trim_end_matches('/'));
    assert_eq!(delivery.send(&url).await, 202);
    deployed.runs_over(2).await;
    around.sandboxes_gone().await;

    let runs = deployed.runs(&["list"]);
    let target = Target::new(&webhook, &deployed.address("ReportUrl"));
    let (path, token) = finished_attempt(&around);
    assault_webhook(&target, &delivery).await;
    assault_report(&target, &path, &token).await;

    let after = Delivery::opened("33333333-cccc", None);
    assert_eq!(after.send(&url).await, 202);
    let found = deployed.runs_over(4).await;
    assert_eq!(found[2..], runs.as_array().unwrap()[..]);
    eventually("the queues to be empty", crate::stack::LONG, async || {
        let queues = ["Deliveries", "Events", "Steps", "Watch"];
        let waiting = queues.map(|queue| deployed.waiting(&format!("{queue}Queue")));
        if waiting == [0; 4] {
            Ok(())
        } else {
            Err(format!("{waiting:?}"))
        }
    })
    .await
    .unwrap();
    for queue in ["Deliveries", "Events", "Steps", "Watch"] {
        assert_eq!(
            deployed.waiting(&format!("{queue}DeadLetters")),
            0,
            "{queue}"
        );
    }
}
