//! Runs the literate cases in `tests/cases/*.md`, which `literate` describes:
//! what a compile says of their projects, all of it and nothing else.
//!
//! A `manifest` block holds JSON that has to be found in the manifest, key by
//! key. `LOOPY_CASES=update cargo test -p loopy-compiler --test cases` writes
//! the marks anew; the diff is then to be read like any other.

#![expect(clippy::unwrap_used, reason = "tests")]

mod literate;

use literate::{Block, Case, Mark};
use loopy_compiler::{Compilation, Diagnostic, Sources, compile, cursor};
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

fn compiled(case: &Case) -> Compilation {
    let mut sources = Sources::default();
    sources.insert("registry.yml", REGISTRY);
    for (path, text) in case.files() {
        sources.insert(path, text);
    }
    compile(&sources)
}

/// A diagnostic as a mark with this text.
fn mark(diagnostic: &Diagnostic, text: &str) -> Mark {
    Mark {
        line: diagnostic.span.line,
        column: diagnostic.span.column,
        length: diagnostic.span.length,
        what: format!("{} {}", diagnostic.severity.name(), diagnostic.code.name()),
        text: text.to_owned(),
    }
}

/// Whether a text occurs in what a diagnostic says.
fn says(diagnostic: &Diagnostic, text: &str) -> bool {
    let hint = diagnostic.hint.as_deref().unwrap_or_default();
    diagnostic.message.contains(text) || hint.contains(text)
}

/// Whether there is a line in the case that a diagnostic can stand below.
fn has_line(case: &Case, diagnostic: &Diagnostic) -> bool {
    let mut files = case.files();
    let file = files.find(|(path, _)| *path == diagnostic.file);
    file.is_some_and(|(_, text)| text.lines().count() >= diagnostic.span.line as usize)
}

/// What is wrong with a case; nothing when it holds.
fn check(case: &Case) -> Vec<String> {
    let compilation = compiled(case);
    let found = &compilation.diagnostics;
    let mut wrong = Vec::new();
    for block in &case.blocks {
        let said: Vec<&Diagnostic> = found.iter().filter(|d| d.file == block.name).collect();
        compare(block, &said, &mut wrong);
        match block.name.as_str() {
            _ if block.is_file => {}
            "manifest" => {
                let want: Value = serde_json::from_str(&block.text).unwrap();
                match &compilation.manifest {
                    Some(manifest) => {
                        let got = serde_json::to_value(manifest).unwrap();
                        missing(&want, &got, "manifest", &mut wrong);
                    }
                    None => wrong.push("there is no manifest".to_owned()),
                }
            }
            name => wrong.push(format!("a block called `{name}`")),
        }
    }
    // No mark can be made of these, not even by an update.
    for diagnostic in found.iter().filter(|d| !has_line(case, d)) {
        wrong.push(format!("{diagnostic:?} has no line in this case"));
    }
    wrong
}

/// Compares the marks of a file with what is said of it, in the order of both.
fn compare(block: &Block, said: &[&Diagnostic], wrong: &mut Vec<String>) {
    let place = |mark: &Mark| {
        let Mark { line, column, .. } = mark;
        format!("{}:{line}:{column}", block.name)
    };
    for at in 0..said.len().max(block.marks.len()) {
        match (said.get(at), block.marks.get(at)) {
            (Some(diagnostic), Some(want)) => {
                let got = mark(diagnostic, &want.text);
                if got != *want || !says(diagnostic, &want.text) {
                    let got = mark(diagnostic, &diagnostic.message);
                    wrong.push(format!(
                        "want {}\n{want}\n  got {}\n{got}\n  hint {:?}",
                        place(want),
                        place(&got),
                        diagnostic.hint
                    ));
                }
            }
            (Some(diagnostic), None) => {
                let got = mark(diagnostic, &diagnostic.message);
                wrong.push(format!("unexpected {}\n{got}", place(&got)));
            }
            (None, Some(want)) => wrong.push(format!("missing {}\n{want}", place(want))),
            (None, None) => {}
        }
    }
}

/// The file of cases with the marks that are due. A mark of the same file and
/// code keeps its text where that is still said.
fn updated(text: &str) -> String {
    let cases = literate::cases(text);
    literate::with_marks(text, |case, path| {
        let Some(case) = cases.get(case) else {
            return Vec::new();
        };
        let blocks = case.blocks.iter().filter(|block| block.name == path);
        let mut old: Vec<&Mark> = blocks.flat_map(|block| &block.marks).collect();
        let compilation = compiled(case);
        let said = compilation.diagnostics.iter().filter(|d| d.file == path);
        said.map(|diagnostic| {
            let plain = mark(diagnostic, "");
            let kept = old
                .iter()
                .position(|mark| mark.what == plain.what && says(diagnostic, &mark.text))
                .map(|at| old.remove(at).text.clone());
            let first_line = || diagnostic.message.lines().next().unwrap_or_default();
            mark(diagnostic, &kept.unwrap_or_else(|| first_line().to_owned()))
        })
        .collect()
    })
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
    let update = std::env::var_os("LOOPY_CASES").is_some_and(|what| what == "update");
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut text = fs::read_to_string(&path).unwrap();
        if update {
            text = updated(&text);
            fs::write(&path, &text).unwrap();
        }
        for case in literate::cases(&text) {
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

#[test]
fn a_cursor_may_stand_anywhere() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for case in literate::cases(&text) {
            for (path, text) in case.files() {
                for offset in 0..=text.len() {
                    let Some(cursor) = cursor(path, text, offset) else {
                        continue;
                    };
                    found += 1;
                    let word = text.get(cursor.word_start..text.floor_char_boundary(offset));
                    assert!(word.is_some(), "{path} at {offset}: {cursor:?}\n{text}");
                }
            }
        }
    }
    assert!(found > 5000, "only {found} places take something");
}

/// A case that holds.
const HOLDS: &str = "\
## a case

````markdown workflows/greet/a.md
---
on: Ping
colour: red
~~~~~~ warning LOOPY-W101: `colour`
agent: Wroker
       ~~~~~~ error LOOPY-E501: `Worker`
---
{{ event.wo }} {{ event.x }}
~~~~~~~~~~~~~~ error LOOPY-E302: `who`
               ~~~~~~~~~~~~~ error LOOPY-E302
````
";

#[test]
fn a_wrong_mark_fails() {
    let wrong = |text: &str| -> Vec<String> {
        let cases = literate::cases(text);
        assert_eq!(cases.len(), 1);
        cases.iter().flat_map(check).collect()
    };
    assert_eq!(wrong(HOLDS), Vec::<String>::new());
    let mark = "       ~~~~~~ error LOOPY-E501: `Worker`\n";
    let line = "agent: Wroker\n";
    for (what, old, new) in [
        ("the column", mark, format!(" {mark}")),
        ("the length", mark, mark.replacen('~', "~~", 1)),
        ("the severity", mark, mark.replace("error", "warning")),
        ("the code", mark, mark.replace("501", "502")),
        ("the text", mark, mark.replace("Worker", "Waiter")),
        ("the line", line, format!("---\n{mark}{line}")),
        ("one too many", mark, mark.repeat(2)),
        ("one too few", mark, String::new()),
    ] {
        let broken = HOLDS.replace(old, &new);
        assert_ne!(broken, HOLDS, "{what}");
        assert!(!wrong(&broken).is_empty(), "{what} may be wrong");
    }
    let no_such_line = HOLDS.replace("a.md\n", "a.md\n~ error LOOPY-E501\n");
    assert!(!wrong(&no_such_line).is_empty());
}

#[test]
fn an_update_writes_the_marks_that_are_due() {
    assert_eq!(updated(HOLDS), HOLDS);
    let moved = HOLDS.replace("       ~~~~~~ error", " ~ error");
    assert_eq!(updated(&moved), HOLDS);
    let lines = HOLDS.lines();
    let bare: Vec<&str> = lines.filter(|line| !line.contains("LOOPY-")).collect();
    let written = updated(&(bare.join("\n") + "\n"));
    let said = "       ~~~~~~ error LOOPY-E501: registry.yml lists no agent `Wroker`\n";
    assert!(written.contains(said), "{written}");
    let cases = literate::cases(&written);
    assert_eq!(check(&cases[0]), Vec::<String>::new());
}
