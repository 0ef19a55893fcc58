//! Runs one attempt of one step inside a sandbox: fetches the envelope,
//! prepares the workspace, drives the harness and reports the result.
//!
//! [`run`] is all there is to call. It owns its process: it becomes the parent
//! of every orphan below it and ends all its descendants when the attempt is
//! over, so it must not share a process with other work.

mod attempt;
mod client;
mod handed;
mod harness;
mod outcome;
mod pack;
mod processes;
mod prompt;
mod redact;
mod template;
mod transcript;
mod workspace;

/// How a runner ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The result, success or failure, reached the engine.
    Delivered,
    /// The attempt is no longer wanted, or the runner was told to end.
    Stopped,
    /// The engine never answered while the attempt lived.
    Unreachable,
    /// The environment, or this machine, does not let a runner work.
    Misconfigured,
    /// The engine did not accept what the runner sent.
    Refused,
}

impl Exit {
    /// The exit code of the process: 0 when there is nothing left to do.
    pub fn code(self) -> u8 {
        match self {
            Self::Delivered | Self::Stopped => 0,
            Self::Unreachable => 1,
            Self::Misconfigured => 2,
            Self::Refused => 3,
        }
    }
}

/// Runs the attempt that the variables of
/// [`launch_env`](loopy_contract::report::launch_env) name, as `env` gives
/// them, to its end. Blocks; starts its own runtime. What goes wrong is traced.
pub fn run(env: impl Fn(&str) -> Option<String>) -> Exit {
    let launch = match attempt::Launch::read(env) {
        Ok(launch) => launch,
        Err(error) => {
            tracing::error!("{error}");
            return Exit::Misconfigured;
        }
    };
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(attempt::run(launch)),
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            Exit::Misconfigured
        }
    }
}
