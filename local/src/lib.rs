//! The home on one machine: the engine's ports over SQLite and local
//! processes, the loops that drive it, and the HTTP server in front of it.

pub mod bus;
pub mod clock;
pub mod db;
pub mod dotenv;
mod home;
pub mod http;
mod lock;
pub mod manifests;
pub mod queue;
mod schedules;
pub mod secrets;
pub mod sensor_code;
mod state;
pub mod store;
mod worker;

pub use home::{HomeOptions, LocalHome, OpenError};
pub use state::{Cascade, FollowError, State};

/// The state directory's name inside a project.
pub const STATE_DIR: &str = ".loopy";
