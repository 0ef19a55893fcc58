//! A burst of events in a stack on the emulator: how long until all runs they start
//! are over, and how much memory the functions took.

use super::calls::runs;
use super::handoff::{Chain, Stack, StandIn, write_project};
use super::{call, loopy, print_table};
use crate::dist::{self, Arch, FUNCTIONS};
use crate::emulator::Emulator;
use crate::error::Error;
use crate::tools;
use crate::workspace::Workspace;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const CHAIN: Chain = Chain {
    event: "Go",
    steps: 1,
};
/// How many events there are, unless the environment says otherwise.
const EVENTS: usize = 10_000;
/// The variable that does.
const EVENTS_VARIABLE: &str = "LOOPY_BENCH_EVENTS";
/// How many events one request takes.
const BATCH: usize = 10;
/// How long nothing may come to its end before the rest is given up.
const PATIENCE: Duration = Duration::from_secs(180);

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let events = std::env::var(EVENTS_VARIABLE)
        .ok()
        .and_then(|events| events.parse().ok())
        .unwrap_or(EVENTS);
    let tools = tools::prepare(workspace)?;
    let functions = dist::build(workspace, &tools, Arch::host(), None)?;
    tools.unlock(workspace)?;
    let loopy = loopy(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    write_project(folder.path(), "daytona", &[CHAIN])?;
    let emulator = Emulator::start_counting(workspace, &tools)?;
    let stand_in = StandIn::start(workspace)?;
    let stack = Stack {
        loopy: &loopy,
        emulator: &emulator,
    };
    stack.deploy(folder.path(), &functions, &stand_in)?;

    let begin = Instant::now();
    for first in (0..events).step_by(BATCH) {
        publish(&emulator, first..events.min(first + BATCH))?;
    }
    let sent = begin.elapsed();
    let all = until_over(&emulator, events)?;
    let rows: Vec<Vec<String>> = memory(&emulator)
        .into_iter()
        .map(|(function, bytes)| vec![function, format!("{:.0} MB", bytes as f64 / 1e6)])
        .collect();
    println!(
        "\n{events} events, published in {:.1} s, all {events} runs succeeded after {:.1} s: \
         {:.0} runs a second",
        sent.as_secs_f64(),
        all.duration_since(begin).as_secs_f64(),
        events as f64 / all.duration_since(begin).as_secs_f64(),
    );
    print_table(
        "the most memory that a process of each function took",
        &["function", "memory"],
        &rows,
    );
    Ok(())
}

/// Puts events on the bus as the sensor function does.
fn publish(emulator: &Emulator, numbers: std::ops::Range<usize>) -> Result<(), Error> {
    let entries: Vec<Value> = numbers
        .map(|n| {
            let id = format!("load-{n}");
            let event = json!({
                "kind": "event", "id": id, "name": CHAIN.event, "fields": {"n": n},
                "source": {"kind": "hand"}, "emitted_at": "2026-01-01T00:00:00Z",
                "cascade": id, "depth": 0,
            });
            json!({
                "EventBusName": "bench", "Source": "loopy", "DetailType": CHAIN.event,
                "Detail": event.to_string(),
            })
        })
        .collect();
    let headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("X-Amz-Target", "AWSEvents.PutEvents"),
    ];
    let body = json!({ "Entries": entries }).to_string();
    call(emulator, "events", "POST", "/", &headers, body.as_bytes())?;
    Ok(())
}

/// Waits until so many runs have succeeded, and says when.
fn until_over(emulator: &Emulator, events: usize) -> Result<Instant, Error> {
    let mut last = (0, Instant::now());
    loop {
        let found = runs(emulator)?;
        let over = found.get("succeeded").copied().unwrap_or_default();
        if over != last.0 {
            last = (over, Instant::now());
        }
        if over == events {
            return Ok(last.1);
        }
        if last.1.elapsed() > PATIENCE {
            return Err(Error::Answer {
                command: "the emulator".to_owned(),
                problem: format!("{events} runs should have succeeded, and there are {found:?}"),
            });
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The largest process of each function, in bytes.
fn memory(emulator: &Emulator) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mark = format!("AWS_ENDPOINT_URL={}", emulator.endpoint());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some((function, bytes)) = process(&entry.path(), &mark) else {
            continue;
        };
        let most = found.entry(function).or_insert(0);
        *most = bytes.max(*most);
    }
    found
}

/// The function that a process of this emulator is of, and the most memory it had.
fn process(folder: &Path, mark: &str) -> Option<(String, u64)> {
    let environment = std::fs::read(folder.join("environ")).ok()?;
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0');
    if !variables.clone().any(|variable| variable == mark) {
        return None;
    }
    let name = variables.find_map(|variable| variable.strip_prefix("AWS_LAMBDA_FUNCTION_NAME="))?;
    let name = name.to_lowercase();
    let function = FUNCTIONS
        .into_iter()
        .find(|function| name.contains(&format!("-{function}")))?;
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some((function.to_owned(), kilobytes.saturating_mul(1024)))
}
