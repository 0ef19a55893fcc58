//! What happened in an attempt, a line of JSON each: kept until it is sent, secrets
//! taken out, and bounded. What the engine does not take as fast as it comes waits in a
//! file, so that the runner stays small.
//!
//! `{"ms": 1200, "from": "claude-code", "event": {…}}` is an event of a tool as it
//! wrote it, `{"ms": 80, "from": "stdout", "text": "…"}` a line of plain text. `ms`
//! counts from the attempt's start.

use crate::redact::{Redactor, head};
use loopy_contract::report::{MAX_TRANSCRIPT_BYTES, MAX_TRANSCRIPT_PART};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use tokio::time::Instant;

/// Bytes of one line; what is longer is cut and is text then.
const LONGEST_LINE: usize = 64 * 1024;

/// Bytes that wait in memory, about.
const IN_MEMORY: usize = 512 * 1024;
/// Bytes that are written to the file at once, at least.
const BLOCK: usize = 64 * 1024;

/// The transcript of one attempt.
pub(crate) struct Transcript<'a> {
    redactor: &'a Redactor,
    begun: Instant,
    unsent: RefCell<Unsent>,
}

#[derive(Default)]
struct Unsent {
    /// Bytes that were sent, or will never be.
    offset: u64,
    /// What is next.
    text: String,
    /// What comes after it.
    file: Option<Spill>,
    /// Nothing more is taken.
    full: bool,
}

impl Unsent {
    /// Bytes that wait.
    fn len(&self) -> u64 {
        let later = self.file.as_ref().map_or(0, Spill::len);
        self.text.len() as u64 + later
    }

    /// Adds a line.
    fn push(&mut self, line: &str) {
        let spilled = self.file.as_ref().is_some_and(|file| file.len() > 0);
        if !spilled && self.text.len() < IN_MEMORY {
            self.text.push_str(line);
            return;
        }
        if self.file.is_none() {
            match Spill::new() {
                Ok(file) => self.file = Some(file),
                // Then it waits in memory.
                Err(error) => tracing::warn!("no file for the transcript: {error}"),
            }
        }
        let file = self.file.as_mut();
        match file.map_or(Ok(false), |file| file.push(line).map(|()| true)) {
            Ok(true) => {}
            Ok(false) => self.text.push_str(line),
            Err(error) => {
                tracing::warn!("the transcript ends, it cannot be kept: {error}");
                self.full = true;
            }
        }
    }

    /// Takes lines from the file when memory holds too few for a part.
    fn refill(&mut self) {
        let Some(file) = &mut self.file else { return };
        while self.text.len() < MAX_TRANSCRIPT_PART && file.len() > 0 {
            match file.pop() {
                Ok(lines) => self.text.push_str(&lines),
                Err(error) => {
                    tracing::warn!("the rest of the transcript is lost: {error}");
                    self.file = None;
                    self.full = true;
                    return;
                }
            }
        }
    }
}

/// Lines in a file that nobody else sees.
struct Spill {
    file: File,
    /// Where the next block begins.
    from: u64,
    /// Where the last one ends.
    to: u64,
    /// Bytes of each block between them: whole lines.
    blocks: VecDeque<usize>,
    /// The lines after them.
    last: String,
}

impl Spill {
    fn new() -> io::Result<Self> {
        let name = format!("loopy-transcript-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        // It goes when it is closed, however this process ends.
        std::fs::remove_file(&path)?;
        Ok(Self {
            file,
            from: 0,
            to: 0,
            blocks: VecDeque::new(),
            last: String::new(),
        })
    }

    fn len(&self) -> u64 {
        self.to - self.from + self.last.len() as u64
    }

    fn push(&mut self, line: &str) -> io::Result<()> {
        self.last.push_str(line);
        if self.last.len() >= BLOCK {
            self.file.write_all_at(self.last.as_bytes(), self.to)?;
            self.to += self.last.len() as u64;
            self.blocks.push_back(self.last.len());
            self.last.clear();
        }
        Ok(())
    }

    /// The next lines, none when there are none.
    fn pop(&mut self) -> io::Result<String> {
        let Some(length) = self.blocks.pop_front() else {
            return Ok(std::mem::take(&mut self.last));
        };
        let mut block = vec![0; length];
        self.file.read_exact_at(&mut block, self.from)?;
        self.from += length as u64;
        String::from_utf8(block).map_err(io::Error::other)
    }
}

impl<'a> Transcript<'a> {
    /// An empty one that hides what `redactor` knows.
    pub(crate) fn new(redactor: &'a Redactor) -> Self {
        Self {
            redactor,
            begun: Instant::now(),
            unsent: RefCell::default(),
        }
    }

    /// Takes a line of a tool's output: an event if it is a JSON object, else text.
    pub(crate) fn line(&self, from: &str, line: &[u8]) {
        match serde_json::from_slice::<Value>(line) {
            Ok(event @ Value::Object(_)) => self.event(from, &event),
            _ => self.text(from, &String::from_utf8_lossy(line)),
        }
    }

    /// Takes a line of text.
    pub(crate) fn text(&self, from: &str, text: &str) {
        let text = text.trim_end();
        if !text.is_empty() {
            let text = head(&self.redactor.clean(text), LONGEST_LINE);
            self.push(&json!({ "ms": self.ms(), "from": from, "text": text }));
        }
    }

    /// Takes an event.
    pub(crate) fn event(&self, from: &str, event: &Value) {
        let line = json!({ "ms": self.ms(), "from": from, "event": event });
        if line.to_string().len() > LONGEST_LINE {
            self.text(from, &event.to_string());
        } else {
            self.push(&line);
        }
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn push(&self, line: &Value) {
        let mut unsent = self.unsent.borrow_mut();
        if unsent.full {
            return;
        }
        let line = self.redactor.clean(&line.to_string());
        let so_far = unsent.offset + unsent.len();
        if so_far + line.len() as u64 > MAX_TRANSCRIPT_BYTES {
            let said = format!("the transcript ends here, at {MAX_TRANSCRIPT_BYTES} bytes");
            let line = json!({ "ms": self.ms(), "from": "loopy", "text": said });
            unsent.push(&format!("{line}\n"));
            unsent.full = true;
        } else {
            unsent.push(&format!("{line}\n"));
        }
    }

    /// What is to be sent next, whole lines, and where it belongs.
    pub(crate) fn next(&self) -> Option<(u64, String)> {
        let mut unsent = self.unsent.borrow_mut();
        unsent.refill();
        if unsent.text.is_empty() {
            return None;
        }
        let mut end = 0;
        for line in unsent.text.split_inclusive('\n') {
            if end > 0 && end + line.len() > MAX_TRANSCRIPT_PART {
                break;
            }
            end += line.len();
        }
        Some((unsent.offset, unsent.text.get(..end)?.to_owned()))
    }

    /// So many bytes were taken.
    pub(crate) fn sent(&self, bytes: usize) {
        let mut unsent = self.unsent.borrow_mut();
        unsent.text.drain(..bytes);
        unsent.offset += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_in_order_without_secrets_until_they_are_sent() {
        let redactor = Redactor::new(["s3cr3t-value"]);
        let transcript = Transcript::new(&redactor);
        transcript.line("tool", br#"{"type":"x","key":"s3cr3t-value"}"#);
        transcript.line("stdout", b"plain s3cr3t-value\n");
        transcript.line("stdout", b"\n");
        let (offset, text) = transcript.next().unwrap();
        assert_eq!(offset, 0);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"]["key"], "[redacted]");
        assert_eq!(lines[1]["text"], "plain [redacted]");
        assert_eq!(
            transcript.next(),
            Some((0, text.clone())),
            "until it is sent"
        );
        transcript.sent(text.len());
        assert_eq!(transcript.next(), None);
        transcript.text("stdout", "more");
        assert_eq!(transcript.next().unwrap().0, text.len() as u64);
    }

    #[tokio::test]
    async fn what_waits_in_the_file_comes_out_in_order() {
        let redactor = Redactor::new([]);
        let transcript = Transcript::new(&redactor);
        let (mut put, mut got) = (0, Vec::new());
        let mut take = |transcript: &Transcript<'_>| {
            let (_, text) = transcript.next()?;
            transcript.sent(text.len());
            got.extend(text.lines().map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                line["text"].as_str().unwrap().len()
            }));
            Some(())
        };
        // Lines of all lengths, taken more slowly than they come.
        for round in 1..=40 {
            for _ in 0..100 {
                put += 1;
                transcript.text("stdout", &"x".repeat(put * 1009 % 2999 + 1));
            }
            if round % 4 == 0 {
                take(&transcript).unwrap();
            }
            let unsent = transcript.unsent.borrow();
            assert!(unsent.text.len() < IN_MEMORY + MAX_TRANSCRIPT_PART);
            let spilled = unsent.file.as_ref().map_or(0, Spill::len);
            assert!(round < 10 || spilled > 0, "round {round}");
        }
        while take(&transcript).is_some() {}
        let expected: Vec<usize> = (1..=put).map(|n| n * 1009 % 2999 + 1).collect();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn parts_and_the_whole_are_bounded() {
        let redactor = Redactor::new([]);
        let transcript = Transcript::new(&redactor);
        let long = "x".repeat(2 * LONGEST_LINE);
        let mut whole = 0;
        for _ in 0..2 * MAX_TRANSCRIPT_BYTES / LONGEST_LINE as u64 {
            transcript.text("stdout", &long);
            while let Some((offset, text)) = transcript.next() {
                assert_eq!(offset, whole);
                assert!(text.len() <= MAX_TRANSCRIPT_PART && text.ends_with('\n'));
                whole += text.len() as u64;
                transcript.sent(text.len());
            }
        }
        assert!(whole <= MAX_TRANSCRIPT_BYTES + 200, "{whole}");
    }
}
