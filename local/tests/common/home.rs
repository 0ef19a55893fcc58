//! Serving a project: what the tests of the home and the process they start share.

use loopy_contract::ids::CascadeId;
use loopy_contract::manifest::Manifest;
use loopy_local::{Cascade, HomeOptions, State};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// As long as anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How many cascades are served at once.
pub(crate) const MANY: usize = 8;

/// How the project is served: with `runner.py` as its runner.
pub(crate) fn options(project: &Path, manifest: Manifest) -> HomeOptions {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/runner.py");
    let argv = [super::python(), runner].map(|part| part.to_str().unwrap().to_owned());
    let mut options =
        HomeOptions::new(project.to_owned(), manifest, BTreeMap::new(), argv.to_vec());
    options.environment = super::bare_environment();
    let python = super::python().to_str().unwrap().to_owned();
    options
        .environment
        .insert("LOOPY_PYTHON".to_owned(), python);
    options
}

/// The two workflows, with these bodies for `one` and `two`.
pub(crate) fn cascade_manifest(one: &str, two: &str) -> Manifest {
    let mut workflows = super::two_workflows();
    workflows["first"]["steps"]["one"]["body"] = json!(one);
    workflows["first"]["steps"]["two"]["body"] = json!(two);
    super::manifest(workflows, json!([]))
}

/// The cascade that the event `id` began, once it is over.
pub(crate) async fn follow(state: &State, id: &str) -> Cascade {
    let id = CascadeId::from(id);
    tokio::time::timeout(LONG, state.follow(&id, |_| ()))
        .await
        .unwrap()
        .unwrap()
}
