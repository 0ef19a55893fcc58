//! Many seeds, and the promise that a seed plays the same story each time.

#![expect(clippy::panic, reason = "tests")]

use loopy_simulation::{Story, check, play};

/// Seeds that every build plays, a quarter in each test, so that they share the
/// processors.
const SEEDS: u64 = 20_000;

fn the_laws_hold(quarter: u64) {
    for seed in (SEEDS / 4 * quarter)..(SEEDS / 4 * (quarter + 1)) {
        if let Some(failure) = check(seed) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_laws_hold_for_the_first_quarter() {
    the_laws_hold(0);
}

#[test]
fn the_laws_hold_for_the_second_quarter() {
    the_laws_hold(1);
}

#[test]
fn the_laws_hold_for_the_third_quarter() {
    the_laws_hold(2);
}

#[test]
fn the_laws_hold_for_the_fourth_quarter() {
    the_laws_hold(3);
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
