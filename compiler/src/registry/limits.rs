//! Reads `limits` of `registry.yml`: caps on dollars and runs.

use super::{CAP_KEYS, FILE, LIMIT_KEYS, Names, Reader};
use crate::diagnostic::{Code, Span};
use crate::yaml::{self, Node, Scalar, Value};
use loopy_contract::manifest::{Cap, Limits, Usd};

impl Reader<'_> {
    pub(super) fn limits(&mut self, node: Option<&Node>) -> (Option<Limits>, Names) {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return (None, Vec::new());
        };
        let Some(entries) = node.as_map() else {
            self.bad_limit(
                node.span,
                format!("`limits` has to be a map, this is {}", node.kind()),
            );
            return (None, Vec::new());
        };
        let mut limits = Limits::default();
        let mut limited = Vec::new();
        for (key, value) in entries {
            match key.as_written().unwrap_or("~") {
                "cascade_spend" => {
                    self.cascade_spend_twice(entries, key);
                    limits.cascade_spend = self.usd(key, value, "`cascade_spend`");
                }
                "cascade" => {
                    if let Some(cap) = self.cap(key, value, "the limit `cascade`") {
                        limits.cascade_spend = limits.cascade_spend.or(cap.spend);
                        limits.cascade_runs = cap.runs;
                    }
                }
                "day" => limits.day = self.cap(key, value, "the limit `day`"),
                "workflows" => self.workflow_limits(value, &mut limits, &mut limited),
                _ => {}
            }
        }
        self.unknown_keys(Code::W201, entries, &LIMIT_KEYS, "`limits` has no key");
        (
            Some(limits).filter(|limits| *limits != Limits::default()),
            limited,
        )
    }

    /// `cascade_spend` and the `spend` of `cascade` are the same limit.
    fn cascade_spend_twice(&mut self, entries: &[(Node, Node)], key: &Node) {
        let cascade = yaml::get(entries, "cascade").and_then(Node::as_map);
        if cascade.is_some_and(|cascade| yaml::get(cascade, "spend").is_some()) {
            let message = "`cascade_spend` and the `spend` of `cascade` are the same limit";
            self.bad_limit(key.span, message.to_owned());
        }
    }

    fn workflow_limits(&mut self, node: &Node, limits: &mut Limits, limited: &mut Names) {
        if node.is_null() {
            return;
        }
        let Some(entries) = node.as_map() else {
            let message = format!(
                "`limits.workflows` has to be a map, this is {}",
                node.kind()
            );
            self.bad_limit(node.span, message);
            return;
        };
        for (key, value) in entries {
            let Some(name) = key.as_written() else {
                self.bad_limit(
                    key.span,
                    format!("a workflow's name has to be text, this is {}", key.kind()),
                );
                continue;
            };
            limited.push((name.to_owned(), key.span));
            let what = format!("the limit of workflow `{name}`");
            if let Some(cap) = self.cap(key, value, &what) {
                limits.workflows.insert(name.to_owned(), cap);
            }
        }
    }

    /// `{ spend: { usd: 4 }, runs: 5 }`, or one of the two.
    fn cap(&mut self, key: &Node, node: &Node, what: &str) -> Option<Cap> {
        let entries = node.as_map().unwrap_or_default();
        let find = |wanted| {
            let mut entries = entries.iter();
            entries.find(|(key, _)| key.as_text() == Some(wanted))
        };
        let (spend, runs) = (find("spend"), find("runs"));
        if spend.is_none() && runs.is_none() {
            self.bad_limit(key.span, format!("{what} has no `spend` and no `runs`"));
            return None;
        }
        self.unknown_keys(Code::W201, entries, &CAP_KEYS, "a limit has no key");
        let cap = Cap {
            spend: spend.and_then(|(key, value)| self.usd(key, value, what)),
            runs: runs.and_then(|(_, value)| self.runs(value, what)),
        };
        Some(cap).filter(|cap| *cap != Cap::default())
    }

    fn runs(&mut self, node: &Node, what: &str) -> Option<u32> {
        let runs = match node.value {
            Value::Scalar(_, Scalar::Int(int)) => u32::try_from(int).ok(),
            _ => None,
        }
        .filter(|runs| *runs > 0);
        if runs.is_none() {
            let message = format!("the `runs` of {what} is no whole number above 0");
            self.bad_limit(node.span, message);
        }
        runs
    }

    fn usd(&mut self, key: &Node, node: &Node, what: &str) -> Option<Usd> {
        let entries = node.as_map().unwrap_or_default();
        let usd = yaml::get(entries, "usd");
        let found = usd.and_then(Node::as_number);
        if found.is_none() {
            let at = usd.map_or(key.span, |node| node.span);
            self.bad_limit(at, format!("{what} has no amount of dollars"));
        } else {
            self.unknown_keys(Code::W201, entries, &["usd"], "a spend has no key");
        }
        found.map(|usd| Usd { usd })
    }

    fn bad_limit(&mut self, span: Span, message: String) {
        self.report.add(Code::E213, FILE, span, message).hint(
            "write cascade: { spend: { usd: 20 }, runs: 50 }, day: with the same, \
             or workflows: { name: { spend: { usd: 4 } } }",
        );
    }
}
