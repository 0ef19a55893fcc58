//! From a seed that breaks a law to a short story of how: the shortest storm,
//! with as few kinds of trouble as still do it.

use crate::faults::Fault;
use crate::play::{Story, play};
use std::fmt;

/// How many lines of a trace are shown.
const LINES: usize = 120;

/// A broken law, and how it came to that.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The shortest story that was found.
    pub story: Story,
    /// The law.
    pub law: String,
    /// What happened, one line each.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} breaks a law: {}", self.story.seed, self.law)?;
        let skipped = self.trace.len().saturating_sub(LINES);
        if skipped > 0 {
            writeln!(f, "  ({skipped} lines before these)")?;
        }
        for line in self.trace.iter().skip(skipped) {
            writeln!(f, "  {line}")?;
        }
        let kinds = Fault::ALL
            .iter()
            .filter(|fault| !self.story.without.contains(fault));
        let kinds: Vec<String> = kinds.map(|fault| format!("{fault:?}")).collect();
        writeln!(f, "it takes: {}", kinds.join(", "))?;
        write!(
            f,
            "replay it with: cargo xtask sim --seed {}",
            self.story.seed
        )
    }
}

/// Plays a seed; nothing when all laws hold.
pub fn check(seed: u64) -> Option<Failure> {
    let story = Story::of(seed);
    let outcome = play(&story, false);
    outcome.broken.is_some().then(|| shrink(&story))
}

/// The shortest story like this one that still breaks a law.
pub fn shrink(story: &Story) -> Failure {
    let mut best = story.clone();
    let breaks = |story: &Story| play(story, false).broken.is_some();
    for fault in Fault::ALL {
        let mut without = best.clone();
        without.without.push(fault);
        if breaks(&without) {
            best = without;
        }
    }
    let whole = play(&best, false).storm;
    // Not each longer storm breaks it too, so all are tried, from the shortest on.
    let shortest = (0..whole).find(|storm| {
        breaks(&Story {
            storm: Some(*storm),
            ..best.clone()
        })
    });
    best.storm = shortest.or(best.storm);
    let outcome = play(&best, true);
    Failure {
        story: best,
        law: outcome.broken.unwrap_or_default(),
        trace: outcome.trace,
    }
}
