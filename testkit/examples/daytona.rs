//! The stand-in for Daytona as a process of its own, for trying things by hand and
//! for measuring: prints its URL and its key as one line of JSON. To each line that
//! it reads it answers with one that says when it was asked for which sandbox, in
//! milliseconds since 1970. It ends when its standard input closes.
//!
//! `daytona [MS]`: a sandbox takes MS milliseconds to start, 300 unless said.

use loopy_testkit::daytona::{Daytona, StandInOptions};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::{Duration, SystemTime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = StandInOptions {
        // It may be asked for thousands of sandboxes, each with a runner of some
        // megabytes.
        longest_kept: 64 * 1024,
        ..StandInOptions::default()
    };
    if let Some(delay) = std::env::args().nth(1) {
        options.start_delay = Duration::from_millis(delay.parse()?);
    }
    let server = Daytona::start(options)?;
    let mut stdout = std::io::stdout();
    let line = serde_json::json!({ "url": server.url(), "key": server.key() });
    writeln!(stdout, "{line}")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut asked = BTreeMap::new();
        for request in server.requests() {
            if request.method == "POST"
                && request.path == "/api/sandbox"
                && let Some(name) = request.json()["name"].as_str()
            {
                let at = request.at.duration_since(SystemTime::UNIX_EPOCH)?;
                asked.insert(name.to_owned(), at.as_secs_f64() * 1e3);
            }
        }
        writeln!(stdout, "{}", serde_json::json!(asked))?;
    }
    Ok(())
}
