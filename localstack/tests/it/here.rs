//! The example `github` served on this machine: same project, same deliveries,
//! same result as in a stack.

use crate::around::{Around, Delivery, MISLEADING};
use crate::stack::LONG;
use crate::story;
use loopy_localstack::{Loopy, eventually, prepared};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Stdio};

/// `loopy run`, ended when dropped.
pub(crate) struct Serving(pub(crate) Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_pull_request_is_reviewed_on_one_machine() {
    let around = Around::new();
    let python = prepared("LOOPY_TEST_PYTHON").unwrap();
    let loopy = Loopy::new(BTreeMap::from([("LOOPY_PYTHON".to_owned(), python)])).unwrap();
    // Free a moment ago, and nobody asks for a certain port here.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let base = format!("http://{address}");
    let runner = format!("{}/loopy-runner", prepared("LOOPY_TEST_DIST").unwrap());
    let mut arguments = vec!["run", around.folder(), "--listen", &address];
    arguments.extend(["--public-url", &base, "--runner", &runner]);
    let serving = loopy
        .command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _serving = Serving(serving);
    let health = format!("{base}/healthz");
    eventually("the server", LONG, async || {
        let answer = reqwest::get(&health)
            .await
            .map_err(|error| error.to_string())?;
        answer.error_for_status().map_err(|error| error.to_string())
    })
    .await
    .unwrap();

    let place = ["--project", around.folder()];
    let runs = |arguments: &[&str]| {
        let arguments = [&["runs"], arguments, &["--json"], &place].concat();
        loopy.json(&arguments).unwrap()
    };
    let show = |run: &Value| runs(&["show", run["id"].as_str().unwrap()]);
    let over = async |count: usize| -> Vec<Value> {
        eventually("the runs to end", LONG, async || {
            let found = runs(&["list"]);
            let found = found.as_array().unwrap();
            let over = found.iter().all(|run| run["status"] != "running");
            if found.len() >= count && over {
                return Ok(found.clone());
            }
            Err(found.iter().map(|run| show(run).to_string()).collect())
        })
        .await
        .unwrap()
    };

    let url = format!("{base}/hooks/github");
    let delivery = Delivery::opened("11111111-aaaa", None);
    assert_eq!(delivery.clone().forged().send(&url).await, 401);
    assert_eq!(runs(&["list"]), json!([]));
    assert_eq!(delivery.send(&url).await, 202);
    let found = over(2).await;
    let shown: Vec<Value> = found.iter().map(show).collect();
    story::told(&shown, &delivery.payload());
    story::read_by_people(&loopy, &shown, &place);

    assert_eq!(delivery.send(&url).await, 202);
    let misleading = Delivery::opened("22222222-bbbb", Some(MISLEADING));
    assert_eq!(misleading.send(&url).await, 202);
    let found = over(3).await;
    assert_eq!(found.len(), 3, "{found:?}");
    story::broke_its_schema(&show(&found[0]));

    around.sandboxes_gone().await;
}
