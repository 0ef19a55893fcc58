//! The harnesses: what drives a step's work. One file each, behind [`Drive`].

mod agent_loop;
mod answer;
mod claude_code;
mod codex;
mod command;
mod ending;
mod mend;
mod opencode;
mod strict;
mod watch;

use crate::processes::Processes;
use crate::transcript::Transcript;
use crate::workspace::{Control, Workspace};
use loopy_contract::manifest::Harness;
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome, Usage};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tokio::process::Command;

/// Bytes of a process's last words in a message.
const LAST_WORDS: usize = 2000;

/// Everything a harness works with.
pub(crate) struct Job<'a> {
    /// The attempt.
    pub(crate) envelope: &'a Envelope,
    /// Where it works.
    pub(crate) workspace: &'a Workspace,
    /// Where the runner's own files are.
    pub(crate) control: &'a Control,
    /// The environment of the harness, complete.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// Starts and ends processes.
    pub(crate) processes: &'a Processes,
    /// Takes what happens, for whoever looks at the run.
    pub(crate) transcript: &'a Transcript<'a>,
    /// What has been used so far; kept up to date while the harness runs, so
    /// that it is known even when the time runs out.
    pub(crate) usage: &'a RefCell<Usage>,
}

impl Job<'_> {
    /// A command that runs in the workspace with the harness's environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.environment)
            .current_dir(self.workspace.root());
        command
    }
}

/// A harness.
trait Drive {
    /// Does the step's work and gives back its checked outcome.
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure>;
}

/// Runs the harness that the envelope names.
///
/// # Errors
/// Why the attempt failed.
pub(crate) async fn drive(job: &Job<'_>) -> Result<Outcome, Failure> {
    match job.envelope.harness {
        Harness::Command => command::CommandHarness.drive(job).await,
        Harness::ClaudeCode => claude_code::ClaudeCode.drive(job).await,
        Harness::Codex => codex::Codex.drive(job).await,
        Harness::Opencode => opencode::Opencode.drive(job).await,
        Harness::Loop => agent_loop::AgentLoop.drive(job).await,
    }
}

fn failure(class: FailureClass, message: impl Into<String>) -> Failure {
    Failure {
        class,
        message: message.into(),
    }
}

/// The failure of an output that breaks its schema.
fn broken(what: &str, violations: &[String]) -> Failure {
    failure(
        FailureClass::Output,
        format!("{what}: {}", violations.join("; ")),
    )
}
