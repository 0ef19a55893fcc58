//! Reads the page of each code: its sections are there, its example makes just
//! this diagnostic, the fix takes it away, and so does turning a warning off.
//!
//! The files of the project in an example stand in blocks fenced by four
//! backticks, with the info string `<language> <path>`, `text link <path>` for a link,
//! or `text large <path>` for a file of 17 MiB. Those of the fix are laid over them.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loopy_compiler::{Code, Severity, Sources, compile};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What stands in a block, by what stands behind its language.
type Files = BTreeMap<String, String>;

struct Section {
    title: String,
    prose: String,
    files: Files,
}

/// The parts of a page; the first has the page's title.
fn sections(page: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let title = match sections.len() {
            0 => Some(line.strip_prefix("# ").unwrap()),
            _ => line.strip_prefix("## "),
        };
        if let Some(title) = title {
            sections.push(Section {
                title: title.to_owned(),
                prose: String::new(),
                files: Files::new(),
            });
            continue;
        }
        let section = sections.last_mut().unwrap();
        if let Some(info) = line.strip_prefix("````") {
            let (_, path) = info.split_once(' ').unwrap();
            let text = lines.by_ref().take_while(|line| *line != "````");
            let text: String = text.map(|line| format!("{line}\n")).collect();
            section.files.insert(path.to_owned(), text);
        } else {
            section.prose.push_str(line);
            section.prose.push('\n');
        }
    }
    sections
}

/// The codes that a compile of these files reports.
fn codes(files: &Files) -> BTreeSet<Code> {
    let root = tempfile::tempdir().unwrap();
    let make = |path: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, text) in files {
        match path.split_once(' ') {
            Some(("link", link)) => symlink(text.trim(), make(link)).unwrap(),
            Some(("large", large)) => fs::write(make(large), vec![b'x'; 17 << 20]).unwrap(),
            _ => fs::write(make(path), text).unwrap(),
        }
    }
    let compilation = compile(&Sources::read(root.path()).unwrap());
    let diagnostics = compilation.diagnostics.iter();
    diagnostics.map(|diagnostic| diagnostic.code).collect()
}

/// A file stands in for a link at its path or above it, or for a large one.
fn lay_over(files: &Files, more: &Files) -> Files {
    let mut files = files.clone();
    files.retain(|path, _| match path.split_once(' ') {
        Some((_, link)) => !more.keys().any(|path| Path::new(path).starts_with(link)),
        None => true,
    });
    files.extend(more.clone());
    files
}

/// What is wrong with a page.
fn check(code: Code) -> Vec<String> {
    let sections = sections(code.page());
    let titles: Vec<&str> = sections.iter().map(|s| s.title.as_str()).collect();
    let title = format!("{}: {}", code.name(), code.title());
    let mut want = vec![title.as_str(), "Why", "Example", "Fix"];
    if code.severity() == Severity::Warning {
        want.push("Turn it off");
    }
    if titles != want {
        return vec![format!("its sections are {titles:?}, not {want:?}")];
    }
    let mut wrong = Vec::new();
    for section in &sections {
        if section.prose.trim().is_empty() && section.files.is_empty() {
            wrong.push(format!("`{}` is empty", section.title));
        }
    }
    let example = &sections[2].files;
    let found = codes(example);
    // What cannot come alone, the example says.
    let words = sections[2].prose.split(|c: char| !c.is_alphanumeric());
    let beside = words.filter_map(Code::from_name);
    if found != beside.chain([code]).collect() {
        wrong.push(format!("its example reports {found:?}"));
    }
    let found = codes(&lay_over(example, &sections[3].files));
    if !found.is_empty() {
        wrong.push(format!("its fix reports {found:?}"));
    }
    if let Some(section) = sections.get(4) {
        let line = format!("warnings: {{ {}: off }}\n", code.short());
        if !section.prose.contains(&line) {
            wrong.push(format!("it does not say {line:?}"));
        }
        let mut silent = example.clone();
        let registry = silent.get_mut("registry.yml").unwrap();
        if registry.contains("warnings: {") {
            let also = format!("warnings: {{ {}: off,", code.short());
            *registry = registry.replace("warnings: {", &also);
        } else {
            registry.push_str(&line);
        }
        let found = codes(&silent);
        if !found.is_empty() {
            wrong.push(format!("turned off, it still reports {found:?}"));
        }
    }
    wrong
}

#[test]
fn every_page_keeps_its_word() {
    let mut wrong = Vec::new();
    for code in Code::ALL.iter().copied() {
        let found = check(code);
        wrong.extend(found.iter().map(|what| format!("{}: {what}", code.short())));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_page_belongs_to_a_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let code = name.strip_suffix(".md").and_then(Code::from_name);
        if code.is_none() {
            panic!("docs/errors/{name} is the page of no code");
        }
    }
}

#[test]
fn codes_are_found_by_any_of_their_names() {
    for name in ["E102", "e102", "LOOPY-E102", "loopy-e102"] {
        assert_eq!(Code::from_name(name), Some(Code::E102));
    }
    for name in ["", "102", "E1020", "LOOPY-", "LOOPY-LOOPY-E102"] {
        assert_eq!(Code::from_name(name), None, "{name}");
    }
    assert_eq!(Code::nearest("E1O2"), Some(Code::E102));
    assert_eq!(Code::nearest("loopy-w50"), Some(Code::W501));
    assert_eq!(Code::nearest("colour"), None);
}
