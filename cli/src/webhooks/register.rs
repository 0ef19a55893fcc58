//! `loopy webhooks github`: one webhook a repository and path, as it should be, and a
//! ping through it.

use super::github::{self, GithubError, Repository};
use super::hook::{Hook, Standing, Wanted, standing};
use super::{Github, WebhooksError};
use crate::Outcome;
use crate::deploy::runtime;
use crate::output::Terminal;
use crate::project;
use loopy_contract::manifest::{Manifest, Repo, Sensor, SensorSource, SensorTrigger, VerifyScheme};
use loopy_contract::mapping::Check;
use loopy_engine::ports::Secrets;
use loopy_local::clock::SystemClock;
use loopy_local::secrets::LocalSecrets;
use loopy_sandbox::github::{API, API_URL, GithubTokens, TOKEN};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// What became of one repository's webhook.
#[derive(Debug, Serialize)]
struct Report {
    repository: String,
    url: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It was made.
    Created,
    /// It was changed.
    Updated,
    /// It is as it should be.
    Ok,
    /// It is not, and was left so.
    Stale,
    /// There is none.
    Missing,
    /// Deliveries do not arrive, or are refused.
    Failing,
    /// GitHub would not say.
    Error,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Ok => "ok",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Failing => "failing",
            Self::Error => "error",
        }
    }

    fn is_good(self) -> bool {
        matches!(self, Self::Created | Self::Updated | Self::Ok)
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Github, terminal: Terminal) -> Result<Outcome, WebhooksError> {
    let Some(project) = project::load(&arguments.project, terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let manifest = &project.manifest;
    let repositories = repositories(manifest, &arguments.repo)?;
    let paths = paths(manifest);
    if paths.is_empty() {
        return Err(WebhooksError::NoWebhook);
    }
    if repositories.is_empty() {
        return Err(WebhooksError::NoRepository);
    }
    let reports = runtime().map_err(WebhooksError::Start)?.block_on(async {
        let base = arguments.base.find().await?.ok_or(WebhooksError::NoUrl)?;
        let secrets = Arc::new(LocalSecrets::new(
            &arguments.project,
            &arguments.project.join(".loopy"),
            std::env::vars().collect(),
        ));
        let github = Access::new(Arc::clone(&secrets)).await?;
        let mut tokens = Vec::new();
        for name in &repositories {
            tokens.push((name, github.token(name).await?));
        }
        // Only once there is somebody to tell it to.
        let secret = if arguments.check {
            String::new()
        } else {
            secret(&arguments.project, &secrets, terminal).await?
        };
        let mut reports = Vec::new();
        for (name, token) in tokens {
            let repository = Repository {
                http: &github.http,
                api: &github.api,
                name,
                token: &token,
            };
            for (path, events) in &paths {
                let wanted = Wanted {
                    url: format!("{base}{path}"),
                    events: events.clone(),
                };
                let (state, why) = if arguments.check {
                    check(&repository, &wanted).await
                } else {
                    register(&repository, &wanted, &secret).await
                }
                .unwrap_or_else(|error| (State::Error, Some(error.to_string())));
                reports.push(Report {
                    repository: name.clone(),
                    url: wanted.url,
                    state,
                    why,
                });
            }
        }
        Ok::<_, WebhooksError>(reports)
    })?;
    let text = if arguments.format.is_json() {
        format!("{}\n", json!(reports))
    } else {
        let line = |report: &Report| {
            let why = report.why.as_deref().unwrap_or_default();
            let (name, state) = (&report.repository, report.state.name());
            format!(
                "{}\n",
                format!("{name}\t{}\t{state}\t{why}", report.url).trim_end()
            )
        };
        reports.iter().map(line).collect()
    };
    terminal.data(&text).map_err(WebhooksError::Stdout)?;
    if reports.iter().all(|report| report.state.is_good()) {
        return Ok(Outcome::Fine);
    }
    let repairable = |report: &Report| matches!(report.state, State::Missing | State::Stale);
    if arguments.check && reports.iter().any(repairable) {
        terminal.hint("the same command without --check mends what is missing or stale");
    } else if reports.iter().any(|report| report.state == State::Failing) {
        terminal.hint(
            "whoever serves the project has to run, be reached at this address, and know the \
             secret: `loopy run` reads it from loopy.env, `loopy deploy` puts it into the account",
        );
    }
    Ok(Outcome::Refused)
}

/// What GitHub is asked with.
struct Access {
    http: reqwest::Client,
    api: String,
    own: Option<String>,
    app: GithubTokens,
}

impl Access {
    async fn new(secrets: Arc<LocalSecrets>) -> Result<Self, WebhooksError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let configured = secrets.github_app().await?;
        let api = variable(API_URL).or_else(|| configured.get(API_URL).cloned());
        let api = api.unwrap_or_else(|| API.to_owned());
        Ok(Self {
            http: github::client().map_err(|error| WebhooksError::Client(error.to_string()))?,
            api: api.trim_end_matches('/').to_owned(),
            own: variable(TOKEN),
            app: GithubTokens::new(secrets, Arc::new(SystemClock))?,
        })
    }

    /// The person's own token, or one of the App's for this repository.
    async fn token(&self, name: &str) -> Result<String, WebhooksError> {
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        self.app
            .token_for(name)
            .await?
            .ok_or(WebhooksError::NoToken)
    }
}

type Found = Result<(State, Option<String>), GithubError>;

/// How the webhook stands; nothing is changed and nothing sent.
async fn check(repository: &Repository<'_>, wanted: &Wanted) -> Found {
    let hooks = repository.hooks().await?;
    Ok(match standing(&hooks, wanted) {
        Standing::Missing => (State::Missing, None),
        Standing::Stale(_, differs) => (State::Stale, Some(differs.join("; "))),
        Standing::Right(id) => {
            let hook = hooks.iter().find(|hook| hook.id == id);
            match hook.and_then(Hook::failing) {
                Some(why) => (State::Failing, Some(why)),
                None => (State::Ok, None),
            }
        }
    })
}

/// Makes it what it should be and sends a ping through it.
async fn register(repository: &Repository<'_>, wanted: &Wanted, secret: &str) -> Found {
    let (id, mut state) = match standing(&repository.hooks().await?, wanted) {
        Standing::Missing => (repository.create(wanted, secret).await?, State::Created),
        Standing::Stale(id, _) => {
            repository.update(id, wanted, secret).await?;
            (id, State::Updated)
        }
        Standing::Right(id) => (id, State::Ok),
    };
    let mut answered = repository.ping(id).await?;
    // GitHub does not show the secret it has; a refusal does.
    if answered == Some(401) && state == State::Ok {
        repository.update(id, wanted, secret).await?;
        state = State::Updated;
        answered = repository.ping(id).await?;
    }
    Ok(match answered {
        Some(200..=299) => (state, None),
        Some(401) => (
            State::Failing,
            Some(
                "registered; a ping was answered 401: the other side has another secret".to_owned(),
            ),
        ),
        Some(status) => (
            State::Failing,
            Some(format!("registered; a ping was answered {status}")),
        ),
        None => (
            State::Failing,
            Some("registered; a ping did not arrive in time".to_owned()),
        ),
    })
}

/// The repositories that sandboxes clone, and those that are named.
fn repositories(manifest: &Manifest, named: &[String]) -> Result<BTreeSet<String>, WebhooksError> {
    let repos = manifest
        .registry
        .sandboxes
        .values()
        .flat_map(|sandbox| &sandbox.repos);
    let mut found: BTreeSet<String> = repos.filter_map(Repo::on_github).collect();
    for name in named {
        let repo = Repo {
            url: name.clone(),
            r#ref: None,
            path: None,
            depth: None,
        };
        let name = repo
            .on_github()
            .ok_or_else(|| WebhooksError::Name(name.clone()))?;
        found.insert(name);
    }
    Ok(found)
}

/// The paths that take GitHub's deliveries, with the events each needs. What a sensor
/// of the project looks at nobody knows, so it is sent everything.
fn paths(manifest: &Manifest) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sensor in &manifest.sensors {
        let SensorTrigger::Webhook {
            path,
            verify: Some(VerifyScheme::Github),
        } = &sensor.trigger
        else {
            continue;
        };
        let events = found.entry(path.clone()).or_default();
        match sensor.source {
            SensorSource::Builtin => events.extend(kinds(sensor)),
            SensorSource::Module | SensorSource::Typescript | SensorSource::Shell => {
                events.insert("*".to_owned());
            }
        }
    }
    for events in found.values_mut() {
        if events.contains("*") {
            events.retain(|event| event == "*");
        }
    }
    found
}

/// The kinds of deliveries (`X-GitHub-Event`) that a built-in event is made of;
/// everything where it does not say.
fn kinds(sensor: &Sensor) -> Vec<String> {
    let checks = sensor.mapping.iter().flat_map(|mapping| &mapping.when);
    checks
        .filter_map(|check| match check {
            Check::Header { name, one_of } if name == "x-github-event" => Some(one_of.clone()),
            _ => None,
        })
        .next()
        .unwrap_or_else(|| vec!["*".to_owned()])
}

/// The secret that deliveries are signed with; made and written to `loopy.env` where
/// there is none yet.
async fn secret(
    project: &Path,
    secrets: &LocalSecrets,
    terminal: Terminal,
) -> Result<String, WebhooksError> {
    let Some(variable) = VerifyScheme::Github.secret_variable() else {
        return Err(WebhooksError::NoWebhook);
    };
    let known = secrets.webhook_secrets(&variable).await?;
    if let Some(secret) = known.into_iter().next() {
        return Ok(secret);
    }
    let path = project.join("loopy.env");
    let keep = |source: io::Error| WebhooksError::Keep {
        path: path.clone(),
        source,
    };
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| keep(io::Error::other(error)))?;
    let secret = hex::encode(bytes);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(keep(error)),
    };
    let newline = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{newline}{variable}={secret}\n").as_bytes()))
        .map_err(keep)?;
    terminal.say(&format!(
        "made {variable} and wrote it to {}",
        path.display()
    ));
    Ok(secret)
}
