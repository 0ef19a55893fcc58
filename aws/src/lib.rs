//! The home on AWS: the engine's ports over DynamoDB, SQS, EventBridge,
//! Scheduler, S3, Secrets Manager and Lambda.

pub mod assets;
pub mod bus;
pub mod config;
pub mod endpoint;
pub mod env;
mod error;
pub mod home;
pub mod manifests;
pub mod queues;
pub mod secrets;
pub mod sensor_code;
pub mod store;
pub mod timers;

pub use bus::EventBus;
pub use config::{ConfigError, Connection};
pub use env::{Environment, MissingVariable};
pub use home::{Home, SystemClock};
pub use manifests::S3Manifests;
pub use queues::SqsQueues;
pub use secrets::SecretsManager;
pub use sensor_code::LambdaSensorCode;
pub use store::DynamoStore;
pub use timers::SchedulerTimers;
