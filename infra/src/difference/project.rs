//! The differences of two manifests.

use super::lists::{added, all_steps, listed};
use super::{Action, Difference, Part, Side, Thing, compare, reach, registry};
use crate::stack::{Needs, used_sandboxes};
use loopy_contract::manifest::{
    Answer, Approve, Manifest, ModelKeys, SensorTrigger, Step, Trigger, VerifyScheme, Workflow,
};
use serde_json::json;
use std::collections::BTreeMap;

/// What differs between the manifests.
pub(super) fn differences(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let no = |_: &str, _: Option<&Thing>, _: &Thing| None;
    let mut found = workflows(old, new);
    found.extend(compare(Part::Event, &events(old), &events(new), no));
    found.extend(compare(
        Part::Schedule,
        &schedules(old),
        &schedules(new),
        no,
    ));
    found.extend(compare(
        Part::Webhook,
        &webhooks(old),
        &webhooks(new),
        opens_webhook,
    ));
    found.extend(compare(Part::Sensor, &sensors(old), &sensors(new), no));
    found.extend(compare(Part::Skill, &skills(old), &skills(new), no));
    found.extend(registry::differences(old, new));
    found.extend(reach::differences(old, new));
    found.extend(approvals(old, new));
    found.extend(compare(Part::Tools, &tools(old), &tools(new), more_tools));
    found.extend(compare(
        Part::Secret,
        &secrets(old),
        &secrets(new),
        hands_over,
    ));
    found.extend(compare(Part::Egress, &egress(old), &egress(new), opens));
    found.extend(compare(
        Part::Repository,
        &repositories(old),
        &repositories(new),
        |_, before, _| {
            before
                .is_none()
                .then(|| "what works in the sandbox gets the repository".to_owned())
        },
    ));
    if found.is_empty() && old.hash != new.hash {
        found.push(rest(old, new));
    }
    found
}

/// What no part is about: nothing that differs may be told as unchanged.
fn rest(old: &Manifest, new: &Manifest) -> Difference {
    let about = if old.loopy_version == new.loopy_version {
        "something else changed".to_owned()
    } else {
        let (new, old) = (&new.loopy_version, &old.loopy_version);
        format!("compiled by Loopy {new} (was {old})")
    };
    Difference {
        part: Part::Other,
        action: Action::Changed,
        name: "the manifest".to_owned(),
        about,
        widens: None,
    }
}

fn workflows(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let side = |manifest: &Manifest| -> Side {
        let workflows = manifest.workflows.iter();
        workflows
            .map(|(name, workflow)| {
                let about = format!("{}, {}", steps(workflow.steps.len()), starts(workflow));
                let content = json!(workflow).to_string();
                (name.clone(), Thing { about, content })
            })
            .collect()
    };
    let mut found = compare(Part::Workflow, &side(old), &side(new), |_, _, _| None);
    for difference in &mut found {
        let (before, after) = (
            old.workflows.get(&difference.name),
            new.workflows.get(&difference.name),
        );
        if let (Some(before), Some(after)) = (before, after) {
            difference.about = changed_steps(before, after);
        }
    }
    found
}

fn steps(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} step{plural}")
}

fn starts(workflow: &Workflow) -> String {
    match workflow.entry_trigger() {
        Some(Trigger::Event { event, .. }) => format!("on {event}"),
        Some(Trigger::Cron { expr, tz, .. }) => format!("at {}", cron(expr, tz.as_deref())),
        None => "without a trigger".to_owned(),
    }
}

fn cron(expr: &str, zone: Option<&str>) -> String {
    format!("{expr} {}", zone.unwrap_or("UTC"))
}

/// `step look changed, step ask added`.
fn changed_steps(old: &Workflow, new: &Workflow) -> String {
    let mut words = Vec::new();
    for (name, step) in &new.steps {
        match old.steps.get(name) {
            None => words.push(format!("step {name} added")),
            Some(before) if before != step => words.push(format!("step {name} changed")),
            Some(_) => {}
        }
    }
    let gone = old
        .steps
        .keys()
        .filter(|name| !new.steps.contains_key(*name));
    words.extend(gone.map(|name| format!("step {name} removed")));
    words.join(", ")
}

fn events(manifest: &Manifest) -> Side {
    let events = manifest.registry.events.iter();
    events
        .map(|(name, contract)| {
            let fields: Vec<&str> = contract.fields.keys().map(String::as_str).collect();
            let about = fields.join(", ");
            let content = json!(contract).to_string();
            (name.clone(), Thing { about, content })
        })
        .collect()
}

fn schedules(manifest: &Manifest) -> Side {
    let mut side = Side::new();
    for step in all_steps(manifest) {
        if let Some(Trigger::Cron { expr, tz, .. }) = &step.trigger {
            let name = format!("step {}", step.id);
            side.insert(name, Thing::plain(cron(expr, tz.as_deref())));
        }
    }
    for sensor in &manifest.sensors {
        if let SensorTrigger::Poll { interval, .. } = &sensor.trigger {
            let name = format!("sensor {}", sensor.name);
            side.insert(name, Thing::plain(format!("every {interval}")));
        }
    }
    side
}

fn webhooks(manifest: &Manifest) -> Side {
    let mut side = Side::new();
    for sensor in &manifest.sensors {
        if let SensorTrigger::Webhook { path, verify } = &sensor.trigger {
            let scheme = verify.unwrap_or(VerifyScheme::None).name();
            side.insert(path.clone(), Thing::plain(format!("verified as {scheme}")));
        }
    }
    side
}

fn opens_webhook(_: &str, before: Option<&Thing>, after: &Thing) -> Option<String> {
    let open = format!("verified as {}", VerifyScheme::None.name());
    match before {
        _ if after.about == open => Some("anyone may post to it".to_owned()),
        None => Some("it takes deliveries from outside".to_owned()),
        Some(_) => None,
    }
}

/// The files, and what each sensor makes of what comes in.
fn sensors(manifest: &Manifest) -> Side {
    let files = manifest.sensor_files.iter();
    let mut side: Side = files
        .map(|(path, hash)| {
            let thing = Thing {
                about: String::new(),
                content: hash.clone(),
            };
            (path.clone(), thing)
        })
        .collect();
    for sensor in &manifest.sensors {
        let mut about = format!("emits {}", sensor.emits);
        if let SensorTrigger::Poll {
            on_change: true, ..
        } = &sensor.trigger
        {
            about.push_str(" when it changes");
        }
        // Its path and its period are told elsewhere.
        let mut content = json!(sensor);
        content["trigger"] = json!(about);
        let content = content.to_string();
        let name = format!("sensor {}", sensor.name);
        side.insert(name, Thing { about, content });
    }
    side
}

fn skills(manifest: &Manifest) -> Side {
    let skills = manifest.skills.iter();
    skills
        .map(|(name, files)| {
            let thing = Thing {
                about: String::new(),
                content: json!(files).to_string(),
            };
            (name.clone(), thing)
        })
        .collect()
}

/// A step that asks a person otherwise than before.
fn approvals(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let before: BTreeMap<&str, &Step> = all_steps(old).map(|step| (&*step.id, step)).collect();
    let mut found = Vec::new();
    for step in all_steps(new) {
        let Some(old) = before.get(&*step.id) else {
            continue;
        };
        let (was, is) = (old.approve.as_ref(), step.approve.as_ref());
        if was == is {
            continue;
        }
        found.push(Difference {
            part: Part::Approval,
            action: Action::Changed,
            name: format!("step {}", step.id),
            about: format!("asks a person {} (was {})", asks(is), asks(was)),
            widens: asks_less(was, is)
                .then(|| "it goes on without a person's word, or sooner".to_owned()),
        });
    }
    found
}

fn asks(approve: Option<&Approve>) -> String {
    let Some(approve) = approve else {
        return "never".to_owned();
    };
    let place = match (approve.before, approve.after) {
        (true, true) => "before and after",
        (true, false) => "before",
        (false, true) => "after",
        (false, false) => "never",
    };
    let answer = match approve.otherwise {
        Answer::Approve => "goes on",
        Answer::Deny => "is denied",
    };
    match approve.within {
        Some(within) => format!("{place}, else {answer} after {within} s"),
        None => place.to_owned(),
    }
}

/// Whether a step goes on where it waited before: it asks in fewer places, or takes
/// silence for a yes, or takes it sooner.
fn asks_less(was: Option<&Approve>, is: Option<&Approve>) -> bool {
    let Some(was) = was else {
        return false;
    };
    let Some(is) = is else {
        return was.before || was.after;
    };
    let silence = |approve: &Approve| match approve.otherwise {
        Answer::Approve => approve.within,
        Answer::Deny => None,
    };
    (was.before && !is.before)
        || (was.after && !is.after)
        || match (silence(was), silence(is)) {
            (None, Some(_)) => true,
            (Some(was), Some(is)) => is < was,
            (_, None) => false,
        }
}

fn tools(manifest: &Manifest) -> Side {
    let agents = manifest.registry.agents.iter();
    agents
        .map(|(name, agent)| {
            let about = listed(&agent.tools);
            (format!("agent {name}"), Thing::plain(about))
        })
        .collect()
}

fn more_tools(_: &str, before: Option<&Thing>, after: &Thing) -> Option<String> {
    match before {
        None => Some("a new agent may use them".to_owned()),
        Some(before) => {
            added(&before.about, &after.about).then(|| "the agent may use more".to_owned())
        }
    }
}

fn secrets(manifest: &Manifest) -> Side {
    let needs = Needs::of(manifest, false);
    let mut side = Side::new();
    for variable in needs.webhooks.keys() {
        side.insert(variable.clone(), Thing::plain("verifies deliveries"));
    }
    for (sandbox, files) in &needs.sandboxes {
        for file in files {
            let name = format!("sandbox {sandbox}: {file}");
            side.insert(name, Thing::plain("given to what works there"));
        }
    }
    for (name, sandbox) in used_sandboxes(manifest) {
        let place = match sandbox.model_keys {
            ModelKeys::Sandbox => "in the sandbox",
            ModelKeys::Proxy => "with the engine",
        };
        side.insert(
            format!("sandbox {name}: keys of models"),
            Thing::plain(place),
        );
    }
    if needs.github {
        side.insert(
            "the GitHub App".to_owned(),
            Thing::plain("mints tokens to clone with"),
        );
    }
    if needs.daytona {
        side.insert(
            "DAYTONA_API_KEY".to_owned(),
            Thing::plain("launches sandboxes"),
        );
    }
    side
}

fn hands_over(name: &str, before: Option<&Thing>, after: &Thing) -> Option<String> {
    let to_sandbox = || Some("what works in the sandbox can read it".to_owned());
    match before {
        None if name.contains(": ") && !name.ends_with(": keys of models") => to_sandbox(),
        Some(_) if after.about == "in the sandbox" => to_sandbox(),
        None if name == "the GitHub App" => Some("sandboxes get tokens of it".to_owned()),
        _ => None,
    }
}

fn egress(manifest: &Manifest) -> Side {
    used_sandboxes(manifest)
        .into_iter()
        .map(|(name, sandbox)| {
            let about = listed(&sandbox.network);
            (format!("sandbox {name}"), Thing::plain(about))
        })
        .collect()
}

fn opens(_: &str, before: Option<&Thing>, after: &Thing) -> Option<String> {
    let opens = match before {
        None => true,
        Some(before) => added(&before.about, &after.about),
    };
    opens.then(|| "what works there reaches more".to_owned())
}

fn repositories(manifest: &Manifest) -> Side {
    let mut side = Side::new();
    for (name, sandbox) in used_sandboxes(manifest) {
        for repo in &sandbox.repos {
            let at = repo.r#ref.as_deref().unwrap_or("its default branch");
            side.insert(format!("sandbox {name}: {}", repo.url), Thing::plain(at));
        }
    }
    side
}
