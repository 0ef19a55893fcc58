//! What is called of AWS for each thing that happens. What a step takes is measured by
//! `cargo xtask bench calls`; docs/costs.md explains it. What comes before a step is
//! counted in the handlers. Functions whose time is not measured are taken to need as
//! much as one of a step's.

use super::prices::Meter::{
    self, BusEvents, LambdaRequests, LambdaSeconds, ReadUnits, S3Writes, SqsRequests, Timers,
    WriteUnits,
};

/// How much of what.
pub type Calls = &'static [(Meter, f64)];

/// Gigabyte-seconds of one invocation: those of a step, by its invocations.
const INVOCATION: f64 = 0.023 / 4.0;

/// One attempt of a step, from its hand-off to its result.
pub const ATTEMPT: Calls = &[
    (LambdaRequests, 4.0),
    (LambdaSeconds, 0.023),
    (WriteUnits, 2.0),
    (ReadUnits, 2.0),
    (SqsRequests, 3.0),
];

/// A minute of work: three signs of life.
pub const MINUTE: Calls = &[
    (LambdaRequests, 3.0),
    (LambdaSeconds, 3.0 * INVOCATION),
    (WriteUnits, 3.0),
    (ReadUnits, 3.0),
];

/// A minute in which an agent talks: a part of its transcript every five seconds.
pub const TALK: Calls = &[
    (LambdaRequests, 12.0),
    (LambdaSeconds, 12.0 * INVOCATION),
    (S3Writes, 12.0),
];

/// Minutes between two looks at an attempt's time limit.
pub const LOOK_MINUTES: f64 = 5.0;

/// Such a look: a timer fires into the queue of `watch`.
pub const LOOK: Calls = &[
    (Timers, 1.0),
    (SqsRequests, 3.0),
    (LambdaRequests, 1.0),
    (LambdaSeconds, INVOCATION),
    (ReadUnits, 1.0),
];

/// A delivery: `webhook` looks whether it came before, notes it and queues it for
/// `sensor`.
pub const DELIVERY: Calls = &[
    (LambdaRequests, 2.0),
    (LambdaSeconds, 2.0 * INVOCATION),
    (ReadUnits, 2.0),
    (WriteUnits, 1.0),
    (SqsRequests, 3.0),
];

/// A call of sensor code, in the function of its language, and the note that it loads.
pub const SENSOR_CODE: Calls = &[
    (LambdaRequests, 1.0),
    (LambdaSeconds, INVOCATION),
    (ReadUnits, 1.0),
];

/// A poll's turn, without its code: it takes its place, and keeps what it gave.
pub const POLL: Calls = &[
    (Timers, 1.0),
    (SqsRequests, 3.0),
    (LambdaRequests, 1.0),
    (LambdaSeconds, INVOCATION),
    (ReadUnits, 2.0),
    (WriteUnits, 2.0),
];

/// An event that workflows start on: over the bus into the queue of `start`, which
/// writes it down, with its index entry.
pub const EVENT: Calls = &[
    (BusEvents, 1.0),
    (SqsRequests, 3.0),
    (LambdaRequests, 1.0),
    (LambdaSeconds, INVOCATION),
    (WriteUnits, 2.0),
];

/// An event that nothing starts on: it is only written down.
pub const UNHEARD: Calls = &[(WriteUnits, 2.0)];

/// A firing of a schedule, until a run starts.
pub const TICK: Calls = &[
    (Timers, 1.0),
    (SqsRequests, 3.0),
    (LambdaRequests, 1.0),
    (LambdaSeconds, INVOCATION),
    (ReadUnits, 1.0),
    (WriteUnits, 3.0),
];

/// A run that begins: it is written, with its index entry.
pub const RUN: Calls = &[(WriteUnits, 2.0)];

/// Requests of a month by the mapping of a queue in which nothing lies: five pollers
/// that ask three times a minute.
pub const IDLE_QUEUE: f64 = 5.0 * 3.0 * 60.0 * 24.0 * super::DAYS;

/// Gigabytes that an invocation logs; an assumption of half a kilobyte.
pub const LOGS: f64 = 0.000_000_5;
