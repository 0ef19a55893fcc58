//! What a step has to put out: the schema that is asked for, and the check of
//! what came back.

use loopy_contract::manifest::Contract;
use loopy_contract::report::{Envelope, Outcome};
use loopy_contract::schema::{object_schema, violations};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Whether the step declares an output or an event at all.
pub(crate) fn declares_any(envelope: &Envelope) -> bool {
    !envelope.output.fields.is_empty() || !envelope.emits.is_empty()
}

/// Whether the step has to put anything out.
pub(crate) fn needs_any(envelope: &Envelope) -> bool {
    !envelope.output.fields.is_empty() || needed_events(envelope).next().is_some()
}

/// The events that may not be left out.
pub(crate) fn needed_events(envelope: &Envelope) -> impl Iterator<Item = &String> {
    envelope
        .emits
        .keys()
        .filter(|name| !envelope.emits_optional.contains(*name))
}

/// The JSON Schema of `{"output": {…}, "emits": {"Event": {…}}}`, with just the
/// members that are declared, all of them required but for events under a
/// condition (and `emits` itself when it has no others).
pub(crate) fn wanted_schema(envelope: &Envelope) -> Value {
    let mut members = Map::new();
    let mut optional = BTreeSet::new();
    if !envelope.output.fields.is_empty() {
        members.insert("output".to_owned(), object_schema(&envelope.output));
    }
    if !envelope.emits.is_empty() {
        let events: Map<String, Value> = envelope
            .emits
            .iter()
            .map(|(name, contract)| (name.clone(), object_schema(contract)))
            .collect();
        let events = closed_object(events, &envelope.emits_optional);
        members.insert("emits".to_owned(), events);
        if needed_events(envelope).next().is_none() {
            optional.insert("emits".to_owned());
        }
    }
    closed_object(members, &optional)
}

fn closed_object(members: Map<String, Value>, optional: &BTreeSet<String>) -> Value {
    let required: Vec<&String> = members
        .keys()
        .filter(|name| !optional.contains(*name))
        .collect();
    json!({
        "type": "object",
        "required": required,
        "properties": members,
        "additionalProperties": false,
    })
}

/// Takes `{"output": …, "emits": …}` for the step's outcome.
///
/// # Errors
/// Every violation, each a sentence that names its place.
pub(crate) fn check(envelope: &Envelope, value: &Value) -> Result<Outcome, Vec<String>> {
    let Value::Object(members) = value else {
        return Err(vec![
            "it is not a JSON object with `output` and `emits`".to_owned(),
        ]);
    };
    let mut wrong = Vec::new();
    for name in members
        .keys()
        .filter(|name| *name != "output" && *name != "emits")
    {
        wrong.push(format!(
            "/{name}: only `output` and `emits` are expected here"
        ));
    }

    let output = part(
        &envelope.output,
        members.get("output"),
        "/output",
        &mut wrong,
    );
    let mut emits = BTreeMap::new();
    let events = match members.get("emits") {
        None => None,
        Some(Value::Object(events)) => Some(events),
        Some(_) => {
            wrong.push("/emits: it is not an object of events by name".to_owned());
            None
        }
    };
    for (name, contract) in &envelope.emits {
        match events.and_then(|events| events.get(name)) {
            Some(payload) => {
                let place = format!("/emits/{name}");
                emits.insert(
                    name.clone(),
                    part(contract, Some(payload), &place, &mut wrong),
                );
            }
            None if envelope.emits_optional.contains(name) => {}
            None => wrong.push(format!("/emits: the event `{name}` is missing")),
        }
    }
    for name in events.into_iter().flat_map(Map::keys) {
        if !envelope.emits.contains_key(name) {
            wrong.push(format!(
                "/emits: the step does not declare the event `{name}`"
            ));
        }
    }
    if wrong.is_empty() {
        Ok(Outcome::Succeeded { output, emits })
    } else {
        Err(wrong)
    }
}

/// Checks one object; an absent one is an empty one.
fn part(
    contract: &Contract,
    value: Option<&Value>,
    place: &str,
    wrong: &mut Vec<String>,
) -> Map<String, Value> {
    let value = value.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    wrong.extend(violations(contract, &value).into_iter().map(|violation| {
        if violation.starts_with('/') {
            format!("{place}{violation}")
        } else {
            format!("{place}: {violation}")
        }
    }));
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
