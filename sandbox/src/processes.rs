//! What Linux's `/proc` says about the processes of this machine.

use std::fs::File;
use std::io::{self, Read as _};

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// Its parent's number.
    pub(crate) parent: i32,
    /// Its session's number.
    pub(crate) session: i32,
    /// When it was started, in clock ticks since the machine booted. Number and
    /// start together name one process, for numbers are used again.
    pub(crate) started: u64,
    /// It ended and waits for its parent to notice.
    pub(crate) ended: bool,
}

/// Bytes of the longest `/proc/<pid>/stat`: 52 numbers and a name of 64 bytes.
const LONGEST_STAT: usize = 2048;

/// Reads a line of `/proc/<pid>/stat`.
pub(crate) fn parse_stat(line: &str) -> Option<Process> {
    // The second field is the program's name in parentheses and may itself
    // hold spaces and parentheses; the last `)` ends it.
    let (before, after) = line.rsplit_once(')')?;
    let pid = before.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

/// The process with this number, if there is one.
pub(crate) fn find(pid: i32) -> io::Result<Option<Process>> {
    // The kernel hands the whole line to one read that has room for it. Every
    // launch and stop reads the lines of all processes, so this is worth it.
    let mut line = [0; LONGEST_STAT];
    let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line));
    match read.map(|bytes| line.get(..bytes).unwrap_or_default()) {
        Ok(line) => parse_stat(&String::from_utf8_lossy(line))
            .map(Some)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("/proc/{pid}/stat is not readable"),
                )
            }),
        Err(error) if went_away(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All processes, those that ended and were not yet noticed included.
pub(crate) fn all() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && let Some(process) = find(pid)?
        {
            found.push(process);
        }
    }
    Ok(found)
}

/// Whether the process was started with `variable` (`NAME=value`) in its
/// environment. False for processes of others, whose environment is hidden.
pub(crate) fn has_variable(pid: i32, variable: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| {
        bytes
            .split(|byte| *byte == 0)
            .any(|one| one == variable.as_bytes())
    })
}

/// Names the time since the machine booted; another after each boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The process ended between being listed and being read.
fn went_away(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) Z 7 40 41 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 98765 0 0";
        assert_eq!(
            parse_stat(line),
            Some(Process {
                pid: 42,
                parent: 7,
                session: 41,
                started: 98765,
                ended: true
            })
        );
    }

    #[test]
    fn a_cut_line_is_no_process() {
        assert_eq!(parse_stat("42 (sh) S 7 40"), None);
    }

    #[test]
    fn this_process_is_found_alive() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!find(pid).unwrap().unwrap().ended);
        assert!(all().unwrap().iter().any(|process| process.pid == pid));
    }
}
