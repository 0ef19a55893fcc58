//! Projects on disk, and the command run on them with an environment of its own.

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::Value;
use snapbox::cmd::OutputAssert;
use snapbox::{Assert, Redactions};
use std::fs;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at the same thing.
const LOOK: Duration = Duration::from_millis(5);

/// What `registry.yml` begins with when every step is a script on this machine.
pub(crate) const SHELL: &str = "\
defaults:
  agent: { harness: command, sandbox: Here }
sandboxes:
  Here: { provider: local }
agents:
  Shell: {}
";

/// Waits until `found` finds something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        sleep(LOOK);
    }
}

/// A project in a directory of its own, which is also its commands' home.
/// When it is dropped, every process that was started for it must be gone.
pub(crate) struct Project {
    directory: TempDir,
}

impl Project {
    /// A project with these files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("loopy-cli-").unwrap();
        let project = Self { directory };
        fs::create_dir(project.path()).unwrap();
        for (file, text) in files {
            project.write(file, text);
        }
        project
    }

    /// A copy of the first example.
    pub(crate) fn hello() -> Self {
        Self::example("hello")
    }

    /// A copy of an example.
    pub(crate) fn example(name: &str) -> Self {
        let project = Self::of(&[]);
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        project.copy(&examples.join(name), "");
        project
    }

    /// Copies a folder, without what has been made there.
    fn copy(&self, from: &Path, to: &str) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let to = Path::new(to).join(&name);
            if name.starts_with('.') || name == "__pycache__" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.copy(&entry.path(), to.to_str().unwrap());
            } else {
                let text = fs::read_to_string(entry.path()).unwrap();
                self.write(to.to_str().unwrap(), &text);
            }
        }
    }

    /// The project's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    /// A file beside the project, as an absolute path.
    pub(crate) fn outside(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn replace(&self, file: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path().join(file)).unwrap();
        assert!(text.contains(old), "{file} does not hold {old}");
        self.write(file, &text.replace(old, new));
    }

    /// The command with these arguments, in the project's folder.
    pub(crate) fn loopy(&self, arguments: &[&str]) -> Loopy<'_> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopy"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path());
        Loopy {
            project: PhantomData,
            command,
            redactions: self.redactions(),
        }
    }

    /// `loopy run` on a free port, once it serves.
    pub(crate) fn serve(&self) -> Serving<'_> {
        self.serve_with(&[])
    }

    /// The same with more in its environment.
    pub(crate) fn serve_with(&self, environment: &[(&str, &str)]) -> Serving<'_> {
        let python = std::env::var("LOOPY_TEST_PYTHON");
        let python = python.expect("run `cargo xtask test`, which prepares LOOPY_TEST_PYTHON");
        let mut run = self
            .loopy(&["run", "--listen", "127.0.0.1:0"])
            .env("LOOPY_PYTHON", &python);
        for (name, value) in environment {
            run = run.env(name, value);
        }
        let run = run.spawn();
        let url = until("the address", || {
            let said = run.stderr();
            assert!(!run.stderr.is_closed(), "loopy run ended: {said}");
            let line = said
                .lines()
                .find(|line| line.starts_with("serving . on "))?;
            let ended = said.contains(&format!("{line}\n"));
            ended.then(|| line.trim_start_matches("serving . on ").to_owned())
        });
        Serving { run, url }
    }

    /// All runs, newest first, as `loopy runs list` tells them to machines.
    pub(crate) fn runs(&self) -> Vec<Value> {
        let listed = self.loopy(&["runs", "list", "--json", "--limit", "1000"]);
        let runs = json(&listed.assert().code(0));
        runs.as_array().unwrap().clone()
    }

    /// What differs from one time to the next in what its commands print.
    pub(crate) fn redactions(&self) -> Redactions {
        redactions(self.directory.path())
    }

    /// Waits until there are `count` runs and all of them have succeeded.
    pub(crate) fn until_succeeded(&self, count: usize) {
        until(&format!("{count} runs to succeed"), || {
            // Each look is a process of its own.
            sleep(10 * LOOK);
            let runs = self.runs();
            let failed = runs.iter().find(|run| run["status"] == "failed");
            assert_eq!(failed, None);
            assert!(runs.len() <= count, "{runs:#?}");
            let over = runs.iter().all(|run| run["status"] == "succeeded");
            (over && runs.len() == count).then_some(())
        });
    }

    /// Processes that were started for this project and still live.
    fn processes(&self) -> Vec<(Pid, String)> {
        let mark = self.directory.path().to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let entry = entry.unwrap();
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // What cannot be read has ended, or is somebody else's.
            let read = |file| fs::read(entry.path().join(file)).unwrap_or_default();
            let (arguments, environment) = (read("cmdline"), read("environ"));
            let holds = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
            if holds(&arguments) || holds(&environment) {
                let name = String::from_utf8_lossy(&arguments).replace('\0', " ");
                found.push((Pid::from_raw(pid).unwrap(), name));
            }
        }
        found
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let begun = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            if std::thread::panicking() || begun.elapsed() > LIMIT {
                for (pid, _) in &left {
                    // It may be gone by now.
                    let _ = kill_process(*pid, Signal::KILL);
                }
                assert!(std::thread::panicking(), "processes are left: {left:?}");
                return;
            }
            sleep(LOOK);
        }
    }
}

/// What differs from one time to the next.
fn redactions(directory: &Path) -> Redactions {
    let mut redactions = Redactions::new();
    let directory = directory.to_str().unwrap().to_owned();
    redactions.insert("[DIR]", directory).unwrap();
    for (placeholder, pattern) in [
        ("[ID]", "-(?<redacted>[0-9a-f]{16,})"),
        ("[HASH]", "(?<redacted>[0-9a-f]{64})"),
        ("[TOOK]", r"  (?<redacted>[0-9]+\.[0-9]s)  "),
        ("[TIME]", "(?<redacted>[0-9-]{10}T[0-9:]{8}[.0-9]*Z)"),
        ("[PORT]", r"127\.0\.0\.1:(?<redacted>[0-9]+)"),
    ] {
        redactions
            .insert(placeholder, Regex::new(pattern).unwrap())
            .unwrap();
    }
    redactions
}

/// A command that was not started yet.
pub(crate) struct Loopy<'p> {
    project: PhantomData<&'p Project>,
    command: Command,
    redactions: Redactions,
}

impl<'p> Loopy<'p> {
    /// In another folder than the project's.
    pub(crate) fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn spawn(mut self) -> Running<'p> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running {
            project: PhantomData,
            stdout: Stream::read(child.stdout.take().unwrap()),
            stderr: Stream::read(child.stderr.take().unwrap()),
            child,
            redactions: self.redactions,
        }
    }

    /// Runs to the end with stderr on a terminal; what that shows.
    pub(crate) fn on_terminal(mut self) -> String {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let screen = openpt(flags).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let terminal = ioctl_tiocgptpeer(&screen, flags).unwrap();
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(terminal);
        let mut child = self.command.spawn().unwrap();
        // With this end closed, the screen goes dark when the command ends.
        drop(self.command);
        let shown = Stream::read(fs::File::from(screen));
        child.wait().unwrap();
        until("the screen to go dark", || shown.is_closed().then_some(()));
        shown.text()
    }

    /// Runs to the end.
    pub(crate) fn assert(self) -> OutputAssert {
        self.spawn().end()
    }
}

/// A command under way; killed when dropped.
pub(crate) struct Running<'p> {
    project: PhantomData<&'p Project>,
    child: Child,
    stdout: Stream,
    stderr: Stream,
    redactions: Redactions,
}

impl Running<'_> {
    /// What stderr holds so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until stderr holds `text`.
    pub(crate) fn until_says(&self, text: &str) {
        until(text, || {
            let closed = self.stderr.is_closed();
            let said = self.stderr();
            let holds = said.contains(text);
            assert!(holds || !closed, "ended without {text:?}: {said}");
            holds.then_some(())
        });
    }

    /// Waits until stdout holds `text`.
    pub(crate) fn until_prints(&self, text: &str) {
        until(text, || self.stdout.text().contains(text).then_some(()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends the process with no warning, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> OutputAssert {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = self.stderr();
            assert!(begun.elapsed() < LIMIT, "did not end: {said}");
            sleep(LOOK);
        };
        // Whoever else holds the streams open would keep a pipeline waiting.
        until("stdout and stderr to close", || {
            (self.stdout.is_closed() && self.stderr.is_closed()).then_some(())
        });
        self.output(status)
    }

    fn output(&self, status: ExitStatus) -> OutputAssert {
        let output = Output {
            status,
            stdout: self.stdout.text().into_bytes(),
            stderr: self.stderr.text().into_bytes(),
        };
        let assert = Assert::new()
            .action_env(snapbox::assert::DEFAULT_ACTION_ENV)
            .normalize_paths(false)
            .redact_with(self.redactions.clone());
        OutputAssert::new(output).with_assert(assert)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has written to one of its streams.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }
}

/// `loopy run` that serves.
pub(crate) struct Serving<'p> {
    pub(crate) run: Running<'p>,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
}

impl Serving<'_> {
    /// Sends a webhook; the status of the answer.
    pub(crate) fn post(&self, path: &str, body: &str) -> u16 {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap();
        status.parse().unwrap()
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(self) -> OutputAssert {
        self.run.signal(Signal::TERM);
        self.run.end()
    }
}

/// Stdout, which must be one JSON document.
pub(crate) fn json(output: &OutputAssert) -> Value {
    let stdout = &output.get_output().stdout;
    serde_json::from_slice(stdout)
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(stdout)))
}

impl Project {
    /// A project whose steps are scripts on this machine: what its registry says
    /// beyond that, and its steps by `workflow/step` with frontmatter and script.
    pub(crate) fn scripts(registry: &str, steps: &[(&str, &str, &str)]) -> Self {
        let project = Self::of(&[("registry.yml", &format!("{SHELL}{registry}"))]);
        for (step, front, script) in steps {
            project.write(
                &format!("workflows/{step}.md"),
                &format!("---\nagent: Shell\n{front}\n---\n{script}\n"),
            );
        }
        project
    }

    /// `loopy trigger` with this event; without the warnings, which differ from
    /// project to project.
    pub(crate) fn trigger(&self, event: &str, fields: &str) -> Loopy<'_> {
        self.loopy(&["trigger", "--event", event, "--fields", fields])
    }

    /// The newest run of the workflow, once there is one that stands like this.
    pub(crate) fn until_run(&self, workflow: &str, status: &str) -> String {
        until(&format!("a run of {workflow} that is {status}"), || {
            sleep(10 * LOOK);
            if !self.path().join(".loopy/state.db").exists() {
                return None;
            }
            let newest = self
                .runs()
                .into_iter()
                .find(|run| run["workflow"] == workflow)?;
            (newest["status"] == status).then(|| newest["id"].as_str().unwrap().to_owned())
        })
    }

    /// One run as machines see it.
    pub(crate) fn run(&self, id: &str) -> Value {
        json(&self.loopy(&["runs", "show", id, "--json"]).assert().code(0))
    }

    /// The lines of a run's history that are of this kind.
    pub(crate) fn notes(&self, id: &str, kind: &str) -> Vec<String> {
        let run = self.run(id);
        let lines = run["history"].as_array().unwrap().iter();
        let lines = lines.filter(|line| line["kind"] == kind);
        lines
            .map(|line| line["note"].as_str().unwrap().to_owned())
            .collect()
    }
}
