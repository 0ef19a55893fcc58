//! `loop`: the built-in agent, a model's API and four tools, run by the runner
//! itself, so that an image needs nothing installed.
//!
//! Each iteration, the model observes, plans and acts by calling tools; `test`
//! measures where it is. Before each request the [`ledger`] says whether it fits;
//! after each action [`progress`] says whether the loop gets on; each iteration is
//! written down by [`checkpoint`]. The work is over when the model calls `finish`
//! with what the step declares, and with nothing else.

mod anthropic;
mod checkpoint;
mod conversation;
mod files;
mod ledger;
mod metric;
mod model;
mod openai;
mod progress;
mod shell;
mod steady;
mod tools;

use super::{Drive, Job, failure};
use crate::prompt;
use crate::redact::head;
use checkpoint::Checkpoints;
use conversation::{Conversation, ToolResult};
use ledger::{Ledger, Limits, Refusal, Spent};
use loopy_contract::report::{Envelope, Failure, FailureClass, Outcome};
use metric::Metric;
use model::{Answer, Model, Tool, ToolCall};
use progress::{Action, Progress, Sign};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tools::{Done, Toolbox};

/// How the outcome is handed over.
const HAND_OVER: &str = "When the work is done, hand over its outcome by calling the tool `finish` once, with these \
     members.";
/// Retries of one request.
const RETRIES: u32 = 4;
/// The pause before the first retry, where the API does not say; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time that is kept for the end, so that the loop can say itself why it ended.
const RESERVE: Duration = Duration::from_secs(10);
/// The longest attempt that is reckoned with: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Answers in a row without a call before the loop gives up.
const SILENT: u32 = 3;
/// The model is told when so many turns are left.
const LAST_TURNS: u32 = 3;
/// What the model hears of an answer that was cut.
const CUT: &str = "Your answer was cut at its longest, so nothing of it was done. Write less at \
                   once.";
/// Bytes of a text in the transcript.
const IN_TRANSCRIPT: usize = 8 * 1024;

/// The `loop` harness.
pub(super) struct AgentLoop;

impl Drive for AgentLoop {
    async fn drive(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        let mut session = Session::begin(job)?;
        let worked = session.work().await;
        worked.map_err(|failed| session.checkpoints.with_last(failed))
    }
}

/// The time that is left to work.
#[derive(Clone, Copy)]
struct Clock {
    end: Instant,
}

impl Clock {
    fn new(seconds: u64) -> Self {
        let all = Duration::from_secs(seconds).min(LONGEST);
        Self {
            end: Instant::now() + all.saturating_sub(RESERVE.min(all / 10)),
        }
    }

    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// The work on one attempt.
struct Session<'a> {
    job: &'a Job<'a>,
    clock: Clock,
    model: Model,
    toolbox: Toolbox<'a>,
    conversation: Conversation,
    ledger: Ledger,
    progress: Progress,
    checkpoints: Checkpoints,
    metric: Option<Metric>,
    silent: u32,
}

impl<'a> Session<'a> {
    fn begin(job: &'a Job<'a>) -> Result<Self, Failure> {
        let envelope = job.envelope;
        let clock = Clock::new(envelope.seconds);
        let model = Model::of(envelope.model.as_deref(), job.environment)
            .map_err(|error| failure(FailureClass::Crash, error.to_string()))?;
        let task = prompt::render(envelope, HAND_OVER)?;
        let limits = Limits {
            tokens: envelope.tokens,
            usd: envelope.usd,
            turns: envelope.turns,
            price: envelope.price,
            cache_write: model.cache_write(),
            longest_answer: model.longest_answer(),
        };
        let system = instructions(envelope, job.workspace.root());
        let begin = json!({"type": "begin", "system": head(&system, IN_TRANSCRIPT), "text": head(&task, IN_TRANSCRIPT)});
        job.transcript.event("loop", &begin);
        Ok(Self {
            job,
            clock,
            model,
            toolbox: Toolbox::new(job, clock)?,
            conversation: Conversation::new(system, task),
            ledger: Ledger::new(limits),
            progress: Progress::default(),
            checkpoints: Checkpoints::default(),
            metric: None,
            silent: 0,
        })
    }

    async fn work(&mut self) -> Result<Outcome, Failure> {
        let tools = self.toolbox.offered();
        loop {
            let shortened = self.conversation.fit();
            if shortened > 0 {
                self.event(json!({"type": "shortened", "results": shortened}));
            }
            let answer = self.answer(&tools).await?;
            let mut turn = Turn::default();
            let over = self.act(&answer, &mut turn).await;
            let notice = turn.notices.join("\n\n");
            if !notice.is_empty() {
                self.event(json!({"type": "notice", "text": notice}));
            }
            self.conversation.resulted(turn.results, notice);
            let saved = self
                .checkpoints
                .save(
                    self.job,
                    &self.conversation,
                    &self.ledger,
                    self.metric.as_ref(),
                    turn.changed,
                )
                .await;
            match saved {
                Ok(event) => self.event(event),
                Err(failed) if matches!(over, Ok(None)) => return Err(failed),
                // What came of the work is worth more than its record.
                Err(failed) => tracing::warn!("{}", failed.message),
            }
            if let Some(outcome) = over? {
                return Ok(outcome);
            }
        }
    }

    /// Asks for the next turn, again where that may help. Each request has to fit.
    async fn answer(&mut self, tools: &[Tool]) -> Result<Answer, Failure> {
        let estimate = self.conversation.estimate(tools);
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        let mut last_missed: Option<String> = None;
        loop {
            let call = self
                .ledger
                .admit(estimate, self.clock.left())
                .map_err(|refusal| {
                    let mut message = refusal.to_string();
                    if let Some(missed) = &last_missed {
                        message.push_str(&format!("; the request before: {missed}"));
                    }
                    failure(refusal.class(), message)
                })?;
            self.event(json!({
                "type": "request",
                "turn": self.ledger.usage().turns + 1,
                "tokens_at_most": call.estimate,
                "max_tokens": call.max_tokens,
            }));
            let body = self.model.body(&self.conversation, tools, call.max_tokens);
            let patience = self.clock.left().min(PATIENCE);
            let missed = match self.model.ask(&body, patience).await {
                Ok(answer) => {
                    self.book(&answer, call);
                    return Ok(answer);
                }
                Err(missed) => missed,
            };
            if missed.may_cost {
                self.ledger.unanswered(&call);
            }
            let again = missed.again.filter(|_| tries < RETRIES);
            self.event(
                json!({"type": "no_answer", "message": missed.message, "again": again.is_some()}),
            );
            let Some(asked) = again else {
                return Err(failure(FailureClass::Crash, missed.message));
            };
            sleep(asked.unwrap_or(pause).min(self.clock.left())).await;
            last_missed = Some(missed.message);
            pause *= 2;
            tries += 1;
        }
    }

    /// Books what an answer took; one that does not say took all it could.
    fn book(&mut self, answer: &Answer, call: ledger::Call) {
        let spent = answer.spent.unwrap_or(Spent {
            input: call.estimate,
            output: call.max_tokens,
            ..Spent::default()
        });
        self.ledger.answered(&spent);
        self.job.usage.replace(self.ledger.usage().clone());
        self.conversation.answered(answer, answer.spent.as_ref());
        let calls: Vec<&str> = answer.calls.iter().map(|call| call.name.as_str()).collect();
        self.event(json!({
            "type": "answer",
            "text": head(&answer.text, IN_TRANSCRIPT),
            "calls": calls,
            "cut": answer.cut,
            "spent": spent,
        }));
    }

    /// Does what an answer asks for. Gives the outcome when a `finish` holds.
    async fn act(&mut self, answer: &Answer, turn: &mut Turn) -> Result<Option<Outcome>, Failure> {
        for call in &answer.calls {
            if answer.cut {
                turn.results.push(ToolResult {
                    id: call.id.clone(),
                    text: CUT.to_owned(),
                    error: true,
                });
                // What was cut has no input to go by.
                let action = Action::new(&call.name, &Value::Null, CUT);
                turn.follow(self.progress.acted(action).into_iter().collect())?;
            } else if self.clock.left().is_zero() {
                let refusal = Refusal::Time;
                return Err(failure(refusal.class(), refusal.to_string()));
            } else if let Some(outcome) = self.call(call, turn).await? {
                return Ok(Some(outcome));
            }
        }
        if answer.calls.is_empty() {
            turn.notices.push(self.without_call(answer)?);
        } else {
            self.silent = 0;
        }
        self.last_turns(turn);
        Ok(None)
    }

    /// Does one call. Gives the outcome when it is a `finish` that holds.
    async fn call(&mut self, call: &ToolCall, turn: &mut Turn) -> Result<Option<Outcome>, Failure> {
        let begun = Instant::now();
        let input = call.input.clone().unwrap_or_else(Value::from);
        self.event(json!({"type": "tool", "name": call.name, "input": shown(&input)}));
        let done = self.toolbox.call(call).await?;
        self.event(json!({
            "type": "result",
            "tool": call.name,
            "text": head(&done.text, IN_TRANSCRIPT),
            "error": done.error,
            "ms": u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }));
        let Done {
            text,
            error,
            identity,
            changes,
            metric,
            outcome,
        } = done;
        if outcome.is_some() {
            return Ok(outcome);
        }
        turn.changed |= changes;
        turn.results.push(ToolResult {
            id: call.id.clone(),
            text,
            error,
        });
        let mut signs = Vec::new();
        // Wrong outcomes have a bound of their own.
        if call.name != "finish" {
            signs.extend(
                self.progress
                    .acted(Action::new(&call.name, &input, &identity)),
            );
        }
        if let Some(metric) = metric {
            self.event(json!({
                "type": "evaluation",
                "text": metric.words(),
                "failing": metric.failing.iter().take(50).collect::<Vec<_>>(),
            }));
            signs.extend(self.progress.evaluated(&metric));
            self.metric = Some(metric);
        }
        turn.follow(signs)?;
        Ok(None)
    }

    /// What the model has to hear when it called nothing.
    fn without_call(&mut self, answer: &Answer) -> Result<String, Failure> {
        self.silent += 1;
        if self.silent == SILENT {
            return Err(failure(
                FailureClass::Output,
                format!(
                    "the agent answered {SILENT} times without calling a tool and never called `finish`; it said: {}",
                    head(answer.text.trim(), super::LAST_WORDS)
                ),
            ));
        }
        Ok(if answer.cut {
            CUT.to_owned()
        } else {
            "Nothing happens without a call of a tool. Go on with the work, or call `finish` if it is done.".to_owned()
        })
    }

    fn last_turns(&self, turn: &mut Turn) {
        let used = self.ledger.usage().turns;
        if let Some(limit) = self.job.envelope.turns
            && limit > LAST_TURNS
            && limit - used.min(limit) == LAST_TURNS
        {
            turn.notices.push(format!(
                "{LAST_TURNS} turns are left. Come to an end, and call `finish`."
            ));
        }
    }

    fn event(&self, event: Value) {
        self.job.transcript.event("loop", &event);
    }
}

/// What one turn of the model came to.
#[derive(Default)]
struct Turn {
    results: Vec<ToolResult>,
    notices: Vec<String>,
    changed: bool,
}

impl Turn {
    /// Does as the signs say.
    fn follow(&mut self, signs: Vec<Sign>) -> Result<(), Failure> {
        for sign in signs {
            match sign {
                Sign::Tell(said) => self.notices.push(said),
                Sign::End(why) => return Err(failure(FailureClass::NoProgress, why)),
            }
        }
        Ok(())
    }
}

/// An input for the transcript, long texts shortened.
fn shown(input: &Value) -> Value {
    match input {
        Value::String(text) => head(text, IN_TRANSCRIPT).into(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shown(value)))
            .collect(),
        other => other.clone(),
    }
}

/// How to work, for the model.
fn instructions(envelope: &Envelope, root: &std::path::Path) -> String {
    let mut text = format!(
        "You are an agent that does a task on its own, in the folder {}. Nobody can answer \
         questions. Work in small rounds:\n\
         1. Observe: look at the files and at what the last action brought. Do not guess.\n\
         2. Plan: say in a sentence or two what you do next, and why.\n\
         3. Act: call a tool. Paths are relative to the folder.\n\
         4. Evaluate: measure with `test`, where you have it, after each change that should help. \
         A test that passed must not fail afterwards.\n\
         The work ends when you call `finish`, and only then; call it when the work is done, with \
         what the task asks for. Do not call it for work that is not done. The same actions again \
         and again, and a measure that does not move, end the loop.",
        root.display()
    );
    let mut bounds = Vec::new();
    bounds.extend(envelope.turns.map(|turns| format!("{turns} turns")));
    bounds.extend(envelope.tokens.map(|tokens| format!("{tokens} tokens")));
    bounds.extend(envelope.usd.map(|usd| format!("${usd}")));
    bounds.push(format!("{} seconds", envelope.seconds));
    text.push_str(&format!("\n\nYou have {} at most.", bounds.join(", ")));
    if !envelope.skills.is_empty() {
        text.push_str(
            "\n\nThere are instructions for some kinds of work. Read them before such work:",
        );
        for name in envelope.skills.keys() {
            text.push_str(&format!("\n- .agents/skills/{name}/SKILL.md"));
        }
    }
    text
}
