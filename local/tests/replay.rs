//! What the engine was asked in stories of the simulation, asked again over
//! SQLite: the same histories come of it as over the store in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_engine::memory::MemoryStore;
use loopy_engine::ports::Clock;
use loopy_local::db::Db;
use loopy_local::queue::SqliteQueue;
use loopy_local::store::SqliteStore;
use loopy_simulation::{Story, record, replay};
use std::sync::Arc;

const SEEDS: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_stories_have_the_same_histories() {
    let mut lines = 0;
    for seed in 0..SEEDS {
        let recording = record(&Story::of(seed));
        let clock = recording.clock();
        let memory = Arc::new(MemoryStore::new(clock.clone()));
        let expected = replay(&recording, &clock, memory).await.unwrap();

        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("state")).unwrap();
        let clock = recording.clock();
        let shared: Arc<dyn Clock> = clock.clone();
        let queue = SqliteQueue::new(db.clone(), Arc::clone(&shared));
        let store = Arc::new(SqliteStore::new(db, queue, shared));
        let found = replay(&recording, &clock, store).await.unwrap();
        assert_eq!(found, expected, "seed {seed}");
        lines += found.iter().map(|run| run.history.len()).sum::<usize>();
    }
    assert!(lines > 500, "the stories are too short: {lines} lines");
}
