//! How long `loopy compile --check` takes on a large project, and with how much
//! memory. The limits are the project's own promise.

use super::{loopy, median, ms, print_table};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WORKFLOWS: usize = 1000;
const STEPS: usize = 5;
const SAMPLES: usize = 11;
const TIME_LIMIT: Duration = Duration::from_millis(150);
const MEMORY_LIMIT_KB: u64 = 60 * 1024;

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let loopy = loopy(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    write_project(folder.path())?;

    let compile = || {
        let mut command = Command::new(&loopy);
        command.arg("compile").arg(folder.path()).arg("--check");
        command
    };
    let version = || {
        let mut command = Command::new(&loopy);
        command.arg("--version");
        command
    };
    // Once with its output, so that a project that does not compile is seen.
    process::run_beside(&mut compile())?;
    let mut times = Vec::new();
    let mut version_times = Vec::new();
    for _ in 0..SAMPLES {
        times.push(time(&mut compile())?);
        version_times.push(time(&mut version())?);
    }
    let time = median(times);
    let memory = peak_memory_kb(&mut compile())?;
    let of_limit = |ratio: f64| format!("{ratio:.2} of the limit");
    print_table(
        &format!("compile, {WORKFLOWS} workflows x {STEPS} steps, median of {SAMPLES} processes"),
        &["what", "measured", "limit", "ratio"],
        &[
            vec![
                "loopy compile --check".to_owned(),
                ms(time),
                ms(TIME_LIMIT),
                of_limit(time.as_secs_f64() / TIME_LIMIT.as_secs_f64()),
            ],
            vec![
                "its peak memory".to_owned(),
                format!("{:.1} MB", memory as f64 / 1024.0),
                format!("{} MB", MEMORY_LIMIT_KB / 1024),
                of_limit(memory as f64 / MEMORY_LIMIT_KB as f64),
            ],
            vec!["loopy --version".to_owned(), ms(median(version_times))],
        ],
    );
    Ok(())
}

/// A project of chains: each step reads what the one before it put out, and the last
/// step of every other workflow emits the event that starts the next.
fn write_project(root: &Path) -> Result<(), Error> {
    let write =
        |path: &Path, content: &str| std::fs::write(path, content).map_err(Error::file(path));
    let mut registry = String::from(
        "sandboxes:\n  Box:\n    provider: local\nagents:\n  Worker:\n    harness: command\n    sandbox: Box\nevents:\n",
    );
    for workflow in 0..WORKFLOWS {
        registry.push_str(&format!(
            "  Event{workflow}:\n    title: str\n    count: int\n"
        ));
        let folder = root.join(format!("workflows/flow-{workflow:04}"));
        std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        for step in 0..STEPS {
            let begin = match step {
                0 => format!("on: Event{workflow}"),
                _ => format!("after: step-{}", step - 1),
            };
            let emits = if step == STEPS - 1 && workflow % 2 == 0 && workflow + 1 < WORKFLOWS {
                format!("emits: Event{}\n", workflow + 1)
            } else {
                String::new()
            };
            let input = match step {
                0 => "{{ event.title }} {{ event.count }}".to_owned(),
                _ => format!("{{{{ step-{}.summary }}}} {{{{ event.title }}}}", step - 1),
            };
            write(
                &folder.join(format!("step-{step}.md")),
                &format!(
                    "---\n{begin}\nagent: Worker\noutput:\n  summary: str\n  verdict: enum[pass, fail]\n  \
                     notes: list[str]\n{emits}---\nprintf '%s' {input} > summary.txt\n"
                ),
            )?;
        }
    }
    write(&root.join("registry.yml"), &registry)
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// Wall-clock time of one whole process.
fn time(command: &mut Command) -> Result<Duration, Error> {
    let begin = Instant::now();
    process::run(quiet(command))?;
    Ok(begin.elapsed())
}

/// The most memory the process held, in KB: the kernel's high-water mark, read every
/// millisecond until the process is over. It only ever grows, so just what is taken
/// in the last millisecond can be missed.
fn peak_memory_kb(command: &mut Command) -> Result<u64, Error> {
    let mut child = quiet(command)
        .spawn()
        .map_err(|source| process::start(command, source))?;
    let status_path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        if let Ok(status) = std::fs::read_to_string(&status_path) {
            peak = peak.max(high_water_kb(&status).unwrap_or(0));
        }
        let ended = child
            .try_wait()
            .map_err(|source| process::start(command, source))?;
        match ended {
            Some(status) if status.success() => return Ok(peak),
            Some(status) => {
                return Err(Error::Failed {
                    command: process::line(command),
                    status,
                });
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn high_water_kb(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_project_has_all_workflows_and_steps() {
        let folder = tempfile::tempdir().unwrap();
        write_project(folder.path()).unwrap();
        let workflows: Vec<_> = std::fs::read_dir(folder.path().join("workflows"))
            .unwrap()
            .collect();
        assert_eq!(workflows.len(), WORKFLOWS);
        let last = folder.path().join("workflows/flow-0998/step-4.md");
        let content = std::fs::read_to_string(last).unwrap();
        assert!(content.contains("after: step-3\n"), "{content}");
        assert!(content.contains("emits: Event999\n"), "{content}");
        assert!(content.contains("{{ step-3.summary }}"), "{content}");
    }

    #[test]
    fn peak_memory_is_the_process_own() {
        // 64 MiB in one string, held for a moment.
        let mut small = Command::new("sleep");
        small.arg("0.2");
        let mut large = Command::new("sh");
        large.args([
            "-c",
            "x=$(head -c 67108864 /dev/zero | tr '\\0' a); sleep 0.2",
        ]);
        let small = peak_memory_kb(&mut small).unwrap();
        let large = peak_memory_kb(&mut large).unwrap();
        assert!(small > 100 && small < 20_000, "{small}");
        assert!(large > 65_536, "{large}");
    }

    #[test]
    fn a_process_that_fails_is_an_error() {
        assert!(peak_memory_kb(&mut Command::new("false")).is_err());
        assert!(time(&mut Command::new("false")).is_err());
    }
}
