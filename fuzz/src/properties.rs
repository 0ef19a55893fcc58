//! Turns any bytes into a project and checks what holds for every project: a
//! compile ends, does not panic, says the same twice, and names a place that
//! exists; a format changes the layout and nothing else, and only once.

use loopy_compiler::{Compilation, Diagnostic, Sources, compile, format, render};

/// A place where bytes of unknown origin come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The YAML of a step.
    Frontmatter,
    /// `registry.yml`.
    Registry,
    /// The body of a step.
    Template,
    /// The expressions of a step.
    Expression,
    /// A sensor in Python.
    Python,
    /// A sensor in TypeScript.
    TypeScript,
    /// A sensor in shell.
    Shell,
    /// All files, each after a line `=== path`.
    Project,
    /// What `loopy fmt` is given: a step when the first line is `---`, else a
    /// registry.
    Format,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Frontmatter,
        Self::Registry,
        Self::Template,
        Self::Expression,
        Self::Python,
        Self::TypeScript,
        Self::Shell,
        Self::Project,
        Self::Format,
    ];

    /// The name of the target's binary and of its folder of seeds.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frontmatter => "frontmatter",
            Self::Registry => "registry",
            Self::Template => "template",
            Self::Expression => "expression",
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::Shell => "shell",
            Self::Project => "project",
            Self::Format => "format",
        }
    }
}

const REGISTRY: &str = "\
defaults: { agent: { sandbox: Box, harness: claude-code, model: claude-sonnet-4-6 } }
sandboxes: { Box: { provider: local } }
agents: { Worker: , Shell: { harness: command } }
events:
  Ping: { who: str, count: int, kind: enum[a, b], tags: list[str], maybe: str?, deep: { at: datetime } }
  Pong: { text: str }
";
const STEP: &str = "workflows/greet/hello.md";

/// Checks one input.
///
/// # Panics
/// When something does not hold.
pub fn check(target: Target, data: &[u8]) {
    if target == Target::Format {
        return check_format(data);
    }
    let mut sources = Sources::default();
    sources.insert("registry.yml", REGISTRY);
    sources.insert(
        "workflows/greet/tell.md",
        "---\nafter: hello\nagent: Worker\n---\n{{ hello.verdict }} {{ event.who }}\n",
    );
    sources.insert(
        STEP,
        step("on: Ping\nagent: Worker\noutput: { verdict: str }", "x"),
    );
    match target {
        Target::Frontmatter => {
            let file = [b"---\n", data, b"\n---\nDo it for {{ event.who }}.\n"].concat();
            sources.insert(STEP, file);
        }
        Target::Registry => sources.insert("registry.yml", data),
        Target::Template => {
            let file = [step("on: Ping\nagent: Shell", "").as_bytes(), data].concat();
            sources.insert(STEP, file);
        }
        Target::Expression => {
            let text = String::from_utf8_lossy(data);
            let quoted = text.replace('\'', "''").replace(['\n', '\r'], " ");
            let yaml = format!(
                "on: {{ event: Ping, when: '{quoted}' }}\nagent: Worker\nwhen: '{quoted}'\n\
                 output: {{ verdict: enum[pass, fail], n: int }}\nemits: {{ Pong: {{ when: '{quoted}' }} }}\n\
                 loop: {{ to: hello, until: '{quoted}', max: 3 }}"
            );
            sources.insert(STEP, step(&yaml, "x"));
            let yaml = format!("after: hello\nagent: Worker\neach: '{quoted}'\nwhen: '{quoted}'");
            sources.insert("workflows/greet/tell.md", step(&yaml, "x"));
        }
        Target::Python => sources.insert("sensors/a.py", data),
        Target::TypeScript => sources.insert("sensors/a.ts", data),
        Target::Shell => sources.insert("sensors/a.sh", data),
        Target::Project => sources = project(&String::from_utf8_lossy(data)),
        Target::Format => {}
    }
    check_compile(&sources);
}

fn step(yaml: &str, body: &str) -> String {
    format!("---\n{yaml}\n---\n{body}")
}

/// The files of a text in which each begins with a line `=== path`.
fn project(text: &str) -> Sources {
    let mut sources = Sources::default();
    for file in text.split("=== ").skip(1) {
        let (path, content) = file.split_once('\n').unwrap_or((file, ""));
        sources.insert(path, content);
    }
    sources
}

fn check_compile(sources: &Sources) -> Compilation {
    let compilation = compile(sources);
    for diagnostic in &compilation.diagnostics {
        check_place(sources, diagnostic);
    }
    render::human(&compilation.diagnostics, sources, true);
    render::json(&compilation.diagnostics);
    let again = compile(sources);
    assert_eq!(
        compilation.diagnostics, again.diagnostics,
        "a second compile says something else"
    );
    let json = |c: &Compilation| c.manifest.as_ref().map(|manifest| manifest.to_json());
    assert_eq!(
        json(&compilation),
        json(&again),
        "a second compile gives other bytes"
    );
    compilation
}

/// A diagnostic stands in a file that is there, and inside it.
fn check_place(sources: &Sources, diagnostic: &Diagnostic) {
    let span = diagnostic.span;
    let Some(bytes) = sources.bytes(&diagnostic.file) else {
        // What is missing can only be said of the file that should be there.
        assert_eq!(
            diagnostic.file, "registry.yml",
            "no such file: {diagnostic:?}"
        );
        return;
    };
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split('\n').collect();
    let line = lines.get(span.line as usize - 1);
    let Some(line) = line else {
        panic!("the file has {} lines: {diagnostic:?}", lines.len());
    };
    let length = line.chars().count();
    let start = span.column as usize - 1;
    assert!(
        start <= length,
        "the line has {length} characters: {diagnostic:?}"
    );
    assert!(
        start + span.length as usize <= length.max(start + 1),
        "the line has {length} characters: {diagnostic:?}"
    );
}

fn check_format(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let is_step = text.lines().next().is_some_and(|line| line.trim() == "---");
    let path = if is_step { STEP } else { "registry.yml" };
    let said = |text: &str| {
        let mut sources = Sources::default();
        sources.insert("registry.yml", REGISTRY);
        sources.insert(path, text);
        let compilation = check_compile(&sources);
        let diagnostics = compilation.diagnostics.into_iter();
        let mut said: Vec<_> = diagnostics.map(|d| (d.code, d.file, d.message)).collect();
        said.sort();
        (
            compilation.manifest.map(|manifest| manifest.to_json()),
            said,
        )
    };
    match format::file(path, text) {
        Ok(once) => {
            let twice = format::file(path, &once);
            assert_eq!(
                twice.as_ref(),
                Ok(&once),
                "a second format changes something"
            );
            assert_eq!(
                said(text),
                said(&once),
                "a format changes the meaning: {once}"
            );
        }
        Err(found) => {
            assert!(
                !found.is_empty(),
                "a file that has no layout has no diagnostic"
            );
            assert!(said(text).0.is_none(), "a file that compiles has no layout");
        }
    }
}
