//! Whole sessions of an editor with the server, over pipes, on projects on disk.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use loopy_lsp::{Farewell, ServeError, serve};
use loopy_testkit::editor::Editor;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufReader, pipe};
use std::path::PathBuf;
use std::thread::JoinHandle;
use tempfile::TempDir;

const REGISTRY: &str = "\
sandboxes:
  Box: { provider: local }
agents:
  Coder: { harness: claude-code, model: claude-sonnet-4-6, sandbox: Box }
  Shell: { harness: command, sandbox: Box }
events:
  Bug: { title: str, severity: 'enum[low, high]', url: url? }
";
const FIX: &str = "\
---
on: Bug
agent: Coder
output: { verdict: enum[pass, fail] }
---
Fix {{ event.title }}
";
const CHECK: &str = "\
---
after: fix
agent: Shell
---
echo é\u{1f600} {{ fix.verdict }}
";

struct Session {
    folder: TempDir,
    editor: Editor,
    server: JoinHandle<Result<Farewell, ServeError>>,
}

impl Session {
    /// A session with the three files on disk.
    fn begin() -> Self {
        Self::of(&[
            ("registry.yml", REGISTRY),
            ("workflows/w/fix.md", FIX),
            ("workflows/w/check.md", CHECK),
        ])
    }

    fn of(files: &[(&str, &str)]) -> Self {
        let mut session = Self::uninitialized(files);
        session.editor.begin().unwrap();
        session
    }

    fn uninitialized(files: &[(&str, &str)]) -> Self {
        let folder = TempDir::with_prefix("loopy lsp ").unwrap();
        let (from_server, to_editor) = pipe().unwrap();
        let (from_editor, to_server) = pipe().unwrap();
        let server = std::thread::spawn(move || serve(BufReader::new(from_editor), to_editor));
        let session = Self {
            folder,
            editor: Editor::new(from_server, to_server),
            server,
        };
        for (file, text) in files {
            session.write(file, text);
        }
        session
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn uri(&self, file: &str) -> String {
        let path = self.path(file);
        format!("file://{}", path.to_str().unwrap().replace(' ', "%20"))
    }

    fn open(&mut self, file: &str, text: &str) {
        let uri = self.uri(file);
        let document = json!({"uri": uri, "languageId": "markdown", "version": 1, "text": text});
        let params = json!({"textDocument": document});
        self.editor.notify("textDocument/didOpen", &params).unwrap();
    }

    fn change(&mut self, file: &str, changes: &Value) {
        let document = json!({"uri": self.uri(file), "version": 2});
        let params = json!({"textDocument": document, "contentChanges": changes});
        self.editor
            .notify("textDocument/didChange", &params)
            .unwrap();
    }

    fn close(&mut self, file: &str) {
        let params = json!({"textDocument": {"uri": self.uri(file)}});
        self.editor
            .notify("textDocument/didClose", &params)
            .unwrap();
    }

    fn watched(&mut self, file: &str) {
        let changes = json!([{"uri": self.uri(file), "type": 2}]);
        let params = json!({"changes": changes});
        let method = "workspace/didChangeWatchedFiles";
        self.editor.notify(method, &params).unwrap();
    }

    /// The codes of the errors among the next diagnostics of a file.
    fn codes(&mut self, file: &str) -> Vec<String> {
        let uri = self.uri(file);
        let found = self.editor.diagnostics(&uri).unwrap();
        let errors = found.iter().filter(|one| one["severity"] == 1);
        let codes = errors.map(|one| one["code"].as_str().unwrap());
        codes.map(str::to_owned).collect()
    }

    /// Asks about the place of the `|` in an open file with this text.
    fn ask(&mut self, what: &str, file: &str, text: &str) -> Value {
        let before = text.split('|').next().unwrap();
        let line = before.matches('\n').count();
        let last = before.rsplit('\n').next().unwrap();
        let position = json!({"line": line, "character": last.encode_utf16().count()});
        let params = json!({"textDocument": {"uri": self.uri(file)}, "position": position});
        let method = format!("textDocument/{what}");
        let answer = self.editor.request(&method, &params).unwrap();
        assert_eq!(answer["error"], Value::Null);
        answer["result"].clone()
    }

    fn hover(&mut self, file: &str, text: &str) -> String {
        let hover = self.ask("hover", file, text);
        let text = hover["contents"]["value"].as_str();
        text.unwrap_or_else(|| panic!("{hover}")).to_owned()
    }

    /// What may stand at the `|` when the file reads so.
    fn labels(&mut self, file: &str, text: &str) -> Vec<String> {
        self.change(file, &json!([{"text": text.replacen('|', "", 1)}]));
        let items = self.ask("completion", file, text);
        let items = items.as_array().unwrap().iter();
        items
            .map(|item| item["label"].as_str().unwrap().to_owned())
            .collect()
    }

    fn end(mut self) -> Farewell {
        self.editor.request("shutdown", &Value::Null).unwrap();
        self.editor.notify("exit", &Value::Null).unwrap();
        self.server.join().unwrap().unwrap()
    }
}

#[test]
fn what_is_typed_is_checked_before_it_is_saved() {
    let mut session = Session::begin();
    let broken = CHECK.replace("fix.verdict", "fix.wrong");
    session.open("workflows/w/check.md", &broken);
    let uri = session.uri("workflows/w/check.md");
    let found = session.editor.diagnostics(&uri).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["code"], "LOOPY-E305");
    assert_eq!(found[0]["severity"], 1);
    // `echo é` and a pair of surrogates and a blank go before.
    let range = json!({
        "start": {"line": 4, "character": 9}, "end": {"line": 4, "character": 24},
    });
    assert_eq!(found[0]["range"], range);
    // The word itself, in UTF-16 units.
    let word = json!({
        "start": {"line": 4, "character": 16}, "end": {"line": 4, "character": 21},
    });
    session.change(
        "workflows/w/check.md",
        &json!([{"range": word, "text": "verdict"}]),
    );
    assert!(session.codes("workflows/w/check.md").is_empty());
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn an_error_in_one_file_shows_in_another() {
    let mut session = Session::begin();
    session.open("registry.yml", &REGISTRY.replace("Coder", "Writer"));
    assert_eq!(session.codes("workflows/w/fix.md"), ["LOOPY-E501"]);
    session.close("registry.yml");
    assert!(session.codes("workflows/w/fix.md").is_empty());
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn names_tell_what_they_mean() {
    let mut session = Session::begin();
    session.open("workflows/w/fix.md", FIX);
    session.open("workflows/w/check.md", CHECK);
    session.open("registry.yml", REGISTRY);
    let fix = |old: &str, new: &str| FIX.replace(old, new);
    let agent = session.hover("workflows/w/fix.md", &fix("Coder", "Co|der"));
    for part in [
        "`Coder`",
        "claude-code",
        "claude-sonnet-4-6",
        "`Box` (`local`)",
    ] {
        assert!(agent.contains(part), "{agent}");
    }
    let event = session.hover("workflows/w/fix.md", &fix("Bug", "|Bug"));
    for part in ["severity: enum[low, high]", "url: url?", "starts: `w/fix`"] {
        assert!(event.contains(part), "{event}");
    }
    let check = |old: &str, new: &str| CHECK.replace(old, new);
    let step = session.hover("workflows/w/check.md", &check("fix\n", "fix|\n"));
    for part in ["`w/fix`", "on: `Bug`", "verdict: enum[pass, fail]"] {
        assert!(step.contains(part), "{step}");
    }
    let field = session.hover("workflows/w/check.md", &check("verdict", "ver|dict"));
    assert!(field.contains("verdict: enum[pass, fail]"), "{field}");
    let title = session.hover("registry.yml", &REGISTRY.replace("title", "ti|tle"));
    assert!(title.contains("title: str"), "{title}");
    let nothing = session.ask("hover", "workflows/w/check.md", &check("echo", "ec|ho"));
    assert_eq!(nothing, Value::Null);
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn definitions_are_found_in_other_files() {
    let mut session = Session::begin();
    session.open("workflows/w/fix.md", FIX);
    session.open("workflows/w/check.md", CHECK);
    let check = "workflows/w/check.md";
    let cases = [
        (
            check,
            CHECK.replace("Shell", "Sh|ell"),
            "registry.yml",
            4,
            2,
        ),
        (
            "workflows/w/fix.md",
            FIX.replace("Bug", "B|ug"),
            "registry.yml",
            6,
            2,
        ),
        (
            "workflows/w/fix.md",
            FIX.replace("title", "t|itle"),
            "registry.yml",
            6,
            9,
        ),
        (
            check,
            CHECK.replace("fix\n", "f|ix\n"),
            "workflows/w/fix.md",
            0,
            0,
        ),
        (
            check,
            CHECK.replace("fix.v", "f|ix.v"),
            "workflows/w/fix.md",
            0,
            0,
        ),
        (
            check,
            CHECK.replace("verdict", "v|erdict"),
            "workflows/w/fix.md",
            3,
            10,
        ),
    ];
    for (file, text, to, line, character) in cases {
        let found = session.ask("definition", file, &text);
        assert_eq!(found["uri"], session.uri(to), "{text}");
        let start = json!({"line": line, "character": character});
        assert_eq!(found["range"]["start"], start, "{text}");
    }
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn what_may_be_written_is_offered() {
    let mut session = Session::begin();
    let file = "workflows/w/check.md";
    session.open(file, CHECK);
    let front = |line: &str| CHECK.replace("agent: Shell", line);
    assert!(
        session
            .labels(file, &front("a|"))
            .contains(&"agent".to_owned())
    );
    assert_eq!(session.labels(file, &front("agent: |")), ["Coder", "Shell"]);
    assert_eq!(session.labels(file, &front("emits: [B|")), ["Bug"]);
    let triggers = session.labels(file, &front("on: |"));
    assert!(triggers.contains(&"Github.Push".to_owned()), "{triggers:?}");
    assert!(triggers.contains(&"Bug".to_owned()), "{triggers:?}");
    assert_eq!(
        session.labels(file, &CHECK.replace("fix\n", "|\n")),
        ["fix"]
    );
    let body = |tag: &str| CHECK.replace("{{ fix.verdict }}", tag);
    assert_eq!(session.labels(file, &body("{{ |")), ["event", "fix"]);
    assert_eq!(session.labels(file, &body("{{ fix.|")), ["verdict"]);
    let fields = ["severity", "title", "url"];
    assert_eq!(session.labels(file, &body("{{ event.t| }}")), fields);
    assert!(session.labels(file, &body("plain |")).is_empty());
    // The edit takes the place of what is written, after an astral character.
    let text = body("{{ fix.ver|");
    session.change(file, &json!([{"text": text.replacen('|', "", 1)}]));
    let items = session.ask("completion", file, &text);
    let range = json!({
        "start": {"line": 4, "character": 16}, "end": {"line": 4, "character": 19},
    });
    assert_eq!(
        items[0]["textEdit"],
        json!({"range": range, "newText": "verdict"})
    );
    assert_eq!(session.end(), Farewell::Orderly);
}

/// A registry, a skill and sensors in all languages.
const MORE: &str = "\
defaults: { agent: { sandbox: Box, skills: [tone] } }
sandboxes:
  Box: { provider: local }
  Far: { provider: daytona }
agents:
  Coder: { harness: claude-code, model: claude-sonnet-4-6, sandbox: Far, skills: [tone] }
events:
  Bug: { title: str }
limits: { workflows: { w: { runs: 5 } } }
";
const TONE: &str = "---\ndescription: Be kind.\n---\nx\n";

fn with_sensors() -> Session {
    Session::of(&[
        ("registry.yml", MORE),
        ("skills/tone/SKILL.md", TONE),
        ("workflows/w/fix.md", FIX),
    ])
}

#[test]
fn the_registry_is_completed() {
    let mut session = with_sensors();
    let file = "registry.yml";
    session.open(file, MORE);
    let with = |old: &str, new: &str| {
        let text = MORE.replacen(old, new, 1);
        assert_ne!(text, MORE, "{old}");
        text
    };
    let agent_keys = ["model", "harness", "sandbox", "skills", "tools"];
    let cap_keys = ["spend", "runs"];
    for (old, new, want) in [
        ("harness: claude-code", "|", &agent_keys[..]),
        ("sandbox: Far", "sandbox: |", &["Box", "Far"]),
        ("sandbox: Box", "sandbox: B|", &["Box", "Far"]),
        ("skills: [tone] }\nevents", "skills: [t|", &["tone"]),
        ("w: { runs: 5 }", "|", &["w"]),
        ("runs: 5", "r|", &cap_keys),
        ("warnings: off", "warnings: { W501: |", &["off", "on"]),
    ] {
        let text = match old {
            "warnings: off" => format!("{MORE}{new}"),
            _ => with(old, new),
        };
        assert_eq!(session.labels(file, &text), want, "{new}");
    }
    for (old, new, want) in [
        ("claude-code", "|", "codex"),
        ("local", "|", "docker"),
        ("title: str", "title: |", "datetime"),
        ("title: str", "title: str, tags: list[|", "url"),
        ("provider: daytona", "provider: daytona, |", "env_file"),
        ("limits: {", "limits: { |", "cascade"),
        ("events:\n", "|\nevents:\n", "warnings"),
        ("events:\n", "warnings: { | }\nevents:\n", "W501"),
    ] {
        let labels = session.labels(file, &with(old, new));
        assert!(labels.contains(&want.to_owned()), "{new}: {labels:?}");
    }
    for (old, new) in [("claude-sonnet-4-6", "cl|"), ("  Bug:", "  B|:")] {
        let labels = session.labels(file, &with(old, new));
        assert_eq!(labels, Vec::<String>::new(), "{new}");
    }
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn sensors_are_completed() {
    let mut session = with_sensors();
    let files = [
        (
            "sensors/a.py",
            "@sensor(webhook=\"/x\", emits=\"E\", verify=\"V\")\ndef a(r): ...\n",
        ),
        (
            "sensors/b.sh",
            "#!/bin/sh\n# loopy: webhook=\"/x\" emits=\"E\" verify=\"V\"\n",
        ),
        (
            "sensors/c.ts",
            "export const sensorRegistry = {\n  c: { webhook: \"/x\", emits: \"E\", verify: \"V\" },\n};\n",
        ),
    ];
    for (file, text) in files {
        session.open(file, text);
        let events = session.labels(file, &text.replacen("\"E\"", "\"B|\"", 1));
        assert_eq!(events, ["Bug"], "{file}");
        let schemes = session.labels(file, &text.replacen("\"V\"", "\"|\"", 1));
        for scheme in ["github", "standard", "none"] {
            assert!(schemes.contains(&scheme.to_owned()), "{file}: {schemes:?}");
        }
        let path = session.labels(file, &text.replacen("/x", "/|x", 1));
        assert_eq!(path, Vec::<String>::new(), "{file}");
    }
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn steps_are_completed_below_their_keys() {
    let mut session = Session::begin();
    let file = "workflows/w/check.md";
    session.open(file, CHECK);
    for (line, want) in [
        ("retry: { m|", &["max", "backoff", "on"][..]),
        ("approve:\n  |", &["before", "after", "within", "otherwise"]),
        ("approve: { otherwise: |", &["deny", "approve"]),
        ("loop: { to: |", &["fix"]),
        ("concurrency: { key: fix.|", &["verdict"]),
        ("budget: { spend: { |", &["usd"]),
        ("files: [f|", &["fix/"]),
    ] {
        let text = CHECK.replace("agent: Shell", line);
        assert_eq!(session.labels(file, &text), want, "{line}");
    }
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn what_the_registry_names_is_told_and_found() {
    let mut session = with_sensors();
    session.open("registry.yml", MORE);
    for (name, at, part, to, line) in [
        ("Far", "sandbox: F|ar", "`daytona`", "registry.yml", 3),
        ("Box", "sandbox: B|ox", "`local`", "registry.yml", 2),
        (
            "tone",
            "skills: [t|one]",
            "Be kind.",
            "skills/tone/SKILL.md",
            0,
        ),
    ] {
        let text = MORE.replacen(&at.replace('|', ""), at, 1);
        let told = session.hover("registry.yml", &text);
        assert!(told.contains(name) && told.contains(part), "{told}");
        let found = session.ask("definition", "registry.yml", &text);
        assert_eq!(found["uri"], session.uri(to), "{at}");
        assert_eq!(found["range"]["start"]["line"], line, "{at}");
    }
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn a_broken_registry_leaves_the_rest_answered() {
    let mut session = Session::begin();
    session.open("workflows/w/check.md", CHECK);
    session.open("registry.yml", REGISTRY);
    let agents = session.ask(
        "completion",
        "workflows/w/check.md",
        &CHECK.replace("Shell", "|Shell"),
    );
    assert_eq!(agents.as_array().unwrap().len(), 2);
    session.change("registry.yml", &json!([{"text": "agents: [\n"}]));
    assert_eq!(session.codes("registry.yml"), ["LOOPY-E001"]);
    let field = session.hover(
        "workflows/w/check.md",
        &CHECK.replace("verdict", "ver|dict"),
    );
    assert!(field.contains("enum[pass, fail]"), "{field}");
    // The agents are those that were last known.
    let agents = session.ask(
        "completion",
        "workflows/w/check.md",
        &CHECK.replace("Shell", "|Shell"),
    );
    assert_eq!(agents.as_array().unwrap().len(), 2);
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn each_file_belongs_to_the_nearest_project() {
    let mut session = Session::of(&[
        ("registry.yml", REGISTRY),
        ("workflows/w/fix.md", FIX),
        ("inner/registry.yml", ""),
        ("inner/workflows/w/fix.md", FIX),
        ("other/notes.md", "---\n"),
    ]);
    session.open("other/notes.md", "---\n");
    session.open("workflows/w/fix.md", FIX);
    session.open("inner/workflows/w/fix.md", FIX);
    let inner = session.codes("inner/workflows/w/fix.md");
    assert!(inner.contains(&"LOOPY-E501".to_owned()), "{inner:?}");
    let agents = session.ask(
        "completion",
        "workflows/w/fix.md",
        &FIX.replace("Coder", "|"),
    );
    assert_eq!(agents.as_array().unwrap().len(), 2);
    // With its last file closed, a project has nothing to say.
    session.close("inner/workflows/w/fix.md");
    assert!(session.codes("inner/workflows/w/fix.md").is_empty());
    let notes = session.ask("hover", "other/notes.md", "--|-");
    assert_eq!(notes, Value::Null);
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn what_changes_on_disk_is_seen() {
    let mut session = Session::begin();
    let registers = session
        .editor
        .wait("the request to watch", |message| {
            message["method"] == "client/registerCapability"
        })
        .unwrap();
    let watchers = &registers["params"]["registrations"][0]["registerOptions"]["watchers"];
    assert_eq!(watchers[0]["globPattern"], "**/registry.yml");
    let answer = r#"{"jsonrpc":"2.0","id":"watch","result":null}"#;
    let answer = format!("Content-Length: {}\r\n\r\n{answer}", answer.len());
    session.editor.raw(answer.as_bytes()).unwrap();
    session.open("workflows/w/check.md", CHECK);
    session.write("workflows/w/fix.md", &FIX.replace("verdict", "result"));
    session.watched("workflows/w/fix.md");
    assert_eq!(session.codes("workflows/w/check.md"), ["LOOPY-E305"]);
    // The open text of a file counts, whatever is on disk.
    session.open("workflows/w/fix.md", FIX);
    assert!(session.codes("workflows/w/check.md").is_empty());
    fs::remove_file(session.path("registry.yml")).unwrap();
    session.watched("registry.yml");
    assert_eq!(session.end(), Farewell::Orderly);
}

#[test]
fn what_makes_no_sense_is_answered_with_an_error() {
    let mut session = Session::uninitialized(&[("registry.yml", "")]);
    let code = |answer: Value| answer["error"]["code"].as_i64().unwrap();
    let early = session.editor.request("textDocument/hover", &json!({}));
    assert_eq!(code(early.unwrap()), -32002);
    session.editor.begin().unwrap();
    for (method, params, expected) in [
        ("initialize", json!({"capabilities": {}}), -32600),
        ("textDocument/hover", json!([1]), -32602),
        (
            "textDocument/hover",
            json!({"textDocument": {"uri": 7}}),
            -32602,
        ),
        ("workspace/nonsense", Value::Null, -32601),
    ] {
        let answer = session.editor.request(method, &params).unwrap();
        assert_eq!(code(answer), expected, "{method}");
    }
    for body in ["{", "[]", "7", "{\"id\":{},\"method\":\"x\"}", "\u{0}"] {
        let frame = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        session.editor.raw(frame.as_bytes()).unwrap();
        let refused = session.editor.wait("an error", |message| {
            message.get("id") == Some(&Value::Null)
        });
        assert!(code(refused.unwrap()) <= -32600, "{body}");
    }
    // None of these is answered; the session goes on.
    let far = json!({"line": u32::MAX, "character": u32::MAX});
    for uri in [
        "file:///%zz",
        "untitled:x",
        "",
        "file:///\u{0}/registry.yml",
    ] {
        let document = json!({"uri": uri, "languageId": "", "version": 1, "text": "x"});
        let open = json!({"textDocument": document});
        session
            .editor
            .notify("textDocument/didOpen", &open)
            .unwrap();
        let change = json!({
            "textDocument": {"uri": uri, "version": -1},
            "contentChanges": [{"range": {"start": far, "end": {"line": 0, "character": 0}}, "text": "é"}],
        });
        session
            .editor
            .notify("textDocument/didChange", &change)
            .unwrap();
        let place = json!({"textDocument": {"uri": uri}, "position": far});
        for what in ["hover", "completion", "definition"] {
            let method = format!("textDocument/{what}");
            let answer = session.editor.request(&method, &place).unwrap();
            assert_eq!(answer["error"], Value::Null, "{uri}");
        }
    }
    session
        .editor
        .notify("textDocument/didOpen", &json!(5))
        .unwrap();
    session
        .editor
        .notify("$/cancelRequest", &json!({"id": 1}))
        .unwrap();
    session.editor.request("shutdown", &Value::Null).unwrap();
    let late = session.editor.request("textDocument/hover", &json!({}));
    assert_eq!(code(late.unwrap()), -32600);
    session.editor.notify("exit", &Value::Null).unwrap();
    assert_eq!(session.server.join().unwrap().unwrap(), Farewell::Orderly);
}

#[test]
fn leaving_without_a_word_is_told() {
    let mut session = Session::begin();
    session.editor.notify("exit", &Value::Null).unwrap();
    assert_eq!(session.server.join().unwrap().unwrap(), Farewell::Abrupt);
    let Session { editor, server, .. } = Session::begin();
    drop(editor);
    // The stream may end while the server still writes.
    assert!(matches!(
        server.join().unwrap(),
        Ok(Farewell::Abrupt) | Err(ServeError::Write(_))
    ));
}
