//! The home on AWS: the engine's ports over DynamoDB, SQS, EventBridge,
//! Scheduler, S3, Secrets Manager and Lambda.

pub mod endpoint;
