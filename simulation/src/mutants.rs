//! Deliberate bugs. The laws have to notice each of them, or they are worth
//! nothing.

use crate::executor::give_way;
use crate::ports::SimPorts;
use loopy_engine::gate::Gate;
use loopy_engine::outgoing::outgoing;
use loopy_engine::ports::PortError;
use loopy_engine::run::{Effect, Run};

/// A deliberate bug of the driver or of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Messages are acknowledged as they are received.
    AckBeforeCommit,
    /// Effects are performed before the state that asks for them is durable.
    EffectsBeforeCommit,
    /// An emitted event gets another id each time it is published.
    RandomEventId,
    /// A sandbox is launched under another client token each time.
    RandomClientToken,
    /// The store writes whatever version it is given.
    NoVersion,
    /// The time limit is disarmed before the other effects of an attempt.
    DisarmFirst,
    /// What is given back is taken from whoever holds it longest.
    ReleaseWithoutKey,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AckBeforeCommit,
        Self::EffectsBeforeCommit,
        Self::RandomEventId,
        Self::RandomClientToken,
        Self::NoVersion,
        Self::DisarmFirst,
        Self::ReleaseWithoutKey,
    ];
}

/// Performs what is pending before it is committed.
pub(crate) async fn effects_first(ports: &SimPorts, run: &Run) -> Result<(), PortError> {
    let now = ports.world.lock().shown();
    for pending in &run.pending {
        give_way().await;
        for one in outgoing(run, &pending.effect, now).into_iter().flatten() {
            ports.world.lock().perform(one);
        }
    }
    Ok(())
}

/// Moves what disarms to the front.
pub(crate) fn disarm_first(run: &mut Run) {
    run.pending
        .sort_by_key(|pending| !matches!(pending.effect, Effect::DisarmTimeLimit { .. }));
}

/// Where a holder is to go, the first one goes.
pub(crate) fn release_another(before: Option<Gate>, text: &mut String) {
    let (Some(before), Ok(mut after)) = (before, serde_json::from_str::<Gate>(text)) else {
        return;
    };
    if after.holders.len() < before.holders.len() {
        after.holders = before.holders.into_iter().skip(1).collect();
        if let Ok(written) = serde_json::to_string(&after) {
            *text = written;
        }
    }
}
