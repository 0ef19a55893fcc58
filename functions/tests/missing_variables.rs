//! A function that cannot start says why.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

fn start(binary: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new(binary)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

const ALL: [&str; 6] = [
    env!("CARGO_BIN_EXE_webhook"),
    env!("CARGO_BIN_EXE_sensor"),
    env!("CARGO_BIN_EXE_start"),
    env!("CARGO_BIN_EXE_step"),
    env!("CARGO_BIN_EXE_report"),
    env!("CARGO_BIN_EXE_watch"),
];

#[test]
fn without_a_region_each_function_says_so() {
    for binary in ALL {
        let log = start(binary, &[]);
        assert!(
            log.contains("no AWS region is configured"),
            "{binary}: {log}"
        );
    }
}

#[test]
fn a_missing_variable_is_named_in_the_log() {
    for binary in ALL {
        let log = start(binary, &[("AWS_REGION", "eu-west-1")]);
        assert!(
            log.contains("the environment variable LOOPY_TABLE is not set"),
            "{binary}: {log}"
        );
        let line: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
        assert_eq!(line["level"], "ERROR");
    }
    let variables = [
        ("AWS_REGION", "eu-west-1"),
        ("LOOPY_TABLE", "t"),
        ("LOOPY_ASSETS_BUCKET", "b"),
        ("LOOPY_MANIFEST", "m"),
        ("LOOPY_QUEUE_DELIVERIES", "q"),
    ];
    let log = start(env!("CARGO_BIN_EXE_webhook"), &variables);
    assert!(log.contains("LOOPY_WEBHOOK_SECRET is not set"), "{log}");
}
