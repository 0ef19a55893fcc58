//! What the functions do, once for both homes. A Lambda function decodes its
//! event and calls one of these; the local worker does the same with a message
//! out of SQLite.

mod report;
mod sensor;
mod start;
mod turn;
mod unloadable;
mod webhook;

pub use report::ReportRequest;
pub use start::MAX_CASCADE_DEPTH;
pub use unloadable::{LAPSES, Unloadable, Unloadables, keep_unloadable, unloadable};
pub use webhook::{MAX_BODY_BYTES, WebhookRequest};

use self::turn::Turn;
use crate::driver::Driver;
use crate::message::{Message, QueueName};
use crate::ports::{PortError, Ports};
use crate::rate::Rate;
use crate::run::Run;
use crate::transition::Input;
use loopy_contract::event::Event;
use loopy_contract::ids::RunId;
use loopy_contract::manifest::Manifest;
use loopy_contract::schema;
use serde_json::{Value, json};
use std::sync::Arc;

/// An answer to an HTTP request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body; nothing at all where it is null.
    pub body: Value,
}

impl Answer {
    /// In how many seconds the same request may be sent again (`Retry-After`), where
    /// that is worth saying.
    pub fn retry_after(&self) -> Option<&'static str> {
        match self.status {
            429 => Some("1"),
            503 => Some("10"),
            _ => None,
        }
    }

    fn refused(status: u16, error: impl Into<String>) -> Self {
        Self {
            status,
            body: json!({ "error": error.into() }),
        }
    }
}

/// A message that was not processed and has to come again.
#[derive(Debug, thiserror::Error)]
#[error("message on {queue} left for redelivery: {cause}")]
pub struct ProcessError {
    /// The queue it is on.
    pub queue: QueueName,
    /// What went wrong.
    #[source]
    pub cause: PortError,
}

/// An event that was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The registry does not have it.
    #[error("the project has no event `{name}`; it has {}", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// Its fields break the contract.
    #[error("event `{name}` breaks its contract: {}", violations.join("; "))]
    Contract {
        /// The event's name.
        name: String,
        /// Each violation.
        violations: Vec<String>,
    },
    /// It could not be handed on.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// Checks an event against its contract, as [`Engine::submit`] does.
///
/// # Errors
/// [`SubmitError::Unknown`], [`SubmitError::Contract`].
pub fn check_event(manifest: &Manifest, event: &Event) -> Result<(), SubmitError> {
    let Some(contract) = manifest.registry.events.get(&event.name) else {
        return Err(SubmitError::Unknown {
            name: event.name.clone(),
            known: manifest.registry.events.keys().cloned().collect(),
        });
    };
    let violations = schema::field_violations(contract, &event.fields);
    if !violations.is_empty() {
        return Err(SubmitError::Contract {
            name: event.name.clone(),
            violations,
        });
    }
    Ok(())
}

/// The engine over the ports of one home.
#[derive(Clone)]
pub struct Engine {
    ports: Arc<Ports>,
    driver: Driver,
    rate: Arc<Rate>,
}

impl Engine {
    /// An engine over these ports.
    pub fn new(ports: Ports) -> Self {
        let ports = Arc::new(ports);
        Self {
            driver: Driver::new(Arc::clone(&ports)),
            ports,
            rate: Arc::default(),
        }
    }

    /// Checks an event against the current manifest and puts it on the bus.
    ///
    /// # Errors
    /// [`SubmitError`]; the event is then not accepted.
    pub async fn submit(&self, event: &Event) -> Result<(), SubmitError> {
        let manifest = self.ports.manifests.current().await?;
        check_event(&manifest, event)?;
        Ok(self.driver.publish(&manifest, event).await?)
    }

    /// Does what one queue message asks for. `Ok` means it may be acknowledged.
    /// What can never be processed is buried here, with its reason.
    ///
    /// # Errors
    /// [`ProcessError`]: leave the message for redelivery.
    pub async fn process(&self, queue: QueueName, body: &str) -> Result<(), ProcessError> {
        let outcome = match serde_json::from_str::<Message>(body) {
            Ok(message) if message.queue() == queue => self.dispatch(message).await,
            Ok(message) => Ok(Some(format!(
                "a message for {} came on {queue}",
                message.queue()
            ))),
            Err(error) => Ok(Some(format!("not a message of this version: {error}"))),
        };
        let buried = match outcome {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => {
                tracing::error!(%queue, reason, "message buried in the dead-letter queue");
                self.ports.queues.bury(queue, body, &reason).await
            }
            Err(cause) => Err(cause),
        };
        buried.map_err(|cause| {
            tracing::warn!(%queue, error = %cause, "message left for redelivery");
            ProcessError { queue, cause }
        })
    }

    /// `Ok(Some(reason))`: it can never be processed.
    async fn dispatch(&self, message: Message) -> Result<Option<String>, PortError> {
        match message {
            Message::Delivery(delivery) => self.sense_delivery(delivery).await,
            Message::Poll {
                sensor,
                scheduled_at,
            } => self.sense_poll(sensor, scheduled_at).await,
            Message::Event(event) => self.start_event(event).await,
            Message::Cron { step, scheduled_at } => self.start_cron(step, scheduled_at).await,
            Message::Again(again) => self.start_again(again).await,
            Message::Handoff { run, step, attempt } => {
                let turn = self.turn(&run, &step, attempt).await?;
                if turn == Turn::Over {
                    // A launch may have been under way as the attempt ended.
                    self.stop_left(&run, &step, attempt).await?;
                }
                Ok(turn.unknown(&run))
            }
            Message::Wake { run, step, attempt } => {
                Ok(self.turn(&run, &step, attempt).await?.unknown(&run))
            }
            Message::TimeLimit {
                run,
                step,
                attempt,
                check,
            } => {
                let beat = self.last_beat(&run, &step, attempt).await?;
                let input = Input::TimeLimit {
                    step,
                    attempt,
                    check,
                    beat,
                };
                self.apply(&run, input).await
            }
            Message::Ended {
                run,
                step,
                attempt,
                why,
            } => {
                let why = Some(why).filter(|why| !why.is_empty());
                self.apply(&run, Input::Lost { step, attempt, why }).await
            }
            Message::Unanswered {
                run,
                step,
                iteration,
                question,
            } => {
                let input = Input::Unanswered {
                    step,
                    iteration,
                    question,
                };
                self.apply(&run, input).await
            }
            Message::Settled { workflow, event } => self.start_settled(workflow, event).await,
            Message::Command { run, command } => self.apply(&run, Input::Command(command)).await,
            Message::Stop { sandbox } => {
                self.ports.sandboxes.stop(&sandbox).await?;
                Ok(None)
            }
        }
    }

    async fn apply(&self, run: &RunId, input: Input) -> Result<Option<String>, PortError> {
        let found = self.driver.apply(run, input).await?;
        Ok(found.is_none().then(|| format!("there is no run {run}")))
    }

    /// Tells the engine that an attempt's sandbox ended without a report.
    /// An attempt that is over already is left as it is.
    ///
    /// # Errors
    /// When a port fails; call again.
    pub async fn lost(&self, run: &RunId, step: &str, attempt: u32) -> Result<(), PortError> {
        self.driver
            .apply(
                run,
                Input::Lost {
                    step: step.to_owned(),
                    attempt,
                    why: None,
                },
            )
            .await
            .map(|_| ())
    }

    /// Performs whatever effects a run has pending. For a home whose process
    /// died: some inputs (a report over HTTP) have no message that comes again.
    ///
    /// # Errors
    /// When a port fails; call again.
    pub async fn resume(&self, run: &RunId) -> Result<(), PortError> {
        self.driver.resume(run).await
    }

    /// A run's last committed state.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run(&self, id: &RunId) -> Result<Option<Run>, PortError> {
        let stored = self.driver.load(id).await?;
        Ok(stored.map(|stored| Arc::unwrap_or_clone(stored).run))
    }
}
