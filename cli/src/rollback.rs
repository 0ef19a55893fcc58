//! `loopy rollback`: makes a stack what it was at an earlier deployment.

use crate::Outcome;
use crate::deploy::approval::{self, Agreement};
use crate::deploy::{After, Aws, Error, Images, ask, go_back, line, runtime};
use crate::output::{Format, Terminal};
use crate::present;
use clap::Args;
use jiff::Timestamp;
use loopy_infra::images::Builder;
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
    /// Agree to what lets somebody do more than now, to what takes from runs that are
    /// not over, and to what that deployment needs and is not there any more
    #[arg(long)]
    approve: bool,
    /// Who builds images of fargate sandboxes that are not there any more; this machine's
    /// Docker engine if one answers, else the account
    #[arg(long, value_enum, value_name = "WHO")]
    images: Option<Images>,
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
        let (record, begun) = target(&history, before.as_ref(), arguments.to)
            .ok_or_else(|| Error::NoRecord(name.clone()))?;
        let to = deployment.version(record).await?;
        let manifest = to.manifest.as_ref().ok_or_else(|| {
            Error::Compare("its manifest was written by another version of Loopy".to_owned())
        })?;
        let kept = deployment.kept().await?;
        let needs = to.needs().unwrap_or_default();
        let differences = approval::differences(before.as_ref(), manifest, &to.template)?;
        let mut agreement = Agreement {
            widens: approval::widening(&differences),
            lacks: kept.lacks(&needs),
            ..Agreement::default()
        };
        if let Some(before) = &before {
            let store = loopy_infra::store(&config, name).await?;
            let stranded = approval::stranded(&deployment, &store, before, manifest);
            agreement.strands = stranded.await?;
        }
        let images = deployment.images_of(&to, record).await?;
        let builder = if images.is_empty() {
            Builder::Account
        } else {
            Images::builder(arguments.images).await?
        };
        if begun {
            terminal.say(&format!(
                "stack {name} went back to the deployment of {} before, and that was cut off",
                record.at
            ));
        } else {
            terminal.say(&format!(
                "stack {name} goes back to the deployment of {} by {}; values of secrets and \
                 parameters stay as they are",
                record.at, record.by
            ));
            terminal.say(&approval::shown(&differences));
        }
        agreement.check(arguments.approve)?;
        if !arguments.yes && !ask(name, *terminal)? {
            terminal.say("nothing was changed");
            return Ok(Outcome::Fine);
        }
        go_back(&deployment, &to, &kept, (&images, &builder), &progress).await?;
        let problems = deployment.unhealthy(&progress).await?;
        if !problems.is_empty() {
            return Err(Error::Unhealthy {
                problems,
                after: After::Stays {
                    stack: name.clone(),
                },
            });
        }
        deployment.record_again(record).await?;
        terminal.say(&format!("stack {name} is what it was at {}", record.at));
        let lacking = deployment.lacking_secrets(&needs).await?;
        if lacking.is_empty() {
            return Ok(Outcome::Fine);
        }
        for line in &lacking {
            terminal.say(line);
        }
        terminal.hint("deploy that version from its folder, which stores the values");
        Ok(Outcome::Refused)
    })
}

/// The one that was asked for; or, of those newest first, the one before what the stack
/// is made of now. A stack that is made of an older one than the newest is on its way
/// back: that is where it goes, and the second value says so.
fn target<'a>(
    history: &'a [Record],
    present: Option<&Version>,
    to: Option<Timestamp>,
) -> Option<(&'a Record, bool)> {
    let is_present = |record: &Record| present.is_some_and(|present| present.is(record));
    if let Some(at) = to {
        let asked = history.iter().find(|record| record.at == at);
        return Some((asked?, false));
    }
    match history.iter().position(is_present) {
        None => Some((history.first()?, false)),
        Some(0) => {
            let other = history.iter().find(|record| !is_present(record));
            Some((other?, false))
        }
        Some(begun) => Some((history.get(begun)?, true)),
    }
}

fn listed(history: &[Record], format: Format) -> String {
    if format.is_json() {
        return present::document(&json!(history));
    }
    let line = |record: &Record| format!("{}\t{:.12}\t{}\n", record.at, record.manifest, record.by);
    history.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use loopy_contract::ids::sha256_hex;

    fn record(at: i64, template: &str) -> Record {
        Record {
            at: Timestamp::from_second(at).unwrap(),
            by: String::new(),
            manifest: String::new(),
            template: format!("templates/{}.yaml", sha256_hex(template.as_bytes())),
            assets: Vec::new(),
        }
    }

    fn made_of(template: &str) -> Version {
        Version {
            manifest: None,
            template: template.to_owned(),
            parameters: Default::default(),
        }
    }

    #[test]
    fn a_rollback_that_was_cut_off_does_not_deploy_the_bad_version_again() {
        let history = [record(2, "bad"), record(1, "good")];
        let target = |history: &[Record], present: &str, to: Option<i64>| {
            let to = to.map(|at| Timestamp::from_second(at).unwrap());
            let found = target(history, Some(&made_of(present)), to);
            found.map(|(record, begun)| (record.at.as_second(), begun))
        };
        assert_eq!(target(&history, "bad", None), Some((1, false)));
        // The stack is made of the good one, and nobody has written that down.
        assert_eq!(target(&history, "good", None), Some((1, true)));
        // What was cut off before it came about goes to what did.
        assert_eq!(target(&history, "cut off", None), Some((2, false)));
        assert_eq!(target(&history, "good", Some(2)), Some((2, false)));
        // Written down once more, it is the newest.
        let after = [record(3, "good"), record(2, "bad"), record(1, "good")];
        assert_eq!(target(&after, "good", None), Some((2, false)));
        assert_eq!(target(&history[..1], "bad", None), None);
        assert_eq!(target(&[], "bad", None), None);
    }
}
