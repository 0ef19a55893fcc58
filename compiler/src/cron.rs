//! The grammar of `cron("…", tz=Zone, catch_up=once)` triggers.

use jiff::tz::TimeZoneDatabase;
use loopy_contract::cron::{Cron, CronError};
use loopy_contract::manifest::CatchUp;
use std::sync::LazyLock;

/// A schedule that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) expr: String,
    pub(crate) tz: Option<String>,
    pub(crate) catch_up: CatchUp,
}

/// Why a trigger is no schedule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The zones this compiler was built with, not those of the machine: the same
/// project has to compile in the same way everywhere.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Whether `text` has to be read as a schedule.
pub(crate) fn is_cron(text: &str) -> bool {
    text.starts_with("cron(")
}

/// Reads a trigger that [`is_cron`].
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Schedule, Refusal> {
    let Parts {
        expr,
        zone,
        catch_up,
    } = split(text).ok_or_else(|| Refusal {
        message: format!("`{text}` is not a schedule"),
        hint: Some(
            "write cron(\"0 9 * * 1-5\") or cron(\"0 9 * * 1-5\", tz=Europe/Berlin)".to_owned(),
        ),
    })?;
    Cron::parse(expr).map_err(|error| refusal(expr, &error))?;
    let tz = match zone {
        None => None,
        Some(zone) => {
            let known = ZONES.get(zone).map_err(|_| Refusal {
                message: format!("there is no time zone `{zone}`"),
                hint: Some("zones have IANA names, such as Europe/Berlin or UTC".to_owned()),
            })?;
            // The name as the database writes it; schedulers care for the case.
            Some(known.iana_name().unwrap_or(zone).to_owned())
        }
    };
    let catch_up = match catch_up {
        None | Some("skip") => CatchUp::Skip,
        Some("once") => CatchUp::Once,
        Some(other) => {
            return Err(Refusal {
                message: format!("`catch_up` is `{other}`, and can be `skip` or `once`"),
                hint: Some(
                    "`once` makes up for the last firing that was missed; `skip` for none"
                        .to_owned(),
                ),
            });
        }
    };
    Ok(Schedule {
        expr: expr.to_owned(),
        tz,
        catch_up,
    })
}

fn refusal(expr: &str, error: &CronError) -> Refusal {
    let (message, hint) = match error {
        CronError::Fields { count } => (
            format!("the schedule \"{expr}\" has {count} fields instead of 5"),
            Some("the fields are minute, hour, day of month, month, day of week"),
        ),
        CronError::Part { text, field, hint } => (
            format!("`{text}` in the schedule \"{expr}\" is no {field}"),
            Some(*hint),
        ),
        CronError::Never => (
            format!("the schedule \"{expr}\" never fires"),
            Some("its days are in none of its months"),
        ),
    };
    Refusal {
        message,
        hint: hint.map(str::to_owned),
    }
}

/// What `cron("expr", name=value, …)` says; a value may be quoted.
struct Parts<'a> {
    expr: &'a str,
    zone: Option<&'a str>,
    catch_up: Option<&'a str>,
}

/// Takes a schedule apart; `None` when it has another shape.
fn split(text: &str) -> Option<Parts<'_>> {
    let inner = text.strip_prefix("cron(")?.strip_suffix(')')?.trim();
    let (expr, rest) = inner.strip_prefix('"')?.split_once('"')?;
    let mut parts = Parts {
        expr,
        zone: None,
        catch_up: None,
    };
    let rest = rest.trim();
    if rest.is_empty() {
        return Some(parts);
    }
    for option in rest.strip_prefix(',')?.split(',') {
        let (name, value) = option.split_once('=')?;
        let value = value.trim();
        let value = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
            .unwrap_or(value);
        if value.is_empty() || value.contains([')', '"', '\'']) {
            return None;
        }
        let place = match name.trim() {
            "tz" => &mut parts.zone,
            "catch_up" => &mut parts.catch_up,
            _ => return None,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn schedules_are_read() {
        for (text, expr, tz) in [
            ("cron(\"0 3 * * *\")", "0 3 * * *", None),
            (
                "cron( \"1,15 8-18/2 * * mon-fri\" , tz = Europe/Paris )",
                "1,15 8-18/2 * * mon-fri",
                Some("Europe/Paris"),
            ),
            (
                "cron(\"0 3 L * 7\", tz=\"america/new_york\")",
                "0 3 L * 7",
                Some("America/New_York"),
            ),
            (
                "cron(\"0/5 22-6 * * fri-mon\")",
                "0/5 22-6 * * fri-mon",
                None,
            ),
            (
                "cron(\"0 3 ? * mon#2\", tz='UTC')",
                "0 3 ? * mon#2",
                Some("UTC"),
            ),
        ] {
            let read = parse(text).unwrap();
            assert_eq!(
                (read.expr.as_str(), read.tz.as_deref()),
                (expr, tz),
                "{text}"
            );
            assert_eq!(read.catch_up, CatchUp::Skip, "{text}");
        }
        let text = "cron(\"0 3 * * *\", catch_up=once, tz=UTC)";
        let read = parse(text).unwrap();
        assert_eq!(read.catch_up, CatchUp::Once);
        assert_eq!(read.tz.as_deref(), Some("UTC"));
    }

    #[test]
    fn the_rest_is_refused() {
        for text in [
            "cron()",
            "cron(0 3 * * *)",
            "cron('0 3 * * *')",
            "cron(\"@daily\")",
            "cron(\"0 0 3 * * *\")",
            "cron(\"99 * * * *\")",
            "cron(\"R * * * *\")",
            "cron(\"0 3 15W * *\")",
            "cron(\"0 3 * * FRI-L\")",
            "cron(\"0 3 30 2 *\")",
            "cron(\"0 3 * * *\", tz=Mars/Phobos)",
            "cron(\"0 3 * * *\" tz=UTC)",
            "cron(\"0 3 * * *\", tz=)",
            "cron(\"0 3 * * *\") x",
            "cron(\"\")",
            "cron(\"0 3 * * *\", catch_up=all)",
            "cron(\"0 3 * * *\", tz=UTC, tz=UTC)",
            "cron(\"0 3 * * *\", tz=UTC,)",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
