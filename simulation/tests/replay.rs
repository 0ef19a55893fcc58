//! A recording asks enough to tell two stores apart.

#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_engine::memory::MemoryStore;
use loopy_simulation::{Story, record, replay};
use std::sync::Arc;

#[tokio::test]
async fn a_recording_comes_to_the_same_histories_each_time() {
    let (mut runs, mut lines) = (0, 0);
    for seed in 0..20 {
        let recording = record(&Story::of(seed));
        let mut ended = Vec::new();
        for _ in 0..2 {
            let clock = recording.clock();
            let store = Arc::new(MemoryStore::new(clock.clone()));
            ended.push(replay(&recording, &clock, store).await.unwrap());
        }
        assert_eq!(ended[0], ended[1], "seed {seed}");
        runs += ended[0].len();
        lines += ended[0].iter().map(|run| run.history.len()).sum::<usize>();
    }
    assert!(runs > 30 && lines > 300, "{runs} runs, {lines} lines");
}
