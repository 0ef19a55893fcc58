//! What a manifest may ask for that this version does not execute. It is
//! refused by name before anything runs, never ignored.

use loopy_contract::manifest::{Budget, Harness, Manifest, ModelKeys};
use loopy_contract::price::price;

/// The harnesses that hold to `budget.tokens`.
const HOLD_TOKENS: [Harness; 3] = [Harness::Codex, Harness::Loop, Harness::Opencode];

/// A sentence for each thing in use that cannot be executed; empty is fine.
/// Agents and sandboxes that no step uses are not looked at.
pub fn unsupported(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    for step in manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values())
    {
        let id = &step.id;
        let agent = step
            .agent
            .as_ref()
            .and_then(|name| manifest.registry.agents.get(name));
        let limits_tokens = step
            .budget
            .as_ref()
            .is_some_and(|budget| budget.tokens.is_some());
        if limits_tokens && !agent.is_some_and(|agent| HOLD_TOKENS.contains(&agent.harness)) {
            let harness = agent.map_or_else(String::new, |agent| format!(" by {}", agent.harness));
            found.push(format!(
                "step {id}: `budget.tokens` cannot be enforced{harness} yet"
            ));
        }
    }
    found.extend(unpriced(manifest));
    found
}

/// A sentence for each step under a cap in dollars whose model has no known price:
/// the cap could not hold.
fn unpriced(manifest: &Manifest) -> Vec<String> {
    let registry = &manifest.registry;
    let mut found = Vec::new();
    for (name, workflow) in &manifest.workflows {
        let limited = registry.limits.as_ref().is_some_and(|limits| {
            let of_runs = limits.workflows.get(name).and_then(|cap| cap.spend);
            let of_day = limits.day.as_ref().and_then(|cap| cap.spend);
            of_runs.or(of_day).or(limits.cascade_spend).is_some()
        });
        for step in workflow.steps.values() {
            let agent = step.agent.as_ref();
            let Some(agent) = agent.and_then(|name| registry.agents.get(name)) else {
                continue;
            };
            let own = step.budget.as_ref().and_then(Budget::usd).is_some();
            let sandbox = agent.sandbox.as_ref();
            // The proxy counts by prices, whatever the tool says.
            let metered = sandbox
                .and_then(|name| registry.sandboxes.get(name))
                .is_some_and(|sandbox| sandbox.model_keys == ModelKeys::Proxy);
            let named = match agent.harness {
                Harness::Command => true,
                harness => harness.names_dollars() && !metered,
            };
            if named || !(own || limited) {
                continue;
            }
            let why = match agent.model.as_deref() {
                Some(model) if price(&registry.prices, model).is_some() => continue,
                Some(model) => format!(
                    "what {model} costs is not known; say so in registry.yml: \
                     prices: {{ {model}: {{ input: 3, output: 15 }} }}, in dollars for a \
                     million tokens"
                ),
                None => "its agent names no `model`, so nobody knows what it costs".to_owned(),
            };
            found.push(format!(
                "step {}: a cap in dollars holds for it, and {why}",
                step.id
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

        let with_agent = |harness: &str| {
            let step = json!({"agent": "A", "budget": {"tokens": 5}});
            let mut manifest = serde_json::to_value(manifest(&step)).unwrap();
            manifest["registry"]["agents"]["A"] =
                json!({"harness": harness, "model": "m", "sandbox": null, "skills": []});
            unsupported(&serde_json::from_value(manifest).unwrap())
        };
        assert_eq!(
            with_agent("claude-code"),
            ["step w/s: `budget.tokens` cannot be enforced by claude-code yet"]
        );
        for harness in ["codex", "loop", "opencode"] {
            assert_eq!(with_agent(harness), [""; 0]);
        }
    }

    #[test]
    fn a_cap_in_dollars_needs_a_known_price() {
        let project = |harness: &str, model: Value, budget: Value, more: Value| {
            let mut value = json!(manifest(&json!({"agent": "A", "budget": budget})));
            value["registry"]["agents"]["A"] = json!({
                "harness": harness, "model": model, "sandbox": null, "skills": [],
            });
            for (key, member) in more.as_object().unwrap() {
                value["registry"][key] = member.clone();
            }
            unsupported(&serde_json::from_value(value).unwrap())
        };
        let cap = json!({"spend": {"usd": 1.0}});
        let none = json!({});
        let priced = json!({"prices": {"own": {"input": 1.0, "output": 2.0}}});
        let day = json!({"limits": {"day": {"spend": {"usd": 5.0}}}});
        for (harness, model, budget, more) in [
            ("codex", json!("gpt-5.5"), &cap, &none),
            ("codex", json!("own"), &cap, &priced),
            ("codex", json!("own"), &Value::Null, &none),
            ("claude-code", json!("own"), &cap, &none),
        ] {
            let said = project(harness, model, budget.clone(), more.clone());
            assert_eq!(said, [""; 0], "{harness}");
        }
        // The proxy counts itself, where the tool would.
        let mut metered = json!(manifest(&json!({"agent": "A", "budget": cap})));
        metered["registry"]["sandboxes"]["Box"] = json!({
            "provider": "docker", "image": {}, "network": [], "env_file": [], "repos": [],
            "model_keys": "proxy",
        });
        for (harness, found) in [("claude-code", 1), ("command", 0)] {
            metered["registry"]["agents"]["A"] = json!({
                "harness": harness, "model": "own", "sandbox": "Box", "skills": [],
            });
            let said = unsupported(&serde_json::from_value(metered.clone()).unwrap());
            assert_eq!(said.len(), found, "{said:?}");
        }
        for (model, budget, more, named) in [
            (json!("own"), &cap, &none, "what own costs"),
            (json!(null), &cap, &none, "names no `model`"),
            (json!("own"), &Value::Null, &day, "what own costs"),
        ] {
            let said = project("loop", model, budget.clone(), more.clone());
            assert!(said.len() == 1 && said[0].contains(named), "{said:?}");
        }
    }
}
