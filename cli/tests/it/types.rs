//! The types for sensor code that `loopy compile` writes.

use crate::support::Project;
use snapbox::str;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

/// The generated files by name: what is in them, and which file it is.
fn types(project: &Project) -> BTreeMap<String, (String, u64)> {
    let Ok(folder) = fs::read_dir(project.path().join("loopy")) else {
        return BTreeMap::new();
    };
    folder
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let inode = entry.metadata().unwrap().ino();
            (name, (fs::read_to_string(entry.path()).unwrap(), inode))
        })
        .collect()
}

fn names(project: &Project) -> Vec<String> {
    types(project).into_keys().collect()
}

#[test]
fn types_are_written_once_and_again_when_events_change() {
    let project = Project::hello();
    project.loopy(&["compile"]).assert().code(0);
    let first = types(&project);
    let expected = [
        ".gitignore",
        "__init__.py",
        "__init__.pyi",
        "events.d.ts",
        "events.py",
        "events.pyi",
        "index.d.ts",
    ];
    assert_eq!(names(&project), expected);
    assert!(first["events.pyi"].0.contains("class Hello(_Event):"));
    assert!(first["events.d.ts"].0.contains("export interface Hello {"));

    project.loopy(&["compile"]).assert().code(0);
    assert_eq!(types(&project), first, "nothing changed, yet files did");

    project.replace(
        "registry.yml",
        "Hello: { name: str }",
        "Hello: { name: str, age: int? }",
    );
    project.loopy(&["compile"]).assert().code(0);
    let second = types(&project);
    assert!(second["events.pyi"].0.contains("age: int = ..."));
    assert!(second["events.d.ts"].0.contains("age?: number;"));
    // What does not name the field is the same file still.
    assert_eq!(second["index.d.ts"], first["index.d.ts"]);
    assert_eq!(names(&project), expected);
}

#[test]
fn a_check_and_a_project_with_errors_write_none() {
    let project = Project::hello();
    project.loopy(&["compile", "--check"]).assert().code(0);
    project.replace("registry.yml", "length: int", "length: integer");
    project.loopy(&["compile"]).assert().code(1);
    assert!(!project.path().join("loopy").exists());
}

#[test]
fn git_does_not_see_them() {
    let project = Project::hello();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(project.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["init", "--quiet"]);
    git(&["add", "--all"]);
    let before = git(&["status", "--porcelain"]);
    project.loopy(&["compile"]).assert().code(0);
    assert!(project.path().join("loopy/events.pyi").exists());
    assert_eq!(git(&["status", "--porcelain"]), before);
}

#[test]
fn what_somebody_else_wrote_stays_as_it_is() {
    let project = Project::hello();
    project.write("loopy/events.py", "mine = True\n");
    let output = project.loopy(&["compile"]).assert();
    output.code(0).stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor
left ./loopy/events.py as it is: `loopy compile` did not write it; the types for sensors go there once it is moved away

"#]]);
    assert_eq!(types(&project)["events.py"].0, "mine = True\n");
    assert!(types(&project)["events.pyi"].0.contains("class Hello"));
}

#[test]
fn links_are_not_followed() {
    let project = Project::hello();
    fs::create_dir(project.outside("elsewhere")).unwrap();
    symlink(project.outside("elsewhere"), project.path().join("loopy")).unwrap();
    let output = project.loopy(&["compile"]).assert();
    output.code(0).stderr_eq(str![[r#"
2 workflows, 3 steps, 1 sensor
left ./loopy as it is: `loopy compile` did not write it; the types for sensors go there once it is moved away

"#]]);
    assert_eq!(names(&project), Vec::<String>::new());
}

#[test]
fn a_folder_that_cannot_be_written_is_an_abnormal_end() {
    let project = Project::hello();
    project.loopy(&["compile"]).assert().code(0);
    fs::remove_file(project.path().join("loopy/events.py")).unwrap();
    // Of the name that the new file has at first.
    let output = {
        let mut command = Command::new("sh");
        command
            .args(["-c", "mkdir loopy/.events.py.$$ && exec \"$0\" compile"])
            .arg(env!("CARGO_BIN_EXE_loopy"))
            .current_dir(project.path());
        command.output().unwrap()
    };
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("error: cannot write the types for sensors to ./loopy/events.py: "),
        "{said}"
    );
    assert!(
        said.contains("hint: --check writes nothing into the project"),
        "{said}"
    );
}
