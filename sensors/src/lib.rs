//! Runs the project's sensor code, outside of the engine's process: the host programs
//! of each language, the warm workers of the home on one machine, and shell scripts.

mod group;
mod here;
pub mod shell;
mod worker;

pub use here::{Config, Environment, SensorsHere};

/// The host program of Python sensors, `loopy_sensors.py`. Its Lambda handler is
/// `loopy_sensors.handler`.
pub const PYTHON_HOST: &str = include_str!("../host/loopy_sensors.py");

/// The host program of TypeScript sensors, `loopy_sensors.mjs`. Its Lambda handler is
/// `loopy_sensors.handler`.
pub const NODE_HOST: &str = include_str!("../host/loopy_sensors.mjs");
