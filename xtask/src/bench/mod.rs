//! Measures, each part for itself, and prints a table for each. Numbers are of this
//! machine and this moment; run it twice on a quiet machine before comparing.

mod compile;
mod functions;

use crate::error::Error;
use crate::workspace::Workspace;
use clap::ValueEnum;
use std::time::Duration;

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Time and memory of `loopy compile` on a large project.
    Compile,
    /// Size of each function, and its first and later invocations.
    Functions,
}

/// Runs one measurement, or all.
///
/// # Errors
/// When something cannot be built or run.
pub(crate) fn run(workspace: &Workspace, part: Option<Part>) -> Result<(), Error> {
    let parts = part
        .as_ref()
        .map_or(Part::value_variants(), std::slice::from_ref);
    for part in parts {
        match part {
            Part::Compile => compile::run(workspace)?,
            Part::Functions => functions::run(workspace)?,
        }
    }
    Ok(())
}

/// The middle of the samples, the upper one of an even number.
fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
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
    }
}
