//! `loopy compile --watch`.

use crate::support::{Project, until};
use rustix::process::Signal;
use snapbox::str;

#[test]
fn a_project_is_compiled_again_whenever_it_changes() {
    let project = Project::hello();
    let watching = project.loopy(&["compile", "--watch", "--out", "manifest.json"]);
    let watching = watching.spawn();
    // It stands at the end of each round.
    let rounds = |count| {
        until(&format!("{count} rounds"), || {
            let said = watching.stderr();
            assert!(said.matches("watching .\n").count() <= count, "{said}");
            (said.matches("watching .\n").count() == count).then_some(())
        });
    };
    rounds(1);
    project.replace("registry.yml", "length: int", "length: integer");
    rounds(2);
    // A folder that was not there when the watch began.
    project.write("skills/tone/SKILL.md", "Be brief.\n");
    rounds(3);
    project.write("skills/tone/more/words.md", "Plain ones.\n");
    rounds(4);
    // None of the project's files, as the manifest beside them.
    project.write("notes.txt", "remember the milk");
    project.replace("registry.yml", "length: integer", "length: int");
    rounds(5);
    watching.signal(Signal::INT);
    let output = watching.end();
    output.code(0).stdout_eq(str![""]).stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor
wrote manifest.json (manifest [HASH])
watching .
error LOOPY-E201 registry.yml:14:37: field `length`: `integer` is not a type
  14 |   Greeted: { greeting: str, length: integer }
     |                                     ^^^^^^^
  hint: did you mean `int`?
1 error
watching .
error LOOPY-E201 registry.yml:14:37: field `length`: `integer` is not a type
  14 |   Greeted: { greeting: str, length: integer }
     |                                     ^^^^^^^
  hint: did you mean `int`?
1 error
watching .
error LOOPY-E201 registry.yml:14:37: field `length`: `integer` is not a type
  14 |   Greeted: { greeting: str, length: integer }
     |                                     ^^^^^^^
  hint: did you mean `int`?
1 error
watching .
2 workflows, 3 steps, 1 sensor
wrote manifest.json (manifest [HASH])
watching .

"#]]);
}

#[test]
fn a_folder_that_is_not_there_cannot_be_watched() {
    let project = Project::hello();
    let output = project.loopy(&["compile", "nowhere", "--watch"]).assert();
    output.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: cannot read the project nowhere: No such file or directory (os error 2)

hint: give the folder that holds registry.yml

"#]]);
}

#[test]
fn a_stack_is_not_emitted_again_and_again() {
    let project = Project::hello();
    let output = project
        .loopy(&["compile", "--watch", "--emit", "stack"])
        .assert();
    output.code(2).stdout_eq(str![""]);
}
