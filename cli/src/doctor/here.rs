//! What a project needs to be served on this machine.

use super::{DoctorError, Finding};
use crate::project::Project;
use loopy_contract::manifest::{Harness, Manifest, Repo, Sandbox, SensorTrigger, VerifyScheme};
use loopy_engine::ports::Secrets;
use loopy_engine::sensor_host::Language;
use loopy_infra::images::{Builder, DOCKER_HOST};
use loopy_local::STATE_DIR;
use loopy_local::clock::SystemClock;
use loopy_local::secrets::LocalSecrets;
use loopy_sandbox::github::{GithubTokens, TOKEN};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// The variable with Daytona's key.
const DAYTONA_KEY: &str = "DAYTONA_API_KEY";

/// Looks at everything.
pub(super) async fn look(folder: &Path, project: &Project) -> Result<Vec<Finding>, DoctorError> {
    let manifest = &project.manifest;
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let own = LocalSecrets::new(folder, &folder.join(STATE_DIR), environment.clone());
    let secrets = Arc::new(own);
    let mut findings: Vec<Finding> = loopy_engine::unsupported(manifest)
        .into_iter()
        .map(|what| Finding::error("project", what))
        .collect();
    findings.extend(webhooks(manifest, secrets.as_ref()).await?);
    findings.extend(sandboxes(manifest, secrets.as_ref()).await?);
    findings.extend(programs(manifest, &environment));
    findings.extend(repositories(manifest, Arc::clone(&secrets)).await?);
    findings.extend(sensors(folder, project, &environment).await?);
    Ok(findings)
}

async fn webhooks(manifest: &Manifest, secrets: &dyn Secrets) -> Result<Vec<Finding>, DoctorError> {
    let mut schemes: BTreeMap<&str, VerifyScheme> = BTreeMap::new();
    let mut findings = Vec::new();
    for sensor in &manifest.sensors {
        let SensorTrigger::Webhook { path, verify } = &sensor.trigger else {
            continue;
        };
        match verify {
            None => findings.push(
                Finding::warning(
                    format!("sensor {}", sensor.name),
                    format!("anyone could post to {path}"),
                )
                .hint("name its scheme with verify=, or opt out with verify=\"none\""),
            ),
            Some(scheme) => {
                schemes.insert(path, *scheme);
            }
        }
    }
    for (path, scheme) in schemes {
        let Some(variable) = scheme.secret_variable() else {
            continue;
        };
        if secrets.webhook_secrets(&variable).await?.is_empty() {
            let what = format!("{variable} is not set, so deliveries are answered 503");
            let finding = Finding::error(format!("webhook {path}"), what);
            let hint = match scheme {
                VerifyScheme::Github => {
                    "`loopy webhooks github --url URL` makes one and tells GitHub".to_owned()
                }
                _ => format!("write {variable}=… to loopy.env, as the provider shows it"),
            };
            findings.push(finding.hint(hint));
        }
    }
    Ok(findings)
}

async fn sandboxes(
    manifest: &Manifest,
    secrets: &dyn Secrets,
) -> Result<Vec<Finding>, DoctorError> {
    let mut findings = Vec::new();
    for (name, sandbox) in used(manifest) {
        let about = format!("sandbox {name}");
        if let Err(error) = secrets.sandbox_env(name, sandbox).await {
            findings.push(Finding::error(&about, error.to_string()));
        }
        match sandbox.provider.as_str() {
            "daytona" if !secrets.engine_env().await?.contains_key(DAYTONA_KEY) => {
                let what = format!("{DAYTONA_KEY} is not set");
                let finding = Finding::error(&about, what);
                findings.push(finding.hint("set it in the environment or in loopy.env"));
            }
            "docker" => {
                let host = std::env::var(DOCKER_HOST).ok();
                let host = host.as_deref().filter(|host| !host.is_empty());
                if Builder::docker(host).await.is_none() {
                    let what = "no Docker engine answers on this machine";
                    let hint = format!("start Docker, or set {DOCKER_HOST}");
                    findings.push(Finding::error(&about, what).hint(hint));
                }
            }
            "fargate" => findings.push(
                Finding::warning(
                    &about,
                    "it is a task of an AWS account, not of this machine",
                )
                .hint("look at a deployed stack with --stack"),
            ),
            _ => {}
        }
    }
    Ok(findings)
}

/// The programs that steps in local sandboxes start.
fn programs(manifest: &Manifest, environment: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let steps = manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values());
    for step in steps {
        let agents = &manifest.registry.agents;
        let agent = step.agent.as_ref().and_then(|name| agents.get(name));
        let sandbox = agent.and_then(|agent| agent.sandbox.as_ref());
        let sandbox = sandbox.and_then(|name| manifest.registry.sandboxes.get(name));
        let (Some(agent), Some(sandbox)) = (agent, sandbox) else {
            continue;
        };
        if sandbox.provider != "local" {
            continue;
        }
        let program = match agent.harness {
            Harness::ClaudeCode => Some("claude"),
            Harness::Codex => Some("codex"),
            Harness::Opencode => Some("opencode"),
            Harness::Command | Harness::Loop => None,
        };
        let git = (!sandbox.repos.is_empty()).then_some("git");
        for program in program.into_iter().chain(git) {
            wanted.entry(program).or_default().insert(step.id.clone());
        }
    }
    let path = environment.get("PATH").cloned().unwrap_or_default();
    let is_there =
        |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing = wanted.into_iter().filter(|(program, _)| !is_there(program));
    missing
        .map(|(program, steps)| {
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            let what = format!(
                "it is not on the PATH, and steps need it: {}",
                steps.join(", ")
            );
            Finding::error(format!("program {program}"), what).hint("install it")
        })
        .collect()
}

/// Whether what is cloned from GitHub can be.
async fn repositories(
    manifest: &Manifest,
    secrets: Arc<LocalSecrets>,
) -> Result<Vec<Finding>, DoctorError> {
    let mut findings = Vec::new();
    let tokens = GithubTokens::new(
        Arc::clone(&secrets) as Arc<dyn Secrets>,
        Arc::new(SystemClock),
    )?;
    for (name, sandbox) in used(manifest) {
        let repos: BTreeSet<String> = sandbox.repos.iter().filter_map(Repo::on_github).collect();
        let has_own = secrets
            .sandbox_env(name, sandbox)
            .await
            .is_ok_and(|env| env.contains_key(TOKEN));
        if repos.is_empty() || has_own {
            continue;
        }
        for repo in repos {
            match tokens.token_for(&repo).await {
                Ok(Some(_)) => {}
                Ok(None) => findings.push(
                    Finding::warning(
                        format!("sandbox {name}"),
                        format!("{repo} is cloned without a token, so it has to be public"),
                    )
                    .hint(format!(
                        "configure a GitHub App in loopy.env, or give the sandbox a {TOKEN} by \
                         env_file"
                    )),
                ),
                Err(error) => {
                    findings.push(Finding::error(format!("sandbox {name}"), error.to_string()));
                }
            }
        }
    }
    Ok(findings)
}

/// Whether the sensors' code can be loaded; nothing of it is called.
async fn sensors(
    folder: &Path,
    project: &Project,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<Finding>, DoctorError> {
    let mut sensors = project.manifest.sensors.iter();
    if !sensors.any(|sensor| Language::of(sensor).is_some()) {
        return Ok(Vec::new());
    }
    let folder = folder.canonicalize().map_err(DoctorError::Start)?;
    // In the project, so that packages beside the sensors are found; a folder of its own,
    // as a `loopy run` may use the code from before an edit.
    let state = state_below(&folder.join(STATE_DIR)).map_err(DoctorError::Start)?;
    let found = loopy_local::load_sensors(
        &folder,
        state.path(),
        &project.manifest,
        &project.files,
        environment,
    )
    .await?;
    Ok(found.into_iter().map(unloadable).collect())
}

/// A folder that goes when it is dropped.
fn state_below(dir: &Path) -> io::Result<TempDir> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    tempfile::Builder::new().prefix("doctor-").tempdir_in(dir)
}

/// What is said of a sensor that cannot be loaded.
pub(super) fn unloadable((sensor, why): (String, String)) -> Finding {
    let what = format!("it cannot be loaded, so deliveries are answered 503: {why}");
    Finding::error(format!("sensor {sensor}"), what)
}

/// The sandboxes that a step's agent works in.
fn used(manifest: &Manifest) -> BTreeMap<&str, &Sandbox> {
    let steps = manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values());
    let agents = steps.filter_map(|step| manifest.registry.agents.get(step.agent.as_ref()?));
    agents
        .filter_map(|agent| {
            let name = agent.sandbox.as_deref()?;
            Some((name, manifest.registry.sandboxes.get(name)?))
        })
        .collect()
}
