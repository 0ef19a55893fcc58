//! The stand-in for Daytona as a process of its own, for trying things by hand and
//! for measuring: prints its URL and its key as one line of JSON, and ends when its
//! standard input closes.
//!
//! `daytona [MS]`: a sandbox takes MS milliseconds to start, 300 unless said.

use loopy_testkit::daytona::{Daytona, StandInOptions};
use std::io::Write;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = StandInOptions::default();
    if let Some(delay) = std::env::args().nth(1) {
        options.start_delay = Duration::from_millis(delay.parse()?);
    }
    let server = Daytona::start(options)?;
    let line = serde_json::json!({ "url": server.url(), "key": server.key() });
    writeln!(std::io::stdout(), "{line}")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
