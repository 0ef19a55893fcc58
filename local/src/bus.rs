//! The bus on one machine: an event that someone subscribes to goes straight
//! into the events queue.

use crate::queue::SqliteQueue;
use async_trait::async_trait;
use loopy_contract::event::Event;
use loopy_engine::message::Message;
use loopy_engine::ports::{Bus, Manifests, PortError, Queues};
use std::sync::Arc;
use std::time::Duration;

/// Hands events to the events queue of the same database.
pub struct LocalBus {
    queue: SqliteQueue,
    manifests: Arc<dyn Manifests>,
}

impl LocalBus {
    /// A bus that asks the current manifest for subscribers.
    pub fn new(queue: SqliteQueue, manifests: Arc<dyn Manifests>) -> Self {
        Self { queue, manifests }
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        if self
            .manifests
            .current()
            .await?
            .subscribers(&event.name)
            .is_empty()
        {
            tracing::info!(event = event.name, id = %event.id, "no workflow starts on this event");
            return Ok(());
        }
        self.queue
            .send(&Message::Event(event.clone()), Duration::ZERO)
            .await
    }
}
