//! A language server for Loopy projects: diagnostics, hover, completion and
//! go to definition. [`serve`] speaks the Language Server Protocol over any
//! transport; all it knows of a project comes from the compiler.
//!
//! Messages are handled one after the other. What changes a project is answered
//! with diagnostics once the messages that are already there, and a short pause,
//! have gone by.

mod completion;
mod hover;
mod session;
mod text;
mod transport;
mod uri;
mod workspace;

use std::io::{self, BufRead, Write};

/// How the client took its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It asked for the shutdown first, as the protocol wants it.
    Orderly,
    /// It left without a word; the process has to end with 1.
    Abrupt,
}

/// The session broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nothing can be written to the client any more.
    #[error("cannot write to the editor: {0}")]
    Write(#[source] io::Error),
    /// The thread that reads could not be started.
    #[error("cannot start the thread that reads from the editor: {0}")]
    Thread(#[source] io::Error),
}

/// Serves one client until it leaves. What it sends is read on a thread of its
/// own, which ends with the `exit` message or with the stream.
///
/// # Errors
/// When the client cannot be written to, or the thread cannot be started.
/// Nothing that a client sends is an error: it is answered with one.
pub fn serve(
    reader: impl BufRead + Send + 'static,
    writer: impl Write,
) -> Result<Farewell, ServeError> {
    let incoming = transport::read_all(reader).map_err(ServeError::Thread)?;
    session::Session::new(writer)
        .run(&incoming)
        .map_err(ServeError::Write)
}
