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
fn a_rotated_secret_reaches_github_while_the_one_before_is_still_taken() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    let before = "GITHUB_WEBHOOK_SECRET=old\n";
    let after = "GITHUB_WEBHOOK_SECRET=new\nGITHUB_WEBHOOK_SECRET_PREVIOUS=old\n";
    project.write("loopy.env", before);
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
    webhooks(&[]).assert().code(0);
    assert_eq!(github.hook_secrets("octo/hello"), ["old"]);
    project.write("loopy.env", after);
    // GitHub does not say which it has, and a look sends nothing.
    webhooks(&["--check"]).assert().code(0).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	ok	whether it has the present secret or the one before cannot be told: both are taken; without --check it is given the present one
octo/other	http://127.0.0.1:[PORT]/hooks/github	ok	whether it has the present secret or the one before cannot be told: both are taken; without --check it is given the present one

"#]]);
    assert_eq!(github.hook_secrets("octo/hello"), ["old"]);
    webhooks(&[]).assert().code(0).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	updated
octo/other	http://127.0.0.1:[PORT]/hooks/github	updated

"#]]);
    assert_eq!(github.hook_secrets("octo/hello"), ["new"]);
    // So the one before can go.
    project.write("loopy.env", "GITHUB_WEBHOOK_SECRET=new\n");
    webhooks(&[]).assert().code(0).stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	ok
octo/other	http://127.0.0.1:[PORT]/hooks/github	ok

"#]]);
    // Who serves does not know the new one yet: GitHub keeps the one that is taken.
    webhooks(&["--repo", "octo/hello"])
        .env("GITHUB_WEBHOOK_SECRET", "newer")
        .env("GITHUB_WEBHOOK_SECRET_PREVIOUS", "new")
        .assert()
        .code(1)
        .stdout_eq(str![[r#"
octo/hello	http://127.0.0.1:[PORT]/hooks/github	failing	a ping with the present secret was answered 401, so it has the one before again: let the other side know the present one first
octo/other	http://127.0.0.1:[PORT]/hooks/github	failing	a ping with the present secret was answered 401, so it has the one before again: let the other side know the present one first

"#]]);
    assert_eq!(github.hook_secrets("octo/hello"), ["new"]);
    serving.stop().code(0);
}

#[test]
fn an_environment_s_secret_is_the_one_of_its_own_file() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    project.write("loopy.env", "GITHUB_WEBHOOK_SECRET=plain\n");
    project.write("loopy.staging.env", "GITHUB_WEBHOOK_SECRET=staged\n");
    let webhooks = |more: &[&str]| {
        let mut arguments = vec!["webhooks", "github", "--url", "http://127.0.0.1:9"];
        arguments.extend(more);
        project
            .loopy(&arguments)
            .env("GITHUB_API_URL", &github.url())
            .env("GITHUB_TOKEN", PERSON)
    };
    webhooks(&["--env", "staging"]).assert().code(1);
    assert_eq!(github.hook_secrets("octo/hello"), ["staged"]);
    // What the environment has no value for is taken from below it, as `deploy` does.
    project.write("loopy.staging.env", "OTHER=1\n");
    github.edit_hooks("octo/hello", &json!({ "active": false }));
    webhooks(&["--env", "staging"]).assert().code(1);
    assert_eq!(github.hook_secrets("octo/hello"), ["plain"]);
    // And one that is made is written where `deploy` looks for it.
    project.write("loopy.env", "OTHER=1\n");
    webhooks(&["--env", "staging"])
        .assert()
        .code(1)
        .stderr_eq(str![[r#"
made GITHUB_WEBHOOK_SECRET and wrote it to ./loopy.staging.env

hint: [..]

"#]]);
    let text = fs::read_to_string(project.path().join("loopy.staging.env")).unwrap();
    assert!(
        text.starts_with("OTHER=1\nGITHUB_WEBHOOK_SECRET="),
        "{text}"
    );
    let plain = fs::read_to_string(project.path().join("loopy.env")).unwrap();
    assert_eq!(plain, "OTHER=1\n");
}

#[test]
fn what_no_repository_s_webhook_carries_is_left_out_and_said() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    let step = |on: &str| format!("---\non: {on}\nagent: Shell\n---\ntrue\n");
    project.write(
        "workflows/board/move.md",
        &step("Github.ProjectsV2ItemEdited"),
    );
    project.write("workflows/queue/check.md", &step("Github.MergeGroup"));
    let webhooks = || {
        project
            .loopy(&["webhooks", "github", "--url", "http://127.0.0.1:9"])
            .env("GITHUB_API_URL", &github.url())
            .env("GITHUB_TOKEN", PERSON)
            .env("GITHUB_WEBHOOK_SECRET", "s")
    };
    webhooks().assert().code(1).stderr_eq(str![[r#"
Github.MergeGroup needs a GitHub App: no repository's webhook carries it
Github.ProjectsV2ItemEdited needs an organization webhook: no repository's webhook carries it

hint: [..]

"#]]);
    assert_eq!(
        github.hooks("octo/hello")[0]["events"],
        json!(["pull_request", "push"])
    );
    for only in ["workflows/review/look.md", "workflows/build/make.md"] {
        fs::remove_file(project.path().join(only)).unwrap();
    }
    webhooks().assert().code(2).stderr_eq(str![[r#"
Github.MergeGroup needs a GitHub App: no repository's webhook carries it
Github.ProjectsV2ItemEdited needs an organization webhook: no repository's webhook carries it
error: no webhook of a repository carries what this project waits for

hint: `loopy docs events` says what each event needs instead; enter there the address and the secret that `loopy webhooks list` names

"#]]);
}

#[test]
fn github_s_own_reason_is_passed_on() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    let reason = "The \"push\" event cannot have more than 20 hooks";
    let errors = json!([{ "resource": "Hook", "code": "custom", "message": reason }]);
    let body = json!({ "message": "Validation Failed", "errors": errors });
    github.refuse_hooks("octo/hello", 422, &body);
    github.refuse_hooks(
        "octo/other",
        301,
        &json!({ "message": "Moved Permanently" }),
    );
    project
        .loopy(&["webhooks", "github", "--url", "https://x.org"])
        .env("GITHUB_API_URL", &github.url())
        .env("GITHUB_TOKEN", PERSON)
        .env("GITHUB_WEBHOOK_SECRET", "s")
        .assert()
        .code(1)
        .stdout_eq(str![[r#"
octo/hello	https://x.org/hooks/github	error	GitHub answered 422 Unprocessable Entity: Validation Failed (The "push" event cannot have more than 20 hooks)
octo/other	https://x.org/hooks/github	error	GitHub answered 301 Moved Permanently: Moved Permanently; the repository was renamed or moved: write its present name

"#]]);
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
fn a_stack_is_taken_before_the_variable_with_an_address() {
    // There is no such stack, and nobody to ask: the point is that it is looked for.
    let list = |arguments: &[&str]| {
        project()
            .loopy(&[&["webhooks", "list"], arguments].concat())
            .env("LOOPY_PUBLIC_URL", "https://x.org")
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "eu-central-1")
            .env("AWS_MAX_ATTEMPTS", "1")
            .assert()
    };
    let stack = list(&["--stack", "x"]).code(2);
    let said = String::from_utf8_lossy(&stack.get_output().stderr).into_owned();
    assert!(
        said.contains('x') && !said.contains("cannot be used with"),
        "{said}"
    );
    list(&[]).code(0).stdout_eq(str![[r#"
https://x.org/hooks/github	github	builtin:Github.PullRequestOpened, builtin:Github.Push

"#]]);
    let both = list(&["--stack", "x", "--url", "https://y.org"]).code(2);
    let said = String::from_utf8_lossy(&both.get_output().stderr).into_owned();
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn a_secret_is_not_made_for_the_wrong_environment() {
    let github = GithubApi::start(&[]).unwrap();
    let project = project();
    project.write("loopy.staging.env", "OTHER=1\n");
    let made = project
        .loopy(&["webhooks", "github", "--stack", "x-staging"])
        .env("GITHUB_API_URL", &github.url())
        .env("GITHUB_TOKEN", PERSON)
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_MAX_ATTEMPTS", "1")
        .assert()
        .code(2);
    made.stderr_eq(str![[r#"
error: stack x-staging seems to be the environment staging, as loopy.staging.env is there, and its GITHUB_WEBHOOK_SECRET would be another than that of loopy.env

hint: pass --env staging to look for it there, and to write it there if need be

"#]]);
    assert!(!project.path().join("loopy.env").exists());
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
