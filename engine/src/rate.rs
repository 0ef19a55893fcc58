//! How many deliveries a webhook takes: a bucket of tokens a path, in the memory of
//! one process. It bounds what one sender can set in motion; what nobody signed
//! never gets as far.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// How many deliveries a path takes at once.
pub const BURST: u32 = 2_000;

/// How many a second it takes after that.
pub const PER_SECOND: u32 = 100;

/// The buckets of all paths.
#[derive(Debug, Default)]
pub(crate) struct Rate(Mutex<BTreeMap<String, Bucket>>);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    since: Timestamp,
}

impl Rate {
    /// Takes a token of this path; false when there is none. Call it only with
    /// paths of the manifest: each has a bucket from then on.
    pub(crate) fn take(&self, path: &str, now: Timestamp) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket {
            tokens: f64::from(BURST),
            since: now,
        };
        let bucket = buckets.entry(path.to_owned()).or_insert(full);
        // A clock that goes back gives nothing and takes nothing.
        let passed = now.duration_since(bucket.since).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * f64::from(PER_SECOND)).min(f64::from(BURST));
        bucket.since = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_then_so_many_a_second() {
        let rate = Rate::default();
        let at = |millis: i64| Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
        let taken = |millis| (0..10_000).filter(|_| rate.take("/a", at(millis))).count();
        assert_eq!(taken(0), 2_000);
        assert_eq!(taken(0), 0);
        assert!(rate.take("/b", at(0)), "each path has its own");
        assert_eq!(taken(1_000), 100);
        assert_eq!(taken(500), 0, "a clock that goes back gives nothing");
        assert_eq!(taken(3_600_000), 2_000, "and never more than a burst");
    }
}
