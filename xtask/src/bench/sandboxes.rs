//! What a sandbox costs a step: a `command` step that does nothing, as a process of
//! this machine and in a container of an image that is there already. Beside each
//! stands the bare thing that it cannot do without, and its limit. And what the runner
//! takes of memory.

use super::handoff::{Chain, answer, write_project};
use super::{loopy, median, memory, ms, percentile, print_table};
use crate::docker::{Docker, IMAGE};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use jiff::Timestamp;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 4;
const PEER_SAMPLES: usize = 20;
const CHAIN: Chain = Chain {
    event: "Go",
    steps: 8,
};
/// What a process may take beyond its bare shell.
const LOCAL_LIMIT: Duration = Duration::from_millis(30);
/// What a whole step in a container may take.
const DOCKER_LIMIT: Duration = Duration::from_millis(700);

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let loopy = loopy(workspace)?;
    let docker = Docker::start(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    let bare_shell = time(Command::new("/bin/sh").args(["-c", "true"]))?;
    let bare_run = time(
        Command::new("docker")
            .args(["--host", &docker.host(), "run", "--rm", IMAGE, "true"])
            .stdout(Stdio::null()),
    )?;
    let sealed = format!("docker, image: {{ base: \"{IMAGE}\" }}, network: [example.com]");
    let open = format!("docker, image: {{ base: \"{IMAGE}\" }}");
    let mut rows = Vec::new();
    for (name, sandbox, peer, bare, limit) in [
        ("local", "local", "sh", bare_shell, bare_shell + LOCAL_LIMIT),
        ("docker", &open, "docker run", bare_run, DOCKER_LIMIT),
        (
            "docker, network",
            &sealed,
            "docker run",
            bare_run,
            DOCKER_LIMIT,
        ),
    ] {
        let project = folder.path().join(name.replace(", ", "-"));
        write_project(&project, sandbox, &[CHAIN])?;
        let steps = steps(&loopy, &project, &docker)?;
        let middle = median(steps.clone());
        rows.push(vec![
            name.to_owned(),
            ms(middle),
            ms(percentile(steps, 95)),
            peer.to_owned(),
            ms(bare),
            format!("{:.1}", middle.as_secs_f64() / bare.as_secs_f64()),
            ms(limit),
            if middle <= limit { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    print_table(
        &format!(
            "a `command` step that does nothing, {} of each",
            RUNS * CHAIN.steps
        ),
        &[
            "sandbox",
            "median",
            "p95",
            "beside it",
            "median",
            "ratio",
            "limit",
            "holds",
        ],
        &rows,
    );
    memory::run(workspace, &loopy, folder.path())
}

/// How long each step took, from its start to its success. The first run warms up.
fn steps(loopy: &Path, project: &Path, docker: &Docker) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    for n in 0..=RUNS {
        let field = format!("n={n}");
        let mut trigger = Command::new(loopy);
        trigger
            .arg("trigger")
            .arg(project)
            .args(["--event", "Go", "--field", &field, "--json"])
            .env("DOCKER_HOST", docker.host());
        let answer = answer(&mut trigger)?;
        let run = &answer["runs"][0];
        if n > 0 {
            times.append(&mut read(run)?);
        }
    }
    Ok(times)
}

fn read(run: &Value) -> Result<Vec<Duration>, Error> {
    let moments = |kind: &str| -> Vec<Timestamp> {
        let lines = run["history"].as_array().into_iter().flatten();
        lines
            .filter(|line| line["kind"] == kind)
            .filter_map(|line| line["at"].as_str()?.parse().ok())
            .collect()
    };
    let (started, succeeded) = (moments("step_started"), moments("step_succeeded"));
    if started.len() != CHAIN.steps || succeeded.len() != CHAIN.steps {
        return Err(Error::Answer {
            command: "loopy trigger".to_owned(),
            problem: format!("not every step started and succeeded once, in {run}"),
        });
    }
    Ok(started
        .into_iter()
        .zip(succeeded)
        .map(|(from, to)| Duration::try_from(to.duration_since(from)).unwrap_or_default())
        .collect())
}

fn time(command: &mut Command) -> Result<Duration, Error> {
    let mut samples = Vec::new();
    for _ in 0..PEER_SAMPLES {
        let begun = Instant::now();
        process::run(command)?;
        samples.push(begun.elapsed());
    }
    Ok(median(samples))
}
