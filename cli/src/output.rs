//! How the command speaks: data on stdout, prose on stderr. Colour only helps;
//! every line can be read without it.

use clap::{Args, ValueEnum};
use std::io::{self, IsTerminal, Write};

const RED: &str = "\u{1b}[1;31m";
const CYAN: &str = "\u{1b}[36m";
const RESET: &str = "\u{1b}[0m";

/// The two output streams of the command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Whether prose on stderr may carry colour.
    pub(crate) colour: bool,
}

impl Terminal {
    /// Colour only when stderr is a terminal and `NO_COLOR` is unset or empty.
    pub(crate) fn from_env() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: !refused && io::stderr().is_terminal(),
        }
    }

    /// Writes data to stdout, as it is.
    ///
    /// # Errors
    /// When stdout is closed or full; what was asked for did not arrive then.
    pub(crate) fn data(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Writes prose to stderr, with a newline at its end.
    pub(crate) fn say(self, text: &str) {
        // There is nobody left to tell when stderr is gone.
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Writes an error and what to do about it.
    pub(crate) fn error(self, message: &str, hint: Option<&str>) {
        self.say(&format!("{}: {message}", self.paint(RED, "error")));
        if let Some(hint) = hint {
            self.hint(hint);
        }
    }

    /// Writes what to do about what was said last.
    pub(crate) fn hint(self, text: &str) {
        self.say(&format!("\n{}: {text}", self.paint(CYAN, "hint")));
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

/// How data on stdout is written.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// How the data on stdout is written
    #[arg(long, value_enum, default_value_t = FormatName::Human)]
    format: FormatName,
    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl Format {
    /// Whether a machine reads it.
    pub(crate) fn is_json(self) -> bool {
        self.json || self.format == FormatName::Json
    }
}

/// The names of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// For people
    Human,
    /// For programs
    Json,
}
