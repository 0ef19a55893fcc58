//! The manifest: what a project means, with nothing left to look up. JSON with
//! sorted keys, no time stamp, the same bytes for the same project; it names
//! skills and sensor code by content hash and carries its own hash.

use crate::expression::Condition;
use crate::failure::FailureClass;
use crate::ids::{Hasher, ManifestHash};
use crate::mapping::Mapping;
use crate::price::Price;
use crate::sorted::{Sorted, SortedEntries};
use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufWriter};

/// The version of the shape below. A reader refuses any other.
pub const SCHEMA_VERSION: &str = "3";

/// A compiled project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: String,
    /// The version of the compiler that wrote it.
    pub loopy_version: String,
    /// Hex SHA-256 of the manifest's JSON without this field.
    #[serde(default)]
    pub hash: String,
    /// What `registry.yml` declares, with inheritance resolved.
    pub registry: Registry,
    /// Workflows by name.
    pub workflows: BTreeMap<String, Workflow>,
    /// Sensors, sorted by name.
    pub sensors: Vec<Sensor>,
    /// Who produces and consumes each event.
    pub lineage: Lineage,
    /// Skills by name: the files of each, by path inside the skill.
    pub skills: BTreeMap<String, BTreeMap<String, FileHash>>,
    /// Sensor code: project path to content hash.
    pub sensor_files: BTreeMap<String, FileHash>,
    /// The JavaScript of its TypeScript sensors, by the path it is run under
    /// ([`module_path`]), to content hash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sensor_modules: BTreeMap<String, FileHash>,
}

/// Hex SHA-256 of a file's bytes.
pub type FileHash = String;

/// The path that the JavaScript of a TypeScript or JavaScript file is run under, beside
/// the file itself: no two files share one, and Node.js takes it for a module.
pub fn module_path(path: &str) -> String {
    format!("{path}.mjs")
}

/// The manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this shape.
    #[error("this is not a manifest: {0}")]
    Shape(#[from] serde_json::Error),
    /// Written by a compiler with another schema version.
    #[error(
        "the manifest has schema version {found}, this build reads {SCHEMA_VERSION}; compile the project again"
    )]
    Version {
        /// The version it carries.
        found: String,
    },
    /// The content is not what its hash says.
    #[error(
        "the manifest carries hash {carried}, but its content has {actual}; compile the project again"
    )]
    Hash {
        /// The hash in the file.
        carried: String,
        /// The hash of the content.
        actual: String,
    },
}

impl Manifest {
    /// The hash of the content: SHA-256 over the JSON with `hash` left empty.
    pub fn content_hash(&self) -> ManifestHash {
        let mut hasher = BufWriter::with_capacity(1 << 14, Hasher::default());
        self.write(&mut hasher, "");
        ManifestHash(hasher.into_inner().map(Hasher::hex).unwrap_or_default())
    }

    /// Gives the manifest its hash.
    pub fn seal(mut self) -> Self {
        self.hash = self.content_hash().0;
        self
    }

    /// The bytes that `loopy compile` writes: two-space indent, sorted keys, a
    /// final newline.
    pub fn to_json(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text, &self.hash);
        text.push(b'\n');
        String::from_utf8(text).unwrap_or_default()
    }

    fn write(&self, writer: impl io::Write, hash: &str) {
        // Memory and a hasher take all that is written, and manifests hold only
        // JSON values, so this cannot fail.
        let mut serializer = serde_json::Serializer::pretty(writer);
        let _ = self.write_sorted(&mut serializer, hash);
    }

    /// The fields in sorted order, like the keys below them.
    fn write_sorted<S: Serializer>(&self, serializer: S, hash: &str) -> Result<S::Ok, S::Error> {
        let Self {
            schema_version,
            loopy_version,
            hash: _,
            registry,
            workflows,
            sensors,
            lineage,
            skills,
            sensor_files,
            sensor_modules,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("hash", hash)?;
        map.serialize_entry("lineage", &Sorted(lineage))?;
        map.serialize_entry("loopy_version", loopy_version)?;
        map.serialize_entry("registry", &Sorted(registry))?;
        map.serialize_entry("schema_version", schema_version)?;
        map.serialize_entry("sensor_files", sensor_files)?;
        if !sensor_modules.is_empty() {
            map.serialize_entry("sensor_modules", sensor_modules)?;
        }
        map.serialize_entry("sensors", &Sorted(sensors))?;
        map.serialize_entry("skills", skills)?;
        map.serialize_entry("workflows", &SortedEntries(workflows))?;
        map.end()
    }

    /// Reads a manifest and checks version and hash.
    ///
    /// # Errors
    /// [`ManifestError`] says which of the three checks failed.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        let value: Value = serde_json::from_slice(bytes)?;
        let version = value
            .get("schema_version")
            .and_then(Value::as_str)
            .unwrap_or("none");
        if version != SCHEMA_VERSION {
            return Err(ManifestError::Version {
                found: version.to_owned(),
            });
        }
        let manifest: Self = serde_json::from_value(value)?;
        let actual = manifest.content_hash();
        if manifest.hash != actual.0 {
            return Err(ManifestError::Hash {
                carried: manifest.hash,
                actual: actual.0,
            });
        }
        Ok(manifest)
    }

    /// The manifest's own hash, as an id.
    pub fn id(&self) -> ManifestHash {
        ManifestHash(self.hash.clone())
    }

    /// The workflows that `event` starts, by name.
    pub fn subscribers(&self, event: &str) -> Vec<&str> {
        self.workflows
            .iter()
            .filter(|(_, workflow)| {
                matches!(workflow.entry_trigger(), Some(Trigger::Event { event: on, .. }) if on == event)
            })
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// What `registry.yml` declares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Registry {
    /// Sandboxes by name.
    pub sandboxes: BTreeMap<String, Sandbox>,
    /// Agents by name, defaults merged in.
    pub agents: BTreeMap<String, Agent>,
    /// Event contracts by name, used built-ins included.
    pub events: BTreeMap<String, Contract>,
    /// Caps on dollars and runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What models cost, by the model's id; counts before Loopy's own table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, Price>,
}

/// Where an agent works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// `local`, `docker`, `daytona` or `fargate`.
    pub provider: String,
    /// How the image is made; the keys are the provider's.
    pub image: BTreeMap<String, Value>,
    /// Hosts the sandbox may reach; empty means no restriction was asked for.
    pub network: Vec<String>,
    /// Files with environment variables, relative to the project root. Only
    /// the paths are here; the values never enter the manifest.
    pub env_file: Vec<String>,
    /// Repositories cloned into the workspace.
    pub repos: Vec<Repo>,
    /// Where the keys of model APIs among its environment are.
    #[serde(default, skip_serializing_if = "ModelKeys::are_in_the_sandbox")]
    pub model_keys: ModelKeys,
}

/// Where the keys of model APIs are while an agent works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKeys {
    /// In the sandbox, with its other variables.
    #[default]
    Sandbox,
    /// With the engine: a proxy adds them to requests, and counts what these use.
    Proxy,
}

impl ModelKeys {
    /// All of them by the names that `registry.yml` has for them.
    pub const ALL: [(&str, Self); 2] = [("sandbox", Self::Sandbox), ("proxy", Self::Proxy)];

    /// Whether they are with its other variables.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    fn are_in_the_sandbox(&self) -> bool {
        *self == Self::Sandbox
    }
}

/// A repository to clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Repo {
    /// A clone URL, or `owner/name` on GitHub.
    pub url: String,
    /// Branch, tag or commit.
    pub r#ref: Option<String>,
    /// Where in the workspace; the repository's name when absent.
    pub path: Option<String>,
    /// Commits of history; `null` is all of it.
    pub depth: Option<u32>,
}

impl Repo {
    /// Its `owner/name`, when it is on GitHub.
    pub fn on_github(&self) -> Option<String> {
        let url = self.url.trim_end_matches('/');
        let path = url.strip_prefix("https://github.com/").unwrap_or(url);
        let path = path.strip_suffix(".git").unwrap_or(path);
        let (owner, name) = path.split_once('/')?;
        let fits = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        (fits(owner) && fits(name)).then(|| format!("{owner}/{name}"))
    }
}

/// Who does a step's work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// What drives the work.
    pub harness: Harness,
    /// The model's id as authored; none for `command`.
    pub model: Option<String>,
    /// The sandbox's name.
    pub sandbox: Option<String>,
    /// Names of skills.
    pub skills: Vec<String>,
    /// Tools the agent may use; empty means all that the harness has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

/// What drives a step's work inside the sandbox.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Harness {
    /// Anthropic's Claude Code.
    ClaudeCode,
    /// OpenAI's Codex.
    Codex,
    /// opencode.
    Opencode,
    /// The step's body is a shell script.
    Command,
    /// The built-in agent loop.
    Loop,
}

impl Harness {
    /// Whether it learns from its tool what its work cost.
    pub fn names_dollars(self) -> bool {
        matches!(self, Self::ClaudeCode | Self::Command)
    }

    /// All of them, in the order the documentation lists them.
    pub const ALL: [Self; 5] = [
        Self::ClaudeCode,
        Self::Codex,
        Self::Opencode,
        Self::Command,
        Self::Loop,
    ];

    /// The name as written in a project.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Command => "command",
            Self::Loop => "loop",
        }
    }

    /// The harness with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|harness| harness.name() == name)
    }
}

impl fmt::Display for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declared fields: of an event, or of a step's output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contract {
    /// Field name to JSON Schema.
    pub fields: BTreeMap<String, Value>,
    /// The fields that may be absent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub optional: BTreeSet<String>,
}

/// Caps on what the project may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Dollars for everything one outside event sets off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cascade_spend: Option<Usd>,
    /// Runs that one outside event may set off, the first one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cascade_runs: Option<u32>,
    /// For one day in UTC, over all workflows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<Cap>,
    /// By workflow: dollars for one run of it, and how many runs of it one
    /// cascade may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workflows: BTreeMap<String, Cap>,
}

/// A cap on dollars, on runs, or on both; never on neither.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cap {
    /// Dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<Usd>,
    /// Runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u32>,
}

/// An amount of US dollars.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usd {
    /// Dollars.
    pub usd: f64,
}

/// Steps wired by `after`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workflow {
    /// The step with the trigger.
    pub entry: Option<String>,
    /// Steps by name.
    pub steps: BTreeMap<String, Step>,
}

impl Workflow {
    /// What starts the workflow.
    pub fn entry_trigger(&self) -> Option<&Trigger> {
        self.steps.get(self.entry.as_ref()?)?.trigger.as_ref()
    }
}

/// One Markdown file under `workflows/<workflow>/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// `<workflow>/<step>`.
    pub id: String,
    /// What starts it; only the entry step has one.
    pub trigger: Option<Trigger>,
    /// The steps whose success it waits for.
    pub after: Vec<String>,
    /// The agent's name.
    pub agent: Option<String>,
    /// Declared output fields: name to JSON Schema.
    pub output: BTreeMap<String, Value>,
    /// The output fields that may be absent.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub output_optional: BTreeSet<String>,
    /// The files of steps before it that it finds in its workspace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FilesRef>,
    /// The files of its own workspace that are kept for steps behind it, as paths
    /// and patterns; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<String>,
    /// Events it emits when it succeeds.
    pub emits: Vec<String>,
    /// Of those, the ones it emits only when a condition holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub emits_when: BTreeMap<String, Condition>,
    /// Without it the step is skipped, which makes its outputs absent. A step
    /// that reads one of them has a condition that then fails, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// One sandbox an item of a list. To its readers, each output of the step
    /// is then a list with one value an item, in the order of the items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<Each>,
    /// Further attempts after a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What a person has to agree to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<Approve>,
    /// How many of it may work at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Goes back to an earlier step until a condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#loop: Option<Loop>,
    /// Its limits.
    pub budget: Option<Budget>,
    /// The prompt, or the script of a `command` step.
    pub body: String,
    /// The references in the body, in order.
    pub refs: Vec<Ref>,
}

impl Step {
    /// The declared output as a contract.
    pub fn output_contract(&self) -> Contract {
        Contract {
            fields: self.output.clone(),
            optional: self.output_optional.clone(),
        }
    }
}

/// What starts a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trigger {
    /// A registered event.
    Event {
        /// Its name.
        event: String,
        /// Events without it start nothing. It reads only `event`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        when: Option<Condition>,
        /// Seconds without another such event before the last one starts a run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        debounce: Option<u64>,
    },
    /// A schedule in unix cron's five fields.
    Cron {
        /// The five fields.
        expr: String,
        /// IANA zone; UTC when absent.
        tz: Option<String>,
        /// What happens to firings that were missed.
        #[serde(default, skip_serializing_if = "CatchUp::is_skip")]
        catch_up: CatchUp,
    },
}

/// What happens to the firings of a schedule that were missed, because nothing
/// served the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing.
    #[default]
    Skip,
    /// The last of them fires, once.
    Once,
}

impl CatchUp {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    fn is_skip(&self) -> bool {
        *self == Self::Skip
    }
}

/// One sandbox an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Each {
    /// The list.
    pub over: FieldRef,
    /// What the body calls an item: `{{ name }}`, `{{ name.field }}`.
    pub name: String,
}

/// A `producer.field` outside a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldRef {
    /// `event`, or a step named in `after`.
    pub producer: String,
    /// A declared field of it. Empty for the producer as a whole, which only a
    /// step with `each` is: the list of its outputs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// Files of another step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct FilesRef {
    /// A step named in `after`.
    pub step: String,
    /// Which of the files below its workspace, as a path or pattern: `dist/**`.
    pub path: String,
}

/// Further attempts after a failed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retry {
    /// How many, above 0.
    pub max: u32,
    /// Seconds before the first of them; doubled before each further one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<u64>,
    /// The failures that are tried again.
    pub on: BTreeSet<FailureClass>,
}

/// What a person has to agree to. At least one of `before` and `after` is true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approve {
    /// That the step starts.
    pub before: bool,
    /// That its output counts.
    pub after: bool,
    /// Seconds until `otherwise` is the answer; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// The answer when nobody gave one in time.
    pub otherwise: Answer,
}

/// What is decided about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The run is denied.
    Deny,
    /// The step goes on.
    Approve,
}

/// How many attempts of a step may work at once, over all runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Concurrency {
    /// Counted by this value; all together when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<FieldRef>,
    /// How many, above 0.
    pub limit: u32,
    /// What happens to one too many.
    pub strategy: Strategy,
}

/// What happens to a step that is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// It waits for its turn.
    Queue,
    /// The oldest one that works is cancelled for it.
    CancelRunning,
    /// It is dropped.
    Drop,
}

/// Goes back to an earlier step until a condition holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Loop {
    /// The step to go back to: this one, or one that it waits for.
    pub to: String,
    /// When to go on instead.
    pub until: Condition,
    /// How often to go back at most, above 0.
    pub max: u32,
}

/// Limits of one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// Minutes for one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_clock: Option<i64>,
    /// Dollars for one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<BTreeMap<String, Value>>,
    /// Days; recorded only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Days; recorded only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<i64>,
    /// Model tokens for one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Model turns for one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u32>,
}

impl Budget {
    /// The dollars one attempt may spend, if capped.
    pub fn usd(&self) -> Option<f64> {
        self.spend
            .as_ref()?
            .get("usd")?
            .as_f64()
            .filter(|usd| *usd > 0.0)
    }

    /// The seconds one attempt may take, if capped.
    pub fn wall_clock_seconds(&self) -> Option<u64> {
        u64::try_from(self.wall_clock?)
            .ok()
            .filter(|m| *m > 0)
            .map(|m| m.saturating_mul(60))
    }
}

/// A `{{ producer.field }}` or `{{ producer }}` in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ref {
    /// `event`, a step named in `after`, or the name that `each` gives an item.
    pub producer: String,
    /// A declared field of it. Empty for the producer as a whole: the item
    /// itself, or the list of outputs of a step with `each`.
    pub field: String,
    /// The text in the body, braces included.
    pub raw: String,
}

/// What turns the outside world into events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sensor {
    /// Unique in the project.
    pub name: String,
    /// What wakes it.
    pub trigger: SensorTrigger,
    /// The event it emits.
    pub emits: String,
    /// Where its code is.
    pub source: SensorSource,
    /// For a built-in: `github`, `sentry` and so on.
    #[serde(default)]
    pub provider: Option<String>,
    /// For a built-in: how its event is read from a delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Mapping>,
    /// Dotted module (`sensors.hooks`) of a Python sensor; the path of others.
    #[serde(default)]
    pub module: Option<String>,
    /// The function's name.
    #[serde(default, rename = "fn")]
    pub function: Option<String>,
}

/// What wakes a sensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SensorTrigger {
    /// `POST` to a path.
    Webhook {
        /// The path, with its leading `/`.
        path: String,
        /// How deliveries are verified.
        verify: Option<VerifyScheme>,
    },
    /// A period.
    Poll {
        /// `30s`, `5m`, `2h`, `1d`.
        interval: String,
        /// Whether an event is kept back that its last turn gave as well.
        #[serde(default, skip_serializing_if = "is_false")]
        on_change: bool,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a sensor is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SensorSource {
    /// A Python function of the project.
    Module,
    /// A TypeScript function of the project.
    Typescript,
    /// A shell script of the project.
    Shell,
    /// Comes with Loopy.
    Builtin,
}

/// How a webhook's deliveries are verified.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyScheme {
    /// `X-Hub-Signature-256`.
    Github,
    /// `Sentry-Hook-Signature`.
    Sentry,
    /// `X-Slack-Signature`.
    Slack,
    /// `Stripe-Signature`.
    Stripe,
    /// `Linear-Signature`.
    Linear,
    /// `X-PagerDuty-Signature`.
    Pagerduty,
    /// Standard Webhooks (`webhook-signature`).
    Standard,
    /// Opted out by name.
    None,
}

impl VerifyScheme {
    /// All of them, in the order the documentation lists them.
    pub const ALL: [Self; 8] = [
        Self::Github,
        Self::Sentry,
        Self::Slack,
        Self::Stripe,
        Self::Linear,
        Self::Pagerduty,
        Self::Standard,
        Self::None,
    ];

    /// The name as written in a project.
    pub fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Sentry => "sentry",
            Self::Slack => "slack",
            Self::Stripe => "stripe",
            Self::Linear => "linear",
            Self::Pagerduty => "pagerduty",
            Self::Standard => "standard",
            Self::None => "none",
        }
    }

    /// The scheme with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// The variable that holds the secret: `GITHUB_WEBHOOK_SECRET` and so on;
    /// none for [`Self::None`].
    pub fn secret_variable(self) -> Option<String> {
        (self != Self::None).then(|| format!("{}_WEBHOOK_SECRET", self.name().to_uppercase()))
    }
}

/// The variable that holds what `variable` held before, so that deliveries
/// signed with either are taken while a secret is changed:
/// `GITHUB_WEBHOOK_SECRET_PREVIOUS`.
pub fn previous_secret(variable: &str) -> String {
    format!("{variable}_PREVIOUS")
}

/// Who produces and consumes each event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lineage {
    /// Events with at least one producer or consumer.
    pub events: BTreeMap<String, EventLineage>,
}

/// Who produces and consumes one event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventLineage {
    /// Sensor names and step ids, sorted.
    pub producers: BTreeSet<String>,
    /// Step ids, sorted.
    pub consumers: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_on_github_are_told_from_others() {
        let name = |url: &str| {
            let repo = Repo {
                url: url.to_owned(),
                r#ref: None,
                path: None,
                depth: None,
            };
            repo.on_github()
        };
        for url in [
            "octo/hello.world",
            "https://github.com/octo/hello.world",
            "https://github.com/octo/hello.world.git",
            "https://github.com/octo/hello.world/",
        ] {
            assert_eq!(name(url).as_deref(), Some("octo/hello.world"), "{url}");
        }
        for url in [
            "https://gitlab.com/octo/hello",
            "git@github.com:octo/hello.git",
            "/srv/hello.git",
            "../hello",
            "https://github.com/octo",
            "octo/a/b",
            "octo/a?b",
        ] {
            assert_eq!(name(url), None, "{url}");
        }
    }
}
