//! A manifest and `template.yaml` to a stack: the template with what the
//! project adds, and the assets it points to. Pure; the same input gives the
//! same bytes.

pub(crate) mod fargate;
pub(crate) mod sensors;

use crate::packages::Packages;
use crate::schedule::{self, ScheduleError};
use crate::yaml::Node;
use loopy_contract::ids::{derive, sha256_hex};
use loopy_contract::manifest::{FileHash, Manifest, Sandbox, SensorTrigger, Trigger, VerifyScheme};
use loopy_engine::sensor_host::Language;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub use fargate::Image;

/// The fixed half of every stack.
const TEMPLATE: &str = include_str!("../../template.yaml");

/// The most resources that CloudFormation takes in one template.
pub const MAX_RESOURCES: usize = 500;

/// The functions that every stack has, by the names of their binaries.
pub const FUNCTIONS: [&str; 6] = ["webhook", "sensor", "start", "step", "report", "watch"];

/// The binary of the function that a stack with shell sensors has too.
pub const SHELL: &str = "shell";

/// All binaries of functions.
pub const BINARIES: [&str; 7] = [
    "webhook", "sensor", "start", "step", "report", "watch", SHELL,
];

/// The variables of a GitHub App; without one, sandboxes bring their own tokens.
pub const GITHUB_VARIABLES: [&str; 3] =
    ["GITHUB_APP_ID", "GITHUB_APP_PRIVATE_KEY", "GITHUB_API_URL"];

/// The variables of the engine's own credentials; the first is required.
pub const DAYTONA_VARIABLES: [&str; 3] = ["DAYTONA_API_KEY", "DAYTONA_API_URL", "DAYTONA_TARGET"];

/// What the functions' binaries are built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// Intel and AMD.
    #[default]
    X86_64,
    /// Graviton.
    Arm64,
}

impl Architecture {
    /// Lambda's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The built code of one version of Loopy.
#[derive(Clone)]
pub struct Binaries {
    /// What the functions are built for.
    pub architecture: Architecture,
    /// For each of [`BINARIES`], a zip that holds `bootstrap`.
    pub functions: BTreeMap<&'static str, Vec<u8>>,
    /// `loopy-runner`, for the sandboxes' machines.
    pub runner: Vec<u8>,
}

/// What goes into the assets bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct Asset {
    /// Its key, which holds its hash.
    pub key: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A stack, ready to be written to a folder or deployed.
#[derive(Clone)]
pub struct Stack {
    /// CloudFormation YAML. Its one parameter without a default is
    /// `AssetsBucket`.
    pub template: String,
    /// What has to be in that bucket, sorted by key, without the template.
    pub assets: Vec<Asset>,
    /// The template's parameters.
    pub parameters: Vec<String>,
    /// The secrets the stack has and the values they need.
    pub secrets: Needs,
    /// The images of its `fargate` sandboxes, sorted by tag.
    pub images: Vec<Image>,
}

/// The values that a project needs and that are in none of its compiled files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Webhook secret variables, by variable the sensors that need it.
    pub webhooks: BTreeMap<String, Vec<String>>,
    /// Sandboxes in use that have an `env_file`, with those files.
    pub sandboxes: BTreeMap<String, Vec<String>>,
    /// Whether a sandbox in use clones from GitHub.
    pub github: bool,
    /// Whether a sandbox in use is Daytona's.
    pub daytona: bool,
    /// Whether the sensors have an environment of their own.
    pub sensors: bool,
}

impl Needs {
    /// What the manifest says; `sensor_env` says whether there is a
    /// `sensors/.env`, which the manifest does not know.
    pub fn of(manifest: &Manifest, sensor_env: bool) -> Self {
        let mut needs = Self {
            sensors: sensor_env && Language::ALL.iter().any(|one| one.is_in(manifest)),
            ..Self::default()
        };
        for sensor in &manifest.sensors {
            if let SensorTrigger::Webhook { verify, .. } = &sensor.trigger
                && let Some(variable) = verify.and_then(VerifyScheme::secret_variable)
            {
                needs
                    .webhooks
                    .entry(variable)
                    .or_default()
                    .push(sensor.name.clone());
            }
        }
        for (name, sandbox) in used_sandboxes(manifest) {
            needs.daytona |= sandbox.provider == "daytona";
            needs.github |= sandbox.repos.iter().any(|repo| repo.on_github().is_some());
            if !sandbox.env_file.is_empty() {
                needs
                    .sandboxes
                    .insert(name.to_owned(), sandbox.env_file.clone());
            }
        }
        needs
    }
}

impl Needs {
    /// The outputs that name the secrets whose values the project gives.
    pub fn outputs(&self) -> Vec<&'static str> {
        [
            (!self.webhooks.is_empty(), "WebhookSecret"),
            (!self.sandboxes.is_empty(), "SandboxSecret"),
            (self.github, "GithubSecret"),
            (self.daytona, "EngineSecret"),
            (self.sensors, "SensorSecret"),
        ]
        .into_iter()
        .filter_map(|(needed, output)| needed.then_some(output))
        .collect()
    }
}

/// A stack cannot be made of this.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A schedule that Scheduler cannot be told.
    #[error("{place}: {source}")]
    Schedule {
        /// The step or sensor.
        place: String,
        /// Why not.
        source: ScheduleError,
    },
    /// A sandbox that cannot be a task.
    #[error("sandbox {sandbox}: {why}")]
    Sandbox {
        /// Its name.
        sandbox: String,
        /// Why not.
        why: String,
    },
    /// Too large for one template.
    #[error(
        "the stack would have {count} resources and CloudFormation takes {MAX_RESOURCES}; split the project in two"
    )]
    TooLarge {
        /// How many it would have.
        count: usize,
    },
    /// A file that the manifest names was not given.
    #[error(
        "the manifest names {path} ({hash}), whose content was not given; compile the project again"
    )]
    MissingFile {
        /// The file's path.
        path: String,
        /// Its hash.
        hash: FileHash,
    },
    /// A function's zip was not given.
    #[error("there is no binary of the function `{0}`")]
    MissingFunction(&'static str),
    /// A zip could not be made.
    #[error("cannot pack what is uploaded: {0}")]
    Pack(#[from] std::io::Error),
    /// This build's own template lacks something.
    #[error("the template of this build is broken ({0}); this is a fault of Loopy")]
    Template(String),
}

/// Makes the stack of a project. `files` are the contents of what the manifest
/// names by hash; `sensor_env` says whether the project has `sensors/.env`.
///
/// # Errors
/// [`StackError`] names the step, sensor or file at fault.
pub fn stack(
    manifest: &Manifest,
    files: &BTreeMap<FileHash, Vec<u8>>,
    binaries: &Binaries,
    sensor_env: bool,
) -> Result<Stack, StackError> {
    stack_with(manifest, files, binaries, sensor_env, &Packages::default())
}

/// As [`stack`], with packages that the sensors bring along.
///
/// # Errors
/// As [`stack`].
pub fn stack_with(
    manifest: &Manifest,
    files: &BTreeMap<FileHash, Vec<u8>>,
    binaries: &Binaries,
    sensor_env: bool,
    packages: &Packages,
) -> Result<Stack, StackError> {
    let needs = Needs::of(manifest, sensor_env);
    let mut assets = BTreeMap::new();
    let mut template = Template::parse()?;

    assets.insert(
        format!("manifests/{}.json", manifest.hash),
        manifest.to_json().into_bytes(),
    );
    template.bind("Manifest", &manifest.hash)?;
    let runner = sha256_hex(&binaries.runner);
    template.bind("Runner", &runner)?;
    assets.insert(format!("runner/{runner}"), binaries.runner.clone());
    for name in FUNCTIONS {
        let zip = binaries
            .functions
            .get(name)
            .ok_or(StackError::MissingFunction(name))?;
        let key = format!("functions/{name}-{}.zip", sha256_hex(zip));
        template.bind(&format!("{}Code", capitalised(name)), &key)?;
        assets.insert(key, zip.clone());
    }
    template.bind("Architecture", binaries.architecture.name())?;
    for (skill, skill_files) in &manifest.skills {
        for (path, hash) in skill_files {
            let bytes = content(files, hash, || format!("skills/{skill}/{path}"))?;
            assets.insert(format!("files/{hash}"), bytes.to_vec());
        }
    }

    add_rules(&mut template, manifest)?;
    add_schedules(&mut template, manifest)?;
    add_secrets(&mut template, &needs)?;
    let code = sensors::Code {
        manifest,
        files,
        binaries,
        packages,
    };
    sensors::add(&mut template, &code, needs.sensors, &mut assets)?;
    let images = fargate::add(&mut template, manifest, binaries, &mut assets)?;

    let count = template.entries(&["Resources"])?.len();
    if count > MAX_RESOURCES {
        return Err(StackError::TooLarge { count });
    }
    let parameters = template
        .entries(&["Parameters"])?
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    Ok(Stack {
        template: template.0.write(),
        parameters,
        assets: assets
            .into_iter()
            .map(|(key, bytes)| Asset { key, bytes })
            .collect(),
        secrets: needs,
        images,
    })
}

/// The sandboxes that a step's agent works in, by name.
pub(crate) fn used_sandboxes(manifest: &Manifest) -> BTreeMap<&str, &Sandbox> {
    manifest
        .workflows
        .values()
        .flat_map(|workflow| workflow.steps.values())
        .filter_map(|step| {
            manifest
                .registry
                .agents
                .get(step.agent.as_ref()?)?
                .sandbox
                .as_deref()
        })
        .filter_map(|name| Some((name, manifest.registry.sandboxes.get(name)?)))
        .collect()
}

fn content<'a>(
    files: &'a BTreeMap<FileHash, Vec<u8>>,
    hash: &FileHash,
    path: impl FnOnce() -> String,
) -> Result<&'a [u8], StackError> {
    files
        .get(hash)
        .map(Vec::as_slice)
        .ok_or_else(|| StackError::MissingFile {
            path: path(),
            hash: hash.clone(),
        })
}

/// One rule per event that starts a workflow.
fn add_rules(template: &mut Template, manifest: &Manifest) -> Result<(), StackError> {
    let events: BTreeSet<&str> = manifest
        .workflows
        .values()
        .filter_map(|workflow| match workflow.entry_trigger()? {
            Trigger::Event { event, .. } => Some(event.as_str()),
            Trigger::Cron { .. } => None,
        })
        .collect();
    for event in events {
        template.resource(
            logical_id("Rule", event),
            "AWS::Events::Rule",
            json!({
                "Description": format!("Hands {event} to the events queue"),
                "EventBusName": {"Ref": "EventBus"},
                "EventPattern": {"source": ["loopy"], "detail-type": [event]},
                "Targets": [{
                    "Id": "events",
                    "Arn": arn("EventsQueue"),
                    "InputPath": "$.detail",
                    "DeadLetterConfig": {"Arn": arn("EventsDeadLetters")},
                }],
            }),
        )?;
    }
    Ok(())
}

/// Schedules of cron triggers and polls.
fn add_schedules(template: &mut Template, manifest: &Manifest) -> Result<(), StackError> {
    for workflow in manifest.workflows.values() {
        let Some(step) = workflow
            .entry
            .as_ref()
            .and_then(|entry| workflow.steps.get(entry))
        else {
            continue;
        };
        let Some(Trigger::Cron { expr, tz, .. }) = &step.trigger else {
            continue;
        };
        let expressions = schedule::cron(expr).map_err(|source| StackError::Schedule {
            place: format!("step {}", step.id),
            source,
        })?;
        for (index, expression) in expressions.iter().enumerate() {
            let mut id = logical_id("Cron", &step.id);
            if index > 0 {
                id.push_str("Weekdays");
            }
            let message = json!({
                "kind": "cron", "step": step.id, "scheduled_at": "<aws.scheduler.scheduled-time>",
            });
            let zone = tz.as_deref().unwrap_or("UTC");
            let about = format!("{expr} for step {}", step.id);
            add_schedule(
                template,
                id,
                about,
                expression,
                Some(zone),
                "Events",
                &message,
            )?;
        }
    }
    for sensor in &manifest.sensors {
        let SensorTrigger::Poll { interval, .. } = &sensor.trigger else {
            continue;
        };
        let expression = schedule::rate(interval).map_err(|source| StackError::Schedule {
            place: format!("sensor {}", sensor.name),
            source,
        })?;
        let message = json!({
            "kind": "poll", "sensor": sensor.name, "scheduled_at": "<aws.scheduler.scheduled-time>",
        });
        let about = format!("Every {interval} for sensor {}", sensor.name);
        let id = logical_id("Poll", &sensor.name);
        add_schedule(
            template,
            id,
            about,
            &expression,
            None,
            "Deliveries",
            &message,
        )?;
    }
    Ok(())
}

fn add_schedule(
    template: &mut Template,
    id: String,
    about: String,
    expression: &str,
    zone: Option<&str>,
    queue: &str,
    message: &Value,
) -> Result<(), StackError> {
    let mut properties = json!({
        "Description": about,
        "GroupName": {"Ref": "ScheduleGroup"},
        "ScheduleExpression": expression,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": arn(&format!("{queue}Queue")),
            "RoleArn": arn("ScheduleRole"),
            "Input": message.to_string(),
            "DeadLetterConfig": {"Arn": arn(&format!("{queue}DeadLetters"))},
        },
    });
    if let Some(zone) = zone {
        properties["ScheduleExpressionTimezone"] = zone.into();
    }
    template.resource(id, "AWS::Scheduler::Schedule", properties)
}

/// The secrets the project needs, each readable by the functions that use it.
fn add_secrets(template: &mut Template, needs: &Needs) -> Result<(), StackError> {
    let secrets: [(bool, &str, &str, &str, &[&str]); 4] = [
        (
            !needs.webhooks.is_empty(),
            "WebhookSecret",
            "Secrets that webhook deliveries are verified with",
            "LOOPY_WEBHOOK_SECRET",
            &["Webhook"],
        ),
        (
            !needs.sandboxes.is_empty(),
            "SandboxSecret",
            "Environment of the sandboxes, from their env_file",
            "LOOPY_SANDBOX_SECRET",
            &["Report"],
        ),
        (
            needs.github,
            "GithubSecret",
            "GitHub App whose tokens the sandboxes clone with",
            "LOOPY_GITHUB_SECRET",
            &["Report"],
        ),
        (
            needs.daytona,
            "EngineSecret",
            "Credentials of the sandbox provider",
            "LOOPY_ENGINE_SECRET",
            &["Step", "Watch"],
        ),
    ];
    for (needed, id, about, variable, functions) in secrets {
        if !needed {
            continue;
        }
        template.secret(id, about)?;
        for function in functions {
            template.variable(function, variable, secret_arn(id))?;
            template.allow(function, read_secret(id))?;
        }
    }
    Ok(())
}

fn arn(resource: &str) -> Value {
    json!({"Fn::GetAtt": [resource, "Arn"]})
}

fn secret_arn(secret: &str) -> Value {
    json!({"Fn::GetAtt": [secret, "Id"]})
}

fn read_secret(secret: &str) -> Value {
    json!({
        "Effect": "Allow",
        "Action": "secretsmanager:GetSecretValue",
        "Resource": secret_arn(secret),
    })
}

/// A logical id: letters and digits only. A name that has others gets a hash,
/// so that two names never share an id.
fn logical_id(prefix: &str, name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut id: String = std::iter::once(prefix.to_owned())
        .chain(words.map(capitalised))
        .collect();
    id.truncate(200);
    if !name.chars().all(|c| c.is_ascii_alphanumeric())
        || name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.len() > 150
    {
        id.push_str(&derive(&["logical id", name], 8));
    }
    id
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + chars.as_str()
    })
}

/// The template under construction.
struct Template(Node);

impl Template {
    fn parse() -> Result<Self, StackError> {
        serde_saphyr::from_str(TEMPLATE)
            .map(Self)
            .map_err(|error| StackError::Template(error.to_string()))
    }

    fn entries(&mut self, path: &[&str]) -> Result<&mut Vec<(String, Node)>, StackError> {
        self.0
            .at(path)
            .and_then(Node::entries)
            .ok_or_else(|| StackError::Template(format!("no map {}", path.join("."))))
    }

    /// Fills in a parameter. Not by a default: the AWS command line would go on
    /// with a stack's old value when the default changes.
    fn bind(&mut self, parameter: &str, value: &str) -> Result<(), StackError> {
        let parameters = self.entries(&["Parameters"])?;
        let count = parameters.len();
        parameters.retain(|(name, _)| name != parameter);
        if parameters.len() == count {
            return Err(StackError::Template(format!("no parameter {parameter}")));
        }
        self.0.bind(parameter, value);
        Ok(())
    }

    fn add(&mut self, section: &str, id: String, value: Value) -> Result<(), StackError> {
        let entries = self.entries(&[section])?;
        if entries.iter().any(|(name, _)| *name == id) {
            return Err(StackError::Template(format!("{section} has {id} twice")));
        }
        entries.push((id, Node::from(value)));
        Ok(())
    }

    fn resource(&mut self, id: String, kind: &str, properties: Value) -> Result<(), StackError> {
        self.add(
            "Resources",
            id,
            json!({"Type": kind, "Properties": properties}),
        )
    }

    /// A resource with state, whose fate is then said.
    fn kept_resource(&mut self, id: &str, kind: &str, properties: Value) -> Result<(), StackError> {
        let resource = json!({
            "Type": kind,
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": properties,
        });
        self.add("Resources", id.to_owned(), resource)
    }

    /// A secret that begins as an empty map, and an output with its ARN.
    fn secret(&mut self, id: &str, about: &str) -> Result<(), StackError> {
        let properties = json!({"Description": about, "SecretString": "{}"});
        self.kept_resource(id, "AWS::SecretsManager::Secret", properties)?;
        let output =
            json!({"Description": format!("{about}; a JSON map"), "Value": secret_arn(id)});
        self.add("Outputs", id.to_owned(), output)
    }

    /// Sets a variable that the function has already.
    fn variable(&mut self, function: &str, name: &str, value: Value) -> Result<(), StackError> {
        let id = format!("{function}Function");
        let path = [
            "Resources",
            &id,
            "Properties",
            "Environment",
            "Variables",
            name,
        ];
        let slot = self
            .0
            .at(&path)
            .ok_or_else(|| StackError::Template(format!("{id} has no variable {name}")))?;
        *slot = Node::from(value);
        Ok(())
    }

    /// Adds a statement to the function's own policy.
    fn allow(&mut self, function: &str, statement: Value) -> Result<(), StackError> {
        let id = format!("{function}Role");
        self.0
            .at(&["Resources", &id, "Properties", "Policies"])
            .and_then(Node::items)
            .and_then(|policies| policies.first_mut())
            .and_then(|policy| policy.at(&["PolicyDocument", "Statement"]))
            .and_then(Node::items)
            .ok_or_else(|| StackError::Template(format!("{id} has no policy")))?
            .push(Node::from(statement));
        Ok(())
    }
}
