//! The store keeps what every store promises, and its own limits.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};
use loopy_aws::{DynamoStore, SystemClock};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::{EventId, ManifestHash, RunId};
use loopy_engine::memory::ManualClock;
use loopy_engine::ports::{Commit, RunFilter, Store};
use loopy_engine::run::{RUN_SCHEMA, Run, RunStatus};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn run(workflow: &str, number: usize, created_at: Timestamp) -> Run {
    let event = EventId(format!("evt-{number}"));
    Run {
        schema: RUN_SCHEMA,
        id: RunId::derive(workflow, &event),
        workflow: workflow.to_owned(),
        manifest: ManifestHash::from("m"),
        event: Event::root(event, "Go".to_owned(), Map::new(), Source::Hand, created_at),
        status: RunStatus::Running,
        steps: BTreeMap::new(),
        created_at,
        ended_at: None,
        history: Vec::new(),
        pending: Vec::new(),
    }
}

#[tokio::test]
async fn it_keeps_what_every_store_promises() {
    let mut account = Account::open().await;
    let table = account.make_table().await;
    let clock = Arc::new(SystemClock);
    let client = aws_sdk_dynamodb::Client::new(&account.config);
    let store = Arc::new(DynamoStore::new(client, table, clock));
    loopy_engine::conformance::store(store, Timestamp::now(), "dynamo")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_list_goes_on_until_its_limit_is_filled() {
    let mut account = Account::open().await;
    let table = account.make_table().await;
    let client = aws_sdk_dynamodb::Client::new(&account.config);
    let store = DynamoStore::new(client, table, Arc::new(SystemClock));
    // The ones looked for are the oldest, behind more than a page of others;
    // their times differ only by fractions of different lengths.
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut rare = Vec::new();
    for number in 0..130_usize {
        let workflow = if number < 3 { "rare" } else { "common" };
        let after = SignedDuration::from_micros(i64::try_from(number).unwrap() * 50_000);
        let run = run(workflow, number, start.checked_add(after).unwrap());
        assert_eq!(store.create(&run).await.unwrap(), Commit::Done(1));
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
async fn a_run_that_outgrows_an_item_is_refused_with_its_size() {
    let mut account = Account::open().await;
    let table = account.make_table().await;
    let client = aws_sdk_dynamodb::Client::new(&account.config);
    let store = DynamoStore::new(client, table, Arc::new(SystemClock));
    let mut big = run("big", 1, Timestamp::now());
    assert_eq!(store.create(&big).await.unwrap(), Commit::Done(1));
    big.event
        .fields
        .insert("text".to_owned(), json!("x".repeat(370 * 1024)));
    assert_eq!(store.commit(&big, 1).await.unwrap(), Commit::Done(2));
    big.event
        .fields
        .insert("text".to_owned(), json!("x".repeat(390 * 1024)));
    let error = store.commit(&big, 2).await.unwrap_err().to_string();
    assert!(error.contains(big.id.as_str()), "{error}");
    assert!(error.contains("bytes and an item holds 389120"), "{error}");
    assert_eq!(store.load(&big.id).await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_mark_ends_with_its_time_and_carries_it_for_the_table() {
    let mut account = Account::open().await;
    let table = account.make_table().await;
    let client = aws_sdk_dynamodb::Client::new(&account.config);
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let store = DynamoStore::new(client.clone(), &table, Arc::clone(&clock) as _);
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

    let item = client
        .get_item()
        .table_name(&table)
        .key("pk", AttributeValue::S("SEEN#d-1".to_owned()))
        .key("sk", AttributeValue::S("SEEN".to_owned()))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let removed_after = (now.as_second() + 2).to_string();
    assert_eq!(item["expires"], AttributeValue::N(removed_after));
}

#[tokio::test]
async fn a_missing_table_is_named_in_the_error() {
    let account = Account::open().await;
    let client = aws_sdk_dynamodb::Client::new(&account.config);
    let store = DynamoStore::new(client, "no-such-table", Arc::new(SystemClock));
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
