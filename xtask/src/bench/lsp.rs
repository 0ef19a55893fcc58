//! How long an editor waits: from a change of a step to what the language server
//! has to say of it, on the large project that `compile` is measured on, beside
//! a cold compile of it.

use super::compile::{STEPS, WORKFLOWS, time, write_project};
use super::{loopy, median, ms, print_table};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// An even number, so that as many changes break the project as mend it.
const EDITS: usize = 30;

const SAMPLES: usize = 11;

/// The step that is edited, in the middle of all; others read what it puts out.
const STEP: &str = "workflows/flow0500/step1.md";

/// What is renamed there, and to what.
const FIELD: &str = "  verdict:";
const RENAMED: &str = "  verdikt:";

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let loopy = loopy(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    write_project(folder.path())?;

    let mut command = Command::new(&loopy);
    command.arg("lsp").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command
        .spawn()
        .map_err(|source| process::start(&command, source))?;
    let times = Server { child }.edit(folder.path());
    let times = times.map_err(|source| process::start(&command, source))?;
    let cold = time(SAMPLES, || {
        let mut command = Command::new(&loopy);
        command.arg("compile").arg(folder.path());
        command.args(["--check", "--no-cache"]);
        command
    })?;
    let slowest = times.iter().max().copied().unwrap_or_default();
    print_table(
        &format!(
            "language server, {WORKFLOWS} workflows x {STEPS} steps, median of {EDITS} changes \
             and of {SAMPLES} compiles"
        ),
        &["what", "time"],
        &[
            vec!["change to diagnostics".to_owned(), ms(median(times))],
            vec!["the slowest of them".to_owned(), ms(slowest)],
            vec!["compiled cold".to_owned(), ms(cold)],
        ],
    );
    Ok(())
}

/// A language server, ended when it is let go.
struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Edits a step of the project again and again; how long each change waits
    /// for its diagnostics.
    fn edit(mut self, root: &Path) -> io::Result<Vec<Duration>> {
        let (Some(input), Some(output)) = (self.child.stdin.take(), self.child.stdout.take())
        else {
            return Err(io::Error::other("the server has no pipes"));
        };
        let mut client = Client {
            input,
            output: BufReader::new(output),
        };
        client.send(&json!({
            "jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {"processId": null, "rootUri": null, "capabilities": {}},
        }))?;
        client.notify("initialized", &json!({}))?;
        let path = root.join(STEP);
        let fine = std::fs::read_to_string(&path)?;
        let broken = fine.replace(FIELD, RENAMED);
        let uri = format!("file://{}", path.display());
        let document = json!({"uri": uri, "languageId": "markdown", "version": 0, "text": broken});
        client.notify("textDocument/didOpen", &json!({"textDocument": document}))?;
        // The step behind reads what is gone now.
        let reader = uri.replace("step1", "step2");
        client.diagnostics(&reader, 1)?;
        let mut times = Vec::new();
        for edit in 0..EDITS {
            let (text, errors) = match edit % 2 {
                0 => (&fine, 0),
                _ => (&broken, 1),
            };
            let document = json!({"uri": uri, "version": edit + 1});
            let params = json!({"textDocument": document, "contentChanges": [{"text": text}]});
            let begin = Instant::now();
            client.notify("textDocument/didChange", &params)?;
            client.diagnostics(&reader, errors)?;
            times.push(begin.elapsed());
        }
        Ok(times)
    }
}

/// An editor's side of the protocol.
struct Client {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn notify(&mut self, method: &str, params: &Value) -> io::Result<()> {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}))
    }

    fn send(&mut self, message: &Value) -> io::Result<()> {
        let text = message.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len())?;
        self.input.flush()
    }

    /// Waits for the diagnostics of a file, which have to be this many.
    fn diagnostics(&mut self, uri: &str, count: usize) -> io::Result<()> {
        loop {
            let message = read(&mut self.output)?;
            if message["method"] != "textDocument/publishDiagnostics"
                || message["params"]["uri"] != uri
            {
                continue;
            }
            let found = message["params"]["diagnostics"].as_array().map(Vec::len);
            if found != Some(count) {
                let problem = format!("{count} diagnostics are due, not {message}");
                return Err(io::Error::other(problem));
            }
            return Ok(());
        }
    }
}

/// The next message.
fn read(reader: &mut impl BufRead) -> io::Result<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server ended"));
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
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn messages_are_read_one_by_one() {
        let text = "Content-Length: 2\r\n\r\n{}Content-Length: 3\r\nX: y\r\n\r\n[1]";
        let mut reader = BufReader::new(text.as_bytes());
        assert_eq!(read(&mut reader).unwrap(), json!({}));
        assert_eq!(read(&mut reader).unwrap(), json!([1]));
        assert!(read(&mut reader).is_err());
    }

    #[test]
    fn the_edited_step_has_what_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        write_project(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(STEP)).unwrap();
        assert_eq!(text.matches(FIELD).count(), 1, "{text}");
    }
}
