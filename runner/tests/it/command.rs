//! `command` steps.

use crate::engine::{Attempt, envelope, failed, lives, succeeded};
use loopy_contract::report::{FailureClass, MAX_RESULT_BYTES};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn reference(producer: &str, field: &str) -> Value {
    json!({"producer": producer, "field": field, "raw": format!("{{{{ {producer}.{field} }}}}")})
}

#[tokio::test]
async fn values_go_in_outputs_and_events_come_out() {
    let script = r#"
test "$PWD" = "$(dirname "$HOME")/workspace"
test "$LOOPY_RUN_ID" = r-1
test "$LOOPY_WORKSPACE" = "$PWD"
test -z "$LOOPY_TOKEN"
test "{{ event.title }}" = 'a "b" c'
test "{{ plan.parts }}" = '[1,2]'
test "{{ plan.none }}" = ''
grep -q '"unused":true' "$LOOPY_INPUTS"
printf '{"output": {"n": 3}, "emits": {"Done": {"at": "%s"}}}' "$COLOUR" > "$LOOPY_OUTPUT"
sleep 2.5
"#;
    let attempt = Attempt::of(envelope(
        script,
        json!({
            "refs": [reference("event", "title"), reference("plan", "parts"), reference("plan", "none")],
            "values": {"event": {"title": "a \"b\" c", "unused": true}, "plan": {"parts": [1, 2]}},
            "env": {"COLOUR": "dark-green"},
            "output": {"fields": {"n": {"type": "integer"}}},
            "emits": {"Done": {"fields": {"at": {"type": "string"}}}},
        }),
    ));
    let result = attempt.run().await;
    let (output, emits) = succeeded(&result);
    assert_eq!(Value::from(output.clone()), json!({"n": 3}));
    // What the step puts out is its own; only messages are redacted.
    assert_eq!(emits["Done"]["at"], "dark-green");
    assert!(result.duration_ms >= 2500, "{}", result.duration_ms);
    let beats = attempt
        .record
        .heartbeats
        .load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=4).contains(&beats), "{beats}");
}

#[tokio::test]
async fn a_value_or_a_literal_that_looks_like_a_reference_is_only_text() {
    let look = "{{ plan.secret }} {{ '{{' }} $(id) `id`";
    let attempt = Attempt::of(envelope(
        r#"
test "{{ event.title }}" = "$(cat <<'END'
{{ '{{' }} plan.secret }} {{'{{'}} '{{ '{{' }}' }} $(id) `id`
END
)" || exit 3
test '{{ '{{' }}' = '{''{'
"#,
        json!({
            "refs": [reference("event", "title"), reference("plan", "secret")],
            "values": {"event": {"title": look}, "plan": {"secret": "expanded"}},
        }),
    ));
    assert!(succeeded(&attempt.run().await).0.is_empty());
}

#[tokio::test]
async fn items_and_lists_of_outputs_go_in_whole_and_by_field() {
    let script = r#"
test "{{ part }}" = '{"name":"a b","size":2}'
test "{{ part.name }}" = 'a b'
test "{{ part.size }}" = 2
test "{{ checks }}" = '[{"ok":true},{"note":"x","ok":false}]'
test "{{ checks.ok }}" = '[true,false]'
test "{{ checks.note }}" = '[null,"x"]'
test -z "{{ skipped.text }}"
test -z "${LOOPY_FEEDBACK+set}${LOOPY_LAST_FAILURE+set}"
"#;
    let whole = |producer: &str| json!({"producer": producer, "field": "", "raw": format!("{{{{ {producer} }}}}")});
    let attempt = Attempt::of(envelope(
        script,
        json!({
            "refs": [
                whole("part"), reference("part", "name"), reference("part", "size"),
                whole("checks"), reference("checks", "ok"), reference("checks", "note"),
                reference("skipped", "text"),
            ],
            "values": {
                "part": {"name": "a b", "size": 2},
                "checks": [{"ok": true}, {"note": "x", "ok": false}],
            },
        }),
    ));
    assert!(succeeded(&attempt.run().await).0.is_empty());
}

#[tokio::test]
async fn why_a_loop_came_back_is_in_a_file() {
    let feedback = json!({"step": "review", "output": {"notes": "no tests"}});
    let attempt = Attempt::of(envelope(
        r#"printf '{"output": {"why": %s}}' "$(cat "$LOOPY_FEEDBACK")" > "$LOOPY_OUTPUT""#,
        json!({
            "iteration": 2,
            "feedback": feedback,
            "output": {"fields": {"why": {"type": "object"}}},
        }),
    ));
    assert_eq!(succeeded(&attempt.run().await).0["why"], feedback);
}

#[tokio::test]
async fn what_failed_before_is_in_a_file() {
    let failure = json!({"class": "output", "message": "/n: \"3\" is not an integer"});
    let attempt = Attempt::of(envelope(
        r#"printf '{"output": {"why": %s}}' "$(cat "$LOOPY_LAST_FAILURE")" > "$LOOPY_OUTPUT""#,
        json!({
            "last_failure": failure,
            "output": {"fields": {"why": {"type": "object"}}},
        }),
    ));
    assert_eq!(succeeded(&attempt.run().await).0["why"], failure);
}

#[tokio::test]
async fn events_under_a_condition_may_be_left_out() {
    let contract = json!({
        "emits": {"Alarm": {"fields": {"why": {"type": "string"}}}},
        "emits_optional": ["Alarm"],
    });
    let silent = Attempt::of(envelope("true", contract.clone())).run().await;
    assert!(succeeded(&silent).1.is_empty());
    let script = r#"echo '{"emits": {"Alarm": {"why": "fire"}}}' > "$LOOPY_OUTPUT""#;
    let loud = Attempt::of(envelope(script, contract.clone())).run().await;
    assert_eq!(succeeded(&loud).1["Alarm"]["why"], "fire");
    // What is put out all the same is checked.
    let script = r#"echo '{"emits": {"Alarm": {}}}' > "$LOOPY_OUTPUT""#;
    let wrong = Attempt::of(envelope(script, contract)).run().await;
    let message = &failed(&wrong, FailureClass::Output).message;
    assert!(message.contains("/emits/Alarm"), "{message}");
}

#[tokio::test]
async fn bare_output_fields_are_taken_where_nothing_is_emitted() {
    let attempt = Attempt::of(envelope(
        r#"echo '{"n": 3}' > "$LOOPY_OUTPUT""#,
        json!({"output": {"fields": {"n": {"type": "integer"}}}}),
    ));
    assert_eq!(succeeded(&attempt.run().await).0["n"], 3);
}

#[tokio::test]
async fn a_step_that_declares_nothing_needs_no_file() {
    let attempt = Attempt::of(envelope("true", json!({})));
    assert!(succeeded(&attempt.run().await).0.is_empty());
}

#[tokio::test]
async fn an_output_that_breaks_its_schema_fails_with_every_violation() {
    let attempt = Attempt::of(envelope(
        r#"echo '{"output": {"n": "3", "extra": 1}, "emits": {"Other": {}}, "emit": 1}' > "$LOOPY_OUTPUT""#,
        json!({
            "output": {"fields": {"n": {"type": "integer"}}},
            "emits": {"Done": {"fields": {}}},
        }),
    ));
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Output).message;
    for part in [
        "/emit:",
        "/output/n:",
        "extra",
        "`Done` is missing",
        "declare the event `Other`",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn a_missing_or_unreadable_file_fails_and_says_what_is_wanted() {
    let contract = json!({"output": {"fields": {"n": {"type": "integer"}}}});
    let result = Attempt::of(envelope("true", contract.clone())).run().await;
    let message = &failed(&result, FailureClass::Output).message;
    assert!(
        message.contains("wrote nothing") && message.contains("`n`"),
        "{message}"
    );
    let result = Attempt::of(envelope("echo n=3 > $LOOPY_OUTPUT", contract))
        .run()
        .await;
    assert!(
        failed(&result, FailureClass::Output)
            .message
            .contains("not JSON")
    );
}

#[tokio::test]
async fn an_output_that_is_too_large_fails_and_says_so() {
    let size = MAX_RESULT_BYTES - 30;
    // Below the limit as a file, above it as a result.
    let script = format!(
        r#"printf '{{"text": "%s"}}' "$(head -c {size} /dev/zero | tr '\0' x)" > "$LOOPY_OUTPUT""#
    );
    for script in [
        script,
        "head -c 400000 /dev/zero > $LOOPY_OUTPUT".to_owned(),
    ] {
        let attempt = Attempt::of(envelope(
            &script,
            json!({"output": {"fields": {"text": {"type": "string"}}}}),
        ));
        let result = attempt.run().await;
        let message = &failed(&result, FailureClass::Output).message;
        assert!(message.contains("262144"), "{message}");
    }
}

#[tokio::test]
async fn a_crash_reports_the_last_words_without_secrets() {
    let attempt = Attempt::of(envelope(
        "echo \"key is $KEY\" >&2; false; echo never",
        json!({"env": {"KEY": "hunter2-hunter2"}}),
    ));
    let result = attempt.run().await;
    let message = &failed(&result, FailureClass::Crash).message;
    assert_eq!(message, "the script ended with code 1: key is [redacted]");
}

#[tokio::test]
async fn a_value_is_never_read_as_script() {
    let attack = "$(touch pwned); `touch pwned`\n'\"; touch pwned #";
    let attempt = Attempt::of(envelope(
        "echo \"{{ event.title }}\" > said\necho {{ event.title }} > /dev/null\n",
        json!({"refs": [reference("event", "title")], "values": {"event": {"title": attack}}}),
    ));
    succeeded(&attempt.run().await);
    assert!(!attempt.workspace().join("pwned").exists());
    let said = std::fs::read_to_string(attempt.workspace().join("said")).unwrap();
    assert_eq!(said, format!("{attack}\n"));
}

#[tokio::test]
async fn the_time_limit_ends_all_processes_however_far_they_went() {
    // Each has an argument of its own to be found by. The last ones have left
    // their session, one without its environment; one does not hear SIGTERM.
    let script = "
sleep 4001 &
setsid sleep 4002 &
(setsid env -i sleep 4003 &)
(setsid sh -c 'trap \"\" TERM; sleep 4004 & wait; sleep 4004' &)
sleep 4005
";
    let attempt = Attempt::of(envelope(script, json!({"seconds": 4})));
    let server = crate::engine::Server::start(&attempt.record, 0);
    let runner = attempt.launch(&server.url());
    crate::engine::until("the processes are there", || {
        (4001..=4005).all(|n| lives(&n.to_string()))
    })
    .await;
    assert_eq!(crate::engine::code(runner).await, 0);
    let result = attempt.result();
    assert!(
        failed(&result, FailureClass::Timeout)
            .message
            .contains("4 seconds")
    );
    for n in 4001..=4005 {
        assert!(!lives(&n.to_string()), "sleep {n} lives on");
    }
}

#[tokio::test]
async fn what_a_script_leaves_in_the_background_is_ended() {
    let attempt = Attempt::of(envelope("setsid sleep 4011 &\nsleep 4012 &", json!({})));
    let begun = std::time::Instant::now();
    succeeded(&attempt.run().await);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    assert!(!lives("4011") && !lives("4012"));
}

#[tokio::test]
async fn a_harness_of_another_version_is_refused_by_name() {
    let attempt = Attempt::of(envelope("x", json!({"harness": "clockwork"})));
    let result = attempt.run().await;
    assert!(
        failed(&result, FailureClass::Sandbox)
            .message
            .contains("`clockwork`")
    );
}

#[tokio::test]
async fn a_script_has_the_env_file_and_what_is_said_of_it_and_nothing_else() {
    let attempt = Attempt::of(envelope(
        "/usr/bin/env -0 > environment",
        json!({"env": {"COLOUR": "dark-green", "TZ": "UTC"}}),
    ));
    succeeded(&attempt.run().await);
    let seen = std::fs::read_to_string(attempt.workspace().join("environment")).unwrap();
    let names: BTreeSet<&str> = seen
        .split_terminator('\0')
        .filter_map(|variable| Some(variable.split_once('=')?.0))
        // The shell's own.
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    let expected = [
        "COLOUR",
        "HOME",
        "LOOPY_ATTEMPT_PROCESS",
        "LOOPY_INPUTS",
        "LOOPY_OUTPUT",
        "LOOPY_RUN_ID",
        "LOOPY_WORKSPACE",
        "PATH",
        "TZ",
    ];
    assert_eq!(names, expected.into());
}

/// Runs a script under limits; gives why it failed.
async fn ended_by(limits: &'static str, script: &str) -> String {
    let mut attempt = Attempt::of(envelope(script, json!({})));
    attempt.limits = Some(limits);
    let begun = Instant::now();
    let result = attempt.run().await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    failed(&result, FailureClass::Crash).message.clone()
}

#[tokio::test]
async fn processes_that_take_more_memory_than_they_may_are_ended() {
    let why = ended_by(
        r#"{"memory":104857600}"#,
        "(setsid sh -c '(head -c 200000000 /dev/zero; sleep 7171) | tail' &)
         trap '' TERM; sleep 7171",
    )
    .await;
    assert!(why.contains("more than the 100 MB"), "{why}");
    assert!(!lives("7171"), "all of them ended");
}

#[tokio::test]
async fn memory_that_processes_share_counts_once() {
    // 100 MB that five processes have in common.
    let script = "python3 -c '
import os, time
held = bytearray(os.urandom(1)) * (100 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
time.sleep(3)'";
    let mut attempt = Attempt::of(envelope(script, json!({})));
    attempt.limits = Some(r#"{"memory":314572800}"#);
    succeeded(&attempt.run().await);
}

#[tokio::test]
async fn more_processes_than_there_may_be_are_ended() {
    let why = ended_by(
        r#"{"processes":40}"#,
        "grow() { while :; do sleep 7272 & sleep 0.02; done; }
         grow & grow & trap '' TERM; while :; do sleep 0.02; done",
    )
    .await;
    assert!(why.contains("more than the 40 it may have"), "{why}");
    assert!(!lives("7272"), "all of them ended");
}
