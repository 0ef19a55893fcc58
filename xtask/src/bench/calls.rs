//! What a step calls of AWS, counted in front of the emulator, and what that costs
//! there. A run's own calls (its webhook, its start) are told apart from those of its
//! steps: chains of two lengths run, and the difference is that of their steps.

use super::handoff::{Chain, Stack, StandIn, answer, send, webhook, write_project};
use super::{loopy, print_table, unexpected};
use crate::dist::{self, Arch};
use crate::emulator::Emulator;
use crate::error::Error;
use crate::http;
use crate::tools;
use crate::workspace::Workspace;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SHORT: Chain = Chain {
    event: "Short",
    steps: 4,
};
const LONG: Chain = Chain {
    event: "Long",
    steps: 16,
};
/// How many runs of each length are counted.
const RUNS: usize = 5;
/// How many runs are then begun at once, so that many processes share the work.
const AT_ONCE: usize = 40;
/// How long nothing may be called before all is taken to be over.
const QUIET: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(300);

/// A price of AWS, us-east-1, in dollars for a million. `docs/costs.md` says where
/// they are from; a test holds the two together.
struct Price {
    what: &'static str,
    /// What is counted, by the beginning of its name.
    counted: &'static [&'static str],
    dollars: f64,
    /// How much of it a step may take.
    limit: Option<f64>,
}

const fn price(what: &'static str, counted: &'static [&'static str], dollars: f64) -> Price {
    Price {
        what,
        counted,
        dollars,
        limit: None,
    }
}

const fn limited(price: Price, limit: f64) -> Price {
    Price {
        limit: Some(limit),
        ..price
    }
}

/// The most that a million steps may cost, in dollars.
const LIMIT: f64 = 5.0;

/// What is billed. Calls of DynamoDB are billed by the units below them.
const PRICES: [Price; 13] = [
    limited(
        price(
            "DynamoDB writes",
            &["dynamodb PutItem", "dynamodb UpdateItem"],
            0.0,
        ),
        3.0,
    ),
    price("  write units", &["dynamodb WRU"], 0.625),
    limited(
        price(
            "DynamoDB reads",
            &[
                "dynamodb GetItem",
                "dynamodb Query",
                "dynamodb BatchGetItem",
            ],
            0.0,
        ),
        2.0,
    ),
    price("  read units", &["dynamodb RRU"], 0.125),
    limited(price("SQS requests", &["sqs "], 0.50), 3.0),
    price("Lambda requests", &["lambda invocation "], 0.20),
    price("  GB-seconds, x86", &["lambda GB-s"], 16.6667),
    price("Scheduler, timers made and removed", &["scheduler "], 0.0),
    price("EventBridge events", &["events "], 1.0),
    price("S3 writes", &["s3 Put"], 5.0),
    price("S3 reads", &["s3 Get"], 0.40),
    price("Secrets Manager reads", &["secretsmanager "], 5.0),
    price("Lambda calls by functions", &["lambda Create"], 0.0),
];

/// What was called so far.
#[derive(Clone, Default)]
struct Calls(BTreeMap<String, f64>);

impl Calls {
    fn since(&self, before: &Self) -> Self {
        let left = |(name, count): (&String, &f64)| {
            let count = count - before.0.get(name).copied().unwrap_or_default();
            (name.clone(), count)
        };
        Self(self.0.iter().map(left).collect())
    }

    fn of(&self, price: &Price) -> f64 {
        let counts = self.0.iter();
        counts
            .filter(|(name, _)| price.counted.iter().any(|of| name.starts_with(of)))
            .map(|(_, count)| count)
            .sum()
    }
}

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let functions = dist::build(workspace, &tools, Arch::host(), None)?;
    tools.unlock(workspace)?;
    let loopy = loopy(workspace)?;
    let folder = tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
    write_project(folder.path(), "daytona", &[SHORT, LONG])?;
    let emulator = Emulator::start_counting(workspace, &tools)?;
    let stand_in = StandIn::start(workspace)?;
    let stack = Stack {
        loopy: &loopy,
        emulator: &emulator,
    };
    let webhooks = stack.deploy(folder.path(), &functions, &stand_in)?;
    let (short, long) = (webhook(&webhooks, &SHORT)?, webhook(&webhooks, &LONG)?);

    let mut over = 0;
    let mut counted = |webhook: &str, count: usize, together: bool| -> Result<Calls, Error> {
        let before = quiet(&emulator, over)?;
        for _ in 0..count {
            // Each delivery differs, or it would be taken for a repetition.
            send(webhook, over)?;
            over += 1;
            if !together {
                quiet(&emulator, over)?;
            }
        }
        Ok(quiet(&emulator, over)?.since(&before))
    };
    // The first ones read manifests and secrets, which are then kept.
    counted(&short, 1, false)?;
    counted(&long, 1, false)?;
    let of_short = counted(&short, RUNS, false)?;
    let of_long = counted(&long, RUNS, false)?;
    let at_once = counted(&short, AT_ONCE, true)?;
    check(&stack, over)?;

    let mut rows = Vec::new();
    let (mut step_cost, mut run_cost, mut crowd_cost) = (0.0, 0.0, 0.0);
    for price in &PRICES {
        let (short, long) = (of_short.of(price), of_long.of(price));
        let runs = RUNS as f64;
        let step = (long - short) / runs / (LONG.steps - SHORT.steps) as f64;
        let run = short / runs - step * SHORT.steps as f64;
        let crowd = (at_once.of(price) / AT_ONCE as f64 - run) / SHORT.steps as f64;
        step_cost += step * price.dollars;
        run_cost += run * price.dollars;
        crowd_cost += crowd * price.dollars;
        rows.push(vec![
            price.what.to_owned(),
            format!("{step:.3}"),
            price.limit.map_or_else(String::new, |limit| {
                let held = if step <= limit + 1e-9 { "" } else { " OVER" };
                format!("{limit}{held}")
            }),
            format!("{:.3}", step * price.dollars),
            format!("{crowd:.3}"),
            format!("{run:.3}"),
        ]);
    }
    let held = if step_cost < LIMIT { "" } else { " OVER" };
    rows.push(vec![
        "dollars for a million".to_owned(),
        format!("{step_cost:.2}"),
        format!("{LIMIT}{held}"),
        format!("{step_cost:.2}"),
        format!("{crowd_cost:.2}"),
        format!("{run_cost:.2}"),
    ]);
    print_table(
        &format!(
            "calls of AWS, {RUNS} runs of {} and {RUNS} of {} `command` steps that do nothing; \
             prices of us-east-1, see docs/costs.md",
            SHORT.steps, LONG.steps
        ),
        &[
            "what",
            "each step",
            "limit",
            "$ a million",
            &format!("{AT_ONCE} runs at once"),
            "each run besides",
        ],
        &rows,
    );
    Ok(())
}

/// Waits until so many runs have succeeded and nothing is called any more.
fn quiet(emulator: &Emulator, over: usize) -> Result<Calls, Error> {
    let begin = Instant::now();
    let mut last = (Calls::default(), Instant::now());
    loop {
        let (calls, runs) = told(emulator)?;
        if calls.0 != last.0.0 {
            last = (calls, Instant::now());
        }
        if runs.get("succeeded").copied().unwrap_or_default() == over && last.1.elapsed() > QUIET {
            return Ok(last.0);
        }
        if begin.elapsed() > PATIENCE {
            return Err(Error::Answer {
                command: "the emulator".to_owned(),
                problem: format!("{over} runs should have succeeded, and there are {runs:?}"),
            });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the emulator has counted, and how many runs there are in each state.
fn told(emulator: &Emulator) -> Result<(Calls, BTreeMap<String, usize>), Error> {
    let response = http::request("GET", &emulator.address(), "/_loopy/calls", &[], b"")?;
    if response.status != 200 {
        return Err(unexpected(&emulator.endpoint(), &response));
    }
    let mut told: Value = serde_json::from_slice(&response.body)?;
    let calls = serde_json::from_value(told["calls"].take())?;
    Ok((Calls(calls), serde_json::from_value(told["runs"].take())?))
}

/// How many runs there are in each state, as the emulator saw them written.
pub(super) fn runs(emulator: &Emulator) -> Result<BTreeMap<String, usize>, Error> {
    Ok(told(emulator)?.1)
}

/// What was counted is what it was meant to be: each step once.
fn check(stack: &Stack<'_>, over: usize) -> Result<(), Error> {
    let limit = over.to_string();
    let listed = answer(&mut stack.loopy(&["runs", "list", "--limit", &limit]))?;
    for run in listed.as_array().into_iter().flatten() {
        let id = run["id"].as_str().unwrap_or_default();
        let shown = answer(&mut stack.loopy(&["runs", "show", id]))?;
        let steps = shown["steps"].as_object().into_iter().flatten();
        for (name, step) in steps {
            if step["attempts"].as_array().map(Vec::len) != Some(1) {
                return Err(Error::Answer {
                    command: "loopy runs show".to_owned(),
                    problem: format!("{name} of {id} was not done in one attempt: {step}"),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_price_adds_up_all_that_it_is_for() {
        let before = Calls(BTreeMap::from([("sqs SendMessage".to_owned(), 2.0)]));
        let after = Calls(BTreeMap::from([
            ("sqs SendMessage".to_owned(), 5.0),
            ("sqs ReceiveMessage".to_owned(), 4.0),
            ("scheduler CreateSchedule".to_owned(), 1.0),
        ]));
        let since = after.since(&before);
        let of = |what: &str| {
            let price = PRICES.iter().find(|price| price.what == what);
            since.of(price.unwrap())
        };
        assert_eq!(of("SQS requests"), 7.0);
        assert_eq!(of("S3 reads"), 0.0);
    }

    #[test]
    fn the_documentation_has_the_same_prices() {
        let text = include_str!("../../../docs/costs.md");
        for price in PRICES.iter().filter(|price| price.dollars > 0.0) {
            let row = format!("| {} |", price.what.trim());
            let line = text.lines().find(|line| line.starts_with(&row));
            let dollars = format!("| {} |", price.dollars);
            assert!(
                line.is_some_and(|line| line.contains(&dollars)),
                "{row} {dollars}"
            );
        }
    }
}
