//! What a deployed stack lacks.

use super::here::unloadable;
use super::{DoctorError, Finding};
use crate::deploy::{Aws, approval, line};
use crate::emit;
use crate::output::Terminal;
use crate::project::Project;
use loopy_infra::{DeployError, Deployment, Needs, Progress};
use std::path::Path;

/// Looks at everything.
pub(super) async fn look(
    name: &str,
    aws: &Aws,
    folder: &Path,
    project: &Project,
    terminal: Terminal,
) -> Result<Vec<Finding>, DoctorError> {
    let config = aws.connection().resolve().await?;
    let deployment = Deployment::connect(&config, name).await?;
    let about = format!("stack {name}");
    let progress = |event: Progress| terminal.say(&line(&event));
    if let Some((status, repair)) = deployment.settle(&progress).await? {
        let what = format!("it is {status}: {}", repair.explained());
        return Ok(vec![
            Finding::error(about, what).hint("`loopy deploy` mends it"),
        ]);
    }
    let Some(version) = deployment.deployed().await? else {
        return Err(DeployError::NoStack(name.to_owned()).into());
    };
    let mut findings = Vec::new();
    let template = version.template.clone();
    let differences = approval::differences(Some(&version), &project.manifest, &template)?;
    if !differences.is_empty() {
        let what = format!(
            "the project has changed since in {} places",
            differences.len()
        );
        findings.push(Finding::warning(&about, what).hint("`loopy drift` shows them"));
    }
    let needs = Needs::of(&project.manifest, emit::has_sensor_env(folder));
    for what in deployment.lacking_secrets(&needs).await? {
        findings.push(Finding::error(&about, what).hint("`loopy deploy` stores the values"));
    }
    for what in deployment.unhealthy(&|_| ()).await? {
        findings.push(Finding::error(&about, what));
    }
    if let Some(manifest) = &version.manifest {
        let found = loopy_infra::load_sensors(&config, name, manifest).await?;
        findings.extend(found.into_iter().map(unloadable));
    }
    let desk = loopy_infra::desk(&config, name).await?;
    let letters = desk.dead_letters.list().await?.len();
    if letters > 0 {
        let what = format!("{letters} messages were given up");
        findings.push(
            Finding::warning(&about, what)
                .hint(format!("`loopy dlq list --stack {name}` shows them")),
        );
    }
    Ok(findings)
}
