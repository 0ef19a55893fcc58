//! `report`: serves the runner of one attempt. The token is checked before
//! anything is read.

use super::{Answer, Engine};
use crate::ports::PortError;
use crate::run::{Run, StepState};
use crate::token;
use crate::transition::{Input, step_seconds};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Contract, Manifest};
use loopy_contract::report::{
    AttemptPath, Envelope, Heartbeat, HeartbeatReply, MAX_RESULT_BYTES, PROTOCOL, ResultReply,
    StepResult,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Seconds between heartbeats.
const HEARTBEAT_SECONDS: u64 = 20;

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

impl Engine {
    /// Serves one request of a runner; see [`loopy_contract::report`].
    pub async fn report(&self, request: ReportRequest) -> Answer {
        match self.serve_report(request).await {
            Ok(body) => Answer { status: 200, body },
            Err(Refusal::Client(status, error)) => Answer::refused(status, error),
            Err(Refusal::Port(error)) => {
                tracing::error!(%error, "report not served");
                Answer::refused(503, "not served now; send it again")
            }
        }
    }

    async fn serve_report(&self, request: ReportRequest) -> Result<Value, Refusal> {
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
        match (request.method.as_str(), target.leaf.as_str()) {
            ("GET", "envelope") => {
                let run = self.attempt_under_way(&target).await?;
                let envelope = self.envelope(&run, &target).await?;
                Ok(json!(envelope))
            }
            ("POST", "heartbeat") => {
                let _: Heartbeat = parse(&request.body)?;
                let stop = match self.attempt_under_way(&target).await {
                    Ok(_) => false,
                    Err(Refusal::Client(410, _)) => true,
                    Err(refusal) => return Err(refusal),
                };
                Ok(json!(HeartbeatReply { stop }))
            }
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
        let before = self.load(target).await?;
        let taken = under_way(&before, target);
        // Applied even when it was taken before: a driver that died between
        // commit and effects has left them to this repetition.
        let input = Input::Result {
            step: target.step.clone(),
            attempt: target.attempt,
            result,
        };
        let after = self.driver.apply(&target.run, input).await?;
        let mine = after.as_ref().is_some_and(|run| reported(run, target));
        if !taken && !mine {
            return Err(over());
        }
        Ok(json!(ResultReply { taken }))
    }

    async fn load(&self, target: &Target) -> Result<Run, Refusal> {
        self.ports
            .store
            .load(&target.run)
            .await?
            .map(|stored| stored.run)
            .ok_or_else(|| Refusal::Client(404, format!("there is no run {}", target.run)))
    }

    async fn attempt_under_way(&self, target: &Target) -> Result<Run, Refusal> {
        let run = self.load(target).await?;
        if under_way(&run, target) {
            Ok(run)
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

        let mut values: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        values.insert("event".to_owned(), run.event.fields.clone());
        for producer in &step.after {
            if let Some(StepState::Succeeded { output, .. }) =
                run.steps.get(producer).map(|step| &step.state)
            {
                values.insert(producer.clone(), output.clone());
            }
        }
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
        let last_failure = run.steps.get(&target.step).and_then(|step| {
            let before = target.attempt.checked_sub(1)?;
            step.attempts
                .iter()
                .find(|attempt| attempt.number == before)?
                .failure
                .clone()
        });
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
            env: self.ports.secrets.sandbox_env(name, sandbox).await?,
            repos: sandbox.repos.clone(),
            skills: self.skills(&manifest, &agent.skills).await?,
            seconds: step_seconds(Some(step)),
            usd: budget.and_then(|budget| budget.usd()),
            turns: budget.and_then(|budget| budget.turns),
            heartbeat_seconds: HEARTBEAT_SECONDS,
            last_failure,
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

/// Whether this very attempt is being worked on.
fn under_way(run: &Run, target: &Target) -> bool {
    matches!(
        run.steps.get(&target.step).map(|step| &step.state),
        Some(StepState::Launching { attempt } | StepState::Running { attempt, .. })
            if *attempt == target.attempt
    )
}

/// Whether this attempt's own report ended it, so that repeating it is fine.
fn reported(run: &Run, target: &Target) -> bool {
    run.steps.get(&target.step).is_some_and(|step| {
        step.attempts
            .iter()
            .any(|attempt| attempt.number == target.attempt && attempt.usage.is_some())
    })
}
