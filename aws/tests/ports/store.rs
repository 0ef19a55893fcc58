//! The store keeps what every store promises, and its own limits.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use crate::account::Account;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use loopy_aws::{DynamoStore, SystemClock};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, ManifestHash, RunId};
use loopy_engine::memory::ManualClock;
use loopy_engine::ports::{Clock, Commit, RunFilter, Store};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{
    Attempt, HistoryLine, RUN_SCHEMA, Run, RunStatus, StepRun, StepState, Unit,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

fn run(workflow: &str, number: usize, created_at: Timestamp) -> Run {
    let event = EventId(format!("evt-{number}"));
    Run {
        schema: RUN_SCHEMA,
        id: RunId::derive(workflow, &event),
        workflow: workflow.to_owned(),
        manifest: ManifestHash::from("m"),
        event: Event::root(event, "Go".to_owned(), Map::new(), Source::Hand, created_at),
        origin: None,
        status: RunStatus::Running,
        steps: BTreeMap::new(),
        created_at,
        ended_at: None,
        commands: BTreeSet::new(),
        history: Vec::new(),
        pending: Vec::new(),
    }
}

/// A table and its bucket.
struct State {
    table: String,
    bucket: String,
}

impl State {
    async fn make(account: &mut Account) -> Self {
        Self {
            table: account.make_table().await,
            bucket: account.make_state_bucket().await,
        }
    }

    /// A store that knows nothing yet.
    fn store(&self, account: &Account, clock: Arc<dyn Clock>) -> DynamoStore {
        DynamoStore::of_config(&account.config, &self.table, &self.bucket, clock)
    }

    async fn item(&self, account: &Account, pk: &str, sk: &str) -> HashMap<String, AttributeValue> {
        aws_sdk_dynamodb::Client::new(&account.config)
            .get_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(pk.to_owned()))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .send()
            .await
            .unwrap()
            .item
            .unwrap()
    }

    /// The keys of all objects.
    async fn objects(&self, account: &Account) -> Vec<String> {
        let listed = loopy_aws::config::s3_client(&account.config)
            .list_objects_v2()
            .bucket(&self.bucket)
            .send()
            .await
            .unwrap();
        let objects = listed.contents.unwrap_or_default();
        objects
            .into_iter()
            .filter_map(|object| object.key)
            .collect()
    }
}

async fn created(store: &DynamoStore, run: &Run) {
    let Commit::Done(stored) = store.create(run.clone()).await.unwrap() else {
        panic!("{} was there", run.id);
    };
    assert_eq!((&stored.run, stored.version), (run, 1));
}

async fn committed(store: &DynamoStore, run: &Run, version: u64) {
    let Commit::Done(stored) = store.commit(run.clone(), version).await.unwrap() else {
        panic!("{} was changed", run.id);
    };
    assert_eq!(stored.version, version + 1);
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = Arc::new(state.store(&account, Arc::new(SystemClock)));
    loopy_engine::conformance::store(store, Timestamp::now(), "dynamo")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_list_goes_on_until_its_limit_is_filled() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    // The ones looked for are the oldest, behind more than a page of others;
    // their times differ only by fractions of different lengths.
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut rare = Vec::new();
    for number in 0..130_usize {
        let workflow = if number < 3 { "rare" } else { "common" };
        let after = SignedDuration::from_micros(i64::try_from(number).unwrap() * 50_000);
        let run = run(workflow, number, start.checked_add(after).unwrap());
        created(&store, &run).await;
        if workflow == "rare" {
            rare.insert(0, run.id);
        }
    }
    let found = |workflow: Option<&str>, limit| {
        let filter = RunFilter {
            workflow: workflow.map(str::to_owned),
            status: Some("running".to_owned()),
            limit,
        };
        let store = store.clone();
        async move { store.list(&filter).await.unwrap() }
    };
    let ids: Vec<_> = found(Some("rare"), 10)
        .await
        .into_iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(ids, rare);
    let all = found(None, 1000).await;
    assert_eq!(all.len(), 130);
    assert!(all.is_sorted_by(|a, b| a.created_at > b.created_at));
    assert_eq!(found(None, 120).await.len(), 120);
    assert_eq!(found(None, 0).await.len(), 0);
    let unfiltered = RunFilter {
        limit: 125,
        ..RunFilter::default()
    };
    assert_eq!(store.list(&unfiltered).await.unwrap().len(), 125);
}

#[tokio::test]
async fn events_are_listed_by_age_beside_the_runs_and_by_name() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    created(&store, &run("other", 1, start)).await;
    let mut written = Vec::new();
    for number in 0..120_i64 {
        let name = if number % 40 == 0 { "Rare" } else { "Common" };
        let at = start
            .checked_add(SignedDuration::from_millis(number * 50))
            .unwrap();
        let id = EventId(format!("evt-{number}-{}", "long".repeat(300)));
        let record = EventRecord {
            event: Event::root(id, name.to_owned(), Map::new(), Source::Hand, at),
            recorded_at: at,
            outcomes: BTreeMap::new(),
        };
        assert!(store.write_event(&record, 0).await.unwrap());
        written.insert(0, record);
    }
    let all = EventFilter {
        limit: 1000,
        ..EventFilter::default()
    };
    assert_eq!(store.events(&all).await.unwrap(), written);
    let rare = EventFilter {
        name: Some("Rare".to_owned()),
        limit: 2,
        ..EventFilter::default()
    };
    let found = store.events(&rare).await.unwrap();
    written.retain(|record| record.event.name == "Rare");
    assert_eq!(found, written[..2]);
    assert_eq!(
        store
            .list(&RunFilter {
                limit: 9,
                ..RunFilter::default()
            })
            .await
            .unwrap()
            .len(),
        1
    );

    let (pk, expires) = ("EVENT#short", "2026-04-01T00:00:01Z");
    let mut record = found[0].clone();
    record.event.id = EventId::from("short");
    record.recorded_at = start;
    assert!(store.write_event(&record, 0).await.unwrap());
    let item = state.item(&account, pk, "EVENT").await;
    let expires: Timestamp = expires.parse().unwrap();
    assert_eq!(
        item["expires"],
        AttributeValue::N(expires.as_second().to_string())
    );
}

fn succeeded(output: Value) -> StepRun {
    StepRun {
        state: StepState::Succeeded { output },
        iteration: 1,
        previous: None,
        files: None,
        attempts: Vec::new(),
    }
}

/// Text that does not compress to nothing.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

#[tokio::test]
async fn a_run_of_several_megabytes_is_kept_and_its_parts_are_written_once() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    let mut big = run("big", 1, Timestamp::now());
    let fields = json!({"text": noise(0, 200_000), "$ref": "state/x", "at": "/event/fields"});
    big.event.fields = fields.as_object().unwrap().clone();
    created(&store, &big).await;
    for (version, step) in (1..=25_u64).enumerate() {
        let output = json!({"text": noise(step, 250_000)});
        big.steps
            .insert(format!("a/step~{step}"), succeeded(output));
        committed(&store, &big, version as u64 + 1).await;
    }
    assert!(serde_json::to_string(&big).unwrap().len() > 6_000_000);
    // Another process knows nothing of what this one keeps.
    let found = state
        .store(&account, Arc::new(SystemClock))
        .load(&big.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&found.run, found.version), (&big, 26));
    let objects = state.objects(&account).await;
    assert_eq!(objects.len(), 26);
    let folder = format!("state/{}/", big.id);
    assert!(
        objects.iter().all(|key| key.starts_with(&folder)),
        "{objects:?}"
    );

    // It ends, and then has its time.
    big.status = RunStatus::Succeeded;
    big.ended_at = Some("2026-01-01T00:00:00Z".parse().unwrap());
    committed(&store, &big, 26).await;
    let item = state
        .item(&account, &format!("RUN#{}", big.id), "RUN")
        .await;
    let expires: Timestamp = "2026-04-01T00:00:01Z".parse().unwrap();
    assert_eq!(
        item["expires"],
        AttributeValue::N(expires.as_second().to_string())
    );
    assert_eq!(state.objects(&account).await.len(), 26);

    // What is gone or changed is said by name, and never read as something else.
    let s3 = loopy_aws::config::s3_client(&account.config);
    s3.put_object()
        .bucket(&state.bucket)
        .key(&objects[0])
        .body(b"{}".to_vec().into())
        .send()
        .await
        .unwrap();
    let cold = || state.store(&account, Arc::new(SystemClock));
    let error = cold().load(&big.id).await.unwrap_err().to_string();
    assert!(
        error.contains(&objects[0]) && error.contains("has the hash"),
        "{error}"
    );
    s3.delete_object()
        .bucket(&state.bucket)
        .key(&objects[0])
        .send()
        .await
        .unwrap();
    let error = cold().load(&big.id).await.unwrap_err().to_string();
    assert!(
        error.contains(&objects[0]) && error.contains("NoSuchKey"),
        "{error}"
    );
}

#[tokio::test]
async fn a_step_with_five_hundred_items_is_kept_while_it_goes_on() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    let now = Timestamp::now();
    let mut wide = run("wide", 1, now);
    let items = 500_u32;
    let attempts = |done: u32| {
        (1..=items.min(done + 10))
            .map(|number| Attempt {
                number,
                iteration: 1,
                item: Some(number - 1),
                queued_at: now,
                started_at: Some(now),
                limit_at: Some(now),
                checks: 0,
                ended_at: (number <= done).then_some(now),
                usage: None,
                failure: None,
                sandbox: None,
                grant: None,
            })
            .collect()
    };
    let unit = |attempt: u32, done: u32| {
        if attempt > done {
            return Unit::Idle;
        }
        let output = json!({"text": noise(u64::from(attempt), 1_000)});
        Unit::Succeeded {
            attempt,
            output: output.as_object().unwrap().clone(),
            emits: BTreeMap::new(),
            files: None,
        }
    };
    let mut version = 1;
    created(&store, &wide).await;
    let mut after = Vec::new();
    for done in (0..=items).step_by(25) {
        let step = StepRun {
            state: StepState::Working {
                units: (1..=items).map(|attempt| unit(attempt, done)).collect(),
            },
            iteration: 1,
            previous: None,
            files: None,
            attempts: attempts(done),
        };
        wide.steps.insert("work".to_owned(), step);
        wide.history = (0..done * 4)
            .map(|line| HistoryLine {
                at: now,
                kind: "step_started".to_owned(),
                step: Some("work".to_owned()),
                attempt: Some(line),
                command: None,
                note: "limit 3600 s".to_owned(),
            })
            .collect();
        committed(&store, &wide, version).await;
        version += 1;
        let cold = state.store(&account, Arc::new(SystemClock));
        let found = cold.load(&wide.id).await.unwrap().unwrap();
        assert!(found.run == wide, "after {done}");
        after.push(state.objects(&account).await.len());
    }
    // Ten pieces of items, ten of attempts and forty of history, and the few that
    // were cut before they were whole: not one for each commit.
    assert!(*after.last().unwrap() < 120, "{after:?}");
}

#[tokio::test]
async fn a_run_larger_than_any_function_holds_is_refused_with_its_size() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    let mut big = run("big", 1, Timestamp::now());
    created(&store, &big).await;
    let output = json!({"text": "x".repeat(17 * 1024 * 1024)});
    big.steps.insert("much".to_owned(), succeeded(output));
    let error = store.commit(big.clone(), 1).await.unwrap_err().to_string();
    assert!(error.contains(big.id.as_str()), "{error}");
    assert!(error.contains("bytes and may have 16777216"), "{error}");
    assert_eq!(store.load(&big.id).await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn large_events_and_documents_are_kept_too() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::new(SystemClock));
    let cold = || state.store(&account, Arc::new(SystemClock));
    let now = Timestamp::now();
    let id = EventId(format!("über/../{}", "x".repeat(900)));
    let fields = json!({"text": noise(1, 900_000)});
    let fields = fields.as_object().unwrap().clone();
    let record = EventRecord {
        event: Event::root(id.clone(), "Go".to_owned(), fields, Source::Hand, now),
        recorded_at: now,
        outcomes: BTreeMap::new(),
    };
    assert!(store.write_event(&record, 0).await.unwrap());
    assert!(!store.write_event(&record, 0).await.unwrap());
    assert!(store.write_event(&record, 1).await.unwrap());
    assert_eq!(cold().event(&id).await.unwrap(), Some((record.clone(), 2)));
    let all = EventFilter {
        limit: 5,
        ..EventFilter::default()
    };
    assert_eq!(cold().events(&all).await.unwrap(), [record]);

    let key = format!("debounce/{}", "k".repeat(3000));
    let long = json!(noise(2, 900_000)).to_string();
    let texts = ["1", &long, "2", &long, "3"];
    for (version, text) in texts.iter().enumerate() {
        let expected = (version % 2 == 0).then_some(version as u64);
        let written = store.write_document(&key, text, expected, now).await;
        assert!(written.unwrap());
        let found = cold().document(&key).await.unwrap().unwrap();
        assert_eq!(
            (found.text.as_str(), found.version),
            (*text, version as u64 + 1)
        );
    }
    assert_eq!(state.objects(&account).await.len(), 2);
}

#[tokio::test]
async fn a_run_that_an_older_build_stored_is_read() {
    let mut account = Account::open().await;
    let state = State::make(&mut account).await;
    let body = json!({
        "schema": 1, "id": "w-1", "workflow": "w", "manifest": "m",
        "event": {
            "id": "e", "name": "Go", "fields": {}, "source": {"kind": "hand"},
            "emitted_at": "2026-11-21T09:00:00Z", "cascade": "e", "depth": 0,
        },
        "status": {"kind": "running"},
        "steps": {"s": {"state": {"kind": "queued", "attempt": 1}, "attempts": []}},
        "created_at": "2026-11-21T09:00:00Z", "ended_at": null, "history": [], "pending": [],
    });
    aws_sdk_dynamodb::Client::new(&account.config)
        .put_item()
        .table_name(&state.table)
        .item("pk", AttributeValue::S("RUN#w-1".to_owned()))
        .item("sk", AttributeValue::S("RUN".to_owned()))
        .item("version", AttributeValue::N("3".to_owned()))
        .item("body", AttributeValue::S(body.to_string()))
        .send()
        .await
        .unwrap();
    let store = state.store(&account, Arc::new(SystemClock));
    let found = store.load(&RunId::from("w-1")).await.unwrap().unwrap();
    assert_eq!((found.run.schema, found.version), (RUN_SCHEMA, 3));
    assert!(found.run.wants_turn("s", 1));
    committed(&store, &found.run, 3).await;
    let again = store.load(&RunId::from("w-1")).await.unwrap().unwrap();
    assert_eq!((again.run, again.version), (found.run, 4));
}

#[tokio::test]
async fn a_mark_ends_with_its_time_and_carries_it_for_the_table() {
    let mut account = Account::open().await;
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let state = State::make(&mut account).await;
    let store = state.store(&account, Arc::clone(&clock) as _);
    let expires = now.checked_add(SignedDuration::from_millis(1500)).unwrap();
    store.mark_seen("d-1", expires).await.unwrap();
    let long = "é".repeat(2000);
    store.mark_seen(&long, expires).await.unwrap();
    assert!(store.seen("d-1").await.unwrap());
    assert!(store.seen(&long).await.unwrap());
    assert!(!store.seen(&"é".repeat(1999)).await.unwrap());
    clock.advance(SignedDuration::from_millis(1499));
    assert!(store.seen("d-1").await.unwrap());
    clock.advance(SignedDuration::from_millis(1));
    assert!(!store.seen("d-1").await.unwrap());

    let item = state.item(&account, "SEEN#d-1", "SEEN").await;
    let removed_after = (now.as_second() + 2).to_string();
    assert_eq!(item["expires"], AttributeValue::N(removed_after));
}

#[tokio::test]
async fn a_missing_table_is_named_in_the_error() {
    let account = Account::open().await;
    let config = &account.config;
    let store = DynamoStore::of_config(config, "no-such-table", "none", Arc::new(SystemClock));
    let error = store
        .load(&RunId::from("greet-1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("read run greet-1 (table no-such-table): ResourceNotFound"),
        "{error}"
    );
}
