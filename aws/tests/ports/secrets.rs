//! Secrets are read from the maps they are kept in, and kept for minutes.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use jiff::{SignedDuration, Timestamp};
use loopy_aws::SecretsManager;
use loopy_aws::env::var;
use loopy_contract::manifest::{ModelKeys, Sandbox};
use loopy_engine::memory::ManualClock;
use loopy_engine::ports::Secrets;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn sandbox(env_file: &[&str]) -> Sandbox {
    Sandbox {
        provider: "daytona".to_owned(),
        image: BTreeMap::new(),
        network: Vec::new(),
        env_file: env_file.iter().map(|file| (*file).to_owned()).collect(),
        repos: Vec::new(),
        model_keys: ModelKeys::default(),
    }
}

fn secrets(account: &Account) -> SecretsManager {
    SecretsManager::new(
        aws_sdk_secretsmanager::Client::new(&account.config),
        account.shared_environment(),
        Arc::new(ManualClock::new(Timestamp::now())),
    )
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn each_kind_of_secret_is_read_from_its_map() {
    let mut account = Account::open().await;
    let value = json!({
        "GITHUB_WEBHOOK_SECRET": "new with blanks",
        "GITHUB_WEBHOOK_SECRET_PREVIOUS": "old",
        "SLACK_WEBHOOK_SECRET": "",
    });
    let webhooks = account.make_secret("webhooks", &value.to_string()).await;
    let value = json!({"dev": {"TOKEN": "t"}, "empty": {}});
    let sandboxes = account.make_secret("sandboxes", &value.to_string()).await;
    let value = json!({"DAYTONA_API_KEY": "k"});
    let engine = account.make_secret("engine", &value.to_string()).await;
    let value = json!({"GITHUB_APP_ID": "12"});
    let github = account.make_secret("github", &value.to_string()).await;
    let key = account.make_secret("key", &"k".repeat(64)).await;
    account.set(var::WEBHOOK_SECRET, &webhooks);
    account.set(var::SANDBOX_SECRET, &sandboxes);
    account.set(var::ENGINE_SECRET, &engine);
    account.set(var::GITHUB_SECRET, &github);
    account.set(var::TOKEN_KEY_SECRET, &key);
    let secrets = secrets(&account);

    let of = async |variable: &str| secrets.webhook_secrets(variable).await.unwrap();
    assert_eq!(
        of("GITHUB_WEBHOOK_SECRET").await,
        ["new with blanks", "old"]
    );
    assert_eq!(of("SLACK_WEBHOOK_SECRET").await, Vec::<String>::new());
    assert_eq!(of("STRIPE_WEBHOOK_SECRET").await, Vec::<String>::new());

    let with_file = sandbox(&[".env"]);
    let dev = secrets.sandbox_env("dev", &with_file).await.unwrap();
    assert_eq!(dev, map(&[("TOKEN", "t")]));
    assert_eq!(
        secrets.sandbox_env("empty", &with_file).await.unwrap(),
        map(&[])
    );
    assert_eq!(
        secrets.sandbox_env("other", &sandbox(&[])).await.unwrap(),
        map(&[])
    );
    let error = secrets.sandbox_env("other", &with_file).await.unwrap_err();
    assert!(error.to_string().contains("sandbox `other`"), "{error}");

    assert_eq!(
        secrets.engine_env().await.unwrap(),
        map(&[("DAYTONA_API_KEY", "k")])
    );
    assert_eq!(
        secrets.github_app().await.unwrap(),
        map(&[("GITHUB_APP_ID", "12")])
    );
    assert_eq!(secrets.token_key().await.unwrap(), vec![b'k'; 64]);
}

#[tokio::test]
async fn an_empty_variable_is_no_secret_and_a_missing_one_an_error() {
    let mut account = Account::open().await;
    account.set(var::WEBHOOK_SECRET, "");
    account.set(var::SANDBOX_SECRET, "");
    let secrets = secrets(&account);
    assert!(secrets.webhook_secrets("X").await.unwrap().is_empty());
    assert!(secrets.sandbox_env("dev", &sandbox(&["a"])).await.is_err());
    let error = secrets.engine_env().await.unwrap_err();
    assert!(error.to_string().contains("LOOPY_ENGINE_SECRET"), "{error}");
    let error = secrets.token_key().await.unwrap_err();
    assert!(
        error.to_string().contains("LOOPY_TOKEN_KEY_SECRET"),
        "{error}"
    );
}

#[tokio::test]
async fn no_error_repeats_a_value() {
    let mut account = Account::open().await;
    let wrong = account.make_secret("wrong", "\"hunter2-hunter2\"").await;
    account.set(var::ENGINE_SECRET, &wrong);
    account.set(var::WEBHOOK_SECRET, &wrong);
    account.set(var::SANDBOX_SECRET, &wrong);
    account.set(var::TOKEN_KEY_SECRET, &wrong);
    let secrets = secrets(&account);
    let errors = [
        secrets.engine_env().await.unwrap_err(),
        secrets.webhook_secrets("X").await.unwrap_err(),
        secrets
            .sandbox_env("dev", &sandbox(&["a"]))
            .await
            .unwrap_err(),
        secrets.token_key().await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().starts_with("read secret arn:"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_value_is_kept_for_minutes_and_then_read_again() {
    let mut account = Account::open().await;
    let key = account.make_secret("key", &"a".repeat(32)).await;
    account.set(var::TOKEN_KEY_SECRET, &key);
    let client = aws_sdk_secretsmanager::Client::new(&account.config);
    let clock = Arc::new(ManualClock::new(Timestamp::now()));
    let secrets = SecretsManager::new(
        client.clone(),
        account.shared_environment(),
        Arc::clone(&clock) as _,
    );
    assert_eq!(secrets.token_key().await.unwrap(), vec![b'a'; 32]);
    let changed = "b".repeat(32);
    client
        .put_secret_value()
        .secret_id(&key)
        .secret_string(changed)
        .send()
        .await
        .unwrap();
    clock.advance(SignedDuration::from_secs(299));
    assert_eq!(secrets.token_key().await.unwrap(), vec![b'a'; 32]);
    clock.advance(SignedDuration::from_secs(1));
    assert_eq!(secrets.token_key().await.unwrap(), vec![b'b'; 32]);
}
