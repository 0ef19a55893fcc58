//! Steps in containers of a real Docker engine.

use crate::support::{Project, json, until};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// What `cargo xtask test` has put into the engine.
pub(crate) const IMAGE: &str = "loopy-test:1";

pub(crate) fn host() -> String {
    std::env::var("LOOPY_TEST_DOCKER").expect(
        "run `cargo xtask test`, which starts a Docker engine and says in LOOPY_TEST_DOCKER where",
    )
}

/// A project whose steps are these scripts, one after the other.
fn project(sandbox: &str, steps: &[(&str, &str, &str)]) -> Project {
    let registry = format!(
        "defaults:\n  agent: {{ harness: command, sandbox: Box }}\n\
         sandboxes:\n  Box: {{ provider: docker, {sandbox} }}\n\
         agents:\n  Shell: {{}}\nevents:\n  Go: {{ text: str }}\n"
    );
    let project = Project::of(&[("registry.yml", &registry)]);
    for (step, front, script) in steps {
        project.write(
            &format!("workflows/work/{step}.md"),
            &format!("---\nagent: Shell\n{front}\n---\n{script}\n"),
        );
    }
    project
}

/// The names of the project's containers.
fn containers(project: &Project) -> Vec<String> {
    containers_that_are(project, &["created", "running", "paused", "exited", "dead"])
}

/// The names of those with one of these states.
fn containers_that_are(project: &Project, states: &[&str]) -> Vec<String> {
    let state = project.path().canonicalize().unwrap().join(".loopy");
    let label = format!("loopy.project={}", state.display());
    let filters = json!({"label": [label], "status": states}).to_string();
    let encoded: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let body = ask("GET", &format!("/containers/json?all=1&filters={encoded}"));
    let found: Vec<Value> = serde_json::from_str(&body).unwrap();
    let name = |one: &Value| one["Names"][0].as_str().unwrap().to_owned();
    found.iter().map(name).collect()
}

/// What the engine answers.
fn ask(method: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(host().trim_start_matches("unix://")).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

const TRIGGER: [&str; 6] = ["trigger", "--json", "--event", "Go", "--field", "text=hi"];

#[test]
fn a_step_works_in_a_container_and_leaves_none() {
    let project = project(
        &format!("image: {{ base: \"{IMAGE}\", memory: 1 }}, network: [api.test]"),
        &[
            (
                "first",
                "on: Go\noutput: { user: str, text: str, place: str, proxies: int, refused: str }",
                r#"refused=$(wget -q -O - http://evil.test/ 2>&1 | tr -d '\n"')
proxies=$(env | grep -ic '^http_proxy=\|^https_proxy=\|^no_proxy=')
printf '{"output": {"user": "%s", "text": "%s", "place": "%s", "proxies": %s, "refused": "%s"}}' \
  "$(id -u)" {{ event.text }} "$PWD" "$proxies" "$refused" > "$LOOPY_OUTPUT""#,
            ),
            (
                "second",
                "after: first\noutput: { files: str }",
                r#"printf '{"output": {"files": "%s"}}' "$(ls -A)" > "$LOOPY_OUTPUT""#,
            ),
        ],
    );
    let trigger = project.loopy(&TRIGGER).env("DOCKER_HOST", &host());
    let document = json(&trigger.assert().code(0));
    let steps = &document["runs"][0]["steps"];
    let first = &steps["first"]["output"];
    assert_eq!(first["user"], "65534", "{document:#}");
    assert_eq!(first["text"], "hi");
    assert_eq!(first["place"], "/loopy/work");
    assert_eq!(first["proxies"], 6);
    let refused = first["refused"].as_str().unwrap();
    assert!(refused.contains("403 Forbidden"), "{refused}");
    // Each step has a place of its own.
    assert_eq!(steps["second"]["output"]["files"], "");
    assert_eq!(containers(&project), [""; 0]);

    let mut noted = Vec::new();
    for entry in fs::read_dir(project.path().join(".loopy/sandboxes")).unwrap() {
        let log = entry.unwrap().path().join("refused.log");
        noted.push(fs::read_to_string(log).unwrap_or_default());
    }
    let noted = noted.concat();
    assert_eq!(noted.lines().count(), 1);
    assert!(noted.contains("HTTP evil.test:80: "), "{noted}");
}

#[test]
fn a_container_outlives_the_command_that_was_killed_and_reports_to_the_next() {
    let project = project(
        &format!("image: {{ base: \"{IMAGE}\" }}"),
        &[(
            "only",
            "on: Go\noutput: { host: str }",
            r#"sleep 2; printf '{"output": {"host": "%s"}}' "$(hostname)" > "$LOOPY_OUTPUT""#,
        )],
    );
    let trigger = project.loopy(&TRIGGER).env("DOCKER_HOST", &host()).spawn();
    until("the container", || {
        let at_work = containers_that_are(&project, &["running"]);
        (!at_work.is_empty()).then_some(())
    });
    trigger.kill();
    let before = containers(&project);
    assert_eq!(before.len(), 1);

    let serving = serve(&project);
    project.until_succeeded(1);
    until("its end", || containers(&project).is_empty().then_some(()));
    serving.stop().code(0);
    let id = project.runs()[0]["id"].as_str().unwrap().to_owned();
    let shown = project.loopy(&["runs", "show", &id, "--json"]);
    let run = json(&shown.assert().code(0));
    let attempts = run["steps"]["only"]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{run:#}");
}

#[test]
fn a_container_that_nobody_needs_is_removed_when_the_project_is_served_again() {
    let project = project(
        &format!("image: {{ base: \"{IMAGE}\" }}, network: [api.test]"),
        &[("only", "on: Go", "sleep 1000")],
    );
    let trigger = project.loopy(&TRIGGER).env("DOCKER_HOST", &host()).spawn();
    until("the container", || {
        (!containers(&project).is_empty()).then_some(())
    });
    trigger.kill();
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        // The last two are there only at times.
        let _absent = fs::remove_file(project.path().join(".loopy").join(file));
    }
    assert_eq!(containers(&project).len(), 1);
    let serving = serve(&project);
    assert_eq!(containers(&project), [""; 0]);
    serving.stop().code(0);
}

#[test]
fn a_container_that_vanishes_is_noticed_and_its_step_done_again() {
    let project = project(
        &format!("image: {{ base: \"{IMAGE}\" }}"),
        &[(
            "only",
            "on: Go",
            r#"[ -n "$LOOPY_LAST_FAILURE" ] || sleep 1000"#,
        )],
    );
    let trigger = project.loopy(&TRIGGER).env("DOCKER_HOST", &host()).spawn();
    let [container] = until("the container to run", || {
        let names: [String; 1] = containers(&project).try_into().ok()?;
        let found: Value =
            serde_json::from_str(&ask("GET", &format!("/containers{}/json", names[0]))).unwrap();
        (found["State"]["Running"] == true).then_some(names)
    });
    ask("DELETE", &format!("/containers{container}?force=1&v=1"));
    let document = json(&trigger.end().code(0));
    let attempts = document["runs"][0]["steps"]["only"]["attempts"]
        .as_array()
        .cloned();
    assert_eq!(attempts.map(|all| all.len()), Some(2), "{document:#}");
    assert_eq!(containers(&project), [""; 0]);
}

#[test]
fn without_an_engine_nothing_is_begun() {
    let project = project(
        &format!("image: {{ base: \"{IMAGE}\" }}"),
        &[("only", "on: Go", "true")],
    );
    let trigger = project
        .loopy(&TRIGGER)
        .env("DOCKER_HOST", "unix:///no/such.sock");
    let output = trigger.assert().failure();
    let said = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(
        said.contains("sandbox `Box`") && said.contains("unix:///no/such.sock"),
        "{said}"
    );
}

fn serve(project: &Project) -> crate::support::Serving<'_> {
    project.serve_with(&[("DOCKER_HOST", &host())])
}
