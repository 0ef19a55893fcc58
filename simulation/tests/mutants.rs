//! Each deliberate bug is noticed, within few seeds.

#![expect(clippy::panic, reason = "tests")]

use loopy_simulation::{Mutant, Story, play};

/// How many seeds a bug may live through.
const PATIENCE: u64 = 3_000;

fn is_caught(mutant: Mutant) {
    let story = |seed| Story {
        mutant: Some(mutant),
        ..Story::of(seed)
    };
    let caught = (0..PATIENCE).find(|seed| play(&story(*seed), false).broken.is_some());
    let Some(seed) = caught else {
        panic!("{mutant:?} was not noticed in {PATIENCE} seeds");
    };
    // It is the bug that breaks the law, not the seed.
    let sound = play(&Story::of(seed), false);
    assert_eq!(sound.broken, None, "seed {seed} breaks a law by itself");
}

#[test]
fn acknowledging_before_the_commit_loses_work() {
    is_caught(Mutant::AckBeforeCommit);
}

#[test]
fn effects_before_the_commit_tell_of_what_never_was() {
    is_caught(Mutant::EffectsBeforeCommit);
}

#[test]
fn an_event_published_under_another_id_is_another_event() {
    is_caught(Mutant::RandomEventId);
}

#[test]
fn a_sandbox_launched_under_another_token_is_left() {
    is_caught(Mutant::RandomClientToken);
}

#[test]
fn a_store_that_ignores_the_version_forgets() {
    is_caught(Mutant::NoVersion);
}

#[test]
fn a_time_limit_that_is_disarmed_first_strands_a_run() {
    is_caught(Mutant::DisarmFirst);
}

#[test]
fn giving_back_without_a_key_frees_the_place_of_another() {
    is_caught(Mutant::ReleaseWithoutKey);
}

#[test]
fn the_list_of_bugs_is_whole() {
    assert_eq!(Mutant::ALL.len(), 7);
}
