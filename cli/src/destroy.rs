//! `loopy destroy`: takes a stack down and says what is kept.

use crate::Outcome;
use crate::deploy::{Aws, Error, ask, line, runtime};
use crate::output::Terminal;
use clap::Args;
use loopy_infra::{Progress, destroy};

/// Arguments of `loopy destroy`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The stack's name
    #[arg(long, value_name = "NAME")]
    stack: String,
    #[command(flatten)]
    aws: Aws,
    /// Go on without asking
    #[arg(long, short)]
    yes: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome, Error> {
    let name = &arguments.stack;
    runtime().map_err(Error::Runtime)?.block_on(async {
        let config = arguments.aws.connection().resolve().await?;
        let target = destroy::Target::find(&config, name).await?;
        let mut text = format!("delete stack {name}; kept are:\n");
        for (about, resource) in target.kept() {
            text.push_str(&format!("  {about} {resource}\n"));
        }
        terminal.say(&text);
        if !arguments.yes && !ask(name, *terminal)? {
            terminal.say("nothing was changed");
            return Ok(Outcome::Fine);
        }
        let progress = |event: Progress| terminal.say(&line(&event));
        destroy::destroy(&target, &progress).await?;
        terminal.say(&format!("stack {name} is gone"));
        Ok(Outcome::Fine)
    })
}
