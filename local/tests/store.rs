//! The database and the store over it.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use jiff::Timestamp;
use loopy_contract::ids::{ManifestHash, sha256_hex};
use loopy_engine::ports::{Clock, Manifests};
use loopy_local::DbError;
use loopy_local::clock::SystemClock;
use loopy_local::db::{Db, ReadDb};
use loopy_local::manifests::{KeepError, LocalManifests};
use loopy_local::queue::SqliteQueue;
use loopy_local::store::SqliteStore;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_what_every_store_promises() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("state")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock));
    let store = Arc::new(SqliteStore::new(db, queue, Arc::clone(&clock)));
    loopy_engine::conformance::store(store, clock.now(), "sqlite")
        .await
        .unwrap();
}

#[tokio::test]
async fn state_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("project/.loopy");
    let db = Db::open(&state).unwrap();
    db.write(|connection| connection.execute("DELETE FROM seen", []))
        .await
        .unwrap();
    assert_eq!(mode(&state), 0o700);
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Db::open(dir.path()).unwrap());
    let raw = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    for error in [
        Db::open(dir.path()).err().unwrap(),
        ReadDb::open(dir.path()).err().unwrap(),
    ] {
        assert!(matches!(error, DbError::Newer { found: 99, .. }), "{error}");
        assert!(error.to_string().contains("newer Loopy"), "{error}");
    }
}

#[test]
fn a_project_that_never_ran_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let error = ReadDb::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("nothing has run"), "{error}");
}

#[test]
fn a_file_that_is_no_database_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state.db"), "x".repeat(5000)).unwrap();
    let error = Db::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("state.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_fails_is_undone_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..600_i64 {
        let db = db.clone();
        tasks.spawn(async move {
            let outcome = db
                .write(move |connection| {
                    connection.execute(
                        "INSERT INTO seen (delivery, expires) VALUES (?1, 0)",
                        [index.to_string()],
                    )?;
                    // Every third breaks after it has written.
                    let sql = if index % 3 == 0 {
                        "SELECT * FROM nowhere"
                    } else {
                        "SELECT 1"
                    };
                    connection.query_row(sql, [], |_| Ok(()))
                })
                .await;
            (index, outcome.is_ok())
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (index, ok) = done.unwrap();
        assert_eq!(ok, index % 3 != 0, "{index}");
    }
    let kept: i64 = db
        .read(|connection| connection.query_row("SELECT COUNT(*) FROM seen", [], |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(kept, 400);
}

#[tokio::test]
async fn closing_waits_for_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.write(|c| c.execute("INSERT INTO watermarks VALUES ('w', 'x')", []))
        .await
        .unwrap();
    drop(db);
    // The log was folded into the file.
    assert!(!dir.path().join("state.db-wal").exists());
}

#[tokio::test]
async fn a_run_keeps_the_manifest_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let old = common::manifest(common::two_workflows(), json!([]));
    let new = common::manifest(json!({}), json!([]));
    let skill = b"a skill".to_vec();
    let files = BTreeMap::from([(sha256_hex(&skill), skill.clone())]);
    let first = LocalManifests::open(db.clone(), dir.path(), old.clone(), &files)
        .await
        .unwrap();
    drop(first);
    let second = LocalManifests::open(db, dir.path(), new.clone(), &BTreeMap::new())
        .await
        .unwrap();
    assert_eq!(*second.current().await.unwrap(), new);
    assert_eq!(*second.get(&old.id()).await.unwrap(), old);
    assert_eq!(
        second.file(&sha256_hex(&skill)).await.unwrap(),
        skill,
        "files outlive it too"
    );
    assert!(second.get(&ManifestHash::from("nope")).await.is_err());
    let climbing = second.file("../state.db").await.unwrap_err();
    assert!(
        climbing.to_string().contains("not a content hash"),
        "{climbing}"
    );

    std::fs::write(
        dir.path().join("objects").join(sha256_hex(&skill)),
        "changed",
    )
    .unwrap();
    assert!(
        second.file(&sha256_hex(&skill)).await.is_err(),
        "changed files are not served"
    );
}

#[tokio::test]
async fn files_that_are_not_what_their_hash_says_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let files = BTreeMap::from([(sha256_hex(b"a"), b"b".to_vec())]);
    let manifest = common::manifest(json!({}), json!([]));
    let refused = LocalManifests::open(db, dir.path(), manifest, &files)
        .await
        .err()
        .unwrap();
    assert!(matches!(refused, KeepError::Content(_)), "{refused}");
}

#[tokio::test]
async fn marks_of_deliveries_do_not_pile_up() {
    use loopy_engine::ports::Store;
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let queue = SqliteQueue::new(db.clone(), Arc::clone(&clock));
    let store = SqliteStore::new(db.clone(), queue, clock);
    for index in 0..50 {
        store
            .mark_seen(&format!("old-{index}"), Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
    }
    let left: i64 = db
        .read(|connection| connection.query_row("SELECT COUNT(*) FROM seen", [], |row| row.get(0)))
        .await
        .unwrap();
    assert!(left <= 4, "{left} expired marks are kept");
}
