//! `report`: serves the runner of one attempt. The token is checked before
//! anything is read.

mod files;
mod skills;

use super::{Answer, Engine};
use crate::envelope::{self, Bare};
use crate::ports::{PortError, Stored};
use crate::run::Run;
use crate::token;
use crate::transcript::TranscriptOf;
use crate::transition::Input;
use loopy_contract::ids::RunId;
use loopy_contract::report::{
    AttemptPath, Heartbeat, HeartbeatReply, MAX_RESULT_BYTES, MAX_TRANSCRIPT_BYTES,
    MAX_TRANSCRIPT_PART, ResultReply, StepResult, TranscriptPart, TranscriptReply,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes that a transcript's last line may have past its end.
const MAX_LAST_LINE: u64 = 1024;

/// A request of the report protocol.
#[derive(Clone, Debug)]
pub struct ReportRequest {
    /// The HTTP method.
    pub method: String,
    /// The path below the report URL; begins with `/v1/`.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The raw body.
    pub body: Vec<u8>,
}

/// The attempt a path names, and what is asked of it.
struct Target {
    run: RunId,
    step: String,
    attempt: u32,
    leaf: String,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let path = AttemptPath::parse(path)?;
        Some(Self {
            run: RunId(path.run),
            step: path.step,
            attempt: path.attempt,
            leaf: path.leaf,
        })
    }
}

/// What a request came to, other than an answer with 200.
enum Refusal {
    Client(u16, String),
    Port(PortError),
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

fn answer(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Client(status, error) => Answer::refused(status, error),
        Refusal::Port(error) => {
            tracing::error!(%error, "report not served");
            Answer::refused(503, "not served now; send it again")
        }
    }
}

impl Engine {
    /// Serves one request of a runner; see [`loopy_contract::report`].
    pub async fn report(&self, request: ReportRequest) -> Answer {
        match self.serve_report(request).await {
            Ok(body) => Answer { status: 200, body },
            Err(refusal) => answer(refusal),
        }
    }

    /// What a request is answered whatever its body is; `None` when it is let in. The
    /// body of `head` is not looked at, so that nobody takes in a stranger's.
    /// [`Engine::report`] checks the same again.
    pub async fn report_head(&self, head: &ReportRequest) -> Option<Answer> {
        self.authorize(head).await.err().map(answer)
    }

    /// The attempt that a request is for, if its token is that attempt's.
    async fn authorize(&self, request: &ReportRequest) -> Result<Target, Refusal> {
        let target = Target::parse(&request.path)
            .ok_or_else(|| Refusal::Client(404, "no such path".to_owned()))?;
        let key = self.ports.secrets.token_key().await?;
        let authorization = request.authorization.as_deref();
        if !token::holds(
            &key,
            &target.run,
            &target.step,
            target.attempt,
            authorization,
        ) {
            return Err(Refusal::Client(
                401,
                "the token is not this attempt's".to_owned(),
            ));
        }
        Ok(target)
    }

    async fn serve_report(&self, request: ReportRequest) -> Result<Value, Refusal> {
        let target = self.authorize(&request).await?;
        match (request.method.as_str(), target.leaf.as_str()) {
            ("GET", "envelope") => {
                let stored = match self.attempt_under_way(&target).await {
                    // Launched by a driver that was late: its sandbox has been
                    // stopped before it was there.
                    Err(Refusal::Client(410, error)) => {
                        let Target {
                            run, step, attempt, ..
                        } = &target;
                        self.stop_left(run, step, *attempt).await?;
                        return Err(Refusal::Client(410, error));
                    }
                    found => found?,
                };
                self.envelope(&stored.run, &target).await
            }
            ("POST", "heartbeat") => {
                let _: Heartbeat = parse(&request.body)?;
                let stop = match self.attempt_under_way(&target).await {
                    Ok(_) => {
                        self.beat(&target.run, &target.step, target.attempt).await?;
                        false
                    }
                    Err(Refusal::Client(410, _)) => true,
                    Err(refusal) => return Err(refusal),
                };
                Ok(json!(HeartbeatReply { stop }))
            }
            ("POST", "transcript") => self.take_transcript(&target, &request.body).await,
            ("POST", "files") => self.take_files(&target, &request.body).await,
            ("POST", "fetch") => self.give_files(&target, &request.body).await,
            ("POST", "skill") => self.give_skill(&target, &request.body).await,
            ("POST", "result") => self.take_result(&target, &request.body).await,
            _ => Err(Refusal::Client(404, "no such path".to_owned())),
        }
    }

    async fn take_result(&self, target: &Target, body: &[u8]) -> Result<Value, Refusal> {
        if body.len() > MAX_RESULT_BYTES {
            let limit = format!("a result has at most {MAX_RESULT_BYTES} bytes");
            return Err(Refusal::Client(413, limit));
        }
        let result: StepResult = parse(body)?;
        self.check_files(target, &result).await?;
        // Applied even when it was taken before: a driver that died between
        // commit and effects has left them to this repetition.
        let input = Input::Result {
            step: target.step.clone(),
            attempt: target.attempt,
            result,
        };
        let Some(after) = self.driver.apply(&target.run, input).await? else {
            return Err(unknown(&target.run));
        };
        if !after.changed && !reported(after.run(), target) {
            return Err(over());
        }
        Ok(json!(ResultReply {
            taken: after.changed
        }))
    }

    /// Keeps the next lines of an attempt's transcript. They are data: nothing here
    /// reads them.
    async fn take_transcript(&self, target: &Target, body: &[u8]) -> Result<Value, Refusal> {
        let part: TranscriptPart = parse(body)?;
        let end = part.offset.saturating_add(part.text.len() as u64);
        // The last line may say that no more is kept.
        if part.text.len() > MAX_TRANSCRIPT_PART || end > MAX_TRANSCRIPT_BYTES + MAX_LAST_LINE {
            let limit = format!(
                "a transcript has at most {MAX_TRANSCRIPT_BYTES} bytes, a part {MAX_TRANSCRIPT_PART}"
            );
            return Err(Refusal::Client(413, limit));
        }
        if !part.text.ends_with('\n') {
            return Err(Refusal::Client(400, "a part ends with a line".to_owned()));
        }
        let known = self.driver.recall(&target.run).await?;
        let fits = |run: &Run| run.under_way(&target.step, target.attempt);
        if !known.is_some_and(|known| fits(&known.run)) {
            self.attempt_under_way(target).await?;
        }
        let of = TranscriptOf {
            run: target.run.clone(),
            step: target.step.clone(),
            attempt: target.attempt,
        };
        self.ports
            .transcripts
            .append(&of, part.offset, &part.text)
            .await?;
        Ok(json!(TranscriptReply {}))
    }

    async fn attempt_under_way(&self, target: &Target) -> Result<Arc<Stored>, Refusal> {
        let stored = self.driver.load(&target.run).await?;
        let stored = stored.ok_or_else(|| unknown(&target.run))?;
        if stored.run.under_way(&target.step, target.attempt) {
            Ok(stored)
        } else {
            Err(over())
        }
    }

    /// What the runner needs to know. What it cannot be sent ends the attempt.
    async fn envelope(&self, run: &Run, target: &Target) -> Result<Value, Refusal> {
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let bare = envelope::bare(&manifest, run, &target.step, target.attempt)
            .map_err(|missing| Refusal::Client(404, missing))?;
        let Bare {
            mut envelope,
            sandbox: (name, sandbox),
            skills,
        } = bare;
        envelope.env = self.ports.secrets.sandbox_env(name, sandbox).await?;
        self.put_skills(&manifest, skills, &mut envelope).await?;
        if let Some(message) = envelope::too_large(&envelope) {
            let Target {
                run, step, attempt, ..
            } = target;
            let input = Input::LaunchFailed {
                step: step.clone(),
                attempt: *attempt,
                message: message.clone(),
                for_good: true,
            };
            self.driver.apply(run, input).await?;
            return Err(Refusal::Client(410, message));
        }
        Ok(json!(envelope))
    }
}

fn over() -> Refusal {
    Refusal::Client(410, "the attempt is over".to_owned())
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::Client(400, format!("the body cannot be read: {error}")))
}

fn unknown(run: &RunId) -> Refusal {
    Refusal::Client(404, format!("there is no run {run}"))
}

/// Whether this attempt's own report ended it, so that repeating it is fine.
fn reported(run: &Run, target: &Target) -> bool {
    run.attempt(&target.step, target.attempt)
        .is_some_and(|attempt| attempt.usage.is_some())
}
