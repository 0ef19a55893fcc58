//! `loopy webhooks`, with a stand-in for GitHub that really sends its pings.

use crate::support::{Project, SHELL, json};
use loopy_testkit::github::{APP_ID, APP_KEY, GithubApi, PERSON};
use serde_json::json;
use snapbox::str;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A project that pull requests and pushes wake, with two repositories.
fn project() -> Project {
    let registry = SHELL.replace(
        "Here: { provider: local }",
        "Here: { provider: local, repos: [octo/hello, \"https://github.com/octo/other.git\"] }",
    );
    let step = |on: &str| format!("---\non: {on}\nagent: Shell\n---\ntrue\n");
    Project::of(&[
        ("registry.yml", &registry),
        (
            "workflows/review/look.md",
            &step("Github.PullRequestOpened"),
        ),
        ("workflows/build/make.md", &step("Github.Push")),
    ])
}

#[test]
fn a_hook_is_made_verified_mended_and_found_right() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    let serving = project.serve();
    let base = serving.url.clone();
    let webhooks = |more: &[&str]| {
        let mut arguments = vec!["webhooks", "github", "--url", &base];
        arguments.extend(more);
        project
            .loopy(&arguments)
            .env("GITHUB_API_URL", &github.url())
            .env("GITHUB_TOKEN", PERSON)
    };
    // A look changes nothing.
    webhooks(&["--check"])
        .assert()
        .code(1)
        .stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	missing
octo/other	http://127.0.0.1:[PORT]/hooks/github	missing

"#]])
        .stderr_eq(str![[r#"

hint: the same command without --check mends what is missing or stale

"#]]);
    assert_eq!(github.hooks("octo/hello"), Vec::<serde_json::Value>::new());
    assert!(!project.path().join("loopy.env").exists());

    // It makes the secret, which the process that serves finds at the next delivery.
    webhooks(&[])
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	created
octo/other	http://127.0.0.1:[PORT]/hooks/github	created

"#]])
        .stderr_eq(str![[r#"
made GITHUB_WEBHOOK_SECRET and wrote it to ./loopy.env

"#]]);
    let file = project.path().join("loopy.env");
    let text = fs::read_to_string(&file).unwrap();
    let secret = text.trim().strip_prefix("GITHUB_WEBHOOK_SECRET=").unwrap();
    assert!(secret.len() == 64 && secret.chars().all(|c| c.is_ascii_hexdigit()));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let hook = &github.hooks("octo/hello")[0];
    assert_eq!(hook["events"], json!(["pull_request", "push"]));
    assert_eq!(hook["config"]["content_type"], "json");
    assert_eq!(hook["config"]["insecure_ssl"], "0");
    assert_eq!(hook["last_response"]["code"], 202);

    // Again: nothing is made twice.
    let again = webhooks(&["--json"]).assert().code(0);
    let states: Vec<_> = json(&again)
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["state"].clone())
        .collect();
    assert_eq!(states, ["ok", "ok"]);
    assert_eq!(github.hooks("octo/hello").len(), 1);
    webhooks(&["--check"]).assert().code(0);

    // Somebody meddled with one.
    github.edit_hooks(
        "octo/other",
        &json!({ "active": false, "events": ["push"] }),
    );
    webhooks(&["--check"]).assert().code(1).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	ok
octo/other	http://127.0.0.1:[PORT]/hooks/github	stale	it is switched off; it is sent push, and should be sent pull_request, push

"#]]);
    // And gave the other one a secret of their own, which only a refusal shows.
    let config = json!({ "url": format!("{base}/hooks/github"), "content_type": "json", "insecure_ssl": "0", "secret": "other" });
    github.edit_hooks("octo/hello", &json!({ "config": config }));
    webhooks(&[]).assert().code(0).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	updated
octo/other	http://127.0.0.1:[PORT]/hooks/github	updated

"#]]);
    serving.stop().code(0);
}

#[test]
fn a_hook_that_nobody_answers_is_told() {
    let github = GithubApi::start(&[("octo/hello", 7), ("octo/other", 8)]).unwrap();
    let project = project();
    // With the App's token, not a person's.
    project.write("loopy.env", &format!(
        "GITHUB_APP_ID={APP_ID}\nGITHUB_APP_PRIVATE_KEY={}\nGITHUB_API_URL={}\nGITHUB_WEBHOOK_SECRET=s\n",
        APP_KEY.trim().replace('\n', "\\n"),
        github.url()
    ));
    let arguments = [
        "webhooks",
        "github",
        "--url",
        "http://127.0.0.1:9",
        "--repo",
        "octo/third",
    ];
    let output = project.loopy(&arguments[..4]).assert();
    output.code(1).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	failing	registered; a ping was answered 502
octo/other	http://127.0.0.1:[PORT]/hooks/github	failing	registered; a ping was answered 502

"#]]).stderr_eq(str![[r#"

hint: whoever serves the project has to run, be reached at this address, and know the secret: `loopy run` reads it from loopy.env, `loopy deploy` puts it into the account

"#]]);
    // A repository that the App is not installed on.
    let output = project.loopy(&arguments).assert();
    output.code(2).stderr_eq(str![[r#"
error: mint a GitHub token for octo/third: [..] answered 404 Not Found: Not Found; install the GitHub App on octo/third, or check how it is written

"#]]);
}

#[test]
fn what_is_missing_is_said() {
    let project = project();
    project.loopy(&["webhooks", "github"]).assert().code(2).stderr_eq(str![[r#"
error: GitHub has to know where to send deliveries

hint: pass --url with the address that the outside knows, as in --url https://loopy.example.com, or --stack with the name of a deployed stack

"#]]);
    project.loopy(&["webhooks", "github", "--url", "https://x.org"]).assert().code(2).stderr_eq(str![[r#"
error: there is neither a token nor an App to ask GitHub with

hint: set GITHUB_TOKEN to a token that may administer the repositories' webhooks, or configure a GitHub App in loopy.env (docs/secrets.md)

"#]]);
    project
        .loopy(&["webhooks", "github", "--url", "x.org"])
        .assert()
        .code(2)
        .stderr_eq(str![[r#"
error: `x.org` is no address that GitHub could reach: it begins with https:// or http://

"#]]);
    Project::hello().loopy(&["webhooks", "github", "--repo", "a/b", "--url", "https://x.org"]).assert().code(2).stderr_eq(str![[r#"
error: no sensor and no built-in event of this project takes deliveries of GitHub

hint: start a step on an event such as Github.PullRequestOpened (`loopy docs events` lists them), or give a sensor verify="github"

"#]]);
}

#[test]
fn every_path_is_listed() {
    let project = project();
    project
        .loopy(&["webhooks", "list"])
        .assert()
        .code(0)
        .stdout_eq(str![[r#"
/hooks/github	github	builtin:Github.PullRequestOpened, builtin:Github.Push

"#]]);
    let output = project
        .loopy(&["webhooks", "list", "--json", "--url", "https://x.org/"])
        .assert();
    assert_eq!(
        json(&output.code(0)),
        json!([{
            "path": "/hooks/github", "verify": "github", "url": "https://x.org/hooks/github",
            "sensors": ["builtin:Github.PullRequestOpened", "builtin:Github.Push"],
        }])
    );
}
