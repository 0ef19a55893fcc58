//! A launch starts one task, however often it is asked for, and what is over can be
//! told from what is not.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use crate::account::Account;
use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, DesiredStatus, KeyValuePair, NetworkMode,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use loopy_aws::fargate::{CONTAINER, Place, task_name};
use loopy_aws::{Fargate, SecretsManager, SystemClock};
use loopy_contract::ids::RunId;
use loopy_contract::manifest::{Harness, ModelKeys, Sandbox};
use loopy_contract::seal;
use loopy_engine::ports::{Launch, LaunchError, LaunchSpec, SandboxState, Sandboxes};
use loopy_engine::run::SandboxRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const KEY: &str = "a key that only the stack and its tasks have";
const SANDBOX: &str = "Schöne Box";

struct Fixture {
    ecs: aws_sdk_ecs::Client,
    place: Place,
    fargate: Fargate,
    account: Account,
}

impl Fixture {
    async fn new() -> Self {
        let account = Account::open().await;
        let ecs = aws_sdk_ecs::Client::new(&account.config);
        let cluster = ecs.create_cluster().cluster_name("boxes").send().await;
        let cluster = cluster.unwrap().cluster.unwrap().cluster_arn.unwrap();
        let secrets = aws_sdk_secretsmanager::Client::new(&account.config);
        let key = secrets.create_secret().name("key").secret_string(KEY);
        let key = key.send().await.unwrap().arn.unwrap();
        let place = Place {
            cluster,
            prefix: "stack_".to_owned(),
            subnets: vec!["subnet-1".to_owned()],
            group: "sg-1".to_owned(),
            groups: BTreeMap::new(),
            key,
        };
        let secrets =
            SecretsManager::new(secrets, account.shared_environment(), Arc::new(SystemClock));
        let fargate = Fargate::new(
            ecs.clone(),
            Arc::new(secrets),
            place.clone(),
            "http://127.0.0.1:1".to_owned(),
        );
        Self {
            ecs,
            place,
            fargate,
            account,
        }
    }

    /// A definition of the sandbox, the newest from now on.
    async fn define(&self, command: &str) {
        let container = ContainerDefinition::builder()
            .name(CONTAINER)
            .image("loopy-test:1")
            .command("sh")
            .command("-c")
            .command(command)
            .build();
        self.ecs
            .register_task_definition()
            .family(format!("{}{}", self.place.prefix, task_name(SANDBOX)))
            .requires_compatibilities(Compatibility::Fargate)
            .network_mode(NetworkMode::Awsvpc)
            .execution_role_arn(self.account.role_arn("start"))
            .container_definitions(container)
            .send()
            .await
            .unwrap();
    }

    async fn tasks(&self, status: DesiredStatus) -> Vec<String> {
        let listed = self.ecs.list_tasks().cluster(&self.place.cluster);
        let listed = listed.desired_status(status).send().await.unwrap();
        listed.task_arns.unwrap_or_default()
    }
}

fn spec(attempt: u32) -> LaunchSpec {
    LaunchSpec {
        run: RunId::from("greet-1"),
        step: "hello".to_owned(),
        attempt,
        client_token: format!("greet-1-hello-{attempt}"),
        name: SANDBOX.to_owned(),
        sandbox: Sandbox {
            provider: "fargate".to_owned(),
            image: BTreeMap::new(),
            network: Vec::new(),
            env_file: Vec::new(),
            repos: Vec::new(),
            model_keys: ModelKeys::default(),
        },
        token: URL_SAFE_NO_PAD.encode([7; 32]),
        time_limit: Duration::from_secs(60),
        harness: Harness::Command,
        allowance: Default::default(),
    }
}

fn sandbox(attempt: u32) -> SandboxRef {
    SandboxRef {
        provider: "fargate".to_owned(),
        id: spec(attempt).client_token,
    }
}

#[tokio::test]
async fn a_launch_starts_one_task_however_often_it_is_asked_for() {
    let fixture = Fixture::new().await;
    fixture.define("sleep 600").await;
    let fargate = &fixture.fargate;
    assert_eq!(
        fargate.state(&sandbox(1)).await.unwrap(),
        SandboxState::Gone
    );
    for _ in 0..3 {
        assert_eq!(fargate.launch(&spec(1)).await.unwrap(), Launch::Started);
    }
    // The same attempt, from a stack that says something else by now: ECS answers that
    // the client token is taken.
    fixture.define("sleep 601").await;
    let mut moved = spec(1);
    moved.token = URL_SAFE_NO_PAD.encode([8; 32]);
    assert_eq!(fargate.launch(&moved).await.unwrap(), Launch::Started);
    let tasks = fixture.tasks(DesiredStatus::Running).await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(
        fargate.state(&sandbox(1)).await.unwrap(),
        SandboxState::Alive
    );
    assert_eq!(
        fargate.state(&sandbox(2)).await.unwrap(),
        SandboxState::Gone
    );

    // What it was started with, as the account shows it.
    let described = fixture.ecs.describe_tasks().cluster(&fixture.place.cluster);
    let described = described.set_tasks(Some(tasks)).send().await.unwrap();
    let overrides = described.tasks()[0].overrides().unwrap();
    let variables = overrides.container_overrides()[0].environment();
    let find = |name: &str| {
        let found = variables.iter().find(|one| one.name() == Some(name));
        found
            .and_then(KeyValuePair::value)
            .unwrap_or_else(|| panic!("{name}"))
    };
    let sealed = find("LOOPY_TOKEN");
    assert_ne!(sealed, spec(1).token);
    let opened = seal::turn(KEY.as_bytes(), "greet-1", "hello", 1, sealed);
    assert_eq!(opened.unwrap(), spec(1).token);
    assert_eq!(find("LOOPY_STEP"), "hello");

    for _ in 0..2 {
        fargate.stop(&sandbox(1)).await.unwrap();
    }
    assert_eq!(
        fargate.state(&sandbox(1)).await.unwrap(),
        SandboxState::Gone
    );
}

#[tokio::test]
async fn a_launch_that_can_never_be_is_refused() {
    let fixture = Fixture::new().await;
    // No definition of it.
    let refused = fixture.fargate.launch(&spec(1)).await.unwrap_err();
    let LaunchError::Refused(why) = &refused else {
        panic!("{refused}")
    };
    assert!(
        why.contains("start a task for sandbox `Schöne Box`"),
        "{why}"
    );
    // A list of hosts, and a stack that has no group for it.
    let mut listed = spec(1);
    listed.sandbox.network.push("github.com".to_owned());
    let refused = fixture.fargate.launch(&listed).await.unwrap_err();
    assert!(refused.to_string().contains("deploy again"), "{refused}");
    assert!(matches!(refused, LaunchError::Refused(_)));
}
