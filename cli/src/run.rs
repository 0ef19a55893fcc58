//! `loopy run`: serves a project on this machine until it is told to stop.

use crate::Outcome;
use crate::home::{self, Remote};
use crate::output::Terminal;
use crate::present::Progress;
use crate::project::{self, NoProject};
use clap::Args;
use loopy_contract::manifest::{Manifest, SensorTrigger, Trigger};
use loopy_engine::run::Run;
use loopy_local::{LocalHome, OpenError};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Arguments of `loopy run`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The project's folder, the one with `registry.yml`
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Where to listen for webhooks and reports
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    #[command(flatten)]
    remote: Remote,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The project's folder cannot be read.
    #[error(transparent)]
    Project(#[from] NoProject),
    /// The project cannot be served.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The process has no threads or signals left, or lost its program.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
}

impl RunError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Project(error) => error.hint(),
            Self::Open(error) => home::hint(error),
            Self::Start(_) | Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, RunError> {
    home::trace(*terminal, "warn,loopy_sensors=info");
    let Some(project) = project::load(&arguments.project, *terminal)? else {
        return Ok(Outcome::ProjectErrors);
    };
    let remote = &arguments.remote;
    let options = home::options(&arguments.project, &project, Some(arguments.listen), remote)
        .map_err(RunError::Start)?;
    home::runtime().map_err(RunError::Start)?.block_on(async {
        let interrupted = home::interrupted().map_err(RunError::Start)?;
        let home = LocalHome::open(options).await?;
        let state = home.state();
        let base = match remote.public_url() {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", home.address()),
        };
        terminal
            .data(&webhooks(&project.manifest, &base))
            .map_err(RunError::Stdout)?;
        terminal.say(&format!(
            "serving {} on http://{}",
            arguments.project.display(),
            home.address()
        ));
        for schedule in schedules(&project.manifest) {
            terminal.say(&schedule);
        }
        let show = async {
            let mut progress = Progress::default();
            let show = |run: &Run| {
                for line in progress.lines(run) {
                    terminal.say(&line);
                }
            };
            let Err(error) = state.watch(show).await;
            tracing::warn!(%error, "progress is shown no more");
            // The home serves on all the same.
            std::future::pending::<()>().await;
        };
        let handle = home.handle();
        let load = async {
            match handle.load_sensors().await {
                Ok(found) => {
                    for (sensor, why) in found {
                        terminal.say(&format!("sensor {sensor} cannot be loaded: {why}"));
                    }
                }
                Err(error) => tracing::error!(%error, "cannot load the sensors"),
            }
            std::future::pending::<()>().await;
        };
        let serve = home.serve(async {
            interrupted.await;
            terminal.say("stopping; running steps go on, and their results are taken next time");
        });
        tokio::select! {
            () = serve => {}
            () = show => {}
            () = load => {}
        }
        Ok(Outcome::Fine)
    })
}

/// A line for each webhook: its sensor and its URL.
fn webhooks(manifest: &Manifest, base: &str) -> String {
    let mut lines = String::new();
    for sensor in &manifest.sensors {
        if let SensorTrigger::Webhook { path, .. } = &sensor.trigger {
            lines.push_str(&format!("{}\t{base}{path}\n", sensor.name));
        }
    }
    lines
}

/// A sentence for each thing that begins by itself.
fn schedules(manifest: &Manifest) -> Vec<String> {
    let polls = manifest.sensors.iter().filter_map(|sensor| {
        let SensorTrigger::Poll { interval, .. } = &sensor.trigger else {
            return None;
        };
        Some(format!("sensor {} polls every {interval}", sensor.name))
    });
    let steps = manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values());
    let crons = steps.filter_map(|step| {
        let Some(Trigger::Cron { expr, tz, .. }) = &step.trigger else {
            return None;
        };
        let zone = tz.as_deref().unwrap_or("UTC");
        Some(format!("step {} starts at cron({expr}) {zone}", step.id))
    });
    polls.chain(crons).collect()
}
