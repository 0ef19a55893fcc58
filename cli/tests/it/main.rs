//! The real `loopy` command: what it prints, how it ends, and what is left
//! when it is killed.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod cache;
mod compile;
mod cost;
mod diagnostics;
mod docker;
mod docs;
mod doctor;
mod events;
mod files;
mod fmt;
mod forms;
mod graph;
mod kills;
mod logs;
mod lsp;
mod models;
mod orders;
mod replay;
mod run;
mod runs;
mod support;
mod torture;
mod trigger;
mod types;
mod watch;
mod webhooks;
