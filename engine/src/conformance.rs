//! What every store has to do, as one suite that runs over each of them. A
//! store that passes it can stand behind the engine.

use crate::ports::{Commit, MAX_SNAPSHOT, PortError, RunFilter, Store};
use crate::record::{Decision, EventFilter, EventOutcome, EventRecord};
use crate::run::{Run, RunStatus};
use crate::transition;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::Manifest;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A promise that a store does not keep.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The promise, as a sentence.
    #[error("a store has to keep this: {0}")]
    Promise(&'static str),
    /// A call failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

fn promise(sentence: &'static str, kept: bool) -> Result<(), Broken> {
    if kept {
        Ok(())
    } else {
        Err(Broken::Promise(sentence))
    }
}

fn sample(workflow: &str, event: &str, at: Timestamp) -> Result<Run, Broken> {
    let manifest: Manifest = serde_json::from_value(json!({
        "schema_version": "3", "loopy_version": "0", "hash": "m",
        "registry": {"sandboxes": {}, "agents": {}, "events": {}},
        "workflows": {workflow: {"entry": "one", "steps": {"one": {
            "id": format!("{workflow}/one"), "trigger": {"kind": "event", "event": "Go"},
            "after": [], "agent": null, "output": {}, "emits": [], "budget": null,
            "body": "x", "refs": []}}}},
        "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
    }))
    .map_err(|error| PortError::new("build the sample manifest", error))?;
    let event = Event::root(
        EventId::from(event),
        "Go".to_owned(),
        Map::new(),
        Source::Hand,
        at,
    );
    transition::begin(&manifest, workflow, &event, at)
        .ok_or(Broken::Promise("the sample workflow begins"))
}

/// Runs the suite over an empty store. `salt` keeps apart the ids of suites
/// that share one.
///
/// # Errors
/// The first promise that is not kept.
pub async fn store(store: Arc<dyn Store>, now: Timestamp, salt: &str) -> Result<(), Broken> {
    let later = |seconds| {
        now.checked_add(SignedDuration::from_secs(seconds))
            .unwrap_or(now)
    };

    let run = sample("alpha", &format!("{salt}-1"), now)?;
    promise(
        "an unknown run is none",
        store.load(&run.id).await?.is_none(),
    )?;
    // What is given back is what stands there: a store may have performed some of
    // the effects, and nothing else.
    let run = match store.create(run.clone()).await? {
        Commit::Done(stored) => {
            promise("a first create is version 1", stored.version == 1)?;
            let mut bare = stored.run.clone();
            bare.pending.clone_from(&run.pending);
            promise("only effects are taken out of a run", bare == run)?;
            stored.run
        }
        Commit::Conflict => return Err(Broken::Promise("a first create stands")),
    };
    promise(
        "a second create conflicts",
        conflicts(store.create(run.clone()).await?),
    )?;
    let stored = store
        .load(&run.id)
        .await?
        .ok_or(Broken::Promise("a created run is there"))?;
    promise(
        "a run comes back as it was",
        stored.run == run && stored.version == 1,
    )?;

    let mut next = run.clone();
    next.status = RunStatus::Succeeded;
    next.ended_at = Some(later(1));
    match store.commit(next.clone(), 1).await? {
        Commit::Done(stored) => promise("a commit counts the version up", stored.version == 2)?,
        Commit::Conflict => return Err(Broken::Promise("a commit on the version stands")),
    }
    promise(
        "a stale commit conflicts",
        conflicts(store.commit(run.clone(), 1).await?),
    )?;
    promise(
        "a version ahead conflicts",
        conflicts(store.commit(run.clone(), 7).await?),
    )?;
    let stored = store
        .load(&run.id)
        .await?
        .ok_or(Broken::Promise("a committed run is there"))?;
    promise(
        "the commit is what is read",
        stored.run == next && stored.version == 2,
    )?;
    let absent = sample("alpha", &format!("{salt}-absent"), now)?;
    promise(
        "an absent run conflicts",
        conflicts(store.commit(absent, 1).await?),
    )?;

    let contested = sample("alpha", &format!("{salt}-2"), later(10))?;
    store.create(contested.clone()).await?;
    let mut won = 0_u32;
    let all = (0..8).map(|_| store.commit(contested.clone(), 1));
    for outcome in futures::future::join_all(all).await {
        won = won.saturating_add(u32::from(!conflicts(outcome?)));
    }
    promise("of concurrent commits exactly one stands", won == 1)?;

    let other = sample("beta", &format!("{salt}-3"), later(20))?;
    store.create(other.clone()).await?;
    let list = |workflow: Option<&str>, status: Option<&str>, limit| RunFilter {
        workflow: workflow.map(str::to_owned),
        status: status.map(str::to_owned),
        limit,
    };
    let ids = |runs: Vec<crate::run::RunSummary>| -> Vec<_> {
        runs.into_iter().map(|run| run.id).collect()
    };
    let all = ids(store.list(&list(None, None, 10)).await?);
    let order = vec![other.id.clone(), contested.id.clone(), run.id.clone()];
    promise("a list is newest first", all == order)?;
    let first = ids(store.list(&list(None, None, 1)).await?);
    promise("a list keeps to its limit", first == vec![other.id.clone()])?;
    let alpha = ids(store.list(&list(Some("alpha"), None, 10)).await?);
    promise(
        "a list is filtered by workflow",
        alpha == vec![contested.id, run.id.clone()],
    )?;
    let ended = ids(store.list(&list(None, Some("succeeded"), 1)).await?);
    promise("a filter comes before the limit", ended == vec![run.id])?;

    let delivery = format!("{salt}-delivery");
    promise("an unmarked delivery is new", !store.seen(&delivery).await?)?;
    store.mark_seen(&delivery, later(60)).await?;
    promise("a marked delivery is seen", store.seen(&delivery).await?)?;
    let old = format!("{salt}-old");
    store.mark_seen(&old, later(-60)).await?;
    promise("an expired mark is forgotten", !store.seen(&old).await?)?;

    let mark = format!("{salt}-mark");
    promise(
        "an unset watermark is none",
        store.watermark(&mark).await?.is_none(),
    )?;
    store.set_watermark(&mark, now).await?;
    store.set_watermark(&mark, later(5)).await?;
    promise(
        "a watermark is the last one set",
        store.watermark(&mark).await? == Some(later(5)),
    )?;
    snapshots(&*store, now, later(5), salt).await?;
    documents(&*store, later(3600), salt).await?;
    events(&*store, now, salt).await
}

fn conflicts(commit: Commit) -> bool {
    matches!(commit, Commit::Conflict)
}

async fn snapshots(
    store: &dyn Store,
    first: Timestamp,
    second: Timestamp,
    salt: &str,
) -> Result<(), Broken> {
    let mark = format!("{salt}-snapshot");
    promise(
        "an unset snapshot is none",
        store.snapshot(&mark).await?.is_none(),
    )?;
    store.set_watermark(&mark, first).await?;
    promise(
        "a watermark alone has an empty text beside it",
        store.snapshot(&mark).await? == Some((first, String::new())),
    )?;
    let longest = "\u{e9}".repeat(MAX_SNAPSHOT / 2);
    promise(
        "a snapshot that must be the first is not written over a watermark",
        !store.set_snapshot(&mark, None, first, "[0]").await?,
    )?;
    promise(
        "a snapshot is written over the watermark that was read",
        store.set_snapshot(&mark, Some(first), first, "[1]").await?
            && store
                .set_snapshot(&mark, Some(first), second, &longest)
                .await?,
    )?;
    promise(
        "a snapshot is not written over another watermark",
        !store.set_snapshot(&mark, Some(first), first, "[2]").await?,
    )?;
    promise(
        "a snapshot is the last one set, whole, with its watermark",
        store.snapshot(&mark).await? == Some((second, longest)),
    )?;
    promise(
        "a snapshot sets the watermark",
        store.watermark(&mark).await? == Some(second),
    )?;
    let fresh = format!("{mark}-fresh");
    promise(
        "a snapshot over a watermark that is not there is not written",
        !store
            .set_snapshot(&fresh, Some(first), second, "[]")
            .await?
            && store.snapshot(&fresh).await?.is_none(),
    )?;
    let mut won = 0_u32;
    let all = (0..8).map(|_| store.set_snapshot(&fresh, None, first, "[3]"));
    for outcome in futures::future::join_all(all).await {
        won = won.saturating_add(u32::from(outcome?));
    }
    promise("of concurrent first snapshots exactly one stands", won == 1)
}

async fn documents(store: &dyn Store, expires: Timestamp, salt: &str) -> Result<(), Broken> {
    // As long as names of runs and steps can make it.
    let key = format!("{salt}/{}/ü \u{1f600}", "key".repeat(700));
    promise(
        "an unknown document is none",
        store.document(&key).await?.is_none(),
    )?;
    let write = |text: &'static str, expected| store.write_document(&key, text, expected, expires);
    promise(
        "one that must be there is not made",
        !write("\"a\"", Some(1)).await?,
    )?;
    promise(
        "one that must not be there is made",
        write("\"a\"", Some(0)).await?,
    )?;
    promise("it is not made twice", !write("\"b\"", Some(0)).await?)?;
    let found = store.document(&key).await?;
    promise(
        "a document comes back as it was",
        found.is_some_and(|found| found.text == "\"a\"" && found.version == 1),
    )?;
    promise("the version lets through", write("\"c\"", Some(1)).await?)?;
    promise("an old version does not", !write("\"d\"", Some(1)).await?)?;
    promise(
        "without a version it is written",
        write("\"e\"", None).await?,
    )?;
    let found = store.document(&key).await?;
    promise(
        "each write counts the version up",
        found.is_some_and(|found| found.text == "\"e\"" && found.version == 3),
    )?;
    let other = format!("{key}-");
    promise(
        "another key is another document",
        store.document(&other).await?.is_none(),
    )?;
    promise(
        "without a version it is made",
        store.write_document(&other, "1", None, expires).await?,
    )?;
    let mut won = 0_u32;
    let all = (0..8).map(|_| store.write_document(&other, "2", Some(1), expires));
    for outcome in futures::future::join_all(all).await {
        won = won.saturating_add(u32::from(outcome?));
    }
    promise("of concurrent writes exactly one stands", won == 1)
}

async fn events(store: &dyn Store, now: Timestamp, salt: &str) -> Result<(), Broken> {
    let record = |id: &str, name: &str, seconds| {
        let at = now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap_or(now);
        let id = EventId::from(format!("{salt}-{id}").as_str());
        EventRecord {
            event: Event::root(id, name.to_owned(), Map::new(), Source::Hand, at),
            recorded_at: at,
            outcomes: BTreeMap::new(),
        }
    };
    let one = record("one", "Go", 0);
    promise(
        "an unknown event is none",
        store.event(&one.event.id).await?.is_none(),
    )?;
    promise(
        "an event is written once",
        store.write_event(&one, 0).await?,
    )?;
    promise("and not twice", !store.write_event(&one, 0).await?)?;
    let mut more = one.clone();
    let decision = Decision::Refused {
        because: "x".to_owned(),
    };
    more.outcomes
        .insert("w".to_owned(), EventOutcome { at: now, decision });
    promise(
        "its version lets through",
        store.write_event(&more, 1).await?,
    )?;
    promise(
        "an old version does not",
        !store.write_event(&one, 1).await?,
    )?;
    promise(
        "an event comes back as it was written last",
        store.event(&one.event.id).await? == Some((more.clone(), 2)),
    )?;
    let (two, three) = (record("two", "Stop", 1), record("three", "Go", 2));
    store.write_event(&two, 0).await?;
    store.write_event(&three, 0).await?;
    let list = |name: Option<&str>, limit| {
        let name = name.map(str::to_owned);
        EventFilter {
            name,
            limit,
            ..EventFilter::default()
        }
    };
    let all = store.events(&list(None, 10)).await?;
    promise(
        "events are listed newest first",
        all == [three.clone(), two.clone(), more.clone()],
    )?;
    let go = store.events(&list(Some("Go"), 10)).await?;
    promise(
        "they are filtered by name",
        go == [three.clone(), more.clone()],
    )?;
    let first = store.events(&list(None, 1)).await?;
    promise(
        "a list of events keeps to its limit",
        first == [three.clone()],
    )?;
    let second = |seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok();
    let between = |since, until, name: Option<&str>| EventFilter {
        name: name.map(str::to_owned),
        since,
        until,
        limit: 10,
    };
    let found = store.events(&between(second(1), second(2), None)).await?;
    promise(
        "a list of events begins with its first moment and ends before its last",
        found == [two.clone()],
    )?;
    let found = store.events(&between(second(1), None, Some("Go"))).await?;
    promise("it may be of one name and of some time", found == [three])?;
    let found = store.events(&between(None, second(2), None)).await?;
    promise("and have no beginning", found == [two, more])
}
