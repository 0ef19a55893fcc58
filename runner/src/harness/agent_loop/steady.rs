//! Output without what differs from one time to the next, so that two runs of one
//! thing look the same.

/// A line with durations (`0.03s`, `12 ms`), times of day and addresses replaced,
/// so that two runs of one thing look the same. Other numbers stay.
pub(super) fn without_times(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        clean.push_str(before);
        let inside_word = before
            .chars()
            .next_back()
            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        let length = from
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
            .unwrap_or(from.len());
        let (number, after) = from.split_at(length);
        let hex_length = after.strip_prefix('x').map_or(0, |hex| {
            hex.find(|c: char| !c.is_ascii_hexdigit())
                .unwrap_or(hex.len())
        });
        if number == "0" && hex_length > 3 && !inside_word {
            clean.push('~');
            rest = after.get(1 + hex_length..).unwrap_or_default();
        } else if number.matches(':').count() == 2 {
            clean.push('~');
            rest = after;
        } else if !inside_word && duration_follows(after) {
            clean.push('~');
            rest = after.strip_prefix(' ').unwrap_or(after);
        } else {
            clean.push_str(number);
            rest = after;
        }
    }
    clean.push_str(rest);
    clean
}

fn duration_follows(after: &str) -> bool {
    let after = after.strip_prefix(' ').unwrap_or(after);
    let unit_end = after
        .find(|c: char| !c.is_alphabetic())
        .unwrap_or(after.len());
    matches!(
        after.get(..unit_end).unwrap_or_default(),
        "s" | "ms" | "us" | "µs" | "ns" | "sec" | "secs" | "second" | "seconds"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Taking times out loses nothing else and never fails, whatever the text.
        #[test]
        fn any_text_can_be_cleaned(text in "\\PC*") {
            let clean = without_times(&text);
            prop_assert_eq!(without_times(&clean), clean.clone());
            if !text.contains(|c: char| c.is_ascii_digit()) {
                prop_assert_eq!(clean, text);
            }
        }
    }
}
