//! Whether the loop gets on. Pure: it is told each action and each evaluation, and
//! says when the model has to hear of something, and when the loop has to end.
//!
//! * **Actions.** The same action with the same result three times in a row, or a
//!   sequence of two to six that comes twice (A/B/A/B). The same result of different
//!   actions is normal, and so is another result of the same action.
//! * **Metric.** Four evaluations after which nothing is better than before.
//! * **Regression.** A test, by name, that passed and fails now.
//!
//! What is found is told once. Going on like that ends the loop; getting on wipes it.

use super::metric::{Counts, Metric};
use super::steady::without_times;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

/// The longest cycle that is looked for.
const LONGEST_PERIOD: usize = 6;
/// The same action so often in a row is a repetition.
const SAME: usize = 3;
/// Actions after the model was told before the same thing ends the loop, at least.
const AFTER_TOLD: usize = 2;
/// So many new actions in a row wipe what the model was told of its actions.
const FRESH: usize = 8;
/// Evaluations without movement before the model is told, and again before the end.
const UNMOVED: usize = 4;
/// Evaluations that a regression may stand once the model was told of it.
const STANDING: usize = 4;
/// Names in a message.
const NAMES: usize = 10;

/// What follows from an action or an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The model has to hear this.
    Tell(String),
    /// The loop ends, for this reason.
    End(String),
}

/// One action and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    fingerprint: u64,
    label: String,
}

impl Action {
    /// A call of a tool with its result. Spaces in a command, the order of members
    /// and times in the result make no difference.
    pub(super) fn new(tool: &str, input: &Value, result: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        tool.hash(&mut hasher);
        normal_input(tool, input).hash(&mut hasher);
        for line in result.lines() {
            without_times(line).hash(&mut hasher);
        }
        Self {
            fingerprint: hasher.finish(),
            label: label(tool, input),
        }
    }
}

/// How the loop has been getting on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    recent: VecDeque<Action>,
    seen: BTreeSet<u64>,
    fresh: usize,
    /// Actions since the model was told of a repetition.
    since_told: Option<usize>,
    tests: Tests,
    /// Evaluations since something moved.
    still: usize,
    told_unmoved: bool,
    best: Option<Counts>,
    marks: BTreeSet<u64>,
}

impl Progress {
    /// Takes an action.
    pub(super) fn acted(&mut self, action: Action) -> Option<Sign> {
        if self.seen.insert(action.fingerprint) {
            self.fresh += 1;
        } else {
            self.fresh = 0;
        }
        if self.fresh >= FRESH {
            self.since_told = None;
        }
        self.since_told = self.since_told.map(|actions| actions + 1);
        self.recent.push_back(action);
        while self.recent.len() > 2 * LONGEST_PERIOD {
            self.recent.pop_front();
        }
        let period = self.period()?;
        let said = self.what_repeats(period);
        match self.since_told {
            None => {
                self.since_told = Some(0);
                Some(Sign::Tell(format!(
                    "You repeat yourself: {said}. Nothing new will come of it. Find out why it does \
                     not lead on, and do something else, or hand over what you have. Going on like \
                     this ends the loop."
                )))
            }
            Some(actions) if actions >= period.max(AFTER_TOLD) => Some(Sign::End(format!(
                "the agent repeats itself, and was told so: {said}"
            ))),
            Some(_) => None,
        }
    }

    /// Takes an evaluation.
    pub(super) fn evaluated(&mut self, metric: &Metric) -> Vec<Sign> {
        let mut signs = self.tests.evaluated(metric);
        let moved = self.moved(metric);
        if moved {
            self.since_told = None;
        }
        if moved || metric.good() {
            self.still = 0;
            self.told_unmoved = false;
            return signs;
        }
        self.still += 1;
        if self.still >= UNMOVED {
            self.still = 0;
            let said = format!(
                "{} evaluations in a row brought nothing better ({})",
                UNMOVED + 1,
                metric.words()
            );
            if self.told_unmoved {
                signs.push(Sign::End(format!(
                    "{said}, and {UNMOVED} before them, of which the agent was told"
                )));
            } else {
                self.told_unmoved = true;
                signs.push(Sign::Tell(format!(
                    "{said}. What you change does not reach what is measured. Look at the cause \
                     again before the next change. As many evaluations more without movement end \
                     the loop."
                )));
            }
        }
        signs
    }

    /// Whether this evaluation is better than all before it, or, where better
    /// cannot be told from other, one that was not seen yet.
    fn moved(&mut self, metric: &Metric) -> bool {
        if let Some(now) = metric.counts {
            // By what passes: where hardly anything runs, hardly anything fails.
            let better = self.best.is_none_or(|best| {
                now.passed > best.passed || (now.passed == best.passed && now.failed < best.failed)
            });
            if better {
                self.best = Some(now);
            }
            return better;
        }
        let mut hasher = DefaultHasher::new();
        match metric.number {
            Some(number) => number.to_bits().hash(&mut hasher),
            // An exit code alone says little: fixing one of many errors leaves
            // it as it is, and changes what is said.
            None => (metric.exit, metric.digest).hash(&mut hasher),
        }
        self.marks.insert(hasher.finish())
    }

    /// The length of what repeats at the end of the actions.
    fn period(&self) -> Option<usize> {
        let prints: Vec<u64> = self
            .recent
            .iter()
            .map(|action| action.fingerprint)
            .collect();
        (1..=LONGEST_PERIOD).find(|&period| {
            let times = if period == 1 { SAME } else { 2 };
            let Some(start) = prints.len().checked_sub(period * times) else {
                return false;
            };
            let end = prints.get(start..).unwrap_or_default();
            end.iter().zip(end.iter().skip(period)).all(|(a, b)| a == b)
        })
    }

    fn what_repeats(&self, period: usize) -> String {
        let start = self.recent.len().saturating_sub(period);
        let labels: Vec<&str> = self
            .recent
            .iter()
            .skip(start)
            .map(|action| action.label.as_str())
            .collect();
        if period == 1 {
            format!(
                "{} came {SAME} times in a row with the same result",
                labels.concat()
            )
        } else {
            format!(
                "the same {period} actions with the same results came twice in a row: {}",
                labels.join(", then ")
            )
        }
    }
}

/// What is known of each test by its name.
#[derive(Debug, Default)]
struct Tests {
    passed: BTreeSet<String>,
    /// Evaluations that each regression has been standing for.
    regressed: BTreeMap<String, usize>,
    /// Those that the model was told of, ever.
    told: BTreeSet<String>,
    last: Option<(BTreeSet<String>, Option<u64>, bool)>,
}

impl Tests {
    fn evaluated(&mut self, metric: &Metric) -> Vec<Sign> {
        if !metric.names_known {
            return Vec::new();
        }
        let total = metric.counts.map(|counts| counts.failed + counts.passed);
        let unnamed = metric.passing.is_empty();
        // Runners that do not name what passes: one more failure among no more
        // tests can only be one that passed.
        let passed_unnamed = |name: &String| {
            self.last
                .as_ref()
                .is_some_and(|(failing, before, was_unnamed)| {
                    *was_unnamed
                        && unnamed
                        && before.is_some()
                        && total.is_some()
                        && total <= *before
                        && !failing.contains(name)
                })
        };
        let new: Vec<String> = metric
            .failing
            .iter()
            .filter(|name| !self.regressed.contains_key(*name))
            .filter(|name| self.passed.contains(*name) || passed_unnamed(name))
            .cloned()
            .collect();
        // A test that is not run says nothing; one that is run and does not fail
        // is mended.
        self.regressed.retain(|name, _| {
            metric.failing.contains(name) || (!unnamed && !metric.passing.contains(name))
        });
        let mut signs = Vec::new();
        let standing = self.regressed.iter_mut();
        for (name, standing) in standing.filter(|(name, _)| metric.failing.contains(*name)) {
            *standing += 1;
            if *standing >= STANDING {
                signs.push(Sign::End(format!(
                    "the test {name} passed once, and has failed for {} evaluations since the agent was told",
                    *standing
                )));
            }
        }
        let again: Vec<&str> = new
            .iter()
            .filter(|name| self.told.contains(*name))
            .map(String::as_str)
            .collect();
        if !again.is_empty() {
            signs.push(Sign::End(format!(
                "tests that passed fail again, and the agent was told the first time: {}",
                list(&again)
            )));
        } else if !new.is_empty() {
            let names: Vec<&str> = new.iter().map(String::as_str).collect();
            signs.push(Sign::Tell(format!(
                "A regression: these passed before and fail now: {}. Mend them before anything \
                 else. If they still fail after {STANDING} more evaluations, or fail again later, \
                 the loop ends.",
                list(&names)
            )));
        }
        for name in new {
            self.told.insert(name.clone());
            self.regressed.insert(name, 0);
        }
        self.passed.extend(metric.passing.iter().cloned());
        for name in &metric.failing {
            self.passed.remove(name);
        }
        self.last = Some((metric.failing.clone(), total, unnamed));
        signs
    }
}

fn list(names: &[&str]) -> String {
    let mut text = names
        .iter()
        .take(NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMES {
        text.push_str(&format!(" and {} more", names.len() - NAMES));
    }
    text
}

/// A call in few words.
fn label(tool: &str, input: &Value) -> String {
    let detail = ["command", "path"]
        .iter()
        .find_map(|name| input.get(name).and_then(Value::as_str))
        .unwrap_or_default();
    if detail.is_empty() {
        format!("`{tool}`")
    } else {
        let detail: Vec<&str> = detail.split_whitespace().collect();
        format!("`{tool}` {}", crate::redact::head(&detail.join(" "), 80))
    }
}

/// The input with what makes no difference taken out. `serde_json` keeps members
/// in order of their names.
fn normal_input(tool: &str, input: &Value) -> String {
    let mut input = input.clone();
    if let Some(members) = input.as_object_mut() {
        members.retain(|_, value| !value.is_null());
        if let Some(Value::String(path)) = members.get_mut("path") {
            while let Some(rest) = path.strip_prefix("./") {
                *path = rest.to_owned();
            }
        }
        if matches!(tool, "bash" | "test")
            && let Some(Value::String(command)) = members.get_mut("command")
        {
            *command = command.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        // How long it may take is not what it does.
        members.remove("seconds");
    }
    input.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn action(name: &str, result: &str) -> Action {
        Action::new("bash", &json!({ "command": name }), result)
    }

    fn metric(failing: &[&str], passing: &[&str]) -> Metric {
        Metric {
            exit: Some(i32::from(!failing.is_empty())),
            counts: Some(Counts {
                passed: passing.len() as u64,
                failed: failing.len() as u64,
            }),
            failing: failing.iter().map(|name| (*name).to_owned()).collect(),
            passing: passing.iter().map(|name| (*name).to_owned()).collect(),
            names_known: true,
            ..Metric::default()
        }
    }

    #[test]
    fn a_cycle_is_told_first_and_ends_second() {
        let mut progress = Progress::default();
        let mut signs = Vec::new();
        for name in ["a", "b", "a", "b", "a", "b"] {
            signs.push(progress.acted(action(name, name)));
        }
        assert_eq!(signs[..3], [None, None, None]);
        assert!(
            matches!(&signs[3], Some(Sign::Tell(said)) if said.contains("`bash` a, then `bash` b")),
            "{signs:?}"
        );
        assert_eq!(signs[4], None);
        assert!(matches!(&signs[5], Some(Sign::End(_))), "{signs:?}");
    }

    #[test]
    fn getting_on_wipes_what_was_told() {
        let mut progress = Progress::default();
        for _ in 0..2 {
            progress.acted(action("a", ""));
        }
        assert!(matches!(
            progress.acted(action("a", "")),
            Some(Sign::Tell(_))
        ));
        for number in 0..FRESH {
            assert_eq!(progress.acted(action(&number.to_string(), "")), None);
        }
        for _ in 0..2 {
            assert_eq!(progress.acted(action("a", "")), None);
        }
        assert!(matches!(
            progress.acted(action("a", "")),
            Some(Sign::Tell(_))
        ));
    }

    #[test]
    fn a_few_other_actions_wipe_nothing() {
        let mut progress = Progress::default();
        let mut signs = Vec::new();
        for name in ["a", "a", "a", "x", "y", "z", "a", "a", "a"] {
            signs.extend(progress.acted(action(name, "")));
        }
        assert!(
            matches!(&signs[..], [Sign::Tell(_), Sign::End(_)]),
            "{signs:?}"
        );
    }

    #[test]
    fn the_same_action_with_another_result_is_no_repetition() {
        let mut progress = Progress::default();
        for number in 0..20 {
            assert_eq!(progress.acted(action("poll", &number.to_string())), None);
        }
    }

    #[test]
    fn times_spaces_and_order_make_no_difference() {
        let one = Action::new(
            "bash",
            &json!({"command": "make  test ", "seconds": 5}),
            "3 ok in 0.31s at 12:30:01, 0x7ffe12ab",
        );
        let other = Action::new(
            "bash",
            &json!({"command": "make test"}),
            "3 ok in 1.2 s at 12:31:44, 0x7ffe9900",
        );
        assert_eq!(one.fingerprint, other.fingerprint);
        let more = Action::new(
            "bash",
            &json!({"command": "make test"}),
            "4 ok in 1.2 s at 12:31:44, 0x7ffe9900",
        );
        assert_ne!(one.fingerprint, more.fingerprint, "counts are no times");
        let path = |path: &str| Action::new("read", &json!({ "path": path }), "").fingerprint;
        assert_eq!(path("./a"), path("a"));
        assert_ne!(
            Action::new("edit", &json!({"path": "a", "new": "x"}), "").fingerprint,
            Action::new("edit", &json!({"path": "a", "new": " x"}), "").fingerprint,
            "in a file spaces count"
        );
    }

    #[test]
    fn an_unmoved_metric_is_told_and_then_ends() {
        let mut progress = Progress::default();
        let mut ends = Vec::new();
        for evaluation in 0..=2 * UNMOVED {
            let signs = progress.evaluated(&metric(&["x", "y"], &["z"]));
            ends.extend(signs.into_iter().map(|sign| (evaluation, sign)));
        }
        assert!(
            matches!(&ends[..], [(4, Sign::Tell(_)), (8, Sign::End(_))]),
            "{ends:?}"
        );
    }

    #[test]
    fn going_in_circles_ends_even_when_all_is_well() {
        let mut progress = Progress::default();
        let mut signs = Vec::new();
        for _ in 0..3 {
            signs.extend(progress.acted(action("read", "")));
            signs.extend(progress.acted(action("test", "fine")));
            signs.extend(progress.evaluated(&metric(&[], &["x"])));
        }
        assert!(
            matches!(&signs[..], [Sign::Tell(_), Sign::End(_)]),
            "{signs:?}"
        );
    }

    #[test]
    fn an_exit_code_with_other_words_is_movement() {
        let mut progress = Progress::default();
        for digest in 0..20 {
            let metric = Metric {
                exit: Some(2),
                digest,
                ..Metric::default()
            };
            assert_eq!(progress.evaluated(&metric), []);
        }
    }

    #[test]
    fn a_regression_is_known_by_its_name() {
        let mut progress = Progress::default();
        assert_eq!(progress.evaluated(&metric(&["x"], &["y"])), []);
        // The counts are the same: only the names tell.
        let signs = progress.evaluated(&metric(&["y"], &["x"]));
        assert!(
            matches!(&signs[..], [Sign::Tell(said)] if said.contains("fail now: y")),
            "{signs:?}"
        );
        assert_eq!(progress.evaluated(&metric(&[], &["x", "y"])), []);
        let signs = progress.evaluated(&metric(&["y"], &["x"]));
        assert!(matches!(&signs[..], [Sign::End(_)]), "{signs:?}");
    }

    #[test]
    fn a_new_test_that_fails_is_no_regression() {
        let mut progress = Progress::default();
        progress.evaluated(&metric(&[], &["x"]));
        assert_eq!(progress.evaluated(&metric(&["new"], &["x"])), []);
        // Neither where the runner does not name what passes.
        let unnamed = |failing: &[&str], passed| Metric {
            counts: Some(Counts {
                passed,
                failed: failing.len() as u64,
            }),
            ..metric(failing, &[])
        };
        let mut progress = Progress::default();
        progress.evaluated(&unnamed(&["x"], 3));
        assert_eq!(progress.evaluated(&unnamed(&["new", "x"], 3)), []);
        let signs = progress.evaluated(&unnamed(&["new", "other", "x"], 2));
        assert!(
            matches!(&signs[..], [Sign::Tell(said)] if said.contains("fail now: other.")),
            "{signs:?}"
        );
    }

    #[test]
    fn a_syntax_error_is_no_step_forward() {
        let mut progress = Progress::default();
        progress.evaluated(&metric(&["x", "y"], &["z"]));
        let broken = metric(&["the file"], &[]);
        assert!(!progress.moved(&broken), "fewer fail, because none runs");
        assert!(!progress.moved(&metric(&["x", "y"], &["z"])));
        assert!(progress.moved(&metric(&["x"], &["y", "z"])));
    }

    #[test]
    fn a_regression_that_stands_ends_the_loop() {
        let mut progress = Progress::default();
        progress.evaluated(&metric(&["x"], &["y", "z"]));
        let mut ended = None;
        for evaluation in 0..10 {
            let signs = progress.evaluated(&metric(&["x", "y"], &["z"]));
            if signs
                .iter()
                .any(|sign| matches!(sign, Sign::End(said) if said.contains("the test y")))
            {
                ended = Some(evaluation);
                break;
            }
        }
        assert_eq!(ended, Some(STANDING));
    }

    proptest! {
        /// Different arguments with one and the same result: never a repetition.
        #[test]
        fn equal_results_alone_say_nothing(count in 1_usize..200) {
            let mut progress = Progress::default();
            for number in 0..count {
                prop_assert_eq!(progress.acted(action(&format!("c{number}"), "ok")), None);
            }
        }

        /// Any cycle, after any beginning, is told once and then ends, within four rounds.
        #[test]
        fn every_cycle_is_told_and_then_ends(
            before in proptest::collection::vec(0_u32..1000, 0..20),
            cycle in proptest::collection::btree_set(1000_u32..2000, 1..=LONGEST_PERIOD),
        ) {
            let mut progress = Progress::default();
            for number in before {
                progress.acted(action(&number.to_string(), ""));
            }
            progress.since_told = None;
            let mut signs = Vec::new();
            for _ in 0..6 {
                for number in &cycle {
                    signs.extend(progress.acted(action(&number.to_string(), "")));
                }
                if signs.iter().any(|sign| matches!(sign, Sign::End(_))) {
                    break;
                }
            }
            prop_assert!(matches!(signs.as_slice(), [Sign::Tell(_), Sign::End(_), ..]), "{signs:?}");
        }
    }
}
