//! Built-in events from the request to the run: the project as the compiler makes
//! it, signed deliveries, what the sender hears, and a manifest of an older Loopy.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use hmac::{Hmac, KeyInit, Mac};
use loopy_compiler::{Sources, compile};
use loopy_contract::manifest::{Manifest, SensorSource};
use loopy_engine::message::{Message, QueueName};
use loopy_engine::ports::Clock;
use loopy_engine::{Answer, WebhookRequest, keep_unloadable};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use world::World;

/// A project with a workflow `w` on an event.
fn project(event: &str) -> Manifest {
    let mut sources = Sources::default();
    sources.insert(
        "registry.yml",
        "agents: { A: { harness: command, sandbox: B } }\nsandboxes: { B: { provider: local } }\n",
    );
    let step = format!("---\non: {event}\nagent: A\n---\ntrue\n");
    sources.insert("workflows/w/s.md", step);
    let compilation = compile(&sources);
    assert_eq!(compilation.diagnostics, []);
    compilation.manifest.unwrap()
}

fn signature(parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"It's a Secret to Everybody").unwrap();
    parts.iter().for_each(|part| mac.update(part));
    hex::encode(mac.finalize().into_bytes())
}

/// What Slack sends at the time of the world's clock.
fn slack(kind: &str, body: &str) -> WebhookRequest {
    let time = "1795255200";
    let signature = signature(&[b"v0:", time.as_bytes(), b":", body.as_bytes()]);
    request(
        "/hooks/slack",
        &[
            ("content-type", kind),
            ("x-slack-request-timestamp", time),
            ("x-slack-signature", &format!("v0={signature}")),
        ],
        body,
    )
}

fn request(path: &str, headers: &[(&str, &str)], body: &str) -> WebhookRequest {
    let headers = headers.iter();
    WebhookRequest {
        method: "POST".to_owned(),
        path: path.to_owned(),
        query: String::new(),
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>(),
        body: body.as_bytes().to_vec(),
    }
}

async fn sent(world: &World, request: WebhookRequest) -> (u16, Value) {
    let Answer { status, body } = world.engine.webhook(request).await;
    (status, body)
}

#[tokio::test]
async fn a_slash_command_starts_a_run() {
    let world = world::world(project("Slack.SlashCommand"));
    let body = "command=%2Fdeploy&text=web+to+prod&user_id=U1&user_name=ada&channel_id=C1&team_id=T1\
                &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2F1%2F2&trigger_id=1.2";
    let form = "application/x-www-form-urlencoded";
    // Slack shows people what it is told, so it is told nothing.
    assert_eq!(sent(&world, slack(form, body)).await, (200, Value::Null));
    assert_eq!(sent(&world, slack(form, body)).await, (200, Value::Null));
    world.work().await;
    let run = world.the_run("w").await;
    assert_eq!(run.event.name, "Slack.SlashCommand");
    assert_eq!(
        Value::Object(run.event.fields),
        json!({
            "command": "/deploy", "text": "web to prod", "user": "U1", "user_name": "ada",
            "channel": "C1", "team": "T1", "trigger": "1.2",
            "response_url": "https://hooks.slack.com/commands/1/2",
        })
    );
}

#[tokio::test]
async fn slack_hears_its_challenge_when_it_signed_it() {
    let world = world::world(project("Slack.Message"));
    let body = json!({"type": "url_verification", "challenge": "3eZbrw1a", "token": "z"});
    let asked = slack("application/json", &body.to_string());
    let mut forged = asked.clone();
    forged.body.push(b' ');
    assert_eq!(
        sent(&world, asked).await,
        (200, json!({"challenge": "3eZbrw1a"}))
    );
    assert_eq!(sent(&world, forged).await.0, 401);
    assert!(world.queues.take().is_none());
    // Elsewhere it means nothing.
    let world = world::world(project("Linear.Issue"));
    let signed = signature(&[body.to_string().as_bytes()]);
    let asked = request(
        "/hooks/linear",
        &[("linear-signature", &signed)],
        &body.to_string(),
    );
    let (status, answer) = sent(&world, asked).await;
    assert_eq!((status, &answer["challenge"]), (200, &Value::Null));
}

#[tokio::test]
async fn pagerduty_s_signature_is_checked() {
    let world = world::world(project("Pagerduty.IncidentTriggered"));
    let body =
        json!({"event": {"event_type": "incident.triggered", "occurred_at": "2020-10-02T18:45:22Z",
        "data": {"id": "PGR0VU2", "title": "A little bump in the road"}}})
        .to_string();
    let header = format!("v1={},v1={}", "0".repeat(64), signature(&[body.as_bytes()]));
    let signed = |header: &str| {
        request(
            "/hooks/pagerduty",
            &[("x-pagerduty-signature", header)],
            &body,
        )
    };
    assert_eq!(sent(&world, signed("v1=00")).await.0, 401);
    assert_eq!(sent(&world, signed(&header)).await.0, 202);
    world.work().await;
    let run = world.the_run("w").await;
    assert_eq!(run.event.fields["title"], "A little bump in the road");
}

#[tokio::test]
async fn a_manifest_of_an_older_loopy_leaves_deliveries_for_the_next_one() {
    let mut manifest = project("Github.Push");
    manifest.sensors[0].mapping = None;
    let manifest = Manifest::from_json(manifest.seal().to_json().as_bytes()).unwrap();
    let world = world::world(manifest);
    let signed = format!("sha256={}", signature(&[b"{}"]));
    let headers = [
        ("x-hub-signature-256", signed.as_str()),
        ("x-github-event", "push"),
    ];
    let push = request("/hooks/github", &headers, "{}");
    assert_eq!(sent(&world, push).await.0, 202);
    let delivery = serde_json::to_string(&world.queues.take().unwrap()).unwrap();
    let left = world.engine.process(QueueName::Deliveries, &delivery).await;
    let why = left.unwrap_err().to_string();
    assert!(
        why.contains("Github.Push") && why.contains("deploy the project again"),
        "{why}"
    );
    assert!(world.queues.buried().is_empty());
}

#[tokio::test]
async fn a_broken_sensor_of_the_project_does_not_take_built_in_events_with_it() {
    let mut manifest = project("Slack.SlashCommand");
    let mut broken = manifest.sensors[0].clone();
    broken.name = "broken".to_owned();
    broken.source = SensorSource::Module;
    broken.module = Some("sensors.broken".to_owned());
    manifest.sensors.push(broken);
    let manifest = manifest.seal();
    let world = world::world(manifest.clone());
    let found = BTreeMap::from([("broken".to_owned(), "no module named x".to_owned())]);
    let now = world.clock.now();
    keep_unloadable(&*world.store, &manifest, &found, now)
        .await
        .unwrap();
    let body = "command=%2Fdeploy&text=web&user_id=U1&user_name=ada&channel_id=C1&team_id=T1\
                &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2F1%2F2&trigger_id=1.2";
    let form = "application/x-www-form-urlencoded";
    assert_eq!(sent(&world, slack(form, body)).await, (200, Value::Null));
    let message = world.queues.take().unwrap();
    let body = serde_json::to_string(&message).unwrap();
    // The project's own sensor is called, fails, and is tried again.
    let failed = world.engine.process(QueueName::Deliveries, &body).await;
    assert!(failed.is_err());
    let event = world.queues.take().unwrap();
    assert!(
        matches!(&event, Message::Event(event) if event.name == "Slack.SlashCommand"),
        "{event:?}"
    );
}
