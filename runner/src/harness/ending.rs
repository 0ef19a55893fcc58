//! What is said of a tool that did not start, or that ended without a result.

use super::{LAST_WORDS, failure};
use crate::processes::Ended;
use crate::redact::tail;
use loopy_contract::report::{Failure, FailureClass};
use std::io::ErrorKind;

/// The failure of a tool that does not start; `install` is what brings it.
pub(super) fn no_start(program: &str, error: &std::io::Error, install: &str) -> Failure {
    let message = match error.kind() {
        ErrorKind::NotFound => format!(
            "`{program}` is not on the sandbox's PATH; install {install} in the sandbox's image"
        ),
        _ => format!("`{program}` does not start: {error}"),
    };
    failure(FailureClass::Sandbox, message)
}

/// The failure of a tool that ended without saying how its work went.
pub(super) fn no_result(program: &str, ended: &Ended) -> Failure {
    // The events on stdout say nothing to people; what is no event may.
    let words = if ended.stderr.trim().is_empty() {
        let plain: Vec<&str> = ended
            .stdout
            .lines()
            .filter(|line| !line.starts_with('{'))
            .collect();
        plain.join("\n")
    } else {
        ended.stderr.clone()
    };
    let words = tail(words.trim(), LAST_WORDS);
    let said = if words.is_empty() {
        "it said nothing"
    } else {
        words
    };
    failure(
        FailureClass::Crash,
        format!("{program} {} without a result: {said}", ended.how()),
    )
}
