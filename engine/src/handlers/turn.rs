//! `step`: an attempt's turn, with what the project's limits say to it; and the
//! signs of life of its runner.

use super::Engine;
use crate::ports::PortError;
use crate::transition::{Admission, Input};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::RunId;

/// How long a sign of life is kept.
const KEEP_BEAT: SignedDuration = SignedDuration::from_hours(48);

impl Engine {
    /// An attempt's turn came. `Ok(Some(reason))`: it can never be processed.
    pub(super) async fn turn(
        &self,
        id: RunId,
        step: String,
        attempt: u32,
    ) -> Result<Option<String>, PortError> {
        let Some(mut run) = self.driver.recall(&id).await? else {
            return Ok(Some(format!("there is no run {id}")));
        };
        if !run.wants_turn(&step, attempt) {
            // What this process knows may be old.
            match self.driver.load(&id).await? {
                Some(fresh) => run = fresh,
                None => return Ok(Some(format!("there is no run {id}"))),
            }
        }
        let manifest = self.ports.manifests.get(&run.manifest).await?;
        let admission = if run.wants_turn(&step, attempt) {
            self.driver.admit(&manifest, &run, &step, attempt).await?
        } else {
            Admission::Granted(None)
        };
        let input = Input::Handoff {
            step: step.clone(),
            attempt,
            admission: admission.clone(),
        };
        let Some(applied) = self.driver.apply(&id, input).await? else {
            return Ok(Some(format!("there is no run {id}")));
        };
        // What was granted to an attempt that did not begin after all (it was
        // cancelled meanwhile, or its run is paused) must not stay taken.
        let run = &applied.run;
        if !run.under_way(&step, attempt) && !run.wants_turn(&step, attempt) {
            self.driver
                .release(&manifest, run, &step, attempt)
                .await?;
        }
        Ok(None)
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
