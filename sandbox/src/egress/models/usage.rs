//! Reads out of an API's answer, as it passes, how many tokens it took.

use super::apis::Form;
use serde_json::Value;

/// Bytes of an answer, or of one event of a stream, that are kept to be read. What is
/// longer has to be reckoned.
const MOST_KEPT: usize = 32 * 1024 * 1024;
/// Bytes of a request for a token, where nobody counted: about what English has.
const BYTES_OF_A_TOKEN_ASKED: u64 = 4;
/// Bytes of an answer for a token: each piece of a stream is wrapped into JSON.
const BYTES_OF_A_TOKEN_ANSWERED: u64 = 16;

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Read, those of the cache included.
    pub(crate) input: u64,
    /// Of them, read from the cache.
    pub(crate) cached: u64,
    /// Of them, written to the cache.
    pub(crate) cache_written: u64,
    /// Written.
    pub(crate) output: u64,
}

impl Used {
    fn most(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached: self.cached.max(other.cached),
            cache_written: self.cache_written.max(other.cache_written),
            output: self.output.max(other.output),
        }
    }
}

/// What an answer came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Took {
    /// Tokens.
    pub(crate) used: Used,
    /// Whether they are reckoned, as the API did not come to say.
    pub(crate) reckoned: bool,
    /// The model that answered, as the API names it.
    pub(crate) model: Option<String>,
}

/// An answer that passes.
pub(crate) struct Reading {
    form: Form,
    is_stream: bool,
    /// The answer so far, or the line of a stream that is not complete.
    kept: Vec<u8>,
    /// Too much came to be kept.
    overflown: bool,
    bytes: u64,
    used: Option<Used>,
    /// The figures are the last ones.
    complete: bool,
    model: Option<String>,
}

impl Reading {
    /// Of an answer in this form; a stream of events or a whole.
    pub(crate) fn new(form: Form, is_stream: bool) -> Self {
        Self {
            form,
            is_stream,
            kept: Vec::new(),
            overflown: false,
            bytes: 0,
            used: None,
            complete: false,
            model: None,
        }
    }

    /// Takes what comes next.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.is_stream {
            self.keep(bytes);
            return;
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.keep(line);
            let line = std::mem::take(&mut self.kept);
            if !std::mem::take(&mut self.overflown) {
                self.line(&line);
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.keep(rest);
    }

    /// What it took in all, of a request of so many bytes.
    pub(crate) fn end(mut self, asked: u64) -> Took {
        let kept = std::mem::take(&mut self.kept);
        if !self.overflown && !kept.is_empty() {
            if self.is_stream {
                self.line(&kept);
            } else if let Ok(whole) = serde_json::from_slice::<Value>(&kept) {
                self.take(&whole);
                self.complete = self.used.is_some();
            }
        }
        let mut used = self.used.unwrap_or_default();
        if !self.complete {
            if self.used.is_none() {
                used.input = asked.div_ceil(BYTES_OF_A_TOKEN_ASKED);
            }
            used.output = used
                .output
                .max(self.bytes.div_ceil(BYTES_OF_A_TOKEN_ANSWERED));
        }
        Took {
            used,
            reckoned: !self.complete,
            model: self.model,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() > MOST_KEPT {
            self.overflown = true;
            self.kept.clear();
        }
        if !self.overflown {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// A line of a stream. Both APIs write an event's data in one line.
    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        // Most are pieces of text.
        let about = |what: &[u8]| data.windows(what.len()).any(|part| part == what);
        if !about(b"\"usage\"") {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            return;
        };
        let kind = event.get("type").and_then(Value::as_str);
        match (self.form, kind) {
            (Form::Anthropic, Some("message_start")) => {
                if let Some(message) = event.get("message") {
                    self.take(message);
                }
            }
            (Form::Anthropic, Some("message_delta")) => {
                self.take(&event);
                self.complete = self.used.is_some();
            }
            (Form::Anthropic, _) => {}
            (Form::OpenAi, _) => {
                self.take(event.get("response").unwrap_or(&event));
                self.complete = self.used.is_some();
            }
        }
    }

    /// Reads an object with `usage` and `model`. Figures of one answer only grow.
    fn take(&mut self, of: &Value) {
        if let Some(model) = of.get("model").and_then(Value::as_str) {
            self.model = Some(model.to_owned());
        }
        let Some(usage) = of.get("usage").filter(|usage| usage.is_object()) else {
            return;
        };
        let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
        let either = |one: &str, other: &str| count(one).or_else(|| count(other)).unwrap_or(0);
        let now = match self.form {
            Form::Anthropic => {
                let cached = count("/cache_read_input_tokens").unwrap_or(0);
                let cache_written = count("/cache_creation_input_tokens").unwrap_or(0);
                Used {
                    input: count("/input_tokens").unwrap_or(0) + cached + cache_written,
                    cached,
                    cache_written,
                    output: count("/output_tokens").unwrap_or(0),
                }
            }
            // The Responses API's names, and those of chat completions.
            Form::OpenAi => Used {
                input: either("/input_tokens", "/prompt_tokens"),
                cached: either(
                    "/input_tokens_details/cached_tokens",
                    "/prompt_tokens_details/cached_tokens",
                ),
                cache_written: 0,
                output: either("/output_tokens", "/completion_tokens"),
            },
        };
        self.used = Some(self.used.unwrap_or_default().most(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bytes in pieces of every length.
    fn read(form: Form, is_stream: bool, text: &str) -> Took {
        let mut all = Vec::new();
        for length in [1, 2, 3, 7, 64, text.len().max(1)] {
            let mut reading = Reading::new(form, is_stream);
            for piece in text.as_bytes().chunks(length) {
                reading.feed(piece);
            }
            all.push(reading.end(400));
        }
        assert!(all.windows(2).all(|two| two[0] == two[1]), "{all:?}");
        all.remove(0)
    }

    fn used(input: u64, cached: u64, cache_written: u64, output: u64) -> Used {
        Used {
            input,
            cached,
            cache_written,
            output,
        }
    }

    #[test]
    fn anthropic_counts_the_cache_apart() {
        let whole = r#"{"model": "claude-x", "usage": {"input_tokens": 5, "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2, "output_tokens": 7}}"#;
        let took = read(Form::Anthropic, false, whole);
        assert_eq!(
            (took.used, took.reckoned, took.model.as_deref()),
            (used(10, 3, 2, 7), false, Some("claude-x"))
        );

        let begun = concat!(
            "event: message_start\r\n",
            "data: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":",
            "{\"input_tokens\":5,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\r\n\r\n",
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"usage\\\"\"}}\r\n\r\n",
        );
        // Later figures may leave the input out.
        let end = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":40}}\n\n";
        let took = read(Form::Anthropic, true, &format!("{begun}{end}"));
        assert_eq!((took.used, took.reckoned), (used(8, 3, 0, 40), false));

        // Broken off: the input is known, the output is not.
        let took = read(Form::Anthropic, true, begun);
        let reckoned = (begun.len() as u64).div_ceil(16);
        assert_eq!((took.used, took.reckoned), (used(8, 3, 0, reckoned), true));
    }

    #[test]
    fn both_apis_of_openai_are_read() {
        let responses = r#"{"model": "gpt-5", "usage": {"input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}}"#;
        let took = read(Form::OpenAi, false, responses);
        assert_eq!((took.used, took.reckoned), (used(9, 4, 0, 2), false));
        let stream = concat!(
            "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n",
            "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"usage\":",
            "{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":2}}}\n\n",
        );
        assert_eq!(read(Form::OpenAi, true, stream), took);

        let chat = concat!(
            "data: {\"choices\":[{}],\"usage\":null}\n\n",
            "data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,",
            "\"prompt_tokens_details\":{\"cached_tokens\":4},\"completion_tokens\":2}}\n\n",
            "data: [DONE]",
        );
        assert_eq!(read(Form::OpenAi, true, chat).used, took.used);
    }

    #[test]
    fn what_nobody_counted_is_reckoned() {
        for (is_stream, text) in [
            (
                true,
                "data: {\"choices\":[{\"delta\":{}}]}\n\ndata: [DONE]\n\n",
            ),
            (false, "{\"choices\": []}"),
            (false, "<html>"),
            (false, ""),
        ] {
            let took = read(Form::OpenAi, is_stream, text);
            let output = (text.len() as u64).div_ceil(16);
            assert_eq!(
                (took.used, took.reckoned),
                (used(100, 0, 0, output), true),
                "{text}"
            );
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut reading = Reading::new(Form::OpenAi, true);
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            reading.feed(&piece);
            assert!(reading.kept.len() <= MOST_KEPT);
        }
        // What comes after it is read again.
        reading.feed(b"\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n");
        assert_eq!(reading.end(0).used, used(1, 0, 0, 2));
    }
}
