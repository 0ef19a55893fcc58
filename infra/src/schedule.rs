//! Unix cron and poll intervals in the words of EventBridge Scheduler.
//!
//! Unix cron has five fields, counts weekdays from Sunday 0 (or 7), and fires
//! when either day field matches if both are given. Scheduler has six, counts
//! from SUN 1, and takes only one day field; the other is `?`. It also takes `L`,
//! `6L` and `6#2` only alone in their field, and no steps of weekdays. So an
//! expression with both day fields, or with one of these beside other days, becomes
//! several schedules. When more than one matches on a day, they fire for the same
//! minute, which is one event: its id derives from step and minute.

use loopy_contract::cron::{Cron, CronError, Days, Weekdays};
use std::collections::BTreeSet;

/// Why an expression has no counterpart in Scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// One that cannot be read.
    #[error("the schedule `{expr}`: {source}")]
    Cron {
        /// The expression.
        expr: String,
        /// Why not.
        source: CronError,
    },
    /// No whole minutes.
    #[error("a deployed poll runs every whole number of minutes, not every `{interval}`")]
    Interval {
        /// The interval.
        interval: String,
    },
}

/// The Scheduler expressions (`cron(…)`) that together fire when the unix
/// expression does.
///
/// # Errors
/// [`ScheduleError::Cron`]: it cannot be read.
pub fn cron(expr: &str) -> Result<Vec<String>, ScheduleError> {
    let cron = Cron::parse(expr).map_err(|source| ScheduleError::Cron {
        expr: expr.to_owned(),
        source,
    })?;
    let time = format!(
        "{} {}",
        write(&cron.minutes, 0, 59),
        write(&cron.hours, 0, 23)
    );
    let months = write(&cron.months, 1, 12);
    let on_day = |day: &str| format!("cron({time} {day} {months} ? *)");
    let on_weekday = |day: &str| format!("cron({time} ? {months} {day} *)");
    // A part that is every day makes the others needless.
    let every_number = |days: &Days| days.numbers.len() == 31;
    let every_weekday = |days: &Weekdays| days.every.len() == 7;
    if cron
        .days
        .as_ref()
        .map_or(cron.weekdays.is_none(), every_number)
    {
        return Ok(vec![on_day("*")]);
    }
    if cron.weekdays.as_ref().is_some_and(every_weekday) {
        return Ok(vec![on_weekday("*")]);
    }

    let mut all = Vec::new();
    if let Some(days) = &cron.days {
        if !days.numbers.is_empty() {
            all.push(on_day(&write(&days.numbers, 1, 31)));
        }
        if days.last {
            all.push(on_day("L"));
        }
    }
    if let Some(days) = &cron.weekdays {
        if !days.every.is_empty() {
            let every = days.every.iter().map(|day| (day + 1).to_string());
            all.push(on_weekday(&every.collect::<Vec<_>>().join(",")));
        }
        let rarely = |day: &u8| !days.every.contains(day);
        for day in days.last.iter().filter(|day| rarely(day)) {
            all.push(on_weekday(&format!("{}L", day + 1)));
        }
        for (day, nth) in days.nth.iter().filter(|(day, _)| rarely(day)) {
            all.push(on_weekday(&format!("{}#{nth}", day + 1)));
        }
    }
    Ok(all)
}

/// The Scheduler expression (`rate(…)`) of a poll's interval (`90m`, `2h`).
///
/// # Errors
/// [`ScheduleError::Interval`]: Scheduler counts in minutes.
pub fn rate(interval: &str) -> Result<String, ScheduleError> {
    let error = || ScheduleError::Interval {
        interval: interval.to_owned(),
    };
    let text = interval.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.trim_end().parse().map_err(|_| error())?;
    let (count, unit) = match &text[digits.len()..] {
        "s" if count.is_multiple_of(60) => (count / 60, "minute"),
        "m" => (count, "minute"),
        "h" => (count, "hour"),
        "d" => (count, "day"),
        _ => return Err(error()),
    };
    match count {
        0 => Err(error()),
        1 => Ok(format!("rate(1 {unit})")),
        _ => Ok(format!("rate({count} {unit}s)")),
    }
}

/// The shortest form: `*`, `a`, `a-b`, `a/n`, or a list.
fn write(values: &BTreeSet<u8>, lowest: u8, highest: u8) -> String {
    let all: Vec<u8> = values.iter().copied().collect();
    let (Some(&first), Some(&last)) = (all.first(), all.last()) else {
        return "*".to_owned();
    };
    let step = all.get(1).map_or(1, |second| second - first);
    let even = all.windows(2).all(|pair| pair[1] - pair[0] == step);
    if all.len() > 2 && even && step == 1 {
        return if (first, last) == (lowest, highest) {
            "*".to_owned()
        } else {
            format!("{first}-{last}")
        };
    }
    if all.len() > 2 && even && last + step > highest {
        return format!("{first}/{step}");
    }
    all.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    const TABLE: [(&str, &[&str]); 25] = [
        ("* * * * *", &["cron(* * * * ? *)"]),
        ("0 9 * * *", &["cron(0 9 * * ? *)"]),
        ("*/15 * * * *", &["cron(0/15 * * * ? *)"]),
        ("5-59/15 8-18 * * *", &["cron(5/15 8-18 * * ? *)"]),
        ("*/7 * * * *", &["cron(0/7 * * * ? *)"]),
        ("0 9 * * 1-5", &["cron(0 9 ? * 2,3,4,5,6 *)"]),
        ("0 9 * * mon-fri", &["cron(0 9 ? * 2,3,4,5,6 *)"]),
        ("0 9 * * 0", &["cron(0 9 ? * 1 *)"]),
        ("0 9 * * 7", &["cron(0 9 ? * 1 *)"]),
        ("0 9 * * 5-7", &["cron(0 9 ? * 1,6,7 *)"]),
        ("0 9 * * fri-mon", &["cron(0 9 ? * 1,2,6,7 *)"]),
        ("0 9 * * 1,3,5", &["cron(0 9 ? * 2,4,6 *)"]),
        ("0 0 1 * *", &["cron(0 0 1 * ? *)"]),
        ("0 0 1,15 jan,jul *", &["cron(0 0 1,15 1,7 ? *)"]),
        (
            "30 4 1,15 * 5",
            &["cron(30 4 1,15 * ? *)", "cron(30 4 ? * 6 *)"],
        ),
        ("0 0 */2 * 1", &["cron(0 0 1/2 * ? *)", "cron(0 0 ? * 2 *)"]),
        ("0 0 1-31 * 1", &["cron(0 0 * * ? *)"]),
        ("0 0 13 * 0-6", &["cron(0 0 ? * * *)"]),
        ("0 0 ? * 2", &["cron(0 0 ? * 3 *)"]),
        ("0 22/1 29 2 *", &["cron(0 22,23 29 2 ? *)"]),
        ("0 9 L * *", &["cron(0 9 L * ? *)"]),
        ("0 9 1,L * *", &["cron(0 9 1 * ? *)", "cron(0 9 L * ? *)"]),
        ("0 9 * * friL", &["cron(0 9 ? * 6L *)"]),
        (
            "0 9 * * 0,5L,7L,1#2",
            &[
                "cron(0 9 ? * 1 *)",
                "cron(0 9 ? * 6L *)",
                "cron(0 9 ? * 2#2 *)",
            ],
        ),
        ("0 9 1-31,L * 5L", &["cron(0 9 * * ? *)"]),
    ];

    #[test]
    fn the_table_of_translations() {
        for (unix, expected) in TABLE {
            assert_eq!(cron(unix).unwrap(), expected, "{unix}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error_that_names_it() {
        let error = cron("0 9 15W * *").unwrap_err().to_string();
        assert!(
            error.starts_with("the schedule `0 9 15W * *`: `15W` is no day of month"),
            "{error}"
        );
    }

    #[test]
    fn intervals_become_rates_of_whole_minutes() {
        for (interval, expected) in [
            ("1m", "rate(1 minute)"),
            ("90m", "rate(90 minutes)"),
            ("120s", "rate(2 minutes)"),
            ("2h", "rate(2 hours)"),
            ("1d", "rate(1 day)"),
        ] {
            assert_eq!(rate(interval).unwrap(), expected);
        }
        for interval in ["30s", "90s", "0m", "5", "m", "1w", "-1m", ""] {
            assert!(rate(interval).is_err(), "{interval}");
        }
    }
}
