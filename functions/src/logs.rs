//! Logs: a JSON object a line on stdout.

use lambda_runtime::tracing::subscriber::filter::{LevelFilter, Targets};
use lambda_runtime::tracing::subscriber::prelude::*;
use lambda_runtime::tracing::subscriber::{fmt, registry};

/// Begins to log. Only Loopy's own crates follow `AWS_LAMBDA_LOG_LEVEL` (`info`
/// unless set): more detail from the SDK or an HTTP client would put requests,
/// and with them secrets, into the log.
pub(crate) fn begin() {
    let level = std::env::var("AWS_LAMBDA_LOG_LEVEL")
        .ok()
        .and_then(|level| level.parse::<LevelFilter>().ok())
        .unwrap_or(LevelFilter::INFO);
    let own = [
        "loopy_aws",
        "loopy_engine",
        "loopy_functions",
        "loopy_sandbox",
        "loopy_sensors",
    ];
    let targets = Targets::new()
        .with_default(LevelFilter::WARN)
        // Its span carries the request id.
        .with_target("lambda_runtime", LevelFilter::INFO)
        .with_targets(own.map(|target| (target, level)));
    // A second call, which only a test could make, keeps the first one's.
    let _ = registry()
        .with(
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_span_list(false),
        )
        .with(targets)
        .try_init();
}
