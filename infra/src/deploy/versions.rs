//! Versions that are no longer deployed: which of them runs still need, and taking away
//! what nobody needs any more.

use super::history::{ANNOUNCED, DEPLOYMENTS, Record, folder};
use super::{DeployError, Deployment};
use jiff::{SignedDuration, Timestamp};
use loopy_aws::DynamoStore;
use loopy_engine::ports::{PortError, RunFilter, Store};
use loopy_engine::run::short_hash;
use std::collections::{BTreeMap, BTreeSet};

/// The statuses of runs that go on some day.
const OPEN: [&str; 3] = ["running", "parked", "paused"];

/// As many runs are looked at, of each status.
const LOOKED_AT: usize = 10_000;

/// So many deployments of a stack can be gone back to.
const KEPT: usize = 10;

/// What is younger stays, whoever needs it: somebody may be deploying it right now.
const YOUNG: SignedDuration = SignedDuration::from_hours(24);

/// The runs that are not over, by the version they began with (the beginning of its
/// hash; empty where an older build did not write it down).
pub type OpenRuns = BTreeMap<String, Vec<String>>;

/// The runs that are not over.
///
/// # Errors
/// When the state cannot be read.
pub async fn open_runs(store: &DynamoStore) -> Result<OpenRuns, PortError> {
    let mut found = OpenRuns::new();
    for status in OPEN {
        let filter = RunFilter {
            status: Some(status.to_owned()),
            limit: LOOKED_AT,
            ..RunFilter::default()
        };
        let runs = store.list(&filter).await?;
        // More than can be looked at: nothing may be taken away.
        if runs.len() == LOOKED_AT {
            return Err(PortError::new(
                "look for runs of earlier versions",
                format!("there are {LOOKED_AT} runs that are {status}, or more"),
            ));
        }
        for run in runs {
            let runs: &mut Vec<String> = found.entry(run.manifest).or_default();
            runs.push(run.id.to_string());
        }
    }
    Ok(found)
}

impl Deployment {
    /// Takes away the records of deployments that can no longer be gone back to, and
    /// the assets that only they named. `open` has the versions that runs still need.
    /// Gives back how many assets that were.
    ///
    /// # Errors
    /// [`DeployError::Assets`] when the bucket cannot be read or written.
    pub async fn collect(&self, open: &OpenRuns) -> Result<usize, DeployError> {
        let now = Timestamp::now();
        let history = self.history().await?;
        let announced = self.records(&self.announced()).await?;
        let place = |folder: &str, record: &Record| format!("{folder}{}.json", record.at);
        let mut gone: BTreeMap<String, &Record> = BTreeMap::new();
        for record in outdated(&history, open, now) {
            gone.insert(place(&folder(&self.stack), record), record);
        }
        for record in settled(&announced, &history, open, now) {
            gone.insert(place(&self.announced(), record), record);
        }
        if gone.is_empty() {
            return Ok(0);
        }
        let (_, name) = self.standing().await?;
        let bucket = self.bucket(&name);
        // Other stacks share the bucket, and what they name stays.
        let mut needed = BTreeSet::new();
        for folder in [DEPLOYMENTS, ANNOUNCED] {
            for key in bucket.keys(folder).await? {
                if gone.contains_key(&key) {
                    continue;
                }
                let Some(bytes) = bucket.read(&key).await? else {
                    continue;
                };
                // One that cannot be read may name anything.
                let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
                    return Ok(0);
                };
                needed.extend(named(&record).cloned());
            }
        }
        let mut ages = BTreeMap::new();
        for key in gone.values().flat_map(|record| named(record)) {
            if !needed.contains(key)
                && !ages.contains_key(key)
                && let Some(written) = bucket.written(key).await?
            {
                ages.insert(key.clone(), written);
            }
        }
        let old: BTreeSet<&String> = ages
            .iter()
            .filter(|(_, written)| is_old(**written, now))
            .map(|(key, _)| key)
            .collect();
        for key in &old {
            bucket.remove(key).await?;
        }
        for (key, record) in &gone {
            // Nothing else would ever name what stays.
            let all = named(record).all(|key| !ages.contains_key(key) || old.contains(key));
            if all {
                bucket.remove(key).await?;
            }
        }
        Ok(old.len())
    }
}

fn is_old(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) > YOUNG
}

/// All that a record names.
fn named(record: &Record) -> impl Iterator<Item = &String> {
    record.assets.iter().chain([&record.template])
}

fn is_open(record: &Record, open: &OpenRuns) -> bool {
    // A line of an older build does not say which version the run needs.
    open.contains_key(short_hash(&record.manifest)) || open.contains_key("")
}

/// The records, of those newest first, that nobody needs.
fn outdated<'a>(history: &'a [Record], open: &OpenRuns, now: Timestamp) -> Vec<&'a Record> {
    let old = history.iter().skip(KEPT);
    old.filter(|record| is_old(record.at, now) && !is_open(record, open))
        .collect()
}

/// What was announced and nobody needs to know of any more: it came about, and there is
/// a record of it; or it was cut off long ago, something else is deployed by now, and no
/// run began with it.
fn settled<'a>(
    announced: &'a [Record],
    history: &[Record],
    open: &OpenRuns,
    now: Timestamp,
) -> Vec<&'a Record> {
    let came_about = |one: &Record| {
        let same = |record: &Record| {
            record.at >= one.at && record.template == one.template && record.assets == one.assets
        };
        history.iter().any(same)
    };
    let newer = |one: &Record| history.first().is_some_and(|record| record.at > one.at);
    announced
        .iter()
        .filter(|one| came_about(one) || (is_old(one.at, now) && newer(one) && !is_open(one, open)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn record(hour: i64, manifest: i64) -> Record {
        Record {
            at: Timestamp::from_second(hour * HOUR).unwrap_or(Timestamp::MIN),
            by: String::new(),
            manifest: format!("{manifest:016}{:048}", 0),
            template: format!("templates/{manifest}.yaml"),
            assets: vec![format!("manifests/{manifest}.json")],
        }
    }

    fn open(versions: &[&str]) -> OpenRuns {
        let run = vec!["r".to_owned()];
        let versions = versions.iter();
        versions.map(|it| ((*it).to_owned(), run.clone())).collect()
    }

    fn hours(records: &[&Record]) -> Vec<i64> {
        let hours = records.iter().map(|it| it.at.as_second() / HOUR);
        hours.collect()
    }

    #[test]
    fn what_runs_need_and_the_latest_are_kept() {
        let history: Vec<Record> = (0..14).rev().map(|n| record(n, n)).collect();
        let later = record(1000, 0).at;
        let kept = |versions: &[&str]| hours(&outdated(&history, &open(versions), later));
        assert_eq!(kept(&[]), [3, 2, 1, 0]);
        let needed = format!("{:016}", 2);
        assert_eq!(kept(&[&needed]), [3, 1, 0]);
        assert_eq!(kept(&[""]), Vec::<i64>::new());
    }

    #[test]
    fn what_is_younger_than_a_day_is_kept_whoever_needs_it() {
        let history: Vec<Record> = (0..14).rev().map(|n| record(n, n)).collect();
        let now = record(25, 0).at;
        assert_eq!(hours(&outdated(&history, &open(&[]), now)), [0]);
        assert!(is_old(record(0, 0).at, now));
        assert!(!is_old(record(1, 0).at, now) && !is_old(record(30, 0).at, now));
    }

    #[test]
    fn a_deployment_that_was_cut_off_stays_known_while_the_stack_or_a_run_needs_it() {
        let history = [record(10, 10), record(5, 5)];
        let now = record(100, 0).at;
        let settled = |one: &Record, versions: &[&str], now| {
            !super::settled(std::slice::from_ref(one), &history, &open(versions), now).is_empty()
        };
        // It came about, be it a moment ago.
        assert!(settled(&record(9, 10), &[], record(10, 0).at));
        // The stack is still made of it.
        assert!(!settled(&record(11, 11), &[], now));
        // Something else came after it.
        assert!(settled(&record(7, 7), &[], now));
        assert!(!settled(&record(7, 7), &[], record(20, 0).at));
        assert!(!settled(&record(7, 7), &[&format!("{:016}", 7)], now));
    }
}
