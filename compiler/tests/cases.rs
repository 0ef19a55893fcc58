//! Runs the literate cases in `tests/cases/*.md`.
//!
//! A case is a `##` heading, the files of a small project, each in a block
//! fenced by four backticks whose info string is `<language> <path>`, and what
//! a compile of it says in a `diagnostics` block: all of it, in order, one
//! diagnostic a line, as `error LOOPY-E105 workflows/x/a.md:2:8: text`, where
//! the text has to occur in the message or the hint. A `manifest` block holds
//! JSON that has to be found in the manifest, key by key.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loopy_compiler::{Sources, compile};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The registry of cases that bring none; they need not use all of it.
const REGISTRY: &str = r"
defaults: { agent: { sandbox: Box, harness: claude-code, model: claude-sonnet-4-6 } }
sandboxes: { Box: { provider: local } }
agents: { Worker: }
events: { Ping: { who: str, count: int } }
warnings: { W502: off, W503: off, W504: off }
";

#[derive(Default)]
struct Case {
    name: String,
    sources: Sources,
    diagnostics: Vec<String>,
    manifest: Option<Value>,
}

fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            let mut case = Case {
                name: name.to_owned(),
                ..Case::default()
            };
            case.sources.insert("registry.yml", REGISTRY);
            cases.push(case);
        } else if let Some(info) = line.strip_prefix("````") {
            let case = cases.last_mut().unwrap();
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "````").collect();
            match info.split_once(' ') {
                Some((_, path)) => case.sources.insert(path, block.join("\n") + "\n"),
                None if info == "diagnostics" => {
                    case.diagnostics = block.iter().map(|line| (*line).to_owned()).collect();
                }
                None if info == "manifest" => {
                    case.manifest = Some(serde_json::from_str(&block.join("\n")).unwrap());
                }
                None => panic!("{}: a block called `{info}`", case.name),
            }
        }
    }
    cases
}

/// What is wrong with a case; nothing when it holds.
fn check(case: &Case) -> Vec<String> {
    let compilation = compile(&case.sources);
    let mut wrong = Vec::new();
    let found = &compilation.diagnostics;
    for at in 0..found.len().max(case.diagnostics.len()) {
        let line = found.get(at).map(|d| {
            let place = format!("{}:{}:{}", d.file, d.span.line, d.span.column);
            let head = format!("{} {} {place}", d.severity.name(), d.code.name());
            (
                head,
                format!("{} | {}", d.message, d.hint.as_deref().unwrap_or_default()),
            )
        });
        match (line, case.diagnostics.get(at)) {
            (Some((head, said)), Some(want)) => {
                let (want_head, want_text) = want.split_once(": ").unwrap_or((want, ""));
                if head != want_head || !said.contains(want_text) {
                    wrong.push(format!("want {want}\n   got {head}: {said}"));
                }
            }
            (Some((head, said)), None) => wrong.push(format!("unexpected {head}: {said}")),
            (None, Some(want)) => wrong.push(format!("missing {want}")),
            (None, None) => {}
        }
    }
    if let Some(want) = &case.manifest {
        match &compilation.manifest {
            Some(manifest) => {
                let got = serde_json::to_value(manifest).unwrap();
                missing(want, &got, "manifest", &mut wrong);
            }
            None => wrong.push("there is no manifest".to_owned()),
        }
    }
    wrong
}

fn missing(want: &Value, got: &Value, at: &str, wrong: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, value) in want {
                missing(
                    value,
                    got.get(key).unwrap_or(&Value::Null),
                    &format!("{at}.{key}"),
                    wrong,
                );
            }
        }
        _ if want == got => {}
        _ => wrong.push(format!("{at}: want {want}, got {got}")),
    }
}

#[test]
fn every_case_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for case in read(&fs::read_to_string(&path).unwrap()) {
            count += 1;
            let title = format!("{}: {}", path.file_name().unwrap().display(), case.name);
            wrong.extend(
                check(&case)
                    .into_iter()
                    .map(|what| format!("{title}\n  {what}")),
            );
        }
    }
    assert!(count > 20, "only {count} cases were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
