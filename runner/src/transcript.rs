//! What happened in an attempt, a line of JSON each: kept until it is sent, secrets
//! taken out, and bounded.
//!
//! `{"ms": 1200, "from": "claude-code", "event": {…}}` is an event of a tool as it
//! wrote it, `{"ms": 80, "from": "stdout", "text": "…"}` a line of plain text. `ms`
//! counts from the attempt's start.

use crate::redact::{Redactor, head};
use loopy_contract::report::{MAX_TRANSCRIPT_BYTES, MAX_TRANSCRIPT_PART};
use serde_json::{Value, json};
use std::cell::RefCell;
use tokio::time::Instant;

/// Bytes of one line; what is longer is cut and is text then.
const LONGEST_LINE: usize = 64 * 1024;

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
    text: String,
    /// Nothing more is taken.
    full: bool,
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
        let so_far = unsent.offset + unsent.text.len() as u64;
        if so_far + line.len() as u64 > MAX_TRANSCRIPT_BYTES {
            unsent.full = true;
            let said = format!("the transcript ends here, at {MAX_TRANSCRIPT_BYTES} bytes");
            unsent
                .text
                .push_str(&json!({ "ms": self.ms(), "from": "loopy", "text": said }).to_string());
        } else {
            unsent.text.push_str(&line);
        }
        unsent.text.push('\n');
    }

    /// What is to be sent next, whole lines, and where it belongs.
    pub(crate) fn next(&self) -> Option<(u64, String)> {
        let unsent = self.unsent.borrow();
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
