//! Conditions: what an author writes behind `when` and `until`, as a tree that
//! any reader of the manifest can walk without a parser.
//!
//! What a condition means: a reference to an output or field that is absent has
//! the value `null`. `null` equals only itself, every ordering with it is
//! false, nothing is `in` it, and as a truth value it is false. `and` and `or`
//! look at their operands from the left and stop as soon as the answer is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// A condition as written, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// The text as the author wrote it, for people.
    pub source: String,
    /// Its meaning.
    pub expression: Expression,
}

/// A node of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Expression {
    /// Text, a number, `true`, `false` or `null`.
    Literal {
        /// The value.
        value: Value,
    },
    /// `producer.field`
    Reference {
        /// `event`, or a step's name.
        producer: String,
        /// A declared field of it.
        field: String,
    },
    /// `not operand`
    Not {
        /// What is turned round.
        operand: Box<Self>,
    },
    /// True when all operands are.
    And {
        /// At least two, in the order written.
        operands: Vec<Self>,
    },
    /// True when one operand is.
    Or {
        /// At least two, in the order written.
        operands: Vec<Self>,
    },
    /// `left operator right`
    Compare {
        /// How the sides are compared.
        operator: Comparison,
        /// The left side.
        left: Box<Self>,
        /// The right side.
        right: Box<Self>,
    },
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Comparison {
    /// They are equal.
    #[serde(rename = "==")]
    Equal,
    /// They differ.
    #[serde(rename = "!=")]
    Unequal,
    /// The left number or time is less.
    #[serde(rename = "<")]
    Less,
    /// The left number or time is less, or they are equal.
    #[serde(rename = "<=")]
    LessOrEqual,
    /// The left number or time is greater.
    #[serde(rename = ">")]
    Greater,
    /// The left number or time is greater, or they are equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// The right list holds the left value.
    #[serde(rename = "in")]
    In,
    /// The right list does not hold the left value.
    #[serde(rename = "not in")]
    NotIn,
}

impl Comparison {
    /// The operator as written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::NotIn => "not in",
        }
    }
}

impl Expression {
    /// How tightly it binds: a looser operand of a tighter operator needs
    /// parentheses.
    fn binding(&self) -> u8 {
        match self {
            Self::Or { .. } => 0,
            Self::And { .. } => 1,
            Self::Not { .. } => 2,
            Self::Compare { .. } => 3,
            Self::Literal { .. } | Self::Reference { .. } => 4,
        }
    }

    fn write(&self, least: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.binding() < least {
            f.write_str("(")?;
            self.write(0, f)?;
            return f.write_str(")");
        }
        match self {
            Self::Literal {
                value: Value::String(text),
            } => {
                f.write_str("\"")?;
                for c in text.chars() {
                    if matches!(c, '"' | '\\') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{c}")?;
                }
                f.write_str("\"")
            }
            Self::Literal { value } => write!(f, "{value}"),
            Self::Reference { producer, field } => write!(f, "{producer}.{field}"),
            Self::Not { operand } => {
                f.write_str("not ")?;
                operand.write(2, f)
            }
            Self::And { operands } => Self::join(operands, " and ", 2, f),
            Self::Or { operands } => Self::join(operands, " or ", 1, f),
            Self::Compare {
                operator,
                left,
                right,
            } => {
                left.write(4, f)?;
                write!(f, " {} ", operator.name())?;
                right.write(4, f)
            }
        }
    }

    fn join(operands: &[Self], word: &str, least: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, operand) in operands.iter().enumerate() {
            if at > 0 {
                f.write_str(word)?;
            }
            operand.write(least, f)?;
        }
        Ok(())
    }
}

/// The expression in its shortest form, which reads as the same tree again.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(0, f)
    }
}
