//! `loopy runs logs`: what was written down while steps worked.

use crate::support::{Project, json, until};
use snapbox::str;
use std::fs;

const EVENTS: &str = "events:\n  Go: { place: str }\n";

#[test]
fn what_a_step_said_can_be_read_without_its_secrets() {
    let project = Project::of(&[
        (
            "registry.yml",
            "sandboxes: { Here: { provider: local, env_file: [box.env] } }\n\
             agents: { Shell: { harness: command, sandbox: Here } }\n\
             events: { Go: { n: int } }\n",
        ),
        ("box.env", "KEY=a-planted-secret\n"),
        (
            "workflows/talk/first.md",
            "---\non: Go\nagent: Shell\nretry: { max: 1, on: [crash] }\n---\n\
             echo \"the key is $KEY\"\n\
             printf '{\"type\": \"note\", \"text\": \"%s\"}\\n' \"$KEY\"\n\
             echo complaint >&2\n\
             test -n \"$LOOPY_LAST_FAILURE\" || exit 3\n",
        ),
        (
            "workflows/talk/second.md",
            "---\nafter: first\nagent: Shell\n---\nprintf 'without an end'\n",
        ),
    ]);
    let trigger = ["trigger", "--event", "Go", "--field", "n=1", "--json"];
    let told = json(&project.loopy(&trigger).assert().code(0));
    let id = told["runs"][0]["id"].as_str().unwrap();

    let shown = project.loopy(&["runs", "logs", id]).assert().code(0);
    let text = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    let plain: Vec<String> = text.lines().map(without_time).collect();
    let expected = [
        "first stdout: the key is [redacted]",
        "first stdout: note: [redacted]",
        "first stderr: complaint",
        "first loopy: crash: the script ended with code 3: complaint",
        "first#2 stdout: the key is [redacted]",
        "first#2 stdout: note: [redacted]",
        "first#2 stderr: complaint",
        "second stdout: without an end",
    ];
    let mut sorted = (plain.clone(), expected.map(str::to_owned).to_vec());
    // Two streams of one process are in no order.
    sorted.0.sort();
    sorted.1.sort();
    assert_eq!(sorted.0, sorted.1, "{text}");
    assert_eq!(
        plain.last().map(String::as_str),
        Some("second stdout: without an end")
    );

    let only = [
        "runs",
        "logs",
        id,
        "--step",
        "first",
        "--attempt",
        "2",
        "--format",
        "json",
    ];
    let only = project.loopy(&only).assert().code(0);
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&only.get_output().stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert_eq!(
            (&line["step"], &line["attempt"]),
            (&"first".into(), &2.into())
        );
    }

    let unknown = project
        .loopy(&["runs", "logs", id, "--step", "third"])
        .assert();
    unknown.code(2).stdout_eq(str![""]).stderr_eq(str![[r#"
error: run talk-[ID] has no step `third`; it has first, second

"#]]);
    planted(&project, "a-planted-secret", &["box.env"]);
}

/// The secret stands in no file that was written, but for these.
fn planted(project: &Project, secret: &str, known: &[&str]) {
    let mut folders = vec![project.path()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let holds = bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes());
            let is_known = known.iter().any(|known| path.ends_with(known));
            assert!(!holds || is_known, "{} holds the secret", path.display());
        }
    }
}

/// The line without the seconds in it.
fn without_time(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (step, _, rest) = (words.next(), words.next(), words.next());
    format!("{} {}", step.unwrap(), rest.unwrap())
}

#[test]
fn a_run_can_be_watched_while_it_works() {
    let project = Project::scripts(
        EVENTS,
        &[(
            "talk/only",
            "on: Go",
            "echo before\nuntil test -e \"{{ event.place }}\"; do sleep 0.05; done\necho after",
        )],
    );
    let place = project.outside("go-on");
    let field = format!("place={}", place.display());
    let serving = project.serve();
    let trigger = ["trigger", "--event", "Go", "--field", &field];
    let waiting = project.loopy(&trigger).spawn();
    let id = until("the run", || {
        let runs = project.runs();
        Some(runs.first()?["id"].as_str()?.to_owned())
    });
    let logs = project.loopy(&["runs", "logs", &id, "--follow"]).spawn();
    logs.until_prints("stdout: before\n");
    fs::write(&place, "").unwrap();
    let shown = logs.end().code(0);
    let text = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    let lines: Vec<String> = text.lines().map(without_time).collect();
    assert_eq!(lines, ["only stdout: before", "only stdout: after"]);
    waiting.end().code(0);
    serving.stop().code(0);
}
