//! An account of its own on the emulator for each test, with the resources
//! that the stack's template makes.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use aws_sdk_sqs::types::{Message as Received, QueueAttributeName};
use loopy_aws::claims::Claims;
use loopy_aws::config::s3_client;
use loopy_aws::env::{Environment, var};
use loopy_aws::{Connection, SqsQueues};
use loopy_engine::message::QueueName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Account {
    pub(crate) config: SdkConfig,
    id: String,
    variables: BTreeMap<String, String>,
}

impl Account {
    pub(crate) async fn open() -> Self {
        let endpoint = std::env::var("LOOPY_TEST_EMULATOR")
            .expect("LOOPY_TEST_EMULATOR is not set: run `cargo xtask test`, which prepares it");
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        // An access key of 12 digits is an account of its own.
        let id = format!("{:012}", u64::from_le_bytes(random) % 1_000_000_000_000);
        let config = Connection {
            region: Some("eu-west-1".to_owned()),
            profile: None,
            endpoint_url: Some(endpoint),
        }
        .resolve()
        .await
        .unwrap();
        let credentials = Credentials::new(&id, "secret", None, None, "tests");
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        Self {
            config,
            id,
            variables: BTreeMap::new(),
        }
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.variables.insert(variable.to_owned(), value.to_owned());
    }

    pub(crate) fn environment(&self) -> Environment {
        self.variables.clone().into_iter().collect()
    }

    pub(crate) fn shared_environment(&self) -> Arc<Environment> {
        Arc::new(self.environment())
    }

    pub(crate) fn queues(&self) -> Arc<SqsQueues> {
        Arc::new(SqsQueues::new(
            aws_sdk_sqs::Client::new(&self.config),
            self.claims(),
            self.shared_environment(),
        ))
    }

    pub(crate) fn claims(&self) -> Claims {
        Claims::new(s3_client(&self.config), &self.environment())
    }

    pub(crate) async fn make_table(&mut self) -> String {
        let name = "loopy-state";
        let attribute = |name: &str| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap()
        };
        let key = |name: &str, kind| {
            KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(kind)
                .build()
                .unwrap()
        };
        let runs = GlobalSecondaryIndex::builder()
            .index_name("runs")
            .key_schema(key("runs_pk", KeyType::Hash))
            .key_schema(key("runs_sk", KeyType::Range))
            .projection(
                Projection::builder()
                    .projection_type(ProjectionType::Include)
                    .non_key_attributes("summary")
                    .non_key_attributes("workflow")
                    .non_key_attributes("status")
                    .build(),
            )
            .build()
            .unwrap();
        aws_sdk_dynamodb::Client::new(&self.config)
            .create_table()
            .table_name(name)
            .attribute_definitions(attribute("pk"))
            .attribute_definitions(attribute("sk"))
            .attribute_definitions(attribute("runs_pk"))
            .attribute_definitions(attribute("runs_sk"))
            .key_schema(key("pk", KeyType::Hash))
            .key_schema(key("sk", KeyType::Range))
            .global_secondary_indexes(runs)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await
            .unwrap();
        name.to_owned()
    }

    /// A queue and its dead-letter queue, named in the environment.
    pub(crate) async fn make_queue(&mut self, queue: QueueName) {
        let url = self.make_bare_queue(queue.name()).await;
        self.set(var::queue(queue), &url);
        let dead = self.make_bare_queue(&format!("{queue}-dead")).await;
        self.set(var::dead_letter_queue(queue), &dead);
    }

    async fn make_bare_queue(&self, name: &str) -> String {
        let made = aws_sdk_sqs::Client::new(&self.config)
            .create_queue()
            .queue_name(name)
            .send()
            .await;
        made.unwrap().queue_url.unwrap()
    }

    pub(crate) async fn arn_of(&self, url: &str) -> String {
        let attributes = aws_sdk_sqs::Client::new(&self.config)
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
            .unwrap();
        attributes.attributes.unwrap()[&QueueAttributeName::QueueArn].clone()
    }

    pub(crate) fn role_arn(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", self.id)
    }

    /// What is on the queue behind `url` now.
    pub(crate) async fn receive(&self, url: &str) -> Vec<Received> {
        let received = aws_sdk_sqs::Client::new(&self.config)
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .message_attribute_names("All")
            .send()
            .await
            .unwrap();
        received.messages.unwrap_or_default()
    }

    /// Waits until one message comes, which it takes, and gives its body.
    pub(crate) async fn next_body(&self, url: &str, patience: Duration) -> Option<String> {
        let began = Instant::now();
        loop {
            if let Some(message) = self.receive(url).await.into_iter().next() {
                aws_sdk_sqs::Client::new(&self.config)
                    .delete_message()
                    .queue_url(url)
                    .receipt_handle(message.receipt_handle.unwrap())
                    .send()
                    .await
                    .unwrap();
                return message.body;
            }
            if began.elapsed() > patience {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The assets bucket, named in the environment.
    pub(crate) async fn make_bucket(&mut self) {
        let name = format!("loopy-assets-{}", self.id);
        self.make_bare_bucket(&name).await;
        self.set(var::ASSETS_BUCKET, &name);
    }

    /// The state bucket.
    pub(crate) async fn make_state_bucket(&self) -> String {
        let name = format!("loopy-state-{}", self.id);
        self.make_bare_bucket(&name).await;
        name
    }

    async fn make_bare_bucket(&self, name: &str) {
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
            .location_constraint(aws_sdk_s3::types::BucketLocationConstraint::EuWest1)
            .build();
        loopy_aws::config::s3_client(&self.config)
            .create_bucket()
            .bucket(name)
            .create_bucket_configuration(place)
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn put(&self, key: &str, bytes: &[u8]) {
        loopy_aws::config::s3_client(&self.config)
            .put_object()
            .bucket(&self.variables[var::ASSETS_BUCKET])
            .key(key)
            .body(bytes.to_vec().into())
            .send()
            .await
            .unwrap();
    }

    /// A secret with this value; gives back its ARN.
    pub(crate) async fn make_secret(&self, name: &str, value: &str) -> String {
        aws_sdk_secretsmanager::Client::new(&self.config)
            .create_secret()
            .name(name)
            .secret_string(value)
            .send()
            .await
            .unwrap()
            .arn
            .unwrap()
    }
}
