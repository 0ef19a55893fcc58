//! Identifiers that are derived, never drawn: the same cause gives the same
//! id, so a redelivered message can only repeat what it did before.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;

/// Lower-case hex SHA-256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// SHA-256 of what is written to it.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// Lower-case hex of the hash.
    pub(crate) fn hex(self) -> String {
        hex::encode(self.0.finalize())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first `chars` hex characters of a SHA-256 over the parts, each preceded
/// by its length so that `["ab", "c"]` and `["a", "bc"]` differ.
pub fn derive(parts: &[&str], chars: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut id = hex::encode(hasher.finalize());
    id.truncate(chars);
    id
}

/// Writes JSON that is the same for the same value, in whatever order a map keeps its
/// keys.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => write_object(map, text),
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

fn write_object(map: &Map<String, Value>, text: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    text.push('{');
    for (key, value) in entries {
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write_canonical(value, text);
        text.push(',');
    }
    text.push('}');
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

id!(
    /// Names one run: `<workflow>-<16 hex>`, derived from workflow and event.
    RunId
);
id!(
    /// Names one event for ever; two events with one id are one event.
    EventId
);
id!(
    /// Names a cascade: the id of the event that began it.
    CascadeId
);
id!(
    /// Content hash of a manifest (lower-case hex SHA-256).
    ManifestHash
);

impl RunId {
    /// The run that `event` starts in `workflow`.
    pub fn derive(workflow: &str, event: &EventId) -> Self {
        Self(format!(
            "{workflow}-{}",
            derive(&["run", workflow, event.as_str()], 16)
        ))
    }

    /// The run that goes over `original` again because of the command `command`.
    pub fn again(workflow: &str, original: &Self, command: &str) -> Self {
        Self(format!(
            "{workflow}-{}",
            derive(&["again", original.as_str(), command], 16)
        ))
    }
}

impl EventId {
    /// The event called `name` with these fields that `sensor` made of one delivery;
    /// `nth`, counted from 0, tells those apart that are alike in all of that.
    ///
    /// Where it stands in the sensor's answer plays no part: a call that is repeated
    /// may answer in another order, or with more. What it gives again is the same
    /// event, and what it did not give before is another one.
    pub fn from_delivery(
        sensor: &str,
        delivery: &str,
        name: &str,
        fields: &Map<String, Value>,
        nth: usize,
    ) -> Self {
        let mut text = String::new();
        write_object(fields, &mut text);
        Self(format!(
            "evt-{}",
            derive(
                &["content", sensor, delivery, name, &text, &nth.to_string()],
                24
            )
        ))
    }

    /// The event called `name` that one attempt of a step emitted.
    pub fn from_attempt(run: &RunId, step: &str, attempt: u32, name: &str) -> Self {
        Self(format!(
            "evt-{}",
            derive(
                &["emit", run.as_str(), step, &attempt.to_string(), name],
                24
            )
        ))
    }

    /// The tick of `step`'s schedule at `scheduled_at` (RFC 3339).
    pub fn from_tick(step: &str, scheduled_at: &str) -> Self {
        Self(format!(
            "tick-{}",
            derive(&["tick", step, scheduled_at], 24)
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn id(fields: &Value, nth: usize) -> EventId {
        EventId::from_delivery("s", "d", "E", fields.as_object().unwrap(), nth)
    }

    #[test]
    fn an_event_of_a_delivery_is_known_by_what_it_says() {
        let one = json!({"n": 1, "of": {"a": [1, "x"], "b": null}});
        let same: Value =
            serde_json::from_str(r#"{"of": {"b": null, "a": [1, "x"]}, "n": 1}"#).unwrap();
        assert_eq!(id(&one, 0), id(&same, 0));
        assert_ne!(id(&one, 0), id(&one, 1));
        for other in [
            json!({}),
            json!({"n": "1", "of": {"a": [1, "x"], "b": null}}),
            json!({"n": 1, "of": {"a": ["x", 1], "b": null}}),
            json!({"n": 1, "of": {"a": [[1], "x"], "b": null}}),
            json!({"n": 1, "of": {"a": [1, "x"]}, "b": null}),
        ] {
            assert_ne!(id(&one, 0), id(&other, 0), "{other}");
        }
        let fields = one.as_object().unwrap();
        for other in [
            EventId::from_delivery("t", "d", "E", fields, 0),
            EventId::from_delivery("s", "e", "E", fields, 0),
            EventId::from_delivery("s", "d", "F", fields, 0),
        ] {
            assert_ne!(id(&one, 0), other);
        }
    }
}
