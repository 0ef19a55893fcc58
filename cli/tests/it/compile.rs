//! `loopy compile`, and what the command says of itself.

use crate::support::{Project, json};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;

/// A project with an error, and a step that is not reached by anything.
fn broken() -> Project {
    let project = Project::hello();
    project.replace("registry.yml", "length: int", "length: integer");
    project
}

#[test]
fn a_project_that_is_fine_is_summed_up_on_stderr() {
    let project = Project::hello();
    for arguments in [&["compile"][..], &["compile", "--check", "."]] {
        let output = project.loopy(arguments).assert();
        output.code(0).stdout_eq(str![""]).stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor

"#]]);
    }
}

#[test]
fn the_manifest_is_written_where_it_is_wanted() {
    let project = Project::hello();
    let output = project.loopy(&["compile", "--out", "../manifest.json"]);
    output
        .assert()
        .code(0)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor
wrote ../manifest.json (manifest [HASH])

"#]]);
    let text = fs::read(project.outside("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        manifest["workflows"]["greet"]["steps"]
            .as_object()
            .unwrap()
            .len(),
        2
    );

    // The same project gives the same bytes.
    let again = project.loopy(&["compile", "--out", "../again.json"]);
    again.assert().code(0);
    assert_eq!(fs::read(project.outside("again.json")).unwrap(), text);
}

#[test]
fn a_manifest_that_cannot_be_written_is_an_abnormal_end() {
    let output = Project::hello()
        .loopy(&["compile", "--out", "none/manifest.json"])
        .assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor
error: cannot write the manifest to none/manifest.json: No such file or directory (os error 2)

"#]]);
}

#[test]
fn errors_are_shown_where_they_are() {
    let output = broken().loopy(&["compile", "--out", "../m.json"]).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
error LOOPY-E201 registry.yml:14:37: field `length`: `integer` is not a type
  14 |   Greeted: { greeting: str, length: integer }
     |                                     ^^^^^^^
  hint: did you mean `int`?
1 error

"#]]);
}

#[test]
fn a_project_with_errors_writes_no_manifest() {
    let project = broken();
    project
        .loopy(&["compile", "--out", "../m.json"])
        .assert()
        .code(1);
    assert!(!project.outside("m.json").exists());
}

#[test]
fn machines_get_the_diagnostics_on_stdout() {
    for arguments in [["compile", "--format", "json"], ["compile", ".", "--json"]] {
        let fine = Project::hello().loopy(&arguments).assert().code(0);
        assert_eq!(json(&fine), json!({ "diagnostics": [] }));

        let output = broken().loopy(&arguments).assert().code(1);
        let document = json(&output);
        let found = &document["diagnostics"][0];
        assert_eq!(found["file"], "registry.yml");
        assert_eq!(found["severity"], "error");
        assert_eq!(document["diagnostics"].as_array().unwrap().len(), 1);
        output.stderr_eq(str![[r#"
1 error

"#]]);
    }
}

#[test]
fn a_folder_that_is_not_there_is_wrong_usage() {
    let output = Project::hello().loopy(&["compile", "nowhere"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: cannot read the project nowhere: No such file or directory (os error 2)

hint: give the folder that holds registry.yml

"#]]);
}

#[test]
fn options_that_exclude_each_other_are_wrong_usage() {
    let project = Project::hello();
    let output = project.loopy(&["compile", "--check", "--out", "m.json"]);
    output
        .assert()
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
error: the argument '--check' cannot be used with '--out <FILE>'

Usage: loopy compile --check [PROJECT]

For more information, try '--help'.

"#]]);
    let output = project.loopy(&["compile", "--colour"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: unexpected argument '--colour' found

  tip: to pass '--colour' as a value, use '-- --colour'

Usage: loopy compile [OPTIONS] [PROJECT]

For more information, try '--help'.

"#]]);
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let project = broken();
    let said = project.loopy(&["compile"]).on_terminal();
    assert!(said.contains("\u{1b}["), "{said:?}");
    // Empty is as good as unset.
    let said = project.loopy(&["compile"]).env("NO_COLOR", "");
    let said = said.on_terminal();
    assert!(said.contains("\u{1b}["), "{said:?}");

    let plain = project.loopy(&["compile"]).env("NO_COLOR", "1");
    let plain = plain.on_terminal();
    assert!(plain.starts_with("error LOOPY-E"), "{plain:?}");
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn the_command_tells_its_version() {
    let output = Project::of(&[]).loopy(&["--version"]).assert().code(0);
    let expected = format!("loopy {}\n", env!("CARGO_PKG_VERSION"));
    output.stdout_eq(expected).stderr_eq(str![""]);
}

#[test]
fn the_command_tells_what_it_can_do() {
    let output = Project::of(&[]).loopy(&["--help"]).assert();
    output.code(0).stderr_eq(str![""]).stdout_eq(str![[r#"
Agent automations that live as files in a repo

Usage: loopy <COMMAND>

Commands:
  compile   Check a project and write its manifest
  graph     Draw how a project's workflows hang together
  fmt       Bring the registry and the steps into one layout
  trigger   Run what one event sets off, here and now
  run       Serve a project on this machine
  runs      What ran, and how it went; cancel, pause, approve, rerun
  events    What came in, and what became of it
  replay    Have events that came in before come in again
  dlq       Messages that were given up, and sending them again
  deploy    Put a project into an AWS account
  rollback  Make a stack what it was at an earlier deployment
  drift     Where a stack, or the project, is no longer what was deployed
  destroy   Take a deployed stack down
  cost      What a project will cost in an AWS account
  webhooks  Where deliveries go, and telling GitHub so
  doctor    Say what is wrong with a project, or a stack, and what it lacks
  docs      Explain what the compiler says
  lsp       Answer an editor about the projects it has open

Options:
  -h, --help     Print help
  -V, --version  Print version

"#]]);
}

#[test]
fn no_command_is_wrong_usage() {
    let output = Project::of(&[]).loopy(&[]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
Agent automations that live as files in a repo

Usage: loopy <COMMAND>

Commands:
  compile   Check a project and write its manifest
  graph     Draw how a project's workflows hang together
  fmt       Bring the registry and the steps into one layout
  trigger   Run what one event sets off, here and now
  run       Serve a project on this machine
  runs      What ran, and how it went; cancel, pause, approve, rerun
  events    What came in, and what became of it
  replay    Have events that came in before come in again
  dlq       Messages that were given up, and sending them again
  deploy    Put a project into an AWS account
  rollback  Make a stack what it was at an earlier deployment
  drift     Where a stack, or the project, is no longer what was deployed
  destroy   Take a deployed stack down
  cost      What a project will cost in an AWS account
  webhooks  Where deliveries go, and telling GitHub so
  doctor    Say what is wrong with a project, or a stack, and what it lacks
  docs      Explain what the compiler says
  lsp       Answer an editor about the projects it has open

Options:
  -h, --help     Print help
  -V, --version  Print version

"#]]);
}
