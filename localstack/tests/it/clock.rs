//! What only time sets off in a stack: a schedule's tick, and the end of an
//! attempt that takes too long.

use crate::project::{GO, GOES, Project, SCRIPTS};
use crate::stack::{Deployed, LONG};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use loopy_localstack::eventually;
use serde_json::json;
use std::collections::BTreeSet;

const SLOW: (&str, &str) = (
    "workflows/slow/wait.md",
    "---
on: Go
agent: Shell
budget:
  wall_clock: 1
---
sleep 600
",
);

/// Every minute of these days, by both fields for days: two schedules, of which each
/// fires in each minute.
fn tick() -> String {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let next = &now + 1.day();
    let weekday = |day: &Zoned| day.weekday().to_sunday_zero_offset();
    format!(
        "---
on: cron(\"* * {},{} * {},{}\")
agent: Shell
output:
  at: str
---
printf '{{\"output\": {{\"at\": \"%s\"}}}}' \"{{{{ event.scheduled_at }}}}\" > \"$LOOPY_OUTPUT\"
",
        now.day(),
        next.day(),
        weekday(&now),
        weekday(&next)
    )
}

#[tokio::test]
async fn schedules_fire_and_an_attempt_that_takes_too_long_is_ended() {
    let registry = format!("{SCRIPTS}{GOES}");
    let tick = tick();
    let tick = ("workflows/nightly/tick.md", tick.as_str());
    let project = Project::of(&[("registry.yml", &registry), GO, SLOW, tick]);
    let daytona = &project.daytona;

    let deployed = Deployed::nothing("clock");
    let first = deployed.deploy(project.path(), &["--yes", "--json"]);
    let said = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{said}");
    let answer: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let url = answer["webhooks"]["go"].as_str().unwrap();
    let sent = reqwest::Client::new()
        .post(url)
        .body(r#"{"note": "slowly"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 202);

    let run_of = |workflow: &str, status: &str| {
        let found = deployed.runs(&["list", "--workflow", workflow, "--status", status]);
        let run = found.as_array().unwrap().first().cloned();
        run.ok_or_else(|| format!("{:#}", deployed.runs(&["list"])))
    };
    let tick = eventually("a tick", LONG, async || run_of("nightly", "succeeded"))
        .await
        .unwrap();
    let tick = deployed.show(&tick);
    let at = &tick["steps"]["tick"]["output"]["at"];
    assert!(at.as_str().unwrap().ends_with(":00Z"), "{at}");
    assert_eq!(
        tick["event"]["source"],
        json!({"kind": "cron", "step": "nightly/tick"})
    );
    let schedules = deployed.account.aws(&["scheduler", "list-schedules"]);
    let ticks = schedules["Schedules"].as_array().unwrap().iter();
    let ticks = ticks.filter(|one| one["Name"].as_str().unwrap().contains("CronNightlyTick"));
    assert_eq!(ticks.count(), 2, "{schedules:#}");

    let slow = eventually("the time limit", LONG, async || run_of("slow", "failed"))
        .await
        .unwrap();
    let slow = deployed.show(&slow);
    // A minute and more has passed since: the other schedule has long fired too, and
    // what both said was one event.
    let runs = deployed.runs(&["list", "--workflow", "nightly"]);
    let runs = runs.as_array().unwrap();
    let minutes: BTreeSet<String> = runs
        .iter()
        .map(|run| deployed.show(run)["event"]["fields"]["scheduled_at"].to_string())
        .collect();
    assert_eq!(minutes.len(), runs.len(), "{runs:#?}");
    assert_eq!(deployed.waiting("EventsDeadLetters"), 0);
    assert_eq!(slow["failure"]["class"], "timeout", "{slow:#}");
    // The script, not just the record of it.
    let attempt = &slow["steps"]["wait"]["attempts"][0];
    let sandbox = attempt["sandbox"]["id"].as_str().unwrap().to_owned();
    eventually("the script to be ended", LONG, async || {
        if daytona.sandboxes().contains(&sandbox) {
            Err(format!("{:?}", daytona.processes(&sandbox)))
        } else {
            Ok(())
        }
    })
    .await
    .unwrap();
}
