//! `start`: makes the runs that an event or a schedule's tick begins.

use super::Engine;
use crate::ports::PortError;
use crate::schedule;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::Trigger;
use serde_json::{Map, json};

/// How many events deep a cascade may go. It bounds projects whose emitted
/// events lead back to their own triggers.
pub(super) const MAX_CASCADE_DEPTH: u32 = 32;

impl Engine {
    pub(super) async fn start_event(&self, event: Event) -> Result<Option<String>, PortError> {
        if event.depth > MAX_CASCADE_DEPTH {
            return Ok(Some(format!(
                "event {} is {} events deep in cascade {}; the limit is {MAX_CASCADE_DEPTH}",
                event.name, event.depth, event.cascade
            )));
        }
        let manifest = self.ports.manifests.current().await?;
        for workflow in manifest.subscribers(&event.name) {
            self.driver.start(&manifest, workflow, &event).await?;
        }
        Ok(None)
    }

    pub(super) async fn start_cron(
        &self,
        step: String,
        scheduled_at: Timestamp,
    ) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let workflow = manifest.workflows.iter().find_map(|(name, workflow)| {
            let entry = workflow.entry.as_ref()?;
            (workflow.steps.get(entry)?.id == step).then_some((name, workflow.entry_trigger()?))
        });
        let Some((workflow, Trigger::Cron { expr, tz })) = workflow else {
            return Ok(Some(format!(
                "the current manifest has no schedule on {step}"
            )));
        };
        let watermark = format!("cron/{step}");
        let stored = self.ports.store.watermark(&watermark).await?;
        let last_run = match stored.filter(|last| *last < scheduled_at) {
            Some(last) => last,
            None => match schedule::last_before(expr, tz.as_deref(), scheduled_at) {
                Ok(last) => last,
                Err(error) => return Ok(Some(error.to_string())),
            },
        };
        let mut fields = Map::new();
        fields.insert("scheduled_at".to_owned(), json!(scheduled_at.to_string()));
        fields.insert("last_run".to_owned(), json!(last_run.to_string()));
        let event = Event::root(
            EventId::from_tick(&step, &scheduled_at.to_string()),
            format!("cron:{step}"),
            fields,
            Source::Cron { step },
            scheduled_at,
        );
        self.driver.start(&manifest, workflow, &event).await?;
        if stored.is_none_or(|last| last < scheduled_at) {
            self.ports
                .store
                .set_watermark(&watermark, scheduled_at)
                .await?;
        }
        Ok(None)
    }
}
