//! What both sides of a comparison are read by: lists as text, and the steps of a project.

use loopy_contract::manifest::{Manifest, Step};

/// Where nothing is restricted.
const ALL: &str = "all";

/// A list as text, in which an empty one is [`ALL`].
pub(super) fn listed(items: &[String]) -> String {
    if items.is_empty() {
        ALL.to_owned()
    } else {
        items.join(", ")
    }
}

/// Whether a list has something that an older one had not.
pub(super) fn added(before: &str, after: &str) -> bool {
    if before == ALL {
        return false;
    }
    let known: Vec<&str> = before.split(", ").collect();
    after == ALL || after.split(", ").any(|item| !known.contains(&item))
}

pub(super) fn all_steps(manifest: &Manifest) -> impl Iterator<Item = &Step> {
    let workflows = manifest.workflows.values();
    workflows.flat_map(|workflow| workflow.steps.values())
}
