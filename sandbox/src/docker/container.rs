//! The container of a sandbox, as the engine is asked for it: what it may do, how
//! much it may use, and what is put into it.

use super::image::Image;
use super::label;
use super::network::Kind;
use super::tools::{self, Tool};
use crate::egress::Terms;
use crate::launch_variables;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions,
};
use bytes::Bytes;
use loopy_contract::manifest::ModelKeys;
use loopy_contract::report::launch_env;
use loopy_engine::ports::LaunchSpec;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// Where the sandbox's own writable files lie: the workspace and the home.
pub(super) const OWN: &str = "/loopy";
/// The workspace, unless the image says another.
const WORKSPACE: &str = "/loopy/work";
/// The home of what runs there.
pub(super) const HOME: &str = "/loopy/home";
/// The runner's program.
const RUNNER: &str = "/opt/loopy/runner";
/// The mirrors of repositories.
const MIRRORS: &str = "/opt/loopy/mirrors";
/// The folder with the file that says where the engine is.
const ENGINE: &str = "/opt/loopy/engine";

/// Cores, where the registry does not say; never more than the machine has.
pub(super) const CPU: u32 = 2;
/// Memory in GB, where the registry does not say.
pub(super) const MEMORY: u32 = 4;
/// Processes and threads.
pub(super) const PIDS: i64 = 2048;
/// Bytes of what the runner prints that are kept.
const LOG_SIZE: &str = "4m";
const GB: i64 = 1024 * 1024 * 1024;

/// What the launches of a project have in common.
pub(super) struct Common<'a> {
    /// The state directory.
    pub(super) project: &'a str,
    /// The runner's command line, on this machine.
    pub(super) runner: &'a [String],
    /// Cores of the machine.
    pub(super) cores: u32,
}

/// The way out of a sandbox.
pub(super) struct Way<'a> {
    /// The network it is on.
    pub(super) kind: Kind,
    /// The folder on this machine with the file that says where the engine is.
    pub(super) folder: &'a Path,
    /// The variables that lead programs to the proxy.
    pub(super) proxy: BTreeMap<String, String>,
}

/// What the container is labelled with.
pub(super) fn labels(project: &str, spec: &LaunchSpec) -> HashMap<String, String> {
    let network = serde_json::Value::from(spec.sandbox.network.clone());
    let mut labels: HashMap<String, String> = [
        (label::LOOPY, "1".to_owned()),
        (label::PROJECT, project.to_owned()),
        (label::RUN, spec.run.0.clone()),
        (label::STEP, spec.step.clone()),
        (label::ATTEMPT, spec.attempt.to_string()),
        (label::TOKEN, spec.client_token.clone()),
        (label::NETWORK, network.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    labels.extend(terms(spec).map(|terms| {
        let terms = serde_json::json!(terms);
        (label::MODELS.to_owned(), terms.to_string())
    }));
    labels
}

/// How the sandbox is served model APIs, when its keys are kept out of it.
fn terms(spec: &LaunchSpec) -> Option<Terms> {
    (spec.sandbox.model_keys == ModelKeys::Proxy).then(|| Terms {
        sandbox: spec.name.clone(),
        env_file: spec.sandbox.env_file.clone(),
        allowance: spec.allowance.clone(),
    })
}

/// The container to make. `mirrors` are those of its own repositories, on this machine.
pub(super) fn body(
    common: &Common<'_>,
    spec: &LaunchSpec,
    image: &Image,
    way: &Way<'_>,
    mirrors: &[PathBuf],
) -> ContainerCreateBody {
    let (program, arguments) = common
        .runner
        .split_first()
        .map_or(("", [].as_slice()), |(first, rest)| (first.as_str(), rest));
    let workspace = image.workdir.as_deref().unwrap_or(WORKSPACE);
    let mut env: Vec<String> = launch_variables(spec, &format!("file://{ENGINE}/report-url"))
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    env.push(format!("{}={workspace}", launch_env::WORKSPACE));
    env.extend(
        way.proxy
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );

    let mut mounts = vec![
        bind(program, RUNNER),
        bind(&way.folder.to_string_lossy(), ENGINE),
        volume(OWN),
    ];
    mounts.extend(image.workdir.as_deref().map(volume));
    if !mirrors.is_empty() {
        env.push(format!("{}={MIRRORS}", launch_env::MIRRORS));
    }
    mounts.extend(mirrors.iter().map(|mirror| {
        let name = mirror.file_name().unwrap_or_default().to_string_lossy();
        bind(&mirror.to_string_lossy(), &format!("{MIRRORS}/{name}"))
    }));
    let memory = i64::from(image.memory.unwrap_or(MEMORY)).saturating_mul(GB);
    let cores = image.cpu.unwrap_or_else(|| CPU.min(common.cores.max(1)));
    let host = HostConfig {
        network_mode: Some(way.kind.network().to_owned()),
        // Asked in vain: names are looked up by the proxy. Else the engine would
        // look up any name for the sandbox, which is a way out too.
        dns: (way.kind == Kind::Sealed).then(|| vec!["127.0.0.1".to_owned()]),
        mounts: Some(mounts),
        tmpfs: Some(
            [(
                "/tmp".to_owned(),
                "rw,exec,nosuid,nodev,mode=1777".to_owned(),
            )]
            .into(),
        ),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        init: Some(true),
        nano_cpus: Some(i64::from(cores).saturating_mul(1_000_000_000)),
        memory: Some(memory),
        // No swap beside it.
        memory_swap: Some(memory),
        pids_limit: Some(PIDS),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", LOG_SIZE), ("max-file", "1")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(image.reference.clone()),
        user: Some(image.user.clone()),
        env: Some(env),
        entrypoint: Some(
            std::iter::once(RUNNER.to_owned())
                .chain(arguments.iter().cloned())
                .collect(),
        ),
        cmd: Some(Vec::new()),
        working_dir: Some(OWN.to_owned()),
        labels: Some(labels(common.project, spec)),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// Puts a harness's program into the container, behind all that the image has on its
/// `path`.
pub(super) fn add_tool(body: &mut ContainerCreateBody, tool: &Tool, path: &str) {
    let mounts = body
        .host_config
        .as_mut()
        .and_then(|host| host.mounts.as_mut());
    if let Some(mounts) = mounts {
        mounts.push(bind(&tool.folder.to_string_lossy(), tools::FOLDER));
    }
    if let Some(env) = &mut body.env {
        env.push(format!("PATH={path}:{}", tool.programs));
    }
}

/// The folders of the sandbox, for anybody to write in: whom the processes belong
/// to only the image knows, and nobody else is there.
pub(super) fn folders() -> io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for folder in [WORKSPACE, HOME] {
        let name = folder.trim_start_matches(OWN).trim_start_matches('/');
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o1777);
        header.set_size(0);
        archive.append_data(&mut header, format!("{name}/"), io::empty())?;
    }
    archive.into_inner().map(Bytes::from)
}

fn bind(source: &str, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

/// Goes when the container does.
fn volume(target: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        target: Some(target.to_owned()),
        volume_options: Some(MountVolumeOptions {
            labels: Some([(label::LOOPY.to_owned(), "1".to_owned())].into()),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}
