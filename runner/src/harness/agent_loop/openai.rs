//! The chat completions API of OpenAI, and of all that are compatible with it.
//!
//! `OPENAI_BASE_URL` holds the `/v1`, as OpenAI's own clients have it. How long an
//! answer may be is `max_completion_tokens` for OpenAI's own models, which refuse
//! the older name, and `max_tokens` for all others, of which many know only that.

use super::conversation::{Conversation, Entry};
use super::ledger::Spent;
use super::model::{Answer, Tool, ToolCall, Wire, count};
use serde_json::{Map, Value, json};

/// Where it is when nothing else is said.
const BASE: &str = "https://api.openai.com/v1";

/// What every current model can write.
const LONGEST_ANSWER: u64 = 8000;
/// The same for those that think, whose thoughts count.
const LONGEST_WITH_THOUGHTS: u64 = 32_000;

/// A model behind such an API.
pub(super) struct OpenAi {
    model: String,
    base: Option<String>,
    key: Option<String>,
}

impl OpenAi {
    /// The model with this name; `None` without a key. A server under an address of
    /// one's own may need none.
    pub(super) fn new(model: &str, base: Option<String>, key: Option<String>) -> Option<Self> {
        (key.is_some() || base.is_some()).then(|| Self {
            model: model.to_owned(),
            base,
            key,
        })
    }

    fn is_o_series(&self) -> bool {
        let mut characters = self.model.chars();
        characters.next() == Some('o') && characters.next().is_some_and(|c| c.is_ascii_digit())
    }

    fn longest(&self) -> &'static str {
        if self.base.is_none() || self.is_o_series() || self.model.starts_with("gpt-") {
            "max_completion_tokens"
        } else {
            "max_tokens"
        }
    }
}

impl Wire for OpenAi {
    fn url(&self) -> String {
        let base = self.base.as_deref().unwrap_or(BASE);
        format!("{}/chat/completions", base.trim_end_matches('/'))
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        self.key
            .iter()
            .map(|key| ("authorization", format!("Bearer {key}")))
            .collect()
    }

    fn body(&self, conversation: &Conversation, tools: &[Tool], max_tokens: u64) -> Value {
        let mut messages = vec![
            json!({"role": "system", "content": conversation.system}),
            json!({"role": "user", "content": conversation.task}),
        ];
        for entry in &conversation.entries {
            match entry {
                Entry::Answer(message) => messages.push(message.clone()),
                Entry::Results { results, notice } => {
                    messages.extend(results.iter().map(|result| {
                        // It has no mark for errors.
                        let mark = if result.error { "Error: " } else { "" };
                        json!({
                            "role": "tool",
                            "tool_call_id": result.id,
                            "content": format!("{mark}{}", result.text),
                        })
                    }));
                    if !notice.is_empty() {
                        messages.push(json!({"role": "user", "content": notice}));
                    }
                }
            }
        }
        let tools: Vec<Value> = tools
            .iter()
            .map(|tool| {
                json!({
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": tool.schema,
                    },
                })
            })
            .collect();
        let mut body = json!({
            "model": self.model,
            "messages": messages,
            "tools": tools,
        });
        if let Some(members) = body.as_object_mut() {
            members.insert(self.longest().to_owned(), max_tokens.into());
        }
        body
    }

    fn read(&self, body: &Value) -> Result<Answer, String> {
        let choice = body
            .pointer("/choices/0")
            .ok_or("`choices` has nothing in it")?;
        let message = choice
            .get("message")
            .and_then(Value::as_object)
            .ok_or("`message` is no object")?;
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let tool_calls: &[Value] = message
            .get("tool_calls")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice);
        let calls = tool_calls
            .iter()
            .map(|call| {
                let arguments = text(call.pointer("/function/arguments"));
                let arguments = if arguments.trim().is_empty() {
                    "{}"
                } else {
                    &arguments
                };
                ToolCall {
                    id: text(call.get("id")),
                    name: text(call.pointer("/function/name")),
                    input: serde_json::from_str(arguments)
                        .map_err(|error| format!("its arguments are not JSON: {error}")),
                }
            })
            .collect();
        // What goes back is what every compatible API takes.
        let mut raw = Map::new();
        raw.insert("role".to_owned(), "assistant".into());
        let said = text(message.get("content"));
        let content = match (said.is_empty(), tool_calls.is_empty()) {
            (false, _) => Value::from(said.as_str()),
            (true, false) => Value::Null,
            (true, true) => Value::from("(nothing)"),
        };
        raw.insert("content".to_owned(), content);
        if !tool_calls.is_empty() {
            raw.insert("tool_calls".to_owned(), tool_calls.into());
        }
        let refused = text(message.get("refusal"));
        let spent = body
            .get("usage")
            .filter(|usage| usage.get("prompt_tokens").is_some())
            .map(|usage| Spent {
                input: count(usage, "/prompt_tokens"),
                cached: count(usage, "/prompt_tokens_details/cached_tokens"),
                cache_written: 0,
                output: count(usage, "/completion_tokens"),
            });
        Ok(Answer {
            raw: Value::Object(raw),
            text: if said.is_empty() { refused } else { said },
            calls,
            cut: choice.get("finish_reason").and_then(Value::as_str) == Some("length"),
            spent,
        })
    }

    fn cache_write(&self) -> f64 {
        1.0
    }

    fn longest_answer(&self) -> u64 {
        if self.is_o_series() || self.model.starts_with("gpt-5") {
            LONGEST_WITH_THOUGHTS
        } else {
            LONGEST_ANSWER
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::super::conversation::ToolResult;
    use super::*;

    fn model(name: &str, base: Option<&str>) -> OpenAi {
        OpenAi::new(name, base.map(str::to_owned), Some("key".to_owned())).unwrap()
    }

    #[test]
    fn an_answer_is_read_and_sent_back() {
        let body = json!({
            "choices": [{"finish_reason": "tool_calls", "message": {
                "role": "assistant", "content": null, "refusal": null, "annotations": [],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}},
                    {"id": "c2", "type": "function", "function": {"name": "read", "arguments": "{\"pa"}},
                    {"id": "c3", "type": "function", "function": {"name": "test", "arguments": ""}},
                ],
            }}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}},
        });
        let answer = model("gpt-5", None).read(&body).unwrap();
        assert_eq!(answer.calls[0].input, Ok(json!({"path": "a"})));
        assert!(answer.calls[1].input.is_err());
        assert_eq!(answer.calls[2].input, Ok(json!({})));
        let spent = answer.spent.unwrap();
        assert_eq!((spent.input, spent.cached, spent.output), (9, 3, 4));

        let mut conversation = Conversation::new("s".to_owned(), "t".to_owned());
        conversation.answered(&answer, None);
        let result = ToolResult {
            id: "c1".to_owned(),
            text: "gone".to_owned(),
            error: true,
        };
        conversation.resulted(vec![result], "look".to_owned());
        let sent = model("gpt-5", None).body(&conversation, &[], 9);
        let messages = &sent["messages"];
        assert_eq!(
            messages[2]["tool_calls"],
            body["choices"][0]["message"]["tool_calls"]
        );
        assert!(messages[2].get("annotations").is_none());
        assert_eq!(messages[3]["content"], "Error: gone");
        assert_eq!(messages[4]["content"], "look");
    }

    #[test]
    fn the_length_of_an_answer_has_the_name_that_the_model_knows() {
        let base = Some("http://localhost/v1");
        assert_eq!(model("gpt-5", base).longest(), "max_completion_tokens");
        assert_eq!(model("o3", base).longest(), "max_completion_tokens");
        assert_eq!(model("any", None).longest(), "max_completion_tokens");
        assert_eq!(model("olmo", base).longest(), "max_tokens");
        assert_eq!(model("deepseek/chat", base).longest(), "max_tokens");
    }
}
