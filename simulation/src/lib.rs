//! The engine in a hostile world, by seed. The real [`loopy_engine::Engine`] runs
//! over ports of this crate's own, on an executor without threads, clocks or
//! chance: at each call of a port the seed decides who goes on next, what fails,
//! and whether the process dies there. The same number plays the same story.
//!
//! | file | what |
//! |---|---|
//! | `play` | the story: who does what next, the storm, and the calm after it |
//! | `world` | what outlives a process: queues, timers, and the truth |
//! | `ports` | the engine's ports over the world |
//! | `sandbox` | sandboxes, and the runners in them |
//! | `project` | small projects that use all that the engine executes |
//! | `faults` | what goes wrong, and how often |
//! | `laws` | what must hold, at each step and at rest |
//! | `mutants` | deliberate bugs, which the laws have to notice |
//! | `shrink` | the shortest story that still breaks the law |
//! | `replay` | the same inputs over another store |

mod executor;
mod faults;
mod laws;
mod mutants;
mod play;
mod ports;
mod project;
mod replay;
mod rng;
mod sandbox;
mod shrink;
mod world;

pub use faults::Fault;
pub use mutants::Mutant;
pub use play::{Outcome, Story, play};
pub use replay::{Recording, record, replay};
pub use shrink::{Failure, check, shrink};
