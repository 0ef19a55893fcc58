//! What the compiler has to say about a project: the codes, each declared once,
//! and the diagnostics that carry them.

use crate::nearest::nearest;
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;

/// How much a diagnostic weighs. Errors keep the manifest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The project does not compile.
    Error,
    /// The project compiles, but hardly means what is written.
    Warning,
}

impl Severity {
    /// The word shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

macro_rules! codes {
    ($($code:ident $severity:ident $title:literal,)+) => {
        /// The stable codes. A number is never given a second meaning. Each has
        /// a page, `docs/errors/<code>.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $code,)+
        }

        impl Code {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$code,)+];

            /// The code as it is printed: `LOOPY-E102`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => concat!("LOOPY-", stringify!($code)),)+
                }
            }

            /// What the code is about, in one line.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$code => $title,)+
                }
            }

            /// How much it weighs.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$code => Severity::$severity,)+
                }
            }

            /// Its page, in Markdown: what it says, why, an example and its fix.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$code => include_str!(concat!(
                        "../../docs/errors/", stringify!($code), ".md"
                    )),)+
                }
            }
        }
    };
}

// A new code is a line here and a page, `docs/errors/<code>.md`, made like the
// others: a test reads it, and compiles the projects in it.
codes! {
    E001 Error "registry.yml is missing or malformed",
    E002 Error "a file or folder of the project cannot be read",
    E101 Error "a step file is malformed",
    E102 Error "a workflow needs exactly one step with a trigger",
    E103 Error "a step has neither a trigger nor predecessors",
    E104 Error "a step has both a trigger and predecessors",
    E105 Error "a predecessor does not exist in the workflow",
    E106 Error "the steps of a workflow wait for each other in a circle",
    E110 Error "a cron trigger is malformed",
    E111 Error "a step has several triggers",
    E112 Error "a built-in event does not exist",
    E120 Error "an `each` is malformed or has no list",
    E121 Error "a `retry` is malformed",
    E122 Error "an `approve` is malformed",
    E123 Error "a `concurrency` is malformed",
    E124 Error "a `loop` is malformed or does not lead back",
    E125 Error "an `emits` with conditions is malformed",
    E126 Error "what shapes a trigger is malformed",
    E127 Error "a `files` is malformed",
    E201 Error "a type is not known",
    E210 Error "a name does not start with a capital letter",
    E211 Error "a name is used in two categories",
    E212 Error "a repository is malformed",
    E213 Error "a limit is malformed",
    E214 Error "a sandbox has no provider",
    E215 Error "a name lies in a namespace of built-in events",
    E216 Error "a sandbox's provider is not known",
    E217 Error "a price is malformed",
    E218 Error "a sandbox's model keys cannot be kept as it says",
    E219 Error "an event's name is too long",
    E301 Error "a template tag is malformed",
    E302 Error "the trigger's event has no such field",
    E303 Error "a schedule's tick has no such field",
    E304 Error "a reference names a step that is not a direct predecessor",
    E305 Error "the predecessor declares no such output",
    E306 Error "a reference reads an output that may be absent",
    E307 Error "an item of `each` has no such field",
    E310 Error "a condition is malformed",
    E311 Error "a condition compares what cannot be compared",
    E312 Error "a condition names a value that a field cannot have",
    E401 Error "a sensor emits an event that is not registered",
    E402 Error "a sensor cannot be read",
    E403 Error "a sensor's trigger is malformed or taken",
    E404 Error "a sensor's signature scheme cannot be used",
    E405 Error "two sensors have one name",
    E406 Error "no request can have a webhook's path",
    E501 Error "a step's agent is not registered",
    E502 Error "an agent's sandbox is not registered",
    E503 Error "an agent's skill does not exist",
    E504 Error "an event is not registered",
    E505 Error "a limit names a workflow that does not exist",
    E506 Error "an agent has no sandbox",
    E507 Error "an agent has no model or no harness",
    E508 Error "a harness is not known or cannot drive the model",
    E509 Error "a step has no agent",
    E510 Error "an agent's skills are too large",
    W101 Warning "a key of a step is not known",
    W102 Warning "a value in a step has no effect",
    W201 Warning "a key of registry.yml is not known",
    W202 Warning "a value in registry.yml has no effect",
    W203 Warning "a code that is to be turned off is no warning",
    W401 Warning "anyone can post to a webhook",
    W402 Warning "a file under sensors/ holds no sensor",
    W403 Warning "a sensor polls without a pause",
    W404 Warning "what looks like a sensor is not read",
    W501 Warning "nothing makes the event that a workflow waits for",
    W502 Warning "no step uses an agent",
    W503 Warning "no agent uses a sandbox",
    W504 Warning "an event starts no workflow",
    W505 Warning "nothing reads an output",
    W506 Warning "a workflow can set itself off again",
    W507 Warning "a command's budget bounds the use of a model",
}

impl Code {
    /// The code of this name: `E102`, `e102` or `LOOPY-E102`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let short = name.strip_prefix(PREFIX).unwrap_or(&name);
        Self::ALL.iter().copied().find(|code| code.short() == short)
    }

    /// The code without what all codes begin with: `E102`.
    pub fn short(self) -> &'static str {
        self.name().strip_prefix(PREFIX).unwrap_or(self.name())
    }

    /// The code that was most likely meant by a name that is none.
    pub fn nearest(name: &str) -> Option<Self> {
        Self::nearest_of(name, |_| true)
    }

    /// As [`Self::nearest`], among the warnings.
    pub(crate) fn nearest_warning(name: &str) -> Option<Self> {
        Self::nearest_of(name, |code| code.severity() == Severity::Warning)
    }

    fn nearest_of(name: &str, fits: impl Fn(&Self) -> bool) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let short = name.strip_prefix(PREFIX).unwrap_or(&name);
        let known = Self::ALL.iter().copied().filter(fits);
        nearest(short, known.map(Self::short)).and_then(Self::from_name)
    }
}

/// What all codes begin with.
const PREFIX: &str = "LOOPY-";

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// Characters on that line, at least 1.
    pub length: u32,
}

impl Span {
    /// The beginning of a file.
    pub const START: Self = Self {
        line: 1,
        column: 1,
        length: 1,
    };

    /// The place of the byte range `start..end` of `text`. Bounds that lie
    /// outside the text or inside a character are moved back to the next one
    /// that does not.
    pub fn in_text(text: &str, start: usize, end: usize) -> Self {
        let start = text.floor_char_boundary(start);
        let end = text.floor_char_boundary(end).max(start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let inside = text.get(start..end).unwrap_or_default();
        let first_line = inside.split('\n').next().unwrap_or_default();
        Self {
            line: number(before.matches('\n').count()).saturating_add(1),
            column: number(before.get(line_start..).unwrap_or_default().chars().count())
                .saturating_add(1),
            length: number(first_line.chars().count()).max(1),
        }
    }
}

/// A count as the 32 bits a position has; files are far smaller.
pub(crate) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One thing the compiler has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which rule.
    pub code: Code,
    /// The code's severity.
    pub severity: Severity,
    /// Path in the project, with `/`.
    pub file: String,
    /// Where in it.
    #[serde(flatten, serialize_with = "line_and_column")]
    pub span: Span,
    /// What is wrong, understandable without the excerpt.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

fn line_and_column<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct LineAndColumn {
        line: u32,
        column: u32,
    }
    LineAndColumn {
        line: span.line,
        column: span.column,
    }
    .serialize(serializer)
}

impl Diagnostic {
    /// Adds advice.
    pub(crate) fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }

    /// Adds advice where there is some.
    pub(crate) fn hint_if(&mut self, hint: Option<String>) {
        if hint.is_some() {
            self.hint = hint;
        }
    }
}

/// Collects diagnostics; nothing stops at the first error.
#[derive(Debug, Default)]
pub(crate) struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Adds a diagnostic, which may then be given a hint.
    pub(crate) fn add(
        &mut self,
        code: Code,
        file: &str,
        span: Span,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let at = self.diagnostics.len();
        self.diagnostics.push(Diagnostic {
            code,
            severity: code.severity(),
            file: file.to_owned(),
            span,
            message: message.into(),
            hint: None,
        });
        &mut self.diagnostics[at]
    }

    /// Whether there are errors so far.
    pub(crate) fn has_errors(&self) -> bool {
        let mut all = self.diagnostics.iter();
        all.any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Adds all that another report has.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.diagnostics.append(&mut other.diagnostics);
    }

    /// All diagnostics by file, place and code, each once, without the warnings
    /// that are `silenced`.
    pub(crate) fn finish(mut self, silenced: &BTreeSet<Code>) -> Vec<Diagnostic> {
        self.diagnostics
            .retain(|diagnostic| !silenced.contains(&diagnostic.code));
        self.diagnostics.sort_by(|a, b| {
            (&a.file, a.span, a.code, &a.message).cmp(&(&b.file, b.span, b.code, &b.message))
        });
        self.diagnostics.dedup();
        self.diagnostics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_count_characters_and_survive_any_bounds() {
        let text = "a\nüber b\n";
        assert_eq!(
            Span::in_text(text, 8, 9),
            Span {
                line: 2,
                column: 6,
                length: 1
            }
        );
        assert_eq!(
            Span::in_text(text, 2, 200),
            Span {
                line: 2,
                column: 1,
                length: 6
            }
        );
        assert_eq!(
            Span::in_text(text, 3, 3),
            Span {
                line: 2,
                column: 1,
                length: 1
            }
        );
        assert_eq!(Span::in_text("", 9, 1), Span::START);
    }

    #[test]
    fn every_code_has_one_name() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
