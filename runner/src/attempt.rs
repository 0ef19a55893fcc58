//! One attempt from launch to exit.

use crate::Exit;
use crate::client::{Client, ReportError};
use crate::handed;
use crate::harness::{Job, drive};
use crate::processes::Processes;
use crate::redact::{Redactor, head};
use crate::transcript::Transcript;
use crate::workspace::{Control, Workspace};
use loopy_contract::report::{
    Envelope, Failure, FailureClass, Heartbeat, HeartbeatReply, Limits, MAX_RESULT_BYTES, Outcome,
    PROTOCOL, ResultReply, StepResult, TranscriptPart, TranscriptReply, Usage, launch_env,
};
use loopy_contract::seal;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval_at, sleep, timeout_at};

/// How long the engine may take to answer the first request.
const ENVELOPE_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long past the attempt's end its result is still offered.
const RESULT_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How long past the attempt's end its transcript is still offered.
const TRANSCRIPT_PATIENCE: Duration = Duration::from_secs(20);
/// The longest attempt, whatever the envelope says: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Where programs are in a sandbox that does not say.
const PLAIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of a failure's message.
const LONGEST_MESSAGE: usize = 8 * 1024;

/// What the launcher said.
pub(crate) struct Launch {
    report_url: String,
    token: String,
    run: String,
    step: String,
    attempt: u32,
    workspace: PathBuf,
    /// Where the sandbox has its programs.
    search_path: String,
    /// Where mirrors of repositories are.
    mirrors: Option<PathBuf>,
    /// What its processes may take.
    limits: Limits,
}

/// The launcher's variables cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// One is missing, or empty where it cannot be.
    #[error("the variable {0} is not set; a runner is started by Loopy, which sets it")]
    Missing(&'static str),
    /// The attempt is not a number.
    #[error("the variable {name} is `{0}`, not a number", name = launch_env::ATTEMPT)]
    Attempt(String),
    /// The token cannot be opened.
    #[error("the variable {name} is not a token sealed with {key}; the launcher and its secret do not fit", name = launch_env::TOKEN, key = launch_env::TOKEN_KEY)]
    Seal,
    /// The limits are not what a launcher writes.
    #[error("the variable {name} cannot be read: {0}", name = launch_env::LIMITS)]
    Limits(serde_json::Error),
}

impl Launch {
    /// Reads the launcher's variables.
    pub(crate) fn read(env: impl Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let need = |name: &'static str| {
            env(name)
                .filter(|value| !value.is_empty())
                .ok_or(LaunchError::Missing(name))
        };
        let attempt = need(launch_env::ATTEMPT)?;
        let attempt = attempt.parse().map_err(|_| LaunchError::Attempt(attempt))?;
        let run = need(launch_env::RUN)?;
        // Named after a file, `.md` among them: a step's name may be empty.
        let step = env(launch_env::STEP).ok_or(LaunchError::Missing(launch_env::STEP))?;
        let mut token = need(launch_env::TOKEN)?;
        if let Some(key) = env(launch_env::TOKEN_KEY).filter(|key| !key.is_empty()) {
            token = seal::turn(key.as_bytes(), &run, &step, attempt, &token)
                .ok_or(LaunchError::Seal)?;
        }
        let limits = env(launch_env::LIMITS).filter(|limits| !limits.is_empty());
        let limits = limits.map(|limits| serde_json::from_str(&limits));
        Ok(Self {
            report_url: need(launch_env::REPORT_URL)?,
            token,
            run,
            step,
            attempt,
            workspace: PathBuf::from(need(launch_env::WORKSPACE)?),
            search_path: env("PATH")
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| PLAIN_PATH.to_owned()),
            mirrors: env(launch_env::MIRRORS)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            limits: limits
                .transpose()
                .map_err(LaunchError::Limits)?
                .unwrap_or_default(),
        })
    }
}

/// Runs the attempt to its end.
pub(crate) async fn run(launch: Launch) -> Exit {
    let Launch {
        report_url,
        token,
        run,
        step,
        attempt,
        workspace,
        search_path,
        mirrors,
        limits,
    } = launch;
    let client = match Client::new(&report_url, &token, &run, &step, attempt) {
        Ok(client) => client,
        Err(error) => return gave_up(&error),
    };
    let answer: Value = match client
        .request("envelope", None, Instant::now() + ENVELOPE_PATIENCE)
        .await
    {
        Ok(answer) => answer,
        Err(error) => return gave_up(&error),
    };
    let started = Instant::now();
    let envelope = match understand(answer) {
        Ok(envelope) => envelope,
        Err(failure) => {
            let redactor = Redactor::new([token.as_str()]);
            let result = StepResult {
                outcome: Outcome::Failed(failure),
                usage: Usage::default(),
                duration_ms: 0,
                files: None,
            };
            return deliver(&client, result, &redactor, started).await;
        }
    };
    let redactor = Redactor::new(
        envelope
            .env
            .values()
            .map(String::as_str)
            .chain([token.as_str()]),
    );
    let transcript = Transcript::new(&redactor);
    let deadline = started + Duration::from_secs(envelope.seconds).min(LONGEST);
    tracing::info!(run, step, attempt, harness = %envelope.harness, "the attempt begins");

    let processes = Processes::new(&run, &step, attempt);
    let usage = RefCell::new(Usage::default());
    let harness_started = Cell::new(None);
    let harness_ended = Cell::new(None);
    let files = RefCell::new(None);
    let work = async {
        let workspace = Arc::new(Workspace::create(&workspace)?);
        let control = Control::create(&run, &step, attempt)?;
        let environment = workspace.environment(&envelope.env, &run, &search_path)?;
        let envelope = handed::with_skills(&client, &envelope, deadline).await?;
        let envelope = envelope.as_ref();
        workspace
            .fill(envelope, &environment, &processes, mirrors.as_deref())
            .await?;
        handed::fetch(&client, envelope, &workspace, deadline).await?;
        harness_started.set(Some(Instant::now()));
        let driven = drive(&Job {
            envelope,
            workspace: &workspace,
            control: &control,
            environment: &environment,
            processes: &processes,
            transcript: &transcript,
            usage: &usage,
        })
        .await;
        harness_ended.set(Some(Instant::now()));
        let outcome = driven?;
        if !envelope.keeps.is_empty() && matches!(outcome, Outcome::Succeeded { .. }) {
            // Nothing writes to them any more.
            processes.end_all().await;
            files.replace(handed::keep(&client, envelope, &workspace, deadline).await?);
        }
        Ok(outcome)
    };
    let outcome = tokio::select! {
        worked = timeout_at(deadline, work) => Some(match worked {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(_) => Outcome::Failed(Failure {
                class: FailureClass::Timeout,
                message: format!(
                    "the attempt took longer than its {} seconds and was ended",
                    envelope.seconds
                ),
            }),
        }),
        why = processes.exceed(&limits) => {
            processes.kill_all().await;
            Some(Outcome::Failed(Failure {
                class: FailureClass::Crash,
                message: format!("{why}; they were ended"),
            }))
        }
        why = unwanted(&client, Duration::from_secs(envelope.heartbeat_seconds.max(1))) => {
            tracing::info!("the attempt ends without a result: {why}");
            None
        }
        never = tell(&client, &transcript, Duration::from_secs(envelope.transcript_seconds.max(1))) => match never {},
    };
    let duration = harness_started
        .get()
        .map(|at: Instant| harness_ended.get().unwrap_or_else(Instant::now) - at)
        .unwrap_or_default();
    processes.end_all().await;
    if let Some(Outcome::Failed(failure)) = &outcome {
        transcript.text(
            "loopy",
            &format!("{}: {}", failure.class.name(), failure.message),
        );
    }
    let last_words = async {
        let until = deadline.max(Instant::now()) + RESULT_PATIENCE;
        // Once the result is taken nothing more is. So as long as the engine takes
        // neither, the transcript loses nothing by going first.
        while !tell_all(&client, &transcript, Instant::now() + TRANSCRIPT_PATIENCE).await
            && outcome.is_some()
            && Instant::now() < until
            && !answers(&client).await
        {}
    };
    tokio::select! {
        () = last_words => {}
        signal = told_to_end() => {
            tracing::warn!("{signal} before the transcript was delivered");
            return Exit::Stopped;
        }
    }
    let Some(outcome) = outcome else {
        return Exit::Stopped;
    };
    let result = StepResult {
        outcome,
        usage: usage.into_inner(),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        files: files.into_inner(),
    };
    deliver(&client, result, &redactor, deadline).await
}

/// Takes the engine's answer for an envelope.
fn understand(answer: Value) -> Result<Envelope, Failure> {
    let failure = |message| Failure {
        class: FailureClass::Sandbox,
        message,
    };
    let protocol = answer.get("protocol").and_then(Value::as_u64);
    if protocol != Some(u64::from(PROTOCOL)) {
        let found = protocol.map_or_else(|| "none".to_owned(), |version| version.to_string());
        return Err(failure(format!(
            "the runner speaks protocol {PROTOCOL} and the engine {found}; deploy the project again, so that both come from one version"
        )));
    }
    serde_json::from_value(answer)
        .map_err(|error| failure(format!("the runner cannot read its envelope: {error}")))
}

/// Sends the transcript as it grows.
async fn tell(client: &Client, transcript: &Transcript<'_>, every: Duration) -> Infallible {
    loop {
        sleep(every).await;
        // The next round offers what this one could not send.
        tell_all(client, transcript, Instant::now()).await;
    }
}

/// Whether the engine takes anything at all.
async fn answers(client: &Client) -> bool {
    let body = serde_json::to_vec(&Heartbeat { sequence: 0 }).unwrap_or_default();
    let beat = client.request::<HeartbeatReply>("heartbeat", Some(body), Instant::now());
    !matches!(beat.await, Err(ReportError::Unreachable { .. }))
}

/// Sends what there is of the transcript; whether that was all. What cannot be sent by
/// `until` stays.
async fn tell_all(client: &Client, transcript: &Transcript<'_>, until: Instant) -> bool {
    while let Some((offset, text)) = transcript.next() {
        let bytes = text.len();
        let part = TranscriptPart { offset, text };
        let body = serde_json::to_vec(&part).unwrap_or_default();
        match client
            .request::<TranscriptReply>("transcript", Some(body), until)
            .await
        {
            Ok(TranscriptReply {}) => transcript.sent(bytes),
            // The work is worth more than its transcript.
            Err(error) => {
                tracing::warn!("{error}");
                return false;
            }
        }
    }
    true
}

/// Sends heartbeats. Ends, with the reason, when the attempt is to stop.
async fn unwanted(client: &Client, every: Duration) -> String {
    let beats = async {
        let mut beat = interval_at(Instant::now() + every, every);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sequence = 0;
        loop {
            beat.tick().await;
            sequence += 1;
            let body = serde_json::to_vec(&Heartbeat { sequence }).unwrap_or_default();
            match client
                .request::<HeartbeatReply>("heartbeat", Some(body), Instant::now() + every)
                .await
            {
                Ok(HeartbeatReply { stop: false }) => {}
                Ok(HeartbeatReply { stop: true }) => return "the engine asks to stop".to_owned(),
                Err(error @ ReportError::Over { .. }) => return error.to_string(),
                // The work is worth more than the sign of life.
                Err(error) => tracing::warn!("{error}"),
            }
        }
    };
    tokio::select! {
        why = beats => why,
        signal = told_to_end() => signal.to_owned(),
    }
}

/// Waits for a signal to end; gives its name.
async fn told_to_end() -> &'static str {
    tokio::select! {
        () = received(SignalKind::terminate()) => "SIGTERM",
        () = received(SignalKind::interrupt()) => "SIGINT",
    }
}

async fn received(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(error) => {
            tracing::warn!("cannot listen for signals: {error}");
            std::future::pending::<()>().await;
        }
    }
}

/// Posts the result, as far as it may leave.
async fn deliver(
    client: &Client,
    mut result: StepResult,
    redactor: &Redactor,
    deadline: Instant,
) -> Exit {
    if let Outcome::Failed(failure) = &mut result.outcome {
        failure.message = head(&redactor.clean(&failure.message), LONGEST_MESSAGE);
        tracing::info!(
            class = failure.class.name(),
            "the attempt failed: {}",
            failure.message
        );
    }
    let until = deadline.max(Instant::now()) + RESULT_PATIENCE;
    tokio::select! {
        reply = client.request::<ResultReply>("result", Some(bounded(result)), until) => {
            match reply {
                Ok(reply) => {
                    tracing::info!(taken = reply.taken, "the result is delivered");
                    Exit::Delivered
                }
                Err(error) => gave_up(&error),
            }
        }
        signal = told_to_end() => {
            tracing::warn!("{signal} before the result was delivered");
            Exit::Stopped
        }
    }
}

/// The result's bytes; one that is too large becomes a failure that says so.
fn bounded(mut result: StepResult) -> Vec<u8> {
    // A result holds only JSON values, so this cannot fail.
    let bytes = serde_json::to_vec(&result).unwrap_or_default();
    if bytes.len() <= MAX_RESULT_BYTES {
        return bytes;
    }
    result.outcome = Outcome::Failed(Failure {
        class: FailureClass::Output,
        message: format!(
            "the result has {} bytes, more than the {MAX_RESULT_BYTES} that are accepted; put out less, or a link to it",
            bytes.len()
        ),
    });
    serde_json::to_vec(&result).unwrap_or_default()
}

fn gave_up(error: &ReportError) -> Exit {
    match error {
        ReportError::Over { .. } => {
            tracing::info!("{error}");
            Exit::Stopped
        }
        ReportError::Refused { .. } => {
            tracing::error!("{error}");
            Exit::Refused
        }
        ReportError::Unreachable { .. } => {
            tracing::error!("{error}");
            Exit::Unreachable
        }
        ReportError::Setup(_) => {
            tracing::error!("{error}");
            Exit::Misconfigured
        }
    }
}
