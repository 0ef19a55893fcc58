//! Durations as a project writes them: `30s`, `5m`, `24h`, `7d`.

/// The seconds of a duration; none when it is malformed or too long to count.
pub(crate) fn seconds(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_digits_and_a_unit() {
        assert_eq!(seconds("30s"), Some(30));
        assert_eq!(seconds("7d"), Some(604_800));
        for bad in [
            "",
            "s",
            "5",
            "-5s",
            "1.5h",
            "5 m",
            "5ü",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
