//! What a manifest may ask for that this version does not execute. It is
//! refused by name before anything runs, never ignored.

use loopy_contract::manifest::{Harness, Manifest, SensorSource};

/// The sandbox providers this version has.
pub const PROVIDERS: [&str; 3] = ["local", "docker", "daytona"];

/// The harnesses this version has.
pub const HARNESSES: [Harness; 2] = [Harness::ClaudeCode, Harness::Command];

/// A sentence for each thing in use that cannot be executed; empty is fine.
/// Agents and sandboxes that no step uses are not looked at.
pub fn unsupported(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
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
    fn what_does_not_run_is_refused_by_name() {
        assert_eq!(unsupported(&manifest(&json!({}))), [""; 0]);
        let said = unsupported(&manifest(&json!({"budget": {"turns": 5, "tokens": 5}})));
        assert_eq!(said, ["step w/s: `budget.tokens` cannot be enforced yet"]);
    }
}
