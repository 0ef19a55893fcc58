//! What the engine was asked in stories of the simulation, asked again over
//! DynamoDB: the same histories come of it as over the store in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use loopy_aws::DynamoStore;
use loopy_engine::memory::MemoryStore;
use loopy_simulation::{Story, record, replay};
use std::sync::Arc;

/// The emulator takes some milliseconds a call.
const SEEDS: u64 = 8;

#[tokio::test]
async fn the_same_stories_have_the_same_histories() {
    let mut lines = 0;
    for seed in 0..SEEDS {
        let recording = record(&Story::of(seed));
        let clock = recording.clock();
        let memory = Arc::new(MemoryStore::new(clock.clone()));
        let expected = replay(&recording, &clock, memory).await.unwrap();

        let mut account = Account::open().await;
        let table = account.make_table().await;
        let bucket = account.make_state_bucket().await;
        let clock = recording.clock();
        let store = DynamoStore::of_config(&account.config, &table, &bucket, clock.clone());
        let found = replay(&recording, &clock, Arc::new(store)).await.unwrap();
        assert_eq!(found, expected, "seed {seed}");
        lines += found.iter().map(|run| run.history.len()).sum::<usize>();
    }
    assert!(lines > 100, "the stories are too short: {lines} lines");
}
