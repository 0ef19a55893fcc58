//! How fast runs move when every transition is on the disk before its effects:
//! the home on one machine with sandboxes that are tasks of its own process and do
//! nothing. Beside it stands what the disk and SQLite can do at all, measured in the
//! same run.

mod ingress;
mod memory;
mod raw;
mod serving;

use super::{percentile, print_table};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
pub(crate) use ingress::{STEPS_OF_A_RUN, serve};
use memory::Memory;
use serving::{STEPS, Serving};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs that are under way at the same time.
const IN_FLIGHT: usize = 1024;

/// Before anything is measured.
const WARM_UP: usize = 3_000;

/// What the speed is taken from.
const MEASURED: usize = 40_000;

/// What the memory must be flat over, in steps.
const MANY_STEPS: usize = 1_000_000;

/// Runs that have the machine to themselves.
const ALONE: usize = 1_000;

/// Events handed in all at once.
const BURST: usize = 10_000;

/// Set for the process that measures nothing but that.
const BURST_ONLY: &str = "LOOPY_BENCH_BURST_ONLY";

/// What part of it all is done in a run that is told to be short.
const SHORT: usize = 20;

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    if cfg!(debug_assertions) {
        // Figures of a build without optimisation say nothing.
        return process::run(workspace.cargo().args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "xtask",
            "--",
            "bench",
            "durable",
        ]));
    }
    // For whoever works on the speed: a look at the figures within seconds.
    let short = std::env::var_os("LOOPY_BENCH_SHORT").is_some();
    let share = if short { SHORT } else { 1 };
    let folder = tempfile::tempdir_in(&workspace.target).map_err(Error::file(&workspace.target))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| failed("start a runtime", why))?;
    if std::env::var_os(BURST_ONLY).is_some() {
        let rows = runtime.block_on(async {
            let serving = Arc::new(Serving::start(folder.path()).await?);
            let rows = burst(&serving, share).await?;
            serving.stop().await?;
            Ok::<_, Error>(rows)
        })?;
        let title = format!(
            "{} events handed in at once, runs of {STEPS} steps",
            BURST / share
        );
        print_table(&title, &["what", "figure", ""], &rows);
        return Ok(());
    }
    let raw = raw::measure(folder.path())?;
    let rows = runtime.block_on(async {
        let serving = Arc::new(Serving::start(&folder.path().join("many")).await?);
        let rows = measure(&serving, &raw, share).await?;
        serving.stop().await?;
        Ok::<_, Error>(rows)
    })?;
    print_table(
        "durable steps on one machine, each transition synced before its effects",
        &["what", "figure", "of the limit"],
        &rows,
    );
    // In a process of its own, so that its memory is its own.
    let own = std::env::current_exe().map_err(|why| failed("find this program", why))?;
    process::run(
        std::process::Command::new(own)
            .args(["bench", "durable"])
            .env(BURST_ONLY, "1"),
    )
}

/// Why a part could not be measured.
fn failed(what: &str, why: impl std::fmt::Display) -> Error {
    Error::Measure {
        what: what.to_owned(),
        problem: why.to_string(),
    }
}

fn row(what: &str, figure: String, limit: String) -> Vec<String> {
    vec![what.to_owned(), figure, limit]
}

async fn measure(
    serving: &Arc<Serving>,
    raw: &raw::Limit,
    share: usize,
) -> Result<Vec<Vec<String>>, Error> {
    let mut rows = vec![
        row("SQLite, a row a commit", rate(raw.commits), String::new()),
        row("SQLite, 100 rows a commit", rate(raw.rows), String::new()),
    ];
    serving.many(WARM_UP / share, IN_FLIGHT).await?;
    Memory::forget_peak()?;
    let before = cpu()?;
    let (begun, count) = (Instant::now(), MEASURED / share);
    serving.many(count, IN_FLIGHT).await?;
    let took = begun.elapsed().as_secs_f64();
    let steps = (count * STEPS) as f64;
    let busy = (cpu()? - before).as_secs_f64();
    let speed = steps / took;
    rows.push(row(
        &format!("steps, {IN_FLIGHT} runs at a time"),
        rate(speed),
        format!(
            "{:.1} × a row a commit, {:.2} × 100 rows",
            speed / raw.commits,
            speed / raw.rows
        ),
    ));
    rows.push(row(
        "processor time a step",
        format!("{:.0} µs", busy / steps * 1e6),
        format!("{:.2} processors busy", busy / took),
    ));
    let after = Memory::now()?;
    rows.push(row("memory then", after.to_string(), String::new()));

    let alone = serving.alone(ALONE / share).await?;
    let limit = raw.commit;
    for (what, percent) in [("p50", 50), ("p99", 99)] {
        let time = percentile(alone.clone(), percent);
        rows.push(row(
            &format!("a run of {STEPS} steps alone, {what}"),
            format!("{:.2} ms", time.as_secs_f64() * 1e3),
            format!("{:.1} × a commit", time.as_secs_f64() / limit.as_secs_f64()),
        ));
    }

    let done = WARM_UP + MEASURED + ALONE;
    let left = (MANY_STEPS / STEPS).saturating_sub(done) / share;
    serving.many(left, IN_FLIGHT).await?;
    let end = Memory::now()?;
    rows.push(row(
        &format!("memory after {} steps", STEPS * (done / share + left)),
        end.to_string(),
        format!("{:+.1} MB", end.resident_mb() - after.resident_mb()),
    ));
    Ok(rows)
}

async fn burst(serving: &Serving, share: usize) -> Result<Vec<Vec<String>>, Error> {
    Memory::forget_peak()?;
    let count = BURST / share;
    let (accepted, took) = serving.burst(count).await?;
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    Ok(vec![
        row("all accepted", seconds(accepted), String::new()),
        row("all finished", seconds(took), String::new()),
        row(
            "steps",
            rate((count * STEPS) as f64 / took.as_secs_f64()),
            String::new(),
        ),
        row("memory", Memory::now()?.to_string(), String::new()),
    ])
}

fn rate(a_second: f64) -> String {
    format!("{a_second:.0}/s")
}

/// Processor time of this process so far.
fn cpu() -> Result<Duration, Error> {
    let text =
        std::fs::read_to_string("/proc/self/stat").map_err(|why| failed("read /proc", why))?;
    // After the name, which may hold anything: state is the third field.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
    };
    match (ticks(11), ticks(12)) {
        // A tick is a hundredth of a second on every Linux that Rust runs on.
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(failed("read /proc/self/stat", "it has another form")),
    }
}
