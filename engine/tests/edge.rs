//! Webhook deliveries at the engine's edge: what is taken, what is refused, and how.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use jiff::SignedDuration;
use loopy_contract::manifest::Manifest;
use loopy_engine::message::{Body, Message, QueueName};
use loopy_engine::ports::{RunFilter, Store};
use loopy_engine::{Answer, MAX_BODY_BYTES, WebhookRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use world::{World, step};

fn world() -> World {
    world::world(manifest())
}

/// A workflow, and a sensor at a path of each kind.
fn manifest() -> Manifest {
    let text = json!({"type": "string"});
    let sensor = |name: &str, verify: &str| {
        json!({"name": name, "trigger": {"kind": "webhook", "path": format!("/hooks/{name}"), "verify": verify},
            "emits": "Opened", "source": "module", "module": "sensors.x", "fn": name})
    };
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": "3", "loopy_version": "0",
        "registry": {
            "sandboxes": {"Box": {"provider": "local", "image": {}, "network": [], "env_file": [], "repos": []}},
            "agents": {"Worker": {"harness": "command", "model": null, "sandbox": "Box", "skills": []}},
            "events": {"Opened": {"fields": {"title": text}}},
        },
        "workflows": {
            "review": {"entry": "read", "steps": {
                "read": step("review/read", json!({"trigger": {"kind": "event", "event": "Opened"}})),
            }},
        },
        "sensors": [sensor("x", "github"), sensor("talk", "slack"), sensor("open", "none")],
        "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))
    .unwrap();
    manifest.seal()
}

fn hook(body: &str, signature: &str, delivery: &str) -> WebhookRequest {
    WebhookRequest {
        method: "POST".into(),
        path: "/hooks/x".into(),
        query: String::new(),
        headers: BTreeMap::from([
            ("x-hub-signature-256".to_owned(), signature.to_owned()),
            ("x-github-delivery".to_owned(), delivery.to_owned()),
            ("authorization".to_owned(), "secret".to_owned()),
        ]),
        body: body.as_bytes().to_vec(),
    }
}

fn sign(body: &str) -> String {
    use hmac::{KeyInit, Mac};
    let mut mac =
        hmac::Hmac::<sha2::Sha256>::new_from_slice(b"It's a Secret to Everybody").unwrap();
    mac.update(body.as_bytes());
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_signed_delivery_becomes_every_event_its_sensor_gives_and_only_once() {
    let world = world();
    let body = json!({"events": [
        {"event": "Opened", "fields": {"title": "one"}},
        {"event": "Opened", "fields": {"title": "two"}},
        {"event": "Opened", "fields": {"title": 3}},
    ]})
    .to_string();
    let refused = world
        .engine
        .webhook(hook(&body, &sign("other"), "d1"))
        .await;
    assert_eq!(refused.status, 401);
    assert!(world.queues.take().is_none());
    for repeated in [false, true] {
        let answer = world.engine.webhook(hook(&body, &sign(&body), "d1")).await;
        assert_eq!(
            (answer.status, answer.body["repeated"].clone()),
            (202, json!(repeated))
        );
    }
    let delivery = world.queues.take().unwrap();
    let text = serde_json::to_string(&delivery).unwrap();
    assert!(
        !text.contains("authorization"),
        "credentials stay at the edge: {text}"
    );
    for _ in 0..2 {
        world
            .engine
            .process(QueueName::Deliveries, &text)
            .await
            .unwrap();
    }
    world.work().await;
    let runs = world
        .store
        .list(&RunFilter {
            limit: 9,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(runs.len(), 2);
    // What breaks the contract is not dropped in silence.
    let buried = world.queues.buried();
    assert!(!buried.is_empty());
    assert!(buried[0].reason.contains("/title"), "{}", buried[0].reason);
}

#[tokio::test]
async fn webhook_requests_that_are_not_right_are_refused() {
    let world = world();
    let status = async |change: fn(&mut WebhookRequest)| {
        let mut request = hook("{}", &sign("{}"), "d");
        change(&mut request);
        world.engine.webhook(request).await.status
    };
    assert_eq!(status(|_| ()).await, 202);
    assert_eq!(status(|r| r.method = "GET".into()).await, 405);
    assert_eq!(status(|r| r.path = "/hooks/y".into()).await, 404);
    assert_eq!(status(|r| r.headers.clear()).await, 401);
    assert_eq!(
        status(|r| r.body = vec![b' '; MAX_BODY_BYTES + 1]).await,
        413
    );
    let flood = |r: &mut WebhookRequest| {
        r.headers.insert("x-flood".into(), "x".repeat(64 * 1024));
    };
    assert_eq!(status(flood).await, 431);
}

#[tokio::test]
async fn a_head_alone_is_refused_like_the_whole_delivery() {
    let world = world();
    let mut good = hook("{}", &sign("{}"), "d");
    good.body.clear();
    assert_eq!(world.engine.webhook_head(&good).await, None);
    type Change = fn(&mut WebhookRequest);
    let changes: [Change; 4] = [
        |r| r.method = "GET".into(),
        |r| r.path = "/hooks/y".into(),
        |r| r.headers.clear(),
        |r| {
            r.headers.insert("x-flood".into(), "x".repeat(64 * 1024));
        },
    ];
    for change in changes {
        let mut whole = hook("{}", &sign("{}"), "d");
        change(&mut whole);
        let mut head = whole.clone();
        head.body.clear();
        let refused = world.engine.webhook_head(&head).await;
        assert_eq!(refused, Some(world.engine.webhook(whole).await));
    }
}

#[tokio::test]
async fn a_burst_is_taken_and_a_flood_is_not_but_it_holds_nobody_else_up() {
    let world = world();
    let post = async |number: usize| {
        let body = json!({ "number": number }).to_string();
        world
            .engine
            .webhook(hook(&body, &sign(&body), &format!("d{number}")))
            .await
    };
    for number in 0..2_000 {
        assert_eq!(post(number).await.status, 202, "{number}");
    }
    let refused = post(2_000).await;
    assert_eq!((refused.status, refused.retry_after()), (429, Some("1")));
    assert_eq!(refused.body, json!({ "error": "too many requests" }));
    // What was accepted is still known, strangers are still told the same, and other
    // paths have their own measure.
    assert_eq!(post(7).await.body["repeated"], true);
    let forged = world.engine.webhook(hook("{}", &sign("{ }"), "f")).await;
    assert_eq!(forged.status, 401);
    assert_eq!(open(&world, "{}").await.status, 202);
    world.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(post(2_000).await.status, 202);
}

async fn open(world: &World, body: &str) -> Answer {
    let mut request = hook(body, "", "");
    request.path = "/hooks/open".to_owned();
    request.headers.clear();
    world.engine.webhook(request).await
}

#[tokio::test]
async fn a_sender_that_names_nothing_may_say_the_same_again() {
    let world = world();
    let body = r#"{"events": [{"event": "Opened", "fields": {"title": "t"}}]}"#;
    for _ in 0..2 {
        assert_eq!(open(&world, body).await.body["repeated"], false);
        world.clock.advance(SignedDuration::from_millis(1));
    }
    world.work().await;
    let filter = RunFilter {
        limit: 9,
        ..RunFilter::default()
    };
    assert_eq!(world.store.list(&filter).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_body_that_would_grow_in_json_travels_in_base64() {
    let world = world();
    for (body, as_text) in [("{\"a\": \"b\"}", true), (&*"\u{1}".repeat(100_000), false)] {
        assert_eq!(open(&world, body).await.status, 202);
        world.clock.advance(SignedDuration::from_millis(1));
        let message = world.queues.take().unwrap();
        let Message::Delivery(delivery) = &message else {
            unreachable!("{message:?}")
        };
        assert_eq!(matches!(delivery.body, Body::Text(_)), as_text, "{body:.9}");
        let size = serde_json::to_string(&message).unwrap().len();
        assert!(size < body.len() * 4 / 3 + 500, "{size}");
    }
}

/// A request that Slack signed.
fn slack(world: &World, body: &str) -> WebhookRequest {
    use hmac::{KeyInit, Mac};
    use loopy_engine::ports::Clock;
    let time = world.clock.now().as_second().to_string();
    let mut mac =
        hmac::Hmac::<sha2::Sha256>::new_from_slice(b"It's a Secret to Everybody").unwrap();
    mac.update(format!("v0:{time}:{body}").as_bytes());
    let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
    WebhookRequest {
        method: "POST".into(),
        path: "/hooks/talk".into(),
        query: String::new(),
        headers: BTreeMap::from([
            ("x-slack-request-timestamp".to_owned(), time),
            ("x-slack-signature".to_owned(), signature),
        ]),
        body: body.as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn slack_hears_its_word_back_and_nothing_that_it_would_show_to_people() {
    let world = world();
    let shake = r#"{"type": "url_verification", "challenge": "3eZbrw1aB"}"#;
    let mut unsigned = slack(&world, shake);
    unsigned.headers.clear();
    assert_eq!(world.engine.webhook(unsigned).await.status, 401);
    let answer = world.engine.webhook(slack(&world, shake)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({ "challenge": "3eZbrw1aB" }));
    assert!(world.queues.take().is_none(), "a handshake is no event");

    for _ in 0..2 {
        let answer = world
            .engine
            .webhook(slack(&world, "command=%2Fdeploy&trigger_id=1"))
            .await;
        assert_eq!((answer.status, answer.body), (200, Value::Null));
    }
    assert!(world.queues.take().is_some());
    assert!(world.queues.take().is_none(), "sent again, it is known");
}
