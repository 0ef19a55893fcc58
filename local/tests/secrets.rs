//! Secrets from files and the environment.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use loopy_contract::manifest::{ModelKeys, Sandbox};
use loopy_engine::ports::Secrets;
use loopy_local::secrets::LocalSecrets;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn secrets(project: &Path, environment: &[(&str, &str)]) -> LocalSecrets {
    let state = project.join(".loopy");
    std::fs::create_dir_all(&state).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    LocalSecrets::new(project, &state, environment.collect())
}

fn sandbox(files: &[&str]) -> Sandbox {
    Sandbox {
        provider: "local".to_owned(),
        image: BTreeMap::new(),
        network: Vec::new(),
        env_file: files.iter().map(|file| (*file).to_owned()).collect(),
        repos: Vec::new(),
        model_keys: ModelKeys::default(),
    }
}

#[tokio::test]
async fn later_env_files_win_and_nothing_else_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.env"), "A=1\nB=1\n").unwrap();
    std::fs::write(dir.path().join("b.env"), "B=2\n").unwrap();
    let secrets = secrets(dir.path(), &[("ANTHROPIC_API_KEY", "of the engine")]);
    let env = secrets
        .sandbox_env("Here", &sandbox(&["a.env", "b.env"]))
        .await
        .unwrap();
    let expected = [("A", "1"), ("B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(env, BTreeMap::from(expected));
    assert!(
        secrets
            .sandbox_env("Here", &sandbox(&[]))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_missing_or_foreign_env_file_names_sandbox_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = secrets(dir.path(), &[]);
    for file in ["none.env", "/etc/passwd", "../x.env"] {
        let error = secrets
            .sandbox_env("Here", &sandbox(&[file]))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("Here") && error.contains(file), "{error}");
    }
}

#[tokio::test]
async fn webhook_secrets_come_from_the_environment_then_from_loopy_env() {
    let dir = tempfile::tempdir().unwrap();
    let variable = "GITHUB_WEBHOOK_SECRET";
    let none = secrets(dir.path(), &[])
        .webhook_secrets(variable)
        .await
        .unwrap();
    assert!(none.is_empty());
    std::fs::write(
        dir.path().join("loopy.env"),
        "GITHUB_WEBHOOK_SECRET=new with blanks\nGITHUB_WEBHOOK_SECRET_PREVIOUS=old\n",
    )
    .unwrap();
    let file = secrets(dir.path(), &[(variable, " ")])
        .webhook_secrets(variable)
        .await
        .unwrap();
    assert_eq!(
        file,
        ["new with blanks", "old"],
        "newest first; an empty variable is not set"
    );
    let process = secrets(dir.path(), &[(variable, "mine")]);
    assert_eq!(
        process.webhook_secrets(variable).await.unwrap(),
        ["mine", "old"]
    );
}

#[tokio::test]
async fn the_engine_sees_its_own_credentials_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("loopy.env"), "DAYTONA_TARGET=eu\nOTHER=x\n").unwrap();
    let secrets = secrets(dir.path(), &[("DAYTONA_API_KEY", "k"), ("HOME", "/h")]);
    let env = secrets.engine_env().await.unwrap();
    let expected = [("DAYTONA_API_KEY", "k"), ("DAYTONA_TARGET", "eu")];
    assert_eq!(
        env,
        BTreeMap::from(expected.map(|(k, v)| (k.to_owned(), v.to_owned())))
    );
    assert!(
        !format!("{secrets:?}").contains("\"k\""),
        "Debug shows a secret"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_key_is_made_once_and_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let secrets = secrets(dir.path(), &[]);
        tasks.spawn(async move { secrets.token_key().await.unwrap() });
    }
    let keys = tasks.join_all().await;
    assert_eq!(keys[0].len(), 32);
    assert!(
        keys.iter().all(|key| *key == keys[0]),
        "racing look-ups made several keys"
    );
    let state = dir.path().join(".loopy");
    let mode = state
        .join("token.key")
        .metadata()
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(
        std::fs::read_dir(&state).unwrap().count(),
        1,
        "parts were left behind"
    );

    std::fs::write(state.join("token.key"), "short").unwrap();
    let error = secrets(dir.path(), &[])
        .token_key()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("token.key") && error.contains("32 bytes"),
        "{error}"
    );
}
