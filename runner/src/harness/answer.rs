//! An outcome that is the agent's last message: how it is asked for, and how it
//! is read out of the text.

use super::strict::without_nulls;
use crate::outcome::{check, wanted_schema};
use loopy_contract::report::{Envelope, Outcome};
use serde_json::Value;

/// How the outcome is handed over.
pub(super) const HAND_OVER: &str = "When the work is done, hand over its outcome as your last \
    message: one JSON object with these members, and nothing else in that message.";
/// How it is handed over again.
pub(super) const HAND_OVER_AGAIN: &str =
    "Mend it, and answer with the whole JSON object again, and nothing else.";

/// The outcome in `text`, checked. What is optional and `null` counts as left out.
///
/// # Errors
/// Every violation, each a sentence.
pub(super) fn outcome(envelope: &Envelope, text: &str) -> Result<Outcome, Vec<String>> {
    let mut value = json(text).map_err(|why| vec![why])?;
    without_nulls(&wanted_schema(envelope), &mut value);
    check(envelope, &value)
}

/// The JSON that is all of `text`, or the last fenced block of it that is JSON.
fn json(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the last message is empty".to_owned());
    }
    let whole = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut found = None;
    let mut block: Option<String> = None;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            found = match block.take() {
                Some(content) => serde_json::from_str(&content).ok().or(found),
                None => {
                    block = Some(String::new());
                    found
                }
            };
        } else if let Some(content) = &mut block {
            content.push_str(line);
            content.push('\n');
        }
    }
    found.ok_or_else(|| format!("the last message is not JSON: {whole}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    #[test]
    fn json_stands_alone_or_in_a_block() {
        for text in [
            "{\"a\": 1}",
            "\n {\"a\": 1}\n",
            "```json\n{\"a\": 1}\n```",
            "Here:\n```\n{\"a\": 0}\n```\nor rather\n  ```json\n{\"a\":\n1}\n  ```\nDone.",
            "```json\n{\"a\": 1}\n```\n```sh\nls\n```",
        ] {
            assert_eq!(super::json(text).unwrap(), json!({"a": 1}), "{text}");
        }
        for (text, why) in [
            (" ", "is empty"),
            ("It is {\"a\": 1}", "is not JSON"),
            ("```json\n{\"a\": 1}", "is not JSON"),
        ] {
            assert!(super::json(text).unwrap_err().contains(why), "{text}");
        }
    }
}
