//! Anthropic's Messages API.
//!
//! Two marks ask it to cache what comes again with each turn: the tools and the
//! system prompt, and the conversation so far.

use super::conversation::{Conversation, Entry};
use super::ledger::Spent;
use super::model::{Answer, Tool, ToolCall, Wire, count};
use serde_json::{Value, json};

/// Where it is when nothing else is said.
const BASE: &str = "https://api.anthropic.com";
/// The version of the API that is spoken.
const VERSION: &str = "2023-06-01";

/// What each of its current models can write.
const LONGEST_ANSWER: u64 = 8000;

/// A model of it.
pub(super) struct Anthropic {
    model: String,
    base: String,
    key: Option<String>,
    token: Option<String>,
}

impl Anthropic {
    /// The model with this name; `None` without a key or a token.
    pub(super) fn new(
        model: &str,
        base: Option<String>,
        key: Option<String>,
        token: Option<String>,
    ) -> Option<Self> {
        (key.is_some() || token.is_some()).then(|| Self {
            model: model.to_owned(),
            base: base.unwrap_or_else(|| BASE.to_owned()),
            key,
            token,
        })
    }
}

impl Wire for Anthropic {
    fn url(&self) -> String {
        format!("{}/v1/messages", self.base.trim_end_matches('/'))
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("anthropic-version", VERSION.to_owned())];
        headers.extend(self.key.clone().map(|key| ("x-api-key", key)));
        headers.extend(
            self.token
                .as_ref()
                .map(|token| ("authorization", format!("Bearer {token}"))),
        );
        headers
    }

    fn body(&self, conversation: &Conversation, tools: &[Tool], max_tokens: u64) -> Value {
        let mut messages = vec![user(vec![text(&conversation.task)])];
        for entry in &conversation.entries {
            messages.push(match entry {
                Entry::Answer(content) => json!({"role": "assistant", "content": content}),
                Entry::Results { results, notice } => {
                    let mut content: Vec<Value> = results
                        .iter()
                        .map(|result| {
                            json!({
                                "type": "tool_result",
                                "tool_use_id": result.id,
                                "content": filled(&result.text),
                                "is_error": result.error,
                            })
                        })
                        .collect();
                    if !notice.is_empty() {
                        content.push(text(notice));
                    }
                    user(content)
                }
            });
        }
        if let Some(block) = messages
            .last_mut()
            .and_then(|message| message.pointer_mut("/content"))
            .and_then(Value::as_array_mut)
            .and_then(|content| content.last_mut())
        {
            mark(block);
        }
        let mut system = text(&conversation.system);
        mark(&mut system);
        let tools: Vec<Value> = tools
            .iter()
            .map(|tool| {
                json!({
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.schema,
                })
            })
            .collect();
        json!({
            "model": self.model,
            "max_tokens": max_tokens,
            "system": [system],
            "tools": tools,
            "messages": messages,
        })
    }

    fn read(&self, body: &Value) -> Result<Answer, String> {
        let blocks = body
            .get("content")
            .and_then(Value::as_array)
            .ok_or("`content` is no list")?;
        let kind = |block: &Value| block.get("type").and_then(Value::as_str).map(str::to_owned);
        let member = |block: &Value, name: &str| {
            block
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut words = Vec::new();
        let mut calls = Vec::new();
        for block in blocks {
            match kind(block).as_deref() {
                Some("text") => words.push(member(block, "text")),
                Some("tool_use") => calls.push(ToolCall {
                    id: member(block, "id"),
                    name: member(block, "name"),
                    input: Ok(block.get("input").cloned().unwrap_or_else(|| json!({}))),
                }),
                _ => {}
            }
        }
        // It takes no empty messages and no empty texts back.
        let mut raw: Vec<Value> = blocks
            .iter()
            .filter(|block| {
                kind(block).as_deref() != Some("text") || !member(block, "text").trim().is_empty()
            })
            .cloned()
            .collect();
        if raw.is_empty() {
            raw.push(text("(nothing)"));
        }
        let spent = body
            .get("usage")
            .filter(|usage| usage.get("input_tokens").is_some())
            .map(|usage| {
                let cached = count(usage, "/cache_read_input_tokens");
                let cache_written = count(usage, "/cache_creation_input_tokens");
                Spent {
                    input: count(usage, "/input_tokens") + cached + cache_written,
                    cached,
                    cache_written,
                    output: count(usage, "/output_tokens"),
                }
            });
        Ok(Answer {
            raw: Value::Array(raw),
            text: words.join("\n"),
            calls,
            cut: body.get("stop_reason").and_then(Value::as_str) == Some("max_tokens"),
            spent,
        })
    }

    fn cache_write(&self) -> f64 {
        1.25
    }

    fn longest_answer(&self) -> u64 {
        LONGEST_ANSWER
    }
}

fn user(content: Vec<Value>) -> Value {
    json!({"role": "user", "content": content})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": filled(text)})
}

/// It refuses empty texts.
fn filled(text: &str) -> &str {
    if text.trim().is_empty() {
        "(nothing)"
    } else {
        text
    }
}

/// Asks to cache all up to this block.
fn mark(block: &mut Value) {
    if let Some(members) = block.as_object_mut() {
        members.insert("cache_control".to_owned(), json!({"type": "ephemeral"}));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::conversation::ToolResult;
    use super::*;

    fn model() -> Anthropic {
        Anthropic::new("m", None, Some("key".to_owned()), None).unwrap()
    }

    #[test]
    fn an_answer_is_read_and_sent_back_as_it_came() {
        let body = json!({
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": ""},
                {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a"}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 5, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 2, "output_tokens": 7},
        });
        let answer = model().read(&body).unwrap();
        assert_eq!(answer.calls[0].input, Ok(json!({"path": "a"})));
        let spent = answer.spent.unwrap();
        assert_eq!(
            (spent.input, spent.cached, spent.cache_written, spent.output),
            (10, 3, 2, 7)
        );

        let mut conversation = Conversation::new("s".to_owned(), "t".to_owned());
        conversation.answered(&answer, None);
        let result = ToolResult {
            id: "t1".to_owned(),
            text: String::new(),
            error: true,
        };
        conversation.resulted(vec![result], "look".to_owned());
        let sent = model().body(&conversation, &[], 9);
        let messages = &sent["messages"];
        assert_eq!(
            messages[1]["content"][0], body["content"][0],
            "thoughts go back"
        );
        assert_eq!(
            messages[1]["content"][1]["type"], "tool_use",
            "empty texts do not"
        );
        assert_eq!(messages[2]["content"][0]["content"], "(nothing)");
        assert_eq!(messages[2]["content"][1]["text"], "look");
        assert!(messages[2]["content"][1]["cache_control"].is_object());
        assert_eq!(sent["max_tokens"], 9);
    }

    #[test]
    fn an_answer_that_was_cut_or_has_no_content_is_known() {
        let cut = json!({"content": [], "stop_reason": "max_tokens"});
        let answer = model().read(&cut).unwrap();
        assert!(answer.cut && answer.spent.is_none());
        assert_eq!(answer.raw[0]["text"], "(nothing)");
        assert!(model().read(&json!({"type": "message"})).is_err());
    }
}
