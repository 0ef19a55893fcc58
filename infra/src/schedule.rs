//! Unix cron and poll intervals in the words of EventBridge Scheduler.
//!
//! Unix cron has five fields, counts weekdays from Sunday 0 (or 7), and fires
//! when either day field matches if both are given. Scheduler has six, counts
//! from SUN 1, and takes only one day field; the other is `?`. So an
//! expression with both day fields becomes two schedules. When both match on
//! one day, both fire for the same minute, which is one event: its id derives
//! from step and minute.

use std::collections::BTreeSet;

/// Why an expression has no counterpart in Scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("`{expr}` has {count} fields, a schedule has five")]
    Fields {
        /// The expression.
        expr: String,
        /// How many there are.
        count: usize,
    },
    /// A field that cannot be read.
    #[error("`{text}` in `{expr}` is no {field} that Scheduler can be told")]
    Field {
        /// The expression.
        expr: String,
        /// The part at fault.
        text: String,
        /// Which field it is in.
        field: &'static str,
    },
    /// No whole minutes.
    #[error("a deployed poll runs every whole number of minutes, not every `{interval}`")]
    Interval {
        /// The interval.
        interval: String,
    },
}

struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// Names of the values from `first` on.
    names: &'static [&'static str],
}

const MINUTE: Field = Field {
    name: "minute",
    first: 0,
    last: 59,
    names: &[],
};
const HOUR: Field = Field {
    name: "hour",
    first: 0,
    last: 23,
    names: &[],
};
const DAY: Field = Field {
    name: "day of month",
    first: 1,
    last: 31,
    names: &[],
};
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
/// 7 is a second Sunday; it is folded into 0 once the field is read.
const WEEKDAY: Field = Field {
    name: "day of week",
    first: 0,
    last: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// The Scheduler expressions (`cron(…)`, one or two) that fire when the unix
/// expression does.
///
/// # Errors
/// [`ScheduleError`] for what cannot be read, and for the extensions (`L`, `W`,
/// `#`, `R`) that some crons have and whose meaning differs between them.
pub fn cron(expr: &str) -> Result<Vec<String>, ScheduleError> {
    let fields: Vec<&str> = expr.split_whitespace().collect();
    let &[minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(ScheduleError::Fields {
            expr: expr.to_owned(),
            count: fields.len(),
        });
    };
    let field = |field: &Field, text: &str| {
        read(field, text).map_err(|text| ScheduleError::Field {
            expr: expr.to_owned(),
            text,
            field: field.name,
        })
    };
    let minutes = field(&MINUTE, minute)?;
    let hours = field(&HOUR, hour)?;
    let days = field(&DAY, day)?;
    let months = field(&MONTH, month)?;
    let weekdays: BTreeSet<u32> = field(&WEEKDAY, weekday)?
        .into_iter()
        .map(|d| d % 7)
        .collect();

    let head = format!("{} {}", write(&MINUTE, &minutes), write(&HOUR, &hours));
    let months = write(&MONTH, &months);
    let on_days = format!("cron({head} {} {months} ? *)", write(&DAY, &days));
    let on_weekdays = {
        let one_based: BTreeSet<u32> = weekdays.iter().map(|day| day + 1).collect();
        let field = Field {
            first: 1,
            last: 7,
            ..WEEKDAY
        };
        format!("cron({head} ? {months} {} *)", write(&field, &one_based))
    };
    // Only a bare star leaves the days to the other field.
    let star = |text: &str| matches!(text, "*" | "?");
    Ok(match (star(day), star(weekday)) {
        (_, true) => vec![on_days],
        (true, false) => vec![on_weekdays],
        (false, false) if days.len() == 31 => vec![on_days],
        (false, false) if weekdays.len() == 7 => vec![on_weekdays],
        (false, false) => vec![on_days, on_weekdays],
    })
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

/// All values a field matches; the text at fault otherwise.
fn read(field: &Field, text: &str) -> Result<BTreeSet<u32>, String> {
    let mut found = BTreeSet::new();
    for item in text.split(',') {
        let fault = || item.to_owned();
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().map_err(|_| fault())?),
            None => (item, 1),
        };
        if step == 0 {
            return Err(fault());
        }
        // 7 is another name of Sunday and not an eighth day.
        let top = if field.last == WEEKDAY.last {
            6
        } else {
            field.last
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (
                value(field, first).ok_or_else(fault)?,
                value(field, last).ok_or_else(fault)?,
            ),
            None if matches!(range, "*" | "?") => (field.first, top),
            None => {
                let first = value(field, range).ok_or_else(fault)?;
                (
                    first,
                    if item.contains('/') {
                        top.max(first)
                    } else {
                        first
                    },
                )
            }
        };
        // `fri-mon` goes over the end of the week, `sun-sat` does not.
        let values: Vec<u32> = if first <= last {
            (first..=last).collect()
        } else {
            (first..=top).chain(field.first..=last).collect()
        };
        found.extend(values.into_iter().step_by(step as usize));
    }
    Ok(found)
}

fn value(field: &Field, text: &str) -> Option<u32> {
    if let Some(index) = field
        .names
        .iter()
        .position(|name| text.eq_ignore_ascii_case(name))
    {
        return u32::try_from(index).ok().map(|index| field.first + index);
    }
    text.parse()
        .ok()
        .filter(|value| (field.first..=field.last).contains(value))
}

/// The shortest form: `*`, `a`, `a-b`, `a/n`, or a list.
fn write(field: &Field, values: &BTreeSet<u32>) -> String {
    let all: Vec<u32> = values.iter().copied().collect();
    let (Some(&first), Some(&last)) = (all.first(), all.last()) else {
        return "*".to_owned();
    };
    let step = all.get(1).map_or(1, |second| second - first);
    let even = all.windows(2).all(|pair| pair[1] - pair[0] == step);
    if all.len() > 2 && even && step == 1 {
        return if (first, last) == (field.first, field.last) {
            "*".to_owned()
        } else {
            format!("{first}-{last}")
        };
    }
    if all.len() > 2 && even && last + step > field.last {
        return format!("{first}/{step}");
    }
    all.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use croner::parser::CronParser;
    use jiff::civil::{DateTime, date};
    use jiff::{ToSpan, tz::TimeZone};

    const TABLE: [(&str, &[&str]); 20] = [
        ("* * * * *", &["cron(* * * * ? *)"]),
        ("0 9 * * *", &["cron(0 9 * * ? *)"]),
        ("*/15 * * * *", &["cron(0/15 * * * ? *)"]),
        ("5-59/15 8-18 * * *", &["cron(5/15 8-18 * * ? *)"]),
        ("*/7 * * * *", &["cron(0/7 * * * ? *)"]),
        ("0 9 * * 1-5", &["cron(0 9 ? * 2-6 *)"]),
        ("0 9 * * mon-fri", &["cron(0 9 ? * 2-6 *)"]),
        ("0 9 * * 0", &["cron(0 9 ? * 1 *)"]),
        ("0 9 * * 7", &["cron(0 9 ? * 1 *)"]),
        ("0 9 * * 5-7", &["cron(0 9 ? * 1,6,7 *)"]),
        ("0 9 * * fri-mon", &["cron(0 9 ? * 1,2,6,7 *)"]),
        ("0 9 * * 1,3,5", &["cron(0 9 ? * 2/2 *)"]),
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
    ];

    #[test]
    fn the_table_of_translations() {
        for (unix, expected) in TABLE {
            assert_eq!(cron(unix).unwrap(), expected, "{unix}");
        }
    }

    /// Reads Scheduler's own grammar, as far as `cron` writes it.
    fn fires(scheduler: &str, at: DateTime) -> bool {
        let inside = scheduler
            .strip_prefix("cron(")
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let fields: Vec<&str> = inside.split(' ').collect();
        assert_eq!(fields.len(), 6, "{scheduler}");
        assert_eq!(
            fields.iter().filter(|field| **field == "?").count(),
            1,
            "{scheduler}"
        );
        let actual = [
            i32::from(at.minute()),
            i32::from(at.hour()),
            i32::from(at.day()),
            i32::from(at.month()),
            i32::from(at.weekday().to_sunday_one_offset()),
            i32::from(at.year()),
        ];
        fields.iter().zip(actual).all(|(field, actual)| {
            field.split(',').any(|item| {
                if matches!(item, "*" | "?") {
                    return true;
                }
                if let Some((first, step)) = item.split_once('/') {
                    let (first, step): (i32, i32) = (first.parse().unwrap(), step.parse().unwrap());
                    return actual >= first && (actual - first) % step == 0;
                }
                if let Some((first, last)) = item.split_once('-') {
                    return (first.parse().unwrap()..=last.parse().unwrap()).contains(&actual);
                }
                item.parse::<i32>().unwrap() == actual
            })
        })
    }

    #[test]
    fn the_translation_fires_when_the_original_does() {
        // Every minute of a fortnight around the end of a leap February, then
        // three minutes of each hour of two years.
        let utc = TimeZone::UTC;
        let fortnight = (0..14 * 24 * 60).map(|m| date(2028, 2, 24).at(0, 0, 0, 0) + m.minutes());
        let years = (0..2 * 366 * 24)
            .flat_map(|h| [0, 5, 30].map(|m| date(2027, 1, 1).at(0, m, 0, 0) + h.hours()));
        let moments: Vec<DateTime> = fortnight.chain(years).collect();
        // Croner knows neither ranges over the end of the week nor `22/1`.
        let unknown = ["0 9 * * fri-mon", "0 22/1 29 2 *"];
        for (unix, _) in TABLE.iter().filter(|(unix, _)| !unknown.contains(unix)) {
            let original = CronParser::new().parse(unix).unwrap();
            let translated = cron(unix).unwrap();
            let mut fired = 0;
            for at in &moments {
                let expected = original
                    .is_time_matching(&at.to_zoned(utc.clone()).unwrap())
                    .unwrap();
                let found = translated.iter().any(|expr| fires(expr, *at));
                assert_eq!(found, expected, "{unix} at {at} as {translated:?}");
                fired += u32::from(found);
            }
            assert!(fired > 0, "{unix} never fired");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error_that_names_it() {
        for (unix, fault) in [
            ("0 9 * *", "4 fields"),
            ("0 9 L * *", "`L`"),
            ("0 9 15W * *", "`15W`"),
            ("0 9 * * 1#2", "`1#2`"),
            ("R 9 * * *", "`R`"),
            ("60 9 * * *", "`60`"),
            ("0 9 0 * *", "`0`"),
            ("0 9 * 13 *", "`13`"),
            ("0 9 * * 8", "`8`"),
            ("*/0 9 * * *", "`*/0`"),
            (",5 9 * * *", "``"),
        ] {
            let error = cron(unix).unwrap_err().to_string();
            assert!(error.contains(fault), "{unix}: {error}");
        }
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
