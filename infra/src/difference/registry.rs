//! The differences of what `registry.yml` declares, entry by entry: agents, sandboxes,
//! limits, prices. What other parts tell of an entry is left out here.

use super::{Difference, Part, Side, Thing, compare};
use crate::stack::used_sandboxes;
use loopy_contract::manifest::{Limits, Manifest, Repo};
use serde_json::{Map, Value, json};

/// What differs between the registries.
pub(super) fn differences(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let mut found = entries(Part::Agent, (agents(old), agents(new)), |_, _| None);
    found.extend(entries(
        Part::Sandbox,
        (sandboxes(old, new), sandboxes(new, old)),
        |name, changed| other_provider(new, name, changed),
    ));
    found.extend(compare(
        Part::Limit,
        &limits(old),
        &limits(new),
        |_, _, _| None,
    ));
    found.extend(prices(old, new));
    for difference in &mut found {
        if difference.part == Part::Limit && difference.widens.is_none() {
            difference.widens = wider_limit(difference, old, new);
        }
    }
    found
}

type Entries = Vec<(String, Map<String, Value>)>;

/// An entry as JSON without the members that other parts tell of.
fn entry(value: Value, told: &[&str]) -> Map<String, Value> {
    let mut members = value.as_object().cloned().unwrap_or_default();
    members.retain(|name, _| !told.contains(&name.as_str()));
    members
}

fn agents(manifest: &Manifest) -> Entries {
    let agents = manifest.registry.agents.iter();
    agents
        .map(|(name, agent)| (name.clone(), entry(json!(agent), &["tools"])))
        .collect()
}

/// What others tell of a sandbox they tell where steps work in it.
fn sandboxes(manifest: &Manifest, other: &Manifest) -> Entries {
    let (used, used_there) = (used_sandboxes(manifest), used_sandboxes(other));
    let sandboxes = manifest.registry.sandboxes.iter();
    sandboxes
        .map(|(name, sandbox)| {
            let is_told = used.contains_key(&**name) && used_there.contains_key(&**name);
            let told: &[&str] = if is_told {
                &["network", "env_file", "model_keys", "repos"]
            } else {
                &[]
            };
            let mut members = entry(json!(sandbox), told);
            let place = |repo: &Repo| {
                let Repo {
                    url, path, depth, ..
                } = repo;
                (path.is_some() || depth.is_some())
                    .then(|| json!({"url": url, "path": path, "depth": depth}))
            };
            let places: Vec<Value> = sandbox.repos.iter().filter_map(place).collect();
            members.insert("clones".to_owned(), Value::Array(places));
            (name.clone(), members)
        })
        .collect()
}

/// Compares entries; one that changed is told by the members that did.
fn entries(
    part: Part,
    (old, new): (Entries, Entries),
    widens: impl Fn(&str, &[&str]) -> Option<String>,
) -> Vec<Difference> {
    let side = |entries: &Entries| -> Side {
        let thing = |entry: &Map<String, Value>| Thing {
            about: ["harness", "provider"]
                .iter()
                .filter_map(|name| entry.get(*name)?.as_str())
                .collect(),
            content: json!(entry).to_string(),
        };
        let named = entries.iter();
        named
            .map(|(name, entry)| (name.clone(), thing(entry)))
            .collect()
    };
    let find = |entries: &Entries, name: &str| -> Option<Map<String, Value>> {
        let found = entries.iter().find(|(known, _)| known == name);
        found.map(|(_, entry)| entry.clone())
    };
    let mut found = compare(part, &side(&old), &side(&new), |_, _, _| None);
    for difference in &mut found {
        let before = find(&old, &difference.name);
        let after = find(&new, &difference.name);
        if let (Some(before), Some(after)) = (before, after) {
            let mut names: Vec<&str> = before
                .keys()
                .chain(after.keys())
                .filter(|name| before.get(*name) != after.get(*name))
                .map(String::as_str)
                .collect();
            names.sort_unstable();
            names.dedup();
            difference.widens = widens(&difference.name, &names);
            let told = names.iter().map(|name| {
                let plain = |entry: &Map<String, Value>| match entry.get(*name) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
                    Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                        let items = items.iter().filter_map(Value::as_str);
                        items.collect::<Vec<_>>().join(", ")
                    }
                    None | Some(Value::Null) => "none".to_owned(),
                    Some(other) => other.to_string(),
                };
                format!("{name} {} (was {})", plain(&after), plain(&before))
            });
            difference.about = told.collect::<Vec<_>>().join("; ");
        }
    }
    found
}

/// What `network` keeps in depends on the provider.
fn other_provider(new: &Manifest, name: &str, changed: &[&str]) -> Option<String> {
    let sandbox = new.registry.sandboxes.get(name);
    let holds = sandbox.is_some_and(|sandbox| !sandbox.network.is_empty());
    (changed.contains(&"provider") && holds)
        .then(|| "another provider holds to `network` in its own way".to_owned())
}

/// Each cap by its name.
fn caps(limits: Option<&Limits>) -> Vec<(String, f64)> {
    let Some(limits) = limits else {
        return Vec::new();
    };
    let mut caps = Vec::new();
    let mut cap = |name: String, value: Option<f64>| {
        caps.extend(value.map(|value| (name, value)));
    };
    cap(
        "a cascade in dollars".to_owned(),
        limits.cascade_spend.map(|usd| usd.usd),
    );
    cap(
        "a cascade in runs".to_owned(),
        limits.cascade_runs.map(f64::from),
    );
    let day = limits.day.iter().map(|day| ("a day".to_owned(), day));
    let workflows = limits.workflows.iter();
    let workflows = workflows.map(|(name, it)| (format!("workflow {name}"), it));
    for (name, one) in day.chain(workflows) {
        cap(format!("{name} in dollars"), one.spend.map(|usd| usd.usd));
        cap(format!("{name} in runs"), one.runs.map(f64::from));
    }
    caps
}

fn limits(manifest: &Manifest) -> Side {
    let caps = caps(manifest.registry.limits.as_ref()).into_iter();
    caps.map(|(name, value)| (name, Thing::plain(value.to_string())))
        .collect()
}

/// A cap that was raised or taken away lets more through.
fn wider_limit(difference: &Difference, old: &Manifest, new: &Manifest) -> Option<String> {
    let value = |manifest: &Manifest| {
        let caps = caps(manifest.registry.limits.as_ref());
        let found = caps.into_iter().find(|(name, _)| *name == difference.name);
        found.map(|(_, value)| value)
    };
    let wider = match (value(old), value(new)) {
        (Some(was), Some(is)) => is > was,
        (Some(_), None) => true,
        (None, _) => false,
    };
    wider.then(|| "more may be used".to_owned())
}

/// The prices that dollars are counted by: a lower one lets more through a cap.
fn prices(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let side = |manifest: &Manifest| -> Side {
        let prices = manifest.registry.prices.iter();
        prices
            .map(|(model, price)| {
                let about = format!("{} in, {} out", price.input, price.output);
                let content = json!(price).to_string();
                (format!("price of {model}"), Thing { about, content })
            })
            .collect()
    };
    let cheaper = |name: &str, before: Option<&Thing>, _: &Thing| {
        let model = name.strip_prefix("price of ")?;
        let is = new.registry.prices.get(model)?;
        let lower = match (before, old.registry.prices.get(model)) {
            (Some(_), Some(was)) => {
                is.input < was.input
                    || is.output < was.output
                    || is.cached.unwrap_or(is.input) < was.cached.unwrap_or(was.input)
            }
            // It counts before Loopy's own table.
            _ => true,
        };
        lower.then(|| "dollars are counted by it, and caps hold by dollars".to_owned())
    };
    compare(Part::Limit, &side(old), &side(new), cheaper)
}
