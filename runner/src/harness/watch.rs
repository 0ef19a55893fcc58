//! Runs a tool that keeps no caps of its own and may wait for its model API for
//! ever, and ends it when a cap is reached or nothing more is to be expected.

use super::ending::no_start;
use super::mend::over_cap;
use super::{Job, failure};
use crate::processes::Ended;
use loopy_contract::report::{Failure, FailureClass};
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// The variable of a sandbox with the seconds that a model API may be silent.
pub(super) const PATIENCE: &str = "LOOPY_MODEL_PATIENCE";
/// Its value where the sandbox says nothing.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(300);
/// How long a model API may fail, at most, before a further failure ends the tool.
const TROUBLE: Duration = Duration::from_secs(60);
/// A tool that runs no command may say nothing for so many times the patience.
/// It has its own time limit for one request, and tries again.
const SILENCE: u32 = 4;
/// Time between two looks at a tool.
const LOOK: Duration = Duration::from_millis(100);

/// What reads a tool's events.
pub(super) trait Read {
    /// A line of stdout.
    fn line(&mut self, watch: &Watch<'_>, line: &[u8]);
    /// A line of stderr.
    fn error_line(&mut self, _watch: &Watch<'_>, _line: &[u8]) {}
    /// Looks at what the tool leaves elsewhere: ten times a second, and once more
    /// when it has ended.
    fn look(&mut self, _watch: &Watch<'_>) {}
}

/// The watch over one run of a tool.
pub(super) struct Watch<'j> {
    job: &'j Job<'j>,
    /// The tool's command.
    program: &'static str,
    patience: Duration,
    heard: Cell<Instant>,
    /// Since when the model API only fails.
    trouble: Cell<Option<Instant>>,
    verdict: RefCell<Option<Failure>>,
    given: Notify,
}

/// How long a model API may be silent in this sandbox.
///
/// # Errors
/// The variable is no whole number of seconds.
pub(super) fn patience(job: &Job<'_>) -> Result<Duration, Failure> {
    match job.environment.get(PATIENCE) {
        None => Ok(DEFAULT_PATIENCE),
        Some(text) => match text.trim().parse() {
            Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
            _ => Err(failure(
                FailureClass::Sandbox,
                format!(
                    "{PATIENCE} is `{text}` in the sandbox's env_file; it takes whole seconds, from 1 to 86400"
                ),
            )),
        },
    }
}

impl<'j> Watch<'j> {
    /// A watch over `program`.
    ///
    /// # Errors
    /// The sandbox's [`PATIENCE`] cannot be read.
    pub(super) fn new(job: &'j Job<'j>, program: &'static str) -> Result<Self, Failure> {
        Ok(Self {
            job,
            program,
            patience: patience(job)?,
            heard: Cell::new(Instant::now()),
            trouble: Cell::default(),
            verdict: RefCell::default(),
            given: Notify::new(),
        })
    }

    /// There was a sign of life.
    pub(super) fn heard(&self) {
        self.heard.set(Instant::now());
    }

    /// The model answered.
    pub(super) fn answered(&self) {
        self.heard();
        self.trouble.set(None);
    }

    /// The model API failed, and the tool tries again: ends the tool if it has
    /// failed for long. A request under way meanwhile is left its time.
    pub(super) fn trouble(&self, message: &str) {
        let since = self.trouble.get().unwrap_or_else(Instant::now);
        self.trouble.set(Some(since));
        if since.elapsed() >= self.patience.min(TROUBLE) {
            self.end(failure(
                FailureClass::Crash,
                format!(
                    "{} got no answer from its model API for {} seconds and was ended: {message}",
                    self.program,
                    since.elapsed().as_secs()
                ),
            ));
        }
    }

    /// The agent will ask its model again: ends the tool if a cap has nothing left.
    pub(super) fn goes_on(&self) {
        if let Some(over) = over_cap(self.job) {
            self.end(over);
        }
    }

    fn end(&self, failure: Failure) {
        let mut verdict = self.verdict.borrow_mut();
        if verdict.is_none() {
            *verdict = Some(failure);
            self.given.notify_one();
        }
    }

    /// Runs the tool to its end with `stdin` as its input, each line going into
    /// the transcript and to `reader`.
    ///
    /// # Errors
    /// It does not start, or was ended before its time.
    pub(super) async fn run(
        &self,
        command: Command,
        stdin: &[u8],
        reader: &RefCell<impl Read>,
        install: &str,
    ) -> Result<Ended, Failure> {
        let running = self.job.processes.run(
            command,
            stdin,
            |line| {
                self.job.transcript.line(self.program, line);
                self.heard();
                reader.borrow_mut().line(self, line);
            },
            |line| {
                self.job.transcript.line("stderr", line);
                reader.borrow_mut().error_line(self, line);
            },
        );
        let watching = async {
            loop {
                tokio::select! {
                    () = self.given.notified() => {}
                    () = sleep(LOOK) => reader.borrow_mut().look(self),
                }
                self.judge();
                if let Some(failure) = self.verdict.take() {
                    return failure;
                }
            }
        };
        let ended = tokio::select! {
            biased;
            ended = running => ended.map_err(|error| no_start(self.program, &error, install)),
            failure = watching => Err(failure),
        };
        if ended.is_err() {
            self.job.processes.end_all().await;
        }
        // What it wrote last counts too.
        reader.borrow_mut().look(self);
        ended
    }

    /// Ends the tool when nothing more is to be heard of it.
    fn judge(&self) {
        let silence = self.patience * SILENCE;
        if self.heard.get().elapsed() < silence {
            return;
        }
        // A command that it runs may take the attempt's time.
        if self.job.processes.runs_commands(self.program) {
            self.heard();
            return;
        }
        self.end(failure(
            FailureClass::Crash,
            format!(
                "{} said nothing for {} seconds, without a command that runs, and was ended; if its model thinks that long, raise {PATIENCE} in the sandbox's env_file",
                self.program,
                silence.as_secs()
            ),
        ));
    }
}
