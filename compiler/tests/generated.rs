//! The generated types, judged by those who read them: mypy, pyright, tsc,
//! Python itself, and the host that runs sensors.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use loopy_compiler::{Diagnostic, Severity, Sources, compile, generate};
use loopy_contract::manifest::Registry;
use loopy_contract::schema::field_violations;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const REGISTRY: &str = include_str!("generated/registry.yml");
const SENSORS: [(&str, &str); 4] = [
    ("sensors/right.py", include_str!("generated/right.py")),
    ("sensors/wrong.py", include_str!("generated/wrong.py")),
    ("sensors/right.ts", include_str!("generated/right.ts")),
    ("sensors/wrong.ts", include_str!("generated/wrong.ts")),
];

/// Names that mean something to Python, to TypeScript, or to what is generated.
const EVENTS: [&str; 34] = [
    "None",
    "True",
    "Event",
    "Request",
    "Tick",
    "Sensor",
    "SensorRegistry",
    "Gives",
    "Verify",
    "Date",
    "Array",
    "Promise",
    "Iterable",
    "Record",
    "Any",
    "Literal",
    "Mapping",
    "TypedDict",
    "NotRequired",
    "TypeError",
    "AttributeError",
    "NotImplemented",
    "NaN",
    "Odd Name",
    "Odd_Name",
    "Odd-Name",
    "Foo.Bar",
    "Événement",
    "Ｆoo",
    "Say \"hi\"\\",
    "End */ of // it",
    "Two\nlines",
    "Two\u{2028}lines\u{202e}",
    "Quotes'''\"\"\"",
];
const FIELDS: [&str; 62] = [
    "class",
    "from",
    "None",
    "self",
    "_self",
    "cls",
    "str",
    "int",
    "float",
    "bool",
    "list",
    "dict",
    "datetime",
    "date",
    "Any",
    "Literal",
    "Mapping",
    "TypedDict",
    "builtins",
    "_str",
    "_Event",
    "match",
    "type",
    "case",
    "_",
    "__x",
    "__init__",
    "__class__",
    "__slots__",
    "__debug__",
    "__proto__",
    "a-b",
    "a b",
    "a.b",
    "a_b",
    "1",
    "1a",
    "",
    "é",
    "日本",
    "ﬁ",
    "ĳ",
    "ſ",
    "x\u{301}",
    "constructor",
    "new",
    "readonly",
    "get",
    "set",
    "function",
    "fields",
    "async",
    "await",
    "print",
    "property",
    "\"",
    "\\",
    "*/",
    "a\nb",
    "a\u{2028}b",
    "\u{feff}",
    "\u{1f600}",
];

/// What `cargo xtask test` prepares.
fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("{variable} is not set; run `cargo xtask test`, which prepares it")
        })
}

fn registry(text: &str) -> Result<Registry, Vec<Diagnostic>> {
    let mut sources = Sources::default();
    sources.insert("registry.yml", text);
    let compilation = compile(&sources);
    compilation
        .manifest
        .map(|manifest| manifest.registry)
        .ok_or(compilation.diagnostics)
}

/// Writes the generated files to a folder.
fn generate_into(folder: &Path, registry: &Registry) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in generate::files(registry) {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// All odd names at once, each field with a type of another kind.
fn odd() -> Registry {
    let nested = |types: &[Value]| -> Map<String, Value> {
        let named = FIELDS.iter().filter(|name| !name.is_empty()).enumerate();
        named
            .map(|(at, name)| ((*name).to_owned(), types[at % types.len()].clone()))
            .collect()
    };
    let plain = [json!("str"), json!("int?"), json!("enum[a, b]")];
    let types = [
        json!("str"),
        json!("float?"),
        json!("datetime"),
        json!("list[datetime]?"),
        json!("enum[a, b c, \"]"),
        json!("json"),
        Value::Object(nested(&plain)),
        json!({"": "str", "a": "int"}),
        json!("list[list[{ x: { class: str? } }]]"),
        json!({"enum": ["a", 1, true, null, 1.5, [1], {"a": 1}, "\n\u{2028}"]}),
        json!({"type": ["string", "null"], "format": "date"}),
        json!({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}]}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "object", "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "string"}}}),
        json!({"const": -3}),
        json!({"type": "array", "prefixItems": [{"type": "string"}]}),
    ];
    let events: Map<String, Value> = EVENTS
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "fields": nested(&types) })))
        .collect();
    let text = json!({ "events": events }).to_string();
    registry(&text).expect("the names are legal")
}

/// A value that the schema admits.
fn sample(schema: &Value) -> Value {
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(values) = schema.get("enum") {
        return values[0].clone();
    }
    if let Some(choices) = schema.get("anyOf") {
        return sample(&choices[0]);
    }
    let name = match &schema["type"] {
        Value::Array(names) => names[0].as_str(),
        name => name.as_str(),
    };
    match name {
        Some("string") => match schema["format"].as_str() {
            Some("date-time") => json!("2026-11-21T07:00:00Z"),
            Some("date") => json!("2026-11-21"),
            _ => json!("x"),
        },
        Some("integer") => json!(7),
        Some("number") => json!(0.5),
        Some("boolean") => json!(true),
        Some("array") => match schema.get("items") {
            Some(items) => json!([sample(items)]),
            None => json!([]),
        },
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let fields = properties.map(|(name, schema)| (name.clone(), sample(schema)));
            Value::Object(fields.collect())
        }
        _ => json!({"any": ["thing"]}),
    }
}

/// Runs a checker; gives back what it says on stdout and whether it is content.
fn run(command: &mut Command) -> (String, bool) {
    let output = command.output().expect("the checker starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code().is_some_and(|code| code < 3),
        "{errors}"
    );
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.success(),
    )
}

fn mypy(directory: &Path, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(prepared("LOOPY_TEST_PYTHON"));
    command
        .current_dir(directory)
        .args(["-m", "mypy", "--strict"]);
    run(command
        .args(["--cache-dir=/dev/null", "--hide-error-context"])
        .args(arguments))
}

fn pyright(directory: &Path, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(prepared("LOOPY_TEST_PYRIGHT"));
    command
        .current_dir(directory)
        .arg("--pythonpath")
        .arg(prepared("LOOPY_TEST_PYTHON"));
    run(command.args(arguments))
}

fn tsc(directory: &Path, files: &[&str]) -> (String, bool) {
    let mut command = Command::new(prepared("LOOPY_TEST_TSC"));
    command
        .current_dir(directory)
        .args(["--noEmit", "--strict", "--pretty", "false"])
        .args(["--target", "es2022", "--module", "nodenext"]);
    run(command.args(files))
}

/// The lines that a checker complains about, as `FILE:LINE`.
fn lines(said: &str, separator: char, directory: &Path) -> BTreeSet<String> {
    let root = format!("{}/", directory.canonicalize().unwrap().display());
    said.lines()
        .filter(|line| line.contains("error"))
        .filter_map(|line| {
            let line = line.trim().strip_prefix(&root).unwrap_or(line.trim());
            let (file, rest) = line.split_once(separator)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            Some(format!("{file}:{}", &rest[..digits]))
        })
        .filter(|place| !place.ends_with(':'))
        .collect()
}

/// The lines of a sensor that say that they are wrong.
fn marked(file: &str) -> BTreeSet<String> {
    let (_, text) = SENSORS.iter().find(|(name, _)| *name == file).unwrap();
    let marked = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.ends_with("# error") || line.ends_with("// error"));
    marked.map(|(at, _)| format!("{file}:{}", at + 1)).collect()
}

/// A project with the sample sensors and their types.
fn project() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    generate_into(
        &directory.path().join("loopy"),
        &registry(REGISTRY).unwrap(),
    );
    fs::create_dir(directory.path().join("sensors")).unwrap();
    for (file, text) in SENSORS {
        fs::write(directory.path().join(file), text).unwrap();
    }
    directory
}

#[test]
fn right_sensors_compile() {
    let mut sources = Sources::default();
    sources.insert("registry.yml", REGISTRY);
    for (file, text) in SENSORS.iter().filter(|(file, _)| file.contains("right")) {
        sources.insert(*file, *text);
    }
    let compilation = compile(&sources);
    let errors = compilation
        .diagnostics
        .iter()
        .filter(|found| found.severity == Severity::Error);
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<&Diagnostic>::new());
    assert_eq!(compilation.manifest.unwrap().sensors.len(), 14);
}

#[test]
fn mypy_finds_what_is_wrong_and_nothing_else() {
    let project = project();
    let (said, content) = mypy(project.path(), &["loopy", "sensors/right.py"]);
    assert!(content, "{said}");
    let (said, _) = mypy(project.path(), &["sensors/wrong.py"]);
    assert_eq!(
        lines(&said, ':', project.path()),
        marked("sensors/wrong.py"),
        "{said}"
    );
}

#[test]
fn the_examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for (example, sensor) in [("hello", "hello.py"), ("github", "github.py")] {
        let sources = Sources::read(&examples.join(example)).unwrap();
        let manifest = compile(&sources).manifest.unwrap();
        let directory = tempfile::tempdir().unwrap();
        generate_into(&directory.path().join("loopy"), &manifest.registry);
        let code = sources.bytes(&format!("sensors/{sensor}")).unwrap();
        fs::write(directory.path().join(sensor), code).unwrap();
        let (said, content) = mypy(directory.path(), &[sensor]);
        assert!(content, "{said}");
    }
}

#[test]
fn pyright_finds_what_is_wrong_and_nothing_else() {
    let project = project();
    let (said, content) = pyright(project.path(), &["loopy", "sensors/right.py"]);
    assert!(content, "{said}");
    let (said, _) = pyright(project.path(), &["sensors/wrong.py"]);
    assert_eq!(
        lines(&said, ':', project.path()),
        marked("sensors/wrong.py"),
        "{said}"
    );
}

#[test]
fn tsc_finds_what_is_wrong_and_nothing_else() {
    let project = project();
    let (said, content) = tsc(project.path(), &["loopy/index.d.ts", "sensors/right.ts"]);
    assert!(content, "{said}");
    let (said, _) = tsc(project.path(), &["sensors/wrong.ts"]);
    assert_eq!(
        lines(&said, '(', project.path()),
        marked("sensors/wrong.ts"),
        "{said}"
    );
}

#[test]
fn any_name_may_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let registry = odd();
    generate_into(&directory.path().join("loopy"), &registry);
    let (said, content) = mypy(directory.path(), &["loopy"]);
    assert!(content, "{said}");
    let (said, content) = pyright(directory.path(), &["loopy"]);
    assert!(content, "{said}");
    let (said, content) = tsc(directory.path(), &["loopy/index.d.ts", "loopy/events.d.ts"]);
    assert!(content, "{said}");

    // Those that Python cannot spell have no class, the others have their own name.
    let stub = fs::read_to_string(directory.path().join("loopy/events.pyi")).unwrap();
    for (name, is_class) in [
        ("Événement", true),
        ("Odd_Name", true),
        ("Any", true),
        ("None", false),
        ("Ｆoo", false),
        ("Odd-Name", false),
        ("Foo.Bar", false),
    ] {
        assert_eq!(
            stub.contains(&format!("class {name}(_Event):")),
            is_class,
            "{name}"
        );
    }
}

#[test]
fn types_and_host_agree() {
    let directory = tempfile::tempdir().unwrap();
    let registry = odd();
    generate_into(&directory.path().join("loopy"), &registry);
    fs::create_dir(directory.path().join("sensors")).unwrap();
    fs::write(
        directory.path().join("sensors/make.py"),
        r#"
from loopy import Request, Tick, events, sensor

@sensor(webhook="/make", emits="Any", verify="none")
def make(request: Request):
    call = request.json
    kind = getattr(events, call["event"], None)
    if kind is None:
        return call["fields"]
    try:
        kind(no_such_field=1)
    except TypeError:
        return kind(**call["fields"])
"#,
    )
    .unwrap();
    let names: Map<String, Value> = registry
        .events
        .iter()
        .map(|(name, contract)| (name.clone(), contract.fields.keys().cloned().collect()))
        .collect();
    let mut requests = Vec::new();
    let mut wanted = Vec::new();
    for (name, contract) in &registry.events {
        let fields = contract
            .fields
            .iter()
            .map(|(name, schema)| (name.clone(), sample(schema)));
        let fields: Map<String, Value> = fields.collect();
        assert_eq!(field_violations(contract, &fields), Vec::<String>::new());
        requests.push(json!({
            "ask": "call", "sensor": "make", "module": "sensors.make", "function": "make",
            "emits": name, "events": names,
            "limits": { "time_ms": 30_000, "response_bytes": 6_000_000 },
            "call": {
                "kind": "request", "method": "POST", "path": "/make", "headers": {}, "query": "",
                "body_base64": base64(&json!({"event": name, "fields": fields}).to_string()),
            },
        }));
        wanted.push(json!({"event": name, "fields": fields}));
    }

    // By the host, which brings a package of its own.
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sensors/host/loopy_sensors.py");
    let input: String = requests
        .iter()
        .map(|request| format!("{}\n", json!({"number": 1, "request": request})))
        .collect();
    let said = python(
        directory.path(),
        &[host.to_str().unwrap(), "--worker", "."],
        &input,
    );
    let given: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["response"]["events"][0].clone())
        .collect();
    assert_eq!(given, wanted);

    // By the generated package: the same fields by the same names.
    let elsewhere = r#"
import json, sys
sys.path.insert(0, "")
from sensors.make import make
class Call: pass
for line in sys.stdin:
    request = Call()
    request.json = json.loads(line)
    made = make(request)
    print(json.dumps({"event": request.json["event"], "fields": made if isinstance(made, dict) else vars(made)}))
from loopy import events
print(json.dumps(sorted(events.__all__)))
"#;
    let input: String = wanted.iter().map(|event| format!("{event}\n")).collect();
    let said = python(directory.path(), &["-c", elsewhere], &input);
    let given: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (classes, made) = given.split_last().unwrap();
    assert_eq!(made, wanted);
    let stub = fs::read_to_string(directory.path().join("loopy/events.pyi")).unwrap();
    for class in classes.as_array().unwrap() {
        let class = class.as_str().unwrap();
        assert!(
            stub.contains(&format!("\nclass {class}(_Event):")),
            "{class}"
        );
    }
}

/// Runs Python with this standard input; what it prints.
fn python(directory: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(prepared("LOOPY_TEST_PYTHON"))
        .current_dir(directory)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| {
            bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            encoded.push(match at <= chunk.len() {
                true => char::from(DIGITS[bits >> (18 - 6 * at) & 63]),
                false => '=',
            });
        }
    }
    encoded
}

#[test]
fn many_events_do_not_stop_the_checkers() {
    let directory = tempfile::tempdir().unwrap();
    let names = (0..400).map(|at| format!("Event{at}"));
    let events: Map<String, Value> = names.map(|name| (name, json!({ "a": "str" }))).collect();
    let registry = registry(&json!({ "events": events }).to_string()).unwrap();
    generate_into(&directory.path().join("loopy"), &registry);
    fs::write(
        directory.path().join("many.py"),
        r#"
from loopy import Request, Tick, sensor
from loopy.events import Event7

@sensor(webhook="/a", emits="Event7")
def right(request: Request) -> Event7:
    return Event7(a="")

@sensor(poll="5m", emits="Event400")
def no_event(tick: Tick) -> None:
    return None

@sensor(poll="5m", emits="Event7")
def no_tick(request: Request) -> None:
    return None
"#,
    )
    .unwrap();
    let begun = Instant::now();
    let (said, _) = mypy(directory.path(), &["many.py"]);
    let wanted = BTreeSet::from(["many.py:9".to_owned(), "many.py:13".to_owned()]);
    assert_eq!(lines(&said, ':', directory.path()), wanted, "{said}");
    let (said, _) = pyright(directory.path(), &["many.py"]);
    assert_eq!(lines(&said, ':', directory.path()), wanted, "{said}");
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn built_in_events_have_no_types() {
    let mut sources = Sources::default();
    sources.insert(
        "registry.yml",
        "agents: { A: { harness: command, sandbox: B } }\nsandboxes: { B: { provider: local } }\n",
    );
    sources.insert(
        "workflows/w/s.md",
        "---\non: Github.Push\nagent: A\n---\ntrue\n",
    );
    let registry = compile(&sources).manifest.unwrap().registry;
    assert!(registry.events.contains_key("Github.Push"));
    for (name, text) in generate::files(&registry) {
        assert!(!text.contains("Push"), "{name}");
    }
}

#[test]
fn a_project_without_events_has_types_too() {
    let directory = tempfile::tempdir().unwrap();
    generate_into(&directory.path().join("loopy"), &registry("").unwrap());
    let (said, content) = mypy(directory.path(), &["loopy"]);
    assert!(content, "{said}");
    let (said, content) = tsc(directory.path(), &["loopy/index.d.ts"]);
    assert!(content, "{said}");
}

/// A type as `registry.yml` has it.
fn any_type() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "str",
            "int",
            "float?",
            "bool",
            "url",
            "id",
            "datetime?",
            "json",
            "list[str]",
            "enum[]"
        ])
        .prop_map(|name| json!(name)),
        prop::collection::vec(any_name(), 1..4).prop_map(|members| json!({ "enum": members })),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::btree_map(any_name(), inner.clone(), 1..4).prop_map(|map| json!(map)),
            prop::collection::vec(any::<bool>(), 1..3).prop_map(|values| json!({ "enum": values })),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(FIELDS.to_vec()).prop_map(str::to_owned),
        any::<String>(),
        "[a-z_]{1,3}",
        "\\PC{1,5}",
    ]
}

fn any_registry() -> impl Strategy<Value = Registry> {
    let name = prop_oneof![
        prop::sample::select(EVENTS.to_vec()).prop_map(str::to_owned),
        "\\p{Lu}".prop_flat_map(|first| any_name().prop_map(move |rest| format!("{first}{rest}"))),
    ];
    let fields = prop::collection::btree_map(any_name(), any_type(), 0..6);
    prop::collection::btree_map(
        name,
        fields.prop_map(|fields| json!({ "fields": fields })),
        0..5,
    )
    .prop_filter_map("it compiles", |events| {
        registry(&json!({ "events": events }).to_string()).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever compiles has types that Python can read, always the same.
    #[test]
    fn any_registry_has_readable_types(registry in any_registry()) {
        let files = generate::files(&registry);
        prop_assert!(files.keys().copied().eq(generate::NAMES));
        for name in ["__init__.py", "__init__.pyi", "events.py", "events.pyi"] {
            let parsed = ruff_python_parser::parse_module(&files[name]);
            prop_assert!(parsed.is_ok(), "{}: {:?}\n{}", name, parsed, files[name]);
        }
        prop_assert_eq!(files, generate::files(&registry));
    }
}

/// The checkers start slowly, so they see a number of registries in one go.
#[test]
fn any_registry_has_types_that_are_right() {
    let directory = tempfile::tempdir().unwrap();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut folders = Vec::new();
    for at in 0..24 {
        let registry = any_registry().new_tree(&mut runner).unwrap().current();
        let folder = format!("types{at}");
        generate_into(&directory.path().join(&folder), &registry);
        folders.push(folder);
    }
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let (said, content) = mypy(directory.path(), &folders);
    assert!(content, "{said}");
    let (said, content) = pyright(directory.path(), &folders);
    assert!(content, "{said}");
    let of = |file: &str| {
        folders
            .iter()
            .map(|folder| format!("{folder}/{file}"))
            .collect::<Vec<_>>()
    };
    let declarations = [of("index.d.ts"), of("events.d.ts")].concat();
    let declarations: Vec<&str> = declarations.iter().map(String::as_str).collect();
    let (said, content) = tsc(directory.path(), &declarations);
    assert!(content, "{said}");
    let code = of("events.py");
    let arguments = [
        "-W",
        "error",
        "-c",
        "import sys, pathlib\nfor path in sys.stdin.read().split(): exec(compile(pathlib.Path(path).read_text('utf-8'), path, 'exec'), {'__name__': 'events'})",
    ];
    python(directory.path(), &arguments, &code.join("\n"));
}
