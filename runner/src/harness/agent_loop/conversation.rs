//! What was said so far: the task, the model's answers, the results of its tools.
//! Knows the most tokens it can have, and shortens old results when it grows too long.
//!
//! The bound of tokens needs no call: a token is a byte at least, so what was never
//! sent counts by its bytes, and what was sent counts as the API counted it. So the
//! bound is wide for the first request and close for each later one.

use super::ledger::Spent;
use super::model::{Answer, Tool};
use crate::redact::{head, tail};
use serde::Serialize;
use serde_json::Value;

/// Bytes past which older results are shortened: some 100,000 tokens, which
/// every current model can read.
const LONGEST: usize = 360 * 1024;
/// Bytes to which they are shortened then. Much less than the longest, since each
/// time the provider's cache is lost.
const SHORTENED: usize = 160 * 1024;
/// Tokens, as the API counts them, past which they are shortened, too: some texts
/// have a token for each byte or two.
const MOST_COUNTED: u64 = 120_000;
/// Bytes kept of each end of a shortened result.
const KEPT_END: usize = 200;
/// Entries at the end that are never shortened.
const RECENT: usize = 6;
/// Tokens that an API adds to a request with tools, and to each entry of it.
const OVERHEAD: u64 = 1000;
/// Tokens that an API adds to an entry.
const ENTRY_OVERHEAD: u64 = 32;

/// What came of a call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ToolResult {
    /// The API's id of the call.
    pub(super) id: String,
    /// What the model reads.
    pub(super) text: String,
    /// It did not work.
    pub(super) error: bool,
}

/// A part of the conversation.
#[derive(Clone, Debug, Serialize)]
pub(super) enum Entry {
    /// The model's message, as its API wrote it.
    Answer(Value),
    /// What came of its calls, and what the loop has to say beside it.
    Results {
        /// In the order of the calls.
        results: Vec<ToolResult>,
        /// A text of the loop; may be empty if there are results.
        notice: String,
    },
}

/// The conversation.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Conversation {
    /// How to work.
    pub(super) system: String,
    /// The task. Never shortened.
    pub(super) task: String,
    /// What was said since.
    pub(super) entries: Vec<Entry>,
    /// Tokens of all that the API has counted.
    counted: Option<u64>,
    /// The most tokens of what came or was rewritten since.
    uncounted: u64,
}

impl Conversation {
    /// One that begins with the task.
    pub(super) fn new(system: String, task: String) -> Self {
        Self {
            system,
            task,
            entries: Vec::new(),
            counted: None,
            uncounted: 0,
        }
    }

    /// Takes the model's answer, and what the API counted for it.
    pub(super) fn answered(&mut self, answer: &Answer, spent: Option<&Spent>) {
        let entry = Entry::Answer(answer.raw.clone());
        match spent {
            // It counted all before the answer, and the answer itself.
            Some(spent) => {
                self.counted = Some(spent.input + spent.output);
                self.uncounted = ENTRY_OVERHEAD;
            }
            None => self.uncounted += weight(&entry),
        }
        self.entries.push(entry);
    }

    /// Takes what came of the answer.
    pub(super) fn resulted(&mut self, results: Vec<ToolResult>, notice: String) {
        let entry = Entry::Results { results, notice };
        self.uncounted += weight(&entry);
        self.entries.push(entry);
    }

    /// The most tokens that a request with all of it can have.
    pub(super) fn estimate(&self, tools: &[Tool]) -> u64 {
        let by_bytes = self.by_bytes(tools);
        match self.counted {
            Some(counted) => by_bytes.min(counted + self.uncounted),
            None => by_bytes,
        }
    }

    fn by_bytes(&self, tools: &[Tool]) -> u64 {
        let tools: usize = tools
            .iter()
            .map(|tool| tool.name.len() + tool.description.len() + tool.schema.to_string().len())
            .sum();
        let texts = self.system.len() + self.task.len() + tools;
        OVERHEAD + texts as u64 + self.entries.iter().map(weight).sum::<u64>()
    }

    /// Shortens older results, oldest first, when all of it is too long. Gives the
    /// number of results that were shortened.
    pub(super) fn fit(&mut self) -> usize {
        let mut length = self.bytes();
        let dense = self.counted.is_some_and(|counted| counted > MOST_COUNTED);
        if length <= LONGEST && !dense {
            return 0;
        }
        let wanted = if dense { length / 2 } else { length }.min(SHORTENED);
        let mut shortened = 0;
        let last = self.entries.len().saturating_sub(RECENT);
        for entry in self.entries.iter_mut().take(last) {
            let Entry::Results { results, .. } = entry else {
                continue;
            };
            for result in results {
                if length <= wanted {
                    return shortened;
                }
                if let Some(short) = short(&result.text) {
                    length -= result.text.len() - short.len();
                    // The API counted the long one; the short one is new to it.
                    self.uncounted += short.len() as u64;
                    result.text = short;
                    shortened += 1;
                }
            }
        }
        shortened
    }

    fn bytes(&self) -> usize {
        let entries: u64 = self.entries.iter().map(weight).sum();
        self.system.len() + self.task.len() + usize::try_from(entries).unwrap_or(usize::MAX)
    }
}

/// The most tokens of an entry: its bytes as JSON, which are never fewer than those
/// of its texts.
fn weight(entry: &Entry) -> u64 {
    let (bytes, parts) = match entry {
        Entry::Answer(raw) => {
            let parts = raw.as_array().or_else(|| raw.get("tool_calls")?.as_array());
            (raw.to_string().len(), parts.map_or(0, Vec::len) + 1)
        }
        Entry::Results { results, notice } => (
            notice.len()
                + results
                    .iter()
                    .map(|r| r.text.len() + r.id.len())
                    .sum::<usize>(),
            results.len() + 1,
        ),
    };
    bytes as u64 + ENTRY_OVERHEAD * (parts as u64 + 1)
}

/// The ends of a long result; `None` when that would not make it shorter.
fn short(text: &str) -> Option<String> {
    let (start, end) = (head(text, KEPT_END), tail(text, KEPT_END));
    let short = format!(
        "{start}\n[{} bytes of this older result are left out; call the tool again if you need them]\n{end}",
        text.len().saturating_sub(2 * KEPT_END)
    );
    (short.len() < text.len()).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn answer(text: &str) -> Answer {
        Answer {
            raw: json!([{"type": "text", "text": text}]),
            text: text.to_owned(),
            calls: Vec::new(),
            cut: false,
            spent: None,
        }
    }

    fn result(text: String) -> Vec<ToolResult> {
        vec![ToolResult {
            id: "t".to_owned(),
            text,
            error: false,
        }]
    }

    #[test]
    fn the_oldest_results_are_shortened_and_never_the_task_or_the_last() {
        let mut conversation = Conversation::new("s".to_owned(), "t".repeat(100_000));
        for number in 0..40 {
            conversation.answered(&answer("next"), None);
            conversation.resulted(
                result(format!("{number} {}", "x".repeat(10_000))),
                String::new(),
            );
        }
        let shortened = conversation.fit();
        assert!(shortened > 20, "{shortened}");
        assert_eq!(conversation.task.len(), 100_000);
        assert!(
            conversation.bytes() <= SHORTENED,
            "{}",
            conversation.bytes()
        );
        let lengths: Vec<usize> = conversation
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Results { results, .. } => results.first().map(|result| result.text.len()),
                Entry::Answer(_) => None,
            })
            .collect();
        assert!(lengths[0] < 600 && lengths[37..].iter().all(|length| *length > 10_000));
        assert_eq!(conversation.fit(), 0, "once is enough");
    }

    #[test]
    fn a_shortened_result_is_new_to_the_api() {
        let mut conversation = Conversation::new("s".to_owned(), "t".to_owned());
        for _ in 0..50 {
            conversation.resulted(result("x".repeat(10_000)), String::new());
        }
        // It may have counted next to nothing for so regular a text.
        let spent = Spent {
            input: 100,
            ..Spent::default()
        };
        conversation.answered(&answer("next"), Some(&spent));
        let before = conversation.estimate(&[]);
        let shortened = conversation.fit() as u64;
        let least = shortened * 2 * KEPT_END as u64;
        assert!(shortened > 0 && conversation.estimate(&[]) >= before + least);
    }

    #[test]
    fn what_has_many_tokens_is_shortened_sooner() {
        let mut conversation = Conversation::new("s".to_owned(), "t".to_owned());
        for _ in 0..20 {
            let spent = Spent {
                input: conversation.bytes() as u64,
                ..Spent::default()
            };
            conversation.answered(&answer("next"), Some(&spent));
            conversation.resulted(result("x".repeat(8000)), String::new());
        }
        assert!(conversation.bytes() < LONGEST);
        assert!(conversation.fit() > 5);
        assert!(conversation.bytes() < 90_000, "{}", conversation.bytes());
    }

    #[test]
    fn what_the_api_counted_counts_and_the_rest_counts_by_bytes() {
        let mut conversation = Conversation::new("s".repeat(2000), "t".repeat(8000));
        assert_eq!(conversation.estimate(&[]), OVERHEAD + 10_000);
        let spent = Spent {
            input: 2500,
            output: 10,
            ..Spent::default()
        };
        conversation.answered(&answer("hello"), Some(&spent));
        conversation.resulted(result("r".repeat(400)), String::new());
        let estimate = conversation.estimate(&[]);
        assert!((2910..3100).contains(&estimate), "{estimate}");
    }

    proptest! {
        /// A model that counts a token for each byte it is sent is the worst there
        /// can be, and the estimate bounds it whatever was said and shortened.
        #[test]
        fn no_count_is_above_the_estimate(
            turns in proptest::collection::vec((0_usize..3000, 0_usize..60_000), 1..25),
        ) {
            let mut conversation = Conversation::new("s".repeat(900), "t".repeat(5000));
            for (said, got) in turns {
                conversation.fit();
                let sent = 5900 + conversation.entries.iter().map(|entry| match entry {
                    Entry::Answer(raw) => raw[0]["text"].as_str().map_or(0, str::len),
                    Entry::Results { results, notice } =>
                        notice.len() + results.iter().map(|result| result.text.len()).sum::<usize>(),
                }).sum::<usize>() as u64;
                let estimate = conversation.estimate(&[]);
                prop_assert!(sent <= estimate, "{sent} > {estimate}");
                let spent = Spent { input: sent, output: said as u64, ..Spent::default() };
                conversation.answered(&answer(&"a".repeat(said)), Some(&spent));
                conversation.resulted(result("r".repeat(got)), String::new());
            }
        }
    }
}
