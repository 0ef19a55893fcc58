//! Schemas as OpenAI's strict mode takes them: every object closed and with all
//! its members required, so that what may be left out is `null` instead.
//!
//! A strict schema may let more pass than the one it comes from, as the outcome
//! is checked again anyway. What it cannot say at all (a value of any type, an
//! object with members of any name) has none.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Keywords that mean the same there.
const SAME: [&str; 9] = [
    "type",
    "description",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
];
/// The formats known there.
const FORMATS: [&str; 9] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
];

/// The strict form of `schema`, if it has one.
pub(super) fn strict(schema: &Value) -> Option<Value> {
    let schema = schema.as_object()?;
    if schema.contains_key("$ref") || schema.contains_key("allOf") {
        return None;
    }
    let mut strict = Map::new();
    for (name, value) in schema {
        let known = SAME.contains(&name.as_str())
            || name == "format" && value.as_str().is_some_and(|name| FORMATS.contains(&name));
        if known {
            strict.insert(name.clone(), value.clone());
        }
    }
    if let Some(choices) = choices(schema) {
        if !strict.contains_key("type") {
            let types: BTreeSet<&str> = choices.iter().map(type_of).collect();
            let types: Vec<&str> = types.into_iter().collect();
            let types = match types.as_slice() {
                [one] => json!(one),
                several => json!(several),
            };
            strict.insert("type".to_owned(), types);
        }
        strict.insert("enum".to_owned(), choices.into());
    }
    let branches = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    if let Some(branches) = branches {
        let branches: Option<Vec<Value>> = branches.as_array()?.iter().map(self::strict).collect();
        strict.insert("anyOf".to_owned(), branches?.into());
    }
    if has_type(schema, "object") {
        // Any member at all may be there unless the schema says which.
        let properties = match schema.get("properties") {
            Some(properties) => properties.as_object()?.clone(),
            None if schema.get("additionalProperties") == Some(&Value::Bool(false)) => Map::new(),
            None => return None,
        };
        let open = schema.get("additionalProperties");
        if open.is_some_and(Value::is_object) || open == Some(&Value::Bool(true)) {
            return None;
        }
        let required = required(schema);
        let mut members = Map::new();
        for (name, property) in &properties {
            let member = self::strict(property)?;
            let member = if required.contains(name.as_str()) || takes_null(property) {
                member
            } else {
                json!({"anyOf": [member, {"type": "null"}]})
            };
            members.insert(name.clone(), member);
        }
        let names: Vec<&String> = properties.keys().collect();
        strict.insert("required".to_owned(), json!(names));
        strict.insert("properties".to_owned(), members.into());
        strict.insert("additionalProperties".to_owned(), false.into());
    }
    if has_type(schema, "array") {
        strict.insert("items".to_owned(), self::strict(schema.get("items")?)?);
    }
    (strict.contains_key("type") || strict.contains_key("anyOf")).then_some(strict.into())
}

/// Takes out of `value` the members that are `null` only because the strict form
/// of `schema` has no other way to leave them out.
pub(super) fn without_nulls(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(members) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
                return;
            };
            let required = schema.as_object().map(required).unwrap_or_default();
            for (name, property) in properties {
                match members.get_mut(name) {
                    Some(Value::Null)
                        if !required.contains(name.as_str()) && !takes_null(property) =>
                    {
                        members.remove(name);
                    }
                    Some(member) => without_nulls(property, member),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    without_nulls(schema, item);
                }
            }
        }
        _ => {}
    }
}

fn required(schema: &Map<String, Value>) -> BTreeSet<&str> {
    schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The only values that the schema takes, where it lists them.
fn choices(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(choices)), _) => Some(choices.clone()),
        (_, Some(only)) => Some(vec![only.clone()]),
        _ => None,
    }
}

fn has_type(schema: &Map<String, Value>, wanted: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(several)) => several.iter().any(|one| one == wanted),
        _ => false,
    }
}

fn takes_null(schema: &Value) -> bool {
    schema.as_object().is_some_and(|schema| {
        has_type(schema, "null")
            || choices(schema).is_some_and(|choices| choices.contains(&Value::Null))
    })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn all_members_are_required_and_optional_ones_may_be_null() {
        let schema = json!({
            "type": "object",
            "required": ["verdict"],
            "properties": {
                "verdict": {"enum": ["pass", "fail"]},
                "link": {"type": "string", "format": "uri", "minLength": 3},
                "when": {"type": "string", "format": "date"},
                "maybe": {"type": ["integer", "null"]},
            },
            "additionalProperties": false,
        });
        assert_eq!(
            strict(&schema).unwrap(),
            json!({
                "type": "object",
                "required": ["link", "maybe", "verdict", "when"],
                "properties": {
                    "verdict": {"type": "string", "enum": ["pass", "fail"]},
                    "link": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
                    "maybe": {"type": ["integer", "null"]},
                },
                "additionalProperties": false,
            })
        );
        let mut value =
            json!({"verdict": "pass", "link": null, "when": "2026-01-01", "maybe": null});
        without_nulls(&schema, &mut value);
        assert_eq!(
            value,
            json!({"verdict": "pass", "when": "2026-01-01", "maybe": null})
        );
    }

    #[test]
    fn lists_and_objects_inside_are_made_strict_too() {
        let inner = json!({"type": "object", "properties": {"n": {"const": 1}}});
        let schema = json!({"type": "array", "items": inner, "uniqueItems": true});
        assert_eq!(
            strict(&schema).unwrap(),
            json!({"type": "array", "items": {
                "type": "object", "required": ["n"], "additionalProperties": false,
                "properties": {"n": {"anyOf": [{"type": "integer", "enum": [1]}, {"type": "null"}]}},
            }})
        );
        let mut value = json!([{"n": null}, {"n": 1}]);
        without_nulls(&schema, &mut value);
        assert_eq!(value, json!([{}, {"n": 1}]));
    }

    #[test]
    fn what_strict_mode_cannot_say_has_no_strict_form() {
        for schema in [
            json!({}),
            json!(true),
            json!({"type": "object"}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}),
            json!({"type": "array"}),
            json!({"$ref": "#/$defs/a"}),
            json!({"anyOf": [{"type": "string"}, {}]}),
        ] {
            assert_eq!(strict(&schema), None, "{schema}");
        }
        let none = json!({"type": "object", "additionalProperties": false});
        assert!(strict(&none).is_some(), "an event without fields");
    }

    #[test]
    fn a_null_that_is_wanted_stays() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string"}, "b": {"enum": [null, 1]},
        }});
        let mut value = json!({"a": null, "b": null});
        without_nulls(&schema, &mut value);
        assert_eq!(value, json!({"a": null, "b": null}));
    }
}
