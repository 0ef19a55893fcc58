//! A repository's webhook as it is and as it should be, and what lies between. Pure.

use serde::Deserialize;
use std::collections::BTreeSet;

/// A webhook as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Where deliveries go.
    pub(super) url: String,
    /// GitHub's names of the events it is sent, or `*` alone.
    pub(super) events: BTreeSet<String>,
}

/// A webhook as GitHub describes it ("List repository webhooks").
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Hook {
    pub(super) id: u64,
    active: bool,
    events: BTreeSet<String>,
    config: Config,
    #[serde(default)]
    last_response: LastResponse,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    url: String,
    #[serde(default)]
    content_type: String,
    /// GitHub answers with a text, and takes a number.
    #[serde(default)]
    insecure_ssl: serde_json::Value,
    /// Stars, where there is one.
    #[serde(default)]
    secret: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct LastResponse {
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    message: Option<String>,
}

/// How a repository stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No webhook leads here.
    Missing,
    /// One does, and is not as it should be.
    Stale(u64, Vec<String>),
    /// It is as it should be, as far as GitHub tells.
    Right(u64),
}

impl Hook {
    /// What the last delivery was answered, when that was no success.
    pub(super) fn failing(&self) -> Option<String> {
        let last = &self.last_response;
        let code = last.code.filter(|code| !(200..300).contains(code))?;
        let message = last.message.as_deref().unwrap_or_default();
        Some(
            format!("its last delivery was answered {code} {message}")
                .trim_end()
                .to_owned(),
        )
    }

    fn differs(&self, wanted: &Wanted) -> Vec<String> {
        let list = |events: &BTreeSet<String>| {
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            events.join(", ")
        };
        let mut differs = Vec::new();
        if !self.active {
            differs.push("it is switched off".to_owned());
        }
        if self.events != wanted.events {
            differs.push(format!(
                "it is sent {}, and should be sent {}",
                list(&self.events),
                list(&wanted.events)
            ));
        }
        if self.config.content_type != "json" {
            differs.push(format!("its content type is {}", self.config.content_type));
        }
        if !matches!(self.config.insecure_ssl.as_str(), None | Some("0")) {
            differs.push("certificates are not checked".to_owned());
        }
        if self.config.secret.as_deref().is_none_or(str::is_empty) {
            differs.push("it has no secret".to_owned());
        }
        differs
    }
}

/// How a repository with these webhooks stands.
pub(super) fn standing(hooks: &[Hook], wanted: &Wanted) -> Standing {
    match hooks.iter().find(|hook| hook.config.url == wanted.url) {
        None => Standing::Missing,
        Some(hook) => {
            let differs = hook.differs(wanted);
            if differs.is_empty() {
                Standing::Right(hook.id)
            } else {
                Standing::Stale(hook.id, differs)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn hook(change: impl FnOnce(&mut Value)) -> Hook {
        let mut hook = json!({
            "type": "Repository", "id": 7, "name": "web", "active": true,
            "events": ["push", "issues"],
            "config": {"content_type": "json", "insecure_ssl": "0", "url": "https://x.org/hooks/github", "secret": "********"},
            "last_response": {"code": null, "status": "unused", "message": null},
        });
        change(&mut hook);
        serde_json::from_value(hook).unwrap()
    }

    #[test]
    fn what_differs_is_said() {
        let wanted = Wanted {
            url: "https://x.org/hooks/github".to_owned(),
            events: ["issues", "push"].map(str::to_owned).into(),
        };
        let of = |hook: Hook| standing(&[hook], &wanted);
        assert_eq!(of(hook(|_| ())), Standing::Right(7));
        let elsewhere = hook(|hook| hook["config"]["url"] = json!("https://y.org/hooks/github"));
        assert_eq!(of(elsewhere), Standing::Missing);
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 5] = [
            (|hook| hook["active"] = json!(false), "it is switched off"),
            (
                |hook| hook["events"] = json!(["push"]),
                "it is sent push, and should be sent issues, push",
            ),
            (
                |hook| hook["config"]["content_type"] = json!("form"),
                "its content type is form",
            ),
            (
                |hook| hook["config"]["insecure_ssl"] = json!("1"),
                "certificates are not checked",
            ),
            (
                |hook| {
                    hook["config"].as_object_mut().unwrap().remove("secret");
                },
                "it has no secret",
            ),
        ];
        for (change, said) in changes {
            assert_eq!(of(hook(change)), Standing::Stale(7, vec![said.to_owned()]));
        }
    }

    #[test]
    fn a_last_delivery_that_was_refused_is_told() {
        assert_eq!(hook(|_| ()).failing(), None);
        let answered = |code: u16| {
            hook(|hook| hook["last_response"] = json!({"code": code, "message": "Invalid"}))
        };
        assert_eq!(answered(202).failing(), None);
        let said = "its last delivery was answered 401 Invalid";
        assert_eq!(answered(401).failing().as_deref(), Some(said));
    }
}
