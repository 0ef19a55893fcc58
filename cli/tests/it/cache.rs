//! What `loopy compile` keeps of a compilation: it never shows, but in time.

use crate::support::Project;
use loopy_contract::ids::sha256_hex;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::{Index, select};
use proptest::test_runner::Config;
use std::fs::{self, File};
use std::time::SystemTime;

const KEPT: &str = ".loopy/cache/compile";

/// The files that are edited; the first are there from the start.
const FILES: [&str; 7] = [
    "registry.yml",
    "sensors/hello.py",
    "workflows/greet/compose.md",
    "workflows/greet/measure.md",
    "workflows/record/keep.md",
    "workflows/record/more.md",
    "skills/tone/SKILL.md",
];

/// All that one compilation tells and writes.
fn compiled(
    project: &Project,
    arguments: &[&str],
) -> (Option<i32>, String, String, Option<Vec<u8>>) {
    let out = project.outside("manifest.json");
    let _ = fs::remove_file(&out);
    let arguments = [&["compile", "--out", "../manifest.json"], arguments].concat();
    let output = project.loopy(&arguments).assert();
    let output = output.get_output();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
        fs::read(out).ok(),
    )
}

#[derive(Clone, Debug)]
enum Edit {
    /// Another byte in place of one, with the file's time stamp put back.
    Byte(&'static str, Index, u8),
    /// A line more at the end.
    Line(&'static str, &'static str),
    Remove(&'static str),
    /// As it was in the beginning.
    Restore(&'static str),
    /// Only a newer time stamp.
    Touch(&'static str),
    None,
}

fn edit() -> impl Strategy<Value = Edit> {
    let file = || select(&FILES[..]);
    let lines = select(&["notes: x\n", "{{ event.name }}\n", "---\n", "# \n"][..]);
    prop_oneof![
        4 => (file(), any::<Index>(), select(&b"abX: {\n"[..]))
            .prop_map(|(file, at, byte)| Edit::Byte(file, at, byte)),
        2 => (file(), lines).prop_map(|(file, line)| Edit::Line(file, line)),
        1 => file().prop_map(Edit::Remove),
        3 => file().prop_map(Edit::Restore),
        1 => file().prop_map(Edit::Touch),
        1 => Just(Edit::None),
    ]
}

fn perform(project: &Project, original: &Project, edit: &Edit) {
    match edit {
        Edit::Byte(file, at, byte) => {
            let path = project.path().join(file);
            let Ok(mut bytes) = fs::read(&path) else {
                return;
            };
            if bytes.is_empty() {
                return;
            }
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = *byte;
            fs::write(&path, bytes).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(modified).unwrap();
        }
        Edit::Line(file, line) => {
            let text = fs::read_to_string(project.path().join(file)).unwrap_or_default();
            project.write(file, &(text + line));
        }
        Edit::Remove(file) => {
            let _ = fs::remove_file(project.path().join(file));
        }
        Edit::Restore(file) => {
            if let Ok(text) = fs::read_to_string(original.path().join(file)) {
                project.write(file, &text);
            }
        }
        Edit::Touch(file) => {
            if let Ok(file) = File::options().write(true).open(project.path().join(file)) {
                file.set_modified(SystemTime::now()).unwrap();
            }
        }
        Edit::None => {}
    }
}

proptest! {
    #![proptest_config(Config { cases: 4, ..Config::default() })]

    #[test]
    fn no_edit_makes_a_difference_to_compiling_anew(
        edits in proptest::collection::vec(edit(), 12),
    ) {
        let (project, original) = (Project::hello(), Project::hello());
        for edit in &edits {
            perform(&project, &original, edit);
            let expected = compiled(&project, &["--no-cache"]);
            // What is kept of the time before, and what is kept of this one.
            prop_assert_eq!(&compiled(&project, &[]), &expected, "after {:?}", edit);
            prop_assert_eq!(&compiled(&project, &[]), &expected, "again after {:?}", edit);
        }
    }
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let project = Project::hello();
    let before = compiled(&project, &[]);
    let path = project.path().join("workflows/greet/compose.md");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let body = text.replace('!', "?");
    assert_ne!(text, body);
    fs::write(&path, body).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    let after = compiled(&project, &[]);
    assert_ne!(before.3.unwrap(), after.3.unwrap());
}

#[test]
fn what_is_kept_is_used() {
    let project = Project::hello();
    let first = compiled(&project, &[]);
    let kept = project.path().join(KEPT);
    let modified = fs::metadata(&kept).unwrap().modified().unwrap();
    assert_eq!(compiled(&project, &[]), first);
    // It was not written again.
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), modified);
    assert_eq!(
        fs::read_to_string(project.path().join(".loopy/.gitignore")).unwrap(),
        "*\n"
    );
}

#[test]
fn what_is_damaged_is_as_good_as_none() {
    let project = Project::hello();
    let expected = compiled(&project, &[]);
    let path = project.path().join(KEPT);
    let whole = fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    let mut changed = whole.clone();
    let last = changed.len() - 3;
    changed[last] ^= 1;
    for damaged in [b"".as_slice(), b"\n\n", b"no cache", half, &changed] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(compiled(&project, &[]), expected);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    // A folder in its place cannot be replaced.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(compiled(&project, &[]), expected);
}

#[test]
fn a_link_that_leads_elsewhere_is_not_written_through() {
    let project = Project::hello();
    let elsewhere = project.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, project.path().join(".loopy")).unwrap();
    project.loopy(&["compile"]).assert().code(0);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn checking_uses_what_is_kept_and_keeps_nothing() {
    let project = Project::hello();
    for arguments in [&["compile", "--check"][..], &["compile", "--no-cache"]] {
        project.loopy(arguments).assert().code(0);
        assert!(!project.path().join(".loopy").exists(), "{arguments:?}");
    }
}

#[test]
fn a_forged_name_does_not_choose_where_to_write() {
    let project = Project::hello();
    project.loopy(&["compile"]).assert().code(0);
    let path = project.path().join(KEPT);
    let whole = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    let (_, rest) = whole.split_once('\n').unwrap();
    let rest = rest.replacen("\"events.py\"", "\"../forged.py\"", 1);
    let forged = format!("{}\n{rest}", sha256_hex(rest.as_bytes()));
    fs::write(&path, &forged).unwrap();
    project.loopy(&["compile"]).assert().code(0);
    assert!(!project.path().join("forged.py").exists());
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
}
