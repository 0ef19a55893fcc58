//! A project's home on this machine, as the command line asks for it.

use crate::output::Terminal;
use crate::project::Project;
use clap::Args;
use loopy_local::{HomeOptions, OpenError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

/// Where sandboxes on other machines find this one, and what they run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Remote {
    /// How the outside reaches this listener: for webhooks, and for sandboxes
    /// on other machines
    #[arg(long, value_name = "URL", env = "LOOPY_PUBLIC_URL")]
    public_url: Option<String>,
    /// The loopy-runner binary (x86-64 Linux) that sandboxes on other machines,
    /// and containers, are given
    #[arg(long, value_name = "FILE", env = "LOOPY_RUNNER")]
    runner: Option<PathBuf>,
}

impl Remote {
    /// How the outside reaches the listener, if it was said.
    pub(crate) fn public_url(&self) -> Option<&str> {
        self.public_url.as_deref()
    }
}

/// The options to serve `project` with.
///
/// # Errors
/// When this program cannot tell where it is, for it starts runners by itself;
/// or when the runner for other machines is no file.
pub(crate) fn options(
    folder: &Path,
    project: &Project,
    listen: Option<SocketAddr>,
    remote: &Remote,
) -> io::Result<HomeOptions> {
    let program = std::env::current_exe()?.into_os_string();
    let program = program
        .into_string()
        .map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))?;
    let mut options = HomeOptions::new(
        folder.to_owned(),
        project.manifest.clone(),
        project.files.clone(),
        vec![program, "runner".to_owned()],
    );
    if let Some(listen) = listen {
        options.listen = listen;
    }
    options.public_url = remote.public_url.clone();
    if let Some(runner) = &remote.runner {
        let why = match std::fs::metadata(runner) {
            Ok(found) if found.is_file() => None,
            Ok(_) => Some("it is not a file".to_owned()),
            Err(why) => Some(why.to_string()),
        };
        if let Some(why) = why {
            let path = runner.display();
            return Err(io::Error::other(format!("the runner {path}: {why}")));
        }
        options.remote_runner = Some(runner.clone());
    }
    Ok(options)
}

/// What to do when a home cannot be opened.
pub(crate) fn hint(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Locked(_) => Some(
            "`loopy trigger` hands an event to the process that serves, `loopy runs` reads what \
             it does"
                .to_owned(),
        ),
        OpenError::NoPublicUrl(_) => {
            Some("pass --public-url, as in --public-url https://loopy.example.com".to_owned())
        }
        OpenError::NoRunner(_) => Some(
            "`cargo xtask dist` builds it; pass --runner with the file, or set LOOPY_RUNNER"
                .to_owned(),
        ),
        OpenError::Listen { .. } => {
            Some("pass --listen with another address, as in --listen 127.0.0.1:8080".to_owned())
        }
        OpenError::NoKey(_)
        | OpenError::NoDocker(..)
        | OpenError::InAccount(_)
        | OpenError::Unsupported(_)
        | OpenError::Unverified { .. }
        | OpenError::File { .. }
        | OpenError::Db(_)
        | OpenError::Keep(_)
        | OpenError::Port(_) => None,
    }
}

/// A runtime with threads enough for the home's loops.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

/// Shows what the libraries trace on stderr: what goes wrong and what sensors
/// print, or what `LOOPY_LOG` asks for.
pub(crate) fn trace(terminal: Terminal, default: &str) {
    let filter = EnvFilter::try_from_env("LOOPY_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal.colour)
        .compact()
        .init();
}

/// Resolves when the process is asked to end: SIGINT or SIGTERM.
///
/// # Errors
/// When the system does not let signals be waited for.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
