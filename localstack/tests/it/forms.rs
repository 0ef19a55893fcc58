//! The forms of steps and triggers in a stack, side by side in one: a retry, an
//! approval, a fan-out, files handed on, a debounced trigger, a concurrency limit, a
//! cancelled run.

use crate::around::sandboxes;
use crate::stack::{Deployed, LONG};
use jiff::Timestamp;
use loopy_localstack::eventually;
use loopy_testkit::daytona::Daytona;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const REGISTRY: &str = "sandboxes:
  Cloud: { provider: daytona, image: { base: debian:bookworm-slim } }
agents:
  Shell: { harness: command, sandbox: Cloud }
events:
  Flaky: { marker: str }
  Ask: { note: str }
  Fan: { words: list[str] }
  Hand: { note: str }
  Typed: { note: str }
  Busy: { repo: str, note: str }
  Slow: { note: str }
";

const STEPS: [(&str, &str); 10] = [
    (
        "flaky/try",
        r#"on: Flaky
agent: Shell
retry: { max: 2, backoff: 1s, on: [crash] }
output:
  word: str
---
if mkdir "{{ event.marker }}"; then exit 7; fi
printf '{"output": {"word": "second"}}' > "$LOOPY_OUTPUT""#,
    ),
    (
        "ask/release",
        r#"on: Ask
agent: Shell
approve: { before: true, within: 1h }
output:
  word: str
---
printf '{"output": {"word": "released"}}' > "$LOOPY_OUTPUT""#,
    ),
    (
        "fan/split",
        r#"on: Fan
agent: Shell
output:
  words: list[str]
---
printf '{"output": {"words": %s}}' "{{ event.words }}" > "$LOOPY_OUTPUT""#,
    ),
    (
        "fan/work",
        r#"after: split
agent: Shell
each: split.words as word
output:
  word: str
---
printf '{"output": {"word": "<%s>"}}' "{{ word }}" > "$LOOPY_OUTPUT""#,
    ),
    (
        "fan/join",
        r#"after: work
agent: Shell
output:
  all: str
---
printf '{"output": {"all": "%s"}}' "$(printf '%s' "{{ work }}" | tr -dc '<>a-z')" > "$LOOPY_OUTPUT""#,
    ),
    (
        "hand/build",
        r#"on: Hand
agent: Shell
output:
  sum: str
---
mkdir dist && head -c 1200000 /dev/urandom > dist/noise
echo "{{ event.note }}" > dist/note
printf '{"output": {"sum": "%s"}}' "$(sha256sum < dist/noise)" > "$LOOPY_OUTPUT""#,
    ),
    (
        "hand/use",
        r#"after: build
files: build/dist/**
agent: Shell
output:
  sum: str
  note: str
---
printf '{"output": {"sum": "%s", "note": "%s"}}' "$(sha256sum < build/dist/noise)" "$(cat build/dist/note)" > "$LOOPY_OUTPUT""#,
    ),
    (
        "typed/settle",
        r#"on: { event: Typed, debounce: 10s }
agent: Shell
output:
  note: str
---
printf '{"output": {"note": "%s"}}' "{{ event.note }}" > "$LOOPY_OUTPUT""#,
    ),
    (
        "busy/work",
        "on: Busy
agent: Shell
concurrency: { key: event.repo, limit: 1, strategy: queue }
---
while [ ! -e \"{{ event.note }}\" ]; do sleep 0.1; done",
    ),
    (
        "slow/wait",
        "on: Slow
agent: Shell
---
sleep 600",
    ),
];

/// Writes the project, with a webhook for each event.
fn write_project(root: &Path, daytona: &Daytona) {
    let write = |name: &str, text: &str| {
        let file = root.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    write("registry.yml", REGISTRY);
    for (name, text) in STEPS {
        write(&format!("workflows/{name}.md"), &format!("---\n{text}\n"));
    }
    for event in ["Flaky", "Ask", "Fan", "Hand", "Typed", "Busy", "Slow"] {
        let name = event.to_lowercase();
        let sensor = format!(
            "from loopy import sensor\nfrom loopy.events import {event}\n\n\n\
             @sensor(webhook=\"/hooks/{name}\", emits=\"{event}\", verify=\"none\")\n\
             def {name}(request):\n    return {event}(**request.json)\n"
        );
        write(&format!("sensors/{name}.py"), &sensor);
    }
    let own = format!(
        "DAYTONA_API_KEY={}\nDAYTONA_API_URL={}\n",
        daytona.key(),
        daytona.url()
    );
    write("loopy.env", &own);
}

/// The stack, and what stands around it.
struct Forms {
    deployed: Deployed,
    daytona: Daytona,
    webhooks: BTreeMap<String, String>,
}

impl Forms {
    async fn send(&self, hook: &str, fields: Value) {
        let sent = reqwest::Client::new()
            .post(&self.webhooks[hook])
            .body(fields.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 202, "{hook}");
    }

    /// Waits for so many runs of a workflow in this state, and shows them.
    async fn runs(&self, workflow: &str, status: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} runs of {workflow} to be {status}");
        eventually(&what, LONG, async || {
            let found = self.deployed.runs(&["list", "--workflow", workflow]);
            let found = found.as_array().unwrap();
            let wanted = |run: &&Value| run["status"] == status;
            if found.iter().filter(wanted).count() == count {
                let wanted = found.iter().filter(wanted);
                return Ok(wanted.map(|run| self.deployed.show(run)).collect());
            }
            let shown = found.iter().map(|run| self.deployed.show(run).to_string());
            Err(shown.collect::<Vec<_>>().join("\n"))
        })
        .await
        .unwrap()
    }

    /// Asks for something as a person does.
    fn order(&self, order: &str, run: &Value) {
        let id = run["id"].as_str().unwrap();
        let arguments = [
            &["runs", order, id, "--by", "Ada"][..],
            &self.deployed.place(),
        ]
        .concat();
        let output = self.deployed.loopy.run(&arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{order}: {said}");
    }

    async fn a_failed_attempt_is_made_again(&self, folder: &Path) {
        let marker = folder.join("marker");
        self.send("flaky", json!({ "marker": marker })).await;
        let run = &self.runs("flaky", "succeeded", 1).await[0];
        let step = &run["steps"]["try"];
        assert_eq!(step["output"]["word"], "second", "{run:#}");
        let attempts = step["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{run:#}");
        assert_eq!(attempts[0]["failure"]["class"], "crash", "{run:#}");
        let at = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        let rest = at(&attempts[1]["started_at"]).duration_since(at(&attempts[0]["ended_at"]));
        assert!(rest.as_millis() >= 900, "{rest:?}");
    }

    async fn a_run_waits_for_a_person(&self) {
        self.send("ask", json!({ "note": "may I" })).await;
        let parked = &self.runs("ask", "parked", 1).await[0];
        assert_eq!(parked["steps"]["release"]["state"], "asking");
        self.order("approve", parked);
        let run = &self.runs("ask", "succeeded", 1).await[0];
        assert_eq!(run["steps"]["release"]["output"]["word"], "released");
        let approved = lines(run, "approved");
        assert_eq!(approved.len(), 1, "{run:#}");
        assert!(
            approved[0]["note"].as_str().unwrap().contains("Ada"),
            "{run:#}"
        );
    }

    async fn each_item_has_a_sandbox_of_its_own(&self) {
        let words: Vec<String> = ('a'..='l').map(String::from).collect();
        self.send("fan", json!({ "words": words })).await;
        let run = &self.runs("fan", "succeeded", 1).await[0];
        let outputs: Vec<Value> = words
            .iter()
            .map(|word| json!({ "word": format!("<{word}>") }))
            .collect();
        let work = &run["steps"]["work"];
        assert_eq!(work["output"], json!(outputs), "{run:#}");
        let attempts = work["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), words.len());
        let all = run["steps"]["join"]["output"]["all"].as_str().unwrap();
        for word in words {
            assert!(all.contains(&format!("<{word}>")), "{all}");
        }
    }

    async fn files_go_from_step_to_step(&self) {
        self.send("hand", json!({ "note": "from the first" })).await;
        let run = &self.runs("hand", "succeeded", 1).await[0];
        let steps = &run["steps"];
        let size = &steps["build"]["files"]["packs"][0]["pack"]["size"];
        assert!(size.as_u64().unwrap() > 1_200_000, "{run:#}");
        assert_eq!(steps["use"]["output"]["note"], "from the first", "{run:#}");
        assert_eq!(
            steps["use"]["output"]["sum"],
            steps["build"]["output"]["sum"]
        );
        // A run that goes over it again has files of its own.
        let id = run["id"].as_str().unwrap();
        let arguments = ["runs", "fork", id, "--from", "use", "--by", "Ada"];
        let arguments = [&arguments[..], &self.deployed.place()].concat();
        let output = self.deployed.loopy.run(&arguments).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        for run in self.runs("hand", "succeeded", 2).await {
            let steps = &run["steps"];
            assert_eq!(
                steps["use"]["output"]["sum"],
                steps["build"]["output"]["sum"]
            );
        }
    }

    async fn only_the_last_of_many_events_counts(&self) {
        for note in ["one", "two", "three"] {
            self.send("typed", json!({ "note": note })).await;
        }
        let run = &self.runs("typed", "succeeded", 1).await[0];
        // Which was made last is not which was sent last: sensors run side by side.
        let events = [&["events", "list", "--json"][..], &self.deployed.place()].concat();
        let events = self.deployed.loopy.json(&events).unwrap();
        let mut typed: Vec<&Value> = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event.to_string().contains("\"Typed\""))
            .collect();
        assert_eq!(typed.len(), 3, "{events:#}");
        typed.retain(|event| !event.to_string().contains("superseded"));
        assert_eq!(typed.len(), 1, "{events:#}");
        assert!(typed[0].to_string().contains(run["id"].as_str().unwrap()));
        assert_eq!(
            run["steps"]["settle"]["output"]["note"],
            run["event"]["fields"]["note"]
        );
    }

    async fn one_at_a_time(&self) {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        for _ in 0..2 {
            self.send("busy", json!({ "repo": "a/b", "note": gate }))
                .await;
        }
        // The first one works until the second one has to wait for it.
        eventually("one run to wait for the other", LONG, async || {
            let found = self.deployed.runs(&["list", "--workflow", "busy"]);
            let runs = found.as_array().unwrap().iter();
            let shown: Vec<Value> = runs.map(|run| self.deployed.show(run)).collect();
            let waits = |run: &Value| !lines(run, "step_throttled").is_empty();
            match shown.iter().filter(|run| waits(run)).count() {
                1 => Ok(()),
                _ => Err(format!("{shown:#?}")),
            }
        })
        .await
        .unwrap();
        std::fs::write(&gate, "").unwrap();
        let runs = self.runs("busy", "succeeded", 2).await;
        let mut times: Vec<(Timestamp, Timestamp)> = runs
            .iter()
            .map(|run| {
                let attempt = &run["steps"]["work"]["attempts"][0];
                let at = |name: &str| attempt[name].as_str().unwrap().parse().unwrap();
                (at("started_at"), at("ended_at"))
            })
            .collect();
        times.sort();
        assert!(times[0].1 <= times[1].0, "{times:?}");
        let waited = runs.iter().flat_map(|run| lines(run, "step_throttled"));
        assert_eq!(waited.count(), 1, "{runs:#?}");
    }

    async fn a_cancelled_run_leaves_nothing_behind(&self) {
        self.send("slow", json!({ "note": "long" })).await;
        let running = eventually("the script", LONG, async || {
            let run = &self.runs("slow", "running", 1).await[0];
            let sandbox = run["steps"]["wait"]["attempts"][0]["sandbox"]["id"].clone();
            let works = sandbox
                .as_str()
                .is_some_and(|sandbox| !self.daytona.processes(sandbox).is_empty());
            works
                .then_some((run.clone(), sandbox))
                .ok_or(run.to_string())
        });
        let (run, sandbox) = running.await.unwrap();
        let sandbox = sandbox.as_str().unwrap();
        let processes = self.daytona.processes(sandbox);
        self.order("cancel", &run);
        self.runs("slow", "cancelled", 1).await;
        eventually("the sandbox to go", LONG, async || {
            let left = self.daytona.sandboxes().iter().any(|name| name == sandbox);
            let alive = processes
                .iter()
                .any(|id| Path::new(&format!("/proc/{id}")).exists());
            if left || alive {
                return Err(format!("{:?}", self.daytona.processes(sandbox)));
            }
            Ok(())
        })
        .await
        .unwrap();
    }
}

fn lines<'a>(run: &'a Value, kind: &str) -> Vec<&'a Value> {
    let lines = run["history"].as_array().unwrap().iter();
    lines.filter(|line| line["kind"] == kind).collect()
}

#[tokio::test]
async fn each_form_does_in_a_stack_what_it_says() {
    let daytona = sandboxes("/usr/bin:/bin");
    let project = tempfile::tempdir().unwrap();
    write_project(project.path(), &daytona);
    let deployed = Deployed::nothing("forms");
    let folder = project.path().to_str().unwrap();
    let output = deployed.deploy(folder, &["--yes", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let forms = Forms {
        deployed,
        daytona,
        webhooks: serde_json::from_value(answer["webhooks"].clone()).unwrap(),
    };
    let elsewhere = tempfile::tempdir().unwrap();
    tokio::join!(
        forms.a_failed_attempt_is_made_again(elsewhere.path()),
        forms.a_run_waits_for_a_person(),
        forms.each_item_has_a_sandbox_of_its_own(),
        forms.files_go_from_step_to_step(),
        forms.only_the_last_of_many_events_counts(),
        forms.one_at_a_time(),
        forms.a_cancelled_run_leaves_nothing_behind(),
    );
    // Nothing was given up, and no sandbox is left.
    let letters = [
        "DeliveriesDeadLetters",
        "EventsDeadLetters",
        "StepsDeadLetters",
        "WatchDeadLetters",
    ];
    assert_eq!(letters.map(|queue| forms.deployed.waiting(queue)), [0; 4]);
    eventually("the sandboxes to go", LONG, async || {
        let left = forms.daytona.sandboxes();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await
    .unwrap();
}
