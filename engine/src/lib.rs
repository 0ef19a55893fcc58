//! The engine: one pure transition, one driver, the handlers that both homes
//! call, and the ports a home fills. It does no IO, reads no clock and draws no
//! random number of its own.

mod admission;
pub mod builtin;
pub mod condition;
#[cfg(feature = "conformance")]
pub mod conformance;
mod driver;
mod envelope;
pub mod files;
pub mod gate;
mod handlers;
mod limits;
pub mod memory;
pub mod message;
pub mod outgoing;
pub mod ports;
pub mod rate;
pub mod record;
pub mod run;
pub mod schedule;
pub mod sensor_host;
mod token;
pub mod transcript;
pub mod transition;
mod unsupported;
mod verify;

pub use handlers::{
    Answer, Engine, LAPSES, MAX_BODY_BYTES, MAX_CASCADE_DEPTH, ProcessError, ReportRequest,
    SubmitError, Unloadable, Unloadables, WebhookRequest, check_event, keep_unloadable, unloadable,
};
pub use ports::Ports;
pub use unsupported::unsupported;
