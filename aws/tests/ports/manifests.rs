//! Manifests and files are what their names say, or are refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use loopy_aws::S3Manifests;
use loopy_aws::assets::Assets;
use loopy_aws::config::s3_client;
use loopy_aws::env::var;
use loopy_contract::ids::{ManifestHash, sha256_hex};
use loopy_contract::manifest::{Lineage, Manifest, Registry, SCHEMA_VERSION};
use loopy_engine::ports::Manifests;
use std::collections::BTreeMap;
use std::sync::Arc;

fn manifest(version: &str) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        loopy_version: version.to_owned(),
        hash: String::new(),
        registry: Registry::default(),
        workflows: BTreeMap::new(),
        sensors: Vec::new(),
        lineage: Lineage::default(),
        skills: BTreeMap::new(),
        sensor_files: BTreeMap::new(),
        sensor_modules: BTreeMap::new(),
    }
    .seal()
}

fn manifests(account: &Account) -> S3Manifests {
    let environment = account.shared_environment();
    let assets = Assets::new(s3_client(&account.config), Arc::clone(&environment));
    S3Manifests::new(assets, environment)
}

async fn put(account: &Account, name: &str, manifest: &Manifest) {
    account
        .put(
            &format!("manifests/{name}.json"),
            manifest.to_json().as_bytes(),
        )
        .await;
}

#[tokio::test]
async fn a_manifest_is_found_by_hash_and_read_once() {
    let mut account = Account::open().await;
    account.make_bucket().await;
    let (old, new) = (manifest("1"), manifest("2"));
    put(&account, &old.hash, &old).await;
    put(&account, &new.hash, &new).await;
    account.set(var::MANIFEST, &new.hash);
    let manifests = manifests(&account);
    assert_eq!(*manifests.current().await.unwrap(), new);
    assert_eq!(*manifests.get(&old.id()).await.unwrap(), old);
    // Gone from the bucket, still in memory.
    account
        .put(&format!("manifests/{}.json", old.hash), b"gone")
        .await;
    let first = manifests.get(&old.id()).await.unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &manifests.get(&old.id()).await.unwrap()
    ));
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_name_says_is_refused() {
    let mut account = Account::open().await;
    account.make_bucket().await;
    let (one, other) = (manifest("1"), manifest("2"));
    put(&account, &one.hash, &other).await;
    let tampered = other.to_json().replace("\"2\"", "\"3\"");
    account
        .put(
            &format!("manifests/{}.json", other.hash),
            tampered.as_bytes(),
        )
        .await;
    let manifests = manifests(&account);
    let error = manifests.get(&one.id()).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("its content is manifest {}", other.hash)),
        "{error}"
    );
    let error = manifests.get(&other.id()).await.unwrap_err().to_string();
    assert!(error.contains("carries hash"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_no_hash_or_is_not_there_is_an_error() {
    let mut account = Account::open().await;
    account.make_bucket().await;
    account.put("files/secret", b"x").await;
    let manifests = manifests(&account);
    for name in ["../files/secret", "", "ABC"] {
        let error = manifests.get(&ManifestHash::from(name)).await.unwrap_err();
        assert!(
            error.to_string().contains("not a lower-case hex SHA-256"),
            "{error}"
        );
    }
    let error = manifests
        .get(&ManifestHash("0".repeat(64)))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("NoSuchKey"), "{error}");
    let error = manifests.current().await.unwrap_err().to_string();
    assert!(error.contains("LOOPY_MANIFEST"), "{error}");
}

#[tokio::test]
async fn a_file_has_the_content_its_name_says() {
    let mut account = Account::open().await;
    account.make_bucket().await;
    let bytes = b"print('hi')\n\xff";
    let hash = sha256_hex(bytes);
    account.put(&format!("files/{hash}"), bytes).await;
    let manifests = manifests(&account);
    assert_eq!(manifests.file(&hash).await.unwrap(), bytes);
    account.put(&format!("files/{hash}"), b"other").await;
    let error = manifests.file(&hash).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("hash {}", sha256_hex(b"other"))),
        "{error}"
    );
    assert!(manifests.file("../manifests/x").await.is_err());
}
