//! Tokens of a GitHub App for sandboxes, over HTTP against a stand-in that checks the
//! App's signature.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::manifest::Sandbox;
use loopy_engine::ports::{Clock, PortError, Secrets};
use loopy_sandbox::github::{API_URL, APP_ID, APP_KEY, GithubTokens, TOKEN};
use loopy_testkit::github::{self as stand_in, GithubApi};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

struct Given {
    app: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

#[async_trait]
impl Secrets for Given {
    async fn sandbox_env(
        &self,
        _: &str,
        _: &Sandbox,
    ) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.env.clone())
    }
    async fn webhook_secrets(&self, _: &str) -> Result<Vec<String>, PortError> {
        Ok(Vec::new())
    }
    async fn engine_env(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(BTreeMap::new())
    }
    async fn github_app(&self) -> Result<BTreeMap<String, String>, PortError> {
        Ok(self.app.clone())
    }
    async fn token_key(&self) -> Result<Vec<u8>, PortError> {
        Ok(Vec::new())
    }
}

struct Off(SignedDuration);

impl Clock for Off {
    fn now(&self) -> Timestamp {
        Timestamp::now().checked_add(self.0).unwrap()
    }
}

fn sandbox(repos: &[&str]) -> Sandbox {
    let repos: Vec<_> = repos
        .iter()
        .map(|url| json!({"url": url, "ref": null, "path": null, "depth": null}))
        .collect();
    serde_json::from_value(json!({
        "provider": "local", "image": {}, "network": [], "env_file": [], "repos": repos,
    }))
    .unwrap()
}

fn app(api: &GithubApi) -> BTreeMap<String, String> {
    [
        (APP_ID, stand_in::APP_ID.to_owned()),
        // As a line of an env file holds it.
        (APP_KEY, stand_in::APP_KEY.replace('\n', "\\n")),
        (API_URL, api.url()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The token that a sandbox with these repositories gets.
async fn token(
    given: Given,
    off: SignedDuration,
    repos: &[&str],
) -> Result<Option<String>, String> {
    let tokens = GithubTokens::new(Arc::new(given), Arc::new(Off(off))).unwrap();
    let env = tokens.sandbox_env("Box", &sandbox(repos)).await;
    env.map(|mut env| env.remove(TOKEN))
        .map_err(|error| error.to_string())
}

fn with_app(app: BTreeMap<String, String>) -> Given {
    Given {
        app,
        env: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_token_reaches_the_repositories_of_its_sandbox_and_no_others() {
    let api = GithubApi::start(&[("octo/a", 7), ("octo/b", 7), ("octo/c", 7)]).unwrap();
    let repos = [
        "octo/b",
        "https://github.com/octo/a.git",
        "https://example.org/x/y.git",
    ];
    let found = token(with_app(app(&api)), SignedDuration::ZERO, &repos).await;
    assert_eq!(found.unwrap().as_deref(), Some("ghs_7_1"));
    assert_eq!(api.asked(), [(7, json!({"repositories": ["a", "b"]}))]);
    // Each attempt has its own.
    let next = token(with_app(app(&api)), SignedDuration::ZERO, &repos).await;
    assert_eq!(next.unwrap().as_deref(), Some("ghs_7_2"));
}

#[tokio::test]
async fn nobody_is_asked_where_no_token_is_needed() {
    let api = GithubApi::start(&[("octo/a", 7)]).unwrap();
    let none = token(with_app(app(&api)), SignedDuration::ZERO, &["/srv/a.git"]).await;
    assert_eq!(none, Ok(None));
    let no_app = token(with_app(BTreeMap::new()), SignedDuration::ZERO, &["octo/a"]).await;
    assert_eq!(no_app, Ok(None));
    let own = Given {
        app: app(&api),
        env: BTreeMap::from([(TOKEN.to_owned(), "mine".to_owned())]),
    };
    let own = token(own, SignedDuration::ZERO, &["octo/a"]).await;
    assert_eq!(own.unwrap().as_deref(), Some("mine"));
    assert_eq!(api.asked(), []);
}

#[tokio::test]
async fn what_is_wrong_is_said_without_the_key() {
    let api = GithubApi::start(&[("octo/a", 7), ("other/b", 8)]).unwrap();
    let app_with = |name: &str, value: &str| {
        let mut app = app(&api);
        app.insert(name.to_owned(), value.to_owned());
        with_app(app)
    };
    let zero = SignedDuration::ZERO;
    let cases = [
        (
            with_app(app(&api)),
            zero,
            vec!["octo/z"],
            "install the GitHub App on octo/z",
        ),
        (
            with_app(app(&api)),
            zero,
            vec!["octo/a", "other/b"],
            "different accounts",
        ),
        (
            app_with(APP_ID, "12"),
            zero,
            vec!["octo/a"],
            "Integration not found; check GITHUB_APP_ID",
        ),
        (
            app_with(APP_ID, ""),
            zero,
            vec!["octo/a"],
            "GITHUB_APP_ID is not; set both",
        ),
        (
            app_with(APP_KEY, ""),
            zero,
            vec!["octo/a"],
            "GITHUB_APP_PRIVATE_KEY is not; set both",
        ),
        (
            app_with(APP_KEY, "PRIVATE-STUFF"),
            zero,
            vec!["octo/a"],
            "no private key in PEM",
        ),
        (
            app_with(API_URL, "http://127.0.0.1:9"),
            zero,
            vec!["octo/a"],
            "http://127.0.0.1:9/repos",
        ),
        (
            with_app(app(&api)),
            SignedDuration::from_hours(1),
            vec!["octo/a"],
            "this machine's clock",
        ),
    ];
    for (given, off, repos, expected) in cases {
        let said = token(given, off, &repos).await.unwrap_err();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(
            !said.contains("BEGIN") && !said.contains("PRIVATE-STUFF"),
            "{said}"
        );
    }
    assert_eq!(api.asked(), []);
}

#[tokio::test]
async fn a_clock_that_is_a_little_off_is_borne() {
    let api = GithubApi::start(&[("octo/a", 7)]).unwrap();
    for seconds in [-50, 50] {
        let off = SignedDuration::from_secs(seconds);
        let found = token(with_app(app(&api)), off, &["octo/a"]).await;
        assert!(found.unwrap().is_some(), "{seconds}");
    }
}
