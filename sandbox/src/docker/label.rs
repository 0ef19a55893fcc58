//! The labels on all that Loopy makes in a Docker engine. They are all that has to be
//! known of a container.

/// On all that Loopy makes.
pub(super) const LOOPY: &str = "loopy";
/// The state directory of the project.
pub(super) const PROJECT: &str = "loopy.project";
/// The run's id.
pub(super) const RUN: &str = "loopy.run";
/// The step's name.
pub(super) const STEP: &str = "loopy.step";
/// The attempt's number.
pub(super) const ATTEMPT: &str = "loopy.attempt";
/// The client token.
pub(super) const TOKEN: &str = "loopy.token";
/// The sandbox's `network`, as JSON.
pub(super) const NETWORK: &str = "loopy.network";
/// What a sandbox without keys of its own may use of models, as JSON; absent on those
/// that have their keys.
pub(super) const MODELS: &str = "loopy.models";
