//! Writes each iteration down: the whole state as JSON among the runner's own
//! files, and the hashes of the trees of git's checkouts in the workspace.
//!
//! The trees are hashed with an index and an object folder of the runner's own, so
//! that the checkout is not touched. A checkout that takes long is left alone from
//! then on.

use super::super::{Job, failure};
use super::conversation::Conversation;
use super::ledger::Ledger;
use super::metric::Metric;
use loopy_contract::report::{Failure, FailureClass};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// How long hashing a tree may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Iterations that are kept.
const KEPT: u32 = 20;
/// Checkouts that are looked at.
const CHECKOUTS: usize = 8;

/// The iterations of one attempt.
#[derive(Default)]
pub(super) struct Checkpoints {
    count: u32,
    last: Option<String>,
    trees: BTreeMap<String, String>,
    /// Hashing them is not worth it.
    without_trees: bool,
}

impl Checkpoints {
    /// Writes an iteration down. Gives what it was, in short.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn save(
        &mut self,
        job: &Job<'_>,
        conversation: &Conversation,
        ledger: &Ledger,
        metric: Option<&Metric>,
        changed: bool,
    ) -> Result<Value, Failure> {
        self.count += 1;
        if changed && !self.without_trees {
            match trees(job).await {
                Some(trees) => self.trees = trees,
                None => self.without_trees = true,
            }
        }
        let trees = if self.without_trees {
            &BTreeMap::new()
        } else {
            &self.trees
        };
        let usage = ledger.usage();
        let state = json!({
            "iteration": self.count,
            "usage": usage,
            "metric": metric,
            "trees": trees,
            "conversation": conversation,
        });
        let name = |number: u32| job.control.file(&format!("iteration-{number}.json"));
        std::fs::write(name(self.count), state.to_string()).map_err(|error| {
            failure(
                FailureClass::Sandbox,
                format!("cannot write an iteration down: {error}"),
            )
        })?;
        if let Some(old) = self.count.checked_sub(KEPT).filter(|old| *old > 0)
            && let Err(error) = std::fs::remove_file(name(old))
        {
            tracing::debug!("an old iteration stays: {error}");
        }
        let mut last = format!(
            "iteration {}, {} tokens",
            self.count,
            usage.input_tokens + usage.output_tokens
        );
        if let Some(usd) = usage.usd {
            last.push_str(&format!(", ${usd:.4}"));
        }
        match metric {
            Some(metric) => last.push_str(&format!(", measured: {}", metric.words())),
            None => last.push_str(", never measured"),
        }
        for (path, tree) in trees {
            last.push_str(&format!(", tree {tree} in {path}"));
        }
        let event = json!({
            "type": "checkpoint",
            "text": last,
            "usage": usage,
            "trees": trees,
        });
        self.last = Some(last);
        Ok(event)
    }

    /// The failure with the last iteration in its message.
    pub(super) fn with_last(&self, mut failed: Failure) -> Failure {
        let last = self.last.as_deref().unwrap_or("none was finished");
        failed
            .message
            .push_str(&format!(" (last iteration: {last})"));
        failed
    }
}

/// The tree of each checkout by its path; `None` when that takes too long or does
/// not work.
async fn trees(job: &Job<'_>) -> Option<BTreeMap<String, String>> {
    let root = job.workspace.root();
    let mut checkouts: Vec<PathBuf> = vec![root.to_owned()];
    let mut below: Vec<PathBuf> = std::fs::read_dir(root)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    below.sort();
    checkouts.extend(below);
    checkouts.retain(|path| path.join(".git/objects").is_dir());
    checkouts.truncate(CHECKOUTS);
    let mut trees = BTreeMap::new();
    for (number, checkout) in checkouts.iter().enumerate() {
        let hashing = tree(job, checkout, number);
        let tree = match timeout(PATIENCE, hashing).await {
            Ok(tree) => tree?,
            Err(_) => {
                job.processes.end_all().await;
                tracing::info!("hashing the tree takes too long; it is left out from now on");
                return None;
            }
        };
        let path = checkout.strip_prefix(root).unwrap_or(checkout);
        let path = if path.as_os_str().is_empty() {
            ".".to_owned()
        } else {
            path.to_string_lossy().into_owned()
        };
        trees.insert(path, tree);
    }
    Some(trees)
}

async fn tree(job: &Job<'_>, checkout: &Path, number: usize) -> Option<String> {
    let index = job.control.file(&format!("index-{number}"));
    let objects = job.control.file("objects");
    std::fs::create_dir_all(&objects).ok()?;
    if !index.exists() && checkout.join(".git/index").exists() {
        // With it, only what changed has to be read.
        std::fs::copy(checkout.join(".git/index"), &index).ok()?;
    }
    let mut hash = None;
    for arguments in [&["add", "--all"][..], &["write-tree"]] {
        let mut git = job.command("git");
        git.args(["-c", "gc.auto=0", "-c", "core.fsmonitor=false"])
            .args(arguments)
            .env("GIT_INDEX_FILE", &index)
            .env("GIT_OBJECT_DIRECTORY", &objects)
            .env(
                "GIT_ALTERNATE_OBJECT_DIRECTORIES",
                checkout.join(".git/objects"),
            )
            .current_dir(checkout);
        let ended = job.processes.run(git, &[], |_| (), |_| ()).await.ok()?;
        if !ended.status.success() {
            tracing::debug!("no tree of {}: {}", checkout.display(), ended.last_words());
            return None;
        }
        hash = Some(ended.stdout.trim().to_owned());
    }
    hash
}
