//! What a stack's secrets hold: read, compared with what a project gives, written, and
//! put back. Values are compared and never shown.

use super::{DAYTONA_VARIABLES, Needs, SecretsError, Values};
use crate::difference::{Action, Difference, Part};
use aws_sdk_secretsmanager::Client;
use loopy_contract::manifest::previous_secret;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const WEBHOOKS: &str = "WebhookSecret";
const SANDBOXES: &str = "SandboxSecret";
const GITHUB: &str = "GithubSecret";
const ENGINE: &str = "EngineSecret";
const SENSORS: &str = "SensorSecret";

/// The outputs that name the secrets whose values a project gives.
const OUTPUTS: [&str; 5] = [WEBHOOKS, SANDBOXES, GITHUB, ENGINE, SENSORS];

/// What the secrets of a stack hold: the maps by the outputs that name them. A secret
/// that the stack does not have has no map. Never shown.
#[derive(Clone, Default, PartialEq)]
pub struct Kept(BTreeMap<&'static str, Map<String, Value>>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept(…)")
    }
}

impl Kept {
    /// Reads the secrets that a stack with these outputs has.
    ///
    /// # Errors
    /// [`SecretsError::Service`].
    pub(crate) async fn read(
        client: &Client,
        outputs: &BTreeMap<String, String>,
    ) -> Result<Self, SecretsError> {
        let mut kept = BTreeMap::new();
        for output in OUTPUTS {
            if let Some(secret) = outputs.get(output) {
                kept.insert(output, read_one(client, secret).await?);
            }
        }
        Ok(Self(kept))
    }

    /// Writes it into those secrets of the stack that hold something else. Gives back
    /// their outputs.
    ///
    /// # Errors
    /// [`SecretsError::Service`].
    pub(crate) async fn write(
        &self,
        client: &Client,
        outputs: &BTreeMap<String, String>,
    ) -> Result<Vec<&'static str>, SecretsError> {
        let mut changed = Vec::new();
        for (output, map) in &self.0 {
            let Some(secret) = outputs.get(*output) else {
                continue;
            };
            if read_one(client, secret).await? == *map {
                continue;
            }
            client
                .put_secret_value()
                .secret_id(secret)
                .secret_string(json!(map).to_string())
                .send()
                .await
                .map_err(|error| SecretsError::Service {
                    action: "write",
                    secret: secret.clone(),
                    why: crate::events::explain(&error),
                })?;
            changed.push(*output);
        }
        Ok(changed)
    }

    /// What it lacks of what a version needs, a sentence each.
    pub fn lacks(&self, needs: &Needs) -> Vec<String> {
        let wanted: [(bool, &'static str, Vec<&str>); 5] = [
            (
                !needs.webhooks.is_empty(),
                WEBHOOKS,
                needs.webhooks.keys().map(String::as_str).collect(),
            ),
            (
                !needs.sandboxes.is_empty(),
                SANDBOXES,
                needs.sandboxes.keys().map(String::as_str).collect(),
            ),
            (needs.github, GITHUB, Vec::new()),
            (needs.daytona, ENGINE, vec![DAYTONA_VARIABLES[0]]),
            (needs.sensors, SENSORS, Vec::new()),
        ];
        let mut lacks = Vec::new();
        for (_, output, names) in wanted.into_iter().filter(|(needed, ..)| *needed) {
            match self.0.get(output) {
                // What it held nobody knows.
                None if names.is_empty() => {
                    lacks.push(format!("{output} is not there, nor what it held"));
                }
                None => lacks.extend(names.iter().map(|name| lack(output, name))),
                Some(map) => {
                    let missing = names.iter().filter(|name| !map.contains_key(**name));
                    lacks.extend(missing.map(|name| lack(output, name)));
                }
            }
        }
        lacks
    }

    /// The same without the names that none of these versions needs. What a project
    /// gives without naming it stays.
    pub(crate) fn without_unneeded(&self, versions: &[Needs]) -> Self {
        let webhooks: BTreeSet<String> = versions
            .iter()
            .flat_map(|needs| needs.webhooks.keys())
            .flat_map(|name| [name.clone(), previous_secret(name)])
            .collect();
        let sandboxes: BTreeSet<&String> = versions
            .iter()
            .flat_map(|needs| needs.sandboxes.keys())
            .collect();
        let mut kept = self.clone();
        if let Some(map) = kept.0.get_mut(WEBHOOKS) {
            map.retain(|name, _| webhooks.contains(name));
        }
        if let Some(map) = kept.0.get_mut(SANDBOXES) {
            map.retain(|name, _| sandboxes.contains(name));
        }
        kept
    }

    /// Each value by its name; a sandbox's with the sandbox.
    fn values(&self) -> BTreeMap<(&'static str, String), &Value> {
        let mut values = BTreeMap::new();
        for (output, map) in &self.0 {
            for (name, value) in map {
                match value.as_object() {
                    Some(inner) if *output == SANDBOXES => {
                        for (variable, value) in inner {
                            let name = format!("sandbox {name}: {variable}");
                            values.insert((*output, name), value);
                        }
                    }
                    _ if *output == SENSORS => {
                        values.insert((*output, format!("sensors: {name}")), value);
                    }
                    _ => {
                        values.insert((*output, name.clone()), value);
                    }
                }
            }
        }
        values
    }

    /// Whether whoever reads this secret, a sandbox or the sensors, has been given
    /// values before.
    fn has_readers(&self, output: &str, name: &str) -> bool {
        let Some(map) = self.0.get(output) else {
            return false;
        };
        match output {
            SANDBOXES => map
                .keys()
                .any(|sandbox| name.starts_with(&format!("sandbox {sandbox}: "))),
            SENSORS => !map.is_empty(),
            _ => false,
        }
    }
}

fn lack(output: &str, name: &str) -> String {
    format!("{output} has no value for {name}")
}

impl Values {
    /// What the secrets hold with these values. Names that the project no longer has
    /// stay: an earlier version may be gone back to, and runs that began with it may go
    /// on. What the project does name is as it says, and nothing else.
    pub(crate) fn over(&self, needs: &Needs, kept: &Kept) -> Kept {
        let mut all = BTreeMap::new();
        let before = |output| kept.0.get(output).cloned().unwrap_or_default();
        if !needs.webhooks.is_empty() {
            let mut map = before(WEBHOOKS);
            for name in needs.webhooks.keys() {
                map.remove(name);
                map.remove(&previous_secret(name));
            }
            map.extend(pairs(&self.webhooks));
            all.insert(WEBHOOKS, map);
        }
        if !needs.sandboxes.is_empty() {
            let mut map = before(SANDBOXES);
            let given = self.sandboxes.iter();
            map.extend(given.map(|(name, variables)| (name.clone(), json!(variables))));
            all.insert(SANDBOXES, map);
        }
        for (needed, output, variables) in [
            (needs.github, GITHUB, &self.github),
            (needs.daytona, ENGINE, &self.engine),
            (needs.sensors, SENSORS, &self.sensors),
        ] {
            if needed {
                all.insert(output, pairs(variables).collect());
            }
        }
        Kept(all)
    }

    /// What storing these values changes, by name. A variable more for a sandbox or for
    /// sensors that had others lets them do more; what is new as a whole is told of by
    /// the manifest.
    pub fn differences(&self, needs: &Needs, kept: &Kept) -> Vec<Difference> {
        let after = self.over(needs, kept);
        // What the project no longer has a secret for goes with the secret.
        let before = Kept(
            kept.0
                .iter()
                .filter(|(output, _)| after.0.contains_key(**output))
                .map(|(output, map)| (*output, map.clone()))
                .collect(),
        );
        let (old, new) = (before.values(), after.values());
        let difference = |action, name: &str, about: &str| Difference {
            part: Part::Secret,
            action,
            name: name.to_owned(),
            about: about.to_owned(),
            widens: None,
        };
        let mut found = Vec::new();
        for ((output, name), value) in &new {
            match old.get(&(*output, name.clone())) {
                Some(known) if known == value => {}
                Some(_) => found.push(difference(Action::Changed, name, "gets another value")),
                None => found.push(Difference {
                    widens: before
                        .has_readers(output, name)
                        .then(|| "what works there can read it".to_owned()),
                    ..difference(Action::Added, name, "gets a value")
                }),
            }
        }
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        found.extend(gone.map(|(_, name)| difference(Action::Removed, name, "its value goes")));
        found.sort();
        found
    }

    /// Puts the values into the stack's secrets, those that differ. Gives back
    /// the names of the outputs whose secrets were changed.
    ///
    /// # Errors
    /// [`SecretsError::NoSecret`] and [`SecretsError::Service`].
    pub(crate) async fn store(
        &self,
        client: &Client,
        needs: &Needs,
        outputs: &BTreeMap<String, String>,
    ) -> Result<Vec<&'static str>, SecretsError> {
        let all = self.over(needs, &Kept::read(client, outputs).await?);
        if let Some(output) = all.0.keys().find(|output| !outputs.contains_key(**output)) {
            return Err(SecretsError::NoSecret(output));
        }
        all.write(client, outputs).await
    }
}

fn pairs(variables: &super::Variables) -> impl Iterator<Item = (String, Value)> {
    variables
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
}

/// A secret's map; an empty one where it has no value yet, or none that Loopy wrote.
async fn read_one(client: &Client, secret: &str) -> Result<Map<String, Value>, SecretsError> {
    match client.get_secret_value().secret_id(secret).send().await {
        Ok(current) => {
            let text = current.secret_string.unwrap_or_default();
            Ok(serde_json::from_str(&text).unwrap_or_default())
        }
        Err(error)
            if error
                .as_service_error()
                .is_some_and(|e| e.is_resource_not_found_exception()) =>
        {
            Ok(Map::new())
        }
        Err(error) => Err(SecretsError::Service {
            action: "read",
            secret: secret.to_owned(),
            why: crate::events::explain(&error),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn kept(value: Value) -> Kept {
        let maps = value.as_object().unwrap().clone();
        Kept(
            OUTPUTS
                .iter()
                .filter_map(|output| Some((*output, maps.get(*output)?.as_object()?.clone())))
                .collect(),
        )
    }

    fn needs(webhooks: &[&str], sandboxes: &[&str]) -> Needs {
        Needs {
            webhooks: webhooks
                .iter()
                .map(|name| ((*name).to_owned(), vec!["s".to_owned()]))
                .collect(),
            sandboxes: sandboxes
                .iter()
                .map(|name| ((*name).to_owned(), vec!["a.env".to_owned()]))
                .collect(),
            ..Needs::default()
        }
    }

    fn values(webhooks: Value, sandboxes: Value) -> Values {
        Values {
            webhooks: serde_json::from_value(webhooks).unwrap(),
            sandboxes: serde_json::from_value(sandboxes).unwrap(),
            ..Values::default()
        }
    }

    #[test]
    fn a_sandbox_that_was_renamed_keeps_its_environment_for_going_back() {
        let before = kept(json!({
            WEBHOOKS: {"OLD": "1", "A": "2", "A_PREVIOUS": "3"},
            SANDBOXES: {"Dev": {"KEY": "v", "GONE": "w"}},
        }));
        let needs = needs(&["A"], &["Work"]);
        let values = values(json!({"A": "4"}), json!({"Work": {"KEY": "v"}}));
        let after = values.over(&needs, &before);
        let expected = kept(json!({
            // An old secret that is named no longer is taken no longer.
            WEBHOOKS: {"OLD": "1", "A": "4"},
            SANDBOXES: {"Dev": {"KEY": "v", "GONE": "w"}, "Work": {"KEY": "v"}},
        }));
        assert!(after == expected);
        // Once nobody needs the names, they go.
        assert!(
            after.without_unneeded(&[needs])
                == kept(json!({WEBHOOKS: {"A": "4"}, SANDBOXES: {"Work": {"KEY": "v"}}}))
        );
        assert_eq!(format!("{after:?}"), "Kept(…)");
    }

    #[test]
    fn what_a_version_lacks_is_named_without_the_secret_too() {
        let mut wanted = needs(&["A"], &["Dev"]);
        wanted.daytona = true;
        wanted.sensors = true;
        let has = kept(json!({WEBHOOKS: {"A": "1"}, SANDBOXES: {}}));
        assert_eq!(
            has.lacks(&wanted),
            [
                "SandboxSecret has no value for Dev",
                "EngineSecret has no value for DAYTONA_API_KEY",
                "SensorSecret is not there, nor what it held",
            ]
        );
    }

    #[test]
    fn values_that_would_be_overwritten_are_told_by_name_and_never_shown() {
        let before = kept(json!({
            WEBHOOKS: {"A": "old-value", "A_PREVIOUS": "older-value"},
            SANDBOXES: {"Dev": {"KEY": "old-value", "DROPPED": "old-value"}},
        }));
        let needs = needs(&["A"], &["Dev", "Fresh"]);
        let values = values(
            json!({"A": "new-value"}),
            json!({"Dev": {"KEY": "old-value", "MORE": "new-value"}, "Fresh": {"X": "new-value"}}),
        );
        let found = values.differences(&needs, &before);
        let told: Vec<(Action, &str, bool)> = found
            .iter()
            .map(|it| (it.action, it.name.as_str(), it.widens.is_some()))
            .collect();
        assert_eq!(
            told,
            [
                (Action::Added, "sandbox Dev: MORE", true),
                (Action::Added, "sandbox Fresh: X", false),
                (Action::Changed, "A", false),
                (Action::Removed, "A_PREVIOUS", false),
                (Action::Removed, "sandbox Dev: DROPPED", false),
            ]
        );
        assert!(!format!("{found:?}").contains("-value"));
        let same = values.differences(&needs, &values.over(&needs, &before));
        assert!(same.is_empty());
    }
}
