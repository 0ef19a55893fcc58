//! The example `github` in a stack: deployed, woken by GitHub's deliveries, and
//! taken down.

use crate::around::{Around, Delivery, MISLEADING, SECRET};
use crate::secrets::{self, PLANTED};
use crate::stack::{Deployed, LONG};
use crate::story;
use loopy_localstack::eventually;
use serde_json::{Value, json};

const QUEUES: [&str; 4] = ["DeliveriesQueue", "EventsQueue", "StepsQueue", "WatchQueue"];
const DEAD_LETTERS: [&str; 4] = [
    "DeliveriesDeadLetters",
    "EventsDeadLetters",
    "StepsDeadLetters",
    "WatchDeadLetters",
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_pull_request_is_reviewed_by_a_stack() {
    let around = Around::new();
    let deployed = Deployed::nothing("reviews");

    // A plan changes nothing.
    let planned = deployed.deploy(around.folder(), &["--plan"]);
    assert!(planned.status.success(), "{}", text(&planned.stderr));
    assert!(text(&planned.stderr).contains("+ AWS::DynamoDB::Table  Table"));
    assert_eq!(text(&planned.stdout), "");

    let first = deployed.deploy(around.folder(), &["--yes"]);
    let said = text(&first.stderr);
    assert!(first.status.success(), "{said}");
    assert!(said.contains("CREATE_COMPLETE"), "{said}");
    let url = text(&first.stdout);
    let url = url
        .trim()
        .strip_prefix("pull_request\t")
        .unwrap()
        .to_owned();

    // A forged delivery is refused, before and after the real one.
    let delivery = Delivery::opened("11111111-aaaa", None);
    assert_eq!(delivery.clone().forged().send(&url).await, 401);
    assert_eq!(deployed.runs(&["list"]), json!([]));

    assert_eq!(delivery.send(&url).await, 202);
    let runs = deployed.runs_over(2).await;
    let shown: Vec<Value> = runs.iter().map(|run| deployed.show(run)).collect();
    story::told(&shown, &delivery.payload());
    story::read_by_people(&deployed.loopy, &shown, &deployed.place());
    // The agent was told what the pull request says.
    let prompts = around.prompts();
    let payload = delivery.payload();
    let title = payload["pull_request"]["title"].as_str().unwrap();
    assert!(prompts.iter().any(|prompt| prompt.contains(title)));

    // The same delivery again, and a forged one, start nothing.
    let requests = prompts.len();
    assert_eq!(delivery.send(&url).await, 202);
    assert_eq!(delivery.clone().forged().send(&url).await, 401);

    // An output that breaks its schema: the step fails and says why.
    let misleading = Delivery::opened("22222222-bbbb", Some(MISLEADING));
    assert_eq!(misleading.send(&url).await, 202);
    let runs = deployed.runs_over(3).await;
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert!(around.prompts().len() > requests);
    let failed = deployed.show(&runs[0]);
    story::broke_its_schema(&failed);

    // A poison message ends in the dead-letter queue of its queue.
    assert_eq!(DEAD_LETTERS.map(|queue| deployed.waiting(queue)), [0; 4]);
    let steps = deployed.output("StepsQueue");
    deployed.account.aws(&[
        "sqs",
        "send-message",
        "--queue-url",
        &steps,
        "--message-body",
        "{\"kind\": \"poison\"}",
    ]);
    // In the end it is there and nowhere else.
    eventually("the poison to be buried", LONG, async || {
        let dead = DEAD_LETTERS.map(|queue| deployed.waiting(queue));
        let live = QUEUES.map(|queue| deployed.waiting(queue));
        if (dead, live) == ([0, 0, 1, 0], [0; 4]) {
            Ok(())
        } else {
            Err(format!("dead letters {dead:?}, queues {live:?}"))
        }
    })
    .await
    .unwrap();
    assert_eq!(deployed.runs(&["list"]).as_array().unwrap().len(), 3);

    // Every sandbox was taken down.
    around.sandboxes_gone().await;

    let model = around.model.env();
    let secrets = [
        PLANTED,
        SECRET,
        around.daytona.key(),
        &model["ANTHROPIC_API_KEY"],
    ];
    secrets::are_nowhere(&deployed, &around, &secrets);

    // Nothing has changed, so nothing is done.
    let second = deployed.deploy(around.folder(), &["--yes"]);
    let said = text(&second.stderr);
    assert!(second.status.success(), "{said}");
    assert!(said.contains("is up to date, nothing to change"), "{said}");
    assert!(!said.contains("uploaded"), "{said}");

    let place = deployed.place();
    let run = |arguments: &[&str]| {
        let arguments = [arguments, &place].concat();
        deployed.loopy.run(&arguments).unwrap()
    };
    let destroyed = run(&["destroy", "--yes"]);
    let said = text(&destroyed.stderr);
    assert!(destroyed.status.success(), "{said}");
    assert!(said.contains("stack reviews is gone"), "{said}");
    let gone = run(&["runs", "list"]);
    assert_eq!(gone.status.code(), Some(2));
    let said = text(&gone.stderr);
    assert!(said.contains("there is no stack reviews"), "{said}");
}
