//! A project that waits for every built-in event of a provider, as the compiler
//! makes it, and deliveries to read with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loopy_compiler::{Sources, catalogue, compile};
use loopy_contract::manifest::{Contract, Manifest, Sensor};
use loopy_contract::mapping::Mapping;
use loopy_engine::builtin;
use loopy_engine::ports::SensorCall;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The built-in events of a provider, out of a manifest.
pub(crate) struct Catalogue {
    pub(crate) events: BTreeMap<String, Event>,
}

/// A built-in event, out of a manifest.
pub(crate) struct Event {
    pub(crate) contract: Contract,
    sensor: Sensor,
}

impl Event {
    pub(crate) fn mapping(&self) -> &Mapping {
        self.sensor.mapping.as_ref().unwrap()
    }
}

impl Catalogue {
    /// The events whose names begin with `prefix`.
    pub(crate) fn of(prefix: &str) -> Self {
        let provider = catalogue::provider(prefix).unwrap();
        let mut sources = Sources::default();
        sources.insert(
            "registry.yml",
            "agents: { A: { harness: command, sandbox: B } }\nsandboxes: { B: { provider: local } }\n",
        );
        for (number, event) in provider.events().iter().enumerate() {
            let step = format!("---\non: {}\nagent: A\n---\ntrue\n", event.name);
            sources.insert(format!("workflows/w{number}/s.md"), step);
        }
        let compilation = compile(&sources);
        assert_eq!(compilation.diagnostics, []);
        // What is read back is what a home gets.
        let json = compilation.manifest.unwrap().to_json();
        let manifest = Manifest::from_json(json.as_bytes()).unwrap();
        let events = manifest.sensors.iter().map(|sensor| {
            let contract = manifest.registry.events[&sensor.emits].clone();
            let sensor = sensor.clone();
            (sensor.emits.clone(), Event { contract, sensor })
        });
        let events: BTreeMap<_, _> = events.collect();
        assert_eq!(events.len(), provider.events().len());
        Self { events }
    }

    /// What is read of the event, when the delivery is one.
    pub(crate) fn read(&self, name: &str, delivery: &Delivery) -> Option<Map<String, Value>> {
        let sensed = builtin::event(&self.events[name].sensor, &delivery.call()).unwrap()?;
        assert_eq!(sensed.event, name);
        Some(sensed.fields)
    }

    /// The events that a delivery is.
    pub(crate) fn matching(&self, delivery: &Delivery) -> BTreeSet<String> {
        let call = delivery.call();
        let events = self.events.iter();
        events
            .filter(|(_, event)| builtin::event(&event.sensor, &call).unwrap().is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// A delivery.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// The fields of a form, when it is one.
    pub(crate) form: Option<Vec<(String, String)>>,
}

impl Delivery {
    pub(crate) fn json(headers: BTreeMap<String, String>, body: Value) -> Self {
        Self {
            headers,
            body,
            form: None,
        }
    }

    /// One that is written down in a file of this folder.
    pub(crate) fn documented(of: &Documented) -> Self {
        let mut delivery = Self::json(of.headers.clone(), of.body.clone());
        if of.payload {
            delivery.form = Some(vec![("payload".to_owned(), of.body.to_string())]);
        } else if of.form {
            let fields = of.body.as_object().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            delivery.form = Some(
                fields
                    .map(|(name, value)| (name.clone(), text(value)))
                    .collect(),
            );
        }
        delivery
    }

    fn call(&self) -> SensorCall {
        let mut headers = self.headers.clone();
        let (kind, bytes) = match &self.form {
            None => ("application/json", self.body.to_string()),
            Some(fields) => (
                "application/x-www-form-urlencoded",
                form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(fields)
                    .finish(),
            ),
        };
        headers.insert("content-type".to_owned(), kind.to_owned());
        SensorCall::Request {
            method: "POST".to_owned(),
            path: "/hooks/some".to_owned(),
            query: String::new(),
            headers,
            body_base64: STANDARD.encode(bytes),
        }
    }
}

/// A delivery as the service's documentation shows it, and what it has to give.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Documented {
    pub(crate) events: BTreeSet<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// Whether the body's fields come as a form.
    #[serde(default)]
    form: bool,
    /// Whether the body comes in the field `payload` of a form.
    #[serde(default)]
    payload: bool,
    /// Fields by event, not all of them.
    pub(crate) fields: BTreeMap<String, Map<String, Value>>,
}

/// `pull_request` as `PullRequest`.
pub(crate) fn camel(name: &str) -> String {
    let words = name.split(['_', '.', '-']);
    words
        .map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]))
        .collect()
}
