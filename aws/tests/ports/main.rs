//! The ports over a running AWS-compatible endpoint.

mod account;
mod bus;
mod dead_letters;
mod fargate;
mod manifests;
mod packs;
mod queues;
mod replay;
mod secrets;
mod sensor_code;
mod store;
mod timers;
