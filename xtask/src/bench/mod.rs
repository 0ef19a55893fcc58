//! Measures, each part for itself, and prints a table for each. Numbers are of this
//! machine and this moment; run it twice on a quiet machine before comparing.

mod calls;
mod compile;
mod durable;
mod functions;
mod handoff;
mod load;
mod lsp;
mod memory;
mod peers;
mod sandboxes;

pub(crate) use durable::serve as serve_durable;

use crate::emulator::Emulator;
use crate::error::Error;
use crate::http::{self, Response};
use crate::process;
use crate::suite;
use crate::workspace::Workspace;
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// Where everything on the emulator is.
const REGION: &str = "eu-west-1";

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Time and memory of `loopy compile` on a large project.
    Compile,
    /// Time from a change in an editor to its diagnostics.
    Lsp,
    /// Durable steps a second, the time of one run, memory, and a burst of events.
    Durable,
    /// Size of each function, and its first and later invocations.
    Functions,
    /// Time from one step's success to the next one's start and success.
    Handoff,
    /// What a sandbox costs a step, by provider.
    Sandboxes,
    /// What a step calls of AWS, and what that costs.
    Calls,
    /// A thousand deliveries at once at the public address of a stack. Not among all: the
    /// same test runs with all tests.
    Deliveries,
    /// A burst of events in a stack. Not among all: it takes its time.
    Load,
    /// Durable runs beside those of another engine, which is installed first. Not among
    /// all: it takes a quarter of an hour.
    Peers,
}

/// What is measured when nothing is named.
const ALL: [Part; 7] = [
    Part::Compile,
    Part::Lsp,
    Part::Durable,
    Part::Functions,
    Part::Handoff,
    Part::Sandboxes,
    Part::Calls,
];

/// Runs one measurement, or all.
///
/// # Errors
/// When something cannot be built or run.
pub(crate) fn run(workspace: &Workspace, part: Option<Part>) -> Result<(), Error> {
    let parts = part.as_ref().map_or(ALL.as_slice(), std::slice::from_ref);
    for part in parts {
        match part {
            Part::Compile => compile::run(workspace)?,
            Part::Lsp => lsp::run(workspace)?,
            Part::Durable => durable::run(workspace)?,
            Part::Functions => functions::run(workspace)?,
            Part::Handoff => handoff::run(workspace)?,
            Part::Sandboxes => sandboxes::run(workspace)?,
            Part::Calls => calls::run(workspace)?,
            Part::Deliveries => suite::test(
                workspace,
                &["-p", "loopy-localstack", "--no-capture", "burst"].map(str::to_owned),
            )?,
            Part::Load => load::run(workspace)?,
            Part::Peers => peers::run(workspace)?,
        }
    }
    Ok(())
}

/// The release build of `loopy`.
fn loopy(workspace: &Workspace) -> Result<PathBuf, Error> {
    process::run_beside(workspace.cargo().args([
        "build",
        "--release",
        "--package",
        "loopy-cli",
        "--bin",
        "loopy",
    ]))?;
    Ok(workspace.target.join("release/loopy"))
}

/// One request to a service of the emulator, which has to succeed.
fn call(
    emulator: &Emulator,
    service: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response, Error> {
    // The emulator reads service and region from this and checks no signature.
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=test/20200101/{REGION}/{service}/aws4_request, \
         SignedHeaders=host, Signature=0"
    );
    let mut all = vec![("Authorization", authorization.as_str())];
    all.extend(headers);
    let response = http::request(method, &emulator.address(), path, &all, body)?;
    match response.status {
        200..300 => Ok(response),
        _ => Err(unexpected(
            &format!("{}{path}", emulator.endpoint()),
            &response,
        )),
    }
}

fn unexpected(url: &str, response: &Response) -> Error {
    Error::Http {
        url: url.to_owned(),
        problem: format!(
            "answered {}: {}",
            response.status,
            String::from_utf8_lossy(&response.body)
        ),
    }
}

/// The middle of the samples, the upper one of an even number.
fn median(samples: Vec<Duration>) -> Duration {
    percentile(samples, 50)
}

/// The sample that `percent` of 100 samples lie below.
fn percentile(mut samples: Vec<Duration>, percent: usize) -> Duration {
    samples.sort_unstable();
    samples
        .get(samples.len() * percent / 100)
        .copied()
        .unwrap_or_default()
}

/// A duration in milliseconds, for a table.
fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Prints rows under a heading, columns aligned.
fn print_table(title: &str, header: &[&str], rows: &[Vec<String>]) {
    println!("\n{title}");
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            std::iter::once(&header)
                .chain(rows)
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample() {
        let samples = |millis: &[u64]| millis.iter().copied().map(Duration::from_millis).collect();
        assert_eq!(median(samples(&[9, 1, 5])), Duration::from_millis(5));
        assert_eq!(median(samples(&[4, 1, 2, 3])), Duration::from_millis(3));
        assert_eq!(median(samples(&[])), Duration::ZERO);
    }

    #[test]
    fn a_percentile_has_that_many_samples_below_it() {
        let samples = || (0..100).map(Duration::from_millis).rev().collect();
        assert_eq!(percentile(samples(), 95), Duration::from_millis(95));
        assert_eq!(percentile(samples(), 0), Duration::ZERO);
    }
}
