//! State that an older build wrote: `older/state-1.sql` is a dump of version 1,
//! with two finished runs, and one in flight whose sandbox is gone.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::home::{follow, options};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::RunId;
use loopy_contract::report::FailureClass;
use loopy_engine::ports::RunFilter;
use loopy_engine::run::{RUN_SCHEMA, StepState};
use loopy_local::DbError;
use loopy_local::{LocalHome, State};
use rusqlite::Connection;
use std::path::Path;

const DUMP: &str = include_str!("older/state-1.sql");

/// The minute that all of the dump is from.
const WRITTEN: &str = "2026-11-21T09:36";

/// A project with the dump as its state, as if it were from a moment ago: a run
/// that is too old begins nothing new.
fn project() -> tempfile::TempDir {
    let project = tempfile::tempdir().unwrap();
    let state = project.path().join(".loopy");
    std::fs::create_dir(&state).unwrap();
    let minute = |at: Timestamp| at.to_string()[..WRITTEN.len()].to_owned();
    // The minute before this one: nothing of it lies ahead of what happens now.
    let now = minute(Timestamp::now() - SignedDuration::from_mins(1));
    let moment = |minute: &str| format!("{minute}:00Z").parse::<Timestamp>().unwrap();
    let shift = moment(&now).as_second() - moment(WRITTEN).as_second();
    let database = Connection::open(state.join("state.db")).unwrap();
    database
        .execute_batch(&DUMP.replace(WRITTEN, &now))
        .unwrap();
    database
        .execute(
            "UPDATE runs SET created_us = created_us + 1000000 * ?1",
            [shift],
        )
        .unwrap();
    database
        .execute(
            "UPDATE messages SET visible_ms = visible_ms + 1000 * ?1",
            [shift],
        )
        .unwrap();
    database.pragma_update(None, "user_version", 1).unwrap();
    project
}

fn all() -> RunFilter {
    RunFilter {
        limit: 99,
        ..RunFilter::default()
    }
}

async fn assert_three_runs(state: &State) {
    let runs = state.runs(&all()).await.unwrap();
    let found: Vec<_> = runs
        .iter()
        .map(|run| (run.id.as_str(), run.status.as_str(), run.event.as_str()))
        .collect();
    let expected = [
        ("greet-152bfd894c7771c0", "running", "Hello"),
        ("record-0bf89c3f9bf8bfc3", "succeeded", "Greeted"),
        ("greet-d1aab97af18ce4e9", "succeeded", "Hello"),
    ];
    assert_eq!(found, expected);
    for summary in &runs {
        let run = state.run(&summary.id).await.unwrap().unwrap();
        assert_eq!(run.summary(), *summary);
        assert_eq!(run.schema, RUN_SCHEMA);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_older_build_is_read_and_gone_on_with() {
    let project = project();
    let state = State::open(project.path()).unwrap();
    assert_three_runs(&state).await;
    let manifest = state.manifest().await.unwrap();
    drop(state);

    let home = LocalHome::open(options(project.path(), manifest))
        .await
        .unwrap();
    let state = home.state();
    assert_three_runs(&state).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(home.serve(async {
        let _ = stopped.await;
    }));
    let cascade = follow(&state, "hand-ac266a362c50ac6873c0a0f2").await;
    let [greet, record] = cascade.runs.as_slice() else {
        unreachable!("{cascade:?}")
    };
    assert_eq!(
        (greet.status.name(), record.status.name()),
        ("succeeded", "succeeded")
    );
    let measured = &greet.steps["measure"];
    assert!(matches!(measured.state, StepState::Succeeded { .. }));
    let failure = measured.attempts[0].failure.as_ref().unwrap();
    assert_eq!(failure.class, FailureClass::Lost);
    assert_eq!(measured.attempts.len(), 2);
    // What was finished stays as it was.
    let done = RunId::from("greet-d1aab97af18ce4e9");
    let done = state.run(&done).await.unwrap().unwrap();
    assert_eq!(done.steps["compose"].attempts.len(), 1);
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(state.dead_letters().await.unwrap().is_empty());
}

fn tables(path: &Path) -> Vec<String> {
    let database = Connection::open(path).unwrap();
    let mut names = database
        .prepare(
            "SELECT type || ' ' || name || ' ' || ifnull(sql, '') FROM sqlite_schema ORDER BY 1",
        )
        .unwrap();
    let names = names.query_map([], |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

#[test]
fn older_state_ends_up_with_the_tables_of_new_state() {
    let project = project();
    drop(State::open(project.path()).unwrap());
    let fresh = tempfile::tempdir().unwrap();
    drop(loopy_local::db::Db::open(fresh.path()).unwrap());
    let brought_up = tables(&project.path().join(".loopy/state.db"));
    assert_eq!(brought_up, tables(&fresh.path().join("state.db")));
}

#[test]
fn state_that_an_older_build_is_using_is_left_alone() {
    let project = project();
    let lock = std::fs::File::create(project.path().join(".loopy/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = State::open(project.path()).err().unwrap();
    assert!(matches!(error, DbError::Older { found: 1, .. }), "{error}");
    assert!(error.to_string().contains("older Loopy"), "{error}");
    drop(lock);
    drop(State::open(project.path()).unwrap());
}
