//! An editor's side of the Language Server Protocol, over any transport.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Longer than a server takes for an answer on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A client with a server at the other end.
pub struct Editor {
    writer: Box<dyn Write + Send>,
    incoming: Receiver<Value>,
    /// What came while something else was waited for.
    passed: VecDeque<Value>,
    requests: u64,
}

impl Editor {
    /// An editor that reads what a server writes, and writes what it reads.
    pub fn new(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        let (sender, incoming) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Ok(Some(message)) = read(&mut reader) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self {
            writer: Box::new(writer),
            incoming,
            passed: VecDeque::new(),
            requests: 0,
        }
    }

    /// Begins a session as editors do; the server's capabilities.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn begin(&mut self) -> io::Result<Value> {
        let watched = json!({"didChangeWatchedFiles": {"dynamicRegistration": true}});
        let params = json!({
            "processId": null, "rootUri": null, "capabilities": {"workspace": watched},
        });
        let answer = self.request("initialize", &params)?;
        self.notify("initialized", &json!({}))?;
        Ok(answer["result"]["capabilities"].clone())
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn notify(&mut self, method: &str, params: &Value) -> io::Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
    }

    /// Sends a request; the whole answer, be it a result or an error.
    ///
    /// # Errors
    /// When it cannot be written, or is not answered.
    pub fn request(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        self.requests += 1;
        let id = self.requests;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        self.wait(method, |message| {
            message["id"] == id && message.get("method").is_none()
        })
    }

    /// The next diagnostics of a file.
    ///
    /// # Errors
    /// When none come.
    pub fn diagnostics(&mut self, uri: &str) -> io::Result<Vec<Value>> {
        let mut message = self.wait(&format!("diagnostics of {uri}"), |message| {
            message["method"] == "textDocument/publishDiagnostics"
                && message["params"]["uri"] == uri
        })?;
        match message["params"]["diagnostics"].take() {
            Value::Array(diagnostics) => Ok(diagnostics),
            other => Err(io::Error::other(format!("no diagnostics: {other}"))),
        }
    }

    /// The first message that fits, of those that came and those to come.
    ///
    /// # Errors
    /// When none comes; `what` was waited for.
    pub fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> io::Result<Value> {
        if let Some(at) = self.passed.iter().position(&fits)
            && let Some(message) = self.passed.remove(at)
        {
            return Ok(message);
        }
        loop {
            let message = self.incoming.recv_timeout(LIMIT).map_err(|why| {
                let why = match why {
                    RecvTimeoutError::Timeout => "waited in vain for",
                    RecvTimeoutError::Disconnected => "the server ended before",
                };
                io::Error::other(format!("{why} {what}"))
            })?;
            if fits(&message) {
                return Ok(message);
            }
            self.passed.push_back(message);
        }
    }

    fn send(&mut self, message: &Value) -> io::Result<()> {
        let text = message.to_string();
        let frame = format!("Content-Length: {}\r\n\r\n{text}", text.len());
        self.raw(frame.as_bytes())
    }
}

/// The next message; `None` at the end of the stream.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Value>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}
