//! Writes diagnostics as a SARIF 2.1.0 log, which code scanning services read.

use super::{full_message, path_below};
use crate::diagnostic::{Code, Diagnostic};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// For code scanning: a log of one run, with the rules that it found broken.
/// `folder` is the project's folder from the root of the repository, empty when
/// that is the project.
pub fn sarif(diagnostics: &[Diagnostic], folder: &str) -> String {
    let mut rules: BTreeMap<Code, usize> = diagnostics
        .iter()
        .map(|diagnostic| (diagnostic.code, 0))
        .collect();
    for (index, at) in rules.values_mut().enumerate() {
        *at = index;
    }
    let results: Vec<Value> = diagnostics
        .iter()
        .map(|diagnostic| {
            let index = rules.get(&diagnostic.code);
            result(diagnostic, index.copied().unwrap_or_default(), folder)
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "loopy",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.keys().copied().map(rule).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.name(),
        "shortDescription": { "text": code.title() },
        "help": {
            "text": format!("`loopy docs errors {}` explains it.", code.short()),
            "markdown": code.page(),
        },
        "defaultConfiguration": { "level": code.severity().name() },
    })
}

fn result(diagnostic: &Diagnostic, rule: usize, folder: &str) -> Value {
    let span = diagnostic.span;
    json!({
        "ruleId": diagnostic.code.name(),
        "ruleIndex": rule,
        "level": diagnostic.severity.name(),
        "message": { "text": full_message(diagnostic) },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&path_below(folder, diagnostic)) },
            "region": {
                "startLine": span.line,
                "startColumn": span.column,
                "endLine": span.line,
                "endColumn": span.column.saturating_add(span.length),
            },
        } }],
    })
}

/// A path as a relative URI.
fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
