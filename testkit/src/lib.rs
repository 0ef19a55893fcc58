//! Real servers that stand in for outside services in tests: they speak the
//! service's own protocol over HTTP, so the code under test is the code that
//! runs in earnest.

pub mod anthropic;
pub mod daytona;
