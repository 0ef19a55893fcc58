//! What must have come of a pull request, whichever home it came to.

use loopy_localstack::Loopy;
use serde_json::{Value, json};

fn run_of<'a>(shown: &'a [Value], workflow: &str) -> &'a Value {
    let mut found = shown.iter().filter(|run| run["workflow"] == workflow);
    let run = found
        .next()
        .unwrap_or_else(|| panic!("no run of {workflow}: {shown:?}"));
    assert!(found.next().is_none(), "more than one run of {workflow}");
    run
}

fn history<'a>(run: &'a Value, kind: &str) -> Vec<&'a Value> {
    let lines = run["history"].as_array().unwrap().iter();
    lines.filter(|line| line["kind"] == kind).collect()
}

/// Both runs succeeded, fed each other, and are recorded with their cost.
pub(crate) fn told(shown: &[Value], payload: &Value) {
    assert_eq!(shown.len(), 2, "{shown:?}");
    let repo = &payload["repository"]["full_name"];
    let number = &payload["pull_request"]["number"];

    let review = run_of(shown, "review");
    assert_eq!(review["status"], "succeeded", "{review:#}");
    assert_eq!(review["event"]["name"], "PullRequest");
    assert_eq!(review["event"]["source"]["kind"], "sensor");
    assert_eq!(&review["event"]["fields"]["repo"], repo);
    assert_eq!(&review["event"]["fields"]["number"], number);
    let read = &review["steps"]["read"];
    assert_eq!(read["state"], "succeeded");
    let output = &read["output"];
    assert_eq!(output["verdict"], "approve");
    assert_eq!(output["risks"].as_array().unwrap().len(), 2);
    let usage = &read["attempts"][0]["usage"];
    assert!(usage["usd"].as_f64().unwrap() > 0.0, "{usage}");
    assert!(usage["input_tokens"].as_u64().unwrap() > 0, "{usage}");
    assert_eq!(review["cost_usd"], usage["usd"]);

    // The typed output fed the second step, quotes and shell syntax unharmed.
    let comment = review["steps"]["comment"]["output"]["comment"]
        .as_str()
        .unwrap();
    let summary = output["summary"].as_str().unwrap();
    assert!(
        comment.starts_with(&format!("**approve**: {summary}\n\n- ")),
        "{comment}"
    );

    let emitted = history(review, "event_emitted");
    assert_eq!(emitted.len(), 1, "{emitted:?}");
    let archive = run_of(shown, "archive");
    assert_eq!(archive["status"], "succeeded", "{archive:#}");
    assert_eq!(
        archive["event"]["source"],
        json!({ "kind": "step", "run": review["id"], "step": "comment" })
    );
    assert_eq!(archive["event"]["cascade"], review["event"]["cascade"]);
    assert_eq!(archive["event"]["depth"], 1);
    let line = format!("{}#{number} approve", repo.as_str().unwrap());
    assert_eq!(archive["steps"]["note"]["output"]["line"], json!(line));
    for run in shown {
        assert!(
            run["steps"]
                .as_object()
                .unwrap()
                .values()
                .all(|step| step["attempts"].as_array().unwrap().len() == 1)
        );
        assert_eq!(history(run, "run_succeeded").len(), 1);
    }
}

/// The same without `--json`.
pub(crate) fn read_by_people(loopy: &Loopy, shown: &[Value], place: &[&str]) {
    for run in shown {
        let mut arguments = vec!["runs", "show", run["id"].as_str().unwrap()];
        arguments.extend(place);
        let output = loopy.run(&arguments).unwrap();
        let story = String::from_utf8(output.stdout).unwrap();
        let head = format!("{}  succeeded", run["id"].as_str().unwrap());
        assert!(story.starts_with(&head), "{story}");
        for (name, step) in run["steps"].as_object().unwrap() {
            assert!(story.contains(&format!("\n  {name}: succeeded")), "{story}");
            for (field, value) in step["output"].as_object().unwrap() {
                assert!(
                    story.contains(&format!("\n    {field} = {value}\n")),
                    "{story}"
                );
            }
        }
        assert!(story.contains("run succeeded"), "{story}");
    }
    // What the agent said and did, to its last event.
    let review = run_of(shown, "review");
    let mut arguments = vec!["runs", "logs", review["id"].as_str().unwrap()];
    arguments.extend(["--step", "read", "--format", "json"]);
    arguments.extend(place);
    let output = loopy.run(&arguments).unwrap();
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_tool = |kind: &str| {
        let found = |line: &&Value| line["from"] == "claude-code" && line["event"]["type"] == kind;
        lines.iter().filter(found).count()
    };
    assert_eq!(
        (of_tool("system") > 0, of_tool("result")),
        (true, 1),
        "{lines:#?}"
    );
    assert!(of_tool("assistant") > 0, "{lines:#?}");
}

/// The agent's output was refused, and the run says so.
pub(crate) fn broke_its_schema(run: &Value) {
    assert_eq!(run["workflow"], "review");
    assert_eq!(run["status"], "failed", "{run:#}");
    assert_eq!(run["failure"]["step"], "read");
    assert_eq!(run["failure"]["class"], "output", "{run:#}");
    let message = run["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("verdict") || message.contains("structured"),
        "{message}"
    );
    assert_eq!(run["steps"]["comment"]["state"], "skipped");
    assert!(run["cost_usd"].as_f64().unwrap() > 0.0);
}
