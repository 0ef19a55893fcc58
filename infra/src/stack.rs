//! A manifest and `template.yaml` to a stack: the template with what the
//! project adds, and the assets it points to. Pure; the same input gives the
//! same bytes.

pub(crate) mod fargate;
mod needs;
pub(crate) mod sensors;
mod standards;
mod template;
mod triggers;

use crate::packages::Packages;
use crate::schedule::ScheduleError;
use loopy_contract::ids::{derive, sha256_hex};
use loopy_contract::manifest::{FileHash, Manifest, Sandbox};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use template::Template;

pub use fargate::Image;
pub use needs::Needs;

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
    /// The secrets the stack has and the values they need.
    pub secrets: Needs,
    /// The images of its `fargate` sandboxes, sorted by tag.
    pub images: Vec<Image>,
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
    /// More events than rules can name.
    #[error("the project subscribes to more events than its rules can name; split it in two")]
    TooManyEvents,
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

    needs::add_secrets(&mut template, &needs)?;
    let code = sensors::Code {
        manifest,
        files,
        binaries,
        packages,
    };
    sensors::add(&mut template, &code, needs.sensors, &mut assets)?;
    let images = fargate::add(&mut template, manifest, binaries, &mut assets)?;
    // Last, as it depends on what else there is whether they fit.
    triggers::add(&mut template, manifest, &mut assets)?;
    standards::apply(&mut template)?;

    let count = template.entries(&["Resources"])?.len();
    if count > MAX_RESOURCES {
        return Err(StackError::TooLarge { count });
    }
    Ok(Stack {
        template: template.write(),
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

/// The word with a capital letter.
pub(crate) fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_ascii_uppercase().to_string() + chars.as_str()
    })
}
