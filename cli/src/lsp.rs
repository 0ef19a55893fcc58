//! `loopy lsp`: a language server over stdin and stdout.

use crate::home;
use crate::output::Terminal;
use loopy_lsp::Farewell;
use std::io::{self, BufReader, BufWriter};
use std::process::ExitCode;

/// The arguments of `loopy lsp`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Answers an editor about the projects it has open: a language server over \
                  stdin and stdout. What goes wrong with the server itself is told on stderr."
)]
pub(crate) struct Arguments {
    /// Speak over stdin and stdout; some editors ask for it, and nothing else is
    /// spoken
    #[arg(long)]
    stdio: bool,
}

/// Serves one editor. The protocol says how the process ends: with 0 when the
/// editor asked for it, with 1 when it just left.
pub(crate) fn run(_: &Arguments, terminal: Terminal) -> ExitCode {
    home::trace(terminal, "warn");
    let reader = BufReader::new(io::stdin());
    let writer = BufWriter::new(io::stdout());
    match loopy_lsp::serve(reader, writer) {
        Ok(Farewell::Orderly) => ExitCode::SUCCESS,
        Ok(Farewell::Abrupt) => ExitCode::FAILURE,
        Err(error) => {
            terminal.error(&error.to_string(), None);
            ExitCode::from(2)
        }
    }
}
