//! What a condition comes out as, given the values it reads. See
//! [`loopy_contract::expression`] for what it means.

use jiff::Timestamp;
use loopy_contract::expression::{Comparison, Condition, Expression};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Values by producer, as [`loopy_contract::report::Envelope::values`] has them.
pub type Values = BTreeMap<String, Value>;

/// Whether the condition holds.
pub fn holds(condition: &Condition, values: &Values) -> bool {
    truth(&evaluate(&condition.expression, values))
}

/// A field of a producer: of a list of outputs the list of that field. Without a
/// name, the producer as a whole. What is absent is null.
pub fn field<'a>(values: &'a Values, producer: &str, name: &str) -> Cow<'a, Value> {
    match values.get(producer) {
        None => Cow::Owned(Value::Null),
        Some(whole) if name.is_empty() => Cow::Borrowed(whole),
        Some(Value::Array(outputs)) => Cow::Owned(
            outputs
                .iter()
                .map(|output| output.get(name).cloned().unwrap_or_default())
                .collect(),
        ),
        Some(fields) => fields
            .get(name)
            .map_or(Cow::Owned(Value::Null), Cow::Borrowed),
    }
}

fn truth(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn evaluate<'a>(expression: &'a Expression, values: &'a Values) -> Cow<'a, Value> {
    let bool = |value: bool| Cow::Owned(Value::Bool(value));
    match expression {
        Expression::Literal { value } => Cow::Borrowed(value),
        Expression::Reference {
            producer,
            field: name,
        } => field(values, producer, name),
        Expression::Not { operand } => bool(!truth(&evaluate(operand, values))),
        Expression::And { operands } => bool(
            operands
                .iter()
                .all(|operand| truth(&evaluate(operand, values))),
        ),
        Expression::Or { operands } => bool(
            operands
                .iter()
                .any(|operand| truth(&evaluate(operand, values))),
        ),
        Expression::Compare {
            operator,
            left,
            right,
        } => {
            let (left, right) = (evaluate(left, values), evaluate(right, values));
            bool(compare(*operator, &left, &right))
        }
    }
}

fn compare(operator: Comparison, left: &Value, right: &Value) -> bool {
    let ordered = |wanted: fn(Ordering) -> bool| order(left, right).is_some_and(wanted);
    match operator {
        Comparison::Equal => equal(left, right),
        Comparison::Unequal => !equal(left, right),
        Comparison::Less => ordered(Ordering::is_lt),
        Comparison::LessOrEqual => ordered(Ordering::is_le),
        Comparison::Greater => ordered(Ordering::is_gt),
        Comparison::GreaterOrEqual => ordered(Ordering::is_ge),
        Comparison::In => contains(right, left),
        // The compiler counts on this being the very opposite.
        Comparison::NotIn => !contains(right, left),
    }
}

fn contains(list: &Value, wanted: &Value) -> bool {
    !wanted.is_null()
        && list
            .as_array()
            .is_some_and(|list| list.iter().any(|item| equal(item, wanted)))
}

fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            numbers(left, right) == Some(Ordering::Equal)
        }
        _ => left == right,
    }
}

/// Numbers and times have an order; all else has none.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => numbers(left, right),
        (Value::String(left), Value::String(right)) => {
            let (left, right): (Timestamp, Timestamp) = (left.parse().ok()?, right.parse().ok()?);
            Some(left.cmp(&right))
        }
        _ => None,
    }
}

/// Whole numbers are compared exactly, as a float cannot tell large ones apart.
fn numbers(left: &Number, right: &Number) -> Option<Ordering> {
    if let (Some(left), Some(right)) = (left.as_i128(), right.as_i128()) {
        return Some(left.cmp(&right));
    }
    left.as_f64()?.partial_cmp(&right.as_f64()?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn reference(name: &str) -> Value {
        let (producer, field) = name.split_once('.').unwrap();
        json!({"kind": "reference", "producer": producer, "field": field})
    }

    fn literal(value: Value) -> Value {
        json!({"kind": "literal", "value": value})
    }

    fn check(left: Value, operator: &str, right: Value) -> bool {
        let tree = json!({"kind": "compare", "operator": operator, "left": left, "right": right});
        let condition = Condition {
            source: String::new(),
            expression: serde_json::from_value(tree).unwrap(),
        };
        let values = json!({
            "event": {"n": 3, "at": "2026-01-01T01:00:00+01:00", "tags": ["a", "b"], "gone": null},
            "build": [{"ok": true, "n": 1}, {"n": 2}],
        });
        holds(&condition, &serde_json::from_value(values).unwrap())
    }

    #[test]
    fn values_are_compared_by_what_they_are() {
        assert!(check(reference("event.n"), "==", literal(json!(3.0))));
        assert!(check(reference("event.n"), "<", literal(json!(3.5))));
        assert!(check(
            literal(json!(u64::MAX)),
            "!=",
            literal(json!(u64::MAX - 1))
        ));
        // The same moment in two zones.
        let utc = literal(json!("2026-01-01T00:00:00Z"));
        assert!(check(reference("event.at"), ">=", utc.clone()));
        assert!(!check(reference("event.at"), "<", utc));
        assert!(!check(literal(json!("a")), "<", literal(json!("b"))));
        assert!(check(literal(json!("a")), "in", reference("event.tags")));
        assert!(check(
            literal(json!("z")),
            "not in",
            reference("event.tags")
        ));
        assert!(check(reference("build.n"), "==", literal(json!([1, 2]))));
        assert!(check(
            reference("build.ok"),
            "==",
            literal(json!([true, null]))
        ));
    }

    #[test]
    fn what_is_absent_equals_only_itself() {
        for absent in ["event.gone", "event.other", "nobody.x"] {
            let absent = reference(absent);
            assert!(check(absent.clone(), "==", literal(Value::Null)));
            assert!(!check(absent.clone(), "==", literal(json!(0))));
            for operator in ["<", "<=", ">", ">="] {
                assert!(!check(absent.clone(), operator, literal(json!(1))));
            }
            assert!(!check(absent.clone(), "in", reference("event.tags")));
            assert!(!check(literal(json!("a")), "in", absent.clone()));
            assert!(check(literal(json!("a")), "not in", absent));
        }
    }
}
