//! Runs the tests with all they need around them.

use crate::dist::{self, Arch};
use crate::docker::Docker;
use crate::emulator::Emulator;
use crate::error::Error;
use crate::process;
use crate::tools::{self, Tools};
use crate::workspace::Workspace;
use std::path::Path;
use std::process::Command;

/// Installs what is missing, builds the function binaries, starts an emulator, and
/// runs all tests of the workspace, or those that `runner_args` choose.
///
/// # Errors
/// When a step fails; a failed test fails the runner.
pub(crate) fn test(workspace: &Workspace, runner_args: &[String]) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let dist = dist::build(workspace, &tools, Arch::host(), None)?;
    tools.unlock(workspace)?;
    let docker = Docker::start(workspace)?;
    let emulator = Emulator::start_over(workspace, &tools, &docker)?;
    let enforcing = Emulator::start_enforcing(workspace, &tools)?;
    let surroundings = Surroundings {
        tools: &tools,
        dist: &dist,
        endpoint: &emulator.endpoint(),
        enforcing: &enforcing.endpoint(),
        here: None,
        docker: &docker,
    };
    let chosen = chosen(runner_args, &["--workspace"]);
    let mut outcome = Ok(());
    // The runner comes last, so that its closing line closes the task.
    if runner_args.is_empty() {
        outcome = process::run(surroundings.command(workspace, Account::Emulated).args([
            "test",
            "--doc",
            "--workspace",
        ]));
    }
    let tests = process::run(&mut runner(
        workspace,
        &surroundings,
        Account::Emulated,
        &chosen,
    ));
    if tests.is_err() || outcome.is_err() {
        eprintln!("the emulator's log: {}", emulator.log.display());
        eprintln!("that of the enforcing one: {}", enforcing.log.display());
        eprintln!("the Docker engine's log: {}", docker.log.display());
    }
    tests.and(outcome)
}

/// Runs only the end-to-end tests, against `endpoint`, from which this machine is
/// reached as `here`.
///
/// # Errors
/// When a step fails; a failed test fails the runner.
pub(crate) fn e2e(
    workspace: &Workspace,
    endpoint: &str,
    here: Option<&str>,
    runner_args: &[String],
) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let dist = dist::build(workspace, &tools, Arch::host(), None)?;
    tools.unlock(workspace)?;
    let docker = Docker::start(workspace)?;
    let enforcing = Emulator::start_enforcing(workspace, &tools)?;
    let surroundings = Surroundings {
        tools: &tools,
        dist: &dist,
        endpoint,
        enforcing: &enforcing.endpoint(),
        here,
        docker: &docker,
    };
    let chosen = chosen(runner_args, &["--package", "loopy-localstack"]);
    process::run(&mut runner(
        workspace,
        &surroundings,
        Account::Callers,
        &chosen,
    ))
}

/// What the runner is to run: `default`, unless the arguments choose packages.
fn chosen(runner_args: &[String], default: &[&str]) -> Vec<String> {
    let chooses = |arg: &String| {
        matches!(arg.as_str(), "-p" | "--package" | "--workspace") || arg.starts_with("--package=")
    };
    let default = if runner_args.iter().any(chooses) {
        &[]
    } else {
        default
    };
    default
        .iter()
        .map(|arg| (*arg).to_owned())
        .chain(runner_args.iter().cloned())
        .collect()
}

/// cargo-nextest where there is one, else cargo's own runner.
fn runner(
    workspace: &Workspace,
    surroundings: &Surroundings<'_>,
    account: Account,
    chosen: &[String],
) -> Command {
    let mut command = surroundings.command(workspace, account);
    if process::succeeds(workspace.cargo().args(["nextest", "--version"])) {
        command.args(["nextest", "run"]).args(chosen);
    } else {
        command.args([
            "test",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ]);
        command.args(chosen);
    }
    command
}

/// Whose AWS account the tests work in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Account {
    /// One of the emulator's: nothing of the caller's credentials is passed on.
    Emulated,
    /// The caller named the endpoint, so the caller's credentials may be needed.
    Callers,
}

/// What the tests find in their environment.
struct Surroundings<'a> {
    tools: &'a Tools,
    dist: &'a Path,
    endpoint: &'a str,
    /// Another one, which enforces what roles may do.
    enforcing: &'a str,
    /// The name under which functions reach this machine, where that is another one
    /// than theirs.
    here: Option<&'a str>,
    docker: &'a Docker,
}

impl Surroundings<'_> {
    fn command(&self, workspace: &Workspace, account: Account) -> Command {
        let mut command = workspace.cargo();
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            // A test must never find a real key: it would be used, and paid for.
            let paid = [
                "ANTHROPIC_",
                "CLAUDE_",
                "CODEX_",
                "DAYTONA_",
                "LOOPY_",
                "OPENAI_",
                "OPENCODE_",
            ];
            let aws = account == Account::Emulated && name.starts_with("AWS_");
            if aws || paid.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        if account == Account::Emulated {
            command
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .env("AWS_CONFIG_FILE", "/dev/null")
                .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        }
        command
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("LOOPY_TEST_EMULATOR", self.endpoint)
            .env("LOOPY_TEST_EMULATOR_ENFORCING", self.enforcing)
            .env("LOOPY_TEST_DIST", self.dist)
            .env("LOOPY_TEST_CFN_LINT", self.tools.python_program("cfn-lint"))
            .env("LOOPY_TEST_CHECKOV", &self.tools.checkov)
            .env("LOOPY_TEST_AWS", self.tools.python_program("aws"))
            .env("LOOPY_TEST_PYTHON", self.tools.python_program("python"))
            .env("LOOPY_TEST_PYRIGHT", self.tools.node_program("pyright"))
            .env("LOOPY_TEST_TSC", self.tools.node_program("tsc"))
            .env("LOOPY_TEST_CLAUDE", self.tools.claude())
            .env("LOOPY_TEST_CODEX", self.tools.codex())
            .env("LOOPY_TEST_OPENCODE", self.tools.opencode())
            .env("LOOPY_TEST_WEBHOOKS", self.tools.webhooks())
            .env("LOOPY_TEST_DOCKER", self.docker.host());
        if let Some(here) = self.here {
            command.env("LOOPY_TEST_HERE", here);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen_of(args: &[&str]) -> Vec<String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        chosen(&args, &["--workspace"])
    }

    #[test]
    fn everything_runs_unless_packages_are_named() {
        assert_eq!(chosen_of(&[]), ["--workspace"]);
        assert_eq!(chosen_of(&["retry"]), ["--workspace", "retry"]);
        assert_eq!(chosen_of(&["-p", "loopy-engine"]), ["-p", "loopy-engine"]);
        assert_eq!(chosen_of(&["--package=xtask"]), ["--package=xtask"]);
    }
}
