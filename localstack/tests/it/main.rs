//! A project from its folder to a stack on an AWS-compatible endpoint, and what
//! it does there; and the same project on one machine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod around;
mod back;
mod binaries;
mod burst;
mod clock;
mod credentials;
mod deployed;
mod deploys;
mod enforced;
mod fargate;
mod forms;
mod here;
mod hostile;
mod large;
mod machine;
mod orders;
mod plain;
mod project;
mod secrets;
mod sensors;
mod stack;
mod story;
mod stuck;
