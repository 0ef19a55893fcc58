//! `loopy rollback`: makes a stack what it was at an earlier deployment.

use crate::Outcome;
use crate::deploy::{Aws, Error, approval, ask, go_back, line, runtime};
use crate::output::{Format, Terminal};
use crate::present;
use clap::Args;
use jiff::Timestamp;
use loopy_infra::{Deployment, Progress, Record, Version};
use serde_json::json;

/// Arguments of `loopy rollback`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The stack's name
    #[arg(long, value_name = "NAME")]
    stack: String,
    /// The deployment to go back to, as --list shows it; the one before the present
    /// one when absent
    #[arg(long, value_name = "TIME", conflicts_with = "list")]
    to: Option<Timestamp>,
    /// Show the deployments there were, newest first, and stop there
    #[arg(long)]
    list: bool,
    /// Go on without asking
    #[arg(long, short)]
    yes: bool,
    /// Agree to what lets somebody do more than now
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    aws: Aws,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, Error> {
    let name = &arguments.stack;
    runtime().map_err(Error::Runtime)?.block_on(async {
        let config = arguments.aws.connection().resolve().await?;
        let deployment = Deployment::connect(&config, name).await?;
        let progress = |event: Progress| terminal.say(&line(&event));
        let history = deployment.history().await?;
        if arguments.list {
            let text = listed(&history, arguments.format);
            terminal.data(&text).map_err(Error::Stdout)?;
            return Ok(Outcome::Fine);
        }
        if let Some((status, repair)) = deployment.settle(&progress).await? {
            terminal.say(&format!("stack {name} is {status}: {}", repair.explained()));
            if !arguments.yes && !ask(name, *terminal)? {
                terminal.say("nothing was changed");
                return Ok(Outcome::Fine);
            }
            deployment.repair(repair, &progress).await?;
        }
        let before = deployment.deployed().await?;
        let record = target(&history, before.as_ref(), arguments.to)
            .ok_or_else(|| Error::NoRecord(name.clone()))?;
        let to = deployment.version(record).await?;
        let manifest = to.manifest.as_ref().ok_or_else(|| {
            Error::Compare("its manifest was written by another version of Loopy".to_owned())
        })?;
        let differences = approval::differences(before.as_ref(), manifest, &to.template)?;
        terminal.say(&format!(
            "stack {name} goes back to the deployment of {} by {}; secrets and parameters stay \
             as they are",
            record.at, record.by
        ));
        terminal.say(&approval::shown(&differences));
        if !arguments.approve && approval::needed(&differences) {
            return Err(Error::Widens(approval::widening(&differences)));
        }
        if !arguments.yes && !ask(name, *terminal)? {
            terminal.say("nothing was changed");
            return Ok(Outcome::Fine);
        }
        go_back(&deployment, &to, &progress).await?;
        let problems = deployment.unhealthy(&progress).await?;
        if !problems.is_empty() {
            return Err(Error::Unhealthy {
                problems,
                back: None,
            });
        }
        deployment.record_again(record).await?;
        terminal.say(&format!("stack {name} is what it was at {}", record.at));
        Ok(Outcome::Fine)
    })
}

/// The one that was asked for, or the newest that is not what the stack is made of now.
fn target<'a>(
    history: &'a [Record],
    present: Option<&Version>,
    to: Option<Timestamp>,
) -> Option<&'a Record> {
    history.iter().find(|record| match to {
        Some(at) => record.at == at,
        None => !present.is_some_and(|present| present.is(record)),
    })
}

fn listed(history: &[Record], format: Format) -> String {
    if format.is_json() {
        return present::document(&json!(history));
    }
    let line = |record: &Record| format!("{}\t{:.12}\t{}\n", record.at, record.manifest, record.by);
    history.iter().map(line).collect()
}
