//! Events on EventBridge. The detail of an entry is the message that the
//! events queue receives, so a rule's target passes `$.detail` on as it is.

use crate::claims::Claims;
use crate::env::{Environment, var};
use crate::error::failed;
use crate::queues::wire;
use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use futures::stream::{self, StreamExt, TryStreamExt};
use loopy_contract::event::Event;
use loopy_engine::message::Message;
use loopy_engine::ports::{Bus, PortError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The source of every entry.
pub const SOURCE: &str = "loopy";

/// The most that an entry and the queue behind it hold, in bytes.
pub const MAX_ENTRY_BYTES: usize = 1024 * 1024;

/// The most entries of one request.
const MAX_ENTRIES: usize = 10;

/// What the entries of one request may have together, in bytes.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// How many requests are under way at the same time.
const IN_FLIGHT: usize = 8;

/// How often entries that were not taken are put.
const TRIES: u32 = 5;

/// How long they rest before they are put again; doubled each time.
const FIRST_REST: Duration = Duration::from_millis(100);

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

/// An event on its way.
struct Parcel {
    /// For messages.
    what: String,
    entry: PutEventsRequestEntry,
    /// As EventBridge counts them.
    bytes: usize,
}

impl EventBus {
    async fn parcel(&self, bus: &str, event: &Event) -> Result<Parcel, PortError> {
        let what = format!("publish {} {} (bus {bus})", event.name, event.id);
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
        Ok(Parcel { what, entry, bytes })
    }

    /// Puts the entries of one request. Those that were not taken are put again, and
    /// only those.
    async fn put(&self, mut parcels: Vec<Parcel>) -> Result<(), PortError> {
        let mut rest = FIRST_REST;
        for left in (0..TRIES).rev() {
            let entries = parcels.iter().map(|parcel| parcel.entry.clone()).collect();
            let output = self
                .client
                .put_events()
                .set_entries(Some(entries))
                .send()
                .await
                .map_err(|error| failed(said(&parcels), &error))?;
            // The call succeeds even if entries were not taken.
            if output.failed_entry_count() == 0 {
                return Ok(());
            }
            let mut why = None;
            let answers = output.entries();
            let mut answers = answers.iter();
            parcels.retain(|_| {
                // What was not answered is taken for failed.
                let answer = answers.next();
                let taken = answer.is_some_and(|answer| answer.event_id().is_some());
                if !taken {
                    let code = answer.and_then(PutEventsResultEntry::error_code);
                    let message = answer.and_then(PutEventsResultEntry::error_message);
                    why.get_or_insert_with(|| {
                        format!(
                            "{}: {}",
                            code.unwrap_or("no error code"),
                            message.unwrap_or("no message")
                        )
                    });
                }
                !taken
            });
            let Some(why) = why else {
                return Ok(());
            };
            if left == 0 {
                return Err(PortError::new(said(&parcels), why));
            }
            sleep(rest).await;
            rest *= 2;
        }
        Ok(())
    }
}

/// What is being done with these: at least one.
fn said(parcels: &[Parcel]) -> String {
    match parcels {
        [first, others @ ..] if !others.is_empty() => {
            format!("{} and {} others", first.what, others.len())
        }
        [first, ..] => first.what.clone(),
        [] => "publish events".to_owned(),
    }
}

/// Cuts parcels into requests: as many as one takes, by number and by bytes.
fn requests(parcels: Vec<Parcel>) -> Vec<Vec<Parcel>> {
    let mut requests: Vec<Vec<Parcel>> = Vec::new();
    let mut bytes = 0;
    for parcel in parcels {
        match requests.last_mut() {
            Some(last) if last.len() < MAX_ENTRIES && bytes + parcel.bytes <= MAX_REQUEST_BYTES => {
                bytes += parcel.bytes;
                last.push(parcel);
            }
            _ => {
                bytes = parcel.bytes;
                requests.push(vec![parcel]);
            }
        }
    }
    requests
}

#[async_trait]
impl Bus for EventBus {
    async fn publish(&self, event: &Event) -> Result<(), PortError> {
        let bus = self.environment.required(var::BUS)?;
        let parcel = self.parcel(bus, event).await?;
        self.put(vec![parcel]).await
    }

    async fn publish_all(&self, events: &[Event]) -> Result<(), PortError> {
        let bus = self.environment.required(var::BUS)?;
        // In their order, of which rules know nothing; it only keeps requests alike.
        let parcels: Vec<_> = events.iter().map(|event| self.parcel(bus, event)).collect();
        let parcels: Vec<Parcel> = stream::iter(parcels)
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let puts: Vec<_> = requests(parcels)
            .into_iter()
            .map(|request| self.put(request))
            .collect();
        let mut puts = stream::iter(puts).buffer_unordered(IN_FLIGHT);
        // The others go on when one fails: there is less to put the next time.
        let mut failure = None;
        while let Some(put) = puts.next().await {
            failure = failure.or(put.err());
        }
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcels(sizes: &[usize]) -> Vec<Parcel> {
        let one = |bytes: &usize| Parcel {
            what: String::new(),
            entry: PutEventsRequestEntry::builder().build(),
            bytes: *bytes,
        };
        sizes.iter().map(one).collect()
    }

    fn cut(sizes: &[usize]) -> Vec<usize> {
        let requests = requests(parcels(sizes));
        requests.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_request_has_ten_entries_and_256_kb_at_most() {
        assert_eq!(cut(&[]), [0; 0]);
        assert_eq!(cut(&[1; 21]), [10, 10, 1]);
        assert_eq!(cut(&[100 * 1024; 5]), [2, 2, 1]);
        // One that is larger than that alone has a request of its own.
        assert_eq!(cut(&[1, 900 * 1024, 1, 1]), [1, 1, 2]);
        assert_eq!(cut(&[MAX_REQUEST_BYTES, 1]), [1, 1]);
    }
}
