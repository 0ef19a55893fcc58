//! The client's side of the report protocol.

use loopy_contract::report::{Refusal, attempt_path};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The first pause after a request that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// 401, 404 or 410: the attempt is not, or no longer, this runner's.
    #[error("the engine wants nothing more of this attempt ({status}): {reason}")]
    Over {
        /// The HTTP status.
        status: u16,
        /// What the engine said.
        reason: String,
    },
    /// Another answer that no retry will change.
    #[error("the engine did not accept the {leaf} ({status}): {reason}")]
    Refused {
        /// What was sent or asked for.
        leaf: String,
        /// The HTTP status.
        status: u16,
        /// What the engine said.
        reason: String,
    },
    /// No answer in time.
    #[error("the engine could not be reached for the {leaf}: {reason}")]
    Unreachable {
        /// What was sent or asked for.
        leaf: String,
        /// Why the last request failed.
        reason: String,
    },
    /// This machine cannot make requests at all.
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
}

/// Where the engine is.
enum Location {
    /// At this URL.
    Fixed(String),
    /// At the URL that this file holds at the time.
    File(PathBuf),
}

/// Talks to the engine for one attempt.
pub(crate) struct Client {
    http: reqwest::Client,
    location: Location,
    token: String,
    run: String,
    step: String,
    attempt: u32,
}

/// What one try of a request came to.
enum Try {
    Answer(Vec<u8>),
    Over { status: u16, reason: String },
    Refused { status: u16, reason: String },
    Again(String),
}

impl Client {
    /// A client for one attempt at `report_url`, which may be `file:///path`.
    ///
    /// # Errors
    /// The TLS set-up of this machine fails.
    pub(crate) fn new(
        report_url: &str,
        token: &str,
        run: &str,
        step: &str,
        attempt: u32,
    ) -> Result<Self, ReportError> {
        let location = report_url.strip_prefix("file://").map_or_else(
            || Location::Fixed(report_url.to_owned()),
            |path| Location::File(PathBuf::from(path)),
        );
        let http = reqwest::Client::builder()
            // A redirect would carry the token to a place nobody named.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(|error| ReportError::Setup(error.to_string()))?;
        Ok(Self {
            http,
            location,
            token: token.to_owned(),
            run: run.to_owned(),
            step: step.to_owned(),
            attempt,
        })
    }

    /// Sends a request until there is an answer or `until` has passed; there is
    /// at least one try. GET without a body, POST with one.
    ///
    /// # Errors
    /// See [`ReportError`].
    pub(crate) async fn request<T: DeserializeOwned>(
        &self,
        leaf: &str,
        body: Option<Vec<u8>>,
        until: Instant,
    ) -> Result<T, ReportError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match self.once(leaf, body.clone()).await {
                Try::Answer(bytes) => {
                    return serde_json::from_slice(&bytes).map_err(|error| ReportError::Refused {
                        leaf: leaf.to_owned(),
                        status: 200,
                        reason: format!("the answer cannot be read: {error}"),
                    });
                }
                Try::Over { status, reason } => return Err(ReportError::Over { status, reason }),
                Try::Refused { status, reason } => {
                    return Err(ReportError::Refused {
                        leaf: leaf.to_owned(),
                        status,
                        reason,
                    });
                }
                Try::Again(reason) => reason,
            };
            tracing::debug!(leaf, "no answer yet: {reason}");
            if timeout_at(until, sleep(pause)).await.is_err() {
                return Err(ReportError::Unreachable {
                    leaf: leaf.to_owned(),
                    reason,
                });
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once(&self, leaf: &str, body: Option<Vec<u8>>) -> Try {
        let base = match self.base() {
            Ok(base) => base,
            Err(reason) => return Try::Again(reason),
        };
        let path = attempt_path(&self.run, &self.step, self.attempt, leaf);
        let method = if body.is_some() {
            Method::POST
        } else {
            Method::GET
        };
        let mut request = self
            .http
            .request(method, format!("{}{path}", base.trim_end_matches('/')))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                // Not in the hands of the network: the URL is no URL.
                return Try::Again(format!("the report URL cannot be used: {}", causes(&error)));
            }
            Err(error) => return Try::Again(causes(&error)),
        };
        let status = response.status();
        let bytes = match response.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return Try::Again(causes(&error)),
        };
        if status.is_success() {
            return Try::Answer(bytes.into());
        }
        let reason = serde_json::from_slice::<Refusal>(&bytes)
            .map_or_else(|_| "no reason given".to_owned(), |refusal| refusal.error);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::GONE => Try::Over {
                status: status.as_u16(),
                reason,
            },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Try::Again(format!("status {status}: {reason}"))
            }
            _ if status.is_server_error() => Try::Again(format!("status {status}: {reason}")),
            _ => Try::Refused {
                status: status.as_u16(),
                reason,
            },
        }
    }

    /// The report URL as of now.
    fn base(&self) -> Result<String, String> {
        match &self.location {
            Location::Fixed(url) => Ok(url.clone()),
            Location::File(path) => match std::fs::read_to_string(path) {
                Ok(url) if url.trim().is_empty() => {
                    Err(format!("{} holds no URL yet", path.display()))
                }
                Ok(url) => Ok(url.trim().to_owned()),
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
            },
        }
    }
}

/// An error with what caused it; the outer one alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
