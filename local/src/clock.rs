//! The system's clock.

use jiff::Timestamp;
use loopy_engine::ports::Clock;

/// The time as the machine has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
