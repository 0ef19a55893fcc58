//! Size of each function's binary, and how long its first and its later invocations
//! take on the emulator. The functions that read queues are given an empty batch,
//! those with a URL a path that leads nowhere: what is measured is the start of the
//! process and the way in and out, not the work.

use super::{call, median, ms, print_table, unexpected};
use crate::dist::{self, Arch, FUNCTIONS};
use crate::emulator::Emulator;
use crate::error::Error;
use crate::tools;
use crate::workspace::Workspace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_contract::manifest::{Lineage, Manifest, Registry, SCHEMA_VERSION};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

const COLD_SAMPLES: usize = 7;
const WARM_SAMPLES: usize = 50;
const BUCKET: &str = "bench";
const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let folder = dist::build(workspace, &tools, Arch::X86_64, None)?;
    tools.unlock(workspace)?;
    let emulator = Emulator::start(workspace, &tools)?;
    let environment = environment(&emulator, &store_manifest(&emulator)?);
    let mut rows = Vec::new();
    for function in FUNCTIONS {
        let zip = folder.join(format!("{function}.zip"));
        let (cold, warm) = invoke_times(&emulator, function, &zip, &environment)?;
        rows.push(vec![
            function.to_owned(),
            mb(unpacked_size(&zip)?),
            mb(std::fs::metadata(&zip).map_err(Error::file(&zip))?.len()),
            ms(cold),
            ms(warm),
        ]);
    }
    print_table(
        &format!(
            "functions, x86_64, median of {COLD_SAMPLES} first and {WARM_SAMPLES} later \
             invocations on the emulator"
        ),
        &["function", "bootstrap", "zip", "cold", "warm"],
        &rows,
    );
    Ok(())
}

/// Puts the manifest of an empty project where the functions look for it, and gives
/// its hash.
fn store_manifest(emulator: &Emulator) -> Result<String, Error> {
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        loopy_version: env!("CARGO_PKG_VERSION").to_owned(),
        hash: String::new(),
        registry: Registry::default(),
        workflows: BTreeMap::new(),
        sensors: Vec::new(),
        lineage: Lineage::default(),
        skills: BTreeMap::new(),
        sensor_files: BTreeMap::new(),
        sensor_modules: BTreeMap::new(),
    }
    .seal();
    let bucket = format!("/{BUCKET}");
    let key = format!("{bucket}/manifests/{}.json", manifest.hash);
    let location = b"<CreateBucketConfiguration><LocationConstraint>eu-west-1\
        </LocationConstraint></CreateBucketConfiguration>";
    let body = manifest.to_json();
    call(emulator, "s3", "PUT", &bucket, &[], location)?;
    call(emulator, "s3", "PUT", &key, &[], body.as_bytes())?;
    Ok(manifest.hash)
}

/// All that any function asks for when it starts.
fn environment(emulator: &Emulator, manifest: &str) -> Value {
    let queue = |name: &str| format!("{}/000000000000/{name}", emulator.endpoint());
    let arn = |rest: &str| format!("arn:aws:{rest}");
    let mut variables = BTreeMap::from([
        ("LOOPY_TABLE", "bench".to_owned()),
        ("LOOPY_ASSETS_BUCKET", BUCKET.to_owned()),
        ("LOOPY_STATE_BUCKET", BUCKET.to_owned()),
        ("LOOPY_WATCH_FUNCTION", "bench-watch".to_owned()),
        ("LOOPY_MANIFEST", manifest.to_owned()),
        ("LOOPY_RUNNER", "0".repeat(64)),
        ("LOOPY_BUS", "bench".to_owned()),
        ("LOOPY_SCHEDULE_GROUP", "bench".to_owned()),
        ("LOOPY_SCHEDULE_ROLE", arn("iam::000000000000:role/bench")),
        (
            "LOOPY_SCHEDULE_DLQ_ARN",
            arn("sqs:eu-west-1:000000000000:dead"),
        ),
        (
            "LOOPY_WATCH_QUEUE_ARN",
            arn("sqs:eu-west-1:000000000000:watch"),
        ),
        ("LOOPY_REPORT_URL", emulator.endpoint()),
        (
            "LOOPY_TOKEN_KEY_SECRET",
            arn("secretsmanager:eu-west-1:000000000000:secret:bench"),
        ),
        ("LOOPY_WEBHOOK_SECRET", String::new()),
        ("LOOPY_SANDBOX_SECRET", String::new()),
        ("LOOPY_GITHUB_SECRET", String::new()),
        ("LOOPY_ENGINE_SECRET", String::new()),
        ("LOOPY_SENSOR_PYTHON", String::new()),
    ]);
    for (queue_name, dead_letters, name) in [
        (
            "LOOPY_QUEUE_DELIVERIES",
            "LOOPY_DLQ_DELIVERIES",
            "deliveries",
        ),
        ("LOOPY_QUEUE_EVENTS", "LOOPY_DLQ_EVENTS", "events"),
        ("LOOPY_QUEUE_STEPS", "LOOPY_DLQ_STEPS", "steps"),
        ("LOOPY_QUEUE_WATCH", "LOOPY_DLQ_WATCH", "watch"),
    ] {
        variables.insert(queue_name, queue(name));
        variables.insert(dead_letters, queue(&format!("{name}-dead")));
    }
    json!({ "Variables": variables })
}

/// What a function is invoked with, and what it must answer.
fn payload(function: &str) -> (Value, Value) {
    if !matches!(function, "webhook" | "report") {
        return (json!({ "Records": [] }), json!({ "batchItemFailures": [] }));
    }
    let request = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/nowhere",
        "rawQueryString": "",
        "headers": { "host": "localhost" },
        "isBase64Encoded": false,
        "body": "{}",
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "bench",
            "domainName": "localhost",
            "domainPrefix": "bench",
            "requestId": "bench",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000_u64,
            "http": {
                "method": "POST",
                "path": "/nowhere",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "bench",
            },
        },
    });
    (request, json!({ "statusCode": 404 }))
}

/// The medians of the first and of the later invocations.
fn invoke_times(
    emulator: &Emulator,
    function: &str,
    zip: &Path,
    environment: &Value,
) -> Result<(Duration, Duration), Error> {
    let code = STANDARD.encode(std::fs::read(zip).map_err(Error::file(zip))?);
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    for sample in 0..COLD_SAMPLES {
        // A function of its own for each, because a worker once started stays.
        let name = format!("{function}-{sample}");
        let body = json!({
            "FunctionName": name,
            "Runtime": "provided.al2023",
            "Handler": "bootstrap",
            "Role": "arn:aws:iam::000000000000:role/bench",
            "Timeout": 30,
            "MemorySize": 256,
            "Environment": environment,
            "Code": { "ZipFile": code },
        });
        let path = "/2015-03-31/functions";
        call(
            emulator,
            "lambda",
            "POST",
            path,
            &JSON,
            body.to_string().as_bytes(),
        )?;
        cold.push(invoke_time(emulator, function, &name)?);
        if sample == 0 {
            for _ in 0..WARM_SAMPLES {
                warm.push(invoke_time(emulator, function, &name)?);
            }
        }
    }
    Ok((median(cold), median(warm)))
}

/// The time of one invocation that does what it should.
pub(super) fn invoke_time(
    emulator: &Emulator,
    function: &str,
    name: &str,
) -> Result<Duration, Error> {
    let path = format!("/2015-03-31/functions/{name}/invocations");
    let (payload, expected) = payload(function);
    let payload = payload.to_string();
    let begin = Instant::now();
    let response = call(emulator, "lambda", "POST", &path, &JSON, payload.as_bytes())?;
    let elapsed = begin.elapsed();
    // A function that failed still answers 200; its time would say nothing.
    let answer: Value = serde_json::from_slice(&response.body)?;
    let as_expected = match (answer.as_object(), expected.as_object()) {
        (Some(answer), Some(expected)) => expected
            .iter()
            .all(|(key, value)| answer.get(key) == Some(value)),
        _ => false,
    };
    if as_expected && response.header("x-amz-function-error").is_none() {
        return Ok(elapsed);
    }
    Err(unexpected(
        &format!("{}{path}", emulator.endpoint()),
        &response,
    ))
}

fn unpacked_size(path: &Path) -> Result<u64, Error> {
    let failed = |source| Error::Zip {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(Error::file(path))?;
    let mut zip = zip::ZipArchive::new(file).map_err(failed)?;
    let entry = zip.by_name("bootstrap").map_err(failed)?;
    Ok(entry.size())
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1_000_000.0)
}
