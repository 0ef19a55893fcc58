//! Runs a command of the model among the attempt's processes, with a time limit.
//!
//! All it says goes to a file of its own; what the model gets is its beginning and
//! its end. What it leaves running is ended with it.

use super::super::{Job, failure};
use super::files::OUTPUT;
use super::model::KEYS;
use super::steady::without_times;
use loopy_contract::report::{Failure, FailureClass};
use std::cell::RefCell;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Bytes of the beginning that the model gets.
const HEAD: usize = 4 * 1024;
/// Bytes of the end that the model gets.
const TAIL: usize = 12 * 1024;
/// Bytes of the file; past them only the end is known.
const LARGEST_FILE: u64 = 64 * 1024 * 1024;
/// Shells, the best first.
const SHELLS: [&str; 3] = ["/bin/bash", "/usr/bin/bash", "/bin/sh"];

/// What a command came to.
pub(super) struct Ran {
    /// Its exit code, if it ended by itself.
    pub(super) code: Option<i32>,
    /// How it ended, in words.
    pub(super) how: String,
    /// What the model reads.
    pub(super) shown: String,
    /// What is the same when it says the same again.
    pub(super) identity: String,
}

/// Runs commands.
#[derive(Default)]
pub(super) struct Shell {
    count: u32,
}

impl Shell {
    /// Runs `command` in the workspace for `limit` at most. `on_line` sees all it
    /// says, line by line.
    ///
    /// # Errors
    /// There is no shell, or no place for what it says.
    pub(super) async fn run(
        &mut self,
        job: &Job<'_>,
        command: &str,
        limit: Duration,
        on_line: impl FnMut(&[u8]),
    ) -> Result<Ran, Failure> {
        self.count += 1;
        let script = job.control.file(&format!("command-{}.sh", self.count));
        let file = job.control.file(&format!("{OUTPUT}{}.txt", self.count));
        let sandbox = |what: &str, error: std::io::Error| {
            failure(FailureClass::Sandbox, format!("cannot {what}: {error}"))
        };
        // One stream, so that the order of what is said is kept.
        std::fs::write(&script, format!("exec 2>&1\n{command}\n"))
            .map_err(|error| sandbox("write a command down", error))?;
        let kept = Kept::new(file).map_err(|error| sandbox("keep what a command says", error))?;
        let sink = RefCell::new((kept, on_line));
        let take = |line: &[u8]| {
            let (kept, on_line) = &mut *sink.borrow_mut();
            kept.take(line);
            on_line(line);
        };
        let program = SHELLS
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .unwrap_or("/bin/sh");
        let mut shell = job.command(program);
        shell.arg(&script);
        for key in KEYS {
            shell.env_remove(key);
        }
        let begun = Instant::now();
        let ended = timeout(limit, job.processes.run(shell, &[], take, take)).await;
        let (code, how) = match ended {
            Ok(Ok(ended)) => match (ended.status.code(), ended.status.signal()) {
                (Some(code), _) => (Some(code), format!("exit code {code}")),
                (None, signal) => (
                    None,
                    format!("ended by signal {}", signal.unwrap_or_default()),
                ),
            },
            Ok(Err(error)) => return Err(sandbox(&format!("start {program}"), error)),
            Err(_) => {
                job.processes.end_all().await;
                (
                    None,
                    format!(
                        "ended after its {} seconds with all it started",
                        limit.as_secs().max(1)
                    ),
                )
            }
        };
        let (kept, _) = sink.into_inner();
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Ran {
            code,
            identity: format!("{how} {:x}", kept.hasher.finish()),
            shown: format!("{}[{how}, {seconds:.1} s]", kept.shown()),
            how,
        })
    }
}

/// What a command said: all in a file, both ends here.
struct Kept {
    path: PathBuf,
    file: File,
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
    hasher: DefaultHasher,
}

impl Kept {
    fn new(path: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            file: File::create(&path)?,
            path,
            head: Vec::new(),
            tail: Vec::new(),
            bytes: 0,
            hasher: DefaultHasher::new(),
        })
    }

    fn take(&mut self, line: &[u8]) {
        without_times(&String::from_utf8_lossy(line)).hash(&mut self.hasher);
        if self.bytes < LARGEST_FILE
            && let Err(error) = self.file.write_all(line)
        {
            tracing::warn!("cannot keep what a command says: {error}");
        }
        self.bytes += line.len() as u64;
        let to_head = HEAD.saturating_sub(self.head.len()).min(line.len());
        let (head, rest) = line.split_at(to_head);
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(rest);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// Both ends, on lines of their own, and where the rest is.
    fn shown(&self) -> String {
        let start = self.tail.len().saturating_sub(TAIL);
        let end = self.tail.get(start..).unwrap_or_default();
        let left_out = self.bytes - (self.head.len() + end.len()) as u64;
        let mut shown = String::from_utf8_lossy(&self.head).into_owned();
        if left_out > 0 {
            let place = self.path.display();
            shown.push_str(&if self.bytes > LARGEST_FILE {
                format!("\n[{left_out} bytes are left out; the first {LARGEST_FILE} of all are in {place}]\n")
            } else {
                format!("\n[{left_out} bytes are left out; all of it is in {place}]\n")
            });
        }
        shown.push_str(&String::from_utf8_lossy(end));
        if !shown.is_empty() && !shown.ends_with('\n') {
            shown.push('\n');
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn both_ends_are_shown_and_all_is_in_the_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("output-1.txt");
        let mut kept = Kept::new(path.clone()).unwrap();
        for number in 0..20_000 {
            kept.take(format!("line {number}\n").as_bytes());
        }
        let shown = kept.shown();
        assert!(shown.starts_with("line 0\n") && shown.ends_with("line 19999\n"));
        assert!(shown.len() < HEAD + TAIL + 300, "{}", shown.len());
        assert!(shown.contains(&path.display().to_string()));
        let whole = std::fs::read_to_string(path).unwrap();
        assert_eq!(whole.lines().count(), 20_000);
    }

    #[test]
    fn short_output_is_shown_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let mut kept = Kept::new(place.path().join("o")).unwrap();
        kept.take(b"a\n");
        kept.take(b"b");
        assert_eq!(kept.shown(), "a\nb\n");
    }
}
