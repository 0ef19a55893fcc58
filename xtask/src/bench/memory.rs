//! How much memory a runner takes at its peak, for steps that print and hand over much.
//! It reports to a server in this process that takes all it sends.

use super::print_table;
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use loopy_contract::report::{AttemptPath, Outcome, StepResult, launch_env};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// What a runner may take.
const LIMIT: u64 = 15 * 1024 * 1024;
const MB: f64 = 1024.0 * 1024.0;

/// Measures the runner by itself, and the one that is a part of `loopy`.
pub(super) fn run(workspace: &Workspace, loopy: &Path, folder: &Path) -> Result<(), Error> {
    process::run_beside(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "loopy-runner",
        "--bin",
        "loopy-runner",
    ]))?;
    let runner = workspace.target.join("release/loopy-runner");
    let mut rows = Vec::new();
    for (what, script) in [
        ("nothing", r#"echo '{"text": ""}' > "$LOOPY_OUTPUT""#),
        (
            "8 MB printed",
            r#"seq 1 1120000; echo '{"text": ""}' > "$LOOPY_OUTPUT""#,
        ),
        (
            "a result of 200 KB",
            r#"printf '{"text":"%s"}' "$(head -c 200000 /dev/zero | tr '\0' x)" > "$LOOPY_OUTPUT""#,
        ),
    ] {
        for (name, program, arguments) in [
            ("loopy-runner", runner.as_path(), [].as_slice()),
            ("loopy runner", loopy, &["runner"]),
        ] {
            let mut command = Command::new(program);
            command.args(arguments);
            let peak = peak(command, script, &folder.join("workspace"))?;
            rows.push(vec![
                what.to_owned(),
                name.to_owned(),
                format!("{:.1} MB", peak.whole as f64 / MB),
                format!("{:.1} MB", peak.own as f64 / MB),
                format!("{:.1} MB", LIMIT as f64 / MB),
                if peak.whole <= LIMIT { "yes" } else { "NO" }.to_owned(),
            ]);
        }
    }
    print_table(
        "memory of a runner at its peak, and what of it was its own when its result came",
        &["the step", "runner", "peak", "own", "limit", "holds"],
        &rows,
    );
    Ok(())
}

/// Bytes.
struct Peak {
    /// The most there ever was, pages of the program's file included.
    whole: u64,
    /// What is in no file, when the result was sent.
    own: u64,
}

/// Runs a step with this script; what its runner took when it sent the result.
fn peak(mut command: Command, script: &str, workspace: &Path) -> Result<Peak, Error> {
    let failed = |problem: String| Error::Answer {
        command: "the runner".to_owned(),
        problem,
    };
    let io = |error: std::io::Error| failed(error.to_string());
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env(launch_env::REPORT_URL, format!("http://{address}"))
        .env(launch_env::TOKEN, "token")
        .env(launch_env::RUN, "r-1")
        .env(launch_env::STEP, "s")
        .env(launch_env::ATTEMPT, "1")
        .env(launch_env::WORKSPACE, workspace)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|source| process::start(&command, source))?;
    let envelope = json!({
        "protocol": 1, "run": "r-1", "workflow": "w", "step": "s", "attempt": 1,
        "harness": "command", "model": null, "tools": [], "body": script, "refs": [],
        "values": {}, "untrusted": [], "emits": {}, "env": {}, "repos": [], "skills": {},
        "output": { "fields": { "text": { "type": "string" } } },
        "seconds": 60, "usd": null, "turns": null, "heartbeat_seconds": 5,
        "transcript_seconds": 1, "last_failure": null,
    });
    for stream in listener.incoming() {
        let stream = stream.map_err(io)?;
        let (leaf, body) = request(&stream).map_err(io)?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let answer = match leaf.as_str() {
            "envelope" => envelope.clone(),
            "heartbeat" => json!({ "stop": false }),
            "result" => json!({ "taken": true }),
            _ => json!({}),
        };
        respond(&stream, &answer).map_err(io)?;
        if leaf != "result" {
            continue;
        }
        let result: StepResult = serde_json::from_slice(&body)?;
        if let Outcome::Failed(failure) = result.outcome {
            return Err(failed(failure.message));
        }
        child.wait().map_err(io)?;
        let status = status.map_err(io)?;
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kilobytes * 1024)
        };
        return match (read("VmHWM:"), read("RssAnon:")) {
            (Some(whole), Some(own)) => Ok(Peak { whole, own }),
            _ => Err(failed("the system does not say what it took".to_owned())),
        };
    }
    Err(failed("it brought no result".to_owned()))
}

/// What is asked for, and the body.
fn request(stream: &TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default();
    let leaf = AttemptPath::parse(path).map_or_else(String::new, |path| path.leaf);
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((leaf, body))
}

fn respond(mut stream: &TcpStream, answer: &Value) -> std::io::Result<()> {
    let body = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
