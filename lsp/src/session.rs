//! One client from `initialize` to `exit`: takes its messages one after the
//! other and answers them.

use crate::transport::{self, Incoming, code};
use crate::workspace::Workspace;
use crate::{Farewell, completion, hover};
use gen_lsp_types::{
    CompletionOptions, CompletionParams, DefinitionParams, DidChangeTextDocumentParams,
    DidChangeWatchedFilesParams, DidChangeWatchedFilesRegistrationOptions,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, DidSaveTextDocumentParams,
    FileSystemWatcher, GlobPattern, HoverParams, InitializeParams, InitializeResult, Pattern,
    PositionEncodingKind, PublishDiagnosticsParams, Registration, RegistrationParams,
    ServerCapabilities, ServerInfo, TextDocumentPositionParams, TextDocumentSyncKind,
    TextDocumentSyncOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long nothing may change before a project is checked.
const PAUSE: Duration = Duration::from_millis(40);

/// How long a check waits at most while changes keep coming.
const PATIENCE: Duration = Duration::from_millis(400);

/// What the client's watcher is to look after.
const WATCHED: [&str; 4] = [
    "**/registry.yml",
    "**/workflows/*/*.md",
    "**/sensors/**",
    "**/skills/**",
];

/// How far the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing but `initialize` is answered.
    New,
    Serving,
    /// `shutdown` came; only `exit` may follow.
    ShutDown,
}

/// A session with one client.
pub(crate) struct Session<W> {
    writer: W,
    phase: Phase,
    /// Whether the client can be asked to watch files.
    watches: bool,
    workspace: Workspace,
    /// When the next check is due, and when it has to be at the latest.
    due: Option<(Instant, Instant)>,
}

impl<W: Write> Session<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self {
            writer,
            phase: Phase::New,
            watches: false,
            workspace: Workspace::default(),
            due: None,
        }
    }

    /// Serves until the client leaves.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub(crate) fn run(mut self, incoming: &Receiver<Incoming>) -> io::Result<Farewell> {
        loop {
            let next = match self.due {
                None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((pause, last)) => {
                    let wait = pause.min(last).saturating_duration_since(Instant::now());
                    incoming.recv_timeout(wait)
                }
            };
            match next {
                Ok(Incoming::Notification { method, .. }) if method == "exit" => break,
                Ok(Incoming::Notification { method, params }) => {
                    if self.phase == Phase::Serving {
                        self.notified(&method, params)?;
                    }
                }
                Ok(Incoming::Request { id, method, params }) => {
                    self.requested(&id, &method, params)?;
                }
                // The only thing asked is to watch files; a client that cannot
                // still tells of what is saved.
                Ok(Incoming::Response) => {}
                Ok(Incoming::Malformed { code, message }) => {
                    transport::refuse(&mut self.writer, &Value::Null, code, &message)?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.due = None;
                    let news = self.workspace.check();
                    self.publish(&news)?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(match self.phase {
            Phase::ShutDown => Farewell::Orderly,
            Phase::New | Phase::Serving => Farewell::Abrupt,
        })
    }

    fn requested(&mut self, id: &Value, method: &str, params: Value) -> io::Result<()> {
        let answer = match (self.phase, method) {
            (Phase::New, "initialize") => self.initialize(params),
            (Phase::New, _) => Err((
                code::NOT_INITIALIZED,
                "the first request has to be `initialize`".to_owned(),
            )),
            (Phase::ShutDown, _) | (Phase::Serving, "initialize") => {
                let message = format!("`{method}` cannot come now");
                Err((code::INVALID_REQUEST, message))
            }
            (Phase::Serving, "shutdown") => {
                self.phase = Phase::ShutDown;
                self.due = None;
                Ok(Value::Null)
            }
            (Phase::Serving, "textDocument/hover") => {
                read::<HoverParams>(method, params).map(|params| {
                    let at = params.text_document_position_params;
                    let asked = self.ask(&at);
                    json(asked.and_then(|asked| hover::hover(&asked)))
                })
            }
            (Phase::Serving, "textDocument/definition") => read::<DefinitionParams>(method, params)
                .map(|params| {
                    let at = params.text_document_position_params;
                    let asked = self.ask(&at);
                    json(asked.and_then(|asked| hover::definition(&asked)))
                }),
            (Phase::Serving, "textDocument/completion") => read::<CompletionParams>(method, params)
                .map(|params| {
                    let at = params.text_document_position_params;
                    let asked = self.ask(&at);
                    json(asked.map(|asked| completion::complete(&asked)))
                }),
            (Phase::Serving, _) => {
                let message = format!("`{method}` is not known here");
                Err((code::METHOD_NOT_FOUND, message))
            }
        };
        match answer {
            Ok(result) => transport::respond(&mut self.writer, id, &result),
            Err((code, message)) => transport::refuse(&mut self.writer, id, code, &message),
        }
    }

    fn ask(&mut self, at: &TextDocumentPositionParams) -> Option<crate::workspace::Asked<'_>> {
        self.workspace.ask(&at.text_document.uri.0, &at.position)
    }

    fn initialize(&mut self, params: Value) -> Result<Value, (i32, String)> {
        let params: InitializeParams = read("initialize", params)?;
        self.watches = params
            .capabilities
            .workspace
            .and_then(|workspace| workspace.did_change_watched_files)
            .and_then(|watched| watched.dynamic_registration)
            .unwrap_or(false);
        self.phase = Phase::Serving;
        let result = InitializeResult {
            capabilities: ServerCapabilities {
                position_encoding: Some(PositionEncodingKind::UTF16),
                text_document_sync: Some(
                    TextDocumentSyncOptions {
                        open_close: Some(true),
                        change: Some(TextDocumentSyncKind::Incremental),
                        save: Some(true.into()),
                        ..TextDocumentSyncOptions::default()
                    }
                    .into(),
                ),
                hover_provider: Some(true.into()),
                definition_provider: Some(true.into()),
                completion_provider: Some(CompletionOptions {
                    trigger_characters: Some(
                        [".", "{", " ", "[", "\"", "'"].map(str::to_owned).to_vec(),
                    ),
                    ..CompletionOptions::default()
                }),
                ..ServerCapabilities::default()
            },
            server_info: Some(ServerInfo {
                name: "loopy".to_owned(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            }),
        };
        Ok(json(result))
    }

    fn notified(&mut self, method: &str, params: Value) -> io::Result<()> {
        let taken = match method {
            "initialized" => return self.watch(),
            "textDocument/didOpen" => {
                read::<DidOpenTextDocumentParams>(method, params).map(|params| {
                    let document = params.text_document;
                    let (uri, version) = (document.uri.0, document.version);
                    self.workspace.open(uri, version, document.text);
                })
            }
            "textDocument/didChange" => {
                read::<DidChangeTextDocumentParams>(method, params).map(|params| {
                    let document = params.text_document;
                    let uri = document.text_document_identifier.uri.0;
                    let changes = params.content_changes;
                    self.workspace.change(&uri, document.version, changes);
                })
            }
            "textDocument/didSave" => read::<DidSaveTextDocumentParams>(method, params)
                .map(|params| self.workspace.changed_on_disk(&params.text_document.uri.0)),
            "textDocument/didClose" => read::<DidCloseTextDocumentParams>(method, params)
                .map(|params| self.workspace.close(&params.text_document.uri.0)),
            "workspace/didChangeWatchedFiles" => {
                read::<DidChangeWatchedFilesParams>(method, params).map(|params| {
                    for change in params.changes {
                        self.workspace.changed_on_disk(&change.uri.0);
                    }
                })
            }
            // What is not known and wants no answer is passed over: so the
            // protocol says.
            _ => return Ok(()),
        };
        if let Err((_, message)) = taken {
            tracing::warn!("{message}");
        }
        let news = self.workspace.clear();
        self.publish(&news)?;
        if self.workspace.is_due() {
            let now = Instant::now();
            let last = self.due.map_or(now + PATIENCE, |(_, last)| last);
            self.due = Some((now + PAUSE, last));
        } else {
            self.due = None;
        }
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        if !self.watches {
            return Ok(());
        }
        let watcher = |glob: &str| FileSystemWatcher {
            glob_pattern: GlobPattern::Pattern(Pattern::from(glob.to_owned())),
            kind: None,
        };
        let options = DidChangeWatchedFilesRegistrationOptions {
            watchers: WATCHED.map(watcher).to_vec(),
        };
        let registration = Registration {
            id: "files".to_owned(),
            method: "workspace/didChangeWatchedFiles".to_owned(),
            register_options: Some(json(options)),
        };
        let params = RegistrationParams {
            registrations: vec![registration],
        };
        let method = "client/registerCapability";
        transport::request(&mut self.writer, "watch", method, &json(params))
    }

    fn publish(&mut self, news: &[PublishDiagnosticsParams]) -> io::Result<()> {
        for params in news {
            let method = "textDocument/publishDiagnostics";
            transport::notify(&mut self.writer, method, &json(params))?;
        }
        Ok(())
    }
}

fn read<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, (i32, String)> {
    serde_json::from_value(params).map_err(|error| {
        let message = format!("the parameters of `{method}` do not fit: {error}");
        (code::INVALID_PARAMS, message)
    })
}

/// A value of the protocol as JSON; its types are all made of texts, numbers and
/// lists, so that nothing can fail.
fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
