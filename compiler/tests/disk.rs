//! What is read of a project on disk, and what of it cannot be.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests")]

use loopy_compiler::{Sources, compile};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn codes(root: &Path) -> Vec<String> {
    let compilation = compile(&Sources::read(root).unwrap());
    compilation
        .diagnostics
        .iter()
        .map(|d| format!("{} {}", d.code.name(), d.file))
        .collect()
}

#[test]
fn secrets_and_what_tools_made_stay_out() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(
        root,
        "registry.yml",
        "agents: { A: { skills: [x], harness: command, sandbox: B } }\nsandboxes: { B: { provider: local } }\nwarnings: { W502: off }\n",
    );
    write(root, "skills/x/SKILL.md", "x");
    write(root, "skills/x/.env", "SECRET=1");
    write(root, "sensors/.env", "SECRET=1");
    write(root, "sensors/a.py", "x = 1\n");
    write(root, "sensors/lib/__init__.py", "this is ( no Python");
    write(root, "sensors/__pycache__/a.py", "this is ( no Python");
    write(root, "workflows/w/sub/deep.md", "no step");
    write(root, "workflows/loose.md", "no step");
    let compilation = compile(&Sources::read(root).unwrap());
    assert_eq!(compilation.diagnostics, []);
    let manifest = compilation.manifest.unwrap();
    assert_eq!(
        manifest.skills["x"].keys().collect::<Vec<_>>(),
        ["SKILL.md"]
    );
    let code: Vec<_> = manifest.sensor_files.keys().collect();
    assert_eq!(code, ["sensors/a.py", "sensors/lib/__init__.py"]);
}

#[test]
fn what_cannot_be_read_is_a_diagnostic() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("registry.yml")).unwrap();
    fs::create_dir_all(root.join("workflows/w/folder.md")).unwrap();
    fs::create_dir_all(root.join("sensors")).unwrap();
    write(outside.path(), "code.py", "x = 1\n");
    symlink(outside.path(), root.join("sensors/away")).unwrap();
    symlink(outside.path(), root.join("skills")).unwrap();
    symlink(outside.path(), root.join("workflows/out")).unwrap();
    symlink(outside.path().join("code.py"), root.join("sensors/code.py")).unwrap();
    assert_eq!(
        codes(root),
        [
            "LOOPY-E001 registry.yml",
            "LOOPY-E402 sensors/away",
            "LOOPY-E402 sensors/code.py",
            "LOOPY-E002 skills",
            "LOOPY-E002 workflows/out",
            "LOOPY-E101 workflows/w/folder.md",
        ]
    );
}

#[test]
fn links_inside_the_project_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "registry.yml", "events: { Ping: {} }\n");
    write(
        root,
        "shared/hook.py",
        "@sensor(poll=\"5m\", emits=\"Ping\")\ndef tick(t): ...\n",
    );
    symlink(root.join("shared"), root.join("sensors")).unwrap();
    let compilation = compile(&Sources::read(root).unwrap());
    assert_eq!(compilation.manifest.unwrap().sensors[0].name, "tick");
}

#[test]
fn no_project_is_an_error() {
    assert!(Sources::read(Path::new("does/not/exist")).is_err());
}
