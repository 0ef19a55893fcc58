//! Which limits of the project apply to an attempt: the `concurrency` of its step
//! and the dollar caps of `limits`. What they say to it is in [`crate::admission`].

use crate::condition::{self, Values};
use crate::gate::micro_usd;
use crate::run::{Attempt, Run};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use loopy_contract::ids::derive;
use loopy_contract::manifest::{Budget, Harness, Manifest, Step, Strategy, Workflow};

/// One limit that an attempt has to get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Of its document.
    pub(crate) key: String,
    /// What there is in all.
    pub(crate) capacity: u64,
    /// What the attempt needs; all that is not spent, when absent.
    pub(crate) amount: Option<u64>,
    /// For people.
    pub(crate) what: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Places, and what happens when all are taken.
    Places(Strategy),
    /// What may be spent.
    Dollars,
}

/// The limits that apply to an attempt of this step, in the order in which they
/// are asked. `seen` is what its conditions may read.
pub(crate) fn limits(
    manifest: &Manifest,
    plan: &Workflow,
    run: &Run,
    name: &str,
    at: Timestamp,
    seen: impl FnOnce() -> Values,
) -> Vec<Limit> {
    let Some(step) = plan.steps.get(name) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if let Some(concurrency) = &step.concurrency {
        let seen = seen();
        let value = concurrency.key.as_ref().map_or_else(String::new, |key| {
            condition::field(&seen, &key.producer, &key.field).to_string()
        });
        let key = derive(&["slot", &run.workflow, name, &value], 32);
        let of = concurrency.key.as_ref().map_or_else(String::new, |key| {
            format!(" for {}.{} = {value}", key.producer, key.field)
        });
        found.push(Limit {
            key: format!("slot/{key}"),
            capacity: u64::from(concurrency.limit),
            amount: Some(1),
            what: format!("{} at a time{of}", concurrency.limit),
            kind: Kind::Places(concurrency.strategy),
        });
    }
    let Some(caps) = manifest.registry.limits.as_ref() else {
        return found;
    };
    let amount = match step.budget.as_ref().and_then(|budget| budget.usd()) {
        Some(usd) => Some(micro_usd(usd)),
        // A script spends no dollars.
        None if harness(manifest, step) == Some(Harness::Command) => return found,
        None => None,
    };
    let run_cap = caps.workflows.get(&run.workflow).and_then(|cap| cap.spend);
    let day_cap = caps.day.as_ref().and_then(|cap| cap.spend);
    let day = day(at);
    let dollars = [
        (run_cap, format!("run/{}", run.id), "a run".to_owned()),
        (
            caps.cascade_spend,
            format!("cascade/{}", run.event.cascade),
            "a cascade".to_owned(),
        ),
        (day_cap, format!("day/{day}"), format!("the day {day}")),
    ];
    for (cap, key, what) in dollars {
        if let Some(cap) = cap {
            found.push(Limit {
                key: format!("spend/{key}"),
                capacity: micro_usd(cap.usd),
                amount,
                what: format!("${} for {what}", cap.usd),
                kind: Kind::Dollars,
            });
        }
    }
    found
}

fn harness(manifest: &Manifest, step: &Step) -> Option<Harness> {
    let agent = manifest.registry.agents.get(step.agent.as_ref()?)?;
    Some(agent.harness)
}

/// The day in UTC, as `2026-11-21`.
pub(crate) fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).date().to_string()
}

/// Dollars that an attempt may spend: what its step says and what the project's
/// limits granted it, whichever is less.
pub(crate) fn ceiling(budget: Option<&Budget>, record: Option<&Attempt>) -> Option<f64> {
    let own = budget.and_then(Budget::usd);
    let granted = record
        .and_then(|record| record.grant.as_ref())
        .map(|grant| grant.micro_usd)
        .filter(|micro_usd| *micro_usd > 0)
        .map(|micro_usd| micro_usd as f64 / 1e6);
    match (own, granted) {
        (Some(own), Some(granted)) => Some(own.min(granted)),
        (own, granted) => own.or(granted),
    }
}
