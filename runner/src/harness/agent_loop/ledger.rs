//! What the loop may still use, and what it has used. Pure: no clock, no IO.
//!
//! Before a call the ledger is told the most tokens its prompt can have, and says
//! how many tokens the answer may have, or why there is no call. So nothing is sent
//! that could pass a ceiling, and the answer is clamped to what is left.

use loopy_contract::price::Price;
use loopy_contract::report::{FailureClass, Usage};
use serde::Serialize;
use std::time::Duration;

/// An answer shorter than this would be cut before it does anything, and paid for.
pub(super) const SHORTEST_ANSWER: u64 = 256;

/// The ceilings, and what a token costs.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// Tokens, read and written together.
    pub(super) tokens: Option<u64>,
    /// Dollars.
    pub(super) usd: Option<f64>,
    /// Answers of the model.
    pub(super) turns: Option<u32>,
    /// What tokens cost, where it is known.
    pub(super) price: Option<Price>,
    /// What a token costs that is written to the provider's cache, as a multiple
    /// of one that is only read.
    pub(super) cache_write: f64,
    /// The most tokens of an answer that are asked for.
    pub(super) longest_answer: u64,
}

/// Why a call is not made.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Refusal {
    /// All turns are used.
    #[error("the loop has used all its {0} turns; raise `budget.turns` if it needs more")]
    Turns(u32),
    /// The prompt, or an answer worth having, does not fit in what is left.
    #[error(
        "of the {limit} tokens {used} are used, and the next prompt may have {estimate} and needs \
         {SHORTEST_ANSWER} for its answer, so it was not sent; raise `budget.tokens` if it needs more"
    )]
    Tokens {
        /// The ceiling.
        limit: u64,
        /// Used so far.
        used: u64,
        /// The most the next prompt can have.
        estimate: u64,
    },
    /// As for tokens, in dollars.
    #[error(
        "of the ${limit} ${used:.4} are spent, and the next call may cost ${worst:.4}, so it was not \
         made; raise `budget.spend` if it needs more"
    )]
    Dollars {
        /// The ceiling.
        limit: f64,
        /// Spent so far.
        used: f64,
        /// What a call with a short answer may cost.
        worst: f64,
    },
    /// Dollars are limited, and nobody knows what the model costs.
    #[error(
        "the step's dollars are limited, and the price of its model is not known; say it under \
         `prices` in registry.yml"
    )]
    NoPrice,
    /// No time is left.
    #[error("the step's time is used up; raise `budget.wall_clock` if it needs more")]
    Time,
}

impl Refusal {
    /// The class of the failure that it makes.
    pub(super) fn class(&self) -> FailureClass {
        match self {
            Self::Time => FailureClass::Timeout,
            _ => FailureClass::Budget,
        }
    }
}

/// A call that may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The most tokens its prompt can have.
    pub(super) estimate: u64,
    /// The most its answer may have.
    pub(super) max_tokens: u64,
}

/// What an answer says it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Spent {
    /// Tokens read, those of the cache included.
    pub(super) input: u64,
    /// Of them, read from the cache.
    pub(super) cached: u64,
    /// Of them, written to the cache.
    pub(super) cache_written: u64,
    /// Tokens written.
    pub(super) output: u64,
}

/// What has been used so far.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    limits: Limits,
    usage: Usage,
    /// Tokens and dollars of requests that were sent and never answered. The
    /// provider may charge them: they count against the ceilings, and are no
    /// figure that anybody reported.
    unsure: (u64, f64),
}

impl Ledger {
    /// An empty one.
    pub(super) fn new(limits: Limits) -> Self {
        let usage = Usage {
            usd: limits.price.map(|_| 0.0),
            ..Usage::default()
        };
        Self {
            limits,
            usage,
            unsure: (0, 0.0),
        }
    }

    /// What was used.
    pub(super) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// A call whose prompt has `estimate` tokens at most, with `spare` time beside
    /// what the end of the step needs.
    ///
    /// # Errors
    /// The ceiling that the call could pass.
    pub(super) fn admit(&self, estimate: u64, spare: Duration) -> Result<Call, Refusal> {
        if spare.is_zero() {
            return Err(Refusal::Time);
        }
        if let Some(limit) = self.limits.turns
            && self.usage.turns >= limit
        {
            return Err(Refusal::Turns(limit));
        }
        let mut max_tokens = self.limits.longest_answer.max(SHORTEST_ANSWER);
        if let Some(limit) = self.limits.tokens {
            let used = self.usage.input_tokens + self.usage.output_tokens + self.unsure.0;
            let left = limit.saturating_sub(used).saturating_sub(estimate);
            if left < SHORTEST_ANSWER {
                return Err(Refusal::Tokens {
                    limit,
                    used,
                    estimate,
                });
            }
            max_tokens = max_tokens.min(left);
        }
        if let Some(limit) = self.limits.usd {
            let price = self.limits.price.ok_or(Refusal::NoPrice)?;
            let used = self.usage.usd.unwrap_or_default() + self.unsure.1;
            let fits = |output: u64| used + self.worst(price, estimate, output) <= limit;
            if !fits(SHORTEST_ANSWER) {
                return Err(Refusal::Dollars {
                    limit,
                    used,
                    worst: self.worst(price, estimate, SHORTEST_ANSWER),
                });
            }
            // The most that fits, found by halving: no rounding to get wrong.
            let (mut fitting, mut past) = (SHORTEST_ANSWER, max_tokens + 1);
            while past - fitting > 1 {
                let middle = fitting + (past - fitting) / 2;
                if fits(middle) {
                    fitting = middle;
                } else {
                    past = middle;
                }
            }
            max_tokens = fitting;
        }
        Ok(Call {
            estimate,
            max_tokens,
        })
    }

    /// Books an answer.
    pub(super) fn answered(&mut self, spent: &Spent) {
        self.usage.turns += 1;
        self.usage.input_tokens += spent.input;
        self.usage.output_tokens += spent.output;
        if let Some(price) = self.limits.price {
            let usd = price.usd(spent.input, spent.cached, spent.output)
                + price.usd(spent.cache_written, 0, 0) * (self.limits.cache_write - 1.0).max(0.0);
            *self.usage.usd.get_or_insert(0.0) += usd;
        }
    }

    /// Books a call that was sent and not answered.
    pub(super) fn unanswered(&mut self, call: &Call) {
        self.unsure.0 += call.estimate + call.max_tokens;
        if let Some(price) = self.limits.price {
            self.unsure.1 += self.worst(price, call.estimate, call.max_tokens);
        }
    }

    /// The most that a call can cost.
    fn worst(&self, price: Price, input: u64, output: u64) -> f64 {
        price.usd(input, 0, 0) * self.limits.cache_write.max(1.0) + price.usd(0, 0, output)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const LONGEST: u64 = 8000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn limits() -> impl Strategy<Value = Limits> {
        (
            proptest::option::of(0_u64..200_000),
            proptest::option::of(0.0..3.0_f64),
            proptest::option::of(0_u32..20),
            (0.0..30.0_f64, 0.0..180.0_f64, 0.0..1.0_f64),
            prop_oneof![Just(1.0), Just(1.25)],
        )
            .prop_map(
                |(tokens, usd, turns, (input, output, part), cache_write)| Limits {
                    tokens,
                    usd,
                    turns,
                    price: Some(Price {
                        input,
                        output,
                        cached: Some(input * part),
                    }),
                    cache_write,
                    longest_answer: LONGEST,
                },
            )
    }

    proptest! {
        /// Whatever the model reports, within the prompt's estimate and its own
        /// `max_tokens`: no ceiling is passed, not by a token.
        #[test]
        fn no_ceiling_is_ever_passed(
            limits in limits(),
            calls in proptest::collection::vec(
                (0_u64..60_000, 0.0..=1.0_f64, 0.0..=1.0_f64, 0.0..=1.0_f64, any::<bool>()), 1..40),
        ) {
            let mut unsure = (0, 0.0);
            let mut ledger = Ledger::new(limits.clone());
            for (estimate, read, cached, written, lost) in calls {
                let Ok(call) = ledger.admit(estimate, HOUR) else { continue };
                prop_assert!(call.max_tokens >= SHORTEST_ANSWER && call.max_tokens <= LONGEST);
                if lost {
                    ledger.unanswered(&call);
                    let price = limits.price.unwrap();
                    unsure.0 += estimate + call.max_tokens;
                    unsure.1 += price.usd(estimate, 0, call.max_tokens);
                } else {
                    let input = (estimate as f64 * read) as u64;
                    let from_cache = (input as f64 * cached) as u64;
                    ledger.answered(&Spent {
                        input,
                        cached: from_cache,
                        cache_written: input - from_cache,
                        output: (call.max_tokens as f64 * written) as u64,
                    });
                }
                let usage = ledger.usage();
                if let Some(limit) = limits.tokens {
                    prop_assert!(usage.input_tokens + usage.output_tokens + unsure.0 <= limit);
                }
                if let Some(limit) = limits.usd {
                    prop_assert!(usage.usd.unwrap() + unsure.1 <= limit + 1e-9);
                }
                if let Some(limit) = limits.turns {
                    prop_assert!(usage.turns <= limit);
                }
            }
        }

        /// The clamp takes no more than it must: one token more would not fit.
        #[test]
        fn the_clamp_leaves_nothing_lying(tokens in 300_u64..30_000, estimate in 0_u64..20_000) {
            let ledger = Ledger::new(Limits { tokens: Some(tokens), longest_answer: LONGEST, ..Limits::default() });
            match ledger.admit(estimate, HOUR) {
                Ok(call) => prop_assert!(
                    call.max_tokens == LONGEST || estimate + call.max_tokens == tokens
                ),
                Err(refusal) => {
                    prop_assert!(estimate + SHORTEST_ANSWER > tokens);
                    prop_assert_eq!(refusal.class(), FailureClass::Budget);
                }
            }
        }
    }

    #[test]
    fn a_hundred_tokens_buy_no_prompt_of_ten_thousand() {
        let ledger = Ledger::new(Limits {
            tokens: Some(100),
            ..Limits::default()
        });
        let refused = ledger.admit(10_000, HOUR).unwrap_err();
        assert_eq!(
            refused,
            Refusal::Tokens {
                limit: 100,
                used: 0,
                estimate: 10_000
            }
        );
    }

    #[test]
    fn dollars_without_a_price_buy_nothing() {
        let ledger = Ledger::new(Limits {
            usd: Some(5.0),
            ..Limits::default()
        });
        assert_eq!(ledger.admit(1, HOUR), Err(Refusal::NoPrice));
    }

    #[test]
    fn no_time_is_a_timeout_and_not_a_budget() {
        let refused = Ledger::new(Limits::default())
            .admit(1, Duration::ZERO)
            .unwrap_err();
        assert_eq!(refused.class(), FailureClass::Timeout);
    }

    #[test]
    fn a_prompt_may_be_written_to_the_cache_as_a_whole() {
        let mut ledger = Ledger::new(Limits {
            usd: Some(0.0225),
            price: Some(Price {
                input: 1.0,
                output: 10.0,
                cached: None,
            }),
            cache_write: 1.25,
            longest_answer: LONGEST,
            ..Limits::default()
        });
        let call = ledger.admit(10_000, HOUR).unwrap();
        assert!((999..=1000).contains(&call.max_tokens), "{call:?}");
        ledger.answered(&Spent {
            input: 10_000,
            cache_written: 10_000,
            output: call.max_tokens,
            ..Spent::default()
        });
        let usd = ledger.usage().usd.unwrap();
        assert!((0.0224..=0.0225).contains(&usd), "{usd}");
    }

    #[test]
    fn dollars_clamp_the_answer() {
        let ledger = Ledger::new(Limits {
            usd: Some(0.02),
            price: Some(Price {
                input: 1.0,
                output: 10.0,
                cached: None,
            }),
            cache_write: 1.0,
            longest_answer: LONGEST,
            ..Limits::default()
        });
        // Ten thousand read are one cent; the other buys a thousand written.
        let call = ledger.admit(10_000, HOUR).unwrap();
        assert!((999..=1000).contains(&call.max_tokens), "{call:?}");
    }
}
