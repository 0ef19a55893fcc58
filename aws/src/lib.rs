//! The home on AWS: the engine's ports over DynamoDB, SQS, EventBridge,
//! Scheduler, S3, Secrets Manager and Lambda.

pub mod assets;
pub mod bus;
pub mod claims;
pub mod config;
pub mod dead_letters;
pub mod direct;
pub mod endpoint;
pub mod env;
mod error;
pub mod fargate;
pub mod home;
mod large;
pub mod manifests;
pub mod packs;
pub mod parts;
pub mod queues;
pub mod secrets;
pub mod sensor_code;
pub mod store;
pub mod timers;
pub mod transcripts;
mod wrapped;

pub use bus::EventBus;
pub use config::{ConfigError, Connection};
pub use dead_letters::{SqsDeadLetter, SqsDeadLetters};
pub use env::{Environment, MissingVariable};
pub use fargate::Fargate;
pub use home::{Home, SystemClock};
pub use manifests::S3Manifests;
pub use packs::S3Packs;
pub use parts::Parts;
pub use queues::SqsQueues;
pub use secrets::SecretsManager;
pub use sensor_code::LambdaSensorCode;
pub use store::DynamoStore;
pub use timers::SchedulerTimers;
pub use transcripts::S3Transcripts;
