//! The short form of fuzzing, on any toolchain: every seed and every input that
//! once broke something, then a few seconds of random edits to them. The same
//! properties are fuzzed at length by `cargo xtask fuzz`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../fuzz/src/properties.rs"]
#[expect(unreachable_pub, reason = "public where the fuzz targets use it")]
mod properties;

use properties::{Target, check};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// For each target; nine of them make less than 20 seconds.
const TIME: Duration = Duration::from_millis(1500);

/// Far longer than any input of this size takes on a busy machine.
const HANG: Duration = Duration::from_secs(20);

/// What means something to one of the readers.
const WORDS: [&str; 48] = [
    "enum[", "list[", "{{ ", " }}", "{% ", "---\n", "<<: *a", "&a ", "*a", "!t ", ".nan", "null",
    "1e999", "0x", "|+\n", ">2\n", "? ", "- ", ": ", "# ", "\r\n", "\r", "\u{85}", "\u{2028}",
    "\u{feff}", "\u{fdd0}", "é", "\t", "\0", "\"", "'", "\\", "`${", "/*", "*/", "//", "/[",
    "@sensor(", "emits=", "=== ", "cron(\"", "tz=", " in ", " not ", "==", "&&", "[[", "{",
];

fn inputs(target: Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder.join(target.name())).unwrap() {
        let path = entry.unwrap().path();
        inputs.push((path.display().to_string(), fs::read(path).unwrap()));
    }
    inputs.sort();
    assert!(!inputs.is_empty(), "{} has no seeds", target.name());
    inputs
}

fn survives(target: Target, name: &str, input: &[u8]) {
    let begun = Instant::now();
    let outcome = std::panic::catch_unwind(|| check(target, input));
    let shown = String::from_utf8_lossy(input);
    assert!(outcome.is_ok(), "{name} with\n{shown}\nas {input:?}");
    let took = begun.elapsed();
    assert!(took < HANG, "{name} took {took:?} with\n{shown}");
}

/// Seeds with a few edits: words put in, pieces taken out, doubled, or swapped
/// for those of another seed.
fn edit(input: &[u8], other: &[u8], rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.random_range(0..4_u32) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..24_usize)).min(bytes.len());
        let piece = match rng.random_range(0..6_u32) {
            0 => Vec::new(),
            1 => bytes.get(at..end).unwrap().repeat(2),
            2 => vec![rng.random_range(0..=255_u8)],
            3 => {
                let from = rng.random_range(0..=other.len());
                other
                    .get(from..(from + 24).min(other.len()))
                    .unwrap()
                    .to_vec()
            }
            _ => WORDS[rng.random_range(0..WORDS.len())].as_bytes().to_vec(),
        };
        bytes.splice(at..end, piece);
    }
    bytes
}

fn fuzz(target: Target) {
    let inputs = inputs(target);
    for (name, input) in &inputs {
        survives(target, name, input);
    }
    // The same edits each time: a failure here must not come and go.
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        let pick = |rng: &mut TestRng| rng.random_range(0..inputs.len());
        let (name, input) = &inputs[pick(&mut rng)];
        let other = &inputs[pick(&mut rng)].1;
        survives(target, name, &edit(input, other, &mut rng));
    }
}

#[test]
fn frontmatter_survives() {
    fuzz(Target::Frontmatter);
}

#[test]
fn registries_survive() {
    fuzz(Target::Registry);
}

#[test]
fn templates_survive() {
    fuzz(Target::Template);
}

#[test]
fn expressions_survive() {
    fuzz(Target::Expression);
}

#[test]
fn python_survives() {
    fuzz(Target::Python);
}

#[test]
fn typescript_survives() {
    fuzz(Target::TypeScript);
}

#[test]
fn shell_survives() {
    fuzz(Target::Shell);
}

#[test]
fn projects_survive() {
    fuzz(Target::Project);
}

#[test]
fn formats_survive() {
    fuzz(Target::Format);
}

#[test]
fn every_target_has_a_binary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in Target::ALL {
        let path = format!("targets/{}.rs", target.name());
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path}");
        let code = fs::read_to_string(folder.join(path)).unwrap();
        assert!(code.contains(&format!("Target::{target:?}")), "{code}");
    }
}
