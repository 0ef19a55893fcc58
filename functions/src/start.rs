//! What happens once a process: logs, variables, ports, engine.

use crate::{logs, runner::AssetsRunner};
use loopy_aws::env::var;
use loopy_aws::home::HomeError;
use loopy_aws::{Home, MissingVariable, SystemClock};
use loopy_engine::Engine;
use loopy_engine::ports::{PortError, Secrets};
use loopy_sandbox::Providers;
use loopy_sandbox::daytona::Daytona;
use loopy_sandbox::github::GithubTokens;
use std::sync::Arc;

/// What a function cannot do without. It says so when it starts, and not in
/// the middle of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Variables that must have a value.
    pub variables: &'static [&'static str],
    /// Variables that must be set, empty where the project has no such thing.
    pub maybe_empty: &'static [&'static str],
    /// Whether it launches or stops sandboxes.
    pub sandboxes: Sandboxes,
}

/// What a function does with sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandboxes {
    /// Nothing.
    None,
    /// Launches and stops them; runners then need the report URL.
    Launch,
}

/// A function cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The services cannot be reached.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A variable is missing.
    #[error(transparent)]
    Variable(#[from] MissingVariable),
    /// A client cannot be set up.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Begins to log and makes the engine of this function, and its home.
///
/// # Errors
/// [`StartError`], which is logged too: Lambda itself shows only that the
/// process ended.
pub async fn begin(needs: Needs) -> Result<(Arc<Engine>, Home), StartError> {
    logs::begin();
    let started = make_engine(needs).await;
    if let Err(error) = &started {
        tracing::error!(%error, "the function cannot start");
    }
    started.map(|(engine, home)| (Arc::new(engine), home))
}

async fn make_engine(needs: Needs) -> Result<(Engine, Home), StartError> {
    let home = Home::of_process().await?;
    for name in needs.variables {
        home.environment().required(name)?;
    }
    for name in needs.maybe_empty {
        home.environment().may_be_empty(name)?;
    }
    let mut secrets: Arc<dyn Secrets> = Arc::new(home.secrets());
    if needs.maybe_empty.contains(&var::GITHUB_SECRET) {
        // It hands sandboxes their environment.
        secrets = Arc::new(GithubTokens::new(secrets, Arc::new(SystemClock))?);
    }
    let sandboxes = providers(&home, &secrets, needs.sandboxes)?;
    let engine = Engine::new(home.ports(secrets, Arc::new(sandboxes))?);
    Ok((engine, home))
}

fn providers(
    home: &Home,
    secrets: &Arc<dyn Secrets>,
    sandboxes: Sandboxes,
) -> Result<Providers, StartError> {
    let report_url = match sandboxes {
        Sandboxes::None => return Ok(Providers::new()),
        Sandboxes::Launch => home.report_url()?,
    };
    let runner = Arc::new(AssetsRunner::new(home.clone()));
    let fargate = home.fargate(report_url.clone())?;
    let daytona = Daytona::new(Arc::clone(secrets), runner, report_url)?;
    let providers = Providers::new().with_daytona(daytona);
    Ok(match fargate {
        Some(fargate) => providers.with_fargate(Arc::new(fargate)),
        None => providers,
    })
}
