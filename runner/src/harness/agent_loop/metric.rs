//! What a test command says, as a metric: counts and names of tests where its
//! runner is known, else a lone number on the last line, else the exit code. Pure.
//!
//! A [`Reader`] is fed every line as it comes, so the metric never depends on what
//! was shortened for the model. Known are pytest, unittest, cargo test, cargo
//! nextest, jest, vitest, go test, TAP and node's own runner; what several runners
//! say in one command is added up.

use super::steady::without_times;
use serde::Serialize;
use std::collections::{BTreeSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

/// Bytes of a line that are looked at.
const LONGEST_LINE: usize = 4096;
/// Names of tests that are kept; past that, names are not relied on.
const MOST_NAMES: usize = 20_000;

/// What one evaluation came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Metric {
    /// The exit code; none when a signal or the time limit ended it.
    pub(super) exit: Option<i32>,
    /// Tests that passed and failed.
    pub(super) counts: Option<Counts>,
    /// The number on the last line, when there are no tests.
    pub(super) number: Option<f64>,
    /// Names of the tests that failed.
    pub(super) failing: BTreeSet<String>,
    /// Names of those that passed, as far as the runner says them.
    pub(super) passing: BTreeSet<String>,
    /// The names are all of those that were said, and there were tests.
    pub(super) names_known: bool,
    /// Of all that was said, times taken out.
    #[serde(skip)]
    pub(super) digest: u64,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Passed.
    pub(super) passed: u64,
    /// Failed, or could not run.
    pub(super) failed: u64,
}

impl Metric {
    /// There is nothing to make better.
    pub(super) fn good(&self) -> bool {
        self.exit == Some(0)
            && self.number.is_none()
            && self.counts.is_none_or(|counts| counts.failed == 0)
    }

    /// In few words.
    pub(super) fn words(&self) -> String {
        let exit = match self.exit {
            Some(code) => format!("exit code {code}"),
            None => "no exit code".to_owned(),
        };
        match (self.counts, self.number) {
            (Some(counts), _) => {
                format!("{} passed, {} failed, {exit}", counts.passed, counts.failed)
            }
            (None, Some(number)) => format!("{number}, {exit}"),
            (None, None) => exit,
        }
    }

    /// What progress compares of two evaluations, as text.
    pub(super) fn identity(&self) -> String {
        let names: Vec<&str> = self.failing.iter().map(String::as_str).collect();
        // Where the tests are known their output may differ in order and time.
        let rest = if self.counts.is_some() {
            0
        } else {
            self.digest
        };
        format!("{} {} {rest:x}", self.words(), names.join(","))
    }
}

/// Reads the output of a test command.
#[derive(Debug, Default)]
pub(super) struct Reader {
    hasher: DefaultHasher,
    last: String,
    /// The line so far does not end in a line break.
    inside: bool,
    failing: BTreeSet<String>,
    passing: BTreeSet<String>,
    full: bool,
    pytest: Option<Counts>,
    unittest_ran: Option<u64>,
    unittest_failed: u64,
    cargo: Option<Counts>,
    /// Which test binary speaks.
    cargo_binary: String,
    nextest: Option<Counts>,
    jest: Option<Counts>,
    go: Option<Counts>,
    go_packages: Counts,
    tap: Counts,
    tap_plan: bool,
    node: Option<Counts>,
}

impl Reader {
    /// Takes a line, or a part of a long one.
    pub(super) fn line(&mut self, bytes: &[u8]) {
        let begins = !self.inside;
        self.inside = bytes.last() != Some(&b'\n');
        let shown = bytes.get(..bytes.len().min(LONGEST_LINE)).unwrap_or(bytes);
        let line = plain(&String::from_utf8_lossy(shown));
        let line = line.trim_end();
        without_times(line).hash(&mut self.hasher);
        if begins && !line.is_empty() {
            line.clone_into(&mut self.last);
            self.python(line);
            self.cargo(line);
            self.javascript(line);
            self.go(line);
            self.tap(line);
        }
    }

    /// What it came to.
    pub(super) fn end(self, exit: Option<i32>) -> Metric {
        let counts = self.counts();
        let number = if counts.is_none() {
            lone_number(&self.last)
        } else {
            None
        };
        let passing: BTreeSet<String> = self.passing.difference(&self.failing).cloned().collect();
        // Failures without names: something broke before the tests could run.
        let all_named =
            counts.is_some_and(|counts| (counts.failed == 0) == self.failing.is_empty());
        Metric {
            exit,
            counts,
            number,
            failing: self.failing,
            passing,
            names_known: all_named && !self.full,
            digest: self.hasher.finish(),
        }
    }

    fn counts(&self) -> Option<Counts> {
        let unittest = self.unittest_ran.map(|ran| Counts {
            passed: ran.saturating_sub(self.unittest_failed),
            failed: self.unittest_failed,
        });
        let go = self
            .go
            .or_else(|| (self.go_packages != Counts::default()).then_some(self.go_packages));
        // Node prints TAP and, at its end, its own sums of it.
        let tap = self
            .node
            .or_else(|| self.tap_plan.then_some(self.tap))
            .filter(|_| self.cargo.is_none());
        [
            self.pytest,
            unittest,
            self.cargo,
            self.nextest,
            self.jest,
            go,
            tap,
        ]
        .into_iter()
        .flatten()
        .reduce(|a, b| Counts {
            passed: a.passed + b.passed,
            failed: a.failed + b.failed,
        })
    }

    fn name(&mut self, passed: bool, name: &str) {
        let name = name.trim();
        if self.failing.len() + self.passing.len() >= MOST_NAMES {
            self.full = true;
        } else if !name.is_empty() {
            let names = if passed {
                &mut self.passing
            } else {
                &mut self.failing
            };
            names.insert(crate::redact::head(name, 300));
        }
    }

    fn python(&mut self, line: &str) {
        // `==== 1 failed, 2 passed in 0.10s ====`, without the rule under `-q`.
        let summary = line.trim_matches(|c| c == '=' || c == ' ');
        if let Some((sums, time)) = summary.rsplit_once(" in ")
            && time.starts_with(|c: char| c.is_ascii_digit())
            && let Some(sums) = sums_of(sums, ',')
            && sums.iter().any(|(_, what)| is_pytest(what))
            && sums
                .iter()
                .all(|(_, what)| is_pytest(what) || PYTEST_OTHER.contains(what))
        {
            let counts = self.pytest.get_or_insert_default();
            for (number, what) in sums {
                match what {
                    "passed" | "xpassed" => counts.passed += number,
                    "failed" | "error" | "errors" => counts.failed += number,
                    _ => {}
                }
            }
        }
        for (mark, passed) in [("FAILED ", false), ("ERROR ", false), ("PASSED ", true)] {
            if let Some(rest) = line.strip_prefix(mark) {
                let name = rest.split(" - ").next().unwrap_or(rest);
                if name.contains(".py") {
                    self.name(passed, name);
                }
            }
            let mark = format!(" {}", mark.trim());
            if let Some((name, rest)) = line.split_once(&mark)
                && name.contains(".py::")
                && (rest.is_empty() || rest.trim_start().starts_with('['))
            {
                self.name(passed, name);
            }
        }
        // unittest: `FAIL: test_x (mod.Case.test_x)`, `Ran 3 tests in 0.1s`,
        // `FAILED (failures=1, errors=1)`, and under `-v` `test_x (…) ... ok`.
        for mark in ["FAIL: ", "ERROR: "] {
            if let Some(name) = line.strip_prefix(mark)
                && name.ends_with(')')
            {
                self.name(false, name);
            }
        }
        if let Some(name) = line.strip_suffix(" ... ok")
            && name.ends_with(')')
        {
            self.name(true, name);
        }
        if let Some(rest) = line.strip_prefix("Ran ")
            && let Some((count, _)) = rest.split_once(" test")
            && rest.contains(" in ")
            && let Ok(count) = count.parse::<u64>()
        {
            *self.unittest_ran.get_or_insert_default() += count;
        }
        if let Some(rest) = line.strip_prefix("FAILED (")
            && self.unittest_ran.is_some()
        {
            for part in rest.trim_end_matches(')').split(", ") {
                if let Some((what, number)) = part.split_once('=')
                    && matches!(what, "failures" | "errors" | "unexpected successes")
                {
                    self.unittest_failed += number.parse().unwrap_or(0);
                }
            }
        }
    }

    fn cargo(&mut self, line: &str) {
        let trimmed = line.trim_start();
        // Names may be the same in two binaries.
        for header in ["Running ", "Doc-tests "] {
            if line.starts_with(' ')
                && let Some(binary) = trimmed.strip_prefix(header)
            {
                let binary = binary.split(" (").next().unwrap_or(binary);
                self.cargo_binary = binary.replace("unittests ", "");
            }
        }
        if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, end)) = rest.rsplit_once(" ... ")
        {
            let name = if self.cargo_binary.is_empty() {
                name.to_owned()
            } else {
                format!("{}: {name}", self.cargo_binary)
            };
            match end.split([' ', '<']).next() {
                Some("ok") => self.name(true, &name),
                Some("FAILED") => self.name(false, &name),
                _ => {}
            }
        }
        if let Some(rest) = line.strip_prefix("test result: ")
            && let Some((_, sums)) = rest.split_once(". ")
        {
            let counts = self.cargo.get_or_insert_default();
            for part in sums.split("; ") {
                match number_and_word(part) {
                    Some((number, "passed")) => counts.passed += number,
                    Some((number, "failed")) => counts.failed += number,
                    _ => {}
                }
            }
        }
        // nextest: `PASS [   0.005s] (1/3) package test::name`.
        for (mark, passed) in [("PASS [", true), ("FAIL [", false), ("TIMEOUT [", false)] {
            if let Some(rest) = trimmed.strip_prefix(mark)
                && let Some((time, name)) = rest.split_once("] ")
                && time.trim().ends_with('s')
            {
                let name = name.trim_start();
                let name = match name.split_once(") ") {
                    Some((count, name)) if count.starts_with('(') => name,
                    _ => name,
                };
                self.name(passed, name);
            }
        }
        if let Some(rest) = trimmed.strip_prefix("Summary [")
            && let Some((_, sums)) = rest.split_once("tests run: ")
        {
            let counts = self.nextest.get_or_insert_default();
            for part in sums.split(", ") {
                match number_and_word(part) {
                    Some((number, "passed")) => counts.passed += number,
                    Some((number, "failed" | "timed")) => counts.failed += number,
                    _ => {}
                }
            }
        }
    }

    fn javascript(&mut self, line: &str) {
        let trimmed = line.trim_start();
        // jest: `Tests:       1 failed, 3 passed, 4 total`;
        // vitest: `      Tests  1 failed | 3 passed (4)`.
        let sums = trimmed
            .strip_prefix("Tests:")
            .and_then(|rest| sums_of(rest, ','))
            .or_else(|| {
                let rest = trimmed.strip_prefix("Tests  ")?;
                sums_of(rest.split(" (").next()?, '|')
            });
        if let Some(sums) = sums {
            let counts = self.jest.get_or_insert_default();
            for (number, what) in sums {
                match what {
                    "passed" => counts.passed += number,
                    "failed" => counts.failed += number,
                    _ => {}
                }
            }
        }
        if trimmed.len() < line.len() {
            for (mark, passed) in [("✓ ", true), ("✕ ", false), ("× ", false)] {
                if let Some(name) = trimmed.strip_prefix(mark) {
                    // `name (3 ms)`, `name 3ms`
                    let name = without_times(name);
                    let name = name.split(" (~").next().unwrap_or(&name);
                    let name = name.split(" ~").next().unwrap_or(name);
                    self.name(passed, name);
                }
            }
        }
        if let Some(name) = line.strip_prefix("  ● ")
            && name.contains(" › ")
        {
            self.name(false, name);
        }
    }

    fn go(&mut self, line: &str) {
        let trimmed = line.trim_start();
        for (mark, passed) in [("--- PASS: ", true), ("--- FAIL: ", false)] {
            if let Some(rest) = trimmed.strip_prefix(mark) {
                let name = rest.split(" (").next().unwrap_or(rest);
                self.name(passed, name);
                let counts = self.go.get_or_insert_default();
                if passed {
                    counts.passed += 1;
                } else {
                    counts.failed += 1;
                }
            }
        }
        // `ok  	example.com/pkg	0.01s` or `FAIL	example.com/pkg	0.01s`
        if line.starts_with("ok  \t") {
            self.go_packages.passed += 1;
        } else if line.starts_with("FAIL\t") {
            self.go_packages.failed += 1;
        }
    }

    fn tap(&mut self, line: &str) {
        let plan = line.strip_prefix("1..").is_some_and(|rest| {
            let digits = rest.split(' ').next().unwrap_or_default();
            !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
        });
        self.tap_plan |= plan || line.starts_with("TAP version");
        let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => {
                // node: `# pass 3` and `# fail 1`, or with `ℹ ` for people.
                let said = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ "));
                let Some((what, Ok(number))) = said
                    .and_then(|said| said.split_once(' '))
                    .map(|(what, n)| (what, n.parse()))
                else {
                    return;
                };
                match what {
                    "pass" => self.node.get_or_insert_default().passed = number,
                    "fail" => self.node.get_or_insert_default().failed = number,
                    _ => {}
                }
                return;
            }
        };
        let Some(number) = rest
            .split(' ')
            .next()
            .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()))
        else {
            return;
        };
        let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        let directive = directive.to_ascii_uppercase();
        if directive.starts_with("SKIP") {
            return;
        }
        let passed = passed || directive.starts_with("TODO");
        let words = name
            .get(number.len()..)
            .unwrap_or_default()
            .trim_start_matches([' ', '-']);
        self.name(passed, if words.is_empty() { number } else { words });
        if passed {
            self.tap.passed += 1;
        } else {
            self.tap.failed += 1;
        }
    }
}

/// Words of pytest's summary that are results of tests.
fn is_pytest(what: &str) -> bool {
    matches!(what, "passed" | "failed" | "error" | "errors" | "xpassed")
}

/// Other words that stand there.
const PYTEST_OTHER: [&str; 7] = [
    "skipped",
    "deselected",
    "xfailed",
    "warning",
    "warnings",
    "rerun",
    "subtests passed",
];

/// `1 failed, 2 passed` as numbers and words; `None` when it is something else.
fn sums_of(text: &str, separator: char) -> Option<Vec<(u64, &str)>> {
    text.split(separator)
        .map(|part| {
            let (number, what) = part.trim().split_once(' ')?;
            Some((number.parse().ok()?, what.trim()))
        })
        .collect()
}

/// The number a text begins with, and the word after it.
fn number_and_word(text: &str) -> Option<(u64, &str)> {
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    Some((number, words.next()?))
}

fn lone_number(line: &str) -> Option<f64> {
    let line = line.trim();
    let is_plain = line
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'));
    if !is_plain || !line.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    line.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A line without the escape sequences that colour it.
fn plain(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            clean.push(character);
            continue;
        }
        if characters.next() == Some('[') {
            for character in characters.by_ref() {
                if character.is_ascii_alphabetic() {
                    break;
                }
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str, exit: i32) -> Metric {
        let mut reader = Reader::default();
        for line in text.split_inclusive('\n') {
            reader.line(line.as_bytes());
        }
        reader.end(Some(exit))
    }

    /// Counts, failing names, passing names.
    #[track_caller]
    fn is(text: &str, passed: u64, failed: u64, failing: &[&str], passing: &[&str]) {
        let metric = read(text, i32::from(failed > 0));
        assert_eq!(metric.counts, Some(Counts { passed, failed }), "{metric:?}");
        assert_eq!(
            metric.failing.iter().collect::<Vec<_>>(),
            failing,
            "{metric:?}"
        );
        assert_eq!(
            metric.passing.iter().collect::<Vec<_>>(),
            passing,
            "{metric:?}"
        );
        assert_eq!(metric.number, None);
        assert_eq!(metric.good(), failed == 0);
    }

    #[test]
    fn pytest() {
        is(
            "\x1b[31m=== short test summary info ===\x1b[0m\nFAILED tests/test_a.py::test_x[a-1] - assert 1 == 2\nERROR tests/test_b.py::test_y\n=== 1 failed, 2 passed, 1 skipped, 1 error in 0.12s ===\n",
            2,
            2,
            &["tests/test_a.py::test_x[a-1]", "tests/test_b.py::test_y"],
            &[],
        );
        is("...\n3 passed in 0.01s\n", 3, 0, &[], &[]);
        is(
            "tests/test_a.py::test_x PASSED   [ 50%]\ntests/test_a.py::test_y FAILED   [100%]\n= 1 failed, 1 passed in 0.2s =\n",
            1,
            1,
            &["tests/test_a.py::test_y"],
            &["tests/test_a.py::test_x"],
        );
    }

    #[test]
    fn unittest() {
        is(
            "test_a (t.T.test_a) ... ok\ntest_b (t.T.test_b) ... FAIL\n\n====\nFAIL: test_b (t.T.test_b)\n----\nRan 2 tests in 0.001s\n\nFAILED (failures=1)\n",
            1,
            1,
            &["test_b (t.T.test_b)"],
            &["test_a (t.T.test_a)"],
        );
        is("Ran 2 tests in 0.001s\n\nOK\n", 2, 0, &[], &[]);
    }

    #[test]
    fn cargo_test() {
        is(
            "     Running unittests src/lib.rs (target/debug/deps/x-1f)\n\nrunning 2 tests\ntest tests::a ... ok\ntest tests::b ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n     Running tests/it.rs (target/debug/deps/it-2e)\ntest tests::a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n",
            2,
            1,
            &["src/lib.rs: tests::b"],
            &["src/lib.rs: tests::a", "tests/it.rs: tests::a"],
        );
        is(
            "        PASS [   0.005s] (1/2) pkg a::b\n        FAIL [   0.004s] (2/2) pkg a::c\n     Summary [   0.010s] 2 tests run: 1 passed, 1 failed, 0 skipped\n        FAIL [   0.004s] (2/2) pkg a::c\n",
            1,
            1,
            &["pkg a::c"],
            &["pkg a::b"],
        );
    }

    #[test]
    fn jest_and_vitest() {
        is(
            "FAIL src/a.test.js\n  sums\n    ✓ adds (2 ms)\n    ✕ takes away (1 ms)\n\nTests:       1 failed, 1 passed, 2 total\n",
            1,
            1,
            &["takes away"],
            &["adds"],
        );
        is(
            "  ● sums › takes away\n\n    expect(1).toBe(2)\n\nTests: 1 failed, 4 passed, 5 total\nTime: 1.2 s\n",
            4,
            1,
            &["sums › takes away"],
            &[],
        );
        is(
            "   × sums > takes away 5ms\n   ✓ sums > adds 1ms\n      Tests  1 failed | 3 passed (4)\n",
            3,
            1,
            &["sums > takes away"],
            &["sums > adds"],
        );
    }

    #[test]
    fn go_test() {
        is(
            "=== RUN   TestA\n--- PASS: TestA (0.00s)\n--- FAIL: TestB (0.00s)\n    b_test.go:3: no\nFAIL\nFAIL\texample.com/x\t0.01s\n",
            1,
            1,
            &["TestB"],
            &["TestA"],
        );
        is(
            "ok  \texample.com/x\t0.01s\nok  \texample.com/y\t(cached)\n",
            2,
            0,
            &[],
            &[],
        );
    }

    #[test]
    fn tap_and_node() {
        is(
            "TAP version 13\nok 1 - adds\nnot ok 2 - takes away\nok 3 - later # SKIP\nnot ok 4 - some day # TODO\n1..4\n",
            2,
            1,
            &["takes away"],
            &["adds", "some day"],
        );
        is(
            "TAP version 13\nok 1 - adds\n1..1\n# tests 3\n# pass 3\n# fail 0\n",
            3,
            0,
            &[],
            &["adds"],
        );
    }

    #[test]
    fn a_number_or_an_exit_code() {
        let metric = read("loss\n0.25\n\n", 0);
        assert_eq!((metric.number, metric.good()), (Some(0.25), false));
        assert_eq!(metric.words(), "0.25, exit code 0");
        for text in ["12 files\n", "", "e\n", "-\n", "v1.2.3\n", "inf\n"] {
            let metric = read(text, 3);
            assert_eq!((metric.number, metric.counts), (None, None), "{text}");
            assert_eq!(metric.words(), "exit code 3");
        }
        assert!(read("fine\n", 0).good());
    }

    #[test]
    fn prose_is_no_summary() {
        for text in [
            "3 passed the exam in 2 hours\n",
            "ok 1 - but there is no plan\n",
            "I was here in 5 minutes\n",
        ] {
            assert_eq!(read(text, 0).counts, None, "{text}");
        }
    }

    #[test]
    fn a_broken_collection_names_nothing() {
        let metric = read("=== 3 errors in 0.10s ===\n", 2);
        assert!(!metric.names_known);
        assert_eq!(metric.counts.unwrap().failed, 3);
    }

    proptest! {
        /// However much stands before it, and however long its lines are, the
        /// summary at the end counts.
        #[test]
        fn noise_before_the_summary_changes_nothing(noise in "([a-z .]{0,80}\n){0,200}", long in 0_usize..20_000) {
            let text = format!("{noise}{}\n= 2 failed, 7 passed in 1.00s =\n", "x".repeat(long));
            let metric = read(&text, 1);
            prop_assert_eq!(metric.counts, Some(Counts { passed: 7, failed: 2 }));
        }

        /// No text breaks the reader, however it is cut.
        #[test]
        fn any_bytes_can_be_read(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..30)) {
            let mut reader = Reader::default();
            for part in &parts {
                reader.line(part);
            }
            let _metric = reader.end(None).words();
        }
    }
}
