//! What belongs at a place in `registry.yml`.

use super::spot::{ITEM, spot};
use super::{Cursor, Slot, types};
use crate::registry::{
    AGENT_KEYS, CAP_KEYS, HARNESS_KEYS, IMAGE_KEYS, LIMIT_KEYS, MODEL_KEYS, PRICE_KEYS, PROVIDERS,
    REPO_KEYS, SANDBOX_KEYS, SECTIONS,
};
use loopy_contract::manifest::Harness;

/// What belongs behind this text.
pub(super) fn cursor(before: &str) -> Option<Cursor> {
    let spot = spot(before, 0)?;
    let key = spot.takes_key.then(|| key(&spot.path)).flatten();
    let value = || spot.takes_value.then(|| value(&spot.path)).flatten();
    Some(Cursor {
        slot: key.or_else(value)?,
        word_start: spot.word_start,
    })
}

/// The keys of the map at a path.
fn key(path: &[&str]) -> Option<Slot> {
    let keys: &'static [&'static str] = match path {
        [] => &SECTIONS,
        ["defaults"] => &["agent"],
        ["defaults", "agent"] | ["agents", _] => &AGENT_KEYS,
        ["defaults", "agent", "harness"] | ["agents", _, "harness"] => &HARNESS_KEYS,
        ["sandboxes", _] => &SANDBOX_KEYS,
        ["sandboxes", _, "image"] => &IMAGE_KEYS,
        ["sandboxes", _, "repos", ITEM] => &REPO_KEYS,
        ["limits"] => &LIMIT_KEYS,
        ["limits", "cascade" | "day"] | ["limits", "workflows", _] => &CAP_KEYS,
        ["limits", "cascade_spend"]
        | ["limits", "cascade" | "day", "spend"]
        | ["limits", "workflows", _, "spend"] => &["usd"],
        ["limits", "workflows"] => return Some(Slot::Workflow),
        ["prices", _] => &PRICE_KEYS,
        ["warnings"] => return Some(Slot::Warning),
        _ => return None,
    };
    Some(Slot::Key(keys))
}

/// What the value at a path may be.
fn value(path: &[&str]) -> Option<Slot> {
    let of_agent = match path {
        ["defaults", "agent", rest @ ..] | ["agents", _, rest @ ..] => rest,
        _ => &[],
    };
    Some(match (path, of_agent) {
        (_, ["harness"] | ["harness", "runtime"]) => {
            Slot::Value(Harness::ALL.map(Harness::name).to_vec())
        }
        (_, ["sandbox"]) => Slot::Sandbox,
        (_, ["skills", ITEM]) => Slot::Skill,
        (["sandboxes", _, "provider"], _) => Slot::Value(PROVIDERS.to_vec()),
        (["sandboxes", _, "model_keys"], _) => Slot::Value(MODEL_KEYS.to_vec()),
        (["warnings", _], _) => Slot::Value(vec!["off", "on"]),
        (["events", _, field @ ..], _) => types(field)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(before: &str) -> Option<Slot> {
        cursor(before).map(|found| found.slot)
    }

    #[test]
    fn each_place_takes_its_keys() {
        let cases: [(&str, &[&str]); 12] = [
            ("ag", &SECTIONS),
            ("defaults: { ", &["agent"]),
            ("defaults:\n  agent:\n    ", &AGENT_KEYS),
            ("agents:\n  Coder:\n    mo", &AGENT_KEYS),
            ("agents: { Coder: { harness: { ", &HARNESS_KEYS),
            ("sandboxes:\n  Box: { p", &SANDBOX_KEYS),
            ("sandboxes:\n  Box:\n    image:\n      a", &IMAGE_KEYS),
            ("sandboxes:\n  Box:\n    repos:\n      - u", &REPO_KEYS),
            ("limits: { ", &LIMIT_KEYS),
            ("limits: { day: { ", &CAP_KEYS),
            ("limits: { workflows: { w: { ", &CAP_KEYS),
            ("limits: { cascade: { spend: { ", &["usd"]),
        ];
        for (before, keys) in cases {
            assert!(
                matches!(slot(before), Some(Slot::Key(found)) if found == keys),
                "{before}: {:?}",
                slot(before)
            );
        }
    }

    #[test]
    fn each_key_takes_its_values() {
        for (before, want) in [
            ("agents:\n  Coder:\n    sandbox: B", Slot::Sandbox),
            ("defaults: { agent: { sandbox: ", Slot::Sandbox),
            ("agents:\n  Coder:\n    skills: [a, b", Slot::Skill),
            ("agents:\n  Coder:\n    skills:\n      - b", Slot::Skill),
            ("limits:\n  workflows:\n    w", Slot::Workflow),
            ("warnings: { W5", Slot::Warning),
            ("warnings: { W501: o", Slot::Value(vec!["off", "on"])),
        ] {
            assert_eq!(slot(before), Some(want), "{before}");
        }
        for (before, word) in [
            ("agents: { Coder: { harness: c", "claude-code"),
            ("agents: { Coder: { harness: { runtime: c", "claude-code"),
            ("sandboxes:\n  Box:\n    provider: ", "daytona"),
            ("sandboxes: { Box: { model_keys: ", "proxy"),
            ("events:\n  Bug: { title: s", "str"),
            ("events:\n  Bug:\n    files: list[{ path: s", "str"),
        ] {
            assert!(
                matches!(slot(before), Some(Slot::Value(words)) if words.contains(&word)),
                "{before}: {:?}",
                slot(before)
            );
        }
        for before in [
            "agents:\n  C",
            "agents:\n  Coder:\n    model: c",
            "agents:\n  Coder:\n    tools: [R",
            "events:\n  Bug: { kind: enum[a",
            "nonsense:\n  x: y",
        ] {
            assert_eq!(slot(before), None, "{before}");
        }
    }
}
