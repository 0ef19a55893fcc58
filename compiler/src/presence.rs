//! What is known to hold where something is read: whether a step that a
//! condition may skip has run.
//!
//! A step is skipped when its own `when` does not hold. Its outputs are then
//! absent, and each reader of one of them must have a condition that does not
//! hold either; so a step that needs an absent output is always skipped, and
//! never starts without it. A step that only waits for a skipped one, and reads
//! nothing of it or only what is optional, runs.
//!
//! So only the `when` of the producer has to be looked at: that of a producer
//! which itself reads from a third step must already imply the third one's.
//! "The same condition" means one that follows from what is known: the parts of
//! an `and` are known one by one, operands may be swapped, `not a == b` is
//! `a != b`. What a workflow's trigger asks for is known in all its steps. What
//! an expression has established on the left of an `and` (or denied on the left
//! of an `or`) is known on its right.

use crate::expression::{Expr, Kind};
use loopy_contract::expression::{Comparison, Expression};
use serde_json::Value;
use std::collections::BTreeSet;

/// Conditions that hold, each in one spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts(BTreeSet<String>);

impl Facts {
    /// Adds what follows from `expr` when it holds.
    pub(crate) fn hold(&mut self, expr: &Expr) {
        self.0.extend(follows(expr, true));
    }

    /// Adds what follows from `expr` when it does not hold.
    pub(crate) fn fail(&mut self, expr: &Expr) {
        self.0.extend(follows(expr, false));
    }

    /// Whether `expr` is sure to hold.
    pub(crate) fn imply(&self, expr: &Expr) -> bool {
        self.decide(expr, true)
    }

    /// Whether `expr` is sure to come out as `outcome`.
    fn decide(&self, expr: &Expr, outcome: bool) -> bool {
        if self.0.contains(&spelling(expr, outcome)) {
            return true;
        }
        match (&expr.kind, outcome) {
            (Kind::And(operands), true) | (Kind::Or(operands), false) => {
                operands.iter().all(|operand| self.decide(operand, outcome))
            }
            (Kind::And(operands), false) | (Kind::Or(operands), true) => {
                operands.iter().any(|operand| self.decide(operand, outcome))
            }
            (Kind::Not(operand), _) => self.decide(operand, !outcome),
            (Kind::Literal(Value::Bool(value)), _) => *value == outcome,
            _ => false,
        }
    }
}

/// What is sure when `expr` comes out as `outcome`.
fn follows(expr: &Expr, outcome: bool) -> BTreeSet<String> {
    let mut facts = match (&expr.kind, outcome) {
        (Kind::And(operands), true) | (Kind::Or(operands), false) => operands
            .iter()
            .flat_map(|operand| follows(operand, outcome))
            .collect(),
        // One of them came out so; which, is not known.
        (Kind::And(operands), false) | (Kind::Or(operands), true) => operands
            .iter()
            .map(|operand| follows(operand, outcome))
            .reduce(|a, b| a.intersection(&b).cloned().collect())
            .unwrap_or_default(),
        (Kind::Not(operand), _) => follows(operand, !outcome),
        _ => BTreeSet::new(),
    };
    facts.insert(spelling(expr, outcome));
    facts
}

/// One spelling for all that mean the same.
fn spelling(expr: &Expr, outcome: bool) -> String {
    let joined = |operands: &[Expr], word: &str, outcome| {
        let mut parts: Vec<String> = operands.iter().map(|o| spelling(o, outcome)).collect();
        parts.sort_unstable();
        format!("({})", parts.join(word))
    };
    match (&expr.kind, outcome) {
        (Kind::Not(operand), _) => spelling(operand, !outcome),
        (Kind::And(operands), true) | (Kind::Or(operands), false) => {
            joined(operands, " and ", outcome)
        }
        (Kind::Or(operands), true) | (Kind::And(operands), false) => {
            joined(operands, " or ", outcome)
        }
        (
            Kind::Compare {
                operator,
                left,
                right,
            },
            _,
        ) => compared(*operator, &left.lower(), &right.lower(), outcome),
        (_, true) => expr.lower().to_string(),
        (_, false) => format!("not {}", expr.lower()),
    }
}

fn compared(operator: Comparison, left: &Expression, right: &Expression, outcome: bool) -> String {
    use Comparison::{Equal, Greater, GreaterOrEqual, In, Less, LessOrEqual, NotIn, Unequal};
    // Orderings have no opposite: with an absent value, both are false.
    let (operator, outcome) = match (operator, outcome) {
        (Equal, false) => (Unequal, true),
        (Unequal, false) => (Equal, true),
        (In, false) => (NotIn, true),
        (NotIn, false) => (In, true),
        other => other,
    };
    let (mut left, mut right) = (format!("({left})"), format!("({right})"));
    let operator = match operator {
        Greater | GreaterOrEqual => {
            std::mem::swap(&mut left, &mut right);
            if operator == Greater {
                Less
            } else {
                LessOrEqual
            }
        }
        Equal | Unequal if left > right => {
            std::mem::swap(&mut left, &mut right);
            operator
        }
        _ => operator,
    };
    let not = if outcome { "" } else { "not " };
    format!("{not}{left} {} {right}", operator.name())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::expression::parse;

    fn implies(known: &str, wanted: &str) -> bool {
        let mut facts = Facts::default();
        facts.hold(&parse(known).unwrap());
        facts.imply(&parse(wanted).unwrap())
    }

    #[test]
    fn what_follows_is_known() {
        for (known, wanted) in [
            ("a.x == 1", "1 == a.x"),
            ("a.x == 1 and b.y", "a.x == 1"),
            ("a.x and b.y", "b.y and a.x"),
            ("a.x or b.y", "b.y or a.x"),
            ("a.x", "a.x or b.y"),
            ("not (a.x == 1)", "a.x != 1"),
            ("not (a.x or b.y)", "not a.x"),
            ("not a.x and not b.y", "not (a.x or b.y)"),
            ("(a.x and b.y) or (a.x and c.z)", "a.x"),
            ("a.x < 1", "1 > a.x"),
            ("a.x not in b.y", "not a.x in b.y"),
            ("not not a.x", "a.x"),
            ("a.x == 1", "true"),
        ] {
            assert!(implies(known, wanted), "{known} => {wanted}");
        }
    }

    #[test]
    fn what_does_not_follow_is_not_known() {
        for (known, wanted) in [
            ("a.x == 1", "a.x == 2"),
            ("a.x or b.y", "a.x"),
            ("a.x", "a.x and b.y"),
            ("not (a.x < 1)", "a.x >= 1"),
            ("not (a.x and b.y)", "not a.x"),
            ("a.x == \"1\"", "a.x == 1"),
            ("a.x in b.y", "b.y in a.x"),
        ] {
            assert!(!implies(known, wanted), "{known} => {wanted}");
        }
    }
}
