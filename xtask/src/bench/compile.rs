//! How long `loopy compile` takes on a large project, and with how much memory,
//! beside the Python reference on the very same project. The limits are the
//! project's own promise.

use super::{loopy, median, ms, print_table};
use crate::error::Error;
use crate::process;
use crate::tools;
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const WORKFLOWS: usize = 1000;
pub(super) const STEPS: usize = 5;
const SAMPLES: usize = 11;

/// The reference takes seconds each time.
const REFERENCE_SAMPLES: usize = 3;
const REFERENCE: &str = "loopy-computer==0.2.0";

const COLD_LIMIT: Duration = Duration::from_millis(150);
const UNCHANGED_LIMIT: Duration = Duration::from_millis(30);
const VERSION_LIMIT: Duration = Duration::from_millis(10);
const MEMORY_LIMIT_KB: u64 = 60 * 1024;

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let loopy = loopy(workspace)?;
    let reference = reference(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    write_project(folder.path())?;

    let compile = |options: &[&str]| {
        let mut command = Command::new(&loopy);
        command.arg("compile").arg(folder.path()).args(options);
        command
    };
    let cold = || compile(&["--check", "--no-cache"]);
    // Once with its output, so that a project that does not compile is seen; and
    // it is what the later ones need not do again.
    process::run_beside(&mut compile(&[]))?;
    let cold_time = time(SAMPLES, cold)?;
    let unchanged_time = time(SAMPLES, || compile(&[]))?;
    let version_time = time(SAMPLES, || {
        let mut command = Command::new(&loopy);
        command.arg("--version");
        command
    })?;
    let memory = peak_memory_kb(&mut cold())?;

    let (beside, theirs) = match &reference {
        None => ("no CPython 3.12 or later".to_owned(), None),
        Some(Reference { python, loopy }) => {
            let check = || {
                let mut command = Command::new(loopy);
                command.arg("compile").arg(folder.path()).arg("--check");
                command
            };
            let theirs = (
                time(REFERENCE_SAMPLES, check)?,
                peak_memory_kb(&mut check())?,
            );
            (format!("{REFERENCE}, CPython {python}"), Some(theirs))
        }
    };
    let their_time = theirs.map(|(time, _)| time);
    print_table(
        &format!(
            "compile, {WORKFLOWS} workflows x {STEPS} steps, median of {SAMPLES} processes \
             ({REFERENCE_SAMPLES} of the reference)"
        ),
        &["what", "loopy", "limit", &beside, "ratio"],
        &[
            time_row("compiled cold", cold_time, COLD_LIMIT, their_time),
            vec![
                "its peak memory".to_owned(),
                mb(memory),
                mb(MEMORY_LIMIT_KB),
                theirs.map_or_else(none, |(_, theirs)| mb(theirs)),
                theirs.map_or_else(none, |(_, theirs)| ratio(theirs as f64 / memory as f64)),
            ],
            // The reference keeps nothing: it compiles again.
            time_row(
                "compiled unchanged",
                unchanged_time,
                UNCHANGED_LIMIT,
                their_time,
            ),
            time_row("--version", version_time, VERSION_LIMIT, None),
        ],
    );
    Ok(())
}

fn time_row(what: &str, ours: Duration, limit: Duration, theirs: Option<Duration>) -> Vec<String> {
    vec![
        what.to_owned(),
        ms(ours),
        ms(limit),
        theirs.map_or_else(none, ms),
        theirs.map_or_else(none, |theirs| {
            ratio(theirs.as_secs_f64() / ours.as_secs_f64())
        }),
    ]
}

fn none() -> String {
    "-".to_owned()
}

fn mb(kb: u64) -> String {
    format!("{:.1} MB", kb as f64 / 1024.0)
}

fn ratio(ratio: f64) -> String {
    format!("{ratio:.1} x")
}

/// The Python reference.
struct Reference {
    /// The version of its interpreter.
    python: String,
    /// Its command.
    loopy: PathBuf,
}

/// Installs the reference; `None` when there is no interpreter for it.
fn reference(workspace: &Workspace) -> Result<Option<Reference>, Error> {
    let Some(python) = interpreter() else {
        return Ok(None);
    };
    let version = process::read(
        Command::new(&python).args(["-c", "import platform; print(platform.python_version())"]),
    )?;
    let version = version.trim().to_owned();
    let venv = workspace.tools.join("reference");
    tools::install(&venv, &format!("{REFERENCE} {version}"), || {
        eprintln!("installing {REFERENCE}");
        process::run_beside(Command::new(&python).args(["-m", "venv"]).arg(&venv))?;
        process::run_beside(
            Command::new(venv.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet"])
                .args(["--disable-pip-version-check", REFERENCE]),
        )
    })?;
    Ok(Some(Reference {
        python: version,
        loopy: venv.join("bin/loopy"),
    }))
}

/// An interpreter that the reference runs on, 3.12 before later ones.
fn interpreter() -> Option<PathBuf> {
    let mut candidates = vec![PathBuf::from("python3.12")];
    // pyenv keeps versions that are not on the path.
    let versions = process::quiet_read(Command::new("pyenv").args(["versions", "--bare"]));
    let versions = versions.unwrap_or_default();
    for version in versions.lines().filter(|name| name.starts_with("3.12.")) {
        let prefix = process::quiet_read(Command::new("pyenv").args(["prefix", version]));
        candidates.extend(prefix.map(|prefix| Path::new(prefix.trim()).join("bin/python3")));
    }
    candidates.push(PathBuf::from("python3"));
    candidates.into_iter().find(|python| {
        process::succeeds(Command::new(python).args([
            "-c",
            "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))",
        ]))
    })
}

/// A project of chains that both compilers take without a warning: each step reads
/// all that the one before it put out, and the last step of each workflow emits the
/// event that starts the next.
pub(super) fn write_project(root: &Path) -> Result<(), Error> {
    let write =
        |path: &Path, content: &str| std::fs::write(path, content).map_err(Error::file(path));
    let mut registry = String::from(
        "sandboxes:\n  Box:\n    provider: local\nagents:\n  Worker:\n    \
         harness: claude-code\n    model: claude-sonnet-4-6\n    sandbox: Box\nevents:\n",
    );
    for workflow in 0..WORKFLOWS {
        if workflow > 0 {
            registry.push_str(&format!(
                "  Event{workflow}:\n    title: str\n    count: int\n"
            ));
        }
        let folder = root.join(format!("workflows/flow{workflow:04}"));
        std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        for step in 0..STEPS {
            write(
                &folder.join(format!("step{step}.md")),
                &step_file(workflow, step),
            )?;
        }
    }
    write(&root.join("registry.yml"), &registry)
}

fn step_file(workflow: usize, step: usize) -> String {
    let before = step.saturating_sub(1);
    let (begin, input) = match (workflow, step) {
        (0, 0) => (
            "on: cron(\"0 3 * * *\")".to_owned(),
            "{{ event.scheduled_at }}".to_owned(),
        ),
        (_, 0) => (
            format!("on: Event{workflow}"),
            "{{ event.title }} {{ event.count }}".to_owned(),
        ),
        _ => (
            format!("after: step{before}"),
            ["summary", "verdict", "notes"]
                .map(|field| format!("{{{{ step{before}.{field} }}}}"))
                .join(" "),
        ),
    };
    let end = if step < STEPS - 1 {
        "output:\n  summary: str\n  verdict: enum[pass, fail]\n  \
         notes:\n    type: array\n    items:\n      type: string\n"
            .to_owned()
    } else if workflow < WORKFLOWS - 1 {
        format!("emits: Event{}\n", workflow + 1)
    } else {
        String::new()
    };
    format!("---\n{begin}\nagent: Worker\n{end}---\nSay what follows from {input}.\n")
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// The median of the wall-clock times of whole processes.
pub(super) fn time(samples: usize, command: impl Fn() -> Command) -> Result<Duration, Error> {
    let mut times = Vec::new();
    for _ in 0..samples {
        let mut command = command();
        let begin = Instant::now();
        process::run(quiet(&mut command))?;
        times.push(begin.elapsed());
    }
    Ok(median(times))
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
        let last = folder.path().join("workflows/flow0998/step4.md");
        let content = std::fs::read_to_string(last).unwrap();
        assert!(content.contains("after: step3\n"), "{content}");
        assert!(content.contains("emits: Event999\n"), "{content}");
        assert!(content.contains("{{ step3.summary }}"), "{content}");
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
        assert!(time(1, || Command::new("false")).is_err());
    }
}
