//! `loopy doctor` on this machine.

use crate::support::{Project, SHELL, json};
use serde_json::{Value, json};
use snapbox::str;

#[test]
fn where_nothing_is_wrong_it_says_so() {
    let project = Project::hello();
    let python = std::env::var("LOOPY_TEST_PYTHON").unwrap();
    let doctor = project.loopy(&["doctor"]).env("LOOPY_PYTHON", &python);
    doctor
        .assert()
        .code(0)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
nothing is wrong

"#]]);
}

#[test]
fn whatever_is_missing_is_told_with_what_to_do() {
    let registry = SHELL
        .replace(
            "Here: { provider: local }",
            "Here: { provider: local, env_file: secrets/dev.env, repos: [octo/hello] }\n  Far: { provider: daytona }",
        )
        .replace(
            "Shell: {}",
            "Shell: {}\n  Coder: { harness: claude-code, model: claude-sonnet-4-6, sandbox: Here }\n  Away: { harness: command, sandbox: Far }",
        );
    let registry = format!("{registry}events:\n  Go: {{ n: int }}\n");
    let step = |on: &str, agent: &str| format!("---\non: {on}\nagent: {agent}\n---\ntrue\n");
    let project = Project::of(&[
        ("registry.yml", &registry),
        ("workflows/a/one.md", &step("Github.Push", "Coder")),
        ("workflows/b/one.md", &step("Go", "Away")),
        (
            "sensors/go.py",
            "import nothing_of_the_kind\nfrom loopy import sensor\n\n\n@sensor(webhook=\"/go\", emits=\"Go\")\ndef go(request):\n    return {\"n\": 1}\n",
        ),
    ]);
    let python = std::env::var("LOOPY_TEST_PYTHON").unwrap();
    let doctor = |more: &[&str]| {
        let mut arguments = vec!["doctor"];
        arguments.extend(more);
        // Git is there, and the harness is not.
        let path = format!("/usr/bin:/bin:{}", project.path().display());
        project
            .loopy(&arguments)
            .env("LOOPY_PYTHON", &python)
            .env("PATH", &path)
    };
    let told = json(&doctor(&["--json"]).assert().code(1));
    let of = |about: &str| -> Vec<&Value> {
        let all = told.as_array().unwrap().iter();
        all.filter(|finding| finding["about"] == about).collect()
    };
    let what = |about: &str| {
        let found = of(about);
        assert!(!found.is_empty(), "{about}: {told:#}");
        found
            .iter()
            .map(|finding| finding["what"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(what("webhook /hooks/github").contains("GITHUB_WEBHOOK_SECRET is not set"));
    assert!(what("sandbox Far").contains("DAYTONA_API_KEY is not set"));
    assert!(what("sandbox Here").contains("secrets/dev.env"));
    assert!(what("sandbox Here").contains("octo/hello is cloned without a token"));
    assert!(what("program claude").contains("a/one"));
    assert!(
        what("sensor go").contains("nothing_of_the_kind"),
        "{told:#}"
    );
    assert!(what("sensor go").contains("anyone could post to /go"));
    // Errors stand before warnings, and each line for people has what it is about.
    let levels: Vec<&Value> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["level"])
        .collect();
    let mut sorted = levels.clone();
    sorted.sort_by_key(|level| level.as_str().map(str::to_owned));
    assert_eq!(levels, sorted);
    let text = doctor(&[]).assert().code(1);
    let text = String::from_utf8_lossy(&text.get_output().stdout).into_owned();
    assert!(
        text.contains("error: webhook /hooks/github: GITHUB_WEBHOOK_SECRET is not set"),
        "{text}"
    );
    assert!(
        text.contains("  hint: `loopy webhooks github --url URL` makes one and tells GitHub"),
        "{text}"
    );

    // Mended, one after the other is gone.
    project.write("loopy.env", "GITHUB_WEBHOOK_SECRET=s\nDAYTONA_API_KEY=k\n");
    project.write("secrets/dev.env", "GITHUB_TOKEN=t\n");
    project.replace("sensors/go.py", "import nothing_of_the_kind\n", "");
    project.replace(
        "sensors/go.py",
        "emits=\"Go\"",
        "emits=\"Go\", verify=\"none\"",
    );
    let left = json(&doctor(&["--json"]).assert().code(1));
    let left: Vec<&Value> = left
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["about"])
        .collect();
    assert_eq!(json!(left), json!(["program claude"]));
}

#[test]
fn the_code_of_a_run_that_goes_on_is_left_alone() {
    let project = Project::of(&[
        (
            "registry.yml",
            &format!("{SHELL}events: {{ Go: {{ n: int }} }}\n"),
        ),
        (
            "workflows/a/one.md",
            "---\non: Go\nagent: Shell\n---\ntrue\n",
        ),
        (
            "sensors/go.ts",
            "export const sensorRegistry = { go: { poll: \"1d\", emits: \"Go\", run: () => null } };\n",
        ),
        // As a `loopy run` from before an edit has it.
        (
            ".loopy/sensors/code/0123456789abcdef/sensors/go.ts.mjs",
            "1;\n",
        ),
    ]);
    let doctor = project.loopy(&["doctor"]);
    doctor.assert().code(0).stderr_eq(str![[r#"
nothing is wrong

"#]]);
    let left = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(project.path().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    };
    assert_eq!(left(".loopy"), ["sensors"]);
    assert_eq!(left(".loopy/sensors"), ["code"]);
    assert_eq!(left(".loopy/sensors/code"), ["0123456789abcdef"]);
}
