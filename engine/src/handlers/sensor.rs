//! `sensor`: calls the project's sensor code, checks each returned event
//! against its contract and puts it on the bus.

use super::Engine;
use crate::builtin::{self, BuiltinError};
use crate::message::{Body, Delivery};
use crate::ports::{PortError, Sensed, SensorCall, SensorError};
use crate::schedule;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::{Manifest, Sensor, SensorSource, SensorTrigger};
use loopy_contract::schema;

impl Engine {
    pub(super) async fn sense_delivery(
        &self,
        delivery: Delivery,
    ) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let body_base64 = match &delivery.body {
            Body::Text(text) => STANDARD.encode(text),
            Body::Base64(encoded) => encoded.clone(),
        };
        let call = SensorCall::Request {
            method: delivery.method,
            path: delivery.path.clone(),
            query: delivery.query,
            headers: delivery.headers,
            body_base64,
        };
        let mut problems = Vec::new();
        let mut any = false;
        for sensor in &manifest.sensors {
            let listens = matches!(
                &sensor.trigger, SensorTrigger::Webhook { path, .. } if *path == delivery.path
            );
            if listens {
                any = true;
                problems.extend(self.sense(&manifest, sensor, &call, &delivery.id).await?);
            }
        }
        if !any {
            problems.push(format!(
                "the current manifest has no sensor on {}",
                delivery.path
            ));
        }
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    pub(super) async fn sense_poll(
        &self,
        name: String,
        scheduled_at: Timestamp,
    ) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let found = manifest.sensors.iter().find(|sensor| sensor.name == name);
        let Some((sensor, SensorTrigger::Poll { interval })) =
            found.map(|sensor| (sensor, &sensor.trigger))
        else {
            return Ok(Some(format!(
                "the current manifest has no poll sensor {name}"
            )));
        };
        let watermark = format!("poll/{name}");
        let stored = self.ports.store.watermark(&watermark).await?;
        if stored.is_some_and(|last| last >= scheduled_at) {
            return Ok(None);
        }
        let Some(period) = schedule::period(interval) else {
            return Ok(Some(format!(
                "poll sensor {name} has the interval {interval:?}"
            )));
        };
        let last_run =
            stored.unwrap_or_else(|| scheduled_at.checked_sub(period).unwrap_or(scheduled_at));
        let call = SensorCall::Tick {
            scheduled_at,
            last_run,
        };
        let problems = self
            .sense(&manifest, sensor, &call, &format!("poll-{scheduled_at}"))
            .await?;
        self.ports
            .store
            .set_watermark(&watermark, scheduled_at)
            .await?;
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    /// Calls one sensor and publishes what it made. Gives back what can never
    /// be accepted; an error of the code itself is worth another try.
    async fn sense(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
        delivery: &str,
    ) -> Result<Vec<String>, PortError> {
        let sensed = if sensor.source == SensorSource::Builtin {
            match builtin::event(sensor, call) {
                Ok(sensed) => sensed.into_iter().collect(),
                // Worth another try: a deploy replaces the manifest.
                Err(error @ BuiltinError::NoMapping { .. }) => {
                    return Err(PortError::new(
                        format!("call sensor {}", sensor.name),
                        error,
                    ));
                }
                Err(error) => return Ok(vec![error.to_string()]),
            }
        } else {
            match self.ports.sensor_code.call(manifest, sensor, call).await {
                Ok(sensed) => sensed,
                Err(SensorError::Trouble(trouble)) => return Err(trouble),
                Err(raised @ SensorError::Raised { .. }) => {
                    return Err(PortError::new(
                        format!("call sensor {}", sensor.name),
                        raised,
                    ));
                }
            }
        };
        let mut problems = Vec::new();
        for (index, sensed) in sensed.into_iter().enumerate() {
            match self.accept(manifest, sensor, sensed, delivery, index) {
                Ok(event) => self.driver.publish(manifest, &event).await?,
                Err(problem) => problems.push(problem),
            }
        }
        Ok(problems)
    }

    fn accept(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        sensed: Sensed,
        delivery: &str,
        index: usize,
    ) -> Result<Event, String> {
        let name = &sensor.name;
        if sensed.event != sensor.emits {
            return Err(format!(
                "sensor {name} gave {} and declared {}",
                sensed.event, sensor.emits
            ));
        }
        let Some(contract) = manifest.registry.events.get(&sensed.event) else {
            return Err(format!(
                "sensor {name} gave {}, which is not registered",
                sensed.event
            ));
        };
        let violations = schema::field_violations(contract, &sensed.fields);
        if !violations.is_empty() {
            return Err(format!(
                "sensor {name} gave a {} that breaks its contract: {}",
                sensed.event,
                violations.join("; ")
            ));
        }
        Ok(Event::root(
            EventId::from_delivery(name, delivery, index),
            sensed.event,
            sensed.fields,
            Source::Sensor {
                sensor: name.clone(),
                delivery: delivery.to_owned(),
            },
            self.ports.clock.now(),
        ))
    }
}
