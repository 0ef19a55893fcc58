//! Runs that are not over, and what a change takes away that they may still need: a run
//! finishes with the version it began with, but the stack has one set of sandboxes.

use super::{DeployError, Deployment, OpenRuns};
use crate::stack::{Needs, used_sandboxes};
use loopy_contract::manifest::Manifest;
use loopy_engine::run::short_hash;
use loopy_sandbox::FARGATE;

/// As many runs are named; the others are counted.
const NAMED: usize = 5;

impl Deployment {
    /// What runs that are not over may need and lose when the stack is made of `to`, a
    /// sentence each.
    ///
    /// # Errors
    /// [`DeployError::Assets`] when the bucket cannot be read.
    pub async fn stranded(
        &self,
        open: &OpenRuns,
        to: &Manifest,
    ) -> Result<Vec<String>, DeployError> {
        let (_, name) = self.standing().await?;
        let bucket = self.bucket(&name);
        let mut found = Vec::new();
        for (hash, runs) in open {
            if hash.is_empty() || hash == short_hash(&to.hash) {
                continue;
            }
            for key in bucket.keys(&format!("manifests/{hash}")).await? {
                let bytes = bucket.read(&key).await?.unwrap_or_default();
                let Ok(from) = Manifest::from_json(&bytes) else {
                    // The functions cannot read it either.
                    tracing::info!(key, "another version of Loopy wrote this manifest");
                    continue;
                };
                let runs = named(runs);
                found.extend(losses(&from, to).iter().map(|it| format!("{runs}: {it}")));
            }
        }
        Ok(found)
    }
}

/// What goes when a stack that was made of one version is made of another, a sentence
/// each.
pub fn losses(from: &Manifest, to: &Manifest) -> Vec<String> {
    let (needs, needed) = (Needs::of(to, false), Needs::of(from, false));
    let there = used_sandboxes(to);
    let mut found = Vec::new();
    for (name, sandbox) in used_sandboxes(from) {
        let stays = there.get(name);
        if sandbox.provider == FARGATE && stays.is_none_or(|it| it.provider != FARGATE) {
            found.push(format!(
                "sandbox {name} can be launched no longer, as its task goes"
            ));
        }
        if sandbox.provider == "daytona" && !needs.daytona {
            found.push(format!(
                "sandbox {name} can be launched no longer, nor stopped, as the credentials of \
                 Daytona go"
            ));
        }
        if needed.sandboxes.contains_key(name) && needs.sandboxes.is_empty() {
            found.push(format!("sandbox {name} has its variables no longer"));
        }
        let clones = sandbox.repos.iter().any(|repo| repo.on_github().is_some());
        if clones && !needs.github {
            found.push(format!(
                "sandbox {name} gets no tokens of the GitHub App any longer"
            ));
        }
    }
    found
}

fn named(runs: &[String]) -> String {
    let named = runs.iter().take(NAMED).map(String::as_str);
    let named = named.collect::<Vec<_>>().join(", ");
    match runs.len().saturating_sub(NAMED) {
        0 => format!("run {named}"),
        more => format!("run {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn manifest(sandboxes: Value) -> Manifest {
        let mut agents = json!({});
        let mut steps = json!({});
        for name in sandboxes.as_object().unwrap().keys() {
            agents[name] =
                json!({"harness": "command", "model": null, "sandbox": name, "skills": []});
            steps[name] = json!({
                "id": format!("w/{name}"), "trigger": null, "after": [], "agent": name, "output": {},
                "emits": [], "budget": null, "body": "true", "refs": [],
            });
        }
        let manifest = json!({
            "schema_version": "3", "loopy_version": "0",
            "registry": {"sandboxes": sandboxes, "agents": agents, "events": {}},
            "workflows": {"w": {"entry": null, "steps": steps}},
            "sensors": [], "lineage": {"events": {}}, "skills": {}, "sensor_files": {},
        });
        serde_json::from_value::<Manifest>(manifest).unwrap().seal()
    }

    fn sandbox(provider: &str, env_file: &[&str], repos: Value) -> Value {
        json!({"provider": provider, "image": {}, "network": [], "env_file": env_file, "repos": repos})
    }

    #[test]
    fn what_a_dropped_sandbox_takes_from_runs_is_named() {
        let repo = json!([{"url": "octo/hello", "ref": null, "path": null, "depth": null}]);
        let old = manifest(json!({
            "Box": sandbox("fargate", &["a.env"], json!([])),
            "Cloud": sandbox("daytona", &[], repo),
        }));
        let nothing = Vec::<String>::new();
        assert_eq!(losses(&old, &old), nothing);
        // A sandbox of the same kind under the same name does.
        let renamed = manifest(json!({
            "Box": sandbox("fargate", &["b.env"], json!([])),
            "Other": sandbox("daytona", &[], json!([{"url": "octo/x", "ref": null, "path": null, "depth": null}])),
        }));
        assert_eq!(losses(&old, &renamed), nothing);
        let new = manifest(json!({"Plain": sandbox("fargate", &[], json!([]))}));
        assert_eq!(
            losses(&old, &new),
            [
                "sandbox Box can be launched no longer, as its task goes",
                "sandbox Box has its variables no longer",
                "sandbox Cloud can be launched no longer, nor stopped, as the credentials of Daytona go",
                "sandbox Cloud gets no tokens of the GitHub App any longer",
            ]
        );
    }

    #[test]
    fn many_runs_are_counted() {
        let runs: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(named(&runs[..2]), "run 0, 1");
        assert_eq!(named(&runs), "run 0, 1, 2, 3, 4 and 2 more");
    }
}
