//! A host of git repositories over HTTP: git's own server side behind a port that asks
//! for a password, if it is to, and counts what it sends.

use crate::host::Host;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A running host.
pub struct GitHost {
    host: Host,
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// The password of any user; none asks for none.
    password: Option<String>,
    /// Bytes of packs, and what else answers a fetch.
    sent: AtomicU64,
}

impl GitHost {
    /// Serves the bare repositories in `folder`, to those who know the password.
    ///
    /// # Errors
    /// There is no port, or no thread, to be had.
    pub fn start(folder: &Path, password: Option<&str>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            password: password.map(str::to_owned),
            sent: AtomicU64::new(0),
        });
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        Ok(Self {
            host: Host::start("git-host", router)?,
            shared,
        })
    }

    /// The URL of a repository in the folder.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.host.url())
    }

    /// How many bytes were sent in answer to fetches and clones since the last call;
    /// the lists of branches do not count.
    pub fn sent(&self) -> u64 {
        self.shared.sent.swap(0, Ordering::SeqCst)
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !shared.lets_in(&headers) {
        let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"git\"")];
        return (StatusCode::UNAUTHORIZED, ask).into_response();
    }
    match shared.answer(&method, &uri, &headers, &body).await {
        Ok(answer) => answer,
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, why.to_string()).into_response(),
    }
}

impl Shared {
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(password) = &self.password else {
            return true;
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
            .and_then(|value| STANDARD.decode(value).ok())
            .and_then(|value| String::from_utf8(value).ok());
        given.is_some_and(|given| {
            given
                .split_once(':')
                .is_some_and(|(_, own)| own == password)
        })
    }

    /// What git's own CGI program answers.
    async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> std::io::Result<Response> {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let mut git = Command::new("git");
        git.arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.folder)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("REQUEST_METHOD", method.as_str())
            .env("PATH_INFO", uri.path())
            .env("QUERY_STRING", uri.query().unwrap_or_default())
            .env("CONTENT_TYPE", text("content-type"))
            .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
            .env("GIT_PROTOCOL", text("git-protocol"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = git.spawn()?;
        let input = child.stdin.take();
        let feed = async {
            if let Some(mut input) = input {
                // It need not read all of it.
                let _unread = input.write_all(body).await;
            }
        };
        let (ended, ()) = tokio::join!(child.wait_with_output(), feed);
        let said = ended?.stdout;
        let end = said.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, content) = said.split_at(end.map_or(said.len(), |end| end + 4));
        let mut response = Response::builder();
        for line in String::from_utf8_lossy(head).lines() {
            match line.split_once(": ") {
                Some(("Status", status)) => {
                    response = response.status(status.get(..3).unwrap_or("500"));
                }
                Some((name, value)) => response = response.header(name, value),
                None => {}
            }
        }
        // Where the protocol of today lists branches by a request of its own.
        let is_list = body.windows(7).any(|part| part == b"ls-refs");
        if *method == Method::POST && !is_list {
            self.sent.fetch_add(content.len() as u64, Ordering::SeqCst);
        }
        response
            .body(Body::from(content.to_vec()))
            .map_err(std::io::Error::other)
    }
}
