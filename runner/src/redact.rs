//! Takes secrets out of text that leaves the sandbox, and bounds its length.

/// Values shorter than this are not taken for secrets: `1`, `true` and `prod`
/// would make every message unreadable.
const SHORTEST_SECRET: usize = 6;

/// Knows the values that must not leave.
pub(crate) struct Redactor {
    /// Longest first, so that a secret inside another leaves no remains.
    secrets: Vec<String>,
}

impl Redactor {
    /// One that hides each value, each line of it, and both as JSON writes them.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut secrets = Vec::new();
        for value in values {
            for part in std::iter::once(value).chain(value.lines()) {
                let part = part.trim();
                if part.len() >= SHORTEST_SECRET {
                    let quoted = serde_json::Value::from(part).to_string();
                    secrets.push(quoted.trim_matches('"').to_owned());
                    secrets.push(part.to_owned());
                }
            }
        }
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` with every secret replaced.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in &self.secrets {
            if clean.contains(secret.as_str()) {
                clean = clean.replace(secret.as_str(), "[redacted]");
            }
        }
        clean
    }
}

/// The last `bytes` of `text` at most, cut between characters.
pub(crate) fn tail(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default()
}

/// The first `bytes` of `text` at most, cut between characters, and an
/// ellipsis where something is missing.
pub(crate) fn head(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_their_lines_are_hidden_and_short_values_are_not() {
        let redactor = Redactor::new(["s3cr3t-value", "first-line\nsecond-line", "prod"]);
        let clean =
            redactor.clean("s3cr3t-value in prod, then second-line, first-line\\nsecond-line");
        assert_eq!(clean, "[redacted] in prod, then [redacted], [redacted]");
    }

    #[test]
    fn a_secret_that_holds_another_leaves_no_remains() {
        let redactor = Redactor::new(["abcdef", "abcdef-ghijkl"]);
        assert_eq!(redactor.clean("x abcdef-ghijkl y"), "x [redacted] y");
    }

    #[test]
    fn cuts_fall_between_characters() {
        assert_eq!(tail("aé", 1), "");
        assert_eq!(tail("aé", 2), "é");
        assert_eq!(head("éa", 1), "…");
        assert_eq!(head("éa", 3), "éa");
    }
}
