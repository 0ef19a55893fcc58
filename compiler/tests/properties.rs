//! What holds for every project: a compile never panics, says where each error
//! is, and gives the same bytes for the same files.

#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_compiler::{Severity, Sources, compile, render};
use loopy_contract::ids::sha256_hex;
use loopy_contract::manifest::Manifest;
use proptest::prelude::*;

const REGISTRY: &str = r#"
defaults: { agent: { sandbox: Box, harness: { runtime: claude-code, model: claude-sonnet-4-6 } } }
sandboxes:
  Box: &box { provider: daytona, image: { base: "alpine:3" }, env_file: secrets/a.env, repos: [a/b, { url: c/d, depth: null }] }
agents:
  Worker: { skills: [tone] }
  Shell: { harness: command }
events:
  Ping: { who: str, kind: enum[a, b]?, files: list[{ path: str }], at: datetime }
  Pong: { fields: { deep: { a: list[int], b: { c: json? } } } }
limits: { cascade_spend: { usd: 3 }, workflows: { greet: { spend: { usd: 1.5 } } } }
"#;
const STEP: &str = r#"---
on: Ping
agent: Worker
output: { verdict: enum[pass, fail], notes: str? }
emits: [Pong]
budget: { wall_clock: 20, spend: { usd: 4 } }
---
Look at {{ event.who }}, {{ '{{' }} and {{event.at}}.
"#;
const FORMS: &str = r#"---
after: hello
agent: Worker
when: hello.verdict == "pass" and not (event.who == 'a')
each: event.files as file
retry: { max: 2, backoff: 30s, on: [crash, timeout] }
approve: { before: true, within: 24h, otherwise: deny }
concurrency: { key: event.who, limit: 1, strategy: queue }
loop: { to: hello, until: "event.kind == null or event.at >= '2026-01-01T00:00:00Z'", max: 3 }
output: { n: int }
emits: { Pong: { when: forms.n != 3 } }
---
{{ file }} {{ file.path }} {{ hello.notes }}
"#;
const PYTHON: &str = r#"from loopy import sensor

@sensor(webhook="/hooks/ping", emits="Ping", verify="github")
async def ping(request):
    return None
"#;
const SHELL: &str = "#!/bin/sh\n# loopy: poll=\"5m\" emits=\"Pong\"\necho '{}'\n";
const TYPESCRIPT: &str =
    "export const sensorRegistry = { tick: { poll: \"1h\", emits: \"Pong\", run: () => [] } };\n";

fn project() -> Sources {
    let mut sources = Sources::default();
    sources.insert("registry.yml", REGISTRY);
    sources.insert("workflows/greet/hello.md", STEP);
    sources.insert("workflows/forms/hello.md", STEP);
    sources.insert("workflows/forms/forms.md", FORMS);
    sources.insert(
        "workflows/greet/scan-deps.md",
        "---\nafter: hello\nagent: Shell\noutput: { count: int }\n---\necho {{ hello.verdict }} {{ hello.notes }}\n",
    );
    sources.insert(
        "workflows/greet/tell.md",
        "---\nafter: [scan-deps]\nagent: Worker\n---\n{{ scan-deps.count }}\n",
    );
    sources.insert(
        "workflows/review/read.md",
        "---\non: Github.Push\nagent: Worker\n---\n{{ event.ref }}\n",
    );
    sources.insert("sensors/hooks.py", PYTHON);
    sources.insert("sensors/disk.sh", SHELL);
    sources.insert("sensors/tick.ts", TYPESCRIPT);
    sources.insert("skills/tone/SKILL.md", "# Tone\n");
    sources.insert("skills/tone/words/list.txt", "kind\n");
    sources
}

fn places() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("registry.yml"),
        Just("workflows/greet/hello.md"),
        Just("workflows/forms/forms.md"),
        Just("sensors/hooks.py"),
        Just("sensors/disk.sh"),
        Just("sensors/tick.ts"),
    ]
}

/// Compiles, renders, and checks what always holds.
fn check(sources: &Sources) {
    let compilation = compile(sources);
    let errors = compilation
        .diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    assert_eq!(compilation.manifest.is_none(), errors > 0);
    for diagnostic in &compilation.diagnostics {
        assert!(!diagnostic.file.is_empty() && !diagnostic.message.is_empty());
        assert!(diagnostic.span.line > 0 && diagnostic.span.column > 0);
    }
    render::human(&compilation.diagnostics, sources, true);
    let shown: serde_json::Value =
        serde_json::from_str(&render::json(&compilation.diagnostics)).unwrap();
    assert_eq!(
        shown["diagnostics"].as_array().unwrap().len(),
        compilation.diagnostics.len()
    );
    if let Some(manifest) = compilation.manifest {
        assert_eq!(
            Manifest::from_json(manifest.to_json().as_bytes()).unwrap(),
            manifest
        );
    }
    assert_eq!(compile(sources).diagnostics, compilation.diagnostics);
}

#[test]
fn the_project_compiles_and_is_self_contained() {
    let sources = project();
    check(&sources);
    let compilation = compile(&sources);
    assert_eq!(compilation.diagnostics, []);
    let manifest = compilation.manifest.unwrap();
    let skill = &manifest.skills["tone"];
    assert_eq!(
        skill.keys().collect::<Vec<_>>(),
        ["SKILL.md", "words/list.txt"]
    );
    assert_eq!(manifest.sensor_files.len(), 3);
    let named = skill.values().chain(manifest.sensor_files.values());
    for hash in named {
        assert_eq!(*hash, sha256_hex(&compilation.files[hash]));
    }
    assert_eq!(
        manifest.to_json(),
        compile(&project()).manifest.unwrap().to_json()
    );
}

#[test]
fn hostile_nesting_is_a_diagnostic() {
    let depth = 50_000;
    let hostile = [
        ("registry.yml", "[".repeat(depth)),
        ("registry.yml", "a: ".repeat(depth)),
        ("registry.yml", "- ".repeat(depth)),
        (
            "registry.yml",
            format!("events: {{ A: {{ b: {}", "{ a: ".repeat(depth)),
        ),
        (
            "registry.yml",
            format!(
                "events:\n  A:\n    b: {}int{}\n",
                "list[".repeat(depth),
                "]".repeat(depth)
            ),
        ),
        (
            "registry.yml",
            format!("events:\n  A:\n    b: int{}\n", "?".repeat(depth)),
        ),
        (
            "registry.yml",
            format!("events: {{ A: {{ b: {}", "enum[".repeat(depth)),
        ),
        (
            "workflows/greet/hello.md",
            format!("---\non: {}\n---\nx", "[".repeat(depth)),
        ),
        (
            "workflows/greet/hello.md",
            format!("---\non: Ping\n---\n{}", "{{".repeat(depth)),
        ),
        (
            "workflows/greet/hello.md",
            format!("---\non: Ping\n---\n{}", "{{ a }} ".repeat(depth)),
        ),
        ("sensors/hooks.py", "(".repeat(depth)),
        (
            "sensors/hooks.py",
            format!("x = {}1{}", "(".repeat(depth), ")".repeat(depth)),
        ),
        ("sensors/hooks.py", format!("x = {}1", "not ".repeat(depth))),
        ("sensors/hooks.py", format!("x = {}1", "-".repeat(depth))),
        (
            "sensors/hooks.py",
            format!("x = {}1", "lambda: ".repeat(depth)),
        ),
        ("sensors/hooks.py", format!("x = a{}", ".a".repeat(depth))),
        ("sensors/hooks.py", format!("x = a{}", "()".repeat(depth))),
        ("sensors/hooks.py", format!("x = a{}", " + a".repeat(depth))),
        (
            "sensors/hooks.py",
            format!("x = a{}", " ** a".repeat(depth)),
        ),
        (
            "sensors/hooks.py",
            format!("x = {}a", "a if a else ".repeat(depth)),
        ),
        (
            "sensors/hooks.py",
            format!("{}x = 1", "if a: ".repeat(depth)),
        ),
        ("sensors/hooks.py", "f'{".repeat(depth / 10)),
        ("sensors/tick.ts", "{".repeat(depth)),
        ("sensors/tick.ts", "`${".repeat(depth)),
        (
            "sensors/tick.ts",
            format!("export const sensorRegistry = {}", "{ a: ".repeat(depth)),
        ),
    ];
    for (path, text) in hostile {
        let mut sources = project();
        sources.insert(path, text);
        check(&sources);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes in any file.
    #[test]
    fn any_bytes_are_survived(path in places(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut sources = project();
        sources.insert(path, bytes);
        check(&sources);
    }

    /// Pieces of the real files, cut, doubled and mixed with what means
    /// something to a reader.
    #[test]
    fn any_edit_is_survived(
        path in places(),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        piece in "[-\\[\\]{}:,.\"'`#&*!|>%$/?=<(\\\\) \n\tA-Ca-c0-2~é\u{fdd0}]{0,12}",
        word in prop::sample::select(vec!["", "enum[", "list[", "{{ ", "---\n", "<<: *box", "&a ", "*a", ".nan", "null", "1e999"]),
    ) {
        let mut sources = project();
        let text = String::from_utf8(sources.bytes(path).unwrap().to_vec()).unwrap();
        let chars: Vec<char> = text.chars().collect();
        let (from, to) = (cut.0.index(chars.len() + 1), cut.1.index(chars.len() + 1));
        let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 20));
        let edited: String = chars[..from].iter().copied().chain(word.chars()).chain(piece.chars()).chain(chars[to..].iter().copied()).collect();
        sources.insert(path, edited);
        check(&sources);
    }
}
