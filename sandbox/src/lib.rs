//! Sandbox providers: where the runner of an attempt is started, looked after
//! and stopped. One file a provider; [`Providers`] picks the one that a
//! sandbox names.

pub mod daytona;
#[cfg(feature = "docker")]
pub mod docker;
#[cfg(feature = "docker")]
pub mod egress;
#[cfg(feature = "docker")]
pub mod fargate;
pub mod github;
mod image;
pub mod local;
pub mod mirrors;
mod processes;
mod shell;

use async_trait::async_trait;
use loopy_contract::report::launch_env;
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What this version has, in any home.
const BUILT: [&str; 4] = [local::NAME, DOCKER, daytona::NAME, FARGATE];
/// The name of Docker's provider in `registry.yml`, known where it is not built in too.
const DOCKER: &str = "docker";
/// The name of the provider in `registry.yml` that only the home on AWS has.
pub const FARGATE: &str = "fargate";

/// The providers of a home, by name. Implements the engine's port by handing
/// each call to the provider that the sandbox names.
#[derive(Clone, Default)]
pub struct Providers {
    by_name: BTreeMap<&'static str, Arc<dyn Sandboxes>>,
}

impl Providers {
    /// No provider at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// With processes on this machine.
    #[must_use]
    pub fn with_local(mut self, local: local::Local) -> Self {
        self.by_name.insert(local::NAME, Arc::new(local));
        self
    }

    /// With containers of the Docker engine of this machine.
    #[cfg(feature = "docker")]
    #[must_use]
    pub fn with_docker(mut self, docker: Arc<docker::Docker>) -> Self {
        self.by_name.insert(docker::NAME, docker);
        self
    }

    /// With tasks of the account that the engine runs in.
    #[must_use]
    pub fn with_fargate(mut self, fargate: Arc<dyn Sandboxes>) -> Self {
        self.by_name.insert(FARGATE, fargate);
        self
    }

    /// With Daytona.
    #[must_use]
    pub fn with_daytona(mut self, daytona: daytona::Daytona) -> Self {
        self.by_name.insert(daytona::NAME, Arc::new(daytona));
        self
    }

    fn get(&self, provider: &str) -> Result<&Arc<dyn Sandboxes>, String> {
        self.by_name.get(provider).ok_or_else(|| {
            if BUILT.contains(&provider) {
                let here: Vec<_> = self
                    .by_name
                    .keys()
                    .map(|name| format!("`{name}`"))
                    .collect();
                format!(
                    "sandbox provider `{provider}` can't be used where this engine runs; it has {}",
                    if here.is_empty() {
                        "none".to_owned()
                    } else {
                        here.join(" and ")
                    }
                )
            } else {
                let names = BUILT.map(|name| format!("`{name}`"));
                let [first @ .., last] = &names;
                format!(
                    "this version of Loopy has no sandbox provider `{provider}`; it has {} and {last}",
                    first.join(", ")
                )
            }
        })
    }
}

#[async_trait]
impl Sandboxes for Providers {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let provider = self.get(&spec.sandbox.provider).map_err(|why| {
            LaunchError::Refused(format!(
                "sandbox `{}`: {why}; change `provider` in registry.yml",
                spec.name
            ))
        })?;
        provider.launch(spec).await
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        let provider = self
            .get(&sandbox.provider)
            .map_err(|why| PortError::new(format!("stop sandbox {}", sandbox.id), why))?;
        provider.stop(sandbox).await
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        let provider = self
            .get(&sandbox.provider)
            .map_err(|why| PortError::new(format!("look after sandbox {}", sandbox.id), why))?;
        provider.state(sandbox).await
    }
}

/// The variables a runner is started with, the workspace aside: where that is
/// depends on the provider.
fn launch_variables(spec: &LaunchSpec, report_url: &str) -> [(&'static str, String); 5] {
    [
        (launch_env::REPORT_URL, report_url.to_owned()),
        (launch_env::TOKEN, spec.token.clone()),
        (launch_env::RUN, spec.run.0.clone()),
        (launch_env::STEP, spec.step.clone()),
        (launch_env::ATTEMPT, spec.attempt.to_string()),
    ]
}

/// The attempt, as messages name it.
fn attempt_name(spec: &LaunchSpec) -> String {
    format!(
        "attempt {} of step `{}` of run {}",
        spec.attempt, spec.step, spec.run
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn an_unknown_provider_is_named_with_what_there_is() {
        let gone = SandboxRef {
            provider: "balloon".into(),
            id: "x".into(),
        };
        let text = Providers::new().stop(&gone).await.unwrap_err().to_string();
        assert!(text.contains("`balloon`"), "{text}");
        assert!(
            text.contains("`local`, `docker`, `daytona` and `fargate`"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_provider_of_another_home_is_told_apart_from_an_unknown_one() {
        let sandbox = SandboxRef {
            provider: "local".into(),
            id: "x".into(),
        };
        let text = Providers::new()
            .state(&sandbox)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("can't be used where this engine runs"),
            "{text}"
        );
    }
}
