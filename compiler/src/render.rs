//! Shows diagnostics: to people, and to programs in the formats they read.

mod github;
mod human;
mod json;
mod sarif;

pub use github::github;
pub use human::human;
pub use json::json;
pub use sarif::sarif;

use crate::diagnostic::Diagnostic;

/// One space for each control character: a project's text must not drive the
/// terminal, and a tab must not move the caret.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// What a diagnostic says, with its hint in a line of its own.
fn full_message(diagnostic: &Diagnostic) -> String {
    let mut text = printable(&diagnostic.message);
    if let Some(hint) = &diagnostic.hint {
        text.push_str("\nhint: ");
        text.push_str(&printable(hint));
    }
    text
}

/// The path of a diagnostic's file from where the project's folder is known as
/// `folder`, which is empty when that is the project itself.
fn path_below(folder: &str, diagnostic: &Diagnostic) -> String {
    match folder.trim_end_matches('/') {
        "" => diagnostic.file.clone(),
        folder => format!("{folder}/{}", diagnostic.file),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::diagnostic::{Code, Severity, Span};

    fn odd() -> Diagnostic {
        Diagnostic {
            code: Code::W101,
            severity: Severity::Warning,
            file: "workflows/a,b/50%: ü\u{7}.md".to_owned(),
            span: Span {
                line: 3,
                column: 5,
                length: 4,
            },
            message: "100%:\r\n::error::not so".to_owned(),
            hint: Some("a\tb".to_owned()),
        }
    }

    #[test]
    fn a_workflow_command_stays_one_whatever_a_file_is_called() {
        assert_eq!(
            github(&[odd()], "sub/project/"),
            "::warning file=sub/project/workflows/a%2Cb/50%25%3A ü%07.md,line=3,col=5,\
             endLine=3,endColumn=8,title=LOOPY-W101::100%25:  ::error::not so%0Ahint: a b\n"
                .replace("%07", " ")
        );
    }

    #[test]
    fn a_uri_holds_no_character_that_a_uri_cannot() {
        let log: serde_json::Value = serde_json::from_str(&sarif(&[odd()], "")).unwrap();
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(
            place["artifactLocation"]["uri"],
            "workflows/a%2Cb/50%25%3A%20%C3%BC%07.md"
        );
        assert_eq!(
            place["region"],
            serde_json::json!({"startLine": 3, "startColumn": 5, "endLine": 3, "endColumn": 9})
        );
    }
}
