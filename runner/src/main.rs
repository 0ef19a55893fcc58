//! The binary `loopy-runner`: traces to stderr and runs one attempt.

use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("LOOPY_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    ExitCode::from(loopy_runner::run(|name| std::env::var(name).ok()).code())
}
