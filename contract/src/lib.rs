//! What the parts of Loopy agree upon: the manifest, events, the report
//! protocol and the schema check. Links no parser and no cloud SDK, so the
//! runner inside a sandbox and every function can depend on it.

pub mod cron;
pub mod event;
pub mod expression;
pub mod failure;
pub mod files;
pub mod ids;
pub mod manifest;
pub mod mapping;
pub mod price;
pub mod report;
pub mod repository;
pub mod schema;
pub mod seal;
mod sorted;
