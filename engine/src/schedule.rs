//! When a schedule fires: unix cron's five fields in a time zone, with
//! daylight-saving changes as croner has them (a time in the gap fires right
//! after it, a time that comes twice fires once).

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

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
    let cron = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(expr)
        .map_err(|e| error(e.to_string()))?;
    let from = from.to_zoned(tz);
    let found = if forward {
        cron.find_next_occurrence(&from, false)
    } else {
        cron.find_previous_occurrence(&from, false)
    };
    found
        .map(|zoned| zoned.timestamp())
        .map_err(|e| error(e.to_string()))
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

    #[test]
    fn what_never_fires_is_an_error_and_not_a_hang() {
        assert!(next_after("0 0 31 2 *", None, Timestamp::UNIX_EPOCH).is_err());
        assert!(next_after("0 0 1 1 *", Some("Mars/Base"), Timestamp::UNIX_EPOCH).is_err());
    }
}
