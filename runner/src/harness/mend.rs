//! What the harnesses of agents share: the caps that an agent works under, and
//! the requests to mend an outcome that breaks its contract.

use super::{Job, broken, failure};
use loopy_contract::report::{Failure, FailureClass};

/// How often the agent may mend an outcome.
const MENDS: u32 = 2;

/// A cap of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cap {
    Dollars,
    Turns,
    Tokens,
}

/// The first cap that has nothing left, if any.
fn used_up(job: &Job<'_>) -> Option<Cap> {
    let usage = job.usage.borrow();
    let envelope = job.envelope;
    let tokens = usage.input_tokens + usage.output_tokens;
    if envelope
        .usd
        .is_some_and(|cap| usage.usd.unwrap_or_default() >= cap)
    {
        Some(Cap::Dollars)
    } else if envelope.turns.is_some_and(|cap| usage.turns >= cap) {
        Some(Cap::Turns)
    } else if envelope.tokens.is_some_and(|cap| tokens >= cap) {
        Some(Cap::Tokens)
    } else {
        None
    }
}

/// The failure of an agent that wants to go on when a cap has nothing left.
pub(super) fn over_cap(job: &Job<'_>) -> Option<Failure> {
    let cap = used_up(job)?;
    let usage = job.usage.borrow();
    let what = match cap {
        Cap::Dollars => format!(
            "spent all its budget: ${:.4} of ${:.4}",
            usage.usd.unwrap_or_default(),
            job.envelope.usd.unwrap_or_default()
        ),
        Cap::Turns => format!("used all its turns: {}", usage.turns),
        Cap::Tokens => format!(
            "used all its tokens: {} of {}",
            usage.input_tokens + usage.output_tokens,
            job.envelope.tokens.unwrap_or_default()
        ),
    };
    Some(failure(FailureClass::Budget, format!("the agent {what}")))
}

/// Counts the requests to mend.
#[derive(Default)]
pub(super) struct Mending {
    mends: u32,
}

impl Mending {
    /// The prompt that asks for another outcome in the same session. `again` says
    /// how to hand it over.
    ///
    /// # Errors
    /// The agent may not be asked: there is no session, too many requests were
    /// made, or a cap has nothing left.
    pub(super) fn prompt(
        &mut self,
        job: &Job<'_>,
        violations: &[String],
        has_session: bool,
        again: &str,
    ) -> Result<String, Failure> {
        let last = |why: &str| {
            broken(
                &format!("the agent's output breaks the step's contract{why}"),
                violations,
            )
        };
        if self.mends == MENDS {
            return Err(last(&format!(", after {MENDS} requests to mend it")));
        }
        if let Some(cap) = used_up(job) {
            let what = match cap {
                Cap::Dollars => "spending",
                Cap::Turns => "turn",
                Cap::Tokens => "token",
            };
            return Err(last(&format!(
                ", and the {what} limit has nothing left to mend it"
            )));
        }
        if !has_session {
            return Err(last(", and it has no session to mend it in"));
        }
        tracing::info!(
            self.mends,
            "the output breaks its schema; the agent is asked to mend it"
        );
        self.mends += 1;
        let mut prompt = String::from("The outcome was not accepted:\n");
        for violation in violations {
            prompt.push_str("\n- ");
            prompt.push_str(violation);
        }
        prompt.push_str("\n\n");
        prompt.push_str(again);
        prompt.push('\n');
        Ok(prompt)
    }
}
