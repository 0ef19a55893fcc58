//! The differences of the values of a template's parameters.

use super::{Action, Difference, Part};
use std::collections::BTreeMap;

/// What these values change of those that a stack has, and what of it lets somebody do
/// more: a boundary that goes, a cap on public calls that is raised or taken away, a key
/// that is used no longer.
pub fn parameters(
    before: &BTreeMap<String, String>,
    given: &BTreeMap<String, String>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, value) in given {
        let was = before.get(name).map(String::as_str).unwrap_or_default();
        if was == value {
            continue;
        }
        let shown = |value: &str| match value {
            "" => "nothing".to_owned(),
            value => value.to_owned(),
        };
        found.push(Difference {
            part: Part::Parameter,
            action: Action::Changed,
            name: name.clone(),
            about: format!("{} (was {})", shown(value), shown(was)),
            widens: widens(name, was, value).map(str::to_owned),
        });
    }
    found
}

fn widens(name: &str, was: &str, value: &str) -> Option<&'static str> {
    if was.is_empty() {
        return None;
    }
    match name {
        "PermissionsBoundary" => Some("roles are bounded by it no longer"),
        "PublicConcurrency" => {
            let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
            (number(value) > number(was)).then_some("more can be called from outside at once")
        }
        "KmsKey" if value.is_empty() => Some("what is at rest is kept without that key"),
        _ => None,
    }
}
