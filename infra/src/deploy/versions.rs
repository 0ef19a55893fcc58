//! Versions that are no longer deployed: which of them runs still need, and taking away
//! what nobody needs any more.

use super::history::{Record, folder};
use super::{DeployError, Deployment};
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

/// The runs that are not over, by the version they began with.
///
/// # Errors
/// When the state cannot be read.
pub async fn open_runs(store: &DynamoStore) -> Result<BTreeMap<String, usize>, PortError> {
    let mut found = BTreeMap::new();
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
            *found.entry(run.manifest).or_default() += 1;
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
    pub async fn collect(&self, open: &BTreeMap<String, usize>) -> Result<usize, DeployError> {
        let history = self.history().await?;
        let gone = outdated(&history, open);
        if gone.is_empty() {
            return Ok(0);
        }
        let name = self.bucket_of(self.describe().await?.as_ref());
        let bucket = self.bucket(&name);
        let gone_keys: BTreeSet<String> = gone
            .iter()
            .map(|record| format!("{}{}.json", folder(&self.stack), record.at))
            .collect();
        // Other stacks share the bucket, and what they name stays.
        let mut needed = BTreeSet::new();
        for key in bucket.keys("deployments/").await? {
            if gone_keys.contains(&key) {
                continue;
            }
            let Some(bytes) = bucket.read(&key).await? else {
                continue;
            };
            // One that cannot be read may name anything.
            let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
                return Ok(0);
            };
            needed.extend(record.assets);
            needed.insert(record.template);
        }
        let named: BTreeSet<&String> = gone
            .iter()
            .flat_map(|record| record.assets.iter().chain([&record.template]))
            .collect();
        let mut count = 0;
        for key in named.into_iter().filter(|key| !needed.contains(*key)) {
            bucket.remove(key).await?;
            count += 1;
        }
        for key in &gone_keys {
            bucket.remove(key).await?;
        }
        Ok(count)
    }
}

/// The records, of those newest first, that nobody needs.
fn outdated<'a>(history: &'a [Record], open: &BTreeMap<String, usize>) -> Vec<&'a Record> {
    let old = history.iter().skip(KEPT);
    old.filter(|record| !open.contains_key(short_hash(&record.manifest)))
        // A line of an older build does not say which version the run needs.
        .filter(|_| !open.contains_key(""))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn what_runs_need_and_the_latest_are_kept() {
        let record = |number: i64| Record {
            at: Timestamp::from_second(number).unwrap_or(Timestamp::MIN),
            by: String::new(),
            manifest: format!("{number:016}{:048}", 0),
            template: String::new(),
            assets: Vec::new(),
        };
        let history: Vec<Record> = (0..14).rev().map(record).collect();
        let kept = |open: &[&str]| {
            let open = open.iter().map(|hash| ((*hash).to_owned(), 1)).collect();
            let gone = outdated(&history, &open);
            gone.iter()
                .map(|record| record.at.as_second())
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(&[]), [3, 2, 1, 0]);
        let needed = format!("{:016}", 2);
        assert_eq!(kept(&[&needed]), [3, 1, 0]);
        assert_eq!(kept(&[""]), Vec::<i64>::new());
    }
}
