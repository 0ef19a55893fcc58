//! Many seeds, and the promise that a seed plays the same story each time.

#![expect(clippy::panic, reason = "tests")]

use loopy_simulation::{Story, check, play};

/// Seeds that every build plays.
const SEEDS: u64 = 20_000;

#[test]
fn the_laws_hold_for_twenty_thousand_seeds() {
    for seed in 0..SEEDS {
        if let Some(failure) = check(seed) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_plays_the_same_story_each_time() {
    for seed in 0..50 {
        let story = Story::of(seed);
        let (one, two, quiet) = (play(&story, true), play(&story, true), play(&story, false));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!((one.hash, one.polls), (two.hash, two.polls), "seed {seed}");
        assert_eq!(one.hash, quiet.hash, "seed {seed}: the trace is in the way");
        assert!(one.trace.len() > 10, "seed {seed} does nothing");
    }
}
