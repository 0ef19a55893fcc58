//! `loopy fmt`: what it writes, what it lists, and what it leaves alone.

use crate::support::Project;
use snapbox::str;
use std::fs;

const STEP: &str = "---\nagent:   Shell # who\non: Hello\n---\necho   hi\r\n---\n";
const LAID_OUT: &str = "---\non: Hello\nagent: Shell # who\n---\necho   hi\r\n---\n";

/// The example, and a step that has to be laid out.
fn untidy() -> Project {
    let project = Project::hello();
    project.write("workflows/more/say.md", STEP);
    project
}

fn read(project: &Project, file: &str) -> String {
    fs::read_to_string(project.path().join(file)).unwrap()
}

#[test]
fn a_project_that_is_laid_out_stays_as_it_is() {
    for arguments in [&["fmt"][..], &["fmt", ".", "--check"]] {
        let output = Project::hello().loopy(arguments).assert();
        output.code(0).stdout_eq(str![""]).stderr_eq(str![""]);
    }
}

#[test]
fn what_would_change_is_listed_and_not_written() {
    let project = untidy();
    let output = project.loopy(&["fmt", "--check"]).assert();
    output
        .code(1)
        .stdout_eq(str![[r#"
workflows/more/say.md

"#]])
        .stderr_eq(str![""]);
    assert_eq!(read(&project, "workflows/more/say.md"), STEP);
}

#[test]
fn files_are_laid_out_once() {
    let project = untidy();
    let output = project.loopy(&["fmt"]).assert();
    output.code(0).stdout_eq(str![""]).stderr_eq(str![[r#"
formatted workflows/more/say.md

"#]]);
    assert_eq!(read(&project, "workflows/more/say.md"), LAID_OUT);
    project.loopy(&["fmt", "--check"]).assert().code(0);
    // Nothing is left beside it.
    let folder = project.path().join("workflows/more");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let project = untidy();
    let step = project.path().join("workflows/more/say.md");
    let target = project.path().join("say.txt");
    fs::rename(&step, &target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("../../say.txt", &step).unwrap();
    project.loopy(&["fmt"]).assert().code(0);
    assert!(step.is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), LAID_OUT);
    assert_eq!(
        target.metadata().unwrap().permissions().mode() & 0o777,
        0o640
    );
}

#[test]
fn only_the_files_named_are_laid_out() {
    let project = untidy();
    project.write("registry.yml", "events:    {}\n");
    let named = project.path().join("workflows/more/say.md");
    let output = project
        .loopy(&["fmt", ".", named.to_str().unwrap()])
        .assert();
    output.code(0).stdout_eq(str![""]).stderr_eq(str![[r#"
formatted workflows/more/say.md

"#]]);
    assert_eq!(read(&project, "registry.yml"), "events:    {}\n");
}

#[test]
fn files_that_do_not_parse_are_told_and_left_alone() {
    let project = untidy();
    project.write("registry.yml", "agents: [\n");
    let output = project.loopy(&["fmt"]).assert();
    output.code(1).stdout_eq(str![""]).stderr_eq(str![[r#"
formatted workflows/more/say.md
error LOOPY-E001 registry.yml:[..]
...
"#]]);
    assert_eq!(read(&project, "registry.yml"), "agents: [\n");
}

#[test]
fn other_files_are_refused() {
    let project = untidy();
    for (file, said) in [
        (
            "sensors/hello.py",
            "error: sensors/hello.py is no file that `loopy fmt` lays out",
        ),
        (
            "../away.md",
            "error: ../away.md is no file that `loopy fmt` lays out",
        ),
        (
            "none.md",
            "error: cannot read none.md: No such file or directory (os error 2)",
        ),
    ] {
        fs::write(project.outside("away.md"), "x").unwrap();
        let output = project.loopy(&["fmt", ".", file]).assert();
        let output = output.code(2).stdout_eq(str![""]);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.starts_with(said), "{stderr}");
    }
    assert_eq!(read(&project, "workflows/more/say.md"), STEP);
}
