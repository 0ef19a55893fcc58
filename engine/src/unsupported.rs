//! What a manifest may ask for that this version does not execute. It is
//! refused by name before anything runs, never ignored.

use loopy_contract::manifest::{Harness, Manifest, SensorSource, Trigger};

/// The sandbox providers this version has.
pub const PROVIDERS: [&str; 2] = ["local", "daytona"];

/// The harnesses this version has.
pub const HARNESSES: [Harness; 2] = [Harness::ClaudeCode, Harness::Command];

/// A sentence for each thing in use that cannot be executed; empty is fine.
/// Agents and sandboxes that no step uses are not looked at.
pub fn unsupported(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    if manifest.registry.limits.is_some() {
        found.push("`limits` in the registry cannot be enforced yet".to_owned());
    }
    for sensor in &manifest.sensors {
        let language = match sensor.source {
            SensorSource::Typescript => "TypeScript",
            SensorSource::Shell => "shell",
            SensorSource::Module | SensorSource::Builtin => continue,
        };
        found.push(format!(
            "sensor {}: {language} sensors cannot run yet",
            sensor.name
        ));
    }
    for step in manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values())
    {
        let id = &step.id;
        if step
            .budget
            .as_ref()
            .is_some_and(|budget| budget.tokens.is_some())
        {
            found.push(format!("step {id}: `budget.tokens` cannot be enforced yet"));
        }
        let forms = [
            ("when", step.when.is_some()),
            ("each", step.each.is_some()),
            ("retry", step.retry.is_some()),
            ("approve", step.approve.is_some()),
            ("concurrency", step.concurrency.is_some()),
            ("loop", step.r#loop.is_some()),
            ("emits.*.when", !step.emits_when.is_empty()),
        ];
        let mut shapes = [false; 2];
        if let Some(Trigger::Event { when, debounce, .. }) = &step.trigger {
            shapes = [when.is_some(), debounce.is_some()];
        }
        let shapes = ["on.when", "on.debounce"].into_iter().zip(shapes);
        for (form, is_used) in forms.into_iter().chain(shapes) {
            if is_used {
                found.push(format!("step {id}: `{form}` cannot run yet"));
            }
        }
        let Some(agent) = step
            .agent
            .as_ref()
            .and_then(|name| manifest.registry.agents.get(name))
        else {
            continue;
        };
        if !HARNESSES.contains(&agent.harness) {
            found.push(format!(
                "step {id}: the harness {} cannot run yet",
                agent.harness
            ));
        }
        let sandbox = agent
            .sandbox
            .as_ref()
            .and_then(|name| manifest.registry.sandboxes.get(name));
        if let Some(sandbox) = sandbox
            && !PROVIDERS.contains(&sandbox.provider.as_str())
        {
            found.push(format!(
                "step {id}: the sandbox provider {} cannot run yet",
                sandbox.provider
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    /// The manifest of one step, with these keys added to it.
    fn manifest(more: &Value) -> Manifest {
        let mut step = json!({
            "id": "w/s", "trigger": {"kind": "event", "event": "Ping"}, "after": [],
            "agent": null, "output": {}, "emits": ["Ping"], "budget": null, "body": "x", "refs": [],
        });
        let step_keys = step.as_object_mut().unwrap();
        step_keys.extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "schema_version": "3", "loopy_version": "0",
            "registry": {"sandboxes": {}, "agents": {}, "events": {}},
            "workflows": {"w": {"entry": "s", "steps": {"s": step}}},
            "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
        }))
        .unwrap()
    }

    #[test]
    fn each_form_that_does_not_run_is_refused_by_name() {
        assert_eq!(unsupported(&manifest(&json!({}))), [""; 0]);
        let condition = json!({
            "source": "true", "expression": {"kind": "literal", "value": true},
        });
        let all = json!({
            "trigger": {"kind": "event", "event": "Ping", "when": condition, "debounce": 5},
            "when": condition,
            "each": {"over": {"producer": "event", "field": "x"}, "name": "y"},
            "retry": {"max": 1, "on": ["crash"]},
            "approve": {"before": true, "after": false, "otherwise": "deny"},
            "concurrency": {"limit": 1, "strategy": "queue"},
            "loop": {"to": "s", "until": condition, "max": 1},
            "emits_when": {"Ping": condition},
            "budget": {"turns": 5, "tokens": 5},
        });
        let said = unsupported(&manifest(&all));
        let names = [
            "budget.tokens",
            "when",
            "each",
            "retry",
            "approve",
            "concurrency",
            "loop",
            "emits.*.when",
            "on.when",
            "on.debounce",
        ];
        assert_eq!(said.len(), names.len(), "{said:?}");
        for (said, name) in said.iter().zip(names) {
            assert!(
                said.starts_with(&format!("step w/s: `{name}` cannot ")),
                "{said}"
            );
        }
    }
}
