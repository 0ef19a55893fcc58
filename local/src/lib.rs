//! The home on one machine: the engine's ports over SQLite and local
//! processes, the loops that drive it, and the HTTP server in front of it.

pub mod clock;
mod connections;
pub mod db;
mod db_error;
mod dead_letters;
pub mod dotenv;
mod home;
pub mod http;
mod launches;
mod lines;
mod lock;
pub mod manifests;
mod outbox;
pub mod packs;
pub mod queue;
mod records;
pub mod retention;
mod schedules;
mod schema;
pub mod secrets;
mod sensors;
mod state;
pub mod store;
pub mod transcripts;
mod work;
mod worker;

pub use db_error::DbError;
pub use home::{Handle, HomeOptions, LocalHome, OpenError};
pub use lines::Claimed;
pub use sensors::load_sensors;
pub use state::{Cascade, FollowError, State};

/// The state directory's name inside a project.
pub const STATE_DIR: &str = ".loopy";
