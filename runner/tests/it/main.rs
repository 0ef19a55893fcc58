//! The real runner binary against a report server, with real scripts, git and
//! agents' tools.
#![expect(clippy::unwrap_used, reason = "tests")]

mod agent_loop;
mod agents;
mod claude_code;
mod codex;
mod command;
mod engine;
mod files;
mod network;
mod opencode;
mod protocol;
mod workspace;
