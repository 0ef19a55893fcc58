//! `loopy deploy`: a project into an AWS account. Shows what would change and
//! asks before anything is changed.

use crate::Outcome;
use crate::emit::{self, Code, EmitError};
use crate::output::{Format, Terminal};
use crate::present;
use crate::project::{self, NoProject};
use clap::{Args, ValueEnum};
use loopy_aws::{ConfigError, Connection};
use loopy_infra::images::{Builder, DOCKER_HOST};
use loopy_infra::{Change, DeployError, Deployment, Needs, Plan, Progress, SecretsError, Values};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// How the account is reached.
#[derive(Args, Clone, Debug)]
pub(crate) struct Aws {
    /// The AWS region, in place of the configured one
    #[arg(long)]
    region: Option<String>,
    /// The profile in ~/.aws, in place of AWS_PROFILE
    #[arg(long)]
    profile: Option<String>,
    /// The endpoint of every service, in place of AWS_ENDPOINT_URL
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
}

impl Aws {
    /// These differences from the standard chain.
    pub(crate) fn connection(&self) -> Connection {
        Connection {
            region: self.region.clone(),
            profile: self.profile.clone(),
            endpoint_url: self.endpoint_url.clone(),
        }
    }
}

/// Arguments of `loopy deploy`.
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
    code: Code,
    /// Who builds the images of fargate sandboxes; this machine's Docker engine if
    /// one answers, else the account
    #[arg(long, value_enum, value_name = "WHO")]
    images: Option<Images>,
    /// A parameter of the stack's template (`AlarmEmail=me@example.com`); it stays until
    /// another value is given. docs/deploy.md lists them
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Show what would change, and stop there
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Go on without asking
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

/// Reads `NAME=VALUE`; the value may be empty.
fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Who builds images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Images {
    /// The Docker engine of this machine
    Docker,
    /// The stack's CodeBuild project
    Account,
}

impl Images {
    /// The one that was asked for, or the one there is.
    async fn builder(asked: Option<Self>) -> Result<Builder, Error> {
        if asked == Some(Self::Account) {
            return Ok(Builder::Account);
        }
        let host = std::env::var(DOCKER_HOST).ok();
        match Builder::docker(host.as_deref().filter(|host| !host.is_empty())).await {
            Some(docker) => Ok(docker),
            None if asked.is_some() => Err(Error::NoDocker),
            None => Ok(Builder::Account),
        }
    }
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// No stack can be made of it.
    #[error(transparent)]
    Stack(#[from] EmitError),
    /// A secret is missing.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// AWS, or the stack, refused.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// There is nobody to ask.
    #[error("this would change stack {stack}, and there is no terminal to ask on")]
    NobodyToAsk {
        /// The stack's name.
        stack: String,
    },
    /// Images are to be built here, and there is no engine.
    #[error("no Docker engine answers on a socket of this machine")]
    NoDocker,
    /// The terminal failed.
    #[error("cannot read the answer: {0}")]
    Answer(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The process has no threads or sockets left.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Stack(error) => error.hint(),
            Self::Deploy(error) => error.hint(),
            Self::NobodyToAsk { .. } => Some("pass --yes to go on without asking".to_owned()),
            Self::NoDocker => Some(
                "start Docker, or leave the images to the account with --images account".to_owned(),
            ),
            Self::Secrets(_)
            | Self::Config(_)
            | Self::Answer(_)
            | Self::Stdout(_)
            | Self::Runtime(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, Error> {
    let project = &arguments.project;
    let Some(compiled) = project::load(project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let manifest = &compiled.manifest;

    // All that can be refused is refused before minutes go into a build.
    emit::check(manifest)?;
    for warning in loopy_infra::warnings(manifest) {
        terminal.say(&format!("warning: {warning}"));
    }
    let name = arguments
        .stack
        .clone()
        .unwrap_or_else(|| default_name(project));
    loopy_infra::deploy::check_name(&name)?;
    let needs = Needs::of(manifest, emit::has_sensor_env(project));
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let values = Values::read(project, &needs, &environment)?;
    let stack = emit::stack(&arguments.code, project, manifest, &compiled.files)?;

    runtime().map_err(Error::Runtime)?.block_on(async {
        let config = arguments.aws.connection().resolve().await?;
        let deployment = Deployment::connect(&config, &name).await?;
        let progress = |event: Progress| terminal.say(&line(&event));
        let builder = Images::builder(arguments.images).await?;
        let given = arguments.parameters.iter().cloned().collect();
        let plan = deployment.plan(&stack, &given, &progress).await?;
        if plan.is_empty() {
            terminal.say(&format!("stack {name} is up to date, nothing to change"));
            if arguments.plan {
                return Ok(Outcome::Fine);
            }
        } else {
            terminal.say(&shown_plan(&plan, &name, &deployment));
            if arguments.plan {
                deployment.discard(&plan).await?;
                return Ok(Outcome::Fine);
            }
            let agreed = if arguments.yes {
                Ok(true)
            } else {
                ask(&name, *terminal)
            };
            if !matches!(agreed, Ok(true)) {
                deployment.discard(&plan).await?;
                agreed?;
                terminal.say("nothing was changed");
                return Ok(Outcome::Fine);
            }
            // Before the change, what it launches from; after it, what a new stack
            // had no place for.
            let images = deployment.publish_images(&stack, &builder, &progress).await;
            if let Err(error) = images {
                deployment.discard(&plan).await?;
                return Err(error.into());
            }
            deployment.execute(&plan, &stack, &progress).await?;
        }
        deployment
            .publish_images(&stack, &builder, &progress)
            .await?;
        let deployed = deployment
            .finish(&stack, manifest, &values, &progress)
            .await?;
        let text = if arguments.format.is_json() {
            let webhooks: Map<String, Value> = deployed
                .webhooks
                .iter()
                .map(|(sensor, url)| (sensor.clone(), json!(url)))
                .collect();
            present::document(&json!({ "stack": name, "webhooks": webhooks }))
        } else {
            let webhooks = deployed.webhooks.iter();
            webhooks
                .map(|(sensor, url)| format!("{sensor}\t{url}\n"))
                .collect()
        };
        terminal.data(&text).map_err(Error::Stdout)?;
        Ok(Outcome::Fine)
    })
}

/// The runtime that talks to AWS.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// `loopy-` and the folder's name, with hyphens for what a stack's name cannot
/// hold.
fn default_name(project: &Path) -> String {
    let folder = project
        .canonicalize()
        .unwrap_or_else(|_| project.to_owned());
    let folder = folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let words: String = folder
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("loopy-{}", words.trim_matches('-'))
        .trim_end_matches('-')
        .to_owned()
}

/// Asks whether to go on; only an explicit yes is one.
pub(crate) fn ask(stack: &str, terminal: Terminal) -> Result<bool, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::NobodyToAsk {
            stack: stack.to_owned(),
        });
    }
    terminal.say("go on? [y/N]");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Error::Answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

fn shown_plan(plan: &Plan, name: &str, deployment: &Deployment) -> String {
    let mut text = format!(
        "{} stack {name} in account {}, region {}:\n",
        if plan.is_new { "create" } else { "change" },
        deployment.account(),
        deployment.region(),
    );
    for Change {
        action,
        logical_id,
        kind,
        replaced,
    } in &plan.changes
    {
        let sign = match action.as_str() {
            "Add" => "+",
            "Remove" => "-",
            _ => "~",
        };
        let note = match replaced {
            Some(true) => "  (made anew)",
            None if action == "Modify" => "  (perhaps made anew)",
            _ => "",
        };
        text.push_str(&format!("  {sign} {kind}  {logical_id}{note}\n"));
    }
    text
}

/// One line about what happened.
pub(crate) fn line(event: &Progress) -> String {
    match event {
        Progress::BucketCreated { bucket } => format!("created bucket {bucket}"),
        Progress::Uploaded { key, bytes } => {
            format!("uploaded {key} ({} KB)", bytes.div_ceil(1024))
        }
        Progress::Resource {
            logical_id,
            kind,
            status,
            reason,
        } => {
            let reason = reason.as_deref().filter(|_| status.ends_with("_FAILED"));
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            format!("  {status:<20}  {kind}  {logical_id}{reason}")
        }
        Progress::ImageBegun {
            sandboxes,
            in_account,
        } => {
            let place = if *in_account { "the account" } else { "Docker" };
            format!("building the image of {sandboxes} with {place}")
        }
        Progress::ImagePushed { sandboxes } => format!("pushed the image of {sandboxes}"),
        Progress::TasksStopped { count } => format!("stopped {count} tasks that worked"),
        Progress::SecretStored { logical_id } => format!("stored the values of {logical_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_named_after_its_folder() {
        for (folder, name) in [
            ("/x/github", "loopy-github"),
            ("/x/my_project.v2", "loopy-my-project-v2"),
            ("/x/.ü", "loopy"),
        ] {
            assert_eq!(default_name(Path::new(folder)), name);
            assert!(loopy_infra::deploy::check_name(name).is_ok());
        }
    }

    #[test]
    fn a_failure_is_shown_with_its_reason() {
        let event = Progress::Resource {
            logical_id: "Table".to_owned(),
            kind: "AWS::DynamoDB::Table".to_owned(),
            status: "CREATE_FAILED".to_owned(),
            reason: Some("no capacity".to_owned()),
        };
        assert_eq!(
            line(&event),
            "  CREATE_FAILED         AWS::DynamoDB::Table  Table: no capacity"
        );
    }
}
