//! What `loopy fmt` makes of files: literate cases, and what holds for all.
//!
//! A case in `tests/format/*.md` is a `##` heading, a block fenced by four
//! backticks whose info string is `before <path>`, and the block `after`; a
//! case without the second stays as it is.

#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "only the files of the cases are read here")]
mod literate;

use loopy_compiler::{Compilation, Sources, compile, format};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// Lays out twice, and compares what a project of it means.
fn check(path: &str, text: &str) -> String {
    let once = format::file(path, text).unwrap();
    assert_eq!(
        format::file(path, &once).unwrap(),
        once,
        "a second time makes something else of\n{text}"
    );
    let (before, after) = (meaning(path, text), meaning(path, &once));
    assert_eq!(before.0, after.0, "{text}\n=>\n{once}");
    assert_eq!(before.1, after.1, "{text}\n=>\n{once}");
    once
}

/// The manifest, and what is said, without the places.
fn meaning(path: &str, text: &str) -> (Option<String>, Vec<String>) {
    let mut sources = Sources::default();
    sources.insert("registry.yml", REGISTRY);
    sources.insert(path, text);
    said(&compile(&sources))
}

fn said(compilation: &Compilation) -> (Option<String>, Vec<String>) {
    let mut said: Vec<String> = compilation
        .diagnostics
        .iter()
        .map(|d| format!("{} {} {}", d.code.name(), d.file, d.message))
        .collect();
    said.sort();
    (compilation.manifest.as_ref().map(|m| m.to_json()), said)
}

const REGISTRY: &str = "\
defaults: { agent: { sandbox: Box, harness: claude-code, model: claude-sonnet-4-6 } }
sandboxes: { Box: { provider: local } }
agents: { Worker: }
events: { Ping: { who: str, count: int } }
";

#[test]
fn every_case_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for case in text.split("\n## ").skip(1) {
            count += 1;
            let name = case.lines().next().unwrap();
            let block = |head: &str| {
                let (_, from) = case.split_once(&format!("\n````{head}"))?;
                let (info, from) = from.split_once('\n')?;
                let content = from.split_once("````\n").map(|(content, _)| content)?;
                Some((info.trim().to_owned(), content.to_owned()))
            };
            let (path, before) = block("before").unwrap();
            let after = block("after").map_or_else(|| before.clone(), |(_, after)| after);
            let got = check(&path, &before);
            assert!(got == after, "{name}: want\n{after}\ngot\n{got}");
        }
    }
    assert!(count > 15, "only {count} cases were found");
}

#[test]
fn what_does_not_parse_is_told_like_a_compile_tells_it() {
    for (path, text, code) in [
        ("registry.yml", "agents: [", "LOOPY-E001"),
        ("registry.yml", "a: 1\na: 2\n", "LOOPY-E001"),
        ("registry.yml", "- a\n", "LOOPY-E001"),
        ("workflows/w/s.md", "on: Ping\n", "LOOPY-E101"),
        ("workflows/w/s.md", "---\non: Ping\n", "LOOPY-E101"),
        ("workflows/w/s.md", "---\non: [\n---\nx", "LOOPY-E101"),
        (
            "workflows/w/s.md",
            "---\non: A\non: B\n---\nx",
            "LOOPY-E101",
        ),
        (
            "workflows/w/s.md",
            "\u{feff}---\non: A\n---\nx",
            "LOOPY-E101",
        ),
    ] {
        let found = format::file(path, text).unwrap_err();
        assert!(!found.is_empty(), "{text}");
        for diagnostic in &found {
            assert_eq!((diagnostic.code.name(), &*diagnostic.file), (code, path));
        }
        let mut sources = Sources::default();
        sources.insert(path, text);
        let compiled = compile(&sources).diagnostics;
        assert!(found.iter().all(|found| compiled.contains(found)), "{text}");
    }
}

/// Everything in the examples is laid out already.
#[test]
fn the_examples_are_formatted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for example in fs::read_dir(folder).unwrap() {
        let root = example.unwrap().path();
        if !root.join("registry.yml").is_file() {
            continue;
        }
        for (path, text) in laid_out_files(&root) {
            count += 1;
            let formatted = format::file(&path, &text).unwrap();
            assert!(
                formatted == text,
                "run `loopy fmt {}`: {path} would be\n{formatted}",
                root.display()
            );
        }
    }
    assert!(count >= 7, "only {count} files were found");
}

fn laid_out_files(root: &Path) -> Vec<(String, String)> {
    let mut files = vec!["registry.yml".to_owned()];
    for workflow in fs::read_dir(root.join("workflows")).unwrap() {
        for step in fs::read_dir(workflow.unwrap().path()).unwrap() {
            let path = step.unwrap().path();
            files.push(
                path.strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    files.retain(|path| format::takes(path));
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root.join(&path)).unwrap();
            (path, text)
        })
        .collect()
}

/// The files of all compile cases keep their meaning.
#[test]
fn the_compile_cases_keep_their_meaning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let (mut count, mut moved) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for case in literate::cases(&text) {
            let (mut before, mut after) = (Sources::default(), Sources::default());
            before.insert("registry.yml", REGISTRY);
            after.insert("registry.yml", REGISTRY);
            for (path, content) in case.files() {
                let formatted = format::file(path, content).unwrap_or_else(|_| content.to_owned());
                let again = format::file(path, &formatted).unwrap_or_else(|_| content.to_owned());
                assert_eq!(again, formatted, "{content}");
                count += 1;
                moved += usize::from(formatted != content);
                before.insert(path, content);
                after.insert(path, formatted);
            }
            let (before, after) = (said(&compile(&before)), said(&compile(&after)));
            assert_eq!(before, after, "{}", case.name);
        }
    }
    assert!(count > 60 && moved > 5, "{count} files, {moved} changed");
}

/// A piece of YAML with any layout: keys and values that the language knows,
/// and others; comments anywhere that YAML takes them.
fn yaml(level: usize) -> BoxedStrategy<String> {
    let scalar = prop::sample::select(vec![
        "str",
        "enum[a, b]",
        "'it''s'",
        "\"q # no\"",
        "12",
        "0x10",
        "~",
        "true",
        "a b",
        "x:y",
        "list[{ a: int }]?",
        "cron(\"0 9 * * 1\", tz=UTC)",
        "é",
        "",
        "- 1",
        "&a x",
    ]);
    let flow = prop::sample::select(vec![
        "{a: 1,b: [x,y]}",
        "{ usd: 4 }",
        "[]",
        "{}",
        "[ a, b, ]",
        "{ model: claude-x, harness: codex }",
        "{ Worker: }",
        "{ a: 1, # c\n                b: 2 }",
        "[a,\n            b]",
        "{ one: aaaaaaaaaaaaaaaaaaaaaaaaaaa, two: [bbbbbbbbbbbbbbbbbbbbbbbbb, { c: ccccccccccccccccccccccc }], three: ddddddddddddddd }",
    ]);
    let blanks = prop::sample::select(vec![" ", "  ", "   "]);
    let leaf = prop_oneof![scalar, flow].prop_map(str::to_owned);
    let key = prop::sample::select(vec![
        "on",
        "agent",
        "output",
        "emits",
        "budget",
        "defaults",
        "agents",
        "sandboxes",
        "model",
        "harness",
        "provider",
        "image",
        "url",
        "spend",
        "\"quoted\"",
        "other",
        "é",
        "<<",
    ]);
    let comment = prop::sample::select(vec![
        "",
        "",
        "",
        "# c\n",
        "\n",
        "\n\n\n",
        "# a\n\n# b\n",
        "\n  # in\n",
    ]);
    let note = prop::sample::select(vec!["", "", "", " # note", "   # far"]);
    let own = (comment, key, blanks, leaf, note, any::<u8>());
    prop::collection::vec(own, 1..5)
        .prop_flat_map(move |entries| {
            let below = if level == 0 {
                Just(String::new()).boxed()
            } else {
                yaml(level - 1)
            };
            (Just(entries), prop::collection::vec(below, 5))
        })
        .prop_map(|(entries, below)| {
            let mut out = String::new();
            let mut used = Vec::new();
            for ((comment, key, blanks, leaf, note, kind), below) in entries.into_iter().zip(below)
            {
                if used.contains(&key) {
                    continue;
                }
                used.push(key);
                out.push_str(comment);
                let value = match kind % 8 {
                    0..=2 => format!("{blanks}{leaf}{note}\n"),
                    3 => format!("{blanks}|{note}\n    text\n      # no comment\n\n    {leaf}\n"),
                    4 => format!("{note}\n{}", list(&below)),
                    5 => format!("{note}\n{blanks}  {leaf}\n"),
                    _ => format!("{note}\n{}", shift(&below, blanks)),
                };
                out.push_str(&format!("{key}:{value}"));
            }
            out
        })
        .boxed()
}

fn shift(text: &str, blanks: &str) -> String {
    text.lines()
        .map(|line| format!("{blanks}{line}\n"))
        .collect()
}

fn list(text: &str) -> String {
    let mut out = String::new();
    for (index, line) in text.lines().enumerate() {
        out.push_str(if index == 0 { "-  " } else { "   " });
        out.push_str(line);
        out.push('\n');
    }
    out + "- x\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layout_of_a_registry_keeps_its_meaning(text in yaml(2)) {
        if format::file("registry.yml", &text).is_ok() {
            check("registry.yml", &text);
        }
    }

    #[test]
    fn any_layout_of_a_step_keeps_its_meaning(text in yaml(2), body in "[ -~\n\r\t]{0,40}", windows in any::<bool>()) {
        let mut text = format!("---\n{text}---\n{body}");
        if windows {
            text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        }
        if format::file("workflows/w/s.md", &text).is_ok() {
            let formatted = check("workflows/w/s.md", &text);
            prop_assert!(formatted.ends_with(&body) || windows);
        }
    }
}
