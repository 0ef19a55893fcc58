//! Files that steps hand on, as objects in the state bucket.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use loopy_aws::S3Packs;
use loopy_aws::config::s3_client;
use loopy_aws::env::var;
use loopy_contract::files::PACK_PART;
use loopy_contract::ids::RunId;
use loopy_engine::files::PackOf;
use loopy_engine::ports::Packs;

fn of(run: &str) -> PackOf {
    PackOf {
        run: RunId::from(run),
        from: RunId::from("w-1"),
        step: "a b/~".to_owned(),
        attempt: 7,
    }
}

#[tokio::test]
async fn parts_are_kept_once_in_any_order_and_go_over_to_another_run() {
    let mut account = Account::open().await;
    let bucket = account.make_state_bucket().await;
    account.set(var::STATE_BUCKET, &bucket);
    let client = s3_client(&account.config);
    let packs = S3Packs::of_environment(client.clone(), &account.environment());
    let pack = of("w-1");
    let first = vec![7; PACK_PART];
    let end = PACK_PART as u64;
    assert_eq!(packs.part(&pack, 0, PACK_PART).await.unwrap(), None);
    packs.put(&pack, end, b"end".to_vec()).await.unwrap();
    for _ in 0..2 {
        packs.put(&pack, 0, first.clone()).await.unwrap();
    }
    let read = async |of: &PackOf, offset, length| packs.part(of, offset, length).await.unwrap();
    assert_eq!(read(&pack, 0, PACK_PART).await, Some(first.clone()));
    assert_eq!(read(&pack, end, 3).await, Some(b"end".to_vec()));
    assert_eq!(read(&pack, end, 4).await, None);

    let other = of("w-2");
    for _ in 0..2 {
        packs.copy(&pack, &other, end + 3).await.unwrap();
    }
    packs.put(&pack, 0, vec![0]).await.unwrap();
    assert_eq!(read(&other, 0, PACK_PART).await, Some(first));
    assert_eq!(read(&other, end, 3).await, Some(b"end".to_vec()));
    let lost = packs.copy(&of("w-3"), &of("w-4"), 3).await.unwrap_err();
    assert!(lost.to_string().contains("NoSuchKey"), "{lost}");

    // All of it lies where the bucket's rule lets it expire.
    let listed = client
        .list_objects_v2()
        .bucket(&bucket)
        .send()
        .await
        .unwrap();
    let mut keys = listed.contents().iter().map(|object| object.key().unwrap());
    assert!(keys.all(|key| key.starts_with("state/files/")));
    assert_eq!(listed.contents().len(), 4);
}
