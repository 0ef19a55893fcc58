//! What a step reaches by the agent and the sandbox that it is given: a step that is
//! pointed at others may do more although neither of them changed.

use super::lists::{added, all_steps, listed};
use super::{Action, Difference, Part};
use loopy_contract::manifest::{Agent, Manifest, ModelKeys, Sandbox, Step};
use std::collections::BTreeMap;

/// Who does a step's work, and where.
struct Given<'a> {
    agent: Option<(&'a str, &'a Agent)>,
    sandbox: Option<(&'a str, &'a Sandbox)>,
}

impl<'a> Given<'a> {
    fn to(step: &'a Step, manifest: &'a Manifest) -> Self {
        let agent = step.agent.as_deref();
        let agent = agent.and_then(|name| Some((name, manifest.registry.agents.get(name)?)));
        let sandbox = agent.and_then(|(_, agent)| agent.sandbox.as_deref());
        let sandbox = sandbox.and_then(|name| Some((name, manifest.registry.sandboxes.get(name)?)));
        Self { agent, sandbox }
    }
}

/// The differences of steps that are in both and were given to somebody else. What
/// changes of an agent or a sandbox itself is told there.
pub(super) fn differences(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let before: BTreeMap<&str, &Step> = all_steps(old).map(|step| (&*step.id, step)).collect();
    let mut found = Vec::new();
    for step in all_steps(new) {
        if let Some(before) = before.get(&*step.id) {
            let name = format!("step {}", step.id);
            let (was, is) = (Given::to(before, old), Given::to(step, new));
            found.extend(tools(&name, &was, &is));
            found.extend(places(&name, &was, &is));
        }
    }
    found
}

fn tools(step: &str, was: &Given<'_>, is: &Given<'_>) -> Option<Difference> {
    let (name, agent) = is.agent?;
    let before = was.agent;
    if before.is_some_and(|(before, _)| before == name) {
        return None;
    }
    let tools = listed(&agent.tools);
    let had = before.map(|(_, agent)| listed(&agent.tools));
    let more = had.as_deref().is_none_or(|had| added(had, &tools));
    let was = match (before, had) {
        (Some((name, _)), Some(had)) => format!("agent {name}: {had}"),
        _ => "no agent".to_owned(),
    };
    Some(Difference {
        part: Part::Tools,
        action: Action::Changed,
        name: step.to_owned(),
        about: format!("agent {name}: {tools} (was {was})"),
        widens: more.then(|| "what does the step may use more".to_owned()),
    })
}

fn places(step: &str, was: &Given<'_>, is: &Given<'_>) -> Vec<Difference> {
    let Some((name, sandbox)) = is.sandbox else {
        return Vec::new();
    };
    if was.sandbox.is_some_and(|(before, _)| before == name) {
        return Vec::new();
    }
    let before = was.sandbox.map(|(_, sandbox)| sandbox);
    let network = listed(&sandbox.network);
    let had = before.map(|before| listed(&before.network));
    let more = had.as_deref().is_none_or(|had| added(had, &network));
    let was = match (was.sandbox, had) {
        (Some((name, _)), Some(had)) => format!("sandbox {name}: {had}"),
        _ => "no sandbox".to_owned(),
    };
    let mut found = vec![Difference {
        part: Part::Egress,
        action: Action::Changed,
        name: step.to_owned(),
        about: format!("sandbox {name}: {network} (was {was})"),
        widens: more.then(|| "what does the step reaches more".to_owned()),
    }];
    let given = |part, what: &str, about: &str| Difference {
        part,
        action: Action::Added,
        name: format!("{step}: {what}"),
        about: about.to_owned(),
        widens: Some("what does the step can read it".to_owned()),
    };
    for file in &sandbox.env_file {
        if !before.is_some_and(|before| before.env_file.contains(file)) {
            found.push(given(Part::Secret, file, "given to what does the step"));
        }
    }
    let keys_there = |sandbox: &Sandbox| sandbox.model_keys == ModelKeys::Sandbox;
    if keys_there(sandbox) && before.is_some_and(|before| !keys_there(before)) {
        found.push(given(
            Part::Secret,
            "keys of models",
            "in the sandbox (was with the engine)",
        ));
    }
    for repo in &sandbox.repos {
        let known = |before: &Sandbox| before.repos.iter().any(|known| known.url == repo.url);
        if !before.is_some_and(known) {
            found.push(given(Part::Repository, &repo.url, "cloned for the step"));
        }
    }
    found
}
