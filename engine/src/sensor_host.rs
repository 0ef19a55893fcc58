//! How Python sensor code is called, in both homes: one JSON request, one JSON
//! response. [`PYTHON_HOST`] is the program that answers; as a Lambda function
//! its handler is `loopy_sensors.handler`, on one machine it is a worker that
//! reads a request a line from stdin and writes a response a line to stdout.

use crate::ports::{Sensed, SensorCall};
use loopy_contract::manifest::{Manifest, Sensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The host program, `loopy_sensors.py`.
pub const PYTHON_HOST: &str = include_str!("../python/loopy_sensors.py");

/// A call of one sensor function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRequest {
    /// The sensor's name, for messages.
    pub sensor: String,
    /// Dotted module, `sensors.hooks`.
    pub module: String,
    /// The function in it.
    pub function: String,
    /// The event it declared; what a returned map is taken for.
    pub emits: String,
    /// Field names by event, from which the host makes `loopy.events`.
    pub events: BTreeMap<String, Vec<String>>,
    /// What woke it.
    pub call: SensorCall,
}

impl HostRequest {
    /// The request for a `module` sensor; `None` for sensors without Python code.
    pub fn new(manifest: &Manifest, sensor: &Sensor, call: &SensorCall) -> Option<Self> {
        Some(Self {
            sensor: sensor.name.clone(),
            module: sensor.module.clone()?,
            function: sensor.function.clone()?,
            emits: sensor.emits.clone(),
            events: manifest
                .registry
                .events
                .iter()
                .map(|(name, contract)| (name.clone(), contract.fields.keys().cloned().collect()))
                .collect(),
            call: call.clone(),
        })
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostResponse {
    /// Every event the function gave back, in order.
    Events(Vec<Sensed>),
    /// It raised, or its module cannot be loaded; the end of the trace.
    Error(String),
}
