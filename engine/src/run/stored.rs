//! Runs as they were stored, by this build or an older one.

use super::{RUN_SCHEMA, Run};
use serde_json::{Value, json};

/// A stored run that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredRunError {
    /// It is not what a run looks like.
    #[error("the stored run cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
    /// A later version of Loopy wrote it.
    #[error(
        "the run was stored by a newer Loopy (shape {found}, this build knows {RUN_SCHEMA}); \
         install that version or a later one"
    )]
    Newer {
        /// The shape it has.
        found: u64,
    },
}

/// Reads a run's JSON, and brings it up to the present shape.
///
/// # Errors
/// [`StoredRunError`]
pub fn read(text: &str) -> Result<Run, StoredRunError> {
    // What this build wrote is read in one go.
    if let Ok(run) = serde_json::from_str::<Run>(text)
        && run.schema == RUN_SCHEMA
    {
        return Ok(run);
    }
    let mut value: Value = serde_json::from_str(text)?;
    let found = value["schema"].as_u64().unwrap_or_default();
    if found > u64::from(RUN_SCHEMA) {
        return Err(StoredRunError::Newer { found });
    }
    if found == 1 {
        from_1(&mut value);
    }
    Ok(serde_json::from_value(value)?)
}

/// In shape 1 a step was one piece of work, and its state told how far it was. A
/// sandbox had the id that its provider gave it; the launch was recorded.
fn from_1(run: &mut Value) {
    run["schema"] = json!(2);
    let created = run["created_at"].clone();
    let steps = run["steps"].as_object_mut();
    for step in steps.into_iter().flat_map(|steps| steps.values_mut()) {
        for attempt in step["attempts"].as_array_mut().into_iter().flatten() {
            attempt["queued_at"] = attempt["started_at"].clone();
        }
        let attempt = step["state"]["attempt"].clone();
        let unit = match step["state"]["kind"].as_str() {
            Some("queued") => {
                if let Some(attempts) = step["attempts"].as_array_mut() {
                    attempts.push(json!({ "number": attempt, "queued_at": created }));
                }
                json!({ "kind": "queued", "attempt": attempt })
            }
            Some("launching" | "running") => json!({ "kind": "running", "attempt": attempt }),
            _ => continue,
        };
        step["state"] = json!({ "kind": "working", "units": [unit] });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::run::{StepState, Unit};

    fn stored(schema: u32, state: &Value, attempts: &Value) -> String {
        json!({
            "schema": schema, "id": "w-1", "workflow": "w", "manifest": "m",
            "event": {
                "id": "e", "name": "Go", "fields": {}, "source": {"kind": "hand"},
                "emitted_at": "2026-11-21T09:00:00Z", "cascade": "e", "depth": 0,
            },
            "status": {"kind": "running"},
            "steps": {"s": {"state": state, "attempts": attempts}},
            "created_at": "2026-11-21T09:00:00Z", "ended_at": null, "history": [], "pending": [
                {"cause": "s/1", "effect": {"kind": "handoff", "step": "s", "attempt": 1}},
                {"cause": "s/1", "effect": {"kind": "disarm_time_limit", "step": "s", "attempt": 1}},
                {"cause": "s/1", "effect": {"kind": "stop", "sandbox": {"provider": "local", "id": "x"}}},
            ],
        })
        .to_string()
    }

    #[test]
    fn runs_of_shape_1_are_brought_up() {
        let attempt = json!([{
            "number": 1, "started_at": "2026-11-21T09:00:01Z", "ended_at": null, "usage": null,
            "failure": null, "sandbox": {"provider": "local", "id": "x"},
        }]);
        let run = read(&stored(
            1,
            &json!({"kind": "running", "attempt": 1, "sandbox": {"provider": "local", "id": "x"}}),
            &attempt,
        ))
        .unwrap();
        assert_eq!(run.schema, RUN_SCHEMA);
        assert!(run.under_way("s", 1));
        assert_eq!(run.attempt("s", 1).unwrap().iteration, 1);

        let run = read(&stored(
            1,
            &json!({"kind": "queued", "attempt": 1}),
            &json!([]),
        ))
        .unwrap();
        assert_eq!(run.unit("s", 1), Some(&Unit::Queued { attempt: 1 }));

        let done = json!({"kind": "succeeded", "attempt": 1, "output": {"a": 1}});
        let run = read(&stored(1, &done, &attempt)).unwrap();
        let output = json!({"a": 1});
        assert_eq!(run.steps["s"].state, StepState::Succeeded { output });
        // What was brought up reads as what this build writes.
        let again = read(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!(again, run);
    }

    #[test]
    fn a_run_of_a_later_shape_is_refused_and_not_misread() {
        let waiting = json!({"kind": "waiting"});
        let error = read(&stored(9, &waiting, &json!([]))).unwrap_err();
        assert!(error.to_string().contains("newer Loopy"), "{error}");
        assert!(read("{}").is_err());
    }
}
