//! The one check of a value against its declared fields: full JSON Schema
//! (draft 2020-12, formats asserted). Used when an event enters, when a step
//! reports and when an event is emitted.

use crate::manifest::Contract;
use serde_json::{Map, Value, json};

/// The JSON Schema of an object with these fields and no others.
pub fn object_schema(contract: &Contract) -> Value {
    let required: Vec<&String> = contract
        .fields
        .keys()
        .filter(|name| !contract.optional.contains(*name))
        .collect();
    json!({
        "type": "object",
        "properties": contract.fields,
        "required": required,
        "additionalProperties": false,
    })
}

/// Checks `value` against the contract. Gives back every violation, each a
/// sentence that names the place (`/verdict: "maybe" is not one of …`); an
/// empty list means that it holds.
pub fn violations(contract: &Contract, value: &Value) -> Vec<String> {
    check(&object_schema(contract), value)
}

/// Checks the fields of an event. See [`violations`].
pub fn field_violations(contract: &Contract, fields: &Map<String, Value>) -> Vec<String> {
    violations(contract, &Value::Object(fields.clone()))
}

/// Whether `schema` is itself a valid JSON Schema; the text says what is wrong.
pub fn schema_error(schema: &Value) -> Option<String> {
    jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .err()
        .map(|e| e.to_string())
}

fn check(schema: &Value, value: &Value) -> Vec<String> {
    match jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
    {
        Ok(validator) => validator
            .iter_errors(value)
            .map(|error| {
                let place = error.instance_path().to_string();
                if place.is_empty() {
                    error.to_string()
                } else {
                    format!("{place}: {error}")
                }
            })
            .collect(),
        Err(error) => vec![format!("the declared schema is not valid: {error}")],
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn contract() -> Contract {
        serde_json::from_value(json!({
            "fields": {
                "verdict": {"type": "string", "enum": ["pass", "fail"]},
                "count": {"type": "integer"},
                "link": {"type": "string", "format": "uri"},
            },
            "optional": ["link"],
        }))
        .unwrap()
    }

    #[test]
    fn a_value_that_holds_has_no_violations() {
        assert!(violations(&contract(), &json!({"verdict": "pass", "count": 3})).is_empty());
    }

    #[test]
    fn each_violation_names_its_place() {
        let found = violations(
            &contract(),
            &json!({"verdict": "maybe", "count": "3", "link": "no"}),
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found.iter().any(|v| v.starts_with("/verdict: ")),
            "{found:?}"
        );
    }

    #[test]
    fn missing_and_extra_fields_are_violations() {
        assert_eq!(
            violations(&contract(), &json!({"verdict": "pass"})).len(),
            1
        );
        assert_eq!(
            violations(&contract(), &json!({"verdict": "pass", "count": 1, "x": 1})).len(),
            1
        );
    }
}
