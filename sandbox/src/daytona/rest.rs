//! Daytona's HTTP interface: the calls a launch needs, what they take and what
//! they answer. Knows nothing of attempts.

use bytes::Bytes;
use loopy_engine::ports::{LaunchError, PortError};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

/// For a call that moves no data to speak of.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// For sending the runner.
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);
/// Characters of an answer that are worth showing.
const MESSAGE_CHARS: usize = 500;

/// A connection to one account.
pub(super) struct Rest {
    /// Shared by all connections.
    pub(super) http: reqwest::Client,
    /// The API's base, without a slash at its end.
    pub(super) api: Url,
    /// The API key.
    pub(super) key: String,
}

/// A call that did not give what was asked for.
#[derive(Debug)]
pub(super) enum CallError {
    /// The service answered with an error.
    Status {
        /// What was attempted.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// What the service says.
        message: String,
    },
    /// It did not answer, or with something else than agreed.
    Unclear {
        /// What was attempted.
        what: String,
        /// What happened.
        why: String,
    },
}

impl CallError {
    /// The HTTP status, if there was one.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Unclear { .. } => None,
        }
    }

    /// As the port's error: worth another try.
    pub(super) fn into_port(self) -> PortError {
        match self {
            Self::Status {
                what,
                status,
                message,
            } => PortError::new(what, format!("Daytona answered {status}: {message}")),
            Self::Unclear { what, why } => PortError::new(what, why),
        }
    }
}

impl From<CallError> for LaunchError {
    fn from(error: CallError) -> Self {
        let CallError::Status {
            what,
            status,
            message,
        } = &error
        else {
            return Self::Trouble(error.into_port());
        };
        match status.as_u16() {
            401 => Self::Refused(format!(
                "{what}: Daytona does not accept DAYTONA_API_KEY ({message}); set a valid key in the engine's environment"
            )),
            408 | 429 | 500.. => Self::Trouble(error.into_port()),
            _ => Self::Refused(format!("{what}: Daytona answered {status}: {message}")),
        }
    }
}

/// The body of `POST /sandbox`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateSandbox {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) build_info: Option<BuildInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) domain_allow_list: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network_allow_list: Option<String>,
    /// Minutes without use until it is stopped; 0 is never.
    pub(super) auto_stop_interval: u32,
    /// Minutes from stop to removal.
    pub(super) auto_delete_interval: u32,
    /// Minutes from creation to removal.
    pub(super) ttl_minutes: u64,
}

/// How an image is built.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildInfo {
    pub(super) dockerfile_content: String,
    pub(super) context_hashes: Vec<String>,
}

/// A sandbox, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxView {
    pub(super) id: String,
    /// Absent counts as a state that is not known.
    #[serde(default)]
    pub(super) state: State,
    #[serde(default)]
    pub(super) error_reason: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) toolbox_proxy_url: Option<String>,
}

/// The states that make a difference; Daytona has more and may get others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Started,
    Error,
    BuildFailed,
    Stopping,
    Stopped,
    Archiving,
    Archived,
    Destroying,
    Destroyed,
    /// On its way, or unknown to this version.
    #[default]
    #[serde(other)]
    Other,
}

impl State {
    /// Whether it ran once and never will again by itself.
    pub(super) fn is_over(self) -> bool {
        matches!(
            self,
            Self::Stopping
                | Self::Stopped
                | Self::Archiving
                | Self::Archived
                | Self::Destroying
                | Self::Destroyed
        )
    }
}

impl Rest {
    /// `POST /sandbox`.
    pub(super) async fn create(&self, body: &CreateSandbox) -> Result<SandboxView, CallError> {
        let what = format!("create Daytona sandbox {}", body.name);
        let request = self.api_call(Method::POST, &["sandbox"]).json(body);
        self.json(what, request).await
    }

    /// `GET /sandbox/{idOrName}`; `None` when there is none.
    pub(super) async fn get(&self, id_or_name: &str) -> Result<Option<SandboxView>, CallError> {
        let what = format!("read Daytona sandbox {id_or_name}");
        let request = self.api_call(Method::GET, &["sandbox", id_or_name]);
        none_on_404(self.json(what, request).await)
    }

    /// `DELETE /sandbox/{idOrName}`; one that is not there is fine.
    pub(super) async fn delete(&self, id: &str) -> Result<(), CallError> {
        let what = format!("remove Daytona sandbox {id}");
        let request = self.api_call(Method::DELETE, &["sandbox", id]);
        none_on_404(self.send(what, request, CALL_LIMIT).await).map(|_| ())
    }

    /// The toolbox of a sandbox that is started.
    pub(super) async fn toolbox(&self, sandbox: &SandboxView) -> Result<Toolbox<'_>, CallError> {
        let what = format!("find the toolbox of Daytona sandbox {}", sandbox.id);
        let proxy = match sandbox.toolbox_proxy_url.as_deref() {
            Some(url) if !url.is_empty() => url.to_owned(),
            _ => {
                #[derive(Deserialize)]
                struct ProxyUrl {
                    url: String,
                }
                let path = ["sandbox", &sandbox.id, "toolbox-proxy-url"];
                let answer: ProxyUrl = self
                    .json(what.clone(), self.api_call(Method::GET, &path))
                    .await?;
                answer.url
            }
        };
        let base = Url::parse(&proxy)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .map(|url| below(&url, &[&sandbox.id]))
            .ok_or_else(|| CallError::Unclear {
                what,
                why: format!("`{}` is not an http or https URL", shorten(&proxy)),
            })?;
        Ok(Toolbox {
            rest: self,
            base,
            sandbox: sandbox.id.clone(),
        })
    }

    fn api_call(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.http.request(method, below(&self.api, path))
    }

    async fn json<T: for<'a> Deserialize<'a>>(
        &self,
        what: String,
        request: RequestBuilder,
    ) -> Result<T, CallError> {
        let response = self.send(what.clone(), request, CALL_LIMIT).await?;
        response
            .json()
            .await
            .map_err(|error| self.unclear(what, error))
    }

    async fn send(
        &self,
        what: String,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<Response, CallError> {
        let sent = request.bearer_auth(&self.key).timeout(limit).send().await;
        let response = sent.map_err(|error| self.unclear(what.clone(), error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        let said = serde_json::from_str::<serde_json::Value>(&body)
            .ok()
            .and_then(|value| match value.get("message")? {
                serde_json::Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            })
            .unwrap_or(body);
        let message = self.clean(&said);
        Err(CallError::Status {
            what,
            status,
            message,
        })
    }

    fn unclear(&self, what: String, error: reqwest::Error) -> CallError {
        let error = error.without_url();
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            why = format!("{why}: {inner}");
            source = inner.source();
        }
        CallError::Unclear {
            what,
            why: self.clean(&why),
        }
    }

    /// Text of the other side on one line, short, and without the key.
    pub(super) fn clean(&self, text: &str) -> String {
        shorten(&text.replace(&self.key, "***"))
    }
}

/// The daemon inside one sandbox.
pub(super) struct Toolbox<'a> {
    rest: &'a Rest,
    base: Url,
    sandbox: String,
}

impl Toolbox<'_> {
    /// Whether there is something at this absolute path.
    pub(super) async fn exists(&self, path: &str) -> Result<bool, CallError> {
        let request = self
            .call(Method::GET, &["files", "info"])
            .query(&[("path", path)]);
        let what = format!("look at {path} in Daytona sandbox {}", self.sandbox);
        none_on_404(self.rest.send(what, request, CALL_LIMIT).await).map(|found| found.is_some())
    }

    /// Makes a directory that only the sandbox's user can read; one that is
    /// there already is fine.
    pub(super) async fn make_private_folder(&self, path: &str) -> Result<(), CallError> {
        let request = self
            .call(Method::POST, &["files", "folder"])
            .query(&[("path", path), ("mode", "700")]);
        let what = format!("make {path} in Daytona sandbox {}", self.sandbox);
        already_is_fine(self.rest.send(what, request, CALL_LIMIT).await)
    }

    /// Writes a file at an absolute path.
    pub(super) async fn upload(&self, path: &str, bytes: Bytes) -> Result<(), CallError> {
        let request = self
            .call(Method::POST, &["files", "upload-v2"])
            .query(&[("path", path)])
            .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
            .body(bytes);
        let what = format!("upload {path} to Daytona sandbox {}", self.sandbox);
        self.rest
            .send(what, request, UPLOAD_LIMIT)
            .await
            .map(|_| ())
    }

    /// Makes a session; one that is there already is fine.
    pub(super) async fn make_session(&self, session: &str) -> Result<(), CallError> {
        let request = self
            .call(Method::POST, &["process", "session"])
            .json(&json!({"sessionId": session}));
        let what = format!("make a session in Daytona sandbox {}", self.sandbox);
        already_is_fine(self.rest.send(what, request, CALL_LIMIT).await)
    }

    /// Starts a command in a session and does not wait for its end.
    pub(super) async fn start_command(
        &self,
        session: &str,
        command: &str,
    ) -> Result<(), CallError> {
        let request = self
            .call(Method::POST, &["process", "session", session, "exec"])
            .json(&json!({"command": command, "runAsync": true}));
        let what = format!("start the runner in Daytona sandbox {}", self.sandbox);
        self.rest.send(what, request, CALL_LIMIT).await.map(|_| ())
    }

    fn call(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.rest.http.request(method, below(&self.base, path))
    }
}

/// `base` with path segments added, each encoded.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // Only URLs without a host have no segments, and bases are http or https.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

fn none_on_404<T>(result: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

fn already_is_fine(result: Result<Response, CallError>) -> Result<(), CallError> {
    match result {
        Err(error) if error.status() != Some(StatusCode::CONFLICT) => Err(error),
        _ => Ok(()),
    }
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return "(no message)".to_owned();
    }
    match line.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_state_from_the_future_is_tolerated() {
        let view: SandboxView =
            serde_json::from_value(json!({"id": "a", "state": "hibernating", "extra": 1})).unwrap();
        assert_eq!(view.state, State::Other);
        assert!(!view.state.is_over());
        let view: SandboxView =
            serde_json::from_value(json!({"id": "a", "state": "build_failed"})).unwrap();
        assert_eq!(view.state, State::BuildFailed);
    }

    #[test]
    fn segments_are_encoded() {
        let base = Url::parse("https://x.test/api/").unwrap();
        assert_eq!(
            below(&base, &["sandbox", "a/b"]).as_str(),
            "https://x.test/api/sandbox/a%2Fb"
        );
    }

    #[test]
    fn trouble_is_told_from_refusal() {
        let of = |status: u16| {
            LaunchError::from(CallError::Status {
                what: "create".into(),
                status: StatusCode::from_u16(status).unwrap(),
                message: "m".into(),
            })
        };
        for status in [408, 429, 500, 502, 503] {
            assert!(matches!(of(status), LaunchError::Trouble(_)), "{status}");
        }
        for status in [400, 401, 403, 404, 422] {
            assert!(matches!(of(status), LaunchError::Refused(_)), "{status}");
        }
    }
}
