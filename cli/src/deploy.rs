//! `loopy deploy`: a project into an AWS account. Shows what would change and
//! asks before anything is changed.

pub(crate) mod approval;

use crate::Outcome;
use crate::emit::{self, Code, EmitError};
use crate::output::{Format, Terminal};
use crate::present;
use crate::project::{self, NoProject};
use clap::{Args, ValueEnum};
use loopy_aws::{ConfigError, Connection};
use loopy_engine::ports::PortError;
use loopy_engine::run::short_hash;
use loopy_infra::images::{Builder, DOCKER_HOST};
use loopy_infra::{
    Change, DeployError, Deployment, Needs, Plan, Progress, SecretsError, Values, Version,
    load_sensors, open_runs,
};
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
    /// An environment of its own beside others in one account: its name ends the
    /// stack's, and `loopy.NAME.env` is laid over `loopy.env`
    #[arg(long, value_name = "NAME", value_parser = environment_name)]
    env: Option<String>,
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
    /// Agree to what lets somebody do more than before: new access to the account, to
    /// secrets, to the network
    #[arg(long)]
    approve: bool,
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
    /// Somebody could do more than before, and nobody agreed to that.
    #[error(
        "this lets somebody do more than before:\n{}",
        .0.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    )]
    Widens(Vec<String>),
    /// The templates cannot be compared.
    #[error("cannot tell what would change: {0}")]
    Compare(String),
    /// What was deployed does not work.
    #[error(
        "what was deployed does not work:\n{}\n{}",
        problems.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
        match back {
            Some(name) => format!("stack {name} is again what it was before"),
            None => "there is no version before it to go back to".to_owned(),
        }
    )]
    Unhealthy {
        /// What does not work.
        problems: Vec<String>,
        /// The stack, if it went back.
        back: Option<String>,
    },
    /// There is nothing to go back to.
    #[error("stack {0} has no deployment to go back to")]
    NoRecord(String),
    /// There is nobody to ask.
    #[error("this would change stack {stack}, and there is no terminal to ask on")]
    NobodyToAsk {
        /// The stack's name.
        stack: String,
    },
    /// The state of the stack cannot be read.
    #[error(transparent)]
    State(#[from] PortError),
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
            Self::Widens(_) => {
                Some("pass --approve to agree to it; --plan shows all that would change".to_owned())
            }
            Self::Unhealthy { .. } => Some(
                "the functions' logs in CloudWatch say why; mend it, then deploy again".to_owned(),
            ),
            Self::NoRecord(_) => Some("`loopy rollback --list` shows what there is".to_owned()),
            Self::NobodyToAsk { .. } => Some("pass --yes to go on without asking".to_owned()),
            Self::NoDocker => Some(
                "start Docker, or leave the images to the account with --images account".to_owned(),
            ),
            Self::Secrets(_)
            | Self::Compare(_)
            | Self::State(_)
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
    let mut name = arguments
        .stack
        .clone()
        .unwrap_or_else(|| default_name(project));
    let environment_name = arguments.env.as_deref();
    if let Some(environment) = environment_name {
        name = format!("{name}-{environment}");
    }
    loopy_infra::deploy::check_name(&name)?;
    let needs = Needs::of(manifest, emit::has_sensor_env(project));
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let values = Values::read(project, &needs, &environment, environment_name)?;
    let stack = emit::stack(&arguments.code, project, manifest, &compiled.files)?;

    runtime().map_err(Error::Runtime)?.block_on(async {
        let config = arguments.aws.connection().resolve().await?;
        let deployment = Deployment::connect(&config, &name).await?;
        let progress = |event: Progress| terminal.say(&line(&event));
        let builder = Images::builder(arguments.images).await?;
        let agreed = |question: &str| {
            if arguments.yes {
                return Ok(true);
            }
            terminal.say(question);
            ask(&name, *terminal)
        };
        if let Some((status, repair)) = deployment.settle(&progress).await? {
            let explained = format!("stack {name} is {status}: {}", repair.explained());
            if arguments.plan {
                terminal.say(&explained);
                return Ok(Outcome::Refused);
            }
            if !agreed(&explained)? {
                return Ok(Outcome::Refused);
            }
            deployment.repair(repair, &progress).await?;
        }
        let before = deployment.deployed().await?;
        let mut unloadable_before = BTreeMap::new();
        let given = arguments.parameters.iter().cloned().collect();
        let plan = deployment.plan(&stack.template, &given, &progress).await?;
        if plan.is_empty() {
            terminal.say(&format!("stack {name} is up to date, nothing to change"));
            if arguments.plan {
                return Ok(Outcome::Fine);
            }
        } else {
            let differences = approval::differences(before.as_ref(), manifest, &stack.template)?;
            terminal.say(&shown_plan(&plan, &name, &deployment));
            terminal.say(&approval::shown(&differences));
            if arguments.plan {
                deployment.discard(&plan).await?;
                return Ok(Outcome::Fine);
            }
            if !arguments.approve && approval::needed(&differences) {
                deployment.discard(&plan).await?;
                return Err(Error::Widens(approval::widening(&differences)));
            }
            let agreed = agreed("");
            if !matches!(agreed, Ok(true)) {
                deployment.discard(&plan).await?;
                agreed?;
                terminal.say("nothing was changed");
                return Ok(Outcome::Fine);
            }
            // What could not be loaded before is no reason to go back there.
            if let Some(Version {
                manifest: Some(manifest),
                ..
            }) = &before
            {
                unloadable_before = load_sensors(&config, &name, manifest).await?;
            }
            // Before the change, what it launches from; after it, what a new stack
            // had no place for.
            let images = deployment.publish_images(&stack, &builder, &progress).await;
            if let Err(error) = images {
                deployment.discard(&plan).await?;
                return Err(error.into());
            }
            deployment.execute(&plan, &stack.assets, &progress).await?;
        }
        deployment
            .publish_images(&stack, &builder, &progress)
            .await?;
        let deployed = deployment
            .finish(&stack, manifest, &values, &progress)
            .await?;
        let mut problems = deployment.unhealthy(&progress).await?;
        let unloadable = load_sensors(&config, &name, manifest).await?;
        if before.is_some() && !plan.is_empty() {
            let fresh = unloadable
                .iter()
                .filter(|(sensor, _)| !unloadable_before.contains_key(*sensor));
            problems.extend(fresh.map(unloadable_line));
        }
        if !problems.is_empty() {
            let back = match before.filter(|_| !plan.is_empty()) {
                None => None,
                Some(before) => {
                    terminal.say("the new version does not work; going back to the one before");
                    go_back(&deployment, &before, &progress).await?;
                    Some(name)
                }
            };
            return Err(Error::Unhealthy { problems, back });
        }
        deployment.record(&stack, manifest).await?;
        match open_runs(&loopy_infra::store(&config, &name).await?).await {
            Ok(open) => {
                if let Some(line) = draining(&open, &manifest.hash) {
                    terminal.say(&line);
                }
                let collected = deployment.collect(&open).await?;
                if collected > 0 {
                    terminal.say(&format!(
                        "removed {collected} assets of versions that nothing needs"
                    ));
                }
            }
            // The stack is deployed all the same.
            Err(error) => terminal.say(&format!("kept all earlier versions: {error}")),
        }
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
        if unloadable.is_empty() {
            return Ok(Outcome::Fine);
        }
        for sensor in &unloadable {
            terminal.say(&unloadable_line(sensor));
        }
        terminal.hint(
            "deliveries to these sensors are answered 503 until they can be loaded; mend them, \
             then deploy again",
        );
        Ok(Outcome::Refused)
    })
}

fn unloadable_line((sensor, why): (&String, &String)) -> String {
    format!("sensor {sensor} cannot be loaded: {why}")
}

/// What of earlier versions goes on.
fn draining(open: &BTreeMap<String, usize>, manifest: &str) -> Option<String> {
    let current = short_hash(manifest);
    let others = open.iter().filter(|(hash, _)| *hash != current);
    let count: usize = others.map(|(_, count)| count).sum();
    match count {
        0 => None,
        1 => Some("1 run goes on with an earlier version".to_owned()),
        _ => Some(format!("{count} runs go on with an earlier version")),
    }
}

/// Makes the stack what it was. Its assets are in the bucket still.
pub(crate) async fn go_back(
    deployment: &Deployment,
    to: &Version,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), Error> {
    let plan = deployment
        .plan(&to.template, &to.parameters, progress)
        .await?;
    deployment.execute(&plan, &[], progress).await?;
    Ok(())
}

/// A name that can end a stack's.
fn environment_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 20
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("use at most 20 small letters and digits".to_owned())
    }
}

/// The runtime that talks to AWS.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// `loopy-` and the folder's name, with hyphens for what a stack's name cannot
/// hold.
pub(crate) fn default_name(project: &Path) -> String {
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
        Progress::Waiting { status } => {
            format!("the stack is {status}: waiting until that is over")
        }
        Progress::Doubt { what } => format!("warning: {what}"),
        Progress::Healthy { functions } => format!("all {functions} functions answer"),
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
