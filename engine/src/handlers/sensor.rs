//! `sensor`: calls the project's sensor code, checks each returned event
//! against its contract and puts it on the bus. A poll keeps what it gave.

use super::Engine;
use crate::builtin::{self, BuiltinError};
use crate::message::{Body, Delivery};
use crate::ports::{MAX_SNAPSHOT, PortError, Sensed, SensorCall, SensorError};
use crate::schedule;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use jiff::Timestamp;
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::{Manifest, Sensor, SensorSource, SensorTrigger};
use loopy_contract::schema;
use serde_json::{Map, Value};

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
        let listening = manifest.sensors.iter().filter(|sensor| {
            matches!(&sensor.trigger, SensorTrigger::Webhook { path, .. } if *path == delivery.path)
        });
        // Beside each other: all of them together take no longer than one may.
        let calls = listening.map(|sensor| self.sense(&manifest, sensor, &call, &delivery.id));
        let made = join_all(calls).await;
        if made.is_empty() {
            return Ok(Some(format!(
                "the current manifest has no sensor on {}",
                delivery.path
            )));
        }
        let (mut problems, mut failed) = (Vec::new(), None);
        for made in made {
            match made {
                Ok((events, refused)) => {
                    problems.extend(refused);
                    for event in events {
                        self.driver.publish(&manifest, &event).await?;
                    }
                }
                // Its neighbours' events are not held up by it.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok((!problems.is_empty()).then(|| problems.join("; "))),
        }
    }

    pub(super) async fn sense_poll(
        &self,
        name: String,
        scheduled_at: Timestamp,
    ) -> Result<Option<String>, PortError> {
        let manifest = self.ports.manifests.current().await?;
        let found = manifest.sensors.iter().find(|sensor| sensor.name == name);
        let Some((
            sensor,
            SensorTrigger::Poll {
                interval,
                on_change,
            },
        )) = found.map(|sensor| (sensor, &sensor.trigger))
        else {
            return Ok(Some(format!(
                "the current manifest has no poll sensor {name}"
            )));
        };
        let watermark = format!("poll/{name}");
        let (stored, snapshot) = match self.ports.store.snapshot(&watermark).await? {
            Some((at, _)) if at >= scheduled_at => return Ok(None),
            Some((at, text)) => (Some(at), text),
            None => (None, String::new()),
        };
        let snapshot: Vec<Map<String, Value>> = if snapshot.is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&snapshot)
                .map_err(|why| PortError::new(format!("read the snapshot of {name}"), why))?
        };
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
            snapshot: snapshot.clone(),
        };
        let (events, problems) = self
            .sense(&manifest, sensor, &call, &format!("poll-{scheduled_at}"))
            .await?;
        let text = next_snapshot(&name, &events)?;
        for event in events {
            if !(*on_change && snapshot.contains(&event.fields)) {
                self.driver.publish(&manifest, &event).await?;
            }
        }
        self.ports
            .store
            .set_snapshot(&watermark, scheduled_at, &text)
            .await?;
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    /// Calls one sensor. Gives back the events it made, and what can never be
    /// accepted; an error of the code itself is worth another try.
    async fn sense(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
        delivery: &str,
    ) -> Result<(Vec<Event>, Vec<String>), PortError> {
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
                Err(error) => return Ok((Vec::new(), vec![error.to_string()])),
            }
        } else {
            match self.ports.sensor_code.call(manifest, sensor, call).await {
                Ok(sensed) => {
                    self.loads(manifest, &sensor.name).await;
                    sensed
                }
                Err(SensorError::Trouble(trouble)) => return Err(trouble),
                Err(error) => {
                    if let SensorError::Unloadable { reason, .. } = &error {
                        self.does_not_load(manifest, &sensor.name, reason).await;
                    }
                    let what = format!("call sensor {}", sensor.name);
                    return Err(PortError::new(what, error));
                }
            }
        };
        let (mut events, mut problems) = (Vec::new(), Vec::new());
        for (index, sensed) in sensed.into_iter().enumerate() {
            match self.accept(manifest, sensor, sensed, delivery, index) {
                Ok(event) => events.push(event),
                Err(problem) => problems.push(problem),
            }
        }
        Ok((events, problems))
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

/// What the next turn of a poll finds of this one.
fn next_snapshot(sensor: &str, events: &[Event]) -> Result<String, PortError> {
    let what = || format!("keep what sensor {sensor} gave");
    let fields: Vec<_> = events.iter().map(|event| &event.fields).collect();
    let text = serde_json::to_string(&fields).map_err(|why| PortError::new(what(), why))?;
    if text.len() > MAX_SNAPSHOT {
        let why = format!(
            "its events are {} bytes of JSON, and a poll may give {MAX_SNAPSHOT} in one turn, as \
             its next turn finds them; give fewer or smaller ones",
            text.len()
        );
        return Err(PortError::new(what(), why));
    }
    Ok(text)
}
