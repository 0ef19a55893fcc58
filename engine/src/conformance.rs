//! What every store has to do, as one suite that runs over each of them. A
//! store that passes it can stand behind the engine.

use crate::ports::{Commit, PortError, RunFilter, Store};
use crate::run::{Run, RunStatus};
use crate::transition;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::Manifest;
use serde_json::{Map, json};
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
    promise(
        "a first create is version 1",
        store.create(&run).await? == Commit::Done(1),
    )?;
    promise(
        "a second create conflicts",
        store.create(&run).await? == Commit::Conflict,
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
    promise(
        "a commit on the version stands",
        store.commit(&next, 1).await? == Commit::Done(2),
    )?;
    promise(
        "a stale commit conflicts",
        store.commit(&run, 1).await? == Commit::Conflict,
    )?;
    promise(
        "a version ahead conflicts",
        store.commit(&run, 7).await? == Commit::Conflict,
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
        store.commit(&absent, 1).await? == Commit::Conflict,
    )?;

    let contested = sample("alpha", &format!("{salt}-2"), later(10))?;
    store.create(&contested).await?;
    let mut won = 0_u32;
    for outcome in futures::future::join_all((0..8).map(|_| store.commit(&contested, 1))).await {
        won = won.saturating_add(u32::from(outcome? == Commit::Done(2)));
    }
    promise("of concurrent commits exactly one stands", won == 1)?;

    let other = sample("beta", &format!("{salt}-3"), later(20))?;
    store.create(&other).await?;
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
    )
}
