//! Cuts what is big out of a JSON document, so that the rest fits an item, and
//! puts it back. Pure; where the parts go is not known here.
//!
//! What was cut out is named beside the document and never inside it: a value
//! in there is somebody else's, and could look like a pointer.

use loopy_contract::ids::sha256_hex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is longer than this as JSON is cut, in bytes.
pub(crate) const INLINE_BYTES: usize = 100 * 1024;

/// A value is worth an object of its own from this size on, in bytes; when
/// nothing else helps, from the second.
const VALUE_BYTES: [usize; 2] = [4 * 1024, 256];

/// Lists are cut into pieces of this length. What a whole piece of a finished
/// list holds does not change, so it is stored once.
const PIECE: usize = 50;

/// Where a part was, and by which hash it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    /// An RFC 6901 pointer into the document.
    at: String,
    /// Of a list: from which element to before which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range: Option<(usize, usize)>,
    /// Of the part's JSON.
    pub(crate) sha256: String,
}

/// What was cut out.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) pointer: Pointer,
    /// JSON.
    pub(crate) text: String,
}

/// A part does not fit where it was.
#[derive(Debug, thiserror::Error)]
#[error("the document has no place `{at}` for one of its parts")]
pub(crate) struct Misfit {
    at: String,
}

/// Cuts a run until it is at most [`INLINE_BYTES`] long, as far as it goes:
/// first all large outputs and event fields, then all finished pieces of
/// attempts, items and history, then as much of what is left as has to go.
pub(crate) fn cut_run(run: &mut Value) -> Result<Vec<Part>, serde_json::Error> {
    let mut cut = Cut {
        left: serde_json::to_string(run)?.len(),
        parts: Vec::new(),
    };
    let [large, any] = VALUE_BYTES;
    if cut.is_long() {
        for place in values(run) {
            cut.value(run, place, large)?;
        }
    }
    if cut.is_long() {
        cut.lists(run, true)?;
    }
    if cut.is_long() {
        for place in values(run) {
            cut.value(run, place, any)?;
        }
        cut.lists(run, false)?;
    }
    Ok(cut.parts)
}

/// Cuts the fields out of an event's record when it is long.
pub(crate) fn cut_record(record: &mut Value) -> Result<Vec<Part>, serde_json::Error> {
    let mut cut = Cut {
        left: serde_json::to_string(record)?.len(),
        parts: Vec::new(),
    };
    if cut.is_long() {
        cut.value(record, "/event/fields".to_owned(), 0)?;
    }
    Ok(cut.parts)
}

/// Puts parts back, in the order in which they were cut out.
pub(crate) fn put_back(document: &mut Value, parts: Vec<(Pointer, Value)>) -> Result<(), Misfit> {
    // What was cut first may lie in what was cut last.
    for (Pointer { at, range, .. }, value) in parts.into_iter().rev() {
        let place = document.pointer_mut(&at);
        match (place, range, value) {
            (Some(place), None, value) => *place = value,
            (Some(Value::Array(list)), Some((from, to)), Value::Array(elements))
                if from <= to && to <= list.len() =>
            {
                list.splice(from..to, elements);
            }
            _ => return Err(Misfit { at }),
        }
    }
    Ok(())
}

/// What was cut out so far, and how long the rest is.
struct Cut {
    left: usize,
    parts: Vec<Part>,
}

impl Cut {
    fn is_long(&self) -> bool {
        self.left > INLINE_BYTES
    }

    fn add(&mut self, at: String, range: Option<(usize, usize)>, text: String) {
        let sha256 = sha256_hex(text.as_bytes());
        self.left = self.left.saturating_sub(text.len());
        let pointer = Pointer { at, range, sha256 };
        self.parts.push(Part { pointer, text });
    }

    /// Cuts the value at a place out, if it has `least` bytes.
    fn value(
        &mut self,
        document: &mut Value,
        at: String,
        least: usize,
    ) -> Result<(), serde_json::Error> {
        let Some(place) = document.pointer_mut(&at) else {
            return Ok(());
        };
        let text = serde_json::to_string(place)?;
        if !place.is_null() && text.len() >= least {
            *place = Value::Null;
            self.add(at, None, text);
        }
        Ok(())
    }

    /// Cuts pieces out of the lists of a run that grow: all that will not change
    /// when `finished`, else as many as have to go.
    fn lists(&mut self, run: &mut Value, finished: bool) -> Result<(), serde_json::Error> {
        for (at, done) in lists(run) {
            let Some(Value::Array(list)) = run.pointer_mut(&at) else {
                continue;
            };
            for (index, piece) in list.chunks_mut(PIECE).enumerate() {
                let gone = piece.iter().all(Value::is_null);
                let whole = piece.len() == PIECE && piece.iter().all(done);
                if gone || (finished && !whole) {
                    continue;
                }
                if !finished && !self.is_long() {
                    return Ok(());
                }
                let from = index.saturating_mul(PIECE);
                let range = (from, from.saturating_add(piece.len()));
                let text = serde_json::to_string(piece)?;
                piece.fill(Value::Null);
                self.add(at.clone(), Some(range), text);
            }
        }
        Ok(())
    }
}

/// Where a run holds values that others made.
fn values(run: &Value) -> Vec<String> {
    let mut places = vec!["/event/fields".to_owned()];
    for step in steps(run) {
        places.push(format!("{step}/previous"));
        places.push(format!("{step}/state/output"));
        for unit in 0..count(run, &format!("{step}/state/units")) {
            places.push(format!("{step}/state/units/{unit}/output"));
            places.push(format!("{step}/state/units/{unit}/emits"));
        }
    }
    for effect in 0..count(run, "/pending") {
        places.push(format!("/pending/{effect}/effect/event/fields"));
    }
    places
}

/// Which items of a list may be put away.
type Choice = fn(&Value) -> bool;

/// Where a run holds lists that grow, and what of them does not change any more.
fn lists(run: &Value) -> Vec<(String, Choice)> {
    let mut lists: Vec<(String, Choice)> = Vec::new();
    for step in steps(run) {
        lists.push((format!("{step}/attempts"), |attempt| {
            !attempt["ended_at"].is_null()
        }));
        lists.push((format!("{step}/state/units"), |unit| {
            unit["kind"] == "succeeded"
        }));
        lists.push((format!("{step}/files/packs"), |_| true));
    }
    lists.push(("/history".to_owned(), |_| true));
    lists
}

fn steps(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_object();
    let names = steps.into_iter().flat_map(|steps| steps.keys());
    names
        .map(|name| format!("/steps/{}", name.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn count(document: &Value, at: &str) -> usize {
    let list = document.pointer(at).and_then(Value::as_array);
    list.map_or(0, Vec::len)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn length(value: &Value) -> usize {
        value.to_string().len()
    }

    fn back(mut document: Value, parts: Vec<Part>) -> Value {
        // Through JSON, as the pointers are stored.
        let parts = parts
            .into_iter()
            .map(|part| {
                let pointer = serde_json::to_string(&part.pointer).unwrap();
                (
                    serde_json::from_str(&pointer).unwrap(),
                    serde_json::from_str(&part.text).unwrap(),
                )
            })
            .collect();
        put_back(&mut document, parts).unwrap();
        document
    }

    fn unit(bytes: usize) -> Value {
        json!({"kind": "succeeded", "attempt": 1, "output": {"text": "x".repeat(bytes)}})
    }

    fn run(units: Vec<Value>, lines: usize) -> Value {
        let line = |at: usize| json!({"at": at, "kind": "step_started", "note": "limit 3600 s"});
        let attempts: Vec<Value> = (0..units.len())
            .map(|number| json!({"number": number, "ended_at": "2026-11-21T09:00:00Z"}))
            .collect();
        json!({
            "event": {"fields": {"a": 1}},
            "steps": {"a/b~c": {
                "state": {"kind": "working", "units": units},
                "attempts": attempts,
            }},
            "history": (0..lines).map(line).collect::<Vec<_>>(),
            "pending": [],
        })
    }

    #[test]
    fn what_is_small_stays_whole() {
        let document = run(vec![unit(10)], 3);
        let mut cut = document.clone();
        assert!(cut_run(&mut cut).unwrap().is_empty());
        assert_eq!(cut, document);
    }

    #[test]
    fn outputs_go_first_and_come_back_where_they_were() {
        let document = run(vec![unit(90_000), unit(10), unit(90_000)], 3);
        let mut cut = document.clone();
        let parts = cut_run(&mut cut).unwrap();
        let places: Vec<&str> = parts.iter().map(|part| part.pointer.at.as_str()).collect();
        assert_eq!(
            places,
            [
                "/steps/a~1b~0c/state/units/0/output",
                "/steps/a~1b~0c/state/units/2/output"
            ]
        );
        assert!(length(&cut) < 2_000);
        assert_eq!(back(cut, parts), document);
    }

    #[test]
    fn a_wide_step_is_cut_in_pieces_that_stay_as_they_are() {
        let wide = |done: usize| {
            let mut units = vec![unit(700); done];
            units.resize(500, json!({"kind": "idle"}));
            run(units, done * 4)
        };
        let hashes = |parts: &[Part]| -> std::collections::BTreeSet<String> {
            parts
                .iter()
                .map(|part| part.pointer.sha256.clone())
                .collect()
        };
        let mut before = wide(400);
        let first = cut_run(&mut before).unwrap();
        let document = wide(401);
        let mut after = document.clone();
        let second = cut_run(&mut after).unwrap();
        assert!(length(&after) <= INLINE_BYTES);
        assert!(hashes(&second).is_superset(&hashes(&first)));
        assert_eq!(back(after, second), document);
    }

    #[test]
    fn what_is_cut_twice_comes_back_in_order() {
        // Big outputs inside of a list that is then cut as a whole.
        let document = run(vec![unit(5_000); 60], 3_000);
        let mut cut = document.clone();
        let parts = cut_run(&mut cut).unwrap();
        assert!(parts.iter().any(|part| part.pointer.range.is_some()));
        assert!(parts.iter().any(|part| part.pointer.range.is_none()));
        assert!(length(&cut) <= INLINE_BYTES);
        assert_eq!(back(cut, parts), document);
    }

    #[test]
    fn when_nothing_is_finished_it_is_cut_all_the_same() {
        let units = vec![json!({"kind": "queued", "attempt": 1, "note": "y".repeat(150)}); 990];
        let document = run(units, 0);
        let mut cut = document.clone();
        let parts = cut_run(&mut cut).unwrap();
        assert!(length(&cut) <= INLINE_BYTES);
        assert_eq!(back(cut, parts), document);
    }

    #[test]
    fn a_part_without_a_place_is_an_error() {
        let pointer = |at: &str, range| Pointer {
            at: at.to_owned(),
            range,
            sha256: String::new(),
        };
        for (at, range, value) in [
            ("/nowhere", None, json!(1)),
            ("/list", Some((0, 9)), json!([1])),
            ("/list", Some((0, 1)), json!("no list")),
        ] {
            let mut document = json!({"list": [null]});
            assert!(put_back(&mut document, vec![(pointer(at, range), value)]).is_err());
        }
    }

    #[test]
    fn the_packs_of_many_items_are_cut_out_and_put_back() {
        let pack = |index: usize| match index % 3 {
            0 => Value::Null,
            _ => json!({"attempt": index, "pack": {"sha256": "x".repeat(64), "size": 7}}),
        };
        let mut run = run(Vec::new(), 0);
        run["steps"]["a/b~c"]["files"] =
            json!({"paths": ["x"], "packs": (0..1500).map(pack).collect::<Vec<_>>()});
        let mut cut = run.clone();
        let parts = cut_run(&mut cut).unwrap();
        assert!(length(&cut) <= INLINE_BYTES, "{}", length(&cut));
        assert_eq!(back(cut, parts), run);
    }
}
