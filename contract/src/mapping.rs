//! How a delivery becomes a built-in event: which deliveries are one, and where
//! each field is found. It stands in the manifest, so that no reader needs the
//! catalogue it was taken from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Reads one built-in event from a delivery.
///
/// A place in a body is a JSON Pointer. The body of a form is the JSON in its
/// field `payload`, or else an object of its fields' texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mapping {
    /// What has to hold of a delivery that is the event.
    pub when: Vec<Check>,
    /// Where each field is found. A field of which nothing is found is left out.
    pub fields: BTreeMap<String, Reading>,
}

/// What has to hold of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Check {
    /// A header has one of these values.
    Header {
        /// Its name in lower case.
        name: String,
        /// The values.
        one_of: Vec<String>,
    },
    /// One of these values stands at a place in the body; `null` where nothing does.
    Value {
        /// The place.
        at: String,
        /// The values.
        one_of: Vec<Value>,
    },
    /// Something other than `null` stands at a place in the body.
    Present {
        /// The place.
        at: String,
    },
}

/// Where a field is found. The first place that holds something usable counts,
/// then the default. `null` is never usable; an empty text is only when there is
/// nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// Places in the body, in order.
    pub at: Vec<String>,
    /// What is taken from there.
    #[serde(default, skip_serializing_if = "Take::is_value")]
    pub take: Take,
    /// The only values that are usable; empty when all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Value>,
    /// What it is when nothing usable is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

/// What is taken from the place where a field is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// What stands there.
    #[default]
    Value,
    /// A text, or a number as text.
    Text,
    /// How many items a list has.
    Count,
    /// Whether something stands there.
    Presence,
    /// Of each item of a list, the text at this place in it; items without one
    /// are left out.
    Each(String),
}

impl Take {
    fn is_value(&self) -> bool {
        *self == Self::Value
    }
}
