//! `loopy webhooks github`: one webhook a repository and path, as it should be, and a
//! ping through it.

use super::github::{self, GithubError, Repository};
use super::hook::{Hook, Standing, Wanted, standing};
use super::{Github, WebhooksError};
use crate::Outcome;
use crate::deploy::runtime;
use crate::output::Terminal;
use crate::project;
use loopy_compiler::catalogue::{BuiltIn, provider};
use loopy_contract::manifest::{
    Manifest, Repo, Sensor, SensorSource, SensorTrigger, VerifyScheme, previous_secret,
};
use loopy_contract::mapping::Check;
use loopy_engine::ports::Secrets;
use loopy_infra::secrets::{ENGINE_FILE, engine_variables};
use loopy_local::clock::SystemClock;
use loopy_local::secrets::LocalSecrets;
use loopy_sandbox::github::{API, API_URL, GithubTokens, TOKEN};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
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
    let Paths {
        events: paths,
        beyond,
    } = paths(manifest);
    for (event, needed) in &beyond {
        terminal.say(&format!(
            "{event} needs {needed}: no repository's webhook carries it"
        ));
    }
    if paths.is_empty() {
        return Err(match beyond.is_empty() {
            true => WebhooksError::NoWebhook,
            false => WebhooksError::NotOfRepositories,
        });
    }
    if repositories.is_empty() {
        return Err(WebhooksError::NoRepository);
    }
    let reports = runtime().map_err(WebhooksError::Start)?.block_on(async {
        let secrets = Arc::new(LocalSecrets::new(
            &arguments.project,
            &arguments.project.join(".loopy"),
            environment(arguments)?,
        ));
        let known = known(&secrets)?;
        right_environment(arguments, known.as_ref())?;
        let base = arguments.base.find().await?.ok_or(WebhooksError::NoUrl)?;
        let github = Access::new(Arc::clone(&secrets)).await?;
        let mut tokens = Vec::new();
        for name in &repositories {
            tokens.push((name, github.token(name).await?));
        }
        // Made only once there is somebody to tell it to.
        let secret = match known {
            None if !arguments.check => Some(make(arguments, terminal)?),
            known => known,
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
                let (state, why) = match &secret {
                    Some(secret) if !arguments.check => {
                        register(&repository, &wanted, secret).await
                    }
                    secret => check(&repository, &wanted, secret.as_ref()).await,
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
async fn check(repository: &Repository<'_>, wanted: &Wanted, secret: Option<&Secret>) -> Found {
    let hooks = repository.hooks().await?;
    Ok(match standing(&hooks, wanted) {
        Standing::Missing => (State::Missing, None),
        Standing::Stale(_, differs) => (State::Stale, Some(differs.join("; "))),
        Standing::Right(id) => {
            let hook = hooks.iter().find(|hook| hook.id == id);
            match hook.and_then(Hook::failing) {
                Some(why) => (State::Failing, Some(why)),
                None if secret.is_some_and(|secret| secret.previous.is_some()) => (
                    State::Ok,
                    Some(
                        "whether it has the present secret or the one before cannot be told: \
                         both are taken; without --check it is given the present one"
                            .to_owned(),
                    ),
                ),
                None => (State::Ok, None),
            }
        }
    })
}

/// Makes it what it should be and sends a ping through it.
async fn register(repository: &Repository<'_>, wanted: &Wanted, secret: &Secret) -> Found {
    let Secret { present, previous } = secret;
    let (id, mut state) = match standing(&repository.hooks().await?, wanted) {
        Standing::Missing => (repository.create(wanted, present).await?, State::Created),
        Standing::Stale(id, _) => {
            repository.update(id, wanted, present).await?;
            (id, State::Updated)
        }
        // A ping that is taken says nothing while the secret before is taken too.
        Standing::Right(id) => match previous {
            Some(previous) => return rotate(repository, wanted, id, present, previous).await,
            None => (id, State::Ok),
        },
    };
    let mut answered = repository.ping(id).await?;
    // GitHub does not show the secret it has; a refusal does.
    if answered == Some(401) && state == State::Ok {
        repository.update(id, wanted, present).await?;
        state = State::Updated;
        answered = repository.ping(id).await?;
    }
    Ok(outcome(state, answered))
}

/// Gives it the present secret. Where that is not known yet to who serves the project it
/// gets the one before again, so that no delivery is lost meanwhile.
async fn rotate(
    repository: &Repository<'_>,
    wanted: &Wanted,
    id: u64,
    present: &str,
    previous: &str,
) -> Found {
    repository.update(id, wanted, present).await?;
    let answered = repository.ping(id).await?;
    if answered != Some(401) {
        return Ok(outcome(State::Updated, answered));
    }
    repository.update(id, wanted, previous).await?;
    Ok((
        State::Failing,
        Some(
            "a ping with the present secret was answered 401, so it has the one before again: \
             let the other side know the present one first"
                .to_owned(),
        ),
    ))
}

fn outcome(state: State, answered: Option<u16>) -> (State, Option<String>) {
    match answered {
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
    }
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

/// What of GitHub's deliveries the project waits for.
struct Paths {
    /// The kinds that a repository's webhook is to send, by the path they go to.
    events: BTreeMap<String, BTreeSet<String>>,
    /// The events that it cannot carry, and what they need instead.
    beyond: BTreeMap<String, String>,
}

/// The paths that take GitHub's deliveries, with the events each needs. What a sensor
/// of the project looks at nobody knows, so it is sent everything.
fn paths(manifest: &Manifest) -> Paths {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut beyond = BTreeMap::new();
    for sensor in &manifest.sensors {
        let SensorTrigger::Webhook {
            path,
            verify: Some(VerifyScheme::Github),
        } = &sensor.trigger
        else {
            continue;
        };
        let built_in = match sensor.source {
            SensorSource::Builtin => provider(&sensor.emits),
            SensorSource::Module | SensorSource::Typescript | SensorSource::Shell => None,
        };
        let event = built_in.and_then(|provider| provider.event(&sensor.emits));
        if let Some(needed) = event.and_then(BuiltIn::beyond_repository) {
            beyond.insert(sensor.emits.clone(), needed);
            continue;
        }
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
    Paths {
        events: found,
        beyond,
    }
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

/// The process's environment, over what the files of the named environment say.
fn environment(arguments: &Github) -> Result<BTreeMap<String, String>, WebhooksError> {
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let Some(name) = &arguments.env else {
        return Ok(own.collect());
    };
    let mut variables = engine_variables(&arguments.project, Some(name))?;
    variables.extend(own.filter(|(_, value)| !value.is_empty()));
    Ok(variables)
}

/// The secret that deliveries are signed with, and the one before it while both are
/// taken.
struct Secret {
    present: String,
    previous: Option<String>,
}

fn known(secrets: &LocalSecrets) -> Result<Option<Secret>, WebhooksError> {
    let variable = variable()?;
    let present = secrets.webhook_secret(&variable)?;
    let previous = secrets.webhook_secret(&previous_secret(&variable))?;
    Ok(present.map(|present| Secret {
        previous: previous.filter(|previous| *previous != present),
        present,
    }))
}

fn variable() -> Result<String, WebhooksError> {
    VerifyScheme::Github
        .secret_variable()
        .ok_or(WebhooksError::NoWebhook)
}

/// Makes a secret and writes it to the file that `loopy deploy` would read it from.
fn make(arguments: &Github, terminal: Terminal) -> Result<Secret, WebhooksError> {
    let variable = variable()?;
    let file = match &arguments.env {
        Some(env) => format!("loopy.{env}.env"),
        None => ENGINE_FILE.to_owned(),
    };
    let path = arguments.project.join(file);
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
    Ok(Secret {
        present: secret,
        previous: None,
    })
}

/// Refuses to take the secret of `loopy.env` for a stack whose name ends with that of an
/// environment, where the environment's own file says otherwise or could.
fn right_environment(arguments: &Github, known: Option<&Secret>) -> Result<(), WebhooksError> {
    let (None, Some(stack)) = (&arguments.env, &arguments.base.stack) else {
        return Ok(());
    };
    let mut names = stack
        .match_indices('-')
        .filter_map(|(at, _)| stack.get(at + 1..));
    let there = |name: &&str| {
        let file = format!("loopy.{name}.env");
        arguments.project.join(file).is_file()
    };
    let Some(env) = names.find(there) else {
        return Ok(());
    };
    let variable = variable()?;
    // The process's environment counts before all files.
    let own = std::env::var(&variable).is_ok_and(|value| !value.is_empty());
    let laid_over = engine_variables(&arguments.project, Some(env))?;
    let same = known.is_some_and(|known| laid_over.get(&variable) == Some(&known.present));
    if own || same {
        return Ok(());
    }
    Err(WebhooksError::WhichEnvironment {
        variable,
        stack: stack.clone(),
        env: env.to_owned(),
    })
}
