//! A project served on this machine as a test sees it: through the command and its
//! address.

use crate::stack::LONG;
use loopy_localstack::{Loopy, eventually, prepared};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Stdio};

/// A process that is killed when this is dropped.
pub(crate) struct Serving(pub(crate) Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `loopy run` over a project.
pub(crate) struct Machine {
    /// Where it listens: `http://127.0.0.1:PORT`.
    pub(crate) base: String,
    pub(crate) loopy: Loopy,
    project: String,
    _serving: Serving,
}

impl Machine {
    /// Serves the project, and waits until it answers.
    pub(crate) async fn serve(project: &str) -> Self {
        let python = prepared("LOOPY_TEST_PYTHON").unwrap();
        let loopy = Loopy::new(BTreeMap::from([("LOOPY_PYTHON".to_owned(), python)])).unwrap();
        // Free a moment ago, and nobody asks for a certain port here.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let base = format!("http://{address}");
        let runner = format!("{}/loopy-runner", prepared("LOOPY_TEST_DIST").unwrap());
        let mut arguments = vec!["run", project, "--listen", &address];
        arguments.extend(["--public-url", &base, "--runner", &runner]);
        let serving = loopy
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self {
            base,
            loopy,
            project: project.to_owned(),
            _serving: Serving(serving),
        };
        let health = format!("{}/healthz", machine.base);
        eventually("the server", LONG, async || {
            let answer = reqwest::get(&health)
                .await
                .map_err(|error| error.to_string())?;
            answer.error_for_status().map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        machine
    }

    /// The arguments that lead a command here.
    pub(crate) fn place(&self) -> [&str; 2] {
        ["--project", &self.project]
    }

    /// What a command of `loopy` says as JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"], &self.place()].concat();
        self.loopy.json(&arguments).unwrap()
    }

    /// All there is about a run of a listing.
    pub(crate) fn show(&self, run: &Value) -> Value {
        self.ask(&["runs", "show", run["id"].as_str().unwrap()])
    }

    /// Waits until there are so many runs, all of them over.
    pub(crate) async fn runs_over(&self, count: usize) -> Vec<Value> {
        eventually("the runs to end", LONG, async || {
            let found = self.ask(&["runs", "list"]);
            let found = found.as_array().unwrap();
            let over = found.iter().all(|run| run["status"] != "running");
            if found.len() >= count && over {
                return Ok(found.clone());
            }
            Err(found.iter().map(|run| self.show(run).to_string()).collect())
        })
        .await
        .unwrap()
    }
}
