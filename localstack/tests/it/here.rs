//! The example `github` served on this machine: same project, same deliveries,
//! same result as in a stack.

use crate::around::{Around, Delivery, MISLEADING};
use crate::machine::Machine;
use crate::story;
use serde_json::{Value, json};

#[tokio::test]
async fn a_pull_request_is_reviewed_on_one_machine() {
    let around = Around::new();
    let machine = Machine::serve(around.folder()).await;
    let url = format!("{}/hooks/github", machine.base);
    let delivery = Delivery::opened("11111111-aaaa", None);
    assert_eq!(delivery.clone().forged().send(&url).await, 401);
    assert_eq!(machine.ask(&["runs", "list"]), json!([]));
    assert_eq!(delivery.send(&url).await, 202);
    let found = machine.runs_over(2).await;
    let shown: Vec<Value> = found.iter().map(|run| machine.show(run)).collect();
    story::told(&shown, &delivery.payload());
    story::read_by_people(&machine.loopy, &shown, &machine.place());

    assert_eq!(delivery.send(&url).await, 202);
    let misleading = Delivery::opened("22222222-bbbb", Some(MISLEADING));
    assert_eq!(misleading.send(&url).await, 202);
    let found = machine.runs_over(3).await;
    assert_eq!(found.len(), 3, "{found:?}");
    story::broke_its_schema(&machine.show(&found[0]));

    around.sandboxes_gone().await;
}
