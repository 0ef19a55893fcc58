//! What a deployment changes, in the words of the project and not of its resources:
//! workflows, events, schedules, secrets, permissions, egress. What lets anybody do
//! more than before is marked. Pure.

mod lists;
mod parameters;
mod permissions;
mod project;
mod reach;
mod registry;

pub use parameters::parameters;

use loopy_contract::manifest::Manifest;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a difference is about, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A workflow.
    Workflow,
    /// An event's contract.
    Event,
    /// A cron trigger or a poll.
    Schedule,
    /// A path that takes deliveries.
    Webhook,
    /// The code of a sensor.
    Sensor,
    /// Files that agents are given.
    Skill,
    /// Who does the work of steps.
    Agent,
    /// Where agents work.
    Sandbox,
    /// A cap on dollars or runs, and the prices that dollars are counted by.
    Limit,
    /// A person's word before or after a step.
    Approval,
    /// What an agent may use.
    Tools,
    /// A value that is handed to the stack or to a sandbox.
    Secret,
    /// What a sandbox may reach.
    Egress,
    /// A repository that a sandbox clones.
    Repository,
    /// What a function or a service may do in the account.
    Permission,
    /// A value of the template's parameters.
    Parameter,
    /// What none of the others is about.
    Other,
}

impl Part {
    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Workflow => "workflows",
            Self::Event => "events",
            Self::Schedule => "schedules",
            Self::Webhook => "webhooks",
            Self::Sensor => "sensor code",
            Self::Skill => "skills",
            Self::Agent => "agents",
            Self::Sandbox => "sandboxes",
            Self::Limit => "limits",
            Self::Approval => "approvals",
            Self::Tools => "tools",
            Self::Secret => "secrets",
            Self::Egress => "egress",
            Self::Repository => "repositories",
            Self::Permission => "permissions",
            Self::Parameter => "parameters",
            Self::Other => "the rest",
        }
    }
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was not there before.
    Added,
    /// It is another one.
    Changed,
    /// It goes.
    Removed,
}

/// One thing that a deployment changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// What it is about.
    pub part: Part,
    /// What happens.
    pub action: Action,
    /// Its name.
    pub name: String,
    /// What it is, or what of it changes.
    pub about: String,
    /// Why it lets somebody do more than before; `None` when it does not.
    pub widens: Option<String>,
}

/// All differences between what is deployed and what is to be, sorted by part, action
/// and name. A template is CloudFormation YAML, as [`crate::stack()`] makes it.
///
/// # Errors
/// A sentence when a template cannot be read.
pub fn differences(
    old: (&Manifest, &str),
    new: (&Manifest, &str),
) -> Result<Vec<Difference>, String> {
    let mut found = project::differences(old.0, new.0);
    found.extend(permissions::differences(old.1, new.1)?);
    found.sort();
    Ok(found)
}

/// What one side has: for each name what it is and, where that is more than its
/// text, what it is compared by.
type Side = BTreeMap<String, Thing>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Thing {
    about: String,
    content: String,
}

impl Thing {
    /// Something that is told in full.
    fn plain(about: impl Into<String>) -> Self {
        let about = about.into();
        Self {
            content: about.clone(),
            about,
        }
    }
}

/// The differences of two sides. `widens` says why one does, given the old and the
/// new thing.
fn compare(
    part: Part,
    old: &Side,
    new: &Side,
    widens: impl Fn(&str, Option<&Thing>, &Thing) -> Option<String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, thing) in new {
        let before = old.get(name);
        if before.is_some_and(|before| before.content == thing.content) {
            continue;
        }
        let about = match before {
            Some(before) if before.about != thing.about => {
                format!("{} (was {})", thing.about, before.about)
            }
            _ => thing.about.clone(),
        };
        found.push(Difference {
            part,
            action: before.map_or(Action::Added, |_| Action::Changed),
            name: name.clone(),
            about,
            widens: widens(name, before, thing),
        });
    }
    for (name, thing) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        found.push(Difference {
            part,
            action: Action::Removed,
            name: name.clone(),
            about: thing.about.clone(),
            widens: None,
        });
    }
    found
}
