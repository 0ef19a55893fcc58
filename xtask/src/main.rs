//! `cargo xtask …`: what a developer or CI runs on this repository. Installs what
//! the tests need, builds the function binaries, runs all tests, writes generated
//! files, measures.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command: it reports on stderr and prints measurements on stdout"
)]

mod bench;
mod debian;
mod dist;
mod docker;
mod emulator;
mod error;
mod fuzz;
mod generated;
mod http;
mod process;
mod sim;
mod suite;
mod tools;
mod workspace;

use crate::dist::Arch;
use crate::error::Error;
use crate::workspace::Workspace;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Work on Loopy itself.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, then run all of them
    Test {
        /// Arguments for the test runner, such as part of a test's name
        #[arg(last = true)]
        runner_args: Vec<String>,
    },
    /// Run only the end-to-end tests, against an endpoint that is running already
    E2e {
        /// URL of the AWS-compatible endpoint, or `aws` for an account of AWS itself
        #[arg(long)]
        endpoint: String,
        /// The name or address under which functions there reach this machine, where the
        /// stand-ins listen [default: 127.0.0.1]
        #[arg(long)]
        here: Option<String>,
        /// Arguments for the test runner, such as part of a test's name
        #[arg(last = true)]
        runner_args: Vec<String>,
    },
    /// Build the function binaries and the runner, ready for `loopy deploy --functions DIR`
    Dist {
        /// The processor they are for
        #[arg(long, value_enum, default_value_t = Arch::X86_64)]
        arch: Arch,
        /// Where to put them [default: loopy-tools/dist in the target folder, dist-arm64 for arm64]
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Write the files that are generated from the code
    Gen {
        /// Write nothing; fail when a file is not what it would be
        #[arg(long)]
        check: bool,
    },
    /// Look for inputs that the compiler does not survive
    Fuzz {
        /// How long to look, for each target
        #[arg(long, default_value_t = 120)]
        seconds: u32,
        /// Only this target
        target: Option<String>,
    },
    /// Play the engine in a hostile world, by seed
    Sim {
        /// How many seeds
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// The first of them
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Only this seed, with its story
        #[arg(long, conflicts_with_all = ["seeds", "from"])]
        seed: Option<u64>,
    },
    /// Measure compile time, size and start of the functions, and hand-offs between steps
    Bench {
        /// Only this part
        #[arg(value_enum)]
        part: Option<bench::Part>,
    },
    /// Serve runs that do nothing, for `bench peers`
    #[command(hide = true)]
    ServeDurable {
        /// An empty folder
        folder: PathBuf,
        /// Steps report through the listener, as runners do
        #[arg(long)]
        reports_over_http: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Error> {
    let workspace = Workspace::find()?;
    match task {
        Task::Test { runner_args } => suite::test(&workspace, &runner_args),
        Task::E2e {
            endpoint,
            here,
            runner_args,
        } => suite::e2e(&workspace, &endpoint, here.as_deref(), &runner_args),
        Task::Dist { arch, out } => {
            let tools = tools::prepare(&workspace)?;
            let dist = dist::build(&workspace, &tools, arch, out)?;
            println!("{}", dist.display());
            Ok(())
        }
        Task::Gen { check: true } => generated::check(&workspace.root),
        Task::Gen { check: false } => generated::write(&workspace.root),
        Task::Fuzz { seconds, target } => fuzz::run(&workspace, seconds, target.as_deref()),
        Task::Sim {
            seed: Some(seed), ..
        } => sim::one(seed),
        Task::Sim { seeds, from, .. } => sim::many(from, seeds),
        Task::Bench { part } => bench::run(&workspace, part),
        Task::ServeDurable {
            folder,
            reports_over_http,
        } => bench::serve_durable(&folder, reports_over_http),
    }
}
