//! The real runner binary against a report server, with real scripts, git and
//! Claude Code.
#![expect(clippy::unwrap_used, reason = "tests")]

mod claude_code;
mod command;
mod engine;
mod protocol;
mod workspace;
