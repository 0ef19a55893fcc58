//! The real opencode against a model API on this machine.
