//! Who the command is in an account: the ways in that people have on their machines.

use crate::around::Account;
use std::process::Output;
use tempfile::TempDir;

/// A person's configuration, with nothing in the environment.
fn asks(account: &Account, home: &TempDir, profile: &str) -> Output {
    let keys = home.path().join("keys.sh");
    std::fs::write(
        &keys,
        r#"echo '{"Version": 1, "AccessKeyId": "123456789012", "SecretAccessKey": "secret"}'"#,
    )
    .unwrap();
    let config = home.path().join("config");
    let text = format!(
        "[profile by-command]
region = eu-west-1
credential_process = /bin/sh {}

[profile by-center]
region = eu-west-1
sso_session = company
sso_account_id = 123456789012
sso_role_name = Deploys

[sso-session company]
sso_start_url = https://company.awsapps.com/start
sso_region = eu-west-1
sso_registration_scopes = sso:account:access
",
        keys.display()
    );
    std::fs::write(&config, text).unwrap();
    let arguments = [
        "rollback",
        "--stack",
        "nothing",
        "--list",
        "--profile",
        profile,
    ];
    let mut command = account
        .loopy()
        .command(&[&arguments[..], &account.place()].concat());
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ] {
        command.env_remove(name);
    }
    command
        .env("HOME", home.path())
        .env("AWS_CONFIG_FILE", config)
        .output()
        .unwrap()
}

#[test]
fn a_profile_may_get_its_keys_from_a_command_or_from_identity_center() {
    let account = Account::new();
    let home = tempfile::tempdir().unwrap();
    let output = asks(&account, &home, "by-command");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("there is no stack nothing"), "{said}");

    // Nobody has logged in.
    let output = asks(&account, &home, "by-center");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("hint: log in"), "{said}");
    assert!(!said.contains("feature"), "{said}");
}
