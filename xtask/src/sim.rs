//! Plays the simulation: many seeds, or one to look at.

use crate::error::Error;
use loopy_simulation::{Failure, Story, check, play, shrink};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Plays one seed and prints its story.
///
/// # Errors
/// When a law is broken.
pub(crate) fn one(seed: u64) -> Result<(), Error> {
    let story = Story::of(seed);
    let outcome = play(&story, true);
    if outcome.broken.is_some() {
        return Err(broken(&shrink(&story)));
    }
    for line in &outcome.trace {
        println!("{line}");
    }
    println!(
        "seed {seed}: all laws hold; {} runs ({}), hash {:016x}",
        outcome.runs.len(),
        outcome.runs.join(", "),
        outcome.hash
    );
    Ok(())
}

/// Plays many seeds on all processors, and stops at the first that breaks a law.
///
/// # Errors
/// When a law is broken.
pub(crate) fn many(from: u64, count: u64) -> Result<(), Error> {
    let begin = Instant::now();
    let end = from.saturating_add(count);
    let next = AtomicU64::new(from);
    let found: Mutex<Option<Failure>> = Mutex::new(None);
    let tally = Mutex::new((0_u64, 0_u64, BTreeMap::<String, u64>::new()));
    let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || lock().is_some() {
                        return;
                    }
                    let outcome = play(&Story::of(seed), false);
                    if outcome.broken.is_some() {
                        *lock() = check(seed);
                        return;
                    }
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.0 += 1;
                    tally.1 += outcome.polls;
                    for run in outcome.runs {
                        *tally.2.entry(run).or_default() += 1;
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut said = Instant::now();
            while next.load(Ordering::Relaxed) < end && lock().is_none() {
                thread::sleep(Duration::from_millis(100));
                if said.elapsed() >= PROGRESS {
                    said = Instant::now();
                    let done = next.load(Ordering::Relaxed).min(end) - from;
                    let rate = done as f64 / begin.elapsed().as_secs_f64();
                    eprintln!("{done} of {count} seeds, {rate:.0} a second");
                }
            }
        });
    });
    if let Some(failure) = lock().take() {
        return Err(broken(&failure));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let (seeds, polls, runs) = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    let runs: Vec<String> = runs
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    println!(
        "{seeds} seeds in {seconds:.1} s ({:.0} a second), {polls} turns; runs: {}",
        seeds as f64 / seconds,
        runs.join(", ")
    );
    Ok(())
}

fn broken(failure: &Failure) -> Error {
    Error::Broken {
        story: failure.to_string(),
    }
}
