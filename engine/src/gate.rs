//! A gate: what lets so many attempts through at a time, or so much money.
//! Pure; the same rules stand behind `concurrency` (places) and behind the caps
//! of `limits` (millionths of a dollar, of which what was spent stays gone).
//!
//! Everything is idempotent by the holder's name: asking again answers what was
//! answered before, giving back twice changes nothing.
//!
//! **Who comes first goes first.** One that asks is let through only when all
//! that wait before it fit as well; so nobody waits for ever behind smaller or
//! later ones.
//!
//! **Nothing is held for ever.** What a holder was given ends at a moment of its
//! own, after which its attempt cannot be at work any more. Money whose holder
//! never told what it spent counts as spent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Millionths in a dollar.
const MICRO: f64 = 1_000_000.0;

/// What a float of dollars is off by, in millionths, however large the amount.
const NOISE: f64 = 1e-3;

/// Millionths of a dollar, rounded up: a cap must not be overshot by rounding.
/// What is not a positive amount is nothing. Whole millionths that became dollars
/// come back as they were.
pub fn micro_usd(usd: f64) -> u64 {
    // `as` ends at the largest number for what is larger.
    (usd * MICRO - NOISE).ceil().max(0.0) as u64
}

/// Who is let through, who waits, and what is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// What there is in all, as it was last said.
    pub capacity: u64,
    /// Gone for good.
    pub spent: u64,
    /// Those that were let through, oldest first.
    pub holders: Vec<Holder>,
    /// Those that wait, in their order.
    pub waiting: Vec<Waiter>,
}

/// One that was let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub amount: u64,
    /// When it cannot be at work any more.
    pub until: Timestamp,
}

/// One that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Its name.
    pub name: String,
    /// What it asks for; all that is not spent, when absent.
    pub amount: Option<u64>,
}

/// What one that asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Granted,
    /// Not now: others hold what it needs.
    Wait,
    /// Never: not even with nobody else there.
    Refused,
}

impl Gate {
    /// What is held and gone.
    pub fn taken(&self) -> u64 {
        let held = self.holders.iter().map(|holder| holder.amount);
        held.fold(self.spent, u64::saturating_add)
    }

    /// What is asked for when it is all that is not spent. Of nothing, nothing can
    /// be had.
    fn amount(&self, asked: Option<u64>) -> u64 {
        asked.unwrap_or_else(|| self.capacity.saturating_sub(self.spent).max(1))
    }

    /// Asks for `amount`, or for all that is not spent, until `until`. One that has
    /// to wait keeps its place in the order.
    pub fn ask(
        &mut self,
        name: &str,
        amount: Option<u64>,
        now: Timestamp,
        until: Timestamp,
    ) -> Verdict {
        self.expire(now);
        if self.holders.iter().any(|holder| holder.name == name) {
            return Verdict::Granted;
        }
        if self.spent.saturating_add(self.amount(amount)) > self.capacity {
            self.waiting.retain(|waiter| waiter.name != name);
            return Verdict::Refused;
        }
        match self.waiting.iter_mut().find(|waiter| waiter.name == name) {
            Some(waiter) => waiter.amount = amount,
            None => self.waiting.push(Waiter {
                name: name.to_owned(),
                amount,
            }),
        }
        if !self.next().iter().any(|next| next == name) {
            return Verdict::Wait;
        }
        self.waiting.retain(|waiter| waiter.name != name);
        self.holders.push(Holder {
            name: name.to_owned(),
            amount: self.amount(amount),
            until,
        });
        Verdict::Granted
    }

    /// Gives back what `name` holds, or its place in the order. Of what it held
    /// `spent` is gone for good. False when it held nothing and did not wait.
    pub fn give_back(&mut self, name: &str, spent: u64) -> bool {
        let before = (self.holders.len(), self.waiting.len());
        if self.holders.iter().any(|holder| holder.name == name) {
            self.spent = self.spent.saturating_add(spent);
        }
        self.holders.retain(|holder| holder.name != name);
        self.waiting.retain(|waiter| waiter.name != name);
        before != (self.holders.len(), self.waiting.len())
    }

    /// Takes away what `name` holds other than until `kept`, and its place in the
    /// order: it asked again when it was over already. Nothing of that was spent.
    /// False when there was nothing to take.
    pub fn take_away(&mut self, name: &str, kept: Option<Timestamp>) -> bool {
        let before = (self.holders.len(), self.waiting.len());
        self.holders
            .retain(|holder| holder.name != name || Some(holder.until) == kept);
        self.waiting.retain(|waiter| waiter.name != name);
        before != (self.holders.len(), self.waiting.len())
    }

    /// Those that wait and may go on now, in their order.
    pub fn next(&self) -> Vec<String> {
        let mut taken = self.taken();
        let mut next = Vec::new();
        for waiter in &self.waiting {
            taken = taken.saturating_add(self.amount(waiter.amount));
            if taken > self.capacity {
                break;
            }
            next.push(waiter.name.clone());
        }
        next
    }

    /// The name of the one that was let through first.
    pub fn oldest(&self) -> Option<&str> {
        self.holders.first().map(|holder| holder.name.as_str())
    }

    /// Takes away what is held past its moment. It counts as spent: of places
    /// nothing is ever spent, see [`Gate::places`].
    fn expire(&mut self, now: Timestamp) {
        let over = |holder: &Holder| holder.until < now;
        let spent = self.holders.iter().filter(|holder| over(holder));
        self.spent = spent
            .map(|holder| holder.amount)
            .fold(self.spent, u64::saturating_add);
        self.holders.retain(|holder| !over(holder));
    }

    /// For a gate of places: a place whose holder is gone is free again.
    pub fn places(&mut self, now: Timestamp) {
        self.expire(now);
        self.spent = 0;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn of(capacity: u64) -> Gate {
        Gate {
            capacity,
            ..Gate::default()
        }
    }

    #[test]
    fn who_comes_first_goes_first_even_when_a_smaller_one_would_fit() {
        let mut gate = of(10);
        let end = at(100);
        assert_eq!(gate.ask("a", Some(6), at(0), end), Verdict::Granted);
        assert_eq!(gate.ask("b", Some(6), at(1), end), Verdict::Wait);
        assert_eq!(gate.ask("c", Some(1), at(2), end), Verdict::Wait);
        assert!(gate.give_back("a", 0));
        assert_eq!(gate.next(), ["b", "c"]);
        assert_eq!(gate.ask("c", Some(1), at(3), end), Verdict::Granted);
        assert_eq!(gate.ask("b", Some(6), at(3), end), Verdict::Granted);
    }

    #[test]
    fn what_was_spent_stays_gone_and_what_cannot_fit_is_refused() {
        let mut gate = of(10);
        assert_eq!(gate.ask("a", Some(6), at(0), at(9)), Verdict::Granted);
        assert!(gate.give_back("a", 5));
        assert!(!gate.give_back("a", 5));
        assert_eq!(gate.taken(), 5);
        assert_eq!(gate.ask("b", Some(6), at(0), at(9)), Verdict::Refused);
        assert_eq!(gate.ask("b", Some(5), at(0), at(9)), Verdict::Granted);
    }

    #[test]
    fn one_that_asks_again_when_it_is_over_keeps_nothing_and_pays_nothing() {
        let mut gate = of(10);
        assert_eq!(gate.ask("a", Some(6), at(0), at(9)), Verdict::Granted);
        assert!(gate.give_back("a", 5));
        assert_eq!(gate.ask("a", Some(5), at(1), at(10)), Verdict::Granted);
        assert!(gate.take_away("a", Some(at(9))));
        assert_eq!(gate.taken(), 5);
        // What it holds by right stays.
        assert_eq!(gate.ask("b", Some(5), at(1), at(10)), Verdict::Granted);
        assert!(!gate.take_away("b", Some(at(10))));
        assert_eq!(gate.taken(), 10);
    }

    #[test]
    fn a_holder_that_never_comes_back_does_not_hold_for_ever() {
        let mut gate = of(10);
        assert_eq!(gate.ask("a", Some(4), at(0), at(9)), Verdict::Granted);
        assert_eq!(gate.ask("b", Some(7), at(9), at(20)), Verdict::Wait);
        assert_eq!(gate.ask("b", Some(7), at(10), at(20)), Verdict::Refused);
        assert_eq!(gate.spent, 4);
        gate.places(at(11));
        assert_eq!(gate.ask("b", Some(7), at(11), at(20)), Verdict::Granted);
    }

    #[test]
    fn one_that_asks_for_the_rest_is_woken_when_the_others_are_done() {
        let mut gate = of(10);
        assert_eq!(gate.ask("a", Some(6), at(0), at(9)), Verdict::Granted);
        assert_eq!(gate.ask("b", None, at(0), at(9)), Verdict::Wait);
        assert!(gate.next().is_empty());
        gate.give_back("a", 7);
        assert_eq!(gate.next(), ["b"]);
        assert_eq!(gate.ask("b", None, at(0), at(9)), Verdict::Granted);
        assert_eq!(gate.holders[0].amount, 3);
        gate.give_back("b", 3);
        assert_eq!(gate.ask("c", None, at(0), at(9)), Verdict::Refused);
    }

    #[test]
    fn dollars_are_rounded_up() {
        assert_eq!(micro_usd(0.000_000_1), 1);
        assert_eq!(micro_usd(4.0), 4_000_000);
        assert_eq!(micro_usd(-1.0), 0);
        assert_eq!(micro_usd(f64::NAN), 0);
        // 3.66 dollars are a little more than 3660000 millionths, as floats go.
        for micro in [3_660_000, 4_070_000, 4_550_000, 999_999_999_999_u64] {
            assert_eq!(micro_usd(micro as f64 / 1e6), micro);
        }
    }

    #[derive(Clone, Debug)]
    enum Move {
        Ask(u8, Option<u64>),
        GiveBack(u8, u64),
        Pass(i64),
    }

    fn a_move() -> impl Strategy<Value = Move> {
        prop_oneof![
            4 => (0..8_u8, proptest::option::weighted(0.8, 0..6_u64)).prop_map(|(who, amount)| Move::Ask(who, amount)),
            3 => (0..8_u8, 0..6_u64).prop_map(|(who, spent)| Move::GiveBack(who, spent)),
            1 => (0..40_i64).prop_map(Move::Pass),
        ]
    }

    proptest! {
        /// Against a model that knows only who holds how much until when.
        #[test]
        fn the_gate_does_as_the_ledger_says(
            capacity in 0..12_u64,
            moves in proptest::collection::vec(a_move(), 1..60),
        ) {
            let mut gate = of(capacity);
            let mut now = at(0);
            let mut held: BTreeMap<String, (u64, Timestamp)> = BTreeMap::new();
            let mut spent = 0_u64;
            for one in moves {
                match one {
                    Move::Pass(seconds) => now += SignedDuration::from_secs(seconds),
                    Move::Ask(who, amount) => {
                        let name = format!("h{who}");
                        let until = now + SignedDuration::from_secs(30);
                        held.retain(|_, (amount, until)| {
                            let over = *until < now;
                            spent += if over { *amount } else { 0 };
                            !over
                        });
                        let before = held.clone();
                        match gate.ask(&name, amount, now, until) {
                            Verdict::Granted => {
                                let amount = amount.unwrap_or(capacity - spent.min(capacity));
                                held.entry(name.clone()).or_insert((amount, until));
                            }
                            Verdict::Wait => prop_assert!(!before.contains_key(&name)),
                            Verdict::Refused => prop_assert!(spent + amount.unwrap_or(1) > capacity),
                        }
                        let total: u64 = held.values().map(|(amount, _)| amount).sum();
                        if held.len() > before.len() {
                            prop_assert!(spent + total <= capacity, "overshot: {gate:?}");
                        }
                    }
                    Move::GiveBack(who, amount) => {
                        let name = format!("h{who}");
                        gate.give_back(&name, amount);
                        if held.remove(&name).is_some() {
                            spent += amount;
                        }
                    }
                }
                let total: u64 = held.values().map(|(amount, _)| amount).sum();
                prop_assert_eq!(gate.taken(), spent + total);
                prop_assert_eq!(gate.holders.len(), held.len());
                // Whoever may go on does when it asks again.
                for next in gate.next() {
                    let waiter = gate.waiting.iter().find(|w| w.name == next).unwrap();
                    let mut copy = gate.clone();
                    let verdict = copy.ask(&next, waiter.amount, now, now);
                    prop_assert!(verdict != Verdict::Wait, "{gate:?} {next}");
                }
            }
        }
    }
}
