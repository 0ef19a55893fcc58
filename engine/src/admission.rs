//! What the project's limits say to an attempt whose turn came: `concurrency`
//! gives it a place, and the dollar caps of `limits` reserve what it may spend.
//! Each limit is a [`Gate`] in a document of its own; an attempt goes through
//! them in the same order always, and gives back what it holds when it is over.

use crate::driver::Driver;
use crate::gate::{Gate, Verdict, micro_usd};
use crate::limits::{Kind, limits};
use crate::message::Message;
use crate::ports::{PortError, Ports};
use crate::run::{Grant, Run};
use crate::transition::{Admission, Command, LAUNCH_GRACE_SECONDS, Order, step_seconds, values};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::{RunId, derive};
use loopy_contract::manifest::{Manifest, Strategy};
use loopy_contract::report::{Failure, FailureClass};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a gate is written again when others write it in between.
const MAX_CONFLICTS: u32 = 50;

/// How long past its time limit an attempt keeps what it holds: as long as its
/// own messages may take to bring it to its end.
const LEASE_SLACK: SignedDuration = SignedDuration::from_hours(24);

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// How long a gate is kept that nobody uses.
const KEEP: SignedDuration = SignedDuration::from_hours(24 * 100);

/// What an attempt is called at the gates; see [`attempt_of`].
fn name_of(run: &RunId, step: &str, attempt: u32) -> String {
    serde_json::json!([run, step, attempt]).to_string()
}

fn attempt_of(name: &str) -> Option<(RunId, String, u32)> {
    serde_json::from_str(name).ok()
}

impl Driver {
    /// What the limits say to an attempt whose turn came. What it is granted it
    /// holds from now on; asked again it is told the same. What it holds when it is
    /// not let through after all, [`Driver::take_back`] takes.
    pub(crate) async fn admit(
        &self,
        manifest: &Manifest,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<Admission, PortError> {
        let Some(plan) = manifest.workflows.get(&run.workflow) else {
            return Ok(Admission::Granted(None));
        };
        let now = self.ports.clock.now();
        let limits = limits(manifest, plan, run, step, now, || values(plan, run));
        if limits.is_empty() {
            return Ok(Admission::Granted(None));
        }
        let seconds = step_seconds(plan.steps.get(step)).saturating_add(LAUNCH_GRACE_SECONDS);
        let until = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
            .checked_add(LEASE_SLACK)
            .and_then(|lease| now.checked_add(lease).ok())
            .unwrap_or(Timestamp::MAX);
        let name = name_of(&run.id, step, attempt);
        // Places that it waited for on another day are given back.
        let mut grant = Grant::default();
        let before = run.attempt(step, attempt).and_then(|it| it.grant.as_ref());
        for stale in before.into_iter().flat_map(|grant| &grant.gates) {
            if !limits.iter().any(|limit| limit.key == *stale) {
                self.give_back(stale, &name, None, None).await?;
            }
        }
        for limit in &limits {
            grant.gates.push(limit.key.clone());
            let (verdict, gate) = self
                .change(&limit.key, |gate| {
                    if matches!(limit.kind, Kind::Places(_)) {
                        gate.places(now);
                    }
                    gate.capacity = limit.capacity;
                    gate.ask(&name, limit.amount, now, until)
                })
                .await?;
            match verdict {
                Verdict::Granted => {
                    let holder = gate.holders.iter().find(|holder| holder.name == name);
                    let held = holder.map_or(0, |holder| holder.amount);
                    grant.leases.extend(holder.map(|holder| holder.until));
                    if limit.kind == Kind::Dollars {
                        grant.micro_usd = match grant.micro_usd {
                            0 => held,
                            least => least.min(held),
                        };
                    }
                }
                Verdict::Refused => {
                    let spent = gate.spent as f64 / 1e6;
                    return Ok(Admission::Refused(Failure {
                        class: FailureClass::Budget,
                        message: format!(
                            "the limit of {} leaves too little: ${spent:.2} are spent",
                            limit.what
                        ),
                    }));
                }
                Verdict::Wait => match limit.kind {
                    Kind::Places(Strategy::Drop) => {
                        let reason = format!("dropped: {} are at work already", limit.what);
                        return Ok(Admission::Dropped { reason });
                    }
                    kind => {
                        if kind == Kind::Places(Strategy::CancelRunning) {
                            self.cancel_oldest(&gate, &name, &run.id).await?;
                        }
                        let reason = format!("waits for the limit of {}", limit.what);
                        return Ok(Admission::Wait { grant, reason });
                    }
                },
            }
        }
        Ok(Admission::Granted(Some(grant)))
    }

    /// Cancels the run that works longest, so that `name` may take its place.
    async fn cancel_oldest(&self, gate: &Gate, name: &str, by: &RunId) -> Result<(), PortError> {
        let Some(oldest) = gate.oldest() else {
            return Ok(());
        };
        // Of its own run it would cancel itself.
        let Some((run, ..)) = attempt_of(oldest).filter(|(run, ..)| run != by) else {
            return Ok(());
        };
        let command = Command {
            id: derive(&["cancel-running", oldest, name], 24),
            by: "loopy".to_owned(),
            order: Order::Cancel {
                because: format!("{by} takes its place"),
            },
        };
        let message = Message::Command { run, command };
        self.ports.queues.send(&message, Duration::ZERO).await
    }

    /// Gives back what an attempt that is over holds, and wakes those that waited
    /// for it.
    pub(crate) async fn release(
        &self,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let name = name_of(&run.id, step, attempt);
        let record = run.attempt(step, attempt);
        let grant = record.and_then(|record| record.grant.as_ref());
        let began = record.is_some_and(|record| record.started_at.is_some());
        let spent = match record.and_then(|record| record.usage.as_ref()) {
            _ if !began => Some(0),
            Some(usage) => usage.usd.map(micro_usd),
            None => None,
        };
        if let Some(grant) = grant {
            for key in &grant.gates {
                let lease = grant.lease(key);
                self.give_back(key, &name, lease, Some(spent)).await?;
            }
        }
        Ok(())
    }

    /// Takes back what an attempt was granted whose turn came to nothing: it was
    /// over already, or its run is paused. What it holds by right it keeps, until
    /// [`Driver::release`] settles that.
    pub(crate) async fn take_back(
        &self,
        manifest: &Manifest,
        run: &Run,
        step: &str,
        attempt: u32,
    ) -> Result<(), PortError> {
        let name = name_of(&run.id, step, attempt);
        let record = run.attempt(step, attempt);
        let grant = record.and_then(|record| record.grant.as_ref());
        let began = record.is_some_and(|record| record.started_at.is_some());
        let mut keys: BTreeSet<String> = BTreeSet::new();
        keys.extend(
            grant
                .into_iter()
                .flat_map(|grant| grant.gates.iter().cloned()),
        );
        // An earlier delivery may have asked in its name and told nobody. Perhaps
        // the day before.
        if let Some(plan) = manifest.workflows.get(&run.workflow) {
            let now = self.ports.clock.now();
            for at in [now, now.checked_sub(DAY).unwrap_or(now)] {
                let limits = limits(manifest, plan, run, step, at, || values(plan, run));
                keys.extend(limits.into_iter().map(|limit| limit.key));
            }
        }
        for key in keys {
            let kept = grant.filter(|_| began).and_then(|grant| grant.lease(&key));
            let (taken, gate) = self
                .change(&key, |gate| gate.take_away(&name, kept))
                .await?;
            if taken {
                self.wake(&gate).await?;
            }
        }
        Ok(())
    }

    /// Gives one thing back, that was held until `lease` if that is known, and
    /// wakes those that may go on. `spent` is what of it is gone: the outer `None`
    /// for nothing, the inner one when nobody knows, which counts as all.
    async fn give_back(
        &self,
        key: &str,
        name: &str,
        lease: Option<Timestamp>,
        spent: Option<Option<u64>>,
    ) -> Result<(), PortError> {
        let is_money = key.starts_with("spend/");
        let ((), gate) = self
            .change(key, |gate| {
                let holder = gate.holders.iter().find(|holder| holder.name == name);
                // Given back already, and asked for once more by a late message,
                // which takes that back itself.
                if holder.is_some_and(|holder| lease.is_some_and(|lease| lease != holder.until)) {
                    return;
                }
                let held = holder.map_or(0, |holder| holder.amount);
                let gone = match spent {
                    Some(known) if is_money => known.unwrap_or(held),
                    _ => 0,
                };
                gate.give_back(name, gone);
            })
            .await?;
        self.wake(&gate).await
    }

    /// Gives their turn to those that wait and may go on.
    async fn wake(&self, gate: &Gate) -> Result<(), PortError> {
        for next in gate.next() {
            if let Some((run, step, attempt)) = attempt_of(&next) {
                let message = Message::Handoff { run, step, attempt };
                self.ports.queues.send(&message, Duration::ZERO).await?;
            }
        }
        Ok(())
    }

    /// Changes a gate by one conditional write.
    async fn change<T>(
        &self,
        key: &str,
        mut change: impl FnMut(&mut Gate) -> T,
    ) -> Result<(T, Gate), PortError> {
        let now = self.ports.clock.now();
        let expires = now.checked_add(KEEP).unwrap_or(Timestamp::MAX);
        update(
            &self.ports,
            &format!("gate/{key}"),
            expires,
            |gate: &mut Gate| change(gate),
        )
        .await
    }
}

/// Changes a document by one conditional write, again and again until nobody
/// wrote in between. What is not changed is not written.
pub(crate) async fn update<D, T>(
    ports: &Ports,
    key: &str,
    expires: Timestamp,
    mut change: impl FnMut(&mut D) -> T,
) -> Result<(T, D), PortError>
where
    D: Default + Clone + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let error = |why: &dyn std::fmt::Display| PortError::new(format!("change {key}"), why);
    for _ in 0..MAX_CONFLICTS {
        let found = ports.store.document(key).await?;
        let (before, version): (D, u64) = match &found {
            None => (D::default(), 0),
            Some(found) => (
                serde_json::from_str(&found.text).map_err(|why| error(&why))?,
                found.version,
            ),
        };
        let mut after = before.clone();
        let told = change(&mut after);
        if after == before {
            return Ok((told, after));
        }
        let text = serde_json::to_string(&after).map_err(|why| error(&why))?;
        if ports
            .store
            .write_document(key, &text, Some(version), expires)
            .await?
        {
            return Ok((told, after));
        }
    }
    Err(error(&format!(
        "others wrote it first {MAX_CONFLICTS} times"
    )))
}
