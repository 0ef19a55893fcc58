//! `loopy deploy`: a project into an AWS account. Shows what would change and
//! asks before anything is changed.

pub(crate) mod approval;
mod back;
mod error;
mod told;

pub(crate) use back::go_back;
pub(crate) use error::{After, Error};
pub(crate) use told::line;

use crate::Outcome;
use crate::emit::{self, Code};
use crate::output::{Format, Terminal};
use crate::present;
use crate::project;
use approval::Agreement;
use back::WayBack;
use clap::{Args, ValueEnum};
use loopy_aws::Connection;
use loopy_infra::images::{Builder, DOCKER_HOST};
use loopy_infra::{
    Deployment, Needs, Progress, Values, Version, load_sensors, open_runs, parameters,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use told::{draining, shown_plan, unloadable_line};

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
    /// Agree to what lets somebody do more than before (new access to the account, to
    /// secrets, to the network), and to what takes from runs that are not over
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
    pub(crate) async fn builder(asked: Option<Self>) -> Result<Builder, Error> {
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
        let agreed = || {
            if arguments.yes {
                return Ok(true);
            }
            ask(&name, *terminal)
        };
        if let Some((status, repair)) = deployment.settle(&progress).await? {
            let explained = format!("stack {name} is {status}: {}", repair.explained());
            terminal.say(&explained);
            if arguments.plan || !agreed()? {
                return Ok(Outcome::Refused);
            }
            deployment.repair(repair, &progress).await?;
        }
        let before = deployment.deployed().await?;
        let kept = deployment.kept().await?;
        let mut unloadable_before = BTreeMap::new();
        let given = arguments.parameters.iter().cloned().collect();
        let plan = deployment.plan(&stack.template, &given, &progress).await?;
        let changes = !plan.is_empty();
        // All of a new stack is new.
        let mut differences = Vec::new();
        let mut agreement = Agreement::default();
        if let Some(before) = &before {
            if changes {
                differences = approval::differences(Some(before), manifest, &stack.template)?;
                differences.extend(parameters(&before.parameters, &given));
                let store = loopy_infra::store(&config, &name).await?;
                let stranded = approval::stranded(&deployment, &store, before, manifest);
                agreement.strands = stranded.await?;
            }
            differences.extend(values.differences(&stack.secrets, &kept));
            differences.sort();
            agreement.widens = approval::widening(&differences);
        }
        if !changes && differences.is_empty() {
            terminal.say(&format!("stack {name} is up to date, nothing to change"));
            if arguments.plan {
                return Ok(Outcome::Fine);
            }
        } else {
            if changes {
                terminal.say(&shown_plan(&plan, &name, &deployment));
            } else {
                terminal.say(&format!(
                    "nothing of stack {name} changes but the values of its secrets:"
                ));
            }
            terminal.say(&approval::shown(&differences));
            if arguments.plan {
                if !agreement.strands.is_empty() {
                    terminal.say(&agreement.told());
                }
                deployment.discard(&plan).await?;
                return Ok(Outcome::Fine);
            }
            if let Err(unagreed) = agreement.check(arguments.approve) {
                deployment.discard(&plan).await?;
                return Err(unagreed);
            }
            let agreed = agreed();
            if !matches!(agreed, Ok(true)) {
                deployment.discard(&plan).await?;
                agreed?;
                terminal.say("nothing was changed");
                return Ok(Outcome::Fine);
            }
        }
        if changes {
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
            let images = deployment
                .publish_images(&stack.images, &builder, &progress)
                .await;
            if let Err(error) = images {
                deployment.discard(&plan).await?;
                return Err(error.into());
            }
            let to = Some((&stack, manifest));
            deployment.execute(&plan, to, &progress).await?;
        }
        deployment
            .publish_images(&stack.images, &builder, &progress)
            .await?;
        let deployed = deployment
            .finish(&stack, manifest, &values, &progress)
            .await?;
        let mut problems = deployment.unhealthy(&progress).await?;
        let unloadable = load_sensors(&config, &name, manifest).await?;
        if before.is_some() && changes {
            let fresh = unloadable
                .iter()
                .filter(|(sensor, _)| !unloadable_before.contains_key(*sensor));
            problems.extend(fresh.map(unloadable_line));
        }
        if !problems.is_empty() {
            let way = match WayBack::of(&deployment, before, changes).await {
                Ok(way) => way,
                // What does not work is told, whatever else goes wrong.
                Err(error) => WayBack::Lost(error.to_string()),
            };
            if way.goes() {
                terminal.say("the new version does not work; going back to the one before");
            }
            let after = way.go(&deployment, &name, &kept, &builder, &progress).await;
            return Err(Error::Unhealthy { problems, after });
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
                deployment.forget(&open).await?;
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
}
