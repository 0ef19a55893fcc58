//! State in DynamoDB. One item is one run and one transition is one conditional
//! write.
//!
//! | item | `pk` | `sk` | attributes |
//! |---|---|---|---|
//! | run | `RUN#<id>` | `RUN` | `version`, `body`, `parts`, `summary`, `workflow`, `status`, `runs_pk`, `runs_sk`, `expires` |
//! | event | `EVENT#<id>` | `EVENT` | `version`, `body`, `parts`, `workflow` (the event's name), `runs_pk`, `runs_sk`, `expires` |
//! | document | `DOC#<key>` | `DOC` | `version`, `body` or `part`, `expires` |
//! | accepted delivery | `SEEN#<delivery>` | `SEEN` | `until`, `expires` |
//! | watermark | `MARK#<name>` | `MARK` | `at`, `snapshot` |
//!
//! The index `runs` lists runs (`runs_pk` = `RUNS`) and events (`EVENTS`) by age
//! (`runs_sk` = `<time>#<id>`); it has no other attribute but `summary`,
//! `workflow` and `status`.
//!
//! A `body` is JSON, compressed where that is shorter: a write is billed by the
//! kilobyte. What is longer than 100 KB has its big parts in the state
//! bucket, and `parts` says which. So what one transition loads is one item of at
//! most 400 KB and at most [`MAX_RUN_BYTES`] from the bucket.

use crate::config::s3_client;
use crate::error::failed;
use crate::large::{self, INLINE_BYTES, Part, Pointer};
use crate::parts::Parts;
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use jiff::{SignedDuration, Timestamp};
use loopy_contract::ids::{EventId, RunId, sha256_hex};
use loopy_engine::ports::{Clock, Commit, Document, PortError, RunFilter, Store, Stored};
use loopy_engine::record::{EventFilter, EventRecord};
use loopy_engine::run::{self, Run, RunSummary};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

/// The name of the table's index over runs and events.
pub const RUNS_INDEX: &str = "runs";

/// The most that is written as one item, in bytes. DynamoDB takes 400 KiB; the
/// rest is room for what it counts on top.
pub const MAX_ITEM_BYTES: usize = 380 * 1024;

/// The most that a run may have in all, in bytes: each transition reads it, and
/// a function has to hold it several times over.
pub const MAX_RUN_BYTES: usize = 16 * 1024 * 1024;

/// How long a run is kept after its end, and an event after it came.
const KEEP: SignedDuration = SignedDuration::from_hours(24 * 90);

/// From this length on it pays to compress, in bytes.
const COMPRESSED_BYTES: usize = 256;

/// How many index entries are read at once when most may be filtered out.
const FILTERED_PAGE: usize = 100;

/// How many items are read by key in one call.
const BATCH: usize = 100;

/// The longest name that a key holds as it is, in bytes; a longer one is kept as
/// its hash, as a key holds no more than 2048.
const MAX_NAME_BYTES: usize = 512;

/// Runs, events, documents, accepted deliveries and watermarks in one table.
#[derive(Clone)]
pub struct DynamoStore {
    client: Client,
    table: String,
    parts: Parts,
    clock: Arc<dyn Clock>,
}

type Item = HashMap<String, AttributeValue>;

impl DynamoStore {
    /// The store in `table`, big values in `parts`. The clock decides whether an
    /// accepted delivery is still remembered, as DynamoDB removes expired items
    /// hours late.
    pub fn new(
        client: Client,
        table: impl Into<String>,
        parts: Parts,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            client,
            table: table.into(),
            parts,
            clock,
        }
    }

    /// The store in `table` with its state bucket, reached as `config` says.
    pub fn of_config(
        config: &SdkConfig,
        table: impl Into<String>,
        bucket: impl Into<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let parts = Parts::new(s3_client(config), bucket);
        Self::new(Client::new(config), table, parts, clock)
    }

    async fn item(&self, what: &str, pk: String, sk: &str) -> Result<Option<Item>, PortError> {
        self.client
            .get_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(pk))
            .key("sk", AttributeValue::S(sk.to_owned()))
            .consistent_read(true)
            .send()
            .await
            .map(|output| output.item)
            .map_err(|error| failed(self.what(what), &error))
    }

    fn what(&self, what: &str) -> String {
        format!("{what} (table {})", self.table)
    }

    /// Writes an item if the stored version is still `expected`; 0 when there
    /// must be none. False when it is not.
    async fn put(
        &self,
        what: &str,
        attributes: Vec<(&str, AttributeValue)>,
        expected: u64,
    ) -> Result<bool, PortError> {
        let bytes: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum();
        if bytes > MAX_ITEM_BYTES {
            return Err(PortError::new(
                what,
                format!(
                    "it has grown to {bytes} bytes and an item holds {MAX_ITEM_BYTES}, with all \
                     big values put aside; make its workflow smaller"
                ),
            ));
        }
        let mut put = self.client.put_item().table_name(&self.table);
        for (name, value) in attributes {
            put = put.item(name, value);
        }
        self.put_if(what, if_version(put, expected)).await
    }

    /// Writes an item under a condition. False when that does not hold.
    async fn put_if(&self, what: &str, put: PutItemFluentBuilder) -> Result<bool, PortError> {
        match put.send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conditional_check_failed_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(failed(self.what(what), &error)),
        }
    }

    /// The attributes `body` and `parts` of a document that is longer than an
    /// item should be, its parts written.
    async fn put_aside(
        &self,
        what: &str,
        owner: &str,
        text: &str,
        cut: fn(&mut Value) -> Result<Vec<Part>, serde_json::Error>,
    ) -> Result<Vec<(&'static str, AttributeValue)>, PortError> {
        let error = |why| PortError::new(what, why);
        let mut document: Value = serde_json::from_str(text).map_err(error)?;
        let parts = cut(&mut document).map_err(error)?;
        let pointers = self.parts.write(owner, parts).await?;
        let body = serde_json::to_string(&document).map_err(error)?;
        let pointers = serde_json::to_string(&pointers).map_err(error)?;
        Ok(vec![
            ("body", packed(what, &body)?),
            ("parts", packed(what, &pointers)?),
        ])
    }

    /// The JSON in an item, with its parts put back.
    async fn whole(&self, what: &str, owner: &str, item: &Item) -> Result<String, PortError> {
        let body = unpacked(what, item, "body")?;
        if !item.contains_key("parts") {
            return Ok(body);
        }
        let error = |why| PortError::new(what, why);
        let pointers: Vec<Pointer> =
            serde_json::from_str(&unpacked(what, item, "parts")?).map_err(error)?;
        let mut document: Value = serde_json::from_str(&body).map_err(error)?;
        self.parts.fill(owner, &mut document, pointers).await?;
        serde_json::to_string(&document).map_err(error)
    }

    /// Writes the run if the stored version is still `expected`.
    async fn put_run(&self, what: &str, run: Run, expected: u64) -> Result<Commit, PortError> {
        let encode = |error| PortError::new(what, format!("cannot be written as JSON: {error}"));
        let version = expected.saturating_add(1);
        let text = serde_json::to_string(&run).map_err(encode)?;
        if text.len() > MAX_RUN_BYTES {
            return Err(PortError::new(
                what,
                format!(
                    "the run has grown to {} bytes and may have {MAX_RUN_BYTES}; make its steps \
                     put out less, and pass large data by a link",
                    text.len()
                ),
            ));
        }
        let summary = serde_json::to_string(&run.summary()).map_err(encode)?;
        let mut attributes = vec![
            ("pk", AttributeValue::S(run_key(&run.id))),
            ("sk", AttributeValue::S("RUN".to_owned())),
            ("version", AttributeValue::N(version.to_string())),
            ("summary", packed(what, &summary)?),
            ("workflow", AttributeValue::S(run.workflow.clone())),
            ("status", AttributeValue::S(run.status.name().to_owned())),
            ("runs_pk", AttributeValue::S("RUNS".to_owned())),
            (
                "runs_sk",
                AttributeValue::S(age_key(run.created_at, run.id.as_str())),
            ),
        ];
        if let Some(ended) = run.ended_at {
            attributes.push(("expires", expiry(later(ended))));
        }
        if text.len() <= INLINE_BYTES {
            attributes.push(("body", packed(what, &text)?));
        } else {
            let aside = self.put_aside(what, run.id.as_str(), &text, large::cut_run);
            attributes.extend(aside.await?);
        }
        if self.put(what, attributes, expected).await? {
            Ok(Commit::Done(Box::new(Stored { run, version })))
        } else {
            Ok(Commit::Conflict)
        }
    }

    async fn record(&self, what: &str, item: &Item) -> Result<EventRecord, PortError> {
        let id = text(what, item, "pk")?;
        let id = id.strip_prefix("EVENT#").unwrap_or(id);
        let record = self.whole(what, &event_folder(id), item).await?;
        serde_json::from_str(&record)
            .map_err(|error| PortError::new(what, format!("the item's body: {error}")))
    }

    /// Entries of the index, newest first, until `limit` of them satisfy
    /// `wanted` (an attribute and its value, each).
    async fn newest(
        &self,
        what: &str,
        (kind, since, until): (&str, Option<Timestamp>, Option<Timestamp>),
        wanted: &[(&str, &Option<String>)],
        attributes: &str,
        limit: usize,
    ) -> Result<Vec<Item>, PortError> {
        let filtered = wanted.iter().any(|(_, value)| value.is_some());
        let mut found = Vec::new();
        let mut from = None;
        while found.len() < limit {
            let missing = limit - found.len();
            let page = if filtered {
                FILTERED_PAGE
            } else {
                missing.min(FILTERED_PAGE)
            };
            let mut query = self
                .client
                .query()
                .table_name(&self.table)
                .index_name(RUNS_INDEX)
                .key_condition_expression("runs_pk = :kind AND runs_sk BETWEEN :since AND :until")
                .expression_attribute_values(":kind", AttributeValue::S(kind.to_owned()))
                // Keys begin with the time, and something follows: those of the last
                // moment itself lie behind it.
                .expression_attribute_values(":since", AttributeValue::S(bound(since, "0")))
                .expression_attribute_values(":until", AttributeValue::S(bound(until, "~")))
                .projection_expression(attributes)
                .scan_index_forward(false)
                .limit(i32::try_from(page).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from);
            let mut conditions = Vec::new();
            for (name, value) in wanted {
                if let Some(value) = value {
                    conditions.push(format!("#{name} = :{name}"));
                    query = query
                        .expression_attribute_names(format!("#{name}"), *name)
                        .expression_attribute_values(
                            format!(":{name}"),
                            AttributeValue::S(value.clone()),
                        );
                }
            }
            if !conditions.is_empty() {
                query = query.filter_expression(conditions.join(" AND "));
            }
            let output = query
                .send()
                .await
                .map_err(|error| failed(self.what(what), &error))?;
            found.extend(output.items.unwrap_or_default());
            from = output.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The items with these keys, in no promised order; without those that are
    /// gone meanwhile.
    async fn items(&self, what: &str, keys: Vec<Item>) -> Result<Vec<Item>, PortError> {
        let mut found = Vec::new();
        for batch in keys.chunks(BATCH) {
            let mut left = batch.to_vec();
            while !left.is_empty() {
                let asked = KeysAndAttributes::builder()
                    .set_keys(Some(left))
                    .build()
                    .map_err(|error| PortError::new(what, error))?;
                let output = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, asked)
                    .send()
                    .await
                    .map_err(|error| failed(self.what(what), &error))?;
                let answered = output.responses.unwrap_or_default().remove(&self.table);
                found.extend(answered.unwrap_or_default());
                let unanswered = output.unprocessed_keys.unwrap_or_default();
                left = unanswered
                    .into_values()
                    .flat_map(|keys| keys.keys)
                    .collect();
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        let what = format!("read run {id}");
        let Some(item) = self.item(&what, run_key(id), "RUN").await? else {
            return Ok(None);
        };
        let version = version(&what, &item)?;
        let text = self.whole(&what, id.as_str(), &item).await?;
        let run = run::read(&text).map_err(|error| PortError::new(&what, error))?;
        Ok(Some(Stored { run, version }))
    }

    async fn create(&self, run: Run) -> Result<Commit, PortError> {
        let what = format!("create run {}", run.id);
        self.put_run(&what, run, 0).await
    }

    async fn commit(&self, run: Run, version: u64) -> Result<Commit, PortError> {
        let what = format!("commit run {}", run.id);
        self.put_run(&what, run, version).await
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        let what = "list runs";
        let wanted = [("workflow", &filter.workflow), ("status", &filter.status)];
        let found = self
            .newest(what, ("RUNS", None, None), &wanted, "summary", filter.limit)
            .await?;
        found
            .iter()
            .map(|item| {
                serde_json::from_str(&unpacked(what, item, "summary")?)
                    .map_err(|error| PortError::new(what, format!("an item's summary: {error}")))
            })
            .collect()
    }

    async fn event(&self, id: &EventId) -> Result<Option<(EventRecord, u64)>, PortError> {
        let what = format!("read event {id}");
        let Some(item) = self.item(&what, event_key(id), "EVENT").await? else {
            return Ok(None);
        };
        let record = self.record(&what, &item).await?;
        Ok(Some((record, version(&what, &item)?)))
    }

    async fn write_event(&self, record: &EventRecord, expected: u64) -> Result<bool, PortError> {
        let id = &record.event.id;
        let what = format!("write down event {id}");
        let text = serde_json::to_string(record).map_err(|error| PortError::new(&what, error))?;
        let key = event_key(id);
        let version = expected.saturating_add(1);
        let mut attributes = vec![
            ("sk", AttributeValue::S("EVENT".to_owned())),
            ("version", AttributeValue::N(version.to_string())),
            ("workflow", AttributeValue::S(record.event.name.clone())),
            ("runs_pk", AttributeValue::S("EVENTS".to_owned())),
            (
                "runs_sk",
                AttributeValue::S(age_key(record.recorded_at, &shortened(id.as_str()))),
            ),
            ("expires", expiry(later(record.recorded_at))),
        ];
        if text.len() <= INLINE_BYTES {
            attributes.push(("body", packed(&what, &text)?));
        } else {
            let folder = event_folder(&shortened(id.as_str()));
            let aside = self.put_aside(&what, &folder, &text, large::cut_record);
            attributes.extend(aside.await?);
        }
        attributes.push(("pk", AttributeValue::S(key)));
        self.put(&what, attributes, expected).await
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, PortError> {
        let what = "list events";
        let wanted = [("workflow", &filter.name)];
        let keys = self
            .newest(
                what,
                ("EVENTS", filter.since, filter.until),
                &wanted,
                "pk, sk",
                filter.limit,
            )
            .await?;
        let mut records = Vec::new();
        for item in self.items(what, keys).await? {
            records.push(self.record(what, &item).await?);
        }
        records.sort_by(|a, b| (b.recorded_at, &b.event.id).cmp(&(a.recorded_at, &a.event.id)));
        Ok(records)
    }

    async fn document(&self, key: &str) -> Result<Option<Document>, PortError> {
        let what = format!("read document {key}");
        let Some(item) = self.item(&what, document_key(key), "DOC").await? else {
            return Ok(None);
        };
        let version = version(&what, &item)?;
        let text = if item.contains_key("part") {
            let sha256 = text(&what, &item, "part")?;
            let whole = self.parts.get(&document_folder(key), sha256).await?;
            whole.as_ref().to_owned()
        } else {
            unpacked(&what, &item, "body")?
        };
        Ok(Some(Document { text, version }))
    }

    async fn write_document(
        &self,
        key: &str,
        text: &str,
        expected: Option<u64>,
        expires: Timestamp,
    ) -> Result<bool, PortError> {
        let what = format!("write document {key}");
        let content = if text.len() <= INLINE_BYTES {
            ("body", packed(&what, text)?)
        } else {
            let sha256 = sha256_hex(text.as_bytes());
            let folder = document_folder(key);
            self.parts.put(&folder, &sha256, text.to_owned()).await?;
            ("part", AttributeValue::S(sha256))
        };
        if let Some(expected) = expected {
            let version = expected.saturating_add(1);
            let attributes = vec![
                ("pk", AttributeValue::S(document_key(key))),
                ("sk", AttributeValue::S("DOC".to_owned())),
                ("version", AttributeValue::N(version.to_string())),
                ("expires", expiry(expires)),
                content,
            ];
            return self.put(&what, attributes, expected).await;
        }
        let (name, content) = content;
        let other = if name == "body" { "part" } else { "body" };
        self.client
            .update_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(document_key(key)))
            .key("sk", AttributeValue::S("DOC".to_owned()))
            .update_expression(format!(
                "SET {name} = :content, expires = :expires, \
                 #version = if_not_exists(#version, :none) + :one REMOVE {other}"
            ))
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":content", content)
            .expression_attribute_values(":expires", expiry(expires))
            .expression_attribute_values(":none", AttributeValue::N("0".to_owned()))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .send()
            .await
            .map(|_| true)
            .map_err(|error| failed(self.what(&what), &error))
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        let what = "look up a delivery";
        let Some(item) = self.item(what, delivery_key(delivery), "SEEN").await? else {
            return Ok(false);
        };
        Ok(time(what, &item, "until")? > self.clock.now())
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        // `until` is what `seen` goes by.
        self.client
            .put_item()
            .table_name(&self.table)
            .item("pk", AttributeValue::S(delivery_key(delivery)))
            .item("sk", AttributeValue::S("SEEN".to_owned()))
            .item("until", AttributeValue::S(expires.to_string()))
            .item("expires", expiry(expires))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(self.what("mark a delivery as accepted"), &error))
    }

    async fn watermark(&self, name: &str) -> Result<Option<Timestamp>, PortError> {
        let what = format!("read watermark {name}");
        self.item(&what, mark_key(name), "MARK")
            .await?
            .map(|item| time(&what, &item, "at"))
            .transpose()
    }

    async fn snapshot(&self, name: &str) -> Result<Option<(Timestamp, String)>, PortError> {
        let what = format!("read snapshot {name}");
        let Some(item) = self.item(&what, mark_key(name), "MARK").await? else {
            return Ok(None);
        };
        let text = item.get("snapshot").and_then(|value| value.as_s().ok());
        let text = text.cloned().unwrap_or_default();
        Ok(Some((time(&what, &item, "at")?, text)))
    }

    async fn set_snapshot(
        &self,
        name: &str,
        expected: Option<Timestamp>,
        at: Timestamp,
        text: &str,
    ) -> Result<bool, PortError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("pk", AttributeValue::S(mark_key(name)))
            .item("sk", AttributeValue::S("MARK".to_owned()))
            .item("at", AttributeValue::S(at.to_string()))
            .item("snapshot", AttributeValue::S(text.to_owned()));
        let put = match expected {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(expected) => put
                .condition_expression("#at = :expected")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":expected", AttributeValue::S(expected.to_string())),
        };
        self.put_if(&format!("write snapshot {name}"), put).await
    }

    async fn set_watermark(&self, name: &str, at: Timestamp) -> Result<(), PortError> {
        self.client
            .put_item()
            .table_name(&self.table)
            .item("pk", AttributeValue::S(mark_key(name)))
            .item("sk", AttributeValue::S("MARK".to_owned()))
            .item("at", AttributeValue::S(at.to_string()))
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed(self.what(&format!("write watermark {name}")), &error))
    }
}

/// The condition of a write: nothing there yet, or that version.
fn if_version(put: PutItemFluentBuilder, expected: u64) -> PutItemFluentBuilder {
    if expected == 0 {
        return put.condition_expression("attribute_not_exists(pk)");
    }
    put.condition_expression("#version = :expected")
        .expression_attribute_names("#version", "version")
        .expression_attribute_values(":expected", AttributeValue::N(expected.to_string()))
}

fn run_key(id: &RunId) -> String {
    format!("RUN#{id}")
}

fn event_key(id: &EventId) -> String {
    format!("EVENT#{}", shortened(id.as_str()))
}

fn document_key(key: &str) -> String {
    format!("DOC#{}", shortened(key))
}

fn delivery_key(delivery: &str) -> String {
    format!("SEEN#{}", shortened(delivery))
}

fn mark_key(name: &str) -> String {
    format!("MARK#{name}")
}

/// A name of any length, as a key holds it.
fn shortened(name: &str) -> String {
    if name.len() > MAX_NAME_BYTES {
        format!("sha256:{}", sha256_hex(name.as_bytes()))
    } else {
        name.to_owned()
    }
}

/// The folder of an event's parts, by what its key says after `EVENT#`. Hashed,
/// as an id may hold anything.
fn event_folder(name: &str) -> String {
    format!("event-{}", sha256_hex(name.as_bytes()))
}

fn document_folder(key: &str) -> String {
    format!("document-{}", sha256_hex(key.as_bytes()))
}

/// Sorts by time: RFC 3339 with always nine digits after the second, as a
/// shorter fraction would sort behind a longer one.
fn age_key(at: Timestamp, id: &str) -> String {
    format!("{at:.9}#{id}")
}

/// An end of a range of such keys; `open` where it has none.
fn bound(at: Option<Timestamp>, open: &str) -> String {
    at.map_or_else(|| open.to_owned(), |at| format!("{at:.9}"))
}

fn later(at: Timestamp) -> Timestamp {
    at.checked_add(KEEP).unwrap_or(Timestamp::MAX)
}

/// DynamoDB removes what has expired by its whole second.
fn expiry(at: Timestamp) -> AttributeValue {
    AttributeValue::N(at.as_second().saturating_add(1).to_string())
}

/// JSON as it is stored.
fn packed(what: &str, text: &str) -> Result<AttributeValue, PortError> {
    if text.len() < COMPRESSED_BYTES {
        return Ok(AttributeValue::S(text.to_owned()));
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish())
        .map(|bytes| AttributeValue::B(Blob::new(bytes)))
        .map_err(|error| PortError::new(what, format!("cannot be compressed: {error}")))
}

/// What [`packed`] stored, or a build before it, which did not compress.
fn unpacked(what: &str, item: &Item, name: &str) -> Result<String, PortError> {
    let Some(AttributeValue::B(bytes)) = item.get(name) else {
        return text(what, item, name).map(str::to_owned);
    };
    let mut unpacked = String::new();
    ZlibDecoder::new(bytes.as_ref())
        .read_to_string(&mut unpacked)
        .map_err(|error| PortError::new(what, format!("the item's `{name}`: {error}")))?;
    Ok(unpacked)
}

/// The bytes that DynamoDB counts for a value of the kinds written here.
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        _ => 0,
    }
}

fn version(what: &str, item: &Item) -> Result<u64, PortError> {
    item.get("version")
        .and_then(|value| value.as_n().ok())
        .and_then(|version| version.parse().ok())
        .ok_or_else(|| PortError::new(what, "the item has no `version` number"))
}

fn text<'a>(what: &str, item: &'a Item, name: &str) -> Result<&'a str, PortError> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
        .ok_or_else(|| PortError::new(what, format!("an item has no text attribute `{name}`")))
}

fn time(what: &str, item: &Item, name: &str) -> Result<Timestamp, PortError> {
    text(what, item, name)?
        .parse()
        .map_err(|error| PortError::new(what, format!("an item's `{name}`: {error}")))
}
