//! A manifest and `template.yaml` to a stack, and the stack into an account.
//! [`stack`] is pure; [`deploy`] and [`destroy`] talk to AWS with the caller's
//! own credentials.

mod archive;
pub mod assets;
pub mod binaries;
pub mod cost;
pub mod deploy;
mod desk;
pub mod destroy;
pub mod difference;
pub mod emit;
mod events;
pub mod images;
mod packages;
pub mod preflight;
mod publish;
pub mod schedule;
pub mod secrets;
mod sensors;
pub mod stack;
mod state;
mod yaml;

pub use binaries::{BinariesError, build, read_folder};
pub use deploy::{
    Change, DeployError, Deployed, Deployment, Drift, OpenRuns, Plan, Record, Repair, Version,
    open_runs,
};
pub use desk::{Desk, desk};
pub use difference::{Action, Difference, Part, differences, parameters};
pub use emit::{EmitError, emit};
pub use events::Progress;
pub use packages::{Packages, PackagesError};
pub use preflight::{refusals, warnings};
pub use secrets::{Kept, SecretsError, Values};
pub use sensors::load_sensors;
pub use stack::{
    Architecture, Asset, Binaries, Image, Needs, Stack, StackError, stack, stack_with,
};
pub use state::{store, webhook_url};
