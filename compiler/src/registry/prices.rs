//! Reads `prices` of `registry.yml`: what models cost.

use super::{FILE, PRICE_KEYS, Reader};
use crate::diagnostic::{Code, Span};
use crate::yaml::{self, Node};
use loopy_contract::price::Price;
use std::collections::BTreeMap;

impl Reader<'_> {
    pub(super) fn prices(&mut self, node: Option<&Node>) -> BTreeMap<String, Price> {
        let mut prices = BTreeMap::new();
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return prices;
        };
        let Some(entries) = node.as_map() else {
            let message = format!("`prices` has to be a map, this is {}", node.kind());
            self.bad_price(node.span, message);
            return prices;
        };
        for (key, value) in entries {
            let Some(model) = key.as_written() else {
                let message = format!("a model's id has to be text, this is {}", key.kind());
                self.bad_price(key.span, message);
                continue;
            };
            if let Some(price) = self.price(model, key, value) {
                prices.insert(model.to_owned(), price);
            }
        }
        prices
    }

    fn price(&mut self, model: &str, key: &Node, node: &Node) -> Option<Price> {
        let entries = node.as_map().unwrap_or_default();
        let mut amount = |name: &str, needed: bool| match yaml::get(entries, name) {
            None if !needed => Some(None),
            found => {
                let at = found.map_or(key.span, |node| node.span);
                let dollars = found
                    .and_then(Node::as_number)
                    .filter(|dollars| dollars.is_finite() && *dollars >= 0.0);
                if dollars.is_none() {
                    let message =
                        format!("the price of `{model}` has no amount of dollars as `{name}`");
                    self.bad_price(at, message);
                }
                dollars.map(Some)
            }
        };
        let (input, output) = (amount("input", true), amount("output", true));
        let cached = amount("cached", false);
        self.unknown_keys(Code::W201, entries, &PRICE_KEYS, "a price has no key");
        Some(Price {
            input: input??,
            output: output??,
            cached: cached?,
        })
    }

    fn bad_price(&mut self, span: Span, message: String) {
        self.report.add(Code::E217, FILE, span, message).hint(
            "write dollars for a million tokens: my-model: { input: 3, cached: 0.3, output: 15 }",
        );
    }
}
