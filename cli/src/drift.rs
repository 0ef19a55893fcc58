//! `loopy drift`: where a stack is no longer what it was deployed as, and where the
//! project has gone on since.

use crate::Outcome;
use crate::deploy::{Aws, Error, approval, default_name, runtime};
use crate::emit;
use crate::output::{Format, Terminal};
use crate::present;
use crate::project;
use clap::Args;
use loopy_infra::{DeployError, Deployment, Drift};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `loopy drift`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// The stack's name; `loopy-` and the folder's name when absent
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    #[command(flatten)]
    aws: Aws,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, Error> {
    let project = &arguments.project;
    let Some(compiled) = project::load(project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    emit::check(&compiled.manifest)?;
    let name = arguments.stack.clone();
    let name = name.unwrap_or_else(|| default_name(project));
    let (changed, differences) = runtime().map_err(Error::Runtime)?.block_on(async {
        let config = arguments.aws.connection().resolve().await?;
        let deployment = Deployment::connect(&config, &name).await?;
        let before = deployment.deployed().await?;
        let before = before.ok_or_else(|| DeployError::NoStack(name.clone()))?;
        // The project against its own template: permissions are the account's part.
        let template = before.template.clone();
        let differences = approval::differences(Some(&before), &compiled.manifest, &template)?;
        let changed = deployment.drift().await?;
        Ok::<_, Error>((changed, differences))
    })?;
    if arguments.format.is_json() {
        let document = json!({ "account": changed, "project": differences });
        let text = present::document(&document);
        terminal.data(&text).map_err(Error::Stdout)?;
    } else {
        let mut text = String::new();
        for Drift {
            resource,
            kind,
            status,
            properties,
            ..
        } in &changed
        {
            text.push_str(&format!(
                "{status}\t{kind}\t{resource}\t{}\n",
                properties.join(", ")
            ));
        }
        terminal.data(&text).map_err(Error::Stdout)?;
        if !differences.is_empty() {
            terminal.say("the project has changed since it was deployed:");
            terminal.say(&approval::shown(&differences));
        }
    }
    if changed.is_empty() && differences.is_empty() {
        terminal.say(&format!("stack {name} is what the project says"));
        return Ok(Outcome::Fine);
    }
    if !changed.is_empty() {
        terminal.hint("`loopy deploy` changes only what the template changes; set the properties back by hand");
    }
    Ok(Outcome::Refused)
}
