//! What the readers of a step's parts share: the file at hand, and the words for
//! what is often wrong with it.

use crate::diagnostic::{Code, Report, Span};
use crate::nearest::did_you_mean;

/// Reads one step file.
pub(crate) struct Reader<'a> {
    pub(crate) file: &'a str,
    pub(crate) report: &'a mut Report,
}

impl Reader<'_> {
    pub(crate) fn malformed(&mut self, span: Span, message: impl Into<String>) {
        self.report.add(Code::E101, self.file, span, message);
    }

    pub(crate) fn unknown_key(&mut self, span: Span, name: &str, known: &[&str], of: &str) {
        self.report
            .add(
                Code::W101,
                self.file,
                span,
                format!("{of} has no key `{name}`; it is ignored"),
            )
            .hint(
                did_you_mean(name, known.iter().copied())
                    .unwrap_or_else(|| format!("the keys are {}", known.join(", "))),
            );
    }

    pub(crate) fn ignored(&mut self, span: Span, message: String, hint: &str) {
        self.report
            .add(Code::W102, self.file, span, message)
            .hint(hint);
    }
}
