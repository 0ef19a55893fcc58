//! Events on EventBridge. The detail of an entry is the message that the
//! events queue receives, so a rule's target passes `$.detail` on as it is.

use crate::claims::Claims;
use crate::env::{Environment, var};
use crate::error::failed;
use crate::queues::wire;
use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use loopy_contract::event::Event;
use loopy_engine::message::Message;
use loopy_engine::ports::{Bus, PortError};
use std::sync::Arc;

/// The source of every entry.
pub const SOURCE: &str = "loopy";

/// The most that an entry and the queue behind it hold, in bytes.
pub const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// The bus that the environment names.
#[derive(Clone)]
pub struct EventBus {
    client: Client,
    claims: Claims,
    environment: Arc<Environment>,
}

impl EventBus {
    /// The bus that `environment` names. What is too long for it goes by `claims`.
    pub fn new(client: Client, claims: Claims, environment: Arc<Environment>) -> Self {
        Self {
            client,
            claims,
            environment,
        }
    }
}

#[async_trait]
impl Bus for EventBus {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        let what = format!("publish {} {}", event.name, event.id);
        let bus = self.environment.required(var::BUS)?;
        let detail =
            wire(&Message::Event(event.clone())).map_err(|error| PortError::new(&what, error))?;
        let detail = self.claims.check_in(detail).await?;
        let bytes = SOURCE.len() + event.name.len() + detail.len();
        if bytes > MAX_ENTRY_BYTES {
            return Err(PortError::new(
                what,
                format!(
                    "the event has {bytes} bytes and the bus takes {MAX_ENTRY_BYTES}; \
                     put less into its fields, and pass large data by a link"
                ),
            ));
        }
        let entry = PutEventsRequestEntry::builder()
            .event_bus_name(bus)
            .source(SOURCE)
            .detail_type(&event.name)
            .detail(detail)
            .build();
        let output = self
            .client
            .put_events()
            .entries(entry)
            .send()
            .await
            .map_err(|error| failed(format!("{what} (bus {bus})"), &error))?;
        // The call succeeds even if the entry was not taken.
        if output.failed_entry_count() == 0 {
            return Ok(());
        }
        let entry = output.entries().first();
        let code = entry
            .and_then(|entry| entry.error_code())
            .unwrap_or("no error code");
        let message = entry
            .and_then(|entry| entry.error_message())
            .unwrap_or("no message");
        Err(PortError::new(
            format!("{what} (bus {bus})"),
            format!("{code}: {message}"),
        ))
    }
}
