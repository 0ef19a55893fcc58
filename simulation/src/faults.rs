//! What can go wrong in the world, and how often.

use crate::rng::Rng;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A call fails before it did anything.
    FailBefore,
    /// A call does its work and fails then.
    FailAfter,
    /// The store says that somebody committed in between.
    Conflict,
    /// A process dies.
    Crash,
    /// A message is delivered twice.
    Duplicate,
    /// A message comes late.
    Delay,
    /// A message was processed, and its acknowledgement is lost.
    AckLost,
    /// The clock that the engine reads is set forward or back.
    ClockJump,
    /// A timer fires a little early, or late.
    TimerJitter,
    /// A launch takes several looks.
    SlowLaunch,
    /// A launch is refused.
    RefusedLaunch,
    /// A sandbox dies, before or during its work.
    DeadSandbox,
    /// The agent needs longer than it may.
    LateReport,
    /// A result is posted twice.
    DoubleReport,
    /// A result is posted by a sandbox that was stopped.
    ReportAfterStop,
    /// No signs of life, though the agent is at work.
    NoHeartbeat,
    /// The agent's result breaks the contract.
    BadResult,
    /// The agent reports a failure.
    FailedResult,
    /// The answer to a runner or a sender is lost.
    AnswerLost,
    /// Somebody asks something of a run.
    Command,
    /// Somebody has a run gone over again.
    Again,
    /// Another manifest becomes the current one.
    Deploy,
    /// Somebody reports for an attempt with the token of another one.
    Forgery,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::FailBefore,
        Self::FailAfter,
        Self::Conflict,
        Self::Crash,
        Self::Duplicate,
        Self::Delay,
        Self::AckLost,
        Self::ClockJump,
        Self::TimerJitter,
        Self::SlowLaunch,
        Self::RefusedLaunch,
        Self::DeadSandbox,
        Self::LateReport,
        Self::DoubleReport,
        Self::ReportAfterStop,
        Self::NoHeartbeat,
        Self::BadResult,
        Self::FailedResult,
        Self::AnswerLost,
        Self::Command,
        Self::Again,
        Self::Deploy,
        Self::Forgery,
    ];

    /// How often at most, in a thousand chances.
    fn most(self) -> u64 {
        match self {
            Self::FailBefore | Self::FailAfter | Self::Deploy | Self::Forgery => 8,
            Self::Crash | Self::ClockJump => 6,
            Self::Conflict => 30,
            Self::Command | Self::Again => 10,
            Self::Duplicate | Self::AckLost | Self::AnswerLost => 60,
            Self::DoubleReport | Self::ReportAfterStop => 250,
            Self::Delay | Self::TimerJitter => 300,
            Self::SlowLaunch => 200,
            Self::RefusedLaunch | Self::LateReport | Self::NoHeartbeat => 40,
            Self::DeadSandbox | Self::BadResult => 100,
            Self::FailedResult => 150,
        }
    }
}

/// How often each kind of trouble comes.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    rates: [u64; Fault::ALL.len()],
}

impl Weather {
    /// Of a seed: some kinds of trouble are left out, so that the others are
    /// seen by themselves.
    pub(crate) fn draw(rng: &mut Rng, without: &[Fault]) -> Self {
        let strength = *rng.pick(&[0, 30, 60, 100, 150, 300]).unwrap_or(&100);
        let mut rates = [0; Fault::ALL.len()];
        for fault in Fault::ALL {
            let there = rng.chance(650);
            let part = rng.between(20, 100).unsigned_abs();
            if let Some(rate) = rates.get_mut(fault as usize)
                && there
                && !without.contains(&fault)
            {
                *rate = fault.most() * part * strength / 10_000;
            }
        }
        Self { rates }
    }

    /// Nothing goes wrong.
    pub(crate) fn calm() -> Self {
        Self {
            rates: [0; Fault::ALL.len()],
        }
    }

    /// Whether it happens now.
    pub(crate) fn strikes(&self, fault: Fault, rng: &mut Rng) -> bool {
        // Drawn in any case, so that what is left out moves little else.
        let dice = rng.below(1000);
        self.rates
            .get(fault as usize)
            .is_some_and(|rate| dice < *rate)
    }
}
