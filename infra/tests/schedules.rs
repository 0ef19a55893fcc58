//! That a schedule fires in an account when it fires on one machine: what Scheduler
//! is told, read by AWS's documentation and minute by minute over the calendar,
//! against what the engine works out with croner.

#![expect(clippy::unwrap_used, reason = "tests")]

use croner::parser::CronParser;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use loopy_engine::schedule::{last_before, next_after};
use loopy_infra::schedule::cron;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    // Half an hour.
    "Australia/Lord_Howe",
    // Back for Ramadan, a date that moves.
    "Africa/Casablanca",
    // Never, and off by half an hour.
    "Asia/Kolkata",
];

/// From a leap year's beginning on, so that its February is in it.
const BEGIN: &str = "2028-01-01T00:00:00Z";
const YEARS: i64 = 2;

/// All minutes of some years as a clock on the wall shows them, by date; each time of
/// a day only when it is shown first. One that is left out is not in it.
type Walls = BTreeMap<Date, Vec<(Time, Timestamp)>>;

static CALENDARS: LazyLock<BTreeMap<&str, Walls>> =
    LazyLock::new(|| {
        ZONES
            .map(|name| {
                let zone = TimeZone::get(name).unwrap();
                let begin: Timestamp = BEGIN.parse().unwrap();
                let mut walls = Walls::new();
                let mut latest = None;
                // No clock changes within a quarter of an hour.
                for quarter in 0..YEARS * 365 * 24 * 4 {
                    let begin = begin + (quarter * 15).minutes();
                    let wall = zone.to_datetime(begin);
                    // What is shown a second time is behind what was shown before.
                    if latest.is_none_or(|latest| wall > latest) {
                        latest = Some(wall);
                        let day = walls.entry(wall.date()).or_default();
                        day.extend((0..15).map(|minute| {
                            (wall.time() + minute.minutes(), begin + minute.minutes())
                        }));
                    }
                }
                (name, walls)
            })
            .into()
    });

/// One of Scheduler's expressions, as far as its user guide says what it means:
/// minutes and hours `, - * /`; day of month `, - * ? / L W`; month `, - * /`; day of
/// week `, - * ? L #`; exactly one of the day fields is `?`; with `#` there is one
/// expression in the field.
struct Told {
    minutes: [bool; 60],
    hours: [bool; 24],
    day: String,
    month: String,
    weekday: String,
}

impl Told {
    fn read(text: &str) -> Self {
        let inner = text
            .strip_prefix("cron(")
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let [minute, hour, day, month, weekday, year]: [&str; 6] =
            inner.split(' ').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(year, "*", "{text}");
        assert!((day == "?") != (weekday == "?"), "{text}");
        assert!(!weekday.contains('/'), "{text}");
        assert!(!(weekday.contains('#') && weekday.contains(',')), "{text}");
        for (field, letters) in [
            (day, "L?"),
            (weekday, "L#?"),
            (minute, ""),
            (hour, ""),
            (month, ""),
        ] {
            let known = |c: char| c.is_ascii_digit() || ",-*/".contains(c) || letters.contains(c);
            assert!(field.chars().all(known), "{text}");
        }
        let all = |field, count: i8| {
            (0..count)
                .map(|value| holds(field, 0, value))
                .collect::<Vec<_>>()
        };
        Self {
            minutes: all(minute, 60).try_into().unwrap(),
            hours: all(hour, 24).try_into().unwrap(),
            day: day.to_owned(),
            month: month.to_owned(),
            weekday: weekday.to_owned(),
        }
    }

    fn on(&self, date: Date) -> bool {
        let today = date.day();
        let days = date.days_in_month();
        let number = date.weekday().to_sunday_one_offset();
        holds(&self.month, 1, date.month())
            && match self.day.as_str() {
                "?" => true,
                "L" => today == days,
                list => holds(list, 1, today),
            }
            && match self.weekday.as_str() {
                "?" => true,
                last if last.ends_with('L') => {
                    last.trim_end_matches('L').parse() == Ok(number) && today + 7 > days
                }
                nth if nth.contains('#') => {
                    let (day, nth) = nth.split_once('#').unwrap();
                    day.parse() == Ok(number) && nth.parse() == Ok((today + 6) / 7)
                }
                list => holds(list, 1, number),
            }
    }

    fn at(&self, time: Time) -> bool {
        let index = |value: i8| usize::try_from(value).unwrap();
        self.minutes[index(time.minute())] && self.hours[index(time.hour())]
    }
}

/// Whether a list has a value.
fn holds(field: &str, lowest: i8, actual: i8) -> bool {
    field.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let step: i8 = step.parse().unwrap();
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (first.parse().unwrap(), last.parse().unwrap()),
            None if range == "*" => (lowest, i8::MAX),
            None if part.contains('/') => (range.parse().unwrap(), i8::MAX),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        (first..=last).contains(&actual) && (actual - first) % step == 0
    })
}

/// When the schedules fire from a time on.
fn by_the_calendar<'a>(
    told: &'a [Told],
    zone: &str,
    from: Timestamp,
) -> impl Iterator<Item = Timestamp> + 'a {
    let first = TimeZone::get(zone).unwrap().to_datetime(from).date();
    CALENDARS[zone]
        .range(first - 1.day()..)
        .flat_map(|(date, times)| {
            let today: Vec<&Told> = told.iter().filter(|told| told.on(*date)).collect();
            let times: &[(Time, Timestamp)] = if today.is_empty() { &[] } else { times };
            times
                .iter()
                .filter(move |(time, _)| today.iter().any(|told| told.at(*time)))
        })
        .map(|(_, at)| *at)
        .filter(move |at| *at >= from)
}

/// When the clocks of a zone change.
fn changes(zone: &str) -> Vec<Timestamp> {
    let tz = TimeZone::get(zone).unwrap();
    let begin: Timestamp = BEGIN.parse().unwrap();
    let end = begin + ((YEARS * 365 - 3) * 24).hours();
    tz.following(begin)
        .map(|change| change.timestamp())
        .take_while(|change| *change < end)
        .collect()
}

fn assert_agree(expr: &str, zone: &str) {
    let told: Vec<Told> = cron(expr)
        .unwrap()
        .iter()
        .map(|text| Told::read(text))
        .collect();
    let next = |from| next_after(expr, Some(zone), from).unwrap();
    for change in changes(zone) {
        let (begin, end) = (change - 4.hours(), change + 4.hours());
        let expected: Vec<_> = by_the_calendar(&told, zone, begin)
            .take_while(|at| *at < end)
            .collect();
        let ahead = std::iter::successors(Some(next(begin - 1.second())), |at| Some(next(*at)));
        let found: Vec<_> = ahead.take_while(|at| *at < end).collect();
        assert_eq!(found, expected, "`{expr}` in {zone} around {change}");
        let last = |before: &Timestamp| last_before(expr, Some(zone), *before).ok();
        let back = std::iter::successors(last(&end), last);
        let mut found: Vec<_> = back.take_while(|at| *at >= begin).collect();
        found.reverse();
        assert_eq!(
            found, expected,
            "`{expr}` in {zone} around {change}, backward"
        );
    }
    // Then on and on.
    let from: Timestamp = BEGIN.parse::<Timestamp>().unwrap() + 48.hours();
    let mut last = from - 1.second();
    for at in by_the_calendar(&told, zone, from).take(100) {
        last = next(last);
        assert_eq!(last, at, "`{expr}` in {zone}");
    }
}

/// A part of a list: a value, a range in either direction, steps.
fn part(lowest: u8, highest: u8, names: &'static [&'static str]) -> BoxedStrategy<String> {
    let value = move || {
        let number = (lowest..=highest).prop_map(|value| value.to_string());
        if names.is_empty() {
            number.boxed()
        } else {
            prop_oneof![3 => number, 1 => select(names).prop_map(str::to_owned)].boxed()
        }
    };
    let step = 1..=(highest - lowest).min(12);
    prop_oneof![
        4 => value(),
        2 => (value(), value()).prop_map(|(first, last)| format!("{first}-{last}")),
        1 => (value(), value(), step.clone()).prop_map(|(first, last, step)| format!("{first}-{last}/{step}")),
        1 => step.clone().prop_map(|step| format!("*/{step}")),
        1 => (value(), step).prop_map(|(first, step)| format!("{first}/{step}")),
    ]
    .boxed()
}

fn list(part: BoxedStrategy<String>, star: u32) -> BoxedStrategy<String> {
    let parts = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join(","));
    prop_oneof![star => Just("*".to_owned()), 3 => parts].boxed()
}

const MONTHS: &[&str] = &[
    "jan", "FEB", "mar", "apr", "may", "Jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["sun", "mon", "TUE", "wed", "thu", "Fri", "sat"];

fn expressions() -> impl Strategy<Value = String> {
    let day =
        prop_oneof![5 => part(1, 31, &[]), 1 => Just("L".to_owned()), 1 => Just("l".to_owned())];
    let weekday = prop_oneof![
        5 => part(0, 7, WEEKDAYS),
        1 => (0_u8..=7).prop_map(|day| format!("{day}L")),
        1 => select(WEEKDAYS).prop_map(|day| format!("{day}L")),
        1 => (0_u8..=7, 1_u8..=5).prop_map(|(day, nth)| format!("{day}#{nth}")),
        1 => (select(WEEKDAYS), 1_u8..=5).prop_map(|(day, nth)| format!("{day}#{nth}")),
    ];
    let any = prop_oneof![4 => Just("*".to_owned()), 1 => Just("?".to_owned())];
    let fields = (
        list(part(0, 59, &[]), 1),
        // Most changes of clocks are at night.
        prop_oneof![
            list(part(0, 23, &[]), 2),
            subsequence(vec!["0", "1", "2", "3"], 1..=3).prop_map(|hours| hours.join(","))
        ],
        prop_oneof![any.clone(), list(day.boxed(), 0)],
        list(part(1, 12, MONTHS), 5),
        prop_oneof![any, list(weekday.boxed(), 0)],
    );
    fields.prop_map(|(minute, hour, day, month, weekday)| {
        format!("{minute} {hour} {day} {month} {weekday}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_account_fires_when_the_machine_does(expr in expressions(), zone in select(&ZONES[..])) {
        // The one thing that is refused of these: a day that none of the months has.
        match cron(&expr) {
            Ok(_) => assert_agree(&expr, zone),
            Err(error) => prop_assert!(error.to_string().ends_with("no such day in these months"), "{error}"),
        }
    }

    /// Croner's own reading, of all that it reads.
    #[test]
    fn an_expression_means_what_croner_takes_it_for(expr in expressions()) {
        // Two names of one Sunday as a range: croner takes them for the whole week.
        prop_assume!(!expr.to_ascii_lowercase().contains("-sun"));
        if let (Ok(original), Ok(_)) = (CronParser::new().parse(&expr), cron(&expr)) {
            let mut at = BEGIN.parse::<Timestamp>().unwrap().to_zoned(TimeZone::UTC);
            for _ in 0..60 {
                let next = original.find_next_occurrence(&at, false).unwrap();
                let ours = next_after(&expr, None, at.timestamp()).unwrap();
                prop_assert_eq!(ours, next.timestamp(), "{}", expr);
                at = next;
            }
        }
    }
}

#[test]
fn every_minute_and_known_troubles_agree_in_every_zone() {
    for zone in ZONES {
        for expr in [
            "*/10 * * * *",
            "30 2 * * *",
            "15 1-3 * * sun",
            "0 0 L * *",
            "0 2 29 2 *",
            "0 0 13 * 5",
        ] {
            assert_agree(expr, zone);
        }
    }
    assert_agree("* * * * *", "Australia/Lord_Howe");
}
