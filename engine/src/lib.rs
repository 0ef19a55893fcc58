//! The engine: one pure transition, one driver, the ports a home fills.

pub mod message;
pub mod ports;
pub mod run;
