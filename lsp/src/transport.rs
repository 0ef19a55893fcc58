//! The protocol's frames: reads them, bounded in size, and writes them. A frame
//! that makes no sense is skipped and told of; the next one counts again.

use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// How large one message may be, in bytes. A file of a project may have a
/// megabyte, and escapes can make six bytes of one.
const MAX_MESSAGE: u64 = 8 << 20;

/// How long a line of a frame's header may be, in bytes.
const MAX_HEADER: u64 = 4096;

/// How many messages may wait.
const BACKLOG: usize = 8;

/// The error codes of JSON-RPC and of the protocol.
pub(crate) mod code {
    /// No JSON.
    pub(crate) const PARSE: i32 = -32700;
    /// JSON, but no message, or not one for this moment.
    pub(crate) const INVALID_REQUEST: i32 = -32600;
    /// A request that this server does not know.
    pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters are not what the method takes.
    pub(crate) const INVALID_PARAMS: i32 = -32602;
    /// A request before `initialize`.
    pub(crate) const NOT_INITIALIZED: i32 = -32002;
}

/// What came from the client.
#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    /// Wants an answer.
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    /// Wants none.
    Notification { method: String, params: Value },
    /// Answers a request of this server.
    Response,
    /// No message; the error to answer with.
    Malformed { code: i32, message: String },
}

#[derive(Deserialize)]
struct Envelope {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// Reads on a thread of its own until `exit` or the end of the stream.
pub(crate) fn read_all(
    mut reader: impl BufRead + Send + 'static,
) -> io::Result<Receiver<Incoming>> {
    let (sender, receiver) = sync_channel(BACKLOG);
    let read = move || {
        loop {
            let incoming = match read(&mut reader) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!("cannot read from the editor: {error}");
                    break;
                }
            };
            let is_last = matches!(
                &incoming,
                Incoming::Notification { method, .. } if method == "exit"
            );
            if sender.send(incoming).is_err() || is_last {
                break;
            }
        }
    };
    thread::Builder::new()
        .name("lsp-reader".to_owned())
        .spawn(read)?;
    Ok(receiver)
}

/// The next message; `None` at the end of the stream.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Incoming>> {
    let malformed = |code, message: String| Ok(Some(Incoming::Malformed { code, message }));
    let Some(length) = header(reader)? else {
        return Ok(None);
    };
    let Some(length) = length else {
        let message = "a frame without a Content-Length".to_owned();
        return malformed(code::PARSE, message);
    };
    if length > MAX_MESSAGE {
        io::copy(&mut reader.take(length), &mut io::sink())?;
        let message = format!("a message of {length} bytes; {MAX_MESSAGE} are taken");
        return malformed(code::INVALID_REQUEST, message);
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    if (body.len() as u64) < length {
        return Ok(None);
    }
    let value: Value = match serde_json::from_slice(&body) {
        Ok(value) => value,
        Err(error) => return malformed(code::PARSE, format!("this is not JSON: {error}")),
    };
    Ok(Some(incoming(value)))
}

fn incoming(value: Value) -> Incoming {
    let envelope = match serde_json::from_value(value) {
        Ok(envelope) => envelope,
        Err(error) => {
            return Incoming::Malformed {
                code: code::INVALID_REQUEST,
                message: format!("this is no message: {error}"),
            };
        }
    };
    match envelope {
        Envelope {
            id: Some(id @ (Value::Number(_) | Value::String(_))),
            method: Some(method),
            params,
        } => Incoming::Request { id, method, params },
        Envelope {
            id: None,
            method: Some(method),
            params,
        } => Incoming::Notification { method, params },
        Envelope {
            id: Some(_),
            method: Some(_),
            ..
        } => Incoming::Malformed {
            code: code::INVALID_REQUEST,
            message: "the id of a request has to be a number or a text".to_owned(),
        },
        Envelope {
            id: Some(_),
            method: None,
            ..
        } => Incoming::Response,
        Envelope {
            id: None,
            method: None,
            ..
        } => Incoming::Malformed {
            code: code::INVALID_REQUEST,
            message: "a message has to have a method".to_owned(),
        },
    }
}

/// The length that the next header names, if it names one; the outer `None` is
/// the end of the stream.
fn header(reader: &mut impl BufRead) -> io::Result<Option<Option<u64>>> {
    let mut length = None;
    loop {
        let mut line = Vec::new();
        if reader.take(MAX_HEADER).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(Some(length));
        }
        let text = String::from_utf8_lossy(line);
        if let Some((name, value)) = text.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}

/// Writes a message.
fn write(writer: &mut impl Write, message: &Value) -> io::Result<()> {
    let text = message.to_string();
    write!(writer, "Content-Length: {}\r\n\r\n{text}", text.len())?;
    writer.flush()
}

/// Answers a request.
pub(crate) fn respond(writer: &mut impl Write, id: &Value, result: &Value) -> io::Result<()> {
    write(
        writer,
        &json!({"jsonrpc": "2.0", "id": id, "result": result}),
    )
}

/// Answers a request, or what was none, with an error.
pub(crate) fn refuse(
    writer: &mut impl Write,
    id: &Value,
    code: i32,
    message: &str,
) -> io::Result<()> {
    let error = json!({"code": code, "message": message});
    write(writer, &json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

/// Tells the client something.
pub(crate) fn notify(writer: &mut impl Write, method: &str, params: &Value) -> io::Result<()> {
    write(
        writer,
        &json!({"jsonrpc": "2.0", "method": method, "params": params}),
    )
}

/// Asks the client for something.
pub(crate) fn request(
    writer: &mut impl Write,
    id: &str,
    method: &str,
    params: &Value,
) -> io::Result<()> {
    write(
        writer,
        &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Incoming> {
        let mut reader = bytes;
        std::iter::from_fn(|| read(&mut reader).unwrap()).collect()
    }

    fn frame(body: &str) -> String {
        format!("Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn code_of(incoming: &Incoming) -> i32 {
        match incoming {
            Incoming::Malformed { code, .. } => *code,
            _ => 0,
        }
    }

    #[test]
    fn what_makes_no_sense_is_skipped() {
        let good = frame(r#"{"method":"a"}"#);
        let bodies = ["{", "[]", "{}", r#"{"id":{},"method":"a"}"#, "\u{1f600}"];
        for body in bodies {
            let read = all(format!("{}{good}", frame(body)).as_bytes());
            assert_eq!(read.len(), 2, "{body}");
            assert_ne!(code_of(&read[0]), 0, "{body}");
            assert_eq!(code_of(&read[1]), 0, "{body}");
        }
        let deep = "[".repeat(1_000_000);
        assert_eq!(code_of(&all(frame(&deep).as_bytes())[0]), code::PARSE);
        let read = all(format!("Content-Length: x\r\nwhat\r\n\r\n{good}").as_bytes());
        assert_eq!(code_of(&read[0]), code::PARSE);
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn what_is_too_large_is_never_held() {
        let good = frame(r#"{"id":1}"#);
        let large = " ".repeat(usize::try_from(MAX_MESSAGE).unwrap() + 1);
        let read = all(format!("{}{good}", frame(&large)).as_bytes());
        assert_eq!(code_of(&read[0]), code::INVALID_REQUEST);
        assert_eq!(read[1], Incoming::Response);
        // The stream ends long before what the header says.
        assert_eq!(all(b"Content-Length: 8000000\r\n\r\n{}"), []);
        assert_eq!(
            all(b"Content-Length: 18446744073709551615\r\n\r\n{}").len(),
            1
        );
        assert_eq!(all("a".repeat(1_000_000).as_bytes()), []);
    }
}
