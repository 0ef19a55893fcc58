//! `sensor`: calls the project's sensor code, checks each returned event
//! against its contract and puts it on the bus. A poll keeps what it gave.

use super::Engine;
use crate::builtin::{self, BuiltinError};
use crate::message::{Body, Delivery};
use crate::ports::{MAX_SNAPSHOT, PortError, Sensed, SensorCall, SensorError};
use crate::schedule;
use crate::sensor_host::MAX_EVENTS;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::event::{Event, Source};
use loopy_contract::ids::EventId;
use loopy_contract::manifest::{Manifest, Sensor, SensorSource, SensorTrigger};
use loopy_contract::schema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

/// How long it is kept what was done of a delivery: a little longer than a queue keeps a
/// message.
const DONE_FOR: SignedDuration = SignedDuration::from_hours(24 * 15);

/// How long a turn of a poll is the only one. A function ends before that, and a turn
/// that was sent back twice comes after it.
const TURN: SignedDuration = SignedDuration::from_secs(65);

/// What a turn hears that has to wait.
const UNDER_WAY: &str = "another turn of it is under way";

/// The sensors that are done with a delivery, with what could not be accepted of each.
type Done = BTreeMap<String, Vec<String>>;

/// Who has the turn of a poll: the one that goes by this watermark, for so long.
#[derive(Serialize, Deserialize)]
struct HeldTurn {
    since: Option<Timestamp>,
    until: Timestamp,
}

/// A turn of a poll.
struct PollTurn {
    /// The watermark it goes by.
    since: Option<Timestamp>,
    /// When it was due.
    due: Timestamp,
    last_run: Timestamp,
    /// What the turn before gave.
    snapshot: Vec<Map<String, Value>>,
    on_change: bool,
}

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
        let listening: Vec<&Sensor> = manifest
            .sensors
            .iter()
            .filter(|sensor| {
                matches!(
                    &sensor.trigger,
                    SensorTrigger::Webhook { path, .. } if *path == delivery.path
                )
            })
            .collect();
        if listening.is_empty() {
            return Ok(Some(format!(
                "the current manifest has no sensor on {}",
                delivery.path
            )));
        }
        // One that is alone has no neighbour that could have been done before.
        let (mut done, version) = match listening.len() {
            1 => (Done::new(), 0),
            _ => self.done(&delivery.id).await?,
        };
        let known = done.len();
        let left: Vec<&Sensor> = listening
            .into_iter()
            .filter(|sensor| !done.contains_key(&sensor.name))
            .collect();
        // Beside each other: all of them together take no longer than one may.
        let calls = left
            .iter()
            .map(|sensor| self.sense_and_publish(&manifest, sensor, &call, &delivery.id));
        let made = join_all(calls).await;
        let mut failed = None;
        for (sensor, made) in left.into_iter().zip(made) {
            match made {
                Ok(problems) => {
                    done.insert(sensor.name.clone(), problems);
                }
                // Its neighbours' events are not held up by it.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            if done.len() > known {
                self.keep_done(&delivery.id, &done, version).await;
            }
            return Err(error);
        }
        let problems: Vec<String> = done.into_values().flatten().collect();
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    /// Has one sensor make its events of a delivery, and publishes them. Gives what can
    /// never be accepted.
    async fn sense_and_publish(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
        delivery: &str,
    ) -> Result<Vec<String>, PortError> {
        let (events, problems) = self
            .sense(manifest, sensor, call, delivery, delivery)
            .await?;
        self.driver.publish_all(manifest, events).await?;
        Ok(problems)
    }

    /// The sensors that are done with a delivery, as far as that was kept, and the
    /// version of that.
    async fn done(&self, delivery: &str) -> Result<(Done, u64), PortError> {
        let Some(found) = self.ports.store.document(&done_key(delivery)).await? else {
            return Ok((Done::new(), 0));
        };
        let done = serde_json::from_str(&found.text)
            .map_err(|why| PortError::new("read which sensors are done with a delivery", why))?;
        Ok((done, found.version))
    }

    /// Keeps which sensors are done with a delivery that comes again. Where that fails
    /// they are called again, and give the same events.
    async fn keep_done(&self, delivery: &str, done: &Done, version: u64) {
        let what = "keep which sensors are done with a delivery";
        let expires = self.ports.clock.now().checked_add(DONE_FOR);
        let expires = expires.unwrap_or(Timestamp::MAX);
        let kept = async {
            let text = serde_json::to_string(done).map_err(|why| PortError::new(what, why))?;
            let key = done_key(delivery);
            let store = &self.ports.store;
            store
                .write_document(&key, &text, Some(version), expires)
                .await
        };
        if let Err(error) = kept.await {
            tracing::warn!(delivery, %error, "sensors that are done are called again");
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
        let Some(period) = schedule::period(interval) else {
            return Ok(Some(format!(
                "poll sensor {name} has the interval {interval:?}"
            )));
        };
        let (since, snapshot) = match self.ports.store.snapshot(&watermark(&name)).await? {
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
        let version = self.take_turn(&name, since).await?;
        let turn = PollTurn {
            since,
            due: latest(scheduled_at, period, self.ports.clock.now()),
            last_run: since
                .unwrap_or_else(|| scheduled_at.checked_sub(period).unwrap_or(scheduled_at)),
            snapshot,
            on_change: *on_change,
        };
        let taken = self.poll(&manifest, sensor, turn).await;
        if taken.is_err() {
            self.give_turn_back(&name, since, version).await;
        }
        let problems = taken?;
        Ok((!problems.is_empty()).then(|| problems.join("; ")))
    }

    /// One turn of a poll: calls it, publishes its events, keeps what it gave.
    async fn poll(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        turn: PollTurn,
    ) -> Result<Vec<String>, PortError> {
        let name = &sensor.name;
        let call = SensorCall::Tick {
            scheduled_at: turn.due,
            last_run: turn.last_run,
            snapshot: turn.snapshot.clone(),
        };
        // Until one succeeds all turns are tries at the same: what one of them had
        // published before it failed is the same event in the next.
        let all_tries = match turn.since {
            Some(since) => format!("poll-since-{since}"),
            None => "poll-first".to_owned(),
        };
        let (mut events, problems) = self
            .sense(
                manifest,
                sensor,
                &call,
                &all_tries,
                &format!("poll-{}", turn.due),
            )
            .await?;
        let text = next_snapshot(name, &events)?;
        if turn.on_change {
            events.retain(|event| !turn.snapshot.contains(&event.fields));
        }
        self.driver.publish_all(manifest, events).await?;
        let store = &self.ports.store;
        let kept = store
            .set_snapshot(&watermark(name), turn.since, turn.due, &text)
            .await?;
        if !kept {
            tracing::warn!(sensor = name, "another turn ended before this one");
        }
        Ok(problems)
    }

    /// Has one turn of a poll be the only one for a while. Gives the version to give it
    /// back with. It ends by itself with the next watermark.
    async fn take_turn(&self, sensor: &str, since: Option<Timestamp>) -> Result<u64, PortError> {
        let what = || format!("take a turn of poll sensor {sensor}");
        let key = turn_key(sensor);
        let now = self.ports.clock.now();
        let found = self.ports.store.document(&key).await?;
        let mut version = 0;
        if let Some(found) = found {
            version = found.version;
            let held: HeldTurn =
                serde_json::from_str(&found.text).map_err(|why| PortError::new(what(), why))?;
            if held.since == since && held.until > now {
                return Err(PortError::new(what(), UNDER_WAY));
            }
        }
        let until = now.checked_add(TURN).unwrap_or(Timestamp::MAX);
        if self.hold_turn(sensor, since, until, version).await? {
            Ok(version.saturating_add(1))
        } else {
            Err(PortError::new(what(), UNDER_WAY))
        }
    }

    /// Lets others have the turn at once, after one that failed.
    async fn give_turn_back(&self, sensor: &str, since: Option<Timestamp>, version: u64) {
        let over = Timestamp::UNIX_EPOCH;
        if let Err(error) = self.hold_turn(sensor, since, over, version).await {
            tracing::warn!(sensor, %error, "the next turn has to wait");
        }
    }

    async fn hold_turn(
        &self,
        sensor: &str,
        since: Option<Timestamp>,
        until: Timestamp,
        version: u64,
    ) -> Result<bool, PortError> {
        let what = || format!("hold the turn of poll sensor {sensor}");
        let text = serde_json::to_string(&HeldTurn { since, until })
            .map_err(|why| PortError::new(what(), why))?;
        let expires = self.ports.clock.now().checked_add(DONE_FOR);
        let expires = expires.unwrap_or(Timestamp::MAX);
        let store = &self.ports.store;
        store
            .write_document(&turn_key(sensor), &text, Some(version), expires)
            .await
    }

    /// Calls one sensor. Gives back the events it made, and what can never be
    /// accepted; an error of the code itself is worth another try. Their ids derive
    /// from `cause`, which all tries at the same have in common.
    async fn sense(
        &self,
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
        cause: &str,
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
        if sensed.len() > MAX_EVENTS {
            let why = format!(
                "it gave {} events in one call, and a call may give {MAX_EVENTS}; give fewer, or \
                 one event with a list",
                sensed.len()
            );
            return Err(PortError::new(format!("call sensor {}", sensor.name), why));
        }
        let (mut events, mut problems) = (Vec::new(), Vec::new());
        let mut alike: HashMap<EventId, usize> = HashMap::new();
        for sensed in sensed {
            let id = |nth| {
                let (name, fields) = (&sensed.event, &sensed.fields);
                EventId::from_delivery(&sensor.name, cause, name, fields, nth)
            };
            let first = id(0);
            let nth = alike.entry(first.clone()).or_default();
            let id = if *nth == 0 { first } else { id(*nth) };
            *nth += 1;
            match self.accept(manifest, sensor, sensed, delivery, id) {
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
        id: EventId,
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
            id,
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

fn done_key(delivery: &str) -> String {
    format!("done/{delivery}")
}

fn watermark(sensor: &str) -> String {
    format!("poll/{sensor}")
}

fn turn_key(sensor: &str) -> String {
    format!("turn/{sensor}")
}

/// The last time not after `now` at which a poll was due. A turn that is late is had for
/// all that were due meanwhile, so that those that wait are not had one after the other.
fn latest(scheduled_at: Timestamp, period: SignedDuration, now: Timestamp) -> Timestamp {
    let late = now.duration_since(scheduled_at).as_secs().max(0);
    let over = late.checked_rem(period.as_secs()).unwrap_or_default();
    scheduled_at
        .checked_add(SignedDuration::from_secs(late - over))
        .unwrap_or(scheduled_at)
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
