//! `report`: serves the runner of one attempt. The token is checked before
//! anything is read.

mod files;

use super::{Answer, Engine};
use crate::condition;
use crate::limits::ceiling;
use crate::ports::{PortError, Stored};
use crate::run::{Attempt, Run};
use crate::token;
use crate::transcript::TranscriptOf;
use crate::transition::{Input, step_seconds, values};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Contract, Manifest, Workflow};
use loopy_contract::price::price;
use loopy_contract::report::{
    AttemptPath, Envelope, Failure, Feedback, Heartbeat, HeartbeatReply, MAX_RESULT_BYTES,
    MAX_TRANSCRIPT_BYTES, MAX_TRANSCRIPT_PART, PROTOCOL, ResultReply, StepResult, TranscriptPart,
    TranscriptReply,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Seconds between heartbeats.
const HEARTBEAT_SECONDS: u64 = 20;

/// Seconds between parts of a transcript.
const TRANSCRIPT_SECONDS: u64 = 5;

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
                let envelope = self.envelope(&stored.run, &target).await?;
                Ok(json!(envelope))
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

    async fn envelope(&self, run: &Run, target: &Target) -> Result<Envelope, Refusal> {
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let missing = |what: &str| {
            Refusal::Client(404, format!("{what} of {}/{}", run.workflow, target.step))
        };
        let plan = manifest.workflows.get(&run.workflow);
        let step = plan
            .and_then(|plan| plan.steps.get(&target.step))
            .ok_or_else(|| missing("no definition"))?;
        let agent = step
            .agent
            .as_ref()
            .and_then(|name| manifest.registry.agents.get(name))
            .ok_or_else(|| missing("no agent"))?;
        let name = agent
            .sandbox
            .as_ref()
            .ok_or_else(|| missing("no sandbox"))?;
        let sandbox = manifest
            .registry
            .sandboxes
            .get(name)
            .ok_or_else(|| missing("no sandbox"))?;

        let record = run.attempt(&target.step, target.attempt);
        let mut values = plan.map_or_else(BTreeMap::new, |plan| values(plan, run));
        let item = step.each.as_ref().and_then(|each| {
            let list = condition::field(&values, &each.over.producer, &each.over.field);
            let index = usize::try_from(record?.item?).ok()?;
            Some((each.name.clone(), list.get(index)?.clone()))
        });
        values.retain(|producer, _| producer == "event" || step.after.contains(producer));
        values.extend(item);
        let untrusted: BTreeSet<String> = if run.event.source.untrusted() {
            values.keys().cloned().collect()
        } else {
            BTreeSet::new()
        };
        let emits = step
            .emits
            .iter()
            .map(|event| {
                let contract = manifest.registry.events.get(event).cloned();
                (event.clone(), contract.unwrap_or_else(Contract::default))
            })
            .collect();
        let emits_optional = step.emits_when.keys().cloned().collect();
        let last_failure = record.and_then(|this| last_failure(run, &target.step, this));
        let feedback = plan.and_then(|plan| feedback(plan, run, &target.step));
        let budget = step.budget.as_ref();
        Ok(Envelope {
            protocol: PROTOCOL,
            run: run.id.0.clone(),
            workflow: run.workflow.clone(),
            step: target.step.clone(),
            attempt: target.attempt,
            harness: agent.harness,
            model: agent.model.clone(),
            tools: agent.tools.clone(),
            body: step.body.clone(),
            refs: step.refs.clone(),
            values,
            untrusted,
            output: step.output_contract(),
            emits,
            emits_optional,
            env: self.ports.secrets.sandbox_env(name, sandbox).await?,
            repos: sandbox.repos.clone(),
            files: plan.map_or_else(Vec::new, |plan| files::handed(plan, run, step)),
            keeps: step.keeps.clone(),
            skills: self.skills(&manifest, &agent.skills).await?,
            seconds: step_seconds(Some(step)),
            usd: ceiling(budget, record),
            turns: budget.and_then(|budget| budget.turns),
            tokens: budget.and_then(|budget| budget.tokens),
            price: agent
                .model
                .as_ref()
                .and_then(|model| price(&manifest.registry.prices, model)),
            iteration: record.map_or(1, |record| record.iteration),
            heartbeat_seconds: HEARTBEAT_SECONDS,
            transcript_seconds: TRANSCRIPT_SECONDS,
            last_failure,
            feedback,
        })
    }

    async fn skills(
        &self,
        manifest: &Manifest,
        names: &[String],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, PortError> {
        let mut skills = BTreeMap::new();
        for name in names {
            let mut files = BTreeMap::new();
            for (path, hash) in manifest.skills.get(name).into_iter().flatten() {
                let bytes = self.ports.manifests.file(hash).await?;
                files.insert(path.clone(), STANDARD.encode(bytes));
            }
            skills.insert(name.clone(), files);
        }
        Ok(skills)
    }
}

fn over() -> Refusal {
    Refusal::Client(410, "the attempt is over".to_owned())
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::Client(400, format!("the body cannot be read: {error}")))
}

/// What went wrong the last time at the same piece of work.
fn last_failure(run: &Run, step: &str, this: &Attempt) -> Option<Failure> {
    let attempts = &run.steps.get(step)?.attempts;
    let before = attempts.iter().rev().find(|other| {
        other.number < this.number && (other.iteration, other.item) == (this.iteration, this.item)
    })?;
    before.failure.clone()
}

/// What the step that has a loop put out before it went back to this one.
fn feedback(plan: &Workflow, run: &Run, step: &str) -> Option<Feedback> {
    plan.steps.iter().find_map(|(name, other)| {
        let back = other.r#loop.as_ref()?;
        let output = run.steps.get(name)?.previous.clone()?;
        (back.to == step).then(|| Feedback {
            step: name.clone(),
            output,
        })
    })
}

fn unknown(run: &RunId) -> Refusal {
    Refusal::Client(404, format!("there is no run {run}"))
}

/// Whether this attempt's own report ended it, so that repeating it is fine.
fn reported(run: &Run, target: &Target) -> bool {
    run.attempt(&target.step, target.attempt)
        .is_some_and(|attempt| attempt.usage.is_some())
}
