//! `step`: an attempt's turn, with what the project's limits say to it; and the
//! signs of life of its runner.

use super::Engine;
use crate::message::Message;
use crate::ports::PortError;
use crate::run::Run;
use crate::transition::{self, Admission, Input};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::RunId;
use std::time::Duration;

/// How long a sign of life is kept.
const KEEP_BEAT: SignedDuration = SignedDuration::from_hours(48);

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It was given, or did not fit where the run stands.
    Done,
    /// It came after the attempt was over.
    Over,
    /// There is no such run.
    Unknown,
}

impl Turn {
    /// Why it can never be processed, if it cannot.
    pub(super) fn unknown(self, run: &RunId) -> Option<String> {
        (self == Self::Unknown).then(|| format!("there is no run {run}"))
    }
}

impl Engine {
    /// An attempt's turn came.
    pub(super) async fn turn(
        &self,
        id: &RunId,
        step: &str,
        attempt: u32,
    ) -> Result<Turn, PortError> {
        let Some(mut known) = self.driver.recall(id).await? else {
            return Ok(Turn::Unknown);
        };
        let fits = |run: &Run| run.wants_turn(step, attempt) || run.is_to_launch(step, attempt);
        if !fits(&known.run) {
            // What this process knows may be old.
            match self.driver.load(id).await? {
                Some(fresh) => known = fresh,
                None => return Ok(Turn::Unknown),
            }
        }
        let manifest = self.ports.manifests.get(&known.run.manifest).await?;
        let now = self.ports.clock.now();
        if known.run.is_to_launch(step, attempt) && known.run.late_by(step, attempt, now).is_none()
        {
            // It began as it was handed off: there is nothing to commit.
            let cause = transition::cause(step, attempt);
            self.driver.perform(&manifest, &known, &cause).await?;
            return Ok(Turn::Done);
        }
        let asks = known.run.wants_turn(step, attempt);
        let admission = if asks {
            let run = &known.run;
            self.driver.admit(&manifest, run, step, attempt).await?
        } else {
            Admission::Granted(None)
        };
        // Not held any longer: whoever holds it has it copied.
        drop(known);
        let input = Input::Handoff {
            step: step.to_owned(),
            attempt,
            admission,
        };
        let Some(applied) = self.driver.apply(id, input).await? else {
            return Ok(Turn::Unknown);
        };
        // What was granted to an attempt that did not begin after all (it was
        // over meanwhile, or its run is paused), or to one that had begun with a
        // grant of its own, must not stay taken.
        let run = applied.run();
        let idle = !run.under_way(step, attempt) && !run.wants_turn(step, attempt);
        if idle || (asks && !applied.changed) {
            self.driver.take_back(&manifest, run, step, attempt).await?;
        }
        let ended = run
            .attempt(step, attempt)
            .is_some_and(|record| record.ended_at.is_some());
        Ok(match ended && !asks {
            true => Turn::Over,
            false => Turn::Done,
        })
    }

    /// Has the sandbox of an attempt stopped that is over. Whoever launched it did
    /// not know that yet, and it came up after it was stopped.
    pub(super) async fn stop_left(
        &self,
        run: &RunId,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let found = self.driver.recall(run).await?;
        let record = found
            .as_ref()
            .and_then(|stored| stored.run.attempt(step, attempt));
        match record.and_then(|record| record.sandbox.clone()) {
            None => Ok(()),
            Some(sandbox) => {
                let message = Message::Stop { sandbox };
                self.ports.queues.send(&message, Duration::ZERO).await
            }
        }
    }

    /// Keeps a sign of life of an attempt's runner.
    pub(super) async fn beat(
        &self,
        run: &RunId,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let now = self.ports.clock.now();
        let expires = now.checked_add(KEEP_BEAT).unwrap_or(Timestamp::MAX);
        let text = serde_json::json!(now).to_string();
        self.ports
            .store
            .write_document(&beat_key(run, step, attempt), &text, None, expires)
            .await
            .map(|_| ())
    }

    /// The last sign of life of an attempt's runner.
    pub(super) async fn last_beat(
        &self,
        run: &RunId,
        step: &str,
        attempt: u32,
    ) -> Result<Option<Timestamp>, PortError> {
        let key = beat_key(run, step, attempt);
        let Some(found) = self.ports.store.document(&key).await? else {
            return Ok(None);
        };
        serde_json::from_str(&found.text)
            .map(Some)
            .map_err(|why| PortError::new(format!("read {key}"), why))
    }
}

fn beat_key(run: &RunId, step: &str, attempt: u32) -> String {
    format!("beat/{run}/{step}/{attempt}")
}
