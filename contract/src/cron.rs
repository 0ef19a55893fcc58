//! Schedules: the five fields of unix cron, read in one place for the compiler,
//! for the home on one machine and for the account's Scheduler, so that an
//! expression means the same to all of them.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter, Write as _};

/// Why an expression is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields.
    #[error(
        "it has {count} fields instead of 5: minute, hour, day of month, month and day of week"
    )]
    Fields {
        /// How many there are.
        count: usize,
    },
    /// A part of a field that says nothing.
    #[error("`{text}` is no {field}; {hint}")]
    Part {
        /// The part.
        text: String,
        /// The field it is in.
        field: &'static str,
        /// What could stand there.
        hint: &'static str,
    },
    /// No month has such a day.
    #[error("it never fires, as there is no such day in these months")]
    Never,
}

/// Which days of a month fire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// By their number, 1 to 31.
    pub numbers: BTreeSet<u8>,
    /// Whether the last one does, whatever its number.
    pub last: bool,
}

/// Which weekdays fire, counted from Sunday 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weekdays {
    /// Every week.
    pub every: BTreeSet<u8>,
    /// The last one of a month.
    pub last: BTreeSet<u8>,
    /// A weekday and which one of a month, 1 to 5.
    pub nth: BTreeSet<(u8, u8)>,
}

/// A schedule that was read. Written with `{}` it is an expression again, of
/// lists and stars only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// 0 to 59.
    pub minutes: BTreeSet<u8>,
    /// 0 to 23.
    pub hours: BTreeSet<u8>,
    /// 1 to 12.
    pub months: BTreeSet<u8>,
    /// `None` for a bare star. With `weekdays`, a day fires that is either of them;
    /// with neither, every day does.
    pub days: Option<Days>,
    /// `None` for a bare star.
    pub weekdays: Option<Weekdays>,
}

/// What a field counts.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    /// Names of the values from `first` on.
    names: &'static [&'static str],
    hint: &'static str,
}

const MINUTE: Field = Field {
    name: "minute",
    first: 0,
    last: 59,
    names: &[],
    hint: "minutes are 0 to 59, such as `30`, `0,30`, `10-20` or `*/15`",
};
const HOUR: Field = Field {
    name: "hour",
    first: 0,
    last: 23,
    names: &[],
    hint: "hours are 0 to 23, such as `9`, `9,17`, `8-18` or `*/2`",
};
const DAY: Field = Field {
    name: "day of month",
    first: 1,
    last: 31,
    names: &[],
    hint: "days are 1 to 31, such as `1`, `1,15` or `1-7`, and `L` is the last one",
};
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
    hint: "months are 1 to 12 or jan to dec, such as `1,7` or `oct-mar`",
};
const WEEKDAY: Field = Field {
    name: "day of week",
    first: 0,
    // 7 is another name of Sunday and not an eighth day.
    last: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    hint: "weekdays are 0 to 7 or sun to sat, such as `1-5` or `fri-mon`; `5L` is a month's last Friday and `5#2` its second",
};

impl Cron {
    /// Reads an expression.
    ///
    /// Beside what every cron has (stars, lists, ranges, steps, names in any case,
    /// 7 for Sunday) these are read: ranges over the end (`fri-mon`, `22-6`), steps
    /// from a value on (`5/15`), `?` for a star in the day fields, `L` for the last
    /// day of a month, `5L` for its last Friday and `5#2` for its second. What crons
    /// differ about or what is drawn by lot (`W`, `R`, `L` as a day of week) is not.
    ///
    /// # Errors
    /// [`CronError`] says which part is wrong and what could be there instead.
    pub fn parse(expr: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = expr.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(CronError::Fields {
                count: fields.len(),
            });
        };
        let cron = Self {
            minutes: MINUTE.read(minute)?,
            hours: HOUR.read(hour)?,
            months: MONTH.read(month)?,
            days: days(day)?,
            weekdays: weekdays(weekday)?,
        };
        if cron.weekdays.is_none() && !cron.has_a_day() {
            return Err(CronError::Never);
        }
        Ok(cron)
    }

    /// Whether one of the days is in one of the months.
    fn has_a_day(&self) -> bool {
        self.days.as_ref().is_none_or(|days| {
            let longest = self.months.iter().map(|month| match month {
                2 => 29,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            });
            let longest = longest.max().unwrap_or_default();
            days.last || days.numbers.first().is_some_and(|day| *day <= longest)
        })
    }
}

impl Display for Cron {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let days = self.days.as_ref().map_or("*".to_owned(), |days| {
            let last = days.last.then_some("L".to_owned());
            join(days.numbers.iter().map(u8::to_string).chain(last))
        });
        let weekdays = self.weekdays.as_ref().map_or("*".to_owned(), |weekdays| {
            let every = weekdays.every.iter().map(u8::to_string);
            let last = weekdays.last.iter().map(|day| format!("{day}L"));
            let nth = weekdays.nth.iter().map(|(day, nth)| format!("{day}#{nth}"));
            join(every.chain(last).chain(nth))
        });
        let list = |values: &BTreeSet<u8>| join(values.iter().map(u8::to_string));
        write!(
            f,
            "{} {} {days} {} {weekdays}",
            list(&self.minutes),
            list(&self.hours),
            list(&self.months)
        )
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.fold(String::new(), |mut all, part| {
        let comma = if all.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _written = write!(all, "{comma}{part}");
        all
    })
}

fn days(text: &str) -> Result<Option<Days>, CronError> {
    if is_star(text) {
        return Ok(None);
    }
    let mut days = Days::default();
    for part in text.split(',') {
        if part.eq_ignore_ascii_case("l") {
            days.last = true;
        } else {
            days.numbers.extend(DAY.part(part)?);
        }
    }
    Ok(Some(days))
}

fn weekdays(text: &str) -> Result<Option<Weekdays>, CronError> {
    if is_star(text) {
        return Ok(None);
    }
    let mut weekdays = Weekdays::default();
    for part in text.split(',') {
        let fault = || WEEKDAY.fault(part);
        if let Some((day, nth)) = part.split_once('#') {
            let day = WEEKDAY.value(day).ok_or_else(fault)?;
            let nth = number(nth).filter(|nth| (1..=5).contains(nth));
            weekdays.nth.insert((day, nth.ok_or_else(fault)?));
        } else if let Some(day) = part.strip_suffix(['L', 'l']) {
            weekdays.last.insert(WEEKDAY.value(day).ok_or_else(fault)?);
        } else {
            weekdays.every.extend(WEEKDAY.part(part)?);
        }
    }
    Ok(Some(weekdays))
}

/// Only a bare star leaves the days to the other field.
fn is_star(text: &str) -> bool {
    matches!(text, "*" | "?")
}

/// Digits only; `str::parse` takes a sign too.
fn number(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl Field {
    fn fault(&self, text: &str) -> CronError {
        CronError::Part {
            text: text.to_owned(),
            field: self.name,
            hint: self.hint,
        }
    }

    /// All values that a list matches.
    fn read(&self, text: &str) -> Result<BTreeSet<u8>, CronError> {
        let mut found = BTreeSet::new();
        for part in text.split(',') {
            found.extend(self.part(part)?);
        }
        Ok(found)
    }

    /// All values that one part of a list matches.
    fn part(&self, text: &str) -> Result<BTreeSet<u8>, CronError> {
        let fault = || self.fault(text);
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).ok_or_else(fault)?)),
            None => (text, None),
        };
        let count = self.last - self.first + 1;
        if step.is_some_and(|step| step == 0 || step > count) {
            return Err(fault());
        }
        let values: Vec<u8> = if range == "*" {
            (self.first..=self.last).collect()
        } else if let Some((from, to)) = range.split_once('-') {
            let first = self.value(from).ok_or_else(fault)?;
            let last = self.value(to).ok_or_else(fault)?;
            if self.has_seven() && to == "7" && first == 0 && from != to {
                // `0-7` is the whole week, and its two Sundays are one.
                (self.first..=self.last).chain([0]).collect()
            } else if first <= last {
                (first..=last).collect()
            } else {
                (first..=self.last).chain(self.first..=last).collect()
            }
        } else {
            let first = self.value(range).ok_or_else(fault)?;
            let last = if step.is_some() { self.last } else { first };
            (first..=last).collect()
        };
        Ok(values
            .into_iter()
            .step_by(step.unwrap_or(1).into())
            .collect())
    }

    /// Whether 7 is another name of the first value, Sunday.
    fn has_seven(&self) -> bool {
        self.last == WEEKDAY.last
    }

    /// One value, by number or name.
    fn value(&self, text: &str) -> Option<u8> {
        let mut names = (self.first..).zip(self.names);
        if let Some((value, _)) = names.find(|(_, name)| text.eq_ignore_ascii_case(name)) {
            return Some(value);
        }
        let value = number(text)?;
        if value == 7 && self.has_seven() {
            return Some(0);
        }
        (self.first..=self.last).contains(&value).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (expr, meaning) in [
            ("0 9 * * *", "0 9 * 1,2,3,4,5,6,7,8,9,10,11,12 *"),
            ("*/20 22-1 ? jun ?", "0,20,40 0,1,22,23 * 6 *"),
            ("5/25 9 1,15,l 2 *", "5,30,55 9 1,15,L 2 *"),
            (
                "50-10/10 9 25-2 oct *",
                "0,10,50 9 1,2,25,26,27,28,29,30,31 10 *",
            ),
            ("0 0 L 2 *", "0 0 L 2 *"),
            ("0 0 * 1 mon-Fri", "0 0 * 1 1,2,3,4,5"),
            ("0 0 * 1 fri-mon", "0 0 * 1 0,1,5,6"),
            ("0 0 * 1 5-7", "0 0 * 1 0,5,6"),
            ("0 0 * 1 0-7/2", "0 0 * 1 0,2,4,6"),
            ("0 0 * 1 0-7", "0 0 * 1 0,1,2,3,4,5,6"),
            ("0 0 * 1 7", "0 0 * 1 0"),
            ("0 0 * 1 7-2", "0 0 * 1 0,1,2"),
            ("0 0 * 1 1-7/3", "0 0 * 1 0,1,4"),
            ("0 0 * 1 2,friL,7l,mon#2,3#5", "0 0 * 1 2,0L,5L,1#2,3#5"),
            ("0 0 31 2 1", "0 0 31 2 1"),
        ] {
            assert_eq!(Cron::parse(expr).unwrap().to_string(), meaning, "{expr}");
        }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for expr in ["* * * * *", "7 3 L,1-5 */2 5", "0 0 */2 * fri#1,sunL"] {
            let read = Cron::parse(expr).unwrap();
            assert_eq!(Cron::parse(&read.to_string()).unwrap(), read, "{expr}");
        }
    }

    #[test]
    fn the_rest_is_refused_by_the_part_at_fault() {
        for (expr, fault) in [
            ("0 9 * *", "4 fields"),
            ("@daily", "1 fields"),
            ("0 9 15W * *", "`15W` is no day of month"),
            ("0 9 LW * *", "`LW`"),
            ("0 9 L-3 * *", "`L-3`"),
            ("0 9 5L * *", "`5L`"),
            ("0 9 * * L", "`L` is no day of week"),
            ("0 9 * * FRI-L", "`FRI-L`"),
            ("0 9 * * 1#6", "`1#6`"),
            ("0 9 * * 1#0", "`1#0`"),
            ("0 9 * * +1", "`+1`"),
            ("R 9 * * *", "`R` is no minute"),
            ("60 9 * * *", "`60`"),
            ("? 9 * * *", "`?`"),
            ("0 24 * * *", "`24` is no hour"),
            ("0 9 0 * *", "`0`"),
            ("0 9 1,? * *", "`?`"),
            ("0 9 * 13 *", "`13` is no month"),
            ("0 9 * monday *", "`monday`"),
            ("0 9 * * 8", "`8`"),
            ("*/0 9 * * *", "`*/0`"),
            ("*/61 9 * * *", "`*/61`"),
            ("+5 9 * * *", "`+5`"),
            (",5 9 * * *", "``"),
            ("1-2-3 9 * * *", "`1-2-3`"),
            ("0 0 31 2 *", "never fires"),
            ("0 0 31 4,jun *", "never fires"),
        ] {
            let error = Cron::parse(expr).unwrap_err().to_string();
            assert!(error.contains(fault), "{expr}: {error}");
        }
    }
}
