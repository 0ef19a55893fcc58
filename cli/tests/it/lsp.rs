//! `loopy lsp` as an editor starts it.

use crate::support::{Project, SHELL};
use loopy_testkit::editor::Editor;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};

const STEP: &str = "---\non: Bug\nagent: Shel\n---\necho \u{1f600} {{ event.titel }}\n";

/// The server and an editor that has begun a session with it.
fn begin(project: &Project) -> (Editor, Child) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_loopy"))
        .args(["lsp", "--stdio"])
        .env_clear()
        .env("HOME", project.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdout, stdin) = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
    let mut editor = Editor::new(stdout, stdin);
    editor.begin().unwrap();
    (editor, server)
}

fn project() -> Project {
    let registry = format!("{SHELL}events:\n  Bug: {{ title: str }}\n");
    Project::of(&[("registry.yml", &registry), ("workflows/w/fix.md", STEP)])
}

#[test]
fn an_editor_is_told_and_answered() {
    let project = project();
    let (mut editor, server) = begin(&project);
    let path = project.path().join("workflows/w/fix.md");
    let uri = format!("file://{}", path.display());
    let document = json!({"uri": uri, "languageId": "markdown", "version": 1, "text": STEP});
    let opened = json!({"textDocument": document});
    editor.notify("textDocument/didOpen", &opened).unwrap();
    let found = editor.diagnostics(&uri).unwrap();
    let errors: Vec<&Value> = found.iter().filter(|one| one["severity"] == 1).collect();
    assert_eq!(errors.len(), 2, "{found:?}");
    assert_eq!(errors[0]["code"], "LOOPY-E501");
    assert_eq!(errors[1]["code"], "LOOPY-E302");
    let range = |line, start, end| json!({"start": {"line": line, "character": start}, "end": {"line": line, "character": end}});
    assert_eq!(errors[0]["range"], range(2, 7, 11));
    assert_eq!(errors[1]["range"], range(4, 8, 25));

    let place = json!({"textDocument": {"uri": uri}, "position": {"line": 2, "character": 11}});
    let answer = editor.request("textDocument/completion", &place).unwrap();
    assert_eq!(answer["result"][0]["textEdit"]["newText"], "Shell");
    let changes = json!([
        {"range": range(4, 17, 22), "text": "title"},
        {"range": range(2, 7, 11), "text": "Shell"},
    ]);
    let changed = json!({"textDocument": {"uri": uri, "version": 2}, "contentChanges": changes});
    editor.notify("textDocument/didChange", &changed).unwrap();
    let found = editor.diagnostics(&uri).unwrap();
    assert!(found.iter().all(|one| one["severity"] != 1), "{found:?}");
    let answer = editor.request("textDocument/definition", &place).unwrap();
    let registry = format!("file://{}", project.path().join("registry.yml").display());
    assert_eq!(answer["result"]["uri"], registry);
    let answer = editor.request("textDocument/hover", &place).unwrap();
    let text = answer["result"]["contents"]["value"].as_str().unwrap();
    assert!(text.contains("harness: `command`"), "{text}");

    let answer = editor.request("shutdown", &Value::Null).unwrap();
    assert_eq!(answer["result"], Value::Null);
    editor.notify("exit", &Value::Null).unwrap();
    let output = server.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn an_editor_that_just_leaves_is_a_failure() {
    let project = project();
    let (mut editor, server) = begin(&project);
    editor.notify("exit", &Value::Null).unwrap();
    assert_eq!(server.wait_with_output().unwrap().status.code(), Some(1));
    let (editor, server) = begin(&project);
    // The end of its stdin.
    drop(editor);
    assert_eq!(server.wait_with_output().unwrap().status.code(), Some(1));
}
