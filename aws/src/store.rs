//! Run state in DynamoDB. One item is one run and one transition is one
//! conditional write.
//!
//! | item | `pk` | `sk` | attributes |
//! |---|---|---|---|
//! | run | `RUN#<id>` | `RUN` | `version`, `body`, `summary`, `workflow`, `status`, `runs_pk`, `runs_sk` |
//! | accepted delivery | `SEEN#<delivery>` | `SEEN` | `until`, `expires` |
//! | watermark | `MARK#<name>` | `MARK` | `at` |
//!
//! The index `runs` (`runs_pk` = `RUNS`, `runs_sk` = `<created_at>#<id>`) lists
//! runs by age; it needs no attribute but `summary`, `workflow` and `status`.

use crate::error::failed;
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use loopy_contract::ids::{RunId, sha256_hex};
use loopy_engine::ports::{Clock, Commit, PortError, RunFilter, Store, Stored};
use loopy_engine::run::{Run, RunSummary};
use std::collections::HashMap;
use std::sync::Arc;

/// The name of the table's index over runs.
pub const RUNS_INDEX: &str = "runs";

/// The most that is written as one item, in bytes. DynamoDB takes 400 KiB; the
/// rest is room for what it counts on top.
pub const MAX_ITEM_BYTES: usize = 380 * 1024;

/// How many summaries are read at once when most of them may be filtered out.
const FILTERED_PAGE: usize = 100;

/// The longest delivery id that is kept as it is, in bytes; a longer one is
/// kept as its hash, as a key holds no more than 2048.
const MAX_DELIVERY_BYTES: usize = 512;

/// Runs, accepted deliveries and watermarks in one table.
#[derive(Clone)]
pub struct DynamoStore {
    client: Client,
    table: String,
    clock: Arc<dyn Clock>,
}

impl DynamoStore {
    /// The store in `table`. The clock decides whether an accepted delivery is
    /// still remembered, as DynamoDB removes expired items hours late.
    pub fn new(client: Client, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            table: table.into(),
            clock,
        }
    }

    /// The store in `table`, reached as `config` says.
    pub fn of_config(config: &SdkConfig, table: impl Into<String>, clock: Arc<dyn Clock>) -> Self {
        Self::new(Client::new(config), table, clock)
    }

    async fn item(
        &self,
        what: &str,
        pk: String,
        sk: &str,
    ) -> Result<Option<HashMap<String, AttributeValue>>, PortError> {
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

    /// A write of the run under `version`, with the condition still to come.
    fn put_run(
        &self,
        what: &str,
        run: &Run,
        version: u64,
    ) -> Result<PutItemFluentBuilder, PortError> {
        let encode = |error| PortError::new(what, format!("cannot be written as JSON: {error}"));
        let body = serde_json::to_string(run).map_err(encode)?;
        let summary = serde_json::to_string(&run.summary()).map_err(encode)?;
        let attributes = [
            ("pk", AttributeValue::S(run_key(&run.id))),
            ("sk", AttributeValue::S("RUN".to_owned())),
            ("version", AttributeValue::N(version.to_string())),
            ("body", AttributeValue::S(body)),
            ("summary", AttributeValue::S(summary)),
            ("workflow", AttributeValue::S(run.workflow.clone())),
            ("status", AttributeValue::S(run.status.name().to_owned())),
            ("runs_pk", AttributeValue::S("RUNS".to_owned())),
            ("runs_sk", AttributeValue::S(age_key(run))),
        ];
        let bytes: usize = attributes
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum();
        if bytes > MAX_ITEM_BYTES {
            return Err(PortError::new(
                what,
                format!(
                    "the run has grown to {bytes} bytes and an item holds {MAX_ITEM_BYTES}; \
                     make its steps put out less, and pass large data by a link"
                ),
            ));
        }
        let mut put = self.client.put_item().table_name(&self.table);
        for (name, value) in attributes {
            put = put.item(name, value);
        }
        Ok(put)
    }

    async fn send(
        &self,
        what: &str,
        put: PutItemFluentBuilder,
        version: u64,
    ) -> Result<Commit, PortError> {
        match put.send().await {
            Ok(_) => Ok(Commit::Done(version)),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conditional_check_failed_exception()) =>
            {
                Ok(Commit::Conflict)
            }
            Err(error) => Err(failed(self.what(what), &error)),
        }
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn load(&self, id: &RunId) -> Result<Option<Stored>, PortError> {
        let what = format!("read run {id}");
        let Some(item) = self.item(&what, run_key(id), "RUN").await? else {
            return Ok(None);
        };
        let version = item
            .get("version")
            .and_then(|value| value.as_n().ok())
            .and_then(|version| version.parse().ok())
            .ok_or_else(|| PortError::new(&what, "the item has no `version` number"))?;
        let run = serde_json::from_str(text(&what, &item, "body")?)
            .map_err(|error| PortError::new(&what, format!("the item's body: {error}")))?;
        Ok(Some(Stored { run, version }))
    }

    async fn create(&self, run: &Run) -> Result<Commit, PortError> {
        let what = format!("create run {}", run.id);
        let put = self
            .put_run(&what, run, 1)?
            .condition_expression("attribute_not_exists(pk)");
        self.send(&what, put, 1).await
    }

    async fn commit(&self, run: &Run, version: u64) -> Result<Commit, PortError> {
        let what = format!("commit run {}", run.id);
        let next = version.saturating_add(1);
        let put = self
            .put_run(&what, run, next)?
            .condition_expression("#version = :expected")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":expected", AttributeValue::N(version.to_string()));
        self.send(&what, put, next).await
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, PortError> {
        let what = "list runs";
        let wanted = [
            ("workflow", "#workflow", ":workflow", &filter.workflow),
            ("status", "#status", ":status", &filter.status),
        ];
        let filtered = wanted.iter().any(|(.., value)| value.is_some());
        let mut found = Vec::new();
        let mut from = None;
        while found.len() < filter.limit {
            let missing = filter.limit - found.len();
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
                .key_condition_expression("runs_pk = :runs")
                .expression_attribute_values(":runs", AttributeValue::S("RUNS".to_owned()))
                .projection_expression("summary")
                .scan_index_forward(false)
                .limit(i32::try_from(page).unwrap_or(i32::MAX))
                .set_exclusive_start_key(from);
            let mut conditions = Vec::new();
            for (name, alias, placeholder, value) in &wanted {
                if let Some(value) = value {
                    conditions.push(format!("{alias} = {placeholder}"));
                    query = query
                        .expression_attribute_names(*alias, *name)
                        .expression_attribute_values(
                            *placeholder,
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
            for item in output.items.unwrap_or_default() {
                let summary = serde_json::from_str(text(what, &item, "summary")?)
                    .map_err(|error| PortError::new(what, format!("an item's summary: {error}")))?;
                found.push(summary);
            }
            from = output.last_evaluated_key.filter(|key| !key.is_empty());
            if from.is_none() {
                break;
            }
        }
        found.truncate(filter.limit);
        Ok(found)
    }

    async fn seen(&self, delivery: &str) -> Result<bool, PortError> {
        let what = "look up a delivery";
        let Some(item) = self.item(what, delivery_key(delivery), "SEEN").await? else {
            return Ok(false);
        };
        Ok(time(what, &item, "until")? > self.clock.now())
    }

    async fn mark_seen(&self, delivery: &str, expires: Timestamp) -> Result<(), PortError> {
        // DynamoDB removes what has expired by its whole second; `until` is
        // what `seen` goes by.
        let expires_second = expires.as_second().saturating_add(1);
        self.client
            .put_item()
            .table_name(&self.table)
            .item("pk", AttributeValue::S(delivery_key(delivery)))
            .item("sk", AttributeValue::S("SEEN".to_owned()))
            .item("until", AttributeValue::S(expires.to_string()))
            .item("expires", AttributeValue::N(expires_second.to_string()))
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

fn run_key(id: &RunId) -> String {
    format!("RUN#{id}")
}

fn delivery_key(delivery: &str) -> String {
    if delivery.len() > MAX_DELIVERY_BYTES {
        format!("SEEN#sha256:{}", sha256_hex(delivery.as_bytes()))
    } else {
        format!("SEEN#{delivery}")
    }
}

fn mark_key(name: &str) -> String {
    format!("MARK#{name}")
}

/// Sorts by creation: RFC 3339 with always nine digits after the second, as a
/// shorter fraction would sort behind a longer one.
fn age_key(run: &Run) -> String {
    format!("{:.9}#{}", run.created_at, run.id)
}

/// The bytes that DynamoDB counts for a value of the kinds written here.
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        _ => 0,
    }
}

fn text<'a>(
    what: &str,
    item: &'a HashMap<String, AttributeValue>,
    name: &str,
) -> Result<&'a str, PortError> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
        .ok_or_else(|| PortError::new(what, format!("an item has no text attribute `{name}`")))
}

fn time(
    what: &str,
    item: &HashMap<String, AttributeValue>,
    name: &str,
) -> Result<Timestamp, PortError> {
    text(what, item, name)?
        .parse()
        .map_err(|error| PortError::new(what, format!("an item's `{name}`: {error}")))
}
