//! The provider `daytona`: a sandbox in a Daytona account, driven over its
//! HTTP interface.
//!
//! A launch makes the sandbox under the client token as its name, waits a
//! little for it to start, uploads the runner and has it started. Each call of
//! `launch` looks at what is there and goes on from it.
//!
//! # Once, whoever asks again
//!
//! * The sandbox: its name is the client token, by which it is looked up, stopped
//!   and looked after too; names are unique in an account. It is looked up before it is made; if two launches race, the
//!   second one's request meets a conflict and takes what the first one made.
//! * The runner: neither "was the command sent" nor "did it arrive" can be
//!   known for sure from outside, so the command itself decides. It first makes
//!   the directory `started`, which only one can; all others end without doing
//!   anything. So sending it again is harmless. A launch looks for `started`
//!   before it uploads anything and after it sent the command.
//!
//! The token goes into a file in a directory that only the sandbox's user can
//! read, and the command removes the file when it has read it: nobody finds
//! the token in a list of processes or in the commands that Daytona records.

mod image;
mod rest;

use crate::shell::quote;
use crate::{attempt_name, launch_variables};
use async_trait::async_trait;
use bytes::Bytes;
use image::Image;
use loopy_contract::report::launch_env;
use loopy_engine::ports::{
    Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes, Secrets,
};
use loopy_engine::run::SandboxRef;
use reqwest::{StatusCode, Url};
use rest::{BuildInfo, CallError, CreateSandbox, Rest, State, Toolbox};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The provider's name in `registry.yml`.
pub const NAME: &str = "daytona";

/// The variable that holds the API key.
pub const API_KEY: &str = "DAYTONA_API_KEY";
/// The variable that holds the API's base URL; [`DEFAULT_API_URL`] when unset.
pub const API_URL: &str = "DAYTONA_API_URL";
/// The variable that holds the region; the account's own when unset.
pub const TARGET: &str = "DAYTONA_TARGET";
/// Daytona's own service.
pub const DEFAULT_API_URL: &str = "https://app.daytona.io/api";

/// Where the runner and what belongs to it lie in a sandbox. Every user can
/// make it, whatever the image.
const FOLDER: &str = "/tmp/.loopy";
/// The session that the runner is started in.
const SESSION: &str = "loopy-runner";

/// How long one call waits for a sandbox to start, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two looks at a sandbox in one call.
const LOOK: Duration = Duration::from_millis(400);
/// How soon a runner that was started is looked for; then each time later.
const FIRST_LOOK: Duration = Duration::from_millis(25);
/// When to look again at a sandbox that takes longer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long a command that was sent may take to begin.
const BEGIN_WAIT: Duration = Duration::from_secs(3);
/// Minutes that a sandbox may live past its attempt's time limit: it covers the
/// build of an image and the engine's own stop. Daytona removes it then.
const SPARE_MINUTES: u64 = 30;
/// Minutes that a stopped sandbox is kept.
const KEEP_STOPPED_MINUTES: u32 = 30;

/// The runner's program for a Linux sandbox.
#[async_trait]
pub trait RunnerBinary: Send + Sync {
    /// Its bytes: a static x86-64 executable.
    ///
    /// # Errors
    /// When the binary can't be read; the launch is tried again.
    async fn bytes(&self) -> Result<Bytes, PortError>;
}

/// The provider.
#[derive(Clone)]
pub struct Daytona {
    secrets: Arc<dyn Secrets>,
    runner: Arc<dyn RunnerBinary>,
    report_url: String,
    patience: Duration,
    http: reqwest::Client,
}

impl Daytona {
    /// A provider whose runners report to `report_url`. The key is asked for
    /// when it is needed, so a project without Daytona needs none.
    ///
    /// # Errors
    /// When no HTTP client can be set up.
    pub fn new(
        secrets: Arc<dyn Secrets>,
        runner: Arc<dyn RunnerBinary>,
        report_url: String,
    ) -> Result<Self, PortError> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("loopy/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| PortError::new("set up the client for Daytona", error))?;
        Ok(Self {
            secrets,
            runner,
            report_url,
            patience: PATIENCE,
            http,
        })
    }

    /// How long one call of `launch` waits for a sandbox to start before it
    /// answers that it is under way; 6 seconds unless set.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    async fn account(&self) -> Result<Account, LaunchError> {
        let mut env = self.secrets.engine_env().await?;
        let mut take = |name: &str| {
            env.remove(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let key = take(API_KEY).ok_or_else(|| {
            LaunchError::Refused(format!(
                "{API_KEY} is not set; put a Daytona API key into loopy.env (or the environment of `loopy run`), \
                 and deploy again if the engine runs in the cloud"
            ))
        })?;
        let url = take(API_URL).unwrap_or_else(|| DEFAULT_API_URL.to_owned());
        let api = Url::parse(&url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                LaunchError::Refused(format!(
                    "{API_URL} is `{url}`, which is not an http or https URL"
                ))
            })?;
        let rest = Rest {
            http: self.http.clone(),
            api,
            key,
        };
        Ok(Account {
            rest,
            target: take(TARGET),
        })
    }

    /// The report URL, if a sandbox behind this API can reach it.
    fn reachable_report(&self, api: &Url) -> Result<Url, LaunchError> {
        const HINT: &str =
            "give the engine a public URL (LOOPY_PUBLIC_URL), or use `provider: local`";
        let url = Url::parse(&self.report_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| {
                LaunchError::Refused(format!(
                    "the report URL `{}` can't be used from a Daytona sandbox, only http and https can; {HINT}",
                    self.report_url
                ))
            })?;
        if is_loopback(&url) && !is_loopback(api) {
            return Err(LaunchError::Refused(format!(
                "the report URL `{}` is this machine's own, and a Daytona sandbox can't reach it; {HINT}",
                self.report_url
            )));
        }
        Ok(url)
    }

    /// Uploads the runner and has it started.
    async fn start_runner(
        &self,
        toolbox: &Toolbox<'_>,
        spec: &LaunchSpec,
        workdir: Option<&str>,
    ) -> Result<(), LaunchError> {
        // A name of this call's own, so that two launches at a time do not
        // write over each other's files, or over a runner that runs.
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| PortError::new("draw a file name", error))?;
        let nonce = nonce.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });

        let binary = self.runner.bytes().await?;
        let mut variables = String::new();
        for (name, value) in launch_variables(spec, &self.report_url) {
            variables.push_str(&format!("export {name}={}\n", quote(&value)));
        }
        toolbox
            .make_private_folder(FOLDER)
            .await
            .map_err(toolbox_error)?;
        toolbox
            .upload(&format!("{FOLDER}/runner-{nonce}"), binary)
            .await
            .map_err(toolbox_error)?;
        toolbox
            .upload(&format!("{FOLDER}/env-{nonce}"), Bytes::from(variables))
            .await
            .map_err(toolbox_error)?;
        toolbox.make_session(SESSION).await.map_err(toolbox_error)?;
        toolbox
            .start_command(SESSION, &start_command(&nonce, workdir))
            .await
            .map_err(toolbox_error)
    }
}

#[async_trait]
impl Sandboxes for Daytona {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        let account = self.account().await?;
        let report = self.reachable_report(&account.rest.api)?;
        let refused = |why: String| LaunchError::Refused(format!("sandbox `{}`: {why}", spec.name));
        let image = image::read(&spec.sandbox.image).map_err(refused)?;
        let labels = labels(spec);

        let begun = Instant::now();
        let mut sandbox = match account.rest.get(&spec.client_token).await? {
            Some(sandbox) => sandbox,
            None => {
                let body = account
                    .body(spec, &image, labels.clone(), &report)
                    .map_err(refused)?;
                match account.rest.create(&body).await {
                    Ok(sandbox) => {
                        tracing::info!(sandbox = %sandbox.id, "made a Daytona sandbox for {}", attempt_name(spec));
                        sandbox
                    }
                    Err(error) if error.status() == Some(StatusCode::CONFLICT) => {
                        match account.rest.get(&spec.client_token).await? {
                            Some(sandbox) => sandbox,
                            None => return Err(error.into()),
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if labels
            .iter()
            .any(|(name, value)| sandbox.labels.get(name) != Some(value))
        {
            return Err(LaunchError::Refused(format!(
                "the Daytona account has a sandbox named {} that was not made for {}; remove it there",
                spec.client_token,
                attempt_name(spec)
            )));
        }

        loop {
            match sandbox.state {
                State::Started => break,
                State::Error | State::BuildFailed => {
                    let reason = sandbox.error_reason.as_deref().unwrap_or("no reason given");
                    let what = if sandbox.state == State::Error {
                        "start"
                    } else {
                        "build"
                    };
                    return Err(refused(format!(
                        "Daytona could not {what} it: {} (Daytona sandbox {})",
                        account.rest.clean(reason),
                        sandbox.id
                    )));
                }
                // Its attempt is over, whether the runner was started or not;
                // `state` says so, and the engine decides on another attempt.
                state if state.is_over() => return Ok(Launch::Started),
                _ if begun.elapsed() >= self.patience => return Ok(Launch::Pending(LOOK_AGAIN)),
                _ => {}
            }
            sleep(LOOK).await;
            sandbox = match account.rest.get(&spec.client_token).await? {
                Some(sandbox) => sandbox,
                None => return Ok(Launch::Started),
            };
        }

        let toolbox = account
            .rest
            .toolbox(&sandbox)
            .await
            .map_err(toolbox_error)?;
        let workdir = match &image {
            Image::Built(built) => built.workdir.as_deref(),
            Image::Default | Image::Snapshot(_) => None,
        };
        if toolbox.exists(&started()).await.map_err(toolbox_error)? {
            return Ok(Launch::Started);
        }
        self.start_runner(&toolbox, spec, workdir).await?;
        let sent = Instant::now();
        let mut look = FIRST_LOOK;
        loop {
            sleep(look).await;
            if toolbox.exists(&started()).await.map_err(toolbox_error)? {
                return Ok(Launch::Started);
            }
            // A runner can be done, and its sandbox gone, before anybody looks.
            let found = account.rest.get(&spec.client_token).await?;
            if found.is_none_or(|sandbox| sandbox.state.is_over()) {
                return Ok(Launch::Started);
            }
            if sent.elapsed() > BEGIN_WAIT {
                return Ok(Launch::Pending(LOOK_AGAIN));
            }
            look = (look * 2).min(LOOK);
        }
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        let account = self
            .account()
            .await
            .map_err(|error| as_port("stop", sandbox, error))?;
        account
            .rest
            .delete(&sandbox.id)
            .await
            .map_err(CallError::into_port)
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        let account = self
            .account()
            .await
            .map_err(|error| as_port("look after", sandbox, error))?;
        let Some(view) = account
            .rest
            .get(&sandbox.id)
            .await
            .map_err(CallError::into_port)?
        else {
            return Ok(SandboxState::Gone);
        };
        match view.state {
            State::Error | State::BuildFailed => Ok(SandboxState::Gone),
            state if state.is_over() => Ok(SandboxState::Gone),
            State::Started => {
                let toolbox = account
                    .rest
                    .toolbox(&view)
                    .await
                    .map_err(CallError::into_port)?;
                let ended = toolbox
                    .exists(&ended())
                    .await
                    .map_err(CallError::into_port)?;
                Ok(if ended {
                    SandboxState::Gone
                } else {
                    SandboxState::Alive
                })
            }
            _ => Ok(SandboxState::Alive),
        }
    }
}

/// A Daytona account, as the engine's environment gives it.
struct Account {
    rest: Rest,
    target: Option<String>,
}

impl Account {
    fn body(
        &self,
        spec: &LaunchSpec,
        image: &Image,
        labels: BTreeMap<String, String>,
        report: &Url,
    ) -> Result<CreateSandbox, String> {
        let mut body = CreateSandbox {
            name: spec.client_token.clone(),
            labels,
            target: self.target.clone(),
            auto_stop_interval: 0,
            auto_delete_interval: KEEP_STOPPED_MINUTES,
            ttl_minutes: spec
                .time_limit
                .as_secs()
                .div_ceil(60)
                .saturating_add(SPARE_MINUTES),
            ..CreateSandbox::default()
        };
        match image {
            Image::Default => {}
            Image::Snapshot(name) => body.snapshot = Some(name.clone()),
            Image::Built(built) => {
                body.build_info = Some(BuildInfo {
                    dockerfile_content: built.dockerfile.clone(),
                    context_hashes: Vec::new(),
                });
                body.user.clone_from(&built.user);
                (body.cpu, body.memory, body.disk) = (built.cpu, built.memory, built.disk);
            }
        }
        (body.domain_allow_list, body.network_allow_list) = network(&spec.sandbox.network, report)?;
        Ok(body)
    }
}

/// The lists of domains and of addresses that a sandbox may reach; the report
/// URL's host is always among them.
fn network(hosts: &[String], report: &Url) -> Result<(Option<String>, Option<String>), String> {
    if hosts.is_empty() {
        return Ok((None, None));
    }
    let mut domains = Vec::new();
    for host in hosts {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let fits = name.parse::<IpAddr>().is_err()
            && name.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            });
        if !fits {
            return Err(format!(
                "`network` has `{host}`; Daytona takes host names (`github.com`, `*.example.com`)"
            ));
        }
        domains.push(host.as_str());
    }
    let own = report.host_str().unwrap_or_default();
    let address = match own.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(format!("{address}/32")),
        Ok(IpAddr::V6(address)) => Some(format!("{address}/128")),
        Err(_) => {
            if !domains.contains(&own) {
                domains.push(own);
            }
            None
        }
    };
    Ok((Some(domains.join(",")), address))
}

fn labels(spec: &LaunchSpec) -> BTreeMap<String, String> {
    [
        ("loopy-run", spec.run.0.clone()),
        ("loopy-step", spec.step.clone()),
        ("loopy-attempt", spec.attempt.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn started() -> String {
    format!("{FOLDER}/started")
}

fn ended() -> String {
    format!("{FOLDER}/ended")
}

/// The command that starts the runner, once however often it is sent. It holds
/// no secret. It is one `sh` of its own, for an `exit` in it must not end the
/// session, and the session's own shell may be another one. The runner is
/// copied, not renamed: a program can't be started while any process has it open
/// for writing, and what the daemon forks may have, for an instant, the file
/// that it is just done writing.
fn start_command(nonce: &str, workdir: Option<&str>) -> String {
    let workspace = match workdir {
        Some(directory) => quote(directory),
        None => r#""${HOME:-/tmp}/workspace""#.to_owned(),
    };
    let variable = launch_env::WORKSPACE;
    let script = format!(
        "cd {FOLDER} || exit 1\n\
         if ! mkdir started 2>/dev/null; then\n\
         rm -f runner-{nonce} env-{nonce}\n\
         test -d started\n\
         exit\n\
         fi\n\
         {{\n\
         cp runner-{nonce} runner && mv env-{nonce} env && rm -f runner-* env-* && chmod 700 runner &&\n\
         . ./env && rm -f env && export {variable}={workspace} && ./runner\n\
         }} >runner.log 2>&1 </dev/null\n\
         echo $? >ended"
    );
    format!("/bin/sh -c {}", quote(&script))
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        Some(host) => {
            host == "localhost"
                || host.ends_with(".localhost")
                || host
                    .parse::<IpAddr>()
                    .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
        }
        None => false,
    }
}

/// An error of the daemon inside a sandbox. It is not there, or ended, when the
/// sandbox is just starting or going: the next launch will see which.
fn toolbox_error(error: CallError) -> LaunchError {
    match error.status().map(|status| status.as_u16()) {
        Some(404 | 409 | 410) => LaunchError::Trouble(error.into_port()),
        _ => error.into(),
    }
}

fn as_port(verb: &str, sandbox: &SandboxRef, error: LaunchError) -> PortError {
    match error {
        LaunchError::Trouble(trouble) => trouble,
        LaunchError::Refused(why) => {
            PortError::new(format!("{verb} Daytona sandbox {}", sandbox.id), why)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_report_host_is_always_reachable() {
        let hosts = ["github.com".to_owned()];
        assert_eq!(
            network(&hosts, &url("https://reports.test/x")).unwrap(),
            (Some("github.com,reports.test".to_owned()), None)
        );
        assert_eq!(
            network(&hosts, &url("https://github.com")).unwrap(),
            (Some("github.com".to_owned()), None)
        );
        assert_eq!(
            network(&hosts, &url("http://192.0.2.7:80")).unwrap(),
            (
                Some("github.com".to_owned()),
                Some("192.0.2.7/32".to_owned())
            )
        );
        assert_eq!(
            network(&[], &url("https://reports.test")).unwrap(),
            (None, None)
        );
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for bad in [
            "10.0.0.0/8",
            "10.0.0.1",
            "https://x.test",
            "a,b.test",
            "",
            "x..test",
        ] {
            assert!(
                network(&[bad.to_owned()], &url("https://r.test")).is_err(),
                "{bad}"
            );
        }
        assert!(network(&["*.x.test".to_owned()], &url("https://r.test")).is_ok());
    }

    #[test]
    fn loopback_is_recognised_in_all_its_spellings() {
        for own in [
            "http://127.0.0.1:1",
            "http://localhost",
            "http://[::1]:8",
            "http://0.0.0.0",
            "http://a.localhost",
        ] {
            assert!(is_loopback(&url(own)), "{own}");
        }
        assert!(!is_loopback(&url("https://app.daytona.io/api")));
    }
}
