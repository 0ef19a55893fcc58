//! How sensor code is asked, in both homes: one JSON request, one JSON response. A
//! host program answers, as a Lambda function or as a worker that reads a request a
//! line and writes a response a line. Also the limits that hold for a call.

use crate::ports::{Sensed, SensorCall, SensorError};
use loopy_contract::manifest::{Manifest, Sensor, SensorSource, module_path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How long one call may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How much memory a host may take, with all the processes that its sensors start.
pub const MEMORY_LIMIT: u64 = 512 << 20;

/// The longest response of a host, in bytes: Lambda takes 6 MB.
pub const MAX_RESPONSE: usize = 6_000_000;

/// How many events one call may give. A function has 60 s, of which the call may take
/// 30; where the bus takes least, that is 400 events a second, so many take 12.5 s.
pub const MAX_EVENTS: usize = 5000;

/// The end of what a sensor wrote on stderr, or of its trace, says what went wrong; more
/// would not fit a log line. In characters.
pub const SAID: usize = 4000;

/// What sensor code is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// Python functions.
    Python,
    /// TypeScript functions, run as JavaScript by Node.js.
    Typescript,
    /// Shell scripts.
    Shell,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Typescript, Self::Shell];

    /// That of a sensor; none of one that comes with Loopy.
    pub fn of(sensor: &Sensor) -> Option<Self> {
        match sensor.source {
            SensorSource::Module => Some(Self::Python),
            SensorSource::Typescript => Some(Self::Typescript),
            SensorSource::Shell => Some(Self::Shell),
            SensorSource::Builtin => None,
        }
    }

    /// Whether the project has a sensor in it.
    pub fn is_in(self, manifest: &Manifest) -> bool {
        let mut sensors = manifest.sensors.iter();
        sensors.any(|sensor| Self::of(sensor) == Some(self))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Typescript => "TypeScript",
            Self::Shell => "shell",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the code of one sensor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The sensor's name, for messages.
    pub sensor: String,
    /// A dotted module (`sensors.hooks`) in Python, else a path from the project's root.
    pub module: String,
    /// The function in it; a script has none.
    #[serde(default)]
    pub function: Option<String>,
}

impl Code {
    /// That of a sensor; none of one that comes with Loopy.
    pub fn of(sensor: &Sensor) -> Option<Self> {
        let module = sensor.module.as_ref()?;
        Some(Self {
            sensor: sensor.name.clone(),
            module: match Language::of(sensor)? {
                Language::Typescript => module_path(module),
                Language::Python | Language::Shell => module.clone(),
            },
            function: sensor.function.clone(),
        })
    }
}

/// What one call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLimits {
    /// Time, in milliseconds.
    pub time_ms: u64,
    /// Length of the response, in bytes.
    pub response_bytes: usize,
}

/// What a host is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each call, and sent"
)]
pub enum HostRequest {
    /// To call a sensor.
    Call {
        /// Which.
        #[serde(flatten)]
        code: Code,
        /// The event it declared; what a returned map is taken for.
        emits: String,
        /// Field names by event, from which a host makes what sensors import.
        events: BTreeMap<String, Vec<String>>,
        /// What woke it.
        call: SensorCall,
        /// What it may take.
        limits: CallLimits,
    },
    /// To load the code of sensors and call none.
    Load {
        /// Which.
        sensors: Vec<Code>,
        /// As of a call.
        events: BTreeMap<String, Vec<String>>,
    },
}

impl HostRequest {
    /// The request that calls a sensor; none for one that comes with Loopy.
    pub fn call(
        manifest: &Manifest,
        sensor: &Sensor,
        call: &SensorCall,
        time_limit: Duration,
    ) -> Option<Self> {
        Some(Self::Call {
            code: Code::of(sensor)?,
            emits: sensor.emits.clone(),
            events: events(manifest),
            call: call.clone(),
            limits: CallLimits {
                time_ms: u64::try_from(time_limit.as_millis()).unwrap_or(u64::MAX),
                response_bytes: MAX_RESPONSE,
            },
        })
    }

    /// The request that loads all sensors in one language.
    pub fn load(manifest: &Manifest, language: Language) -> Self {
        let sensors = manifest.sensors.iter();
        Self::Load {
            sensors: sensors
                .filter(|sensor| Language::of(sensor) == Some(language))
                .filter_map(Code::of)
                .collect(),
            events: events(manifest),
        }
    }

    /// For each sensor that this loads, the request that loads it alone.
    pub fn each(&self) -> Vec<(String, Self)> {
        let Self::Load { sensors, events } = self else {
            return Vec::new();
        };
        let alone = sensors.iter().map(|code| {
            let request = Self::Load {
                sensors: vec![code.clone()],
                events: events.clone(),
            };
            (code.sensor.clone(), request)
        });
        alone.collect()
    }
}

fn events(manifest: &Manifest) -> BTreeMap<String, Vec<String>> {
    let events = manifest.registry.events.iter();
    events
        .map(|(name, contract)| (name.clone(), contract.fields.keys().cloned().collect()))
        .collect()
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostResponse {
    /// Every event the sensor gave back, in order.
    Events(Vec<Sensed>),
    /// It raised or broke a rule; the text says which, or is the end of the trace.
    Error(String),
    /// Its code cannot be loaded; why.
    Unloadable(String),
    /// The sensors that cannot be loaded, with why; the others can.
    Loaded(BTreeMap<String, String>),
}

impl HostResponse {
    /// The events that a call of `sensor` gave.
    ///
    /// # Errors
    /// What came instead.
    pub fn events(self, sensor: &str) -> Result<Vec<Sensed>, SensorError> {
        let sensor = sensor.to_owned();
        match self {
            Self::Events(events) => Ok(events),
            Self::Error(message) => Err(SensorError::Raised { sensor, message }),
            Self::Unloadable(reason) => Err(SensorError::Unloadable { sensor, reason }),
            Self::Loaded(_) => Err(SensorError::Raised {
                sensor,
                message: "its host loaded it where it should have called it".to_owned(),
            }),
        }
    }
}

/// The end of a text: at most [`SAID`] characters.
pub fn end_of(text: &str) -> &str {
    let text = text.trim();
    let start = text.char_indices().rev().nth(SAID - 1);
    text.get(start.map_or(0, |(at, _)| at)..).unwrap_or(text)
}

/// What is said of a call that took too long.
pub fn took_too_long(limit: Duration) -> String {
    format!("it did not come back within {} s", limit.as_secs_f64())
}
