//! What a manifest may ask for that this version does not execute. It is
//! refused by name before anything runs, never ignored.

use loopy_contract::manifest::{Harness, Manifest, SensorSource};

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
