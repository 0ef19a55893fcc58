//! Identifiers that are derived, never drawn: the same cause gives the same
//! id, so a redelivered message can only repeat what it did before.

use serde::{Deserialize, Serialize};
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
    /// The `index`-th event that `sensor` made of one delivery.
    pub fn from_delivery(sensor: &str, delivery: &str, index: usize) -> Self {
        Self(format!(
            "evt-{}",
            derive(&["delivery", sensor, delivery, &index.to_string()], 24)
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
