//! The ports of a function, made from its configuration and environment.

use crate::assets::Assets;
use crate::bus::EventBus;
use crate::claims::Claims;
use crate::config::{ConfigError, Connection, s3_client};
use crate::direct::DirectStops;
use crate::endpoint::function_url;
use crate::env::{Environment, MissingVariable, var};
use crate::fargate::Fargate;
use crate::manifests::S3Manifests;
use crate::packs::S3Packs;
use crate::parts::Parts;
use crate::queues::SqsQueues;
use crate::secrets::SecretsManager;
use crate::sensor_code::LambdaSensorCode;
use crate::store::DynamoStore;
use crate::timers::SchedulerTimers;
use crate::transcripts::S3Transcripts;
use aws_config::SdkConfig;
use jiff::Timestamp;
use loopy_engine::Ports;
use loopy_engine::ports::{Clock, PortError, Queues, Sandboxes, Secrets};
use std::sync::Arc;

/// The machine's clock, by the millisecond: finer digits say nothing, and are most
/// of what is left of a run once it is compressed.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// A function cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The services cannot be reached.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The template did not set a variable.
    #[error(transparent)]
    Environment(#[from] MissingVariable),
}

/// Every port but the sandboxes, over one configuration. Making it calls no
/// service.
#[derive(Clone)]
pub struct Home {
    config: SdkConfig,
    environment: Arc<Environment>,
    clock: Arc<dyn Clock>,
    queues: Arc<SqsQueues>,
}

impl Home {
    /// The home of this process: the standard chain's configuration and the
    /// variables that the template set.
    ///
    /// # Errors
    /// [`HomeError`] when there is no region, or the endpoint is no URL.
    pub async fn of_process() -> Result<Self, HomeError> {
        let config = Connection::default().resolve().await?;
        Ok(Self::new(
            config,
            Environment::of_process(),
            Arc::new(SystemClock),
        ))
    }

    /// A home over any configuration.
    pub fn new(config: SdkConfig, environment: Environment, clock: Arc<dyn Clock>) -> Self {
        let environment = Arc::new(environment);
        let queues = SqsQueues::new(
            aws_sdk_sqs::Client::new(&config),
            Claims::new(s3_client(&config), &environment),
            Arc::clone(&environment),
        );
        Self {
            config,
            environment,
            clock,
            queues: Arc::new(queues),
        }
    }

    /// The variables.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The bucket with manifests, files and binaries.
    pub fn assets(&self) -> Assets {
        Assets::new(s3_client(&self.config), Arc::clone(&self.environment))
    }

    /// The queues, for what only a receiver does.
    pub fn queues(&self) -> &SqsQueues {
        &self.queues
    }

    /// Secret values.
    pub fn secrets(&self) -> SecretsManager {
        SecretsManager::new(
            aws_sdk_secretsmanager::Client::new(&self.config),
            Arc::clone(&self.environment),
            Arc::clone(&self.clock),
        )
    }

    /// Where sandboxes report to, as they can reach it.
    ///
    /// # Errors
    /// [`MissingVariable`] when the function was not given the URL.
    pub fn report_url(&self) -> Result<String, MissingVariable> {
        let url = self.environment.required(var::REPORT_URL)?;
        Ok(function_url(url, self.environment.endpoint_url()))
    }

    /// The tasks of this account as sandboxes, if the stack has any.
    ///
    /// # Errors
    /// [`PortError`] when the function's environment does not say where they run.
    pub fn fargate(&self, report_url: String) -> Result<Option<Fargate>, PortError> {
        let Some(place) = self.environment.may_be_empty(var::FARGATE)? else {
            return Ok(None);
        };
        let place = serde_json::from_str(place)
            .map_err(|error| PortError::new(format!("read {}", var::FARGATE), error))?;
        let client = aws_sdk_ecs::Client::new(&self.config);
        let secrets = Arc::new(self.secrets());
        Ok(Some(Fargate::new(client, secrets, place, report_url)))
    }

    /// The ports of the engine, with these sandboxes and secrets (which the
    /// sandboxes may share).
    ///
    /// # Errors
    /// [`MissingVariable`] when the function was not given the table.
    pub fn ports(
        &self,
        secrets: Arc<dyn Secrets>,
        sandboxes: Arc<dyn Sandboxes>,
    ) -> Result<Ports, MissingVariable> {
        let table = self.environment.required(var::TABLE)?;
        let parts = Parts::of_environment(s3_client(&self.config), &self.environment);
        let lambda = aws_sdk_lambda::Client::new(&self.config);
        let queues: Arc<dyn Queues> = match self.environment.required(var::WATCH_FUNCTION) {
            Ok(function) => Arc::new(DirectStops::new(
                Arc::clone(&self.queues),
                lambda.clone(),
                function,
            )),
            Err(_) => Arc::clone(&self.queues) as Arc<dyn Queues>,
        };
        Ok(Ports {
            store: Arc::new(DynamoStore::new(
                aws_sdk_dynamodb::Client::new(&self.config),
                table,
                parts,
                Arc::clone(&self.clock),
            )),
            queues: Arc::clone(&queues),
            bus: Arc::new(EventBus::new(
                aws_sdk_eventbridge::Client::new(&self.config),
                Claims::new(s3_client(&self.config), &self.environment),
                Arc::clone(&self.environment),
            )),
            timers: Arc::new(SchedulerTimers::new(
                aws_sdk_scheduler::Client::new(&self.config),
                Arc::clone(&self.environment),
                queues,
                Arc::clone(&self.clock),
            )),
            manifests: Arc::new(S3Manifests::new(
                self.assets(),
                Arc::clone(&self.environment),
            )),
            secrets,
            sandboxes,
            transcripts: Arc::new(S3Transcripts::of_environment(
                s3_client(&self.config),
                &self.environment,
            )),
            packs: Arc::new(S3Packs::of_environment(
                s3_client(&self.config),
                &self.environment,
            )),
            sensor_code: Arc::new(LambdaSensorCode::new(lambda, Arc::clone(&self.environment))),
            clock: Arc::clone(&self.clock),
        })
    }
}
