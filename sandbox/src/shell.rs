//! Quoting for POSIX shells.

/// `text` as one shell word that means itself.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::quote;

    #[test]
    fn a_quoted_word_reaches_the_shell_unchanged() {
        for text in [
            "",
            "plain",
            "it's",
            "$HOME `id` \"x\" \\",
            "two\nlines",
            "'",
        ] {
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("printf %s {}", quote(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
