//! The order in which keys are written: what starts a step, who does it, what
//! comes of it, and what bounds it; a registry in the order in which its parts
//! name each other. What shapes a step has the order that its readers say it in.

use crate::forms;

/// What is known of a map, or of the items of a list.
#[derive(Debug)]
pub(super) struct Order {
    /// The keys of a map in their order, and what is below each.
    keys: &'static [(&'static str, &'static Order)],
    /// The keys of a map below which nothing is known, as its reader has them.
    names: &'static [&'static str],
    /// What is below every other key, or in the items of a list.
    others: Option<&'static Order>,
}

impl Order {
    /// Where a key belongs; unknown keys keep their order, behind the known
    /// ones. What is merged in comes first, as it is the base of the rest.
    pub(super) fn rank(&self, key: &str) -> usize {
        let known = self.keys.len() + self.names.len();
        if known == 0 || key == "<<" {
            return 0;
        }
        let mut keys = self.keys.iter().map(|(key, _)| key).chain(self.names);
        keys.position(|known| *known == key).unwrap_or(known) + 1
    }

    /// What is known below a key.
    pub(super) fn below(&self, key: &str) -> &'static Self {
        let found = self.keys.iter().find(|(known, _)| *known == key);
        found.map_or_else(|| self.items(), |(_, order)| order)
    }

    /// What is known of the items of a list.
    pub(super) fn items(&self) -> &'static Self {
        self.others.unwrap_or(&FREE)
    }
}

const fn map(keys: &'static [(&'static str, &'static Order)]) -> Order {
    Order {
        keys,
        names: &[],
        others: None,
    }
}

const fn names(names: &'static [&'static str]) -> Order {
    Order {
        keys: &[],
        names,
        others: None,
    }
}

const fn each(order: &'static Order) -> Order {
    Order {
        keys: &[],
        names: &[],
        others: Some(order),
    }
}

/// Names that people give, values that have no keys, JSON Schema.
static FREE: Order = map(&[]);

/// A step's frontmatter.
pub(super) static STEP: Order = map(&[
    ("on", &TRIGGER),
    ("after", &FREE),
    ("when", &FREE),
    ("each", &FREE),
    ("files", &FREE),
    ("agent", &FREE),
    ("output", &FREE),
    ("emits", &FREE),
    ("loop", &LOOP),
    ("budget", &BUDGET),
    ("retry", &RETRY),
    ("approve", &APPROVE),
    ("concurrency", &CONCURRENCY),
]);

static TRIGGER: Order = names(forms::ON.keys);
static LOOP: Order = names(forms::LOOP.keys);
static RETRY: Order = names(forms::RETRY.keys);
static APPROVE: Order = names(forms::APPROVE.keys);
static CONCURRENCY: Order = names(forms::CONCURRENCY.keys);
static BUDGET: Order = map(&[
    ("wall_clock", &FREE),
    ("spend", &FREE),
    ("tokens", &FREE),
    ("turns", &FREE),
    ("window", &FREE),
    ("latency", &FREE),
]);
/// `registry.yml`.
pub(super) static REGISTRY: Order = map(&[
    ("defaults", &DEFAULTS),
    ("sandboxes", &SANDBOXES),
    ("agents", &AGENTS),
    ("events", &FREE),
    ("limits", &LIMITS),
    ("prices", &PRICES),
    ("warnings", &FREE),
]);

static DEFAULTS: Order = map(&[("agent", &AGENT)]);
static AGENTS: Order = each(&AGENT);
static AGENT: Order = map(&[
    ("harness", &HARNESS),
    ("model", &FREE),
    ("sandbox", &FREE),
    ("skills", &FREE),
    ("tools", &FREE),
]);
static HARNESS: Order = map(&[("runtime", &FREE), ("model", &FREE)]);
static SANDBOXES: Order = each(&SANDBOX);
static SANDBOX: Order = map(&[
    ("provider", &FREE),
    ("image", &IMAGE),
    ("env_file", &FREE),
    ("model_keys", &FREE),
    ("network", &FREE),
    ("repos", &REPOS),
]);
static IMAGE: Order = map(&[
    ("debian_slim", &FREE),
    ("base", &FREE),
    ("dockerfile", &FREE),
    ("snapshot", &FREE),
    ("workdir", &FREE),
    ("env", &FREE),
    ("apt", &FREE),
    ("pip", &FREE),
    ("pip_requirements", &FREE),
    ("run", &FREE),
    ("user", &FREE),
    ("entrypoint", &FREE),
    ("cmd", &FREE),
    ("cpu", &FREE),
    ("memory", &FREE),
    ("disk", &FREE),
    ("tools", &FREE),
]);
static REPOS: Order = each(&REPO);
static REPO: Order = map(&[
    ("url", &FREE),
    ("ref", &FREE),
    ("path", &FREE),
    ("depth", &FREE),
]);
static LIMITS: Order = map(&[
    ("cascade_spend", &FREE),
    ("cascade", &CAP),
    ("day", &CAP),
    ("workflows", &CAPS),
]);
static PRICES: Order = each(&PRICE);
static PRICE: Order = map(&[("input", &FREE), ("cached", &FREE), ("output", &FREE)]);
static CAPS: Order = each(&CAP);
static CAP: Order = map(&[("spend", &FREE), ("runs", &FREE)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{registry, step};

    /// The readers' lists are the order, and each key of a step that holds a map
    /// has its list.
    #[test]
    fn what_shapes_a_step_is_in_its_readers_order() {
        for (key, form) in [
            ("on", forms::ON),
            ("retry", forms::RETRY),
            ("approve", forms::APPROVE),
            ("concurrency", forms::CONCURRENCY),
            ("loop", forms::LOOP),
        ] {
            let order = STEP.below(key);
            let ranks: Vec<usize> = form.keys.iter().map(|key| order.rank(key)).collect();
            let in_order: Vec<usize> = (1..=form.keys.len()).collect();
            assert_eq!(ranks, in_order, "{key}");
            assert_eq!(order.rank("unknown"), form.keys.len() + 1, "{key}");
        }
    }

    #[test]
    fn every_key_of_the_language_has_a_place() {
        let known: [(&Order, &[&str]); 11] = [
            (&STEP, &step::KEYS),
            (&BUDGET, &step::BUDGET_KEYS),
            (&REGISTRY, &registry::SECTIONS),
            (&AGENT, &registry::AGENT_KEYS),
            (&HARNESS, &registry::HARNESS_KEYS),
            (&SANDBOX, &registry::SANDBOX_KEYS),
            (&IMAGE, &registry::IMAGE_KEYS),
            (&REPO, &registry::REPO_KEYS),
            (&LIMITS, &registry::LIMIT_KEYS),
            (&CAP, &registry::CAP_KEYS),
            (&PRICE, &registry::PRICE_KEYS),
        ];
        for (order, keys) in known {
            for key in keys {
                assert!(order.rank(key) <= order.keys.len(), "{key}");
            }
            assert_eq!(order.keys.len(), keys.len(), "{order:?}");
        }
    }
}
