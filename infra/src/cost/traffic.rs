//! How often what happens in a day: schedules fire, events come in and set off runs,
//! whose steps emit events that set off more.

use super::{EstimateError, Load};
use jiff::ToSpan;
use jiff::civil::{Date, date};
use loopy_contract::cron::Cron;
use loopy_contract::manifest::{Manifest, Sensor, SensorTrigger, Step, Trigger, Workflow};
use loopy_engine::{MAX_CASCADE_DEPTH, schedule, transition};
use std::collections::{BTreeMap, BTreeSet};

/// What happens in a day.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Events from outside, by name.
    pub(super) outside: BTreeMap<String, f64>,
    /// All events, those that steps emit included.
    pub(super) events: BTreeMap<String, f64>,
    /// Runs by workflow.
    pub(super) runs: BTreeMap<String, f64>,
    /// Firings of the schedules of workflows.
    pub(super) ticks: f64,
    /// Turns of polls, by sensor.
    pub(super) polls: BTreeMap<String, f64>,
    /// Whether events lead back to themselves, so that only the limit ends it.
    pub(super) endless: bool,
}

/// The events that workflows start on.
pub(super) fn subscribed(manifest: &Manifest) -> BTreeSet<&str> {
    let workflows = manifest.workflows.values();
    workflows
        .filter_map(|workflow| match workflow.entry_trigger()? {
            Trigger::Event { event, .. } => Some(event.as_str()),
            Trigger::Cron { .. } => None,
        })
        .collect()
}

/// Those of them that come from outside: a sensor makes them, or no step does.
pub(super) fn from_outside(manifest: &Manifest) -> BTreeSet<&str> {
    let of_steps: BTreeSet<&str> = manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values())
        .flat_map(|step| step.emits.iter().map(String::as_str))
        .collect();
    let has_sensor = |event: &str| manifest.sensors.iter().any(|sensor| sensor.emits == event);
    let mut found = subscribed(manifest);
    found.retain(|event| has_sensor(event) || !of_steps.contains(event));
    found
}

/// All events that the project knows.
fn known(manifest: &Manifest) -> BTreeSet<&str> {
    let declared = manifest.registry.events.keys().map(String::as_str);
    let sensed = manifest.sensors.iter().map(|sensor| sensor.emits.as_str());
    let mut known: BTreeSet<&str> = declared.chain(sensed).collect();
    known.extend(subscribed(manifest));
    known
}

/// The sensors that make an event of deliveries.
pub(super) fn webhooks<'a>(
    manifest: &'a Manifest,
    event: &'a str,
) -> impl Iterator<Item = &'a Sensor> {
    manifest.sensors.iter().filter(move |sensor| {
        sensor.emits == event && matches!(sensor.trigger, SensorTrigger::Webhook { .. })
    })
}

impl Traffic {
    pub(super) fn of(manifest: &Manifest, load: &Load) -> Result<Self, EstimateError> {
        let mut traffic = Self {
            outside: outside(manifest, load)?,
            ..Self::default()
        };
        for sensor in &manifest.sensors {
            if let SensorTrigger::Poll { interval, .. } = &sensor.trigger {
                let period = schedule::period(interval).ok_or_else(|| EstimateError::Interval {
                    sensor: sensor.name.clone(),
                    interval: interval.clone(),
                })?;
                let turns = 86_400.0 / period.as_secs_f64();
                traffic.polls.insert(sensor.name.clone(), turns);
            }
        }
        // What each level of a cascade emits is the next one.
        let mut level = traffic.outside.clone();
        for (name, workflow) in &manifest.workflows {
            if let Some(Trigger::Cron { expr, .. }) = workflow.entry_trigger() {
                let cron = Cron::parse(expr).map_err(|source| EstimateError::Cron {
                    workflow: name.clone(),
                    expr: expr.clone(),
                    source,
                })?;
                let firings = firings(&cron);
                traffic.ticks += firings;
                *traffic.runs.entry(name.clone()).or_default() += firings;
                emitted(workflow, firings, load, &mut level);
            }
        }
        for _ in 0..=MAX_CASCADE_DEPTH {
            let mut next = BTreeMap::new();
            for (event, count) in &level {
                *traffic.events.entry(event.clone()).or_default() += count;
                for name in manifest.subscribers(event) {
                    *traffic.runs.entry(name.to_owned()).or_default() += count;
                    if let Some(workflow) = manifest.workflows.get(name) {
                        emitted(workflow, *count, load, &mut next);
                    }
                }
            }
            level = next;
        }
        traffic.endless = level.values().any(|count| *count > 0.0);
        Ok(traffic)
    }
}

/// Adds what so many runs of a workflow emit.
fn emitted(workflow: &Workflow, runs: f64, load: &Load, events: &mut BTreeMap<String, f64>) {
    for (name, attempts) in attempts(workflow, load) {
        let step = workflow.steps.get(name);
        for event in step.iter().flat_map(|step| &step.emits) {
            *events.entry(event.clone()).or_default() += runs * attempts;
        }
    }
}

/// How many attempts each step of a run takes: one an item, again in each round of the
/// loops around it.
pub(super) fn attempts<'a>(workflow: &'a Workflow, load: &Load) -> BTreeMap<&'a str, f64> {
    let items = |step: &Step| match step.each {
        Some(_) => f64::from(load.items),
        None => 1.0,
    };
    let steps = workflow.steps.iter();
    let mut attempts: BTreeMap<&str, f64> = steps
        .map(|(name, step)| (name.as_str(), items(step)))
        .collect();
    for (name, step) in &workflow.steps {
        let Some(back) = &step.r#loop else { continue };
        let rounds = 1.0 + f64::from(back.max);
        for inside in transition::body(workflow, &back.to, name) {
            if let Some(count) = attempts.get_mut(inside.as_str()) {
                *count *= rounds;
            }
        }
    }
    attempts
}

/// How many of each event come from outside in a day.
fn outside(manifest: &Manifest, load: &Load) -> Result<BTreeMap<String, f64>, EstimateError> {
    let known = known(manifest);
    if let Some(name) = load
        .events
        .keys()
        .find(|name| !known.contains(name.as_str()))
    {
        return Err(EstimateError::UnknownEvent {
            name: name.clone(),
            known: known.into_iter().map(str::to_owned).collect(),
        });
    }
    let mut outside = load.events.clone();
    let mut rest = from_outside(manifest);
    rest.retain(|event| !outside.contains_key(*event));
    let Some(together) = load.events_per_day else {
        if outside.is_empty() && !rest.is_empty() {
            return Err(EstimateError::NoLoad {
                events: rest.into_iter().map(str::to_owned).collect(),
            });
        }
        return Ok(outside);
    };
    if rest.is_empty() && together > 0.0 {
        return Err(EstimateError::NothingToShare);
    }
    let share = together / rest.len().max(1) as f64;
    outside.extend(rest.into_iter().map(|event| (event.to_owned(), share)));
    Ok(outside)
}

/// Four years have every day that a schedule can name.
const FIRST: Date = date(2025, 1, 1);
const DAYS: i32 = 4 * 365 + 1;

/// How often a schedule fires in a day, on average. Where clocks change plays no part.
fn firings(cron: &Cron) -> f64 {
    let days = (0..DAYS).filter(|n| {
        let day = FIRST.checked_add(n.days());
        day.is_ok_and(|day| fires_on(cron, day))
    });
    let share = days.count() as f64 / f64::from(DAYS);
    share * cron.minutes.len() as f64 * cron.hours.len() as f64
}

fn fires_on(cron: &Cron, day: Date) -> bool {
    let is = |days: &BTreeSet<u8>, value: i8| u8::try_from(value).is_ok_and(|v| days.contains(&v));
    let last = day.day() == day.days_in_month();
    let by_number = cron
        .days
        .as_ref()
        .map(|days| is(&days.numbers, day.day()) || (days.last && last));
    let by_weekday = cron.weekdays.as_ref().map(|days| {
        let weekday = day.weekday().to_sunday_zero_offset();
        let nth = (day.day() - 1) / 7 + 1;
        let last = day.day() + 7 > day.days_in_month();
        let is_nth = u8::try_from(weekday)
            .and_then(|weekday| Ok((weekday, u8::try_from(nth)?)))
            .is_ok_and(|pair| days.nth.contains(&pair));
        is(&days.every, weekday) || is_nth || (last && is(&days.last, weekday))
    });
    let fits = match (by_number, by_weekday) {
        (None, None) => true,
        (Some(fits), None) | (None, Some(fits)) => fits,
        (Some(one), Some(other)) => one || other,
    };
    fits && is(&cron.months, day.month())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn schedules_are_counted_by_the_day() {
        let a_year = |expr: &str| {
            let all = firings(&Cron::parse(expr).unwrap()) * f64::from(DAYS) / 4.0;
            (all * 100.0).round() / 100.0
        };
        for (expr, firings) in [
            ("*/15 * * * *", 96.0 * 365.25),
            ("0 9 * * *", 365.25),
            ("0 9,17 * * *", 730.5),
            ("0 0 1 * *", 12.0),
            ("0 0 L * *", 12.0),
            ("0 0 29 2 *", 0.25),
            ("0 0 1 1,7 *", 2.0),
            ("0 9 * * 5L", 12.0),
            ("0 9 * * 1#2", 12.0),
            // The 13th of each month and all Fridays, those on a 13th once.
            ("0 0 13 * 5", f64::from(48 + 209 - 6) / 4.0),
        ] {
            assert_eq!(a_year(expr), firings, "{expr}");
        }
    }
}
