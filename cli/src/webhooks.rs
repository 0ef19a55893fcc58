//! `loopy webhooks`: where deliveries go, and telling GitHub so.

mod github;
mod hook;
mod register;

use crate::Outcome;
use crate::deploy::{Aws, runtime};
use crate::output::{Format, Terminal};
use crate::project::{self, NoProject};
use clap::{Args, Subcommand};
use loopy_aws::ConfigError;
use loopy_contract::manifest::{Manifest, SensorTrigger, VerifyScheme};
use loopy_engine::ports::PortError;
use loopy_infra::DeployError;
use loopy_infra::secrets::SecretsError;
use loopy_sandbox::github::TOKEN;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// How the outside reaches the project, where no argument says it.
const PUBLIC_URL: &str = "LOOPY_PUBLIC_URL";

/// Arguments of `loopy webhooks`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be done about webhooks.
#[derive(Debug, Subcommand)]
enum Command {
    /// Every path, its sensors, how deliveries are verified, and its URL
    List(List),
    /// Registers the project's webhook at its repositories on GitHub, and has GitHub
    /// send a ping
    Github(Github),
}

#[derive(Args, Debug)]
struct List {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    base: Base,
    #[command(flatten)]
    format: Format,
}

#[derive(Args, Debug)]
struct Github {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    base: Base,
    /// The environment it was deployed as (`loopy deploy --env NAME`): `loopy.NAME.env`
    /// is laid over `loopy.env`. `--stack` is the stack's whole name all the same
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only look; change nothing and send nothing
    #[arg(long)]
    check: bool,
    /// A repository, besides those that the project's sandboxes clone
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Vec<String>,
    #[command(flatten)]
    format: Format,
}

/// Where the project is served.
#[derive(Args, Debug)]
struct Base {
    /// How the outside reaches the project; LOOPY_PUBLIC_URL where neither this nor a
    /// stack is named
    #[arg(long, value_name = "URL", conflicts_with = "stack")]
    url: Option<String>,
    /// The stack that serves it
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    #[command(flatten)]
    aws: Aws,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhooksError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// Nobody said where the project is served.
    #[error("GitHub has to know where to send deliveries")]
    NoUrl,
    /// No such address.
    #[error("`{0}` is no address that GitHub could reach: it begins with https:// or http://")]
    Url(String),
    /// Not `owner/name`.
    #[error("`{0}` is no repository: write owner/name")]
    Name(String),
    /// No sensor is woken by GitHub.
    #[error("no sensor and no built-in event of this project takes deliveries of GitHub")]
    NoWebhook,
    /// No repository is named.
    #[error("no sandbox of this project clones a repository on GitHub")]
    NoRepository,
    /// All that the project waits for comes by other webhooks.
    #[error("no webhook of a repository carries what this project waits for")]
    NotOfRepositories,
    /// The stack is an environment's, and nobody said so.
    #[error(
        "stack {stack} seems to be the environment {env}, as loopy.{env}.env is there, and its \
         {variable} would be another than that of loopy.env"
    )]
    WhichEnvironment {
        /// The secret.
        variable: String,
        /// The stack.
        stack: String,
        /// The environment.
        env: String,
    },
    /// A value for the stack cannot be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// Nothing to show GitHub.
    #[error("there is neither a token nor an App to ask GitHub with")]
    NoToken,
    /// The secret cannot be made or kept.
    #[error("cannot keep the webhook secret in {}: {source}", path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A value of the project cannot be read.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The client for GitHub cannot be made.
    #[error("cannot reach GitHub: {0}")]
    Client(String),
    /// The account is not configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stack cannot be found.
    #[error(transparent)]
    Stack(#[from] DeployError),
    /// The process has no threads left.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl WebhooksError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::NoUrl => Some(
                "pass --url with the address that the outside knows, as in --url \
                 https://loopy.example.com, or --stack with the name of a deployed stack"
                    .to_owned(),
            ),
            Self::NoWebhook => Some(
                "start a step on an event such as Github.PullRequestOpened (`loopy docs events` \
                 lists them), or give a sensor verify=\"github\""
                    .to_owned(),
            ),
            Self::NoRepository => Some("name it with --repo owner/name".to_owned()),
            Self::NoToken => Some(format!(
                "set {TOKEN} to a token that may administer the repositories' webhooks, or \
                 configure a GitHub App in loopy.env (docs/secrets.md)"
            )),
            Self::NotOfRepositories => Some(
                "`loopy docs events` says what each event needs instead; enter there the address \
                 and the secret that `loopy webhooks list` names"
                    .to_owned(),
            ),
            Self::WhichEnvironment { env, .. } => Some(format!(
                "pass --env {env} to look for it there, and to write it there if need be"
            )),
            Self::Stack(error) => error.hint(),
            _ => None,
        }
    }
}

/// A path that deliveries are taken at.
#[derive(Debug, Serialize)]
struct Webhook {
    path: String,
    /// The scheme; nothing when there is none.
    verify: Option<&'static str>,
    sensors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, WebhooksError> {
    match &arguments.command {
        Command::List(list) => self::list(list, *terminal),
        Command::Github(github) => register::run(github, *terminal),
    }
}

fn list(list: &List, terminal: Terminal) -> Result<Outcome, WebhooksError> {
    let Some(project) = project::load(&list.project, terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let runtime = runtime().map_err(WebhooksError::Start)?;
    let base = runtime.block_on(list.base.find())?;
    let webhooks = webhooks(&project.manifest, base.as_deref());
    let text = if list.format.is_json() {
        format!("{}\n", json!(webhooks))
    } else {
        let line = |webhook: &Webhook| {
            format!(
                "{}\t{}\t{}\n",
                webhook.url.as_deref().unwrap_or(&webhook.path),
                webhook.verify.unwrap_or("not verified"),
                webhook.sensors.join(", ")
            )
        };
        webhooks.iter().map(line).collect()
    };
    terminal.data(&text).map_err(WebhooksError::Stdout)?;
    Ok(Outcome::Fine)
}

impl Base {
    /// The address before all paths, without a slash at its end.
    async fn find(&self) -> Result<Option<String>, WebhooksError> {
        let url = match (&self.stack, &self.url) {
            (Some(stack), _) => {
                let config = self.aws.connection().resolve().await?;
                Some(loopy_infra::webhook_url(&config, stack).await?)
            }
            (None, Some(url)) => Some(url.clone()),
            (None, None) => std::env::var(PUBLIC_URL).ok().filter(|url| !url.is_empty()),
        };
        let Some(url) = url else {
            return Ok(None);
        };
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(WebhooksError::Url(url));
        }
        Ok(Some(url.trim_end_matches('/').to_owned()))
    }
}

/// Every path with its sensors, sorted by path.
fn webhooks(manifest: &Manifest, base: Option<&str>) -> Vec<Webhook> {
    let mut found: BTreeMap<&str, Webhook> = BTreeMap::new();
    for sensor in &manifest.sensors {
        let SensorTrigger::Webhook { path, verify } = &sensor.trigger else {
            continue;
        };
        let webhook = found.entry(path).or_insert_with(|| Webhook {
            path: path.clone(),
            verify: verify.map(VerifyScheme::name),
            sensors: Vec::new(),
            url: base.map(|base| format!("{base}{path}")),
        });
        webhook.sensors.push(sensor.name.clone());
    }
    found.into_values().collect()
}
