//! GitHub's API for repository webhooks (docs.github.com, "REST API endpoints for
//! repository webhooks"), with a token of a person or of the App.

use super::hook::{Hook, Wanted};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long GitHub may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a ping may take to arrive and be told of.
const PING: Duration = Duration::from_secs(20);
/// How often its arrival is looked for.
const LOOK: Duration = Duration::from_millis(500);
/// Webhooks a page; a repository has 20 an event at most.
const PAGE: usize = 100;

/// GitHub did not do it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct GithubError(String);

/// The API, as one repository sees it.
pub(super) struct Repository<'a> {
    pub(super) http: &'a Client,
    pub(super) api: &'a str,
    /// `owner/name`.
    pub(super) name: &'a str,
    pub(super) token: &'a str,
}

/// What GitHub tells of a delivery.
#[derive(Deserialize)]
struct Delivery {
    id: u64,
    event: String,
    status_code: u16,
}

/// A client for the API.
///
/// # Errors
/// This machine's TLS set-up fails.
pub(super) fn client() -> Result<Client, GithubError> {
    Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| GithubError(error.to_string()))
}

impl Repository<'_> {
    /// The repository's webhooks.
    pub(super) async fn hooks(&self) -> Result<Vec<Hook>, GithubError> {
        let mut all = Vec::new();
        for page in 1.. {
            let path = format!("?per_page={PAGE}&page={page}");
            let found: Vec<Hook> = self.ask(Method::GET, &path, None).await?;
            let last = found.len() < PAGE;
            all.extend(found);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Makes a webhook and gives back its id.
    pub(super) async fn create(&self, wanted: &Wanted, secret: &str) -> Result<u64, GithubError> {
        let mut body = config(wanted, secret);
        body["name"] = json!("web");
        let hook: Hook = self.ask(Method::POST, "", Some(body)).await?;
        Ok(hook.id)
    }

    /// Makes a webhook what it should be.
    pub(super) async fn update(
        &self,
        id: u64,
        wanted: &Wanted,
        secret: &str,
    ) -> Result<(), GithubError> {
        let body = config(wanted, secret);
        let _: Hook = self
            .ask(Method::PATCH, &format!("/{id}"), Some(body))
            .await?;
        Ok(())
    }

    /// Has GitHub send a ping and gives back what that was answered; `None` when it did
    /// not arrive in time.
    pub(super) async fn ping(&self, id: u64) -> Result<Option<u16>, GithubError> {
        let path = format!("/{id}/deliveries?per_page=20");
        let before: Vec<Delivery> = self.ask(Method::GET, &path, None).await?;
        let before: BTreeSet<u64> = before.iter().map(|delivery| delivery.id).collect();
        let _: Value = self
            .ask(Method::POST, &format!("/{id}/pings"), None)
            .await?;
        let began = Instant::now();
        while began.elapsed() < PING {
            let found: Vec<Delivery> = self.ask(Method::GET, &path, None).await?;
            let ping = found
                .iter()
                .find(|delivery| delivery.event == "ping" && !before.contains(&delivery.id));
            if let Some(ping) = ping {
                return Ok(Some(ping.status_code));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, GithubError> {
        let url = format!("{}/repos/{}/hooks{path}", self.api, self.name);
        let mut request = self
            .http
            .request(method, &url)
            .bearer_auth(self.token)
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", "loopy");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let failed = |error: reqwest::Error| GithubError(format!("{url}: {error}"));
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(failed)?;
        if !status.is_success() {
            let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            return Err(GithubError(refusal(status, &said)));
        }
        let bytes = if bytes.is_empty() {
            &b"null"[..]
        } else {
            &bytes
        };
        serde_json::from_slice(bytes)
            .map_err(|error| GithubError(format!("{url} answered what cannot be read: {error}")))
    }
}

/// What GitHub refused, and why, in its own words.
fn refusal(status: StatusCode, said: &Value) -> String {
    let words = said["message"].as_str().unwrap_or("no reason given");
    let more = match status {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
            "; the token needs to administer the repository's webhooks (scope \
             admin:repo_hook, or the permission Webhooks: write)"
        }
        StatusCode::UNAUTHORIZED => "; check the token",
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            "; the repository was renamed or moved: write its present name"
        }
        _ => "",
    };
    let errors = said["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let reasons: Vec<String> = errors.iter().filter_map(reason).collect();
    let reasons = match reasons.is_empty() {
        true => String::new(),
        false => format!(" ({})", reasons.join("; ")),
    };
    format!("GitHub answered {status}: {words}{reasons}{more}")
}

/// One of the reasons that GitHub gives for a 422: a text, or a field and a code where
/// there is no message.
fn reason(error: &Value) -> Option<String> {
    let text = |name: &str| error[name].as_str().map(str::to_owned);
    let coded = || Some(format!("{}: {}", text("field")?, text("code")?));
    let plain = error.as_str().map(str::to_owned);
    plain
        .or_else(|| text("message"))
        .or_else(coded)
        .or_else(|| text("code"))
}

fn config(wanted: &Wanted, secret: &str) -> Value {
    json!({
        "active": true,
        "events": wanted.events,
        "config": {
            "url": wanted.url,
            "content_type": "json",
            "insecure_ssl": "0",
            "secret": secret,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn github_s_reasons_are_not_dropped() {
        let refused = |status: StatusCode, said: Value| refusal(status, &said);
        let invalid = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(
            refused(
                invalid,
                json!({ "message": "Validation Failed", "errors": [
                    { "resource": "Hook", "code": "custom", "message": "Hook already exists on this repository" },
                    { "resource": "Hook", "code": "invalid", "field": "events" },
                    "and more",
                ]})
            ),
            "GitHub answered 422 Unprocessable Entity: Validation Failed (Hook already exists \
             on this repository; events: invalid; and more)"
        );
        assert_eq!(
            refused(
                StatusCode::MOVED_PERMANENTLY,
                json!({ "message": "Moved Permanently" })
            ),
            "GitHub answered 301 Moved Permanently: Moved Permanently; the repository was \
             renamed or moved: write its present name"
        );
        assert_eq!(
            refused(invalid, Value::Null),
            "GitHub answered 422 Unprocessable Entity: no reason given"
        );
    }
}
