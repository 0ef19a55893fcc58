//! Real servers that stand in for outside services in tests: they speak the
//! service's own protocol over HTTP, so the code under test is the code that
//! runs in earnest. And a client that stands in for an editor.

pub mod anthropic;
pub mod daytona;
pub mod editor;
pub mod git;
pub mod github;
mod host;
pub mod openai;
