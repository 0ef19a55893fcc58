//! The processes of one attempt: starts them, and ends all of them with all
//! they started, however far those have gone.
//!
//! On Linux the runner makes itself the parent of orphans, so a process that
//! detaches itself in a session of its own is still a descendant. Each process
//! carries [`MARKER`] as well, so that one that was handed on can be found.

use loopy_contract::report::Limits;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

/// The variable that every process of an attempt carries:
/// `<run>/<step>/<attempt>/<process id of the runner>`. The last part keeps apart
/// two engines on one machine that run the same run.
pub(crate) const MARKER: &str = "LOOPY_ATTEMPT_PROCESS";

/// Time between the polite signal and the one that cannot be refused.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two looks at what is left.
const LOOK: Duration = Duration::from_millis(50);
/// How long output is still read once every process is gone.
const DRAIN: Duration = Duration::from_secs(2);
/// Time between two looks at what the processes take.
const WATCH: Duration = Duration::from_millis(500);
/// Rounds of SIGSTOP before those that go on to start others are killed.
const STOP_ROUNDS: u32 = 50;
/// Rounds of SIGKILL before giving up on a process stuck in the kernel.
const KILL_ROUNDS: u32 = 100;
/// Bytes, as people count memory.
const MB: u64 = 1024 * 1024;
/// Bytes kept of the end of each stream, at least.
const KEPT: usize = 64 * 1024;
/// Bytes of the longest `/proc/<pid>/stat`: 52 numbers and a name of 64 bytes.
const LONGEST_STAT: usize = 2048;
/// Bytes of the longest line; a longer one is taken in parts.
const LONGEST_LINE: u64 = 16 * 1024 * 1024;

/// Starts and ends the attempt's processes.
pub(crate) struct Processes {
    marker: String,
    /// When this process was started, in the kernel's ticks. All it started, and
    /// all they started, are no older.
    since: u64,
    /// The group of the process that runs now.
    group: Cell<Option<Pid>>,
    /// Nothing was started since all that there was had gone.
    none: Cell<bool>,
}

/// How a process ended.
pub(crate) struct Ended {
    /// Its status.
    pub(crate) status: ExitStatus,
    /// The end of its stdout.
    pub(crate) stdout: String,
    /// The end of its stderr.
    pub(crate) stderr: String,
}

impl Ended {
    /// `ended with code 3` or `was ended by signal 9`.
    pub(crate) fn how(&self) -> String {
        use std::os::unix::process::ExitStatusExt;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended without a code".to_owned(),
        }
    }

    /// The end of what it said, stderr first, for a message.
    pub(crate) fn last_words(&self) -> &str {
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        said.trim()
    }
}

impl Processes {
    /// Processes of one attempt.
    pub(crate) fn new(run: &str, step: &str, attempt: u32) -> Self {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(
                "cannot adopt orphans, detached processes may outlive the attempt: {error}"
            );
        }
        let marker = format!("{run}/{step}/{attempt}/{}", std::process::id());
        let own = State::of(std::process::id().to_string().as_ref());
        Self {
            marker,
            since: own.map_or(0, |state| state.started),
            group: Cell::new(None),
            none: Cell::new(true),
        }
    }

    /// Runs `command` to its end in a process group of its own with `stdin` as
    /// its input, and ends whatever it leaves behind. `on_line` sees each line
    /// of its stdout, `on_error` each of its stderr.
    ///
    /// # Errors
    /// The process cannot be started or waited for.
    pub(crate) async fn run(
        &self,
        mut command: Command,
        stdin: &[u8],
        mut on_line: impl FnMut(&[u8]),
        mut on_error: impl FnMut(&[u8]),
    ) -> std::io::Result<Ended> {
        command
            .env(MARKER, &self.marker)
            .stdin(if stdin.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        self.none.set(false);
        let mut child = command.spawn()?;
        self.group.set(
            child
                .id()
                .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
        );

        let input = child.stdin.take();
        let output = child.stdout.take();
        let errors = child.stderr.take();
        let (mut kept_output, mut kept_errors) = (Vec::new(), Vec::new());
        let status = {
            let write = async {
                if let Some(mut input) = input {
                    // A process that ends without reading all of its input is
                    // no error here; its status tells.
                    if let Err(error) = input.write_all(stdin).await {
                        tracing::debug!("the process did not read all of its input: {error}");
                    }
                }
            };
            let exchange = async {
                tokio::join!(
                    write,
                    read(output, &mut kept_output, &mut on_line),
                    read(errors, &mut kept_errors, &mut on_error),
                )
            };
            tokio::pin!(exchange);
            tokio::select! {
                status = child.wait() => {
                    let status = status?;
                    // What it left in the background may hold the streams open.
                    self.end_all().await;
                    if timeout(DRAIN, exchange).await.is_err() {
                        tracing::warn!("a stream stayed open after its process was gone");
                    }
                    status
                }
                _ = &mut exchange => {
                    let status = child.wait().await?;
                    self.end_all().await;
                    status
                }
            }
        };
        self.group.set(None);
        Ok(Ended {
            status,
            stdout: String::from_utf8_lossy(&kept_output).into_owned(),
            stderr: String::from_utf8_lossy(&kept_errors).into_owned(),
        })
    }

    /// Whether the process that runs now has others at work that are not programs
    /// of `tool` itself (its own helpers, or the binary behind a wrapper script).
    /// Where that cannot be seen it may be so.
    pub(crate) fn runs_commands(&self, tool: &str) -> bool {
        if cfg!(not(target_os = "linux")) {
            return true;
        }
        let is_of_tool = |pid: &Pid| {
            let program = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            program.is_ok_and(|path| {
                path.file_name().is_some_and(|name| {
                    let name = name.to_string_lossy();
                    name.trim_start_matches('.').starts_with(tool)
                })
            })
        };
        let first = self.group.get();
        self.left()
            .iter()
            .any(|pid| Some(*pid) != first && !is_of_tool(pid))
    }

    /// Ends every process of the attempt: SIGTERM, five seconds, SIGKILL.
    pub(crate) async fn end_all(&self) {
        if !self.none.get() {
            // A process that forks and ends while the list is read may slip
            // through, yet whoever descends from here has an ancestor that is a
            // child of this one.
            self.none.set(self.all_ended().await && is_childless());
        }
    }

    /// Ends what there is; whether all of it went.
    async fn all_ended(&self) -> bool {
        if !self.signal(Signal::TERM) {
            return true;
        }
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience {
            sleep(LOOK).await;
            if !self.any_left() {
                return true;
            }
        }
        for _ in 0..KILL_ROUNDS {
            if !self.signal(Signal::KILL) {
                return true;
            }
            sleep(LOOK).await;
        }
        tracing::warn!("some processes of the attempt could not be ended");
        false
    }

    /// Watches what the processes take. Ends when it is more than `limits`, with what is
    /// too much.
    pub(crate) async fn exceed(&self, limits: &Limits) -> String {
        if *limits == Limits::default() {
            return std::future::pending().await;
        }
        loop {
            sleep(WATCH).await;
            if self.none.get() {
                continue;
            }
            if let Some(why) = too_much(&self.found(), limits) {
                return why;
            }
        }
    }

    /// Kills every process of the attempt, without a warning. They are stopped first, as those that
    /// start others faster than they are found would never all be gone.
    pub(crate) async fn kill_all(&self) {
        let mut stopped = BTreeSet::new();
        for _ in 0..STOP_ROUNDS {
            let before = stopped.len();
            for pid in self.left() {
                if stopped.insert(pid.as_raw_nonzero()) && kill_process(pid, Signal::STOP).is_err()
                {
                    tracing::debug!("process {} had ended", pid.as_raw_nonzero());
                }
            }
            if stopped.len() == before {
                break;
            }
        }
        for _ in 0..KILL_ROUNDS {
            if !self.signal(Signal::KILL) {
                return;
            }
            sleep(LOOK).await;
        }
    }

    /// Sends `signal` to all that is left; false when nothing is.
    fn signal(&self, signal: Signal) -> bool {
        let group = self.group.get();
        let in_group = group.is_some_and(|group| kill_process_group(group, signal).is_ok());
        if cfg!(not(target_os = "linux")) {
            return in_group;
        }
        let left = self.left();
        for pid in &left {
            // It may have ended by itself meanwhile, or belong to another user.
            if let Err(error) = kill_process(*pid, signal) {
                tracing::debug!(pid = pid.as_raw_nonzero().get(), "not signalled: {error}");
            }
        }
        !left.is_empty()
    }

    fn any_left(&self) -> bool {
        if cfg!(target_os = "linux") {
            return !self.left().is_empty();
        }
        self.group
            .get()
            .is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }

    fn left(&self) -> Vec<Pid> {
        self.found().into_iter().map(|(pid, _)| pid).collect()
    }

    /// The living processes that descend from this one or carry the marker.
    fn found(&self) -> Vec<(Pid, State)> {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let mut young = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            // A process that ends while it is looked at is simply gone.
            if let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok())
                && let Some(state) = State::of(&name)
                && state.started >= self.since
            {
                young.insert(pid, state);
            }
        }
        let descends = |mut pid: i32| {
            // Bounded by the number of processes: no endless walk on a torn view.
            for _ in 0..young.len() {
                match young.get(&pid) {
                    Some(state) if state.parent == own => return true,
                    Some(state) => pid = state.parent,
                    None => return false,
                }
            }
            false
        };
        young
            .iter()
            .filter(|(pid, state)| {
                **pid != own && state.alive && (descends(**pid) || self.is_marked(**pid))
            })
            .filter_map(|(pid, state)| Some((Pid::from_raw(*pid)?, *state)))
            .collect()
    }

    fn is_marked(&self, pid: i32) -> bool {
        std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|variable| {
                variable
                    .strip_prefix(MARKER.as_bytes())
                    .and_then(|rest| rest.strip_prefix(b"="))
                    .is_some_and(|value| value == self.marker.as_bytes())
            })
        })
    }
}

/// What the processes take more of than they may.
fn too_much(found: &[(Pid, State)], limits: &Limits) -> Option<String> {
    let processes = u32::try_from(found.len()).unwrap_or(u32::MAX);
    if let Some(limit) = limits.processes.filter(|limit| processes > *limit) {
        return Some(format!(
            "the step has {processes} processes, more than the {limit} it may have"
        ));
    }
    let limit = limits.memory?;
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let whole = |state: &State| state.pages.saturating_mul(page);
    // At the most, as pages that several have count once for each. What they take for
    // sure takes the kernel longer to say.
    let at_most: u64 = found.iter().map(|(_, state)| whole(state)).sum();
    if at_most <= limit {
        return None;
    }
    let shares = found
        .iter()
        .map(|(pid, state)| share(*pid).unwrap_or_else(|| whole(state)));
    let taken: u64 = shares.sum();
    (taken > limit).then(|| {
        format!(
            "the step's processes take {} MB of memory, more than the {} MB that \
             `image.memory` gives them",
            taken / MB,
            limit / MB
        )
    })
}

/// Bytes of memory of one process; what it shares with others counts in part.
fn share(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let said = std::fs::read_to_string(path).ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Whether this process has no children, adopted ones and dead ones included.
fn is_childless() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, look), Err(Errno::CHILD))
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Clone, Copy)]
struct State {
    parent: i32,
    alive: bool,
    /// In ticks since the machine booted.
    started: u64,
    /// Pages of memory, those included that others have too.
    pages: u64,
}

impl State {
    /// That of the process whose number is `pid`.
    fn of(pid: &OsStr) -> Option<Self> {
        // The kernel hands the whole line to one read that has room for it, and
        // an attempt waits for the lines of all processes to be read.
        let mut line = [0; LONGEST_STAT];
        let mut file = File::open(Path::new("/proc").join(pid).join("stat")).ok()?;
        let bytes = file.read(&mut line).ok()?;
        Self::parse(&String::from_utf8_lossy(line.get(..bytes)?))
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        // The 22nd field of the line is the 18th after these.
        let started = fields.nth(17)?.parse().ok()?;
        let pages = fields.nth(1)?.parse().ok()?;
        Some(Self {
            parent,
            alive: !matches!(state, "Z" | "X" | "x"),
            started,
            pages,
        })
    }
}

/// Reads a stream to its end; shows each line and keeps the last of them.
async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
    on_line: &mut dyn FnMut(&[u8]),
) {
    let Some(stream) = stream else { return };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) => return,
            Ok(_) => {
                on_line(&line);
                kept.extend_from_slice(&line);
                if kept.len() > 2 * KEPT {
                    kept.drain(..kept.len() - KEPT);
                }
            }
            Err(error) => {
                tracing::warn!("cannot read what the process says: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_process_name_may_hold_parentheses() {
        let rest = "40 41 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 4096 321 0";
        let state = State::parse(&format!("12 (a) (b) c) S 7 {rest}")).unwrap();
        let read = (state.parent, state.alive, state.started, state.pages);
        assert_eq!(read, (7, true, 98765, 321));
        assert!(
            !State::parse(&format!("12 (gone) Z 7 {rest}"))
                .unwrap()
                .alive
        );
    }
}
