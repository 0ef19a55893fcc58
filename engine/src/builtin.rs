//! The built-in events: reads a verified delivery by the mapping that the
//! manifest has for the event. A delivery that is not the event gives none.

use crate::ports::{Sensed, SensorCall};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::manifest::Sensor;
use loopy_contract::mapping::{Check, Mapping, Reading, Take};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The field of a form that holds JSON, at GitHub and at Slack.
const PAYLOAD: &str = "payload";

/// A delivery cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// The manifest was written before mappings stood in it.
    #[error(
        "the manifest does not say how {event} is read, an older Loopy wrote it; compile or deploy the project again"
    )]
    NoMapping {
        /// The event.
        event: String,
    },
    /// The queued body cannot be decoded.
    #[error("sensor {sensor}: the queued body is no base64: {source}")]
    Queued {
        /// The sensor.
        sensor: String,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// It is no JSON.
    #[error("sensor {sensor}: the delivery is not JSON: {source}")]
    NotJson {
        /// The sensor.
        sensor: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The event that a built-in sensor makes of a delivery; `None` when the delivery
/// is not that event. Its fields are not yet checked against the contract.
///
/// # Errors
/// [`BuiltinError`] says why the delivery cannot be read.
pub fn event(sensor: &Sensor, call: &SensorCall) -> Result<Option<Sensed>, BuiltinError> {
    let SensorCall::Request {
        headers,
        body_base64,
        ..
    } = call
    else {
        return Ok(None);
    };
    let Some(mapping) = &sensor.mapping else {
        let event = sensor.emits.clone();
        return Err(BuiltinError::NoMapping { event });
    };
    // A body is only read for the few events that its headers allow.
    let headers_hold = mapping.when.iter().all(|check| match check {
        Check::Header { name, one_of } => headers
            .get(name)
            .is_some_and(|value| one_of.contains(value)),
        Check::Value { .. } | Check::Present { .. } => true,
    });
    if !headers_hold {
        return Ok(None);
    }
    let bytes = STANDARD
        .decode(body_base64)
        .map_err(|source| BuiltinError::Queued {
            sensor: sensor.name.clone(),
            source,
        })?;
    let body = read(headers, &bytes).map_err(|source| BuiltinError::NotJson {
        sensor: sensor.name.clone(),
        source,
    })?;
    Ok(holds(mapping, &body).then(|| Sensed {
        event: sensor.emits.clone(),
        fields: fields(mapping, &body),
    }))
}

/// The body of a delivery. A form is the JSON in its field `payload`, or else an
/// object of its fields.
fn read(headers: &BTreeMap<String, String>, bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let kind = headers.get("content-type").map_or("", String::as_str);
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return serde_json::from_slice(bytes);
    }
    let form: BTreeMap<String, String> = form_urlencoded::parse(bytes).into_owned().collect();
    match form.get(PAYLOAD) {
        Some(payload) => serde_json::from_str(payload),
        None => Ok(form
            .into_iter()
            .map(|(name, text)| (name, Value::String(text)))
            .collect()),
    }
}

/// Whether the body is that of the event.
fn holds(mapping: &Mapping, body: &Value) -> bool {
    mapping.when.iter().all(|check| match check {
        Check::Header { .. } => true,
        Check::Value { at, one_of } => one_of.contains(body.pointer(at).unwrap_or(&Value::Null)),
        Check::Present { at } => body.pointer(at).is_some_and(|value| !value.is_null()),
    })
}

fn fields(mapping: &Mapping, body: &Value) -> Map<String, Value> {
    let fields = mapping.fields.iter();
    fields
        .filter_map(|(name, reading)| Some((name.clone(), field(reading, body)?)))
        .collect()
}

fn field(reading: &Reading, body: &Value) -> Option<Value> {
    let places = || reading.at.iter().filter_map(|at| body.pointer(at));
    if reading.take == Take::Presence {
        return Some(Value::Bool(places().any(|value| !value.is_null())));
    }
    let mut empty = None;
    for found in places().filter_map(|value| taken(&reading.take, value)) {
        if found == "" {
            empty = Some(found);
        } else if reading.only.is_empty() || reading.only.contains(&found) {
            return Some(found);
        }
    }
    reading.default.clone().or(empty)
}

/// What is taken of a value, where that is usable.
fn taken(take: &Take, value: &Value) -> Option<Value> {
    match take {
        Take::Value => (!value.is_null()).then(|| value.clone()),
        Take::Text => text(value),
        Take::Count => value.as_array().map(|items| items.len().into()),
        Take::Each(at) => {
            let items = value.as_array()?.iter();
            Some(items.filter_map(|item| text(item.pointer(at)?)).collect())
        }
        // Looked at before, over all places.
        Take::Presence => None,
    }
}

fn text(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use loopy_contract::manifest::{SensorSource, SensorTrigger, VerifyScheme};
    use serde_json::json;

    fn sensor(mapping: Option<Value>) -> Sensor {
        Sensor {
            name: "builtin:Some.Event".to_owned(),
            trigger: SensorTrigger::Webhook {
                path: "/hooks/some".to_owned(),
                verify: Some(VerifyScheme::Standard),
            },
            emits: "Some.Event".to_owned(),
            source: SensorSource::Builtin,
            provider: Some("some".to_owned()),
            mapping: mapping.map(|mapping| serde_json::from_value(mapping).unwrap()),
            module: None,
            function: None,
        }
    }

    fn call(headers: &[(&str, &str)], body: &str) -> SensorCall {
        SensorCall::Request {
            method: "POST".to_owned(),
            path: "/hooks/some".to_owned(),
            query: String::new(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body_base64: STANDARD.encode(body),
        }
    }

    fn fields_of(mapping: Value, headers: &[(&str, &str)], body: &str) -> Option<Value> {
        event(&sensor(Some(mapping)), &call(headers, body))
            .unwrap()
            .map(|sensed| Value::Object(sensed.fields))
    }

    #[test]
    fn all_checks_have_to_hold() {
        let mapping = json!({
            "when": [
                {"kind": "header", "name": "x-event", "one_of": ["a", "b"]},
                {"kind": "value", "at": "/merged", "one_of": [true]},
                {"kind": "present", "at": "/deep/0"},
                {"kind": "value", "at": "/bot", "one_of": [null, "file"]},
            ],
            "fields": {},
        });
        let is = |header: &str, body: Value| {
            let found = fields_of(mapping.clone(), &[("x-event", header)], &body.to_string());
            found.is_some()
        };
        assert!(is("b", json!({"merged": true, "deep": [1]})));
        assert!(is("a", json!({"merged": true, "deep": [0], "bot": null})));
        assert!(!is("c", json!({"merged": true, "deep": [1]})));
        assert!(!is("a", json!({"merged": "true", "deep": [1]})));
        assert!(!is("a", json!({"merged": true, "deep": [null]})));
        assert!(is("a", json!({"merged": true, "deep": [0], "bot": "file"})));
        assert!(!is("a", json!({"merged": true, "deep": [1], "bot": ""})));
        assert!(!is("a", json!([])));
        let body = json!({"merged": true, "deep": [1]}).to_string();
        assert_eq!(fields_of(mapping, &[], &body), None);
    }

    #[test]
    fn the_first_usable_place_counts() {
        let mapping = json!({"when": [], "fields": {
            "url": {"at": ["/a", "/b"], "take": "text"},
            "id": {"at": ["/id"], "take": "text"},
            "level": {"at": ["/level"], "take": "text", "only": ["low", "high"], "default": "low"},
            "by": {"at": ["/by"], "take": "text", "default": "unknown"},
            "size": {"at": ["/size"]},
        }});
        let read = |body: Value| fields_of(mapping.clone(), &[], &body.to_string()).unwrap();
        assert_eq!(
            read(json!({"a": "", "b": "there", "id": 7, "level": "high", "by": "x", "size": 3})),
            json!({"url": "there", "id": "7", "level": "high", "by": "x", "size": 3}),
        );
        assert_eq!(
            read(json!({"a": "", "b": null, "id": "", "level": "odd", "by": "", "size": null})),
            json!({"url": "", "id": "", "level": "low", "by": "unknown"}),
        );
        assert_eq!(
            read(json!({"a": {}, "b": [], "id": true})),
            json!({"level": "low", "by": "unknown"}),
        );
    }

    #[test]
    fn lists_and_presence_are_taken() {
        let mapping = json!({"when": [], "fields": {
            "count": {"at": ["/commits"], "take": "count", "default": 0},
            "names": {"at": ["/labels"], "take": {"each": "/name"}, "default": []},
            "words": {"at": ["/words"], "take": {"each": ""}},
            "there": {"at": ["/there"], "take": "presence"},
        }});
        let read = |body: Value| fields_of(mapping.clone(), &[], &body.to_string()).unwrap();
        assert_eq!(
            read(json!({
                "commits": [1, 2], "labels": [{"name": "bug"}, {}, 3, {"name": null}],
                "words": ["a", 1, []], "there": {},
            })),
            json!({"count": 2, "names": ["bug"], "words": ["a", "1"], "there": true}),
        );
        assert_eq!(
            read(json!({"commits": {}, "words": "a", "there": null})),
            json!({"count": 0, "names": [], "there": false}),
        );
    }

    #[test]
    fn forms_are_read() {
        let mapping = json!({"when": [], "fields": {
            "command": {"at": ["/command"]}, "name": {"at": ["/user/name"]},
        }});
        let form = [(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        assert_eq!(
            fields_of(mapping.clone(), &form, "command=%2Fdeploy&text=to+prod"),
            Some(json!({"command": "/deploy"})),
        );
        let payload = "payload=%7B%22user%22%3A%7B%22name%22%3A%22ada%22%7D%7D";
        assert_eq!(
            fields_of(mapping.clone(), &form, payload),
            Some(json!({"name": "ada"})),
        );
        let broken = event(&sensor(Some(mapping)), &call(&form, "payload=no"));
        assert!(
            matches!(broken, Err(BuiltinError::NotJson { .. })),
            "{broken:?}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let told = event(&sensor(None), &call(&[], "{}")).unwrap_err();
        assert!(
            told.to_string().contains("deploy the project again"),
            "{told}"
        );
        let mapping = json!({"when": [], "fields": {}});
        let told = event(&sensor(Some(mapping)), &call(&[], "{")).unwrap_err();
        assert!(told.to_string().contains("not JSON"), "{told}");
    }
}
