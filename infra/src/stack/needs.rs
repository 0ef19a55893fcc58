//! The values that a project needs beside its files, and the secrets that hold them.

use super::template::Template;
use super::{StackError, read_secret, secret_arn, used_sandboxes};
use loopy_contract::manifest::{Manifest, SensorTrigger, VerifyScheme};
use loopy_engine::sensor_host::Language;
use std::collections::BTreeMap;

/// The values that a project needs and that are in none of its compiled files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Webhook secret variables, by variable the sensors that need it.
    pub webhooks: BTreeMap<String, Vec<String>>,
    /// Sandboxes in use that have an `env_file`, with those files.
    pub sandboxes: BTreeMap<String, Vec<String>>,
    /// Whether a sandbox in use clones from GitHub.
    pub github: bool,
    /// Whether a sandbox in use is Daytona's.
    pub daytona: bool,
    /// Whether the sensors have an environment of their own.
    pub sensors: bool,
}

impl Needs {
    /// What the manifest says; `sensor_env` says whether there is a
    /// `sensors/.env`, which the manifest does not know.
    pub fn of(manifest: &Manifest, sensor_env: bool) -> Self {
        let mut needs = Self {
            sensors: sensor_env && Language::ALL.iter().any(|one| one.is_in(manifest)),
            ..Self::default()
        };
        for sensor in &manifest.sensors {
            if let SensorTrigger::Webhook { verify, .. } = &sensor.trigger
                && let Some(variable) = verify.and_then(VerifyScheme::secret_variable)
            {
                needs
                    .webhooks
                    .entry(variable)
                    .or_default()
                    .push(sensor.name.clone());
            }
        }
        for (name, sandbox) in used_sandboxes(manifest) {
            needs.daytona |= sandbox.provider == "daytona";
            needs.github |= sandbox.repos.iter().any(|repo| repo.on_github().is_some());
            if !sandbox.env_file.is_empty() {
                needs
                    .sandboxes
                    .insert(name.to_owned(), sandbox.env_file.clone());
            }
        }
        needs
    }
}

impl Needs {
    /// The outputs that name the secrets whose values the project gives.
    pub fn outputs(&self) -> Vec<&'static str> {
        [
            (!self.webhooks.is_empty(), "WebhookSecret"),
            (!self.sandboxes.is_empty(), "SandboxSecret"),
            (self.github, "GithubSecret"),
            (self.daytona, "EngineSecret"),
            (self.sensors, "SensorSecret"),
        ]
        .into_iter()
        .filter_map(|(needed, output)| needed.then_some(output))
        .collect()
    }
}

/// The secrets the project needs, each readable by the functions that use it.
pub(super) fn add_secrets(template: &mut Template, needs: &Needs) -> Result<(), StackError> {
    let secrets: [(bool, &str, &str, &str, &[&str]); 4] = [
        (
            !needs.webhooks.is_empty(),
            "WebhookSecret",
            "Secrets that webhook deliveries are verified with",
            "LOOPY_WEBHOOK_SECRET",
            &["Webhook"],
        ),
        (
            !needs.sandboxes.is_empty(),
            "SandboxSecret",
            "Environment of the sandboxes, from their env_file",
            "LOOPY_SANDBOX_SECRET",
            &["Report"],
        ),
        (
            needs.github,
            "GithubSecret",
            "GitHub App whose tokens the sandboxes clone with",
            "LOOPY_GITHUB_SECRET",
            &["Report"],
        ),
        (
            needs.daytona,
            "EngineSecret",
            "Credentials of the sandbox provider",
            "LOOPY_ENGINE_SECRET",
            &["Step", "Watch"],
        ),
    ];
    for (needed, id, about, variable, functions) in secrets {
        if !needed {
            continue;
        }
        template.secret(id, about)?;
        for function in functions {
            template.variable(function, variable, secret_arn(id))?;
            template.allow(function, read_secret(id))?;
        }
    }
    Ok(())
}
