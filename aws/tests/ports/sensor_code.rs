//! Python sensors in a Lambda function, called through the real host program.
#![expect(clippy::unwrap_used, reason = "tests")]

use crate::account::Account;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{FunctionCode, Runtime};
use loopy_aws::LambdaSensorCode;
use loopy_aws::env::var;
use loopy_contract::manifest::{
    Contract, Lineage, Manifest, Registry, SCHEMA_VERSION, Sensor, SensorSource, SensorTrigger,
};
use loopy_engine::ports::{Sensed, SensorCall, SensorCode, SensorError};
use loopy_sensors::PYTHON_HOST;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};

const HOOKS: &str = r#"
import os
from loopy.events import Ticked

def two(tick):
    return [Ticked(note="one"), {"note": "two"}]

def broken(tick):
    raise ValueError("no luck")

def leaves(tick):
    os._exit(3)
"#;

fn sensor(function: &str) -> Sensor {
    Sensor {
        name: function.to_owned(),
        trigger: SensorTrigger::Poll {
            interval: "5m".to_owned(),
            on_change: false,
        },
        emits: "Ticked".to_owned(),
        source: SensorSource::Module,
        provider: None,
        mapping: None,
        module: Some("sensors.hooks".to_owned()),
        function: Some(function.to_owned()),
    }
}

fn manifest() -> Manifest {
    let mut registry = Registry::default();
    let fields = BTreeMap::from([("note".to_owned(), json!({"type": "string"}))]);
    let contract = Contract {
        fields,
        ..Contract::default()
    };
    registry.events.insert("Ticked".to_owned(), contract);
    Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        loopy_version: "0".to_owned(),
        hash: String::new(),
        registry,
        workflows: BTreeMap::new(),
        sensors: Vec::new(),
        lineage: Lineage::default(),
        skills: BTreeMap::new(),
        sensor_files: BTreeMap::new(),
        sensor_modules: BTreeMap::new(),
    }
    .seal()
}

fn tick() -> SensorCall {
    SensorCall::Tick {
        scheduled_at: "2026-01-01T00:05:00Z".parse().unwrap(),
        last_run: "2026-01-01T00:00:00Z".parse().unwrap(),
        snapshot: Vec::new(),
    }
}

fn zip(files: &[(&str, &str)]) -> Blob {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        archive
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    Blob::new(archive.finish().unwrap().into_inner())
}

async fn make_function(account: &mut Account, code: FunctionCode, handler: &str) {
    let client = aws_sdk_lambda::Client::new(&account.config);
    client
        .create_function()
        .function_name("sensors")
        .runtime(Runtime::Python312)
        .role(account.role_arn("sensors"))
        .handler(handler)
        .timeout(20)
        .code(code)
        .send()
        .await
        .unwrap();
    account.set(var::SENSOR_PYTHON, "sensors");
}

async fn call(account: &Account, function: &str) -> Result<Vec<Sensed>, SensorError> {
    let client = aws_sdk_lambda::Client::new(&account.config);
    LambdaSensorCode::new(client, account.shared_environment())
        .call(&manifest(), &sensor(function), &tick())
        .await
}

#[tokio::test]
async fn a_sensor_gives_back_its_events_or_its_error() {
    let mut account = Account::open().await;
    let files = [
        ("loopy_sensors.py", PYTHON_HOST),
        ("sensors/__init__.py", ""),
        ("sensors/hooks.py", HOOKS),
    ];
    let code = FunctionCode::builder().zip_file(zip(&files)).build();
    make_function(&mut account, code, "loopy_sensors.handler").await;

    let events = call(&account, "two").await.unwrap();
    let notes: Vec<_> = events
        .iter()
        .map(|event| (&*event.event, &event.fields["note"]))
        .collect();
    assert_eq!(
        notes,
        [("Ticked", &json!("one")), ("Ticked", &json!("two"))]
    );

    let error = call(&account, "broken").await.unwrap_err();
    assert!(matches!(error, SensorError::Raised { .. }), "{error}");
    assert!(error.to_string().contains("ValueError: no luck"), "{error}");

    let error = call(&account, "absent").await.unwrap_err();
    assert!(matches!(error, SensorError::Unloadable { .. }), "{error}");
    assert!(error.to_string().contains("absent"), "{error}");

    // The host cannot answer for a process that is gone; Lambda does.
    let error = call(&account, "leaves").await.unwrap_err();
    assert!(matches!(error, SensorError::Raised { .. }), "{error}");
}

#[tokio::test]
async fn a_function_that_is_no_host_is_not_taken_for_one() {
    let mut account = Account::open().await;
    let other = "def handler(event, context):\n    return {'statusCode': 200}\n";
    let code = FunctionCode::builder()
        .zip_file(zip(&[("other.py", other)]))
        .build();
    make_function(&mut account, code, "other.handler").await;
    let error = call(&account, "two").await.unwrap_err();
    assert!(matches!(error, SensorError::Trouble(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("did not answer as a sensor host does"),
        "{error}"
    );
}

#[tokio::test]
async fn a_function_that_is_not_there_is_trouble_by_name() {
    let mut account = Account::open().await;
    account.set(var::SENSOR_PYTHON, "sensors");
    let error = call(&account, "two").await.unwrap_err();
    assert!(matches!(error, SensorError::Trouble(_)), "{error}");
    assert!(
        error.to_string().contains("ResourceNotFoundException"),
        "{error}"
    );
    account.set(var::SENSOR_PYTHON, "");
    let error = call(&account, "two").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("deployed without Python sensors"),
        "{error}"
    );
}
