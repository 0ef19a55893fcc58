//! `loopy docs`: explains, offline and for this version.

use crate::Outcome;
use crate::output::Terminal;
use clap::{Args, Subcommand, ValueEnum};
use loopy_compiler::{Code, docs};
use serde_json::json;
use std::io;

/// Arguments of `loopy docs`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    topic: Topic,
}

/// What there is to read.
#[derive(Debug, Subcommand)]
enum Topic {
    /// The codes of errors and warnings: what they mean and what to do
    Errors {
        /// A code, such as E102; all of them when it is left out
        code: Option<String>,
        /// How it is written
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Human,
    /// For programs
    Json,
    /// For a page
    Markdown,
}

/// Why the command broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocsError {
    /// There is nothing to tell about it.
    #[error("there is no code `{name}`")]
    NoCode {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        nearest: Option<Code>,
    },
    /// Stdout is closed.
    #[error("cannot write to stdout: {0}")]
    Stdout(#[from] io::Error),
}

impl DocsError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoCode { nearest, .. } => Some(match nearest {
                Some(code) => format!(
                    "did you mean `{}`? `loopy docs errors` lists all codes",
                    code.short()
                ),
                None => "`loopy docs errors` lists all codes".to_owned(),
            }),
            Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, DocsError> {
    let Topic::Errors { code, format } = &arguments.topic;
    let text = match code {
        None => list(*format),
        Some(name) => {
            let code = Code::from_name(name).ok_or_else(|| DocsError::NoCode {
                name: name.clone(),
                nearest: Code::nearest(name),
            })?;
            match format {
                Format::Human | Format::Markdown => code.page().to_owned(),
                Format::Json => format!("{:#}\n", value(code)),
            }
        }
    };
    terminal.data(&text)?;
    Ok(Outcome::Fine)
}

fn value(code: Code) -> serde_json::Value {
    json!({
        "code": code.name(),
        "severity": code.severity().name(),
        "title": code.title(),
        "page": code.page(),
    })
}

fn list(format: Format) -> String {
    match format {
        Format::Human => {
            let lines = Code::ALL.iter();
            lines
                .map(|code| format!("{}  {}\n", code.short(), code.title()))
                .collect()
        }
        Format::Json => {
            let codes: Vec<_> = Code::ALL.iter().copied().map(value).collect();
            format!("{:#}\n", json!({ "codes": codes }))
        }
        Format::Markdown => docs::errors(),
    }
}
