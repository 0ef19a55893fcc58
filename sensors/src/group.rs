//! A process and all that it starts: how much memory they take together, and their end.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// How often the memory of a call's processes is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// One process, as `/proc` has it.
struct Process {
    parent: i32,
    group: i32,
    /// Pages of memory, those included that others have too.
    pages: u64,
}

/// A process group, named by its first process. Killed when dropped.
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// That of a process that was started as the first one of a group.
    pub(crate) fn of(pid: Option<u32>) -> Self {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    /// The bytes of memory that the processes take, if that is more than `limit`.
    pub(crate) fn beyond(&self, limit: u64) -> Option<u64> {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let found = self.processes();
        let whole = |process: &Process| process.pages.saturating_mul(page);
        // At the most, as pages that several have count once for each. What they take
        // for sure takes the kernel longer to say.
        if found.values().map(whole).sum::<u64>() <= limit {
            return None;
        }
        let shares = found
            .iter()
            .map(|(pid, process)| share(*pid).unwrap_or_else(|| whole(process)));
        Some(shares.sum()).filter(|taken| *taken > limit)
    }

    /// The processes of the group, and those that one of them has started since.
    fn processes(&self) -> BTreeMap<i32, Process> {
        let Some(first) = self.0.map(|pid| pid.as_raw_nonzero().get()) else {
            return BTreeMap::new();
        };
        let mut others = all();
        let mut found: BTreeMap<i32, Process> = BTreeMap::new();
        loop {
            let more: Vec<i32> = others
                .iter()
                .filter(|(pid, process)| {
                    **pid == first || process.group == first || found.contains_key(&process.parent)
                })
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                return found;
            }
            for pid in more {
                found.extend(others.remove(&pid).map(|process| (pid, process)));
            }
        }
    }

    /// Kills them all.
    pub(crate) fn kill(&mut self) {
        let Some(first) = self.0 else { return };
        // Those that left the group, too.
        let processes = self.processes();
        let _ = kill_process_group(first, Signal::KILL);
        for pid in processes.keys().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All processes of this machine, where it tells of them.
fn all() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse(&String::from_utf8_lossy(&line))?))
    })
    .collect()
}

/// Reads a line of `/proc/<pid>/stat`.
fn parse(line: &str) -> Option<Process> {
    // The second field is the program's name in parentheses and may hold anything.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        pages: fields.get(21)?.parse().ok()?,
    })
}

/// Bytes of memory of one process; what it shares with others counts in part.
fn share(pid: i32) -> Option<u64> {
    let said = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// What is said of processes that take too much.
pub(crate) fn too_much(taken: u64, limit: u64) -> String {
    const MB: u64 = 1 << 20;
    format!(
        "it took {} MB of memory, more than the {} MB that it may have, and was killed",
        taken / MB,
        limit / MB
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line =
            "42 (a) b (c) S 7 40 41 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 10 333 184467";
        let process = parse(line).unwrap();
        assert_eq!((process.parent, process.group, process.pages), (7, 40, 333));
    }

    #[test]
    fn one_that_left_the_group_counts_and_is_killed() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "setsid sleep 100 & echo started; wait"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut group = Group::of(Some(child.id()));
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        while group.processes().len() < 2 {
            assert!(std::time::Instant::now() < limit);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(group.beyond(1).is_some());
        assert!(group.beyond(u64::MAX).is_none());
        let pids: Vec<i32> = group.processes().into_keys().collect();
        group.kill();
        child.wait().unwrap();
        while pids.iter().any(|pid| all().contains_key(pid)) {
            assert!(std::time::Instant::now() < limit, "one outlived the group");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
