//! What a step can say beyond a script: fan-out, loops, conditions, retries,
//! concurrency and limits, run by the real command.

use crate::support::{Project, json, until};
use serde_json::{Value, json};
use snapbox::str;
use std::fs;

/// The last line on stdout of `loopy trigger --json`.
fn triggered(project: &Project, fields: &str, code: i32) -> Value {
    let trigger = ["trigger", "--json", "--event", "Go", "--fields", fields];
    json(&project.loopy(&trigger).assert().code(code))
}

/// The run of this workflow.
fn run<'d>(document: &'d Value, workflow: &str) -> &'d Value {
    let runs = document["runs"].as_array().unwrap();
    let found = runs.iter().find(|run| run["workflow"] == workflow);
    found.unwrap_or_else(|| panic!("{document:#}"))
}

#[test]
fn each_item_is_worked_on_and_the_outputs_are_joined_in_order() {
    let project = Project::scripts(
        "events:\n  Go: { names: 'list[str]' }\n",
        &[
            (
                "work/plan",
                "on: Go\noutput: { tasks: 'list[{ name: str, size: int }]' }",
                r#"printf '{"tasks": [' > "$LOOPY_OUTPUT"
printf '{"name": "a b", "size": 3}, {"name": "c", "size": 2}, {"name": "d", "size": 1}' >> "$LOOPY_OUTPUT"
printf ']}' >> "$LOOPY_OUTPUT""#,
            ),
            (
                "work/do",
                "after: plan\neach: plan.tasks as task\noutput: { did: str, whole: str, note: str? }",
                r#"sleep 0.{{ task.size }}
whole=$(printf '%s' "{{ task }}" | sed 's/"/\\"/g')
printf '{"did": "%s", "whole": "%s"}' "{{ task.name }}" "$whole" > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/join",
                "after: do\noutput: { did: 'list[str]', all: 'list[json]' }",
                r#"printf '{"did": %s, "all": %s}' "{{ do.did }}" "{{ do }}" > "$LOOPY_OUTPUT""#,
            ),
            (
                "empty/none",
                "on: Go\neach: event.names as name\noutput: { x: int }",
                r#"echo '{"x": 1}' > "$LOOPY_OUTPUT""#,
            ),
            (
                "empty/after",
                "after: none\noutput: { xs: 'list[int]' }",
                r#"printf '{"xs": %s}' "{{ none.x }}" > "$LOOPY_OUTPUT""#,
            ),
        ],
    );
    let document = triggered(&project, r#"{"names": []}"#, 0);
    let work = run(&document, "work");
    let join = &work["steps"]["join"]["output"];
    assert_eq!(join["did"], json!(["a b", "c", "d"]));
    assert_eq!(join["all"][0]["whole"], r#"{"name":"a b","size":3}"#);
    let attempts = work["steps"]["do"]["attempts"].as_array().unwrap();
    let items: Vec<_> = attempts.iter().map(|it| &it["item"]).collect();
    assert_eq!(items, [0, 1, 2]);
    let empty = run(&document, "empty");
    assert_eq!(empty["steps"]["after"]["output"]["xs"], json!([]));

    let id = work["id"].as_str().unwrap();
    let shown = project.loopy(&["runs", "show", id]).assert().code(0);
    let story = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    for line in [
        "    [0] did = \"a b\"\n",
        "  do    step fanned out: 3 items\n",
        "  do    step started, item 2, attempt 3: limit 3600 s\n",
    ] {
        assert!(story.contains(line), "{line}{story}");
    }
}

#[test]
fn an_item_that_fails_for_good_ends_the_others_and_the_run() {
    let project = Project::scripts(
        "events:\n  Go: { sizes: 'list[int]' }\n",
        &[(
            "work/do",
            "on: Go\neach: event.sizes as size",
            "if [ \"{{ size }}\" = 0 ]; then sleep 0.3; exit 4; fi\nsleep 1000",
        )],
    );
    let document = triggered(&project, r#"{"sizes": [1, 0, 1]}"#, 3);
    let run = run(&document, "work");
    assert_eq!(run["failure"]["class"], "crash");
    assert_eq!(run["steps"]["do"]["state"], "failed");
}

#[test]
fn ten_items_are_worked_on_at_a_time_and_a_thousand_in_all() {
    let project = Project::scripts(
        "events:\n  Go: { place: str, numbers: 'list[int]' }\n",
        &[(
            "work/do",
            "on: Go\neach: event.numbers as number\noutput: { most: int }",
            // How many are at work, this one included.
            r#"mkdir -p "{{ event.place }}"
touch "{{ event.place }}/{{ number }}"
sleep 0.5
most=$(ls "{{ event.place }}" | wc -l)
rm "{{ event.place }}/{{ number }}"
printf '{"most": %s}' "$most" > "$LOOPY_OUTPUT""#,
        )],
    );
    let place = project.outside("place");
    let fields = |count: usize| {
        let numbers: Vec<usize> = (0..count).collect();
        json!({ "place": place, "numbers": numbers }).to_string()
    };
    let document = triggered(&project, &fields(14), 0);
    let output = run(&document, "work")["steps"]["do"]["output"].clone();
    let output = output.as_array().unwrap();
    assert_eq!(output.len(), 14);
    let most = output.iter().map(|item| item["most"].as_u64().unwrap());
    let most = most.max().unwrap();
    // On a busy machine some end before the last begins.
    assert!((2..=10).contains(&most), "{most}");

    let document = triggered(&project, &fields(1001), 3);
    let failure = &run(&document, "work")["failure"];
    assert_eq!(failure["class"], "output");
    assert_eq!(
        failure["message"],
        "`each` has 1001 items, and a step takes 1000"
    );
}

/// A script that is reviewed until the review is content.
fn reviewed(max: u32) -> Project {
    Project::scripts(
        "events:\n  Go: { want: int }\n",
        &[
            (
                "work/fix",
                "on: Go\noutput: { rounds: int, told: str }",
                r#"told=first
rounds=1
if [ -n "$LOOPY_FEEDBACK" ]; then
  told=$(sed 's/.*"notes":"\([^"]*\)".*/\1/' "$LOOPY_FEEDBACK")
  rounds=$(sed 's/.*"seen":\([0-9]*\).*/\1/' "$LOOPY_FEEDBACK")
  rounds=$((rounds + 1))
fi
printf '{"rounds": %s, "told": "%s"}' "$rounds" "$told" > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/review",
                &format!(
                    "after: fix\noutput: {{ good: bool, seen: int, notes: str }}\n\
                     loop: {{ to: fix, until: review.good, max: {max} }}"
                ),
                r#"good=false
if [ "{{ fix.rounds }}" = "{{ event.want }}" ]; then good=true; fi
printf '{"good": %s, "seen": %s, "notes": "not yet %s"}' $good "{{ fix.rounds }}" "{{ fix.rounds }}" > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/ship",
                "after: review",
                "test \"{{ review.good }}\" = true",
            ),
        ],
    )
}

#[test]
fn a_loop_goes_back_with_what_was_said_until_it_is_content() {
    let project = reviewed(3);
    let document = triggered(&project, r#"{"want": 3}"#, 0);
    let run = run(&document, "work");
    let fix = &run["steps"]["fix"];
    assert_eq!(fix["output"], json!({ "rounds": 3, "told": "not yet 2" }));
    assert_eq!(fix["iteration"], 3);
    let attempts = fix["attempts"].as_array().unwrap();
    let rounds: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt["iteration"].as_u64().unwrap_or(1))
        .collect();
    assert_eq!(rounds, [1, 2, 3]);
    assert_eq!(
        run["steps"]["ship"]["attempts"].as_array().unwrap().len(),
        1
    );

    let output = project
        .loopy(&["runs", "show", run["id"].as_str().unwrap()])
        .assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  succeeded  [TOOK]  $0.0000
  fix: succeeded, round 3
    rounds = 3
    told = "not yet 2"
  review: succeeded, round 3
    good = true
    notes = "not yet 3"
    seen = 3
  ship: succeeded
event     Go (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]          run started: on Go (hand-[ID])
  [TIME]  fix     step started: limit 3600 s
  [TIME]  fix     attempt succeeded
  [TIME]  fix     step succeeded
  [TIME]  review  step started: limit 3600 s
  [TIME]  review  attempt succeeded
  [TIME]  review  step succeeded
  [TIME]  fix     loop went back: round 2 of at most 4: `until: review.good` does not hold
  [TIME]  fix     step started, round 2, attempt 2: limit 3600 s
  [TIME]  fix     attempt succeeded, round 2, attempt 2
  [TIME]  fix     step succeeded
  [TIME]  review  step started, round 2, attempt 2: limit 3600 s
  [TIME]  review  attempt succeeded, round 2, attempt 2
  [TIME]  review  step succeeded
  [TIME]  fix     loop went back: round 3 of at most 4: `until: review.good` does not hold
  [TIME]  fix     step started, round 3, attempt 3: limit 3600 s
  [TIME]  fix     attempt succeeded, round 3, attempt 3
  [TIME]  fix     step succeeded
  [TIME]  review  step started, round 3, attempt 3: limit 3600 s
  [TIME]  review  attempt succeeded, round 3, attempt 3
  [TIME]  review  step succeeded
  [TIME]  ship    step started: limit 3600 s
  [TIME]  ship    attempt succeeded
  [TIME]  ship    step succeeded
  [TIME]          run succeeded

"#]]);
}

#[test]
fn a_loop_without_progress_fails_with_a_code_of_its_own() {
    let project = reviewed(1);
    let output = project.trigger("Go", r#"{"want": 9}"#).assert();
    output.code(7).stdout_eq(str![[r#"
work-[ID]  failed  [TOOK]  $0.0000
  review failed (no_progress): after 2 rounds `until: review.good` does not hold
  fix: succeeded, round 2
    rounds = 2
    told = "not yet 1"
  review: failed, round 2
  ship: skipped (step review failed)

"#]]);
}

#[test]
fn what_a_condition_skips_skips_those_who_need_it() {
    let project = Project::scripts(
        "events:\n  Go: { deep: bool }\n",
        &[
            (
                "work/look",
                "on: Go\noutput: { deep: bool }",
                r#"printf '{"deep": %s}' "{{ event.deep }}" > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/dig",
                "after: look\nwhen: look.deep\noutput: { found: int }",
                r#"echo '{"found": 2}' > "$LOOPY_OUTPUT""#,
            ),
            (
                "work/count",
                "after: [look, dig]\nwhen: look.deep and dig.found > 1\noutput: { n: int }",
                r#"echo '{"n": 1}' > "$LOOPY_OUTPUT""#,
            ),
            ("work/tell", "after: dig", "true"),
        ],
    );
    let output = project.trigger("Go", r#"{"deep": false}"#).assert();
    output.code(0).stdout_eq(str![[r#"
work-[ID]  succeeded  [TOOK]  $0.0000
  count: skipped (`when: look.deep and dig.found > 1` does not hold)
  dig: skipped (`when: look.deep` does not hold)
  look: succeeded
    deep = false
  tell: succeeded

"#]]);
    let document = triggered(&project, r#"{"deep": true}"#, 0);
    let states: Vec<_> = ["look", "dig", "count", "tell"]
        .map(|step| run(&document, "work")["steps"][step]["state"].clone())
        .into();
    assert_eq!(states, ["succeeded"; 4]);
}

#[test]
fn an_event_under_a_condition_is_left_out_when_it_does_not_hold() {
    let project = Project::scripts(
        "events:\n  Go: { loud: bool }\n  Alarm: { why: str }\n",
        &[
            (
                "work/look",
                "on: Go\noutput: { loud: bool }\nemits: { Alarm: { when: look.loud } }",
                r#"if [ "{{ event.loud }}" = true ]; then
  echo '{"output": {"loud": true}, "emits": {"Alarm": {"why": "fire"}}}' > "$LOOPY_OUTPUT"
else
  echo '{"output": {"loud": false}}' > "$LOOPY_OUTPUT"
fi"#,
            ),
            ("alarm/ring", "on: Alarm", "test \"{{ event.why }}\" = fire"),
        ],
    );
    let silent = triggered(&project, r#"{"loud": false}"#, 0);
    assert_eq!(silent["runs"].as_array().unwrap().len(), 1);
    let loud = triggered(&project, r#"{"loud": true}"#, 0);
    assert_eq!(run(&loud, "alarm")["status"], "succeeded");
}

#[test]
fn what_failed_is_tried_again_and_told_what_failed() {
    let project = Project::scripts(
        "events:\n  Go: { kind: str }\n",
        &[(
            "work/try",
            "on: Go\nretry: { max: 2, backoff: 1s, on: [crash, output] }\noutput: { told: str }",
            r#"if [ -z "$LOOPY_LAST_FAILURE" ]; then
  if [ "{{ event.kind }}" = crash ]; then echo "no network today" >&2; exit 9; fi
  if [ "{{ event.kind }}" = output ]; then echo '{"tell": "x"}' > "$LOOPY_OUTPUT"; exit 0; fi
fi
class=$(sed 's/.*"class":"\([a-z_]*\)".*/\1/' "$LOOPY_LAST_FAILURE")
printf '{"told": "%s"}' "$class" > "$LOOPY_OUTPUT""#,
        )],
    );
    for kind in ["crash", "output"] {
        let document = triggered(&project, &json!({ "kind": kind }).to_string(), 0);
        let run = run(&document, "work");
        let step = &run["steps"]["try"];
        assert_eq!(step["output"]["told"], kind);
        let attempts = step["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0]["failure"]["class"], kind);
        assert_eq!(attempts[1]["failure"], Value::Null);
        let id = run["id"].as_str().unwrap();
        let retried = project.notes(id, "step_retried");
        assert!(retried[0].starts_with("in 1 s: try 2 of 3"), "{retried:?}");
    }
    // What is not listed fails at once; what is, in the end.
    project.replace(
        "workflows/work/try.md",
        "on: [crash, output]",
        "on: [timeout]",
    );
    let document = triggered(&project, r#"{"kind": "crash"}"#, 3);
    let step = &run(&document, "work")["steps"]["try"];
    assert_eq!(step["attempts"].as_array().unwrap().len(), 1);
    project.replace("workflows/work/try.md", "on: [timeout]", "on: [crash]");
    project.replace("workflows/work/try.md", "class=", "exit 8\nclass=");
    let output = project.trigger("Go", r#"{"kind": "crash"}"#).assert();
    output.code(3).stdout_eq(str![[r#"
work-[ID]  failed  [TOOK]  $0.0000
  try failed (crash): the script ended with code 8: it said nothing
  try: failed

"#]]);
}

/// A project with a step of which only one is at work at a time for each name.
/// It tells that it began, and waits to be let on.
fn one_at_a_time(strategy: &str) -> Project {
    Project::scripts(
        "events:\n  Go: { name: str, here: str }\n",
        &[(
            "work/hold",
            &format!("on: Go\nconcurrency: {{ key: event.name, limit: 1, strategy: {strategy} }}"),
            "echo began >> \"{{ event.here }}.began\"\n\
             while ! test -e \"{{ event.here }}.on\"; do sleep 0.05; done",
        )],
    )
}

#[test]
fn one_too_many_waits_for_its_turn() {
    let project = one_at_a_time("queue");
    let serving = project.serve();
    let place = |name: &str| project.outside(name).display().to_string();
    let go = |name: &str, here: &str| {
        let fields = json!({ "name": name, "here": place(here) });
        project.trigger("Go", &fields.to_string()).spawn()
    };
    let began = |here: &str| {
        fs::read_to_string(format!("{}.began", place(here))).is_ok_and(|text| text == "began\n")
    };
    let first = go("a", "1");
    until("the first", || began("1").then_some(()));
    let second = go("a", "2");
    second.until_says("step throttled");
    let other = go("b", "3");
    until("one of another name", || began("3").then_some(()));
    assert!(!began("2"));

    let listed = json(&project.loopy(&["runs", "list", "--json"]).assert().code(0));
    let waiting = listed[1]["id"].as_str().unwrap().to_owned();
    let shown = project.loopy(&["runs", "show", &waiting]).assert().code(0);
    shown.stdout_eq(str![[r#"
work-[ID]  running  [TOOK]  $0.0000
  hold: throttled since [TIME]
event     Go (hand-[ID])
from      a person
cascade   hand-[ID], depth 0
manifest  [HASH]
history
  [TIME]        run started: on Go (hand-[ID])
  [TIME]  hold  step throttled: waits for the limit of 1 at a time for event.name = "a"

"#]]);
    for here in ["1", "2", "3"] {
        fs::write(format!("{}.on", place(here)), "").unwrap();
    }
    for trigger in [first, second, other] {
        trigger.end().code(0);
    }
    assert!(began("2"));
    serving.stop().code(0);
}

#[test]
fn one_too_many_takes_the_place_of_the_oldest() {
    let project = one_at_a_time("cancel-running");
    let serving = project.serve();
    let place = |name: &str| project.outside(name).display().to_string();
    let go = |here: &str| {
        let fields = json!({ "name": "a", "here": place(here) });
        project.trigger("Go", &fields.to_string()).spawn()
    };
    let first = go("1");
    until("the first", || {
        fs::metadata(format!("{}.began", place("1"))).ok()
    });
    let second = go("2");
    let output = first.end().code(3);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(text.contains("  cancelled  "), "{text}");
    assert!(text.contains("takes its place"), "{text}");
    fs::write(format!("{}.on", place("2")), "").unwrap();
    second.end().code(0);
    serving.stop().code(0);
}

#[test]
fn one_too_many_is_dropped() {
    let project = one_at_a_time("drop");
    let serving = project.serve();
    let place = |name: &str| project.outside(name).display().to_string();
    let go = |here: &str| {
        let fields = json!({ "name": "a", "here": place(here) });
        project.trigger("Go", &fields.to_string()).spawn()
    };
    let first = go("1");
    until("the first", || {
        fs::metadata(format!("{}.began", place("1"))).ok()
    });
    go("2").end().code(3).stdout_eq(str![[r#"
work-[ID]  cancelled  [TOOK]  $0.0000
  dropped: 1 at a time for event.name = "a" are at work already
  hold: cancelled (dropped: 1 at a time for event.name = "a" are at work already)

"#]]);
    fs::write(format!("{}.on", place("1")), "").unwrap();
    first.end().code(0);
    assert!(fs::metadata(format!("{}.began", place("2"))).is_err());
    serving.stop().code(0);
}

#[test]
fn branches_run_side_by_side_and_are_joined() {
    let project = Project::scripts(
        "events:\n  Go: { place: str }\n",
        &[
            ("work/fork", "on: Go", "true"),
            // Each waits for the other to have begun.
            (
                "work/left",
                "after: fork",
                "touch \"{{ event.place }}.left\"\n\
                 while ! test -e \"{{ event.place }}.right\"; do sleep 0.05; done",
            ),
            (
                "work/right",
                "after: fork",
                "touch \"{{ event.place }}.right\"\n\
                 while ! test -e \"{{ event.place }}.left\"; do sleep 0.05; done",
            ),
            ("work/join", "after: [left, right]", "true"),
        ],
    );
    let place = project.outside("place");
    let document = triggered(&project, &json!({ "place": place }).to_string(), 0);
    let steps = &run(&document, "work")["steps"];
    let at = |step: &str, when: &str| {
        steps[step]["attempts"][0][when]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for branch in ["left", "right"] {
        assert!(at(branch, "ended_at") <= at("join", "queued_at"));
    }
}

#[test]
fn a_run_that_would_spend_too_much_ends_at_the_limit() {
    let project = Project::scripts(
        "events:\n  Go: {}\nlimits:\n  workflows: { work: { spend: { usd: 3 } } }\n",
        &[(
            "work/spend",
            "on: Go\nbudget: { spend: { usd: 4 } }",
            "true",
        )],
    );
    let output = project.trigger("Go", "{}").assert();
    output.code(4).stdout_eq(str![[r#"
work-[ID]  failed  [TOOK]  $0.0000
  spend failed (budget): the limit of $3 for a run leaves too little: $0.00 are spent
  spend: failed

"#]]);
}
