//! The provider `local`: the runner is a process of this machine, in a session
//! of its own, and outlives the engine. Linux only, for it reads `/proc`.
//!
//! Below the state directory, `sandboxes/<client token>/` holds `record.json`
//! (which process the runner is), `runner.log` (what it printed) and `work`
//! (the workspace, removed when the sandbox is stopped).
//!
//! # Once, whatever dies when
//!
//! An attempt's runner must not be started twice, though the engine may be
//! killed at any instruction of a launch and the launch then be asked for again.
//! So the process introduces itself: what is spawned is a line of shell that
//! writes its own number and start time into the record (a rename, so the
//! record is whole or absent) and then *becomes* the runner by `exec`, which
//! changes neither. The launcher holds a lock on a file meanwhile:
//!
//! * A record means: started once; never again. Whether the process still
//!   lives is for `state` to say.
//! * No record, but a process whose environment names this workspace: an
//!   earlier launcher died and the process is about to introduce itself. Wait.
//! * Neither: nothing was started. The lock makes this sure: a forked child
//!   shares it until its `exec`, so whoever gets the lock finds every earlier
//!   child either dead or with its environment in place.
//! * No log either: nobody has come as far as to start anything. The log is
//!   made under the lock, before the process. So the usual launch, the first,
//!   need not search the processes of this machine.
//!
//! A sandbox can be stopped before it is launched, by an engine that has seen its
//! attempt end meanwhile. Then the file `stopped` keeps a launch that comes later
//! from starting anything.

use crate::mirrors::Mirrors;
use crate::processes::{self, Process};
use crate::{attempt_name, image, launch_variables};
use async_trait::async_trait;
use loopy_contract::manifest::Sandbox;
use loopy_contract::report::{Limits, launch_env};
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, PortError, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, kill_process_group, prlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The provider's name in `registry.yml`.
pub const NAME: &str = "local";

/// A `PATH` that holds nothing of the user's.
pub const PLAIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long the runner may take to end its harness once asked to.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long killed processes may take to go.
const KILL_WAIT: Duration = Duration::from_secs(3);
/// How long a spawned process may take to introduce itself.
const INTRODUCTION_WAIT: Duration = Duration::from_secs(5);
/// Between two looks at the same thing.
const LOOK: Duration = Duration::from_millis(20);
/// Before the second look at what should be there at once; doubled up to [`LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(2);

/// Processes of one sandbox.
const PROCESSES: u32 = 2048;
const GB: u64 = 1024 * 1024 * 1024;

/// The introduction: `$1` is the record, the rest the runner's command line.
const INTRODUCE: &str = r#"read -r stat </proc/$$/stat &&
read -r boot </proc/sys/kernel/random/boot_id &&
printf '{"boot":"%s","stat":"%s"}\n' "$boot" "$stat" >"$1.tmp" &&
mv "$1.tmp" "$1" || exit 125
shift
exec "$@""#;

/// How local sandboxes are made.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The state directory; sandboxes are in `sandboxes/` below it.
    pub state: PathBuf,
    /// The runner's command line; the program is an absolute path.
    pub runner: Vec<String>,
    /// Where runners report: a URL, or `file:///path` of a file that holds it.
    pub report_url: String,
    /// The runner's `PATH`, usually [`PLAIN_PATH`]. It must hold `setsid`, `sh`
    /// and `mv`, which start the runner.
    pub path: String,
}

/// The provider.
#[derive(Clone, Debug)]
pub struct Local {
    config: LocalConfig,
    mirrors: Option<Mirrors>,
}

impl Local {
    /// A provider with this configuration; nothing is touched yet.
    pub fn new(config: LocalConfig) -> Self {
        Self {
            config,
            mirrors: None,
        }
    }

    /// With mirrors of repositories for clones to begin with.
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: Mirrors) -> Self {
        self.mirrors = Some(mirrors);
        self
    }

    /// Where the runner finds mirrors, if there are any.
    fn mirrors(&self, sandbox: &Sandbox) -> Option<PathBuf> {
        let mirrors = self.mirrors.as_ref()?;
        (!mirrors.present(sandbox).is_empty()).then(|| mirrors.folder(sandbox))
    }

    fn place(&self, token: &str) -> Result<Place, String> {
        // The token becomes a directory name.
        let fits = !token.is_empty()
            && token.len() <= 64
            && token
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(format!(
                "`{token}` is not the id of a local sandbox ([a-z0-9-], 64 at most)"
            ));
        }
        let state = std::path::absolute(&self.config.state)
            .map_err(|error| format!("{}: {error}", self.config.state.display()))?;
        Ok(Place {
            directory: state.join("sandboxes").join(token),
        })
    }

    /// Blocks for as long as the process needs to introduce itself.
    fn start(&self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        let place = self
            .place(&spec.client_token)
            .map_err(LaunchError::Refused)?;
        let trouble = |error: io::Error| {
            PortError::new(
                format!("start a local sandbox in {}", place.directory.display()),
                error,
            )
        };
        let _lock = place.lock().map_err(trouble)?;

        if place.record().map_err(trouble)?.is_some() || place.stopped().exists() {
            return Ok(());
        }
        if place.log().exists() && place.introducing().map_err(trouble)? {
            return Ok(place.wait_for_record(|| Ok(None)).map_err(trouble)?);
        }

        let program = self
            .config
            .runner
            .first()
            .map(PathBuf::from)
            .unwrap_or_default();
        if !program.is_absolute() || !program.is_file() {
            return Err(LaunchError::Refused(format!(
                "the runner `{}` is not a file with an absolute path; the local sandbox can't start it",
                program.display()
            )));
        }
        place.warn_of_limits(spec);
        let (limits, cores) = (limits(spec)?, amount(spec, "cpu")?);
        let log = private_file(&place.log()).map_err(trouble)?;
        // With their paths: where the program has to be looked for in another
        // `PATH` than the engine's own, all of the engine's memory is forked.
        let mut command = tokio::process::Command::new(self.program("setsid"));
        command
            .arg(self.program("sh"))
            .args(["-c", INTRODUCE, "loopy-runner"])
            .arg(place.record_path())
            .args(&self.config.runner)
            .env_clear()
            .env("PATH", &self.config.path)
            .env(launch_env::WORKSPACE, place.workspace())
            .envs(launch_variables(spec, &self.config.report_url))
            .envs(
                self.mirrors(&spec.sandbox)
                    .map(|path| (launch_env::MIRRORS, path)),
            )
            .env(launch_env::LIMITS, limits)
            .current_dir(&place.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(trouble)?)
            .stderr(log)
            .kill_on_drop(false);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LaunchError::Refused(format!(
                "a local sandbox needs `setsid` (of util-linux or busybox), and it is not in {}",
                self.config.path
            )),
            _ => trouble(error).into(),
        })?;
        if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
            restrict(pid, cores, spec);
        }
        let introduced = place.wait_for_record(|| child.try_wait());
        // Someone has to take note of the child's end, or it stays a zombie.
        tokio::spawn(async move { child.wait().await });
        introduced.map_err(trouble)?;
        tracing::info!(
            sandbox = spec.client_token,
            "started the runner for {}",
            attempt_name(spec)
        );
        Ok(())
    }

    /// Where the runner's `PATH` has `name`; `name` itself if nowhere.
    fn program(&self, name: &str) -> PathBuf {
        std::env::split_paths(&self.config.path)
            .map(|folder| folder.join(name))
            .find(|path| path.is_absolute() && path.is_file())
            .unwrap_or_else(|| PathBuf::from(name))
    }

    /// Blocks until all processes are gone.
    fn end(&self, id: &str) -> Result<(), PortError> {
        let what = || format!("stop local sandbox {id}");
        let place = self.place(id).map_err(|why| PortError::new(what(), why))?;
        place
            .forbid()
            .and_then(|()| place.kill())
            .map_err(|error| PortError::new(what(), error))?;
        remove_tree(&place.workspace()).map_err(|error| {
            PortError::new(
                what(),
                format!("remove {}: {error}", place.workspace().display()),
            )
        })
    }

    fn look(&self, id: &str) -> Result<SandboxState, PortError> {
        let what = || format!("look after local sandbox {id}");
        let place = self.place(id).map_err(|why| PortError::new(what(), why))?;
        place.state().map_err(|error| PortError::new(what(), error))
    }
}

#[async_trait]
impl Sandboxes for Local {
    async fn launch(&self, spec: &LaunchSpec) -> Result<Launch, LaunchError> {
        if let Some(mirrors) = &self.mirrors
            && let Some(later) = mirrors.prepare(spec).await
        {
            return Ok(Launch::Pending(later));
        }
        let (this, spec) = (self.clone(), spec.clone());
        blocking("start a local sandbox", move || this.start(&spec))
            .await?
            .map(|()| Launch::Started)
    }

    async fn stop(&self, sandbox: &SandboxRef) -> Result<(), PortError> {
        if let Some(mirrors) = &self.mirrors {
            mirrors.forget(&sandbox.id);
        }
        let (this, id) = (self.clone(), sandbox.id.clone());
        blocking("stop a local sandbox", move || this.end(&id)).await?
    }

    async fn state(&self, sandbox: &SandboxRef) -> Result<SandboxState, PortError> {
        let awaits = |mirrors: &Mirrors| mirrors.awaited_by(&sandbox.id);
        if self.mirrors.as_ref().is_some_and(awaits) {
            return Ok(SandboxState::Alive);
        }
        let (this, id) = (self.clone(), sandbox.id.clone());
        blocking("look after a local sandbox", move || this.look(&id)).await?
    }
}

/// What the runner is to see to.
fn limits(spec: &LaunchSpec) -> Result<String, LaunchError> {
    let memory = amount(spec, "memory")?;
    let limits = Limits {
        memory: memory.map(|memory| u64::from(memory) * GB),
        processes: Some(PROCESSES),
    };
    serde_json::to_string(&limits)
        .map_err(|error| PortError::new("write the limits of a local sandbox", error).into())
}

fn amount(spec: &LaunchSpec, key: &str) -> Result<Option<u32>, LaunchError> {
    image::amount(&spec.sandbox.image, key)
        .map_err(|why| LaunchError::Refused(format!("sandbox `{}`: {why}", spec.name)))
}

/// Takes from a runner that was just started, and so from all that it will start, what
/// the kernel can take from processes of any user: dumps of their memory, and cores.
fn restrict(pid: Pid, cores: Option<u32>, spec: &LaunchSpec) {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let mut done = prlimit(Some(pid), Resource::Core, none).map(|_| ());
    if let Some(cores) = cores {
        done = done.and(pin(pid, cores, &spec.client_token));
    }
    match done {
        // It may have ended already, which shows elsewhere.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => {
            tracing::warn!(sandbox = %spec.name, "it is less limited than it was to be: {error}")
        }
    }
}

/// Lets a process run on so many of the cores that this one has; on which of them
/// depends on `token`, so that not all sandboxes have the same.
fn pin(pid: Pid, cores: u32, token: &str) -> rustix::io::Result<()> {
    let all = sched_getaffinity(None)?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&n| all.is_set(n)).collect();
    let first = token.bytes().fold(0, |sum: usize, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    let wanted = usize::try_from(cores).unwrap_or(usize::MAX);
    let mut own = CpuSet::new();
    let from = all.iter().cycle().skip(first % all.len().max(1));
    from.take(all.len().min(wanted)).for_each(|&n| own.set(n));
    sched_setaffinity(Some(pid), &own)
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PortError::new(what, error))
}

/// The directory of one sandbox.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn record_path(&self) -> PathBuf {
        self.directory.join("record.json")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("runner.log")
    }

    fn workspace(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Says that the sandbox was stopped before a runner was started.
    fn stopped(&self) -> PathBuf {
        self.directory.join("stopped")
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join("lock")
    }

    /// Holds off others that launch or stop this sandbox, until dropped.
    fn lock(&self) -> io::Result<File> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let lock = private_file(&self.lock_path())?;
        lock.lock()?;
        Ok(lock)
    }

    /// Sees to it that no launch that comes later starts a runner.
    fn forbid(&self) -> io::Result<()> {
        let _lock = self.lock()?;
        if self.record()?.is_none() {
            private_file(&self.stopped())?;
        }
        Ok(())
    }

    fn state(&self) -> io::Result<SandboxState> {
        let alive = match self.record()? {
            Some(record) => record.leader()?.is_some_and(|process| !process.ended),
            // A launch makes the directory before anything else.
            None if !self.directory.exists() => false,
            // Without a record a launch may be at work this very moment.
            None => self.locked()? || self.introducing()?,
        };
        Ok(if alive {
            SandboxState::Alive
        } else {
            SandboxState::Gone
        })
    }

    /// Whether somebody is launching or stopping it.
    fn locked(&self) -> io::Result<bool> {
        match File::open(self.lock_path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            // Shared, so that those who only look do not hold off each other.
            Ok(lock) => match lock.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error),
            },
        }
    }

    /// What every process of this sandbox has in its environment, unless it
    /// took care to drop it.
    fn mark(&self) -> String {
        format!("{}={}", launch_env::WORKSPACE, self.workspace().display())
    }

    fn record(&self) -> io::Result<Option<Record>> {
        match fs::read(self.record_path()) {
            Ok(bytes) => Record::parse(&bytes).map(Some).ok_or_else(|| {
                let path = self.record_path();
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is not a record of a process; remove it if you know that its sandbox is gone", path.display()),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a process of an earlier launch is about to write the record.
    fn introducing(&self) -> io::Result<bool> {
        // Twice, for a process in the very act of `exec` shows an empty
        // environment for an instant.
        for look in 0..2 {
            if look > 0 {
                sleep(LOOK);
            }
            let mark = self.mark();
            if processes::all()?
                .iter()
                .any(|p| !p.ended && processes::has_variable(p.pid, &mark))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the process wrote its record; `ended` tells whether it is
    /// over already, if that can be known.
    fn wait_for_record(
        &self,
        mut ended: impl FnMut() -> io::Result<Option<std::process::ExitStatus>>,
    ) -> io::Result<()> {
        let start = Instant::now();
        let mut pause = FIRST_LOOK;
        loop {
            // In this order: a process may write its record, run and end
            // between the two looks.
            let status = ended()?;
            if self.record()?.is_some() {
                return Ok(());
            }
            let log = self.log();
            if let Some(status) = status {
                return Err(io::Error::other(format!(
                    "the process ended before it was ready ({status}); see {}",
                    log.display()
                )));
            }
            if start.elapsed() > INTRODUCTION_WAIT {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "the process did not get ready in {INTRODUCTION_WAIT:?}; see {}",
                        log.display()
                    ),
                ));
            }
            sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    }

    fn warn_of_limits(&self, spec: &LaunchSpec) {
        if !spec.sandbox.network.is_empty() {
            tracing::warn!(
                sandbox = %spec.name,
                "`network` is not enforced: a local sandbox is a process and reaches what this machine reaches"
            );
        }
        let counts = |key: &String| ["cpu", "memory"].contains(&key.as_str());
        if !spec.sandbox.image.keys().all(counts) {
            tracing::warn!(
                sandbox = %spec.name,
                "`image` has no effect but for `cpu` and `memory`: a local sandbox runs with what this machine has installed"
            );
        }
    }

    /// Ends all processes of the sandbox: politely first, then not.
    fn kill(&self) -> io::Result<()> {
        let record = self.record()?;
        let mut crowd = Crowd {
            mark: self.mark(),
            since: record.as_ref().map_or(Ok(0), Record::since)?,
            known: BTreeMap::new(),
        };
        let leader = || match &record {
            Some(record) => record.leader(),
            None => Ok(None),
        };

        let living = crowd.look(leader()?)?;
        if let Some(first) = leader()?.filter(|process| !process.ended) {
            signal_group(first.pid, Signal::TERM)?;
            let asked = Instant::now();
            while leader()?.is_some_and(|process| !process.ended) && asked.elapsed() < STOP_GRACE {
                // Looking on notes the processes that are born meanwhile.
                crowd.look(leader()?)?;
                sleep(LOOK);
            }
            if let Some(last) = leader()?.filter(|process| !process.ended) {
                signal_group(last.pid, Signal::KILL)?;
            }
        } else if living.is_empty() {
            return Ok(());
        }

        let begun = Instant::now();
        loop {
            let living = crowd.look(leader()?)?;
            if living.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > KILL_WAIT {
                let pids: Vec<String> = living.iter().map(ToString::to_string).collect();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes {} do not end", pids.join(", ")),
                ));
            }
            for pid in living {
                signal(pid, Signal::KILL)?;
            }
            sleep(LOOK);
        }
    }
}

/// Which process the runner is.
struct Record {
    boot: String,
    process: Process,
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Stored {
            boot: String,
            stat: String,
        }
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            boot: stored.boot,
            process: processes::parse_stat(&stored.stat)?,
        })
    }

    /// The runner's process if it is still there, as a zombie at least.
    fn leader(&self) -> io::Result<Option<Process>> {
        if !self.is_of_this_boot()? {
            return Ok(None);
        }
        Ok(processes::find(self.process.pid)?
            .filter(|process| process.started == self.process.started))
    }

    /// When the first process of the sandbox was started; what is older is none.
    fn since(&self) -> io::Result<u64> {
        let this_boot = self.is_of_this_boot()?;
        Ok(if this_boot { self.process.started } else { 0 })
    }

    /// Start times count from the boot, so they mean nothing after another.
    fn is_of_this_boot(&self) -> io::Result<bool> {
        Ok(self.boot == processes::boot_id()?)
    }
}

/// The processes of one sandbox, strays that made a session of their own
/// included.
struct Crowd {
    /// `NAME=value` in the environment that gives them away.
    mark: String,
    /// When the first of them was started; what is older cannot be one.
    since: u64,
    /// Start times by number, of all that were ever seen.
    known: BTreeMap<i32, u64>,
}

impl Crowd {
    /// Looks around. Gives back the numbers of those alive.
    ///
    /// A process belongs here when it carries the mark, is in the runner's
    /// session (which counts only while the runner itself is there, for numbers
    /// are used again), descends from one that belongs here, or was seen to.
    fn look(&mut self, leader: Option<Process>) -> io::Result<Vec<i32>> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let mut all = processes::all()?;
        all.retain(|process| process.pid != own && process.started >= self.since);
        let mut belongs: BTreeMap<i32, u64> = all
            .iter()
            .filter(|process| {
                self.known.get(&process.pid) == Some(&process.started)
                    || leader.is_some_and(|leader| process.session == leader.pid)
                    || processes::has_variable(process.pid, &self.mark)
            })
            .map(|process| (process.pid, process.started))
            .collect();
        loop {
            let before = belongs.len();
            for process in &all {
                if belongs.contains_key(&process.parent) {
                    belongs.insert(process.pid, process.started);
                }
            }
            if belongs.len() == before {
                break;
            }
        }
        let living = all
            .iter()
            .filter(|process| !process.ended && belongs.contains_key(&process.pid))
            .map(|process| process.pid)
            .collect();
        self.known.append(&mut belongs);
        Ok(living)
    }
}

fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    match Pid::from_raw(pid).map(|pid| kill_process(pid, signal)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

fn signal_group(pid: i32, signal: Signal) -> io::Result<()> {
    match Pid::from_raw(pid).map(|pid| kill_process_group(pid, signal)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Opens a file that only this user can read, for adding to its end.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Removes a directory with all in it; one that is not there is fine.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Package caches are often written read-only, directories too.
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_record_of_another_boot_names_no_process() {
        let pid = std::process::id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let stored = |boot: &str| {
            serde_json::to_vec(&serde_json::json!({"boot": boot, "stat": stat.trim()})).unwrap()
        };
        let same = Record::parse(&stored(&processes::boot_id().unwrap())).unwrap();
        assert!(same.leader().unwrap().is_some());
        assert!(
            Record::parse(&stored("another"))
                .unwrap()
                .leader()
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn an_id_cannot_leave_the_directory() {
        let local = Local::new(LocalConfig {
            state: "/nowhere".into(),
            runner: Vec::new(),
            report_url: String::new(),
            path: PLAIN_PATH.to_owned(),
        });
        for id in ["", "..", "a/b", "A", "../x"] {
            assert!(local.place(id).is_err(), "{id}");
        }
    }
}
