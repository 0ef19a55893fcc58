//! When a schedule fires: unix cron's five fields in a time zone, with
//! daylight-saving changes as croner has them (a time in the gap fires right
//! after it, a time that comes twice fires once).

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

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
