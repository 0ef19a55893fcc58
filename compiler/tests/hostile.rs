//! Inputs made to exhaust what reads them: each is answered in time, and with
//! no more memory than its size allows. Every case runs in a process of its own,
//! whose peak memory the kernel counts.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use loopy_compiler::{Severity, Sources, compile, format, render};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a compile may hold beside ten times its input and its manifest, and what
/// it has to say.
const BASE_KB: usize = 64 * 1024;

/// Far longer than any of these takes on a busy machine without optimisation.
const TIME: Duration = Duration::from_secs(60);

/// Names the case that a child process has to compile.
const CASE: &str = "LOOPY_HOSTILE_CASE";

const DEEP: usize = 100_000;
const LARGE: usize = 10 << 20;
/// Just below what is read at all.
const FULL: usize = (1 << 20) - 64;

const REGISTRY: &str = "registry.yml";
const STEP: &str = "workflows/w/s.md";
const PYTHON: &str = "sensors/a.py";
const TYPESCRIPT: &str = "sensors/a.ts";
const SHELL: &str = "sensors/a.sh";

/// What the compiler has to make of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    /// An error in this file.
    Error,
    /// Whatever it is, it ends.
    Any,
}

use Answer::{Any, Error};

struct Case {
    name: &'static str,
    file: &'static str,
    answer: Answer,
    input: fn() -> Vec<u8>,
}

fn repeated(piece: &str, size: usize) -> Vec<u8> {
    piece.repeat(size / piece.len() + 1).into_bytes()
}

fn around(before: &str, inside: &str, times: usize, after: &str) -> Vec<u8> {
    format!("{before}{}{after}", inside.repeat(times)).into_bytes()
}

fn both(before: &str, open: &str, middle: &str, close: &str, times: usize) -> Vec<u8> {
    format!(
        "{before}{}{middle}{}\n",
        open.repeat(times),
        close.repeat(times)
    )
    .into_bytes()
}

/// Each level stands for ten of the one below.
fn bomb(level: impl Fn(usize) -> String) -> Vec<u8> {
    let mut text = "a0: &a0 { x: 1 }\n".to_owned();
    for at in 1..30 {
        text.push_str(&level(at));
    }
    text.into_bytes()
}

fn step(yaml: Vec<u8>) -> Vec<u8> {
    [b"---\n".to_vec(), yaml, b"\n---\nx\n".to_vec()].concat()
}

macro_rules! cases {
    ($($name:ident: $file:expr, $answer:expr, $input:expr;)+) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            file: $file,
            answer: $answer,
            input: || $input,
        },)+];

        $(#[test] fn $name() { run(stringify!($name)); })+
    };
}

cases! {
    aliases_that_stand_for_aliases: REGISTRY, Error, bomb(|at| {
        format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 10].join(", "))
    });
    merges_that_stand_for_merges: REGISTRY, Any, bomb(|at| {
        format!("a{at}: &a{at} {{ <<: [{}] }}\n", vec![format!("*a{}", at - 1); 10].join(", "))
    });
    merges_of_a_large_map: REGISTRY, Any, {
        let keys: String = (0..2000).map(|at| format!("k{at}: 1, ")).collect();
        let uses = "  - <<: *base\n".repeat(20_000);
        format!("a: &base {{ {keys} }}\nb:\n{uses}").into_bytes()
    };
    anchors_without_end: REGISTRY, Any, {
        (0..50_000).map(|at| format!("k{at}: &a{at} x\n")).collect::<String>().into_bytes()
    };
    an_alias_in_a_step: STEP, Error, step(bomb(|at| {
        format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 10].join(", "))
    }));

    flow_lists_100_000_deep: REGISTRY, Error, both("events: ", "[", "", "]", DEEP);
    flow_maps_100_000_deep: REGISTRY, Error, both("events: ", "{a: ", "1", "}", DEEP);
    block_lists_100_000_deep: REGISTRY, Error, repeated("- ", 2 * DEEP);
    block_maps_deep: REGISTRY, Error, {
        (0..1400).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>().into_bytes()
    };
    types_100_000_deep: REGISTRY, Error, both("events:\n  A:\n    b: ", "list[", "int", "]", DEEP);
    optionals_100_000_deep: REGISTRY, Error, around("events:\n  A:\n    b: int", "?", DEEP, "\n");
    frontmatter_100_000_deep: STEP, Error, step(both("output: ", "{a: ", "1", "}", DEEP));
    expressions_100_000_deep: STEP, Any, step(both("on: A\nwhen: '", "(", "true", ")", DEEP));
    negations_100_000_deep: STEP, Any, step(around("on: A\nwhen: '", "not ", DEEP, "true'"));
    conjunctions_100_000_long: STEP, Any, step(around("on: A\nwhen: 'true", " and true", DEEP, "'"));
    tags_without_end: STEP, Any, [step(b"on: A".to_vec()), repeated("{{ a", FULL - 100)].concat();
    tags_100_000: STEP, Any, [step(b"on: A".to_vec()), repeated("{{ a }} ", FULL - 100)].concat();
    python_100_000_deep: PYTHON, Any, both("x = ", "(", "1", ")", DEEP);
    python_lists_100_000_deep: PYTHON, Any, both("x = ", "[", "1", "]", DEEP);
    python_calls_100_000_long: PYTHON, Any, around("x = a", "()", DEEP, "\n");
    python_negations_100_000_deep: PYTHON, Any, around("x = ", "not ", DEEP, "1\n");
    python_sums_100_000_long: PYTHON, Any, around("x = a", " + a", DEEP, "\n");
    python_full_of_brackets: PYTHON, Any, repeated("(", FULL);
    python_full_of_lambdas: PYTHON, Any, repeated("lambda:", FULL);
    typescript_100_000_deep: TYPESCRIPT, Any, both("const x = ", "(", "1", ")", DEEP);
    typescript_maps_100_000_deep: TYPESCRIPT, Any, both("export const sensorRegistry = ", "{ a: ", "1", "}", DEEP);
    typescript_types_100_000_deep: TYPESCRIPT, Any, both("type A = ", "B<", "C", ">", DEEP);
    typescript_templates_100_000_deep: TYPESCRIPT, Any, repeated("`${", 3 * DEEP);
    typescript_arrows_100_000_deep: TYPESCRIPT, Any, around("const x = ", "a => ", DEEP, "1\n");
    typescript_full_of_brackets: TYPESCRIPT, Any, repeated("(", FULL);
    typescript_full_of_slashes: TYPESCRIPT, Any, repeated("a / [", FULL);

    a_registry_of_10_mb: REGISTRY, Error, repeated("# x\n", LARGE);
    a_step_of_10_mb: STEP, Error, step(repeated("# x\n", LARGE));
    python_of_10_mb: PYTHON, Error, repeated("x = 1\n", LARGE);
    typescript_of_10_mb: TYPESCRIPT, Error, repeated("let x = 1\n", LARGE);
    shell_of_10_mb: SHELL, Error, repeated("# x\n", LARGE);

    a_million_keys: REGISTRY, Error, {
        (0..1_000_000).map(|at| format!("k{at}:\n")).collect::<String>().into_bytes()
    };
    as_many_keys_as_are_read: REGISTRY, Any, {
        (0..130_000).map(|at| format!("{at}: \n")).collect::<String>().into_bytes()
    };
    as_many_events_as_are_read: REGISTRY, Any, {
        format!("events:\n{}", (0..60_000).map(|at| format!("  E{at}:\n")).collect::<String>()).into_bytes()
    };
    as_many_flow_items_as_are_read: REGISTRY, Any, around("events: [", "a,", 99_000, "]");
    keys_given_twice: REGISTRY, Error, repeated("a:\n", 150_000);
    unknown_keys: STEP, Any, step((0..60_000).map(|at| format!("ob{at}:\n")).collect::<String>().into_bytes());

    nul_bytes_in_the_registry: REGISTRY, Error, repeated("\0", 1000);
    nul_bytes_in_a_step: STEP, Error, step(b"on: A\0B\0".to_vec());
    nul_bytes_in_python: PYTHON, Error, b"x = 1\0\n".to_vec();
    nul_bytes_in_typescript: TYPESCRIPT, Any, b"const x = '\0'; \0\n".to_vec();
    nul_bytes_in_shell: SHELL, Any, b"# loopy: poll=\"5m\0\" emits=\"A\0\"\n".to_vec();
    no_utf8_in_the_registry: REGISTRY, Error, b"events: \xff\xfe\n".to_vec();
    no_utf8_in_a_step: STEP, Error, step(b"on: \xc3\x28".to_vec());
    no_utf8_in_python: PYTHON, Error, b"x = '\x80'\n".to_vec();
    no_utf8_in_typescript: TYPESCRIPT, Error, b"const x = '\xed\xa0\x80'\n".to_vec();
    no_utf8_in_shell: SHELL, Error, b"# \xf8\n".to_vec();
    utf16_in_the_registry: REGISTRY, Error, "\u{feff}events: {}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    a_byte_order_mark_before_a_step: STEP, Error, [b"\xef\xbb\xbf".to_vec(), step(b"on: A".to_vec())].concat();
    a_byte_order_mark_before_a_registry: REGISTRY, Any, b"\xef\xbb\xbfevents: {}\n".to_vec();
    windows_line_ends: REGISTRY, Any, b"events:\r\n  A:\r\n    b: str\r\n".to_vec();
    old_mac_line_ends: REGISTRY, Any, b"events:\r  A:\r    b: nope\r".to_vec();

    a_very_long_line_in_the_registry: REGISTRY, Any, around("events: { A: { b: \"", "x", FULL - 100, "\" } }\n");
    a_very_long_wrong_line: REGISTRY, Error, around("events: { A: ", "x", FULL - 100, "}: ]\n");
    a_very_long_type: REGISTRY, Error, around("events:\n  A:\n    b: enum[", "x, ", FULL / 3 - 100, "\n");
    many_wrong_types_on_one_line: REGISTRY, Error, around("events: { A: {", "? , ", 40_000, "} }\n");
    many_types_on_one_line: REGISTRY, Any, {
        let fields: String = (0..40_000).map(|at| format!("f{at}: enum[a, b], ")).collect();
        format!("events: {{ A: {{ {fields} }} }}\n").into_bytes()
    };
    a_very_long_line_in_python: PYTHON, Any, around("x = '", "x", FULL - 100, "'\n");
    a_very_long_line_in_typescript: TYPESCRIPT, Any, around("const x = '", "x", FULL - 100, "'\n");
    a_very_long_line_in_shell: SHELL, Any, around("# loopy: poll=\"", "x", FULL - 100, "\"\n");
    comments_that_do_not_end: TYPESCRIPT, Any, repeated("/* ", FULL);
    strings_that_do_not_end: PYTHON, Any, repeated("'''", FULL);
    many_wrong_tags_on_one_line: STEP, Any, [step(b"on: A".to_vec()), repeated("{% x %}", 200_000)].concat();
}

/// Runs a case in a process of its own, and judges what it says.
fn run(name: &str) {
    if std::env::var(CASE).is_ok() {
        return;
    }
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let size = (case.input)().len();
    let begun = Instant::now();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_child_compiles_its_case",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CASE, name)
        .output()
        .unwrap();
    let took = begun.elapsed();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name}: {}\n{said}{complained}",
        output.status
    );
    let number = |what: &str| -> usize {
        let line = said.lines().find_map(|line| line.split_once(what)).unwrap();
        line.1.trim().parse().unwrap()
    };
    let (peak, errors) = (number("PEAK_KB "), number("ERRORS "));
    // A diagnostic takes a kilobyte.
    let limit = BASE_KB + 10 * (size + number("MANIFEST ")) / 1024 + number("DIAGNOSTICS ");
    assert!(
        peak <= limit,
        "{name}: {peak} KB for {} KB, more than {limit}",
        size / 1024
    );
    assert!(took < TIME, "{name}: {took:?}");
    assert!(case.answer == Any || errors > 0, "{name}: no error");
}

#[test]
fn the_child_compiles_its_case() {
    let Ok(name) = std::env::var(CASE) else {
        return;
    };
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let mut sources = Sources::default();
    sources.insert(REGISTRY, "events: { A: { b: str } }\n");
    sources.insert(case.file, (case.input)());
    let compilation = compile(&sources);
    let found = &compilation.diagnostics;
    let errors = found
        .iter()
        .filter(|d| d.file == case.file && d.severity == Severity::Error);
    println!("\nERRORS {}", errors.count());
    println!("DIAGNOSTICS {}", found.len());
    for (_, formatted) in format::all(&sources) {
        drop(formatted);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    println!("PEAK_KB {}", line.trim().trim_end_matches("kB").trim());
    let manifest = compilation.manifest.as_ref();
    let json = manifest.map(|manifest| manifest.to_json());
    println!("MANIFEST {}", json.unwrap_or_default().len());
    // Written out they take what they take, but no longer than they should.
    drop(render::json(found));
    drop(render::human(found, &sources, false));
}
