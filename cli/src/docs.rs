//! `loopy docs`: explains, offline and for this version.

mod events;

use crate::Outcome;
use crate::output::Terminal;
use clap::{Args, Subcommand, ValueEnum};
use events::Named;
use loopy_compiler::{Code, catalogue, did_you_mean_one, docs};
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
    /// The events that come with Loopy: what they hold and when they happen
    Events {
        /// A service, such as github, or an event, such as Github.Push; all of
        /// them when it is left out
        name: Option<String>,
        /// How it is written
        #[arg(long, value_enum, default_value_t = EventsFormat::Human)]
        format: EventsFormat,
    },
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventsFormat {
    /// For people
    Human,
    /// For programs
    Json,
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
    /// There is no such event and no such service.
    #[error("there is no built-in event and no service `{name}`")]
    NoEvent {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        near: Vec<String>,
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
            Self::NoEvent { near, .. } => {
                let listed = "`loopy docs events` lists all events";
                Some(match did_you_mean_one(near) {
                    Some(asked) => format!("{asked} {listed}"),
                    None => listed.to_owned(),
                })
            }
            Self::Stdout(_) => None,
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, DocsError> {
    let text = match &arguments.topic {
        Topic::Errors { code, format } => errors(code.as_deref(), *format)?,
        Topic::Events { name, format } => events(name.as_deref(), *format)?,
    };
    terminal.data(&text)?;
    Ok(Outcome::Fine)
}

fn errors(code: Option<&str>, format: Format) -> Result<String, DocsError> {
    let Some(name) = code else {
        return Ok(list(format));
    };
    let code = Code::from_name(name).ok_or_else(|| DocsError::NoCode {
        name: name.to_owned(),
        nearest: Code::nearest(name),
    })?;
    Ok(match format {
        Format::Human | Format::Markdown => code.page().to_owned(),
        Format::Json => format!("{:#}\n", value(code)),
    })
}

fn events(name: Option<&str>, format: EventsFormat) -> Result<String, DocsError> {
    let chosen = match name.map(events::named) {
        None => catalogue::providers().iter().collect(),
        Some(Named::Provider(provider)) => vec![provider],
        Some(Named::Event(provider, event)) => {
            return Ok(match format {
                EventsFormat::Human => events::page(provider, event),
                EventsFormat::Json => format!("{:#}\n", events::page_json(provider, event)),
            });
        }
        Some(Named::Nothing(near)) => {
            let name = name.unwrap_or_default().to_owned();
            return Err(DocsError::NoEvent { name, near });
        }
    };
    Ok(match format {
        EventsFormat::Human => events::list(&chosen),
        EventsFormat::Json => format!("{:#}\n", events::list_json(&chosen)),
    })
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
