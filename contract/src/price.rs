//! What a million tokens of a model cost, for the harnesses whose tool names no
//! dollars. A project may say it in `registry.yml` (`prices`), which counts before
//! the table here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When the prices of the table were last looked at.
pub const TABLE_DATE: &str = "June 2026";

/// Dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of what is read.
    pub input: f64,
    /// Of what is written, thoughts included.
    pub output: f64,
    /// Of what is read from the provider's cache; as `input` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<f64>,
}

impl Price {
    /// What so many tokens cost in dollars. `cached` of the `input` tokens came
    /// from a cache.
    pub fn usd(&self, input: u64, cached: u64, output: u64) -> f64 {
        let cached = cached.min(input);
        let fresh = (input - cached) as f64 * self.input;
        let cached = cached as f64 * self.cached.unwrap_or(self.input);
        (fresh + cached + output as f64 * self.output) / 1e6
    }
}

const fn per_million(input: f64, cached: f64, output: f64) -> Price {
    Price {
        input,
        output,
        cached: Some(cached),
    }
}

/// Public list prices, without discounts for batches or surcharges for long
/// contexts: claude.com/pricing and openai.com/api/pricing.
const TABLE: [(&str, Price); 27] = [
    ("claude-3-5-haiku", per_million(0.8, 0.08, 4.0)),
    ("claude-haiku-4-5", per_million(1.0, 0.1, 5.0)),
    ("claude-opus-4", per_million(15.0, 1.5, 75.0)),
    ("claude-opus-4-1", per_million(15.0, 1.5, 75.0)),
    ("claude-opus-4-5", per_million(5.0, 0.5, 25.0)),
    ("claude-opus-4-6", per_million(5.0, 0.5, 25.0)),
    ("claude-opus-4-8", per_million(5.0, 0.5, 25.0)),
    ("claude-sonnet-4", per_million(3.0, 0.3, 15.0)),
    ("claude-sonnet-4-5", per_million(3.0, 0.3, 15.0)),
    ("claude-sonnet-4-6", per_million(3.0, 0.3, 15.0)),
    ("gpt-4.1", per_million(2.0, 0.5, 8.0)),
    ("gpt-4.1-mini", per_million(0.4, 0.1, 1.6)),
    ("gpt-4.1-nano", per_million(0.1, 0.025, 0.4)),
    ("gpt-4o", per_million(2.5, 1.25, 10.0)),
    ("gpt-4o-mini", per_million(0.15, 0.075, 0.6)),
    ("gpt-5", per_million(1.25, 0.125, 10.0)),
    ("gpt-5-codex", per_million(1.25, 0.125, 10.0)),
    ("gpt-5-mini", per_million(0.25, 0.025, 2.0)),
    ("gpt-5-nano", per_million(0.05, 0.005, 0.4)),
    ("gpt-5.1", per_million(1.25, 0.125, 10.0)),
    ("gpt-5.4", per_million(2.5, 0.25, 15.0)),
    ("gpt-5.4-mini", per_million(0.75, 0.075, 4.5)),
    ("gpt-5.4-nano", per_million(0.2, 0.02, 1.25)),
    ("gpt-5.5", per_million(5.0, 0.5, 30.0)),
    ("gpt-5.5-pro", per_million(30.0, 30.0, 180.0)),
    ("o3", per_million(2.0, 0.5, 8.0)),
    ("o4-mini", per_million(1.1, 0.275, 4.4)),
];

/// The price of a model: the project's own, or the table's. A model may be named
/// with its provider before it (`anthropic/claude-sonnet-4-5`) and with the date of
/// its release after it; any other addition makes it another model.
pub fn price(own: &BTreeMap<String, Price>, model: &str) -> Option<Price> {
    if let Some(price) = own.get(model) {
        return Some(*price);
    }
    let name = model.rsplit('/').next().unwrap_or(model);
    let is_release = |rest: &str| {
        rest.is_empty()
            || rest == "-latest"
            || (rest.starts_with('-')
                && rest.len() >= 9
                && rest.chars().all(|c| c.is_ascii_digit() || c == '-'))
    };
    TABLE
        .iter()
        .find(|(known, _)| name.strip_prefix(known).is_some_and(is_release))
        .map(|(_, price)| *price)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_release_has_the_price_of_its_model_and_another_model_has_none() {
        let table = BTreeMap::new();
        for model in [
            "claude-sonnet-4-5",
            "anthropic/claude-sonnet-4-5-20250929",
            "claude-sonnet-4-5-latest",
        ] {
            assert_eq!(price(&table, model).unwrap().output, 15.0, "{model}");
        }
        assert_eq!(price(&table, "gpt-5-2025-08-07").unwrap().input, 1.25);
        for model in [
            "gpt-5.9",
            "gpt-5-turbo",
            "gpt-5-9",
            "claude-opus-4-9",
            "sonnet",
            "",
        ] {
            assert_eq!(price(&table, model), None, "{model}");
        }
    }

    #[test]
    fn a_project_s_own_price_counts_first() {
        let mine = Price {
            input: 1.0,
            output: 2.0,
            cached: None,
        };
        let own = BTreeMap::from([("gpt-5".to_owned(), mine)]);
        assert_eq!(price(&own, "gpt-5"), Some(mine));
        assert_eq!(mine.usd(1_000_000, 400_000, 500_000), 2.0);
        let cached = Price {
            cached: Some(0.1),
            ..mine
        };
        assert!((cached.usd(1_000_000, 400_000, 0) - 0.64).abs() < 1e-9);
    }
}
