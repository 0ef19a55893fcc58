//! What a deployed stack must not be made of, said before anything is built.

use crate::stack::used_sandboxes;
use loopy_contract::manifest::{Manifest, SensorTrigger};

/// A sentence for each reason not to deploy this manifest; empty is fine.
pub fn refusals(manifest: &Manifest) -> Vec<String> {
    let mut found = loopy_engine::unsupported(manifest);
    for sensor in &manifest.sensors {
        if let SensorTrigger::Webhook { path, verify: None } = &sensor.trigger {
            found.push(format!(
                "sensor {}: anyone could post to {path}, as it has no verification; \
                 name its scheme with verify=, or opt out with verify=\"none\"",
                sensor.name
            ));
        }
    }
    for (name, sandbox) in used_sandboxes(manifest) {
        if ["local", "docker"].contains(&sandbox.provider.as_str()) {
            found.push(format!(
                "sandbox {name}: the provider {} needs a machine of your own; \
                 a deployed stack has none, use daytona",
                sandbox.provider
            ));
        }
    }
    found
}
