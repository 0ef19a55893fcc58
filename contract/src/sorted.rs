//! Serializes with sorted keys. `serde_json::Value` sorts the keys of its maps;
//! it is made a part at a time, because that of a large project's manifest is
//! many times the size of the manifest.

use serde::ser::Error;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// A value whose keys are sorted at every level.
pub(crate) struct Sorted<'a, T>(pub(crate) &'a T);

impl<T: Serialize> Serialize for Sorted<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_value(self.0)
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// The same for a large map, one entry at a time.
pub(crate) struct SortedEntries<'a, T>(pub(crate) &'a BTreeMap<String, T>);

impl<T: Serialize> Serialize for SortedEntries<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, Sorted(value))))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use crate::manifest::Manifest;
    use serde_json::{Value, json};

    #[test]
    fn a_part_at_a_time_makes_no_difference() {
        let step = json!({
            "id": "flow/a", "trigger": {"kind": "event", "event": "Go"}, "after": [],
            "agent": "Worker", "output": {"z": {"type": "array", "items": {}}, "b": {}},
            "emits": ["Done"], "budget": {"wall_clock": 2}, "body": "é \"x\"",
            "refs": [{"raw": "{{ event.x }}", "producer": "event", "field": "x"}],
        });
        let value = json!({
            "schema_version": "3", "loopy_version": "0", "hash": "f00",
            "registry": {
                "sandboxes": {"Box": {"provider": "local", "image": {"y": 1, "a": null},
                    "network": [], "env_file": [], "repos": []}},
                "agents": {}, "events": {"Go": {"fields": {"x": {"type": "string"}}}},
            },
            "workflows": {"flow": {"entry": "a", "steps": {"a": step}}, "empty": {
                "entry": null, "steps": {}}},
            "sensors": [], "lineage": {"events": {"Go": {"producers": [], "consumers": ["flow/a"]}}},
            "skills": {"s": {"SKILL.md": "00"}}, "sensor_files": {},
        });
        let manifest: Manifest = serde_json::from_value(value).unwrap();
        let whole = |manifest: &Manifest| -> Value { serde_json::to_value(manifest).unwrap() };
        assert_eq!(manifest.to_json(), format!("{:#}\n", whole(&manifest)),);
        let mut unhashed = manifest.clone();
        unhashed.hash.clear();
        let text = format!("{:#}", whole(&unhashed));
        assert_eq!(
            manifest.content_hash().0,
            crate::ids::sha256_hex(text.as_bytes())
        );
    }
}
