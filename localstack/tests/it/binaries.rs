//! The binaries that travel: into an account, and into every sandbox.

use loopy_localstack::prepared;
use std::path::Path;

/// The most bytes that the runner may have: it is sent into each sandbox.
const RUNNER: u64 = 8_000_000;

#[test]
fn the_runner_is_small() {
    let dist = prepared("LOOPY_TEST_DIST").unwrap();
    let runner = Path::new(&dist).join("loopy-runner");
    let bytes = runner.metadata().unwrap().len();
    assert!(bytes > 1_000_000 && bytes <= RUNNER, "{bytes} bytes");
}
