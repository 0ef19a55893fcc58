//! When a schedule fires: unix cron's five fields in a time zone. Where clocks
//! change it does as EventBridge Scheduler does for the same project in an account:
//! a time that is left out does not fire, one that comes twice fires the first time.

use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use loopy_contract::cron::Cron;

/// A schedule that does not make sense.
#[derive(Debug, thiserror::Error)]
#[error("schedule `{expr}` in zone {zone}: {why}")]
pub struct ScheduleError {
    expr: String,
    zone: String,
    why: String,
}

/// The first firing strictly after `after`.
///
/// # Errors
/// An expression or zone that cannot be read, or one that never fires again.
pub fn next_after(
    expr: &str,
    zone: Option<&str>,
    after: Timestamp,
) -> Result<Timestamp, ScheduleError> {
    find(expr, zone, after, true)
}

/// The last firing strictly before `before`.
///
/// # Errors
/// As [`next_after`].
pub fn last_before(
    expr: &str,
    zone: Option<&str>,
    before: Timestamp,
) -> Result<Timestamp, ScheduleError> {
    find(expr, zone, before, false)
}

/// The time between two polls: `30s`, `5m`, `2h`, `1d`; `None` for anything
/// else, and for no time at all.
pub fn period(interval: &str) -> Option<SignedDuration> {
    let unit = match interval.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: i64 = interval
        .get(..interval.len().checked_sub(1)?)?
        .parse()
        .ok()?;
    let seconds = count.checked_mul(unit).filter(|seconds| *seconds >= 1)?;
    Some(SignedDuration::from_secs(seconds))
}

fn find(
    expr: &str,
    zone: Option<&str>,
    from: Timestamp,
    forward: bool,
) -> Result<Timestamp, ScheduleError> {
    let zone = zone.unwrap_or("UTC");
    let error = |why: String| ScheduleError {
        expr: expr.to_owned(),
        zone: zone.to_owned(),
        why,
    };
    let tz = TimeZone::get(zone).map_err(|e| error(e.to_string()))?;
    let schedule = Cron::parse(expr).map_err(|e| error(e.to_string()))?;
    let cron = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(&schedule.to_string())
        .map_err(|e| error(e.to_string()))?;
    // Croner is asked about the clock on the wall as if that were UTC's, so that it
    // sees no change of clocks; what such a change does is decided here.
    let mut wall = start(&tz, from, forward)
        .and_then(|wall| wall.to_zoned(TimeZone::UTC))
        .map_err(|e| error(e.to_string()))?;
    loop {
        wall = if forward {
            cron.find_next_occurrence(&wall, false)
        } else {
            cron.find_previous_occurrence(&wall, false)
        }
        .map_err(|e| error(e.to_string()))?;
        let time = tz.to_ambiguous_timestamp(wall.datetime());
        if matches!(time.offset(), AmbiguousOffset::Gap { .. }) {
            continue;
        }
        let found = time.earlier().map_err(|e| error(e.to_string()))?;
        if (forward && found > from) || (!forward && found < from) {
            return Ok(found);
        }
    }
}

/// The time on the wall from which on, in either direction, nothing is missed.
fn start(tz: &TimeZone, from: Timestamp, forward: bool) -> Result<DateTime, jiff::Error> {
    let mut from = from;
    if !forward && from.subsec_nanosecond() != 0 {
        from = from.checked_add(SignedDuration::from_secs(1))?;
    }
    let mut wall = tz.to_datetime(from);
    if !forward
        && let AmbiguousOffset::Fold { before, after } = tz.to_ambiguous_timestamp(wall).offset()
    {
        // While times come again, later ones have been there already.
        wall = wall.checked_add(before.duration_since(after))?;
    }
    Ok(wall)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn poll_intervals() {
        assert_eq!(period("30s"), Some(SignedDuration::from_secs(30)));
        assert_eq!(period("2h"), Some(SignedDuration::from_secs(7200)));
        for wrong in ["", "s", "0s", "-1m", "5", "5w", "1.5h", "9999999999999999d"] {
            assert_eq!(period(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn berlin_mornings_follow_the_change_to_summer_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let next = |from| next_after("0 9 * * *", Some("Europe/Berlin"), at(from)).unwrap();
        assert_eq!(next("2026-03-28T00:00:00Z"), at("2026-03-28T08:00:00Z"));
        assert_eq!(next("2026-03-29T00:00:00Z"), at("2026-03-29T07:00:00Z"));
        let last = last_before(
            "0 9 * * *",
            Some("Europe/Berlin"),
            at("2026-03-29T07:00:00Z"),
        );
        assert_eq!(last.unwrap(), at("2026-03-28T08:00:00Z"));
    }

    /// Each minute of an hour that is left out, and of one that comes twice.
    #[test]
    fn where_clocks_change_a_time_on_the_wall_fires_once_or_never() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let zone = Some("America/New_York");
        let next = |expr, from| next_after(expr, zone, at(from)).unwrap();
        let last = |expr, before| last_before(expr, zone, at(before)).unwrap();
        // 02:00 to 03:00 on 2026-03-08 never was.
        assert_eq!(
            next("30 2 * * *", "2026-03-08T05:00:00Z"),
            at("2026-03-09T06:30:00Z")
        );
        assert_eq!(
            next("*/30 * * * *", "2026-03-08T06:30:00Z"),
            at("2026-03-08T07:00:00Z")
        );
        assert_eq!(
            last("30 2 * * *", "2026-03-09T06:30:00Z"),
            at("2026-03-07T07:30:00Z")
        );
        // 01:00 to 02:00 on 2026-11-01 was from 05:00Z and from 06:00Z on.
        for expr in ["30 1 * * *", "30 * * * *", "* * * * *"] {
            let from = "2026-11-01T05:29:30Z";
            assert_eq!(next(expr, from), at("2026-11-01T05:30:00Z"), "{expr}");
        }
        assert_eq!(
            next("* * * * *", "2026-11-01T05:59:00Z"),
            at("2026-11-01T07:00:00Z")
        );
        assert_eq!(
            last("* * * * *", "2026-11-01T06:10:00Z"),
            at("2026-11-01T05:59:00Z")
        );
    }

    #[test]
    fn a_part_of_a_second_hides_no_firing() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let nine = at("2026-01-01T09:00:00Z");
        let before = |text| last_before("0 9 * * *", None, at(text)).unwrap();
        assert_eq!(before("2026-01-01T09:00:00.5Z"), nine);
        assert_eq!(before("2026-01-01T09:00:00Z"), at("2025-12-31T09:00:00Z"));
        let after = |text| next_after("0 9 * * *", None, at(text)).unwrap();
        assert_eq!(after("2026-01-01T08:59:59.9Z"), nine);
        assert_eq!(after("2026-01-01T09:00:00.1Z"), at("2026-01-02T09:00:00Z"));
    }

    #[test]
    fn what_never_fires_is_an_error_and_not_a_hang() {
        assert!(next_after("0 0 31 2 *", None, Timestamp::UNIX_EPOCH).is_err());
        assert!(next_after("0 0 1 1 *", Some("Mars/Base"), Timestamp::UNIX_EPOCH).is_err());
    }
}
