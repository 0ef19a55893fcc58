//! What a deployed stack must not be made of, and what it should not be expected to
//! do, said before anything is built.

use crate::stack::{fargate, used_sandboxes};
use loopy_contract::manifest::{Manifest, SensorTrigger};
use loopy_sandbox::FARGATE;
use loopy_sandbox::fargate::Task;

/// A sentence for each thing that will not be quite as the project says.
pub fn warnings(manifest: &Manifest) -> Vec<String> {
    let has_names = |task: &Task| {
        let reach = task.reach.iter().flatten();
        reach.into_iter().any(|(address, _)| address.is_none())
    };
    used_sandboxes(manifest)
        .into_iter()
        .filter(|(_, sandbox)| sandbox.provider == FARGATE)
        .filter(|(_, sandbox)| Task::of(sandbox).is_ok_and(|task| has_names(&task)))
        .map(|(name, _)| {
            format!(
                "sandbox {name}: `network` names hosts, and a task's security group knows no names; \
                 it lets out to every host on their ports"
            )
        })
        .collect()
}

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
                 a deployed stack has none, use fargate or daytona",
                sandbox.provider
            ));
        }
    }
    found.extend(fargate::refusals(manifest));
    found
}
