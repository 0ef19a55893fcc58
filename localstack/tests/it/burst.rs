//! A thousand of GitHub's own deliveries at once, through the function URL: each one is
//! accounted for. The times are printed and hold nobody to anything;
//! `cargo xtask bench deliveries` shows them.

use crate::around::{SECRET, sign};
use crate::project::{Project, SCRIPTS};
use crate::stack::Deployed;
use jiff::Timestamp;
use loopy_localstack::{eventually, prepared};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many there are, and every how many is a pull request that starts a run.
const DELIVERIES: usize = 1_000;
const STARTS: usize = 10;

/// How many are under way at a time.
const AT_ONCE: usize = 32;

/// How long all of it may take on a busy machine.
const LONG: Duration = Duration::from_secs(600);

/// Kinds whose events are looked at and start nothing.
const LOOKED_AT: [(&str, &str); 4] = [
    ("check_run", "Github.CheckRun"),
    ("issues", "Github.Issue"),
    ("pull_request", "Github.PullRequest"),
    ("workflow_run", "Github.WorkflowRun"),
];

struct Delivery {
    id: String,
    kind: String,
    body: Vec<u8>,
    signature: String,
}

/// GitHub's examples in turn, and among them pull requests that were opened.
fn deliveries() -> Vec<Delivery> {
    let folder = prepared("LOOPY_TEST_WEBHOOKS").unwrap();
    let path = Path::new(&folder).join("api.github.com/index.json");
    let kinds: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut examples = Vec::new();
    for kind in kinds.as_array().unwrap() {
        for payload in kind["examples"].as_array().unwrap() {
            examples.push((kind["name"].as_str().unwrap(), payload));
        }
    }
    let opened = |(kind, payload): &&(&str, &Value)| {
        *kind == "pull_request" && payload["action"] == "opened"
    };
    let pull = *examples.iter().find(opened).unwrap();
    // Of the others none, so that what starts is known.
    let others: Vec<_> = examples.iter().filter(|it| !opened(it)).collect();
    let of = |number: usize| {
        let (kind, payload) = match number % STARTS {
            0 => pull,
            _ => *others[number % others.len()],
        };
        let mut payload = payload.clone();
        payload["loopy_number"] = json!(number);
        let body = payload.to_string().into_bytes();
        Delivery {
            id: format!("burst-{number}"),
            kind: kind.to_owned(),
            signature: sign(SECRET, &body),
            body,
        }
    };
    (0..DELIVERIES).map(of).collect()
}

#[expect(
    clippy::print_stderr,
    reason = "the times are for whoever asks for them"
)]
#[tokio::test]
async fn a_thousand_deliveries_at_once_are_all_accounted_for() {
    let project = Project::of(&[("registry.yml", SCRIPTS)]);
    let step = |on: &str| format!("---\non: {on}\nagent: Shell\n---\ntrue\n");
    project.write(
        "workflows/opened/look.md",
        &step("Github.PullRequestOpened"),
    );
    for (kind, event) in LOOKED_AT {
        let on = format!("{{ event: {event}, when: event.sender == \"nobody at all\" }}");
        project.write(&format!("workflows/{kind}/look.md"), &step(&on));
    }
    let own = std::fs::read_to_string(project.folder.path().join("loopy.env")).unwrap();
    project.write(
        "loopy.env",
        &format!("GITHUB_WEBHOOK_SECRET={SECRET}\n{own}"),
    );
    let deployed = Deployed::nothing("burst");
    let output = deployed.deploy(project.path(), &["--yes"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let url = format!("{}hooks/github", deployed.address("WebhookUrl"));

    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let deliveries = deliveries();
    for delivery in &deliveries {
        for (kind, event) in LOOKED_AT {
            if delivery.kind == kind {
                *expected.entry(event.to_owned()).or_default() += 1;
            }
        }
    }
    let starts = DELIVERIES / STARTS;
    expected.insert("Github.PullRequestOpened".to_owned(), starts);

    let http = reqwest::Client::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut sending = Vec::new();
    for delivery in deliveries {
        let (http, url, places) = (http.clone(), url.clone(), Arc::clone(&places));
        sending.push(tokio::spawn(async move {
            let _place = places.acquire().await.unwrap();
            let sent = Timestamp::now();
            let answer = http
                .post(&url)
                .header("x-github-event", &delivery.kind)
                .header("x-github-delivery", &delivery.id)
                .header("x-hub-signature-256", &delivery.signature)
                .body(delivery.body)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 202, "{}", delivery.id);
            let answer: Value = answer.json().await.unwrap();
            let id = answer["delivery"].as_str().unwrap().to_owned();
            (id, sent, Timestamp::now())
        }));
    }
    let mut sent = BTreeMap::new();
    let mut answers = Vec::new();
    for one in sending {
        let (id, began, answered) = one.await.unwrap();
        answers.push(seconds(began, answered));
        assert_eq!(sent.insert(id, began), None, "each has an id of its own");
    }
    assert_eq!(sent.len(), DELIVERIES);

    // Nothing waits, nothing was given up, and every event is written down once.
    let queues = ["Deliveries", "Events", "Steps", "Watch"];
    eventually("all of it to be worked off", LONG, async || {
        let waiting = queues.map(|queue| deployed.waiting(&format!("{queue}Queue")));
        let over = deployed.runs(&["list", "--status", "succeeded", "--limit", "1000"]);
        let over = over.as_array().unwrap().len();
        if waiting == [0; 4] && over == starts {
            Ok(())
        } else {
            Err(format!("queues {waiting:?}, {over} runs"))
        }
    })
    .await
    .unwrap();
    for queue in queues {
        let letters = format!("{queue}DeadLetters");
        assert_eq!(deployed.waiting(&letters), 0, "{letters}");
    }
    let mut list = vec!["events", "list", "--limit", "5000", "--json"];
    list.extend(deployed.place());
    let events = deployed.loopy.json(&list).unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for record in events.as_array().unwrap() {
        let name = record["event"]["name"].as_str().unwrap();
        *found.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(found, expected);

    let runs = deployed.runs(&["list", "--limit", "1000"]);
    assert_eq!(runs.as_array().unwrap().len(), starts, "no run twice");
    let mut until_start = Vec::new();
    for run in runs.as_array().unwrap() {
        let run = deployed.show(run);
        let delivery = run["event"]["source"]["delivery"].as_str().unwrap();
        let history = run["history"].as_array().unwrap();
        let started = history.iter().find(|line| line["kind"] == "step_started");
        let at: Timestamp = started.unwrap()["at"].as_str().unwrap().parse().unwrap();
        until_start.push(seconds(sent[delivery], at));
    }
    eprintln!(
        "{DELIVERIES} deliveries, {AT_ONCE} at a time: answered p50 {:.3} s, p99 {:.3} s; \
         from the request to the start of the step ({starts} of them): p50 {:.3} s, p99 {:.3} s",
        quantile(&mut answers, 50),
        quantile(&mut answers, 99),
        quantile(&mut until_start, 50),
        quantile(&mut until_start, 99),
    );
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}
