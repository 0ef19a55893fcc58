//! The networks of sandboxes, and the listener that this process has on each: the
//! way to the engine, and on the sealed one the only way out.
//!
//! Two networks serve all projects of a machine. On both, containers do not reach
//! each other. `loopy-sealed` is internal: the engine routes nothing from it. A
//! sandbox there reaches the addresses of this machine on that network, where the
//! proxy is, and nothing else.

use super::label;
use super::{Trouble, status};
use crate::egress::{Allowed, Egress, Guest, Guests, Models, ReportTo, SystemResolver};
use async_trait::async_trait;
use bollard::Docker;
use bollard::models::{EndpointResource, NetworkCreateRequest, NetworkInspect};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// Containers that are remembered; more are looked up anew.
const MOST_KNOWN: usize = 4096;
/// Where this process listens, so that a firewall can let sandboxes at nothing else of
/// this machine.
const PORTS: RangeInclusive<u16> = 40960..=41983;
/// How long another process may take to make a network.
const MAKE_TIME: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

/// Which network a sandbox is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Without a way out but the proxy.
    Sealed,
    /// With one of its own.
    Open,
}

impl Kind {
    /// That of a sandbox with this `network`.
    pub(super) fn of(hosts: &[String]) -> Self {
        if hosts.is_empty() {
            Self::Open
        } else {
            Self::Sealed
        }
    }

    /// Its name in the engine.
    pub(super) fn network(self) -> &'static str {
        match self {
            Self::Sealed => "loopy-sealed",
            Self::Open => "loopy-open",
        }
    }
}

/// A network with a listener on it.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// Where this process listens.
    pub(super) address: SocketAddr,
    /// The folder with the file `report-url`, for sandboxes.
    pub(super) folder: PathBuf,
}

impl Gate {
    /// Where this process listens, as a URL without a path.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables that lead programs to the proxy, in both spellings.
    pub(super) fn proxy(&self) -> BTreeMap<String, String> {
        let proxy = self.url();
        let direct = format!("localhost,127.0.0.1,::1,{}", self.address.ip());
        [
            ("HTTP_PROXY", &proxy),
            ("HTTPS_PROXY", &proxy),
            ("NO_PROXY", &direct),
        ]
        .into_iter()
        .flat_map(|(name, value)| {
            [name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.clone()))
        })
        .collect()
    }
}

/// The networks of a project, each made when it is needed.
pub(super) struct Gates {
    docker: Docker,
    /// What tells the engine from others of this machine.
    engine: String,
    /// The state directory.
    state: PathBuf,
    /// The state directory, as containers are labelled with it.
    project: String,
    report: ReportTo,
    models: Arc<Models>,
    open: tokio::sync::Mutex<BTreeMap<Kind, (Gate, Listening)>>,
}

/// Ends the listener when dropped.
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Gates {
    pub(super) fn new(
        docker: Docker,
        engine: String,
        state: PathBuf,
        project: String,
        report: ReportTo,
        models: Arc<Models>,
    ) -> Self {
        Self {
            docker,
            engine,
            state,
            project,
            report,
            models,
            open: tokio::sync::Mutex::default(),
        }
    }

    /// The gate, opened where it is not open yet.
    pub(super) async fn gate(&self, kind: Kind) -> Result<Gate, Trouble> {
        let mut open = self.open.lock().await;
        if let Some((gate, _)) = open.get(&kind) {
            return Ok(gate.clone());
        }
        let network = ensure(&self.docker, &self.engine, kind).await?;
        let ip = gateway(&network).ok_or_else(|| {
            Trouble::new(
                &format!("use the network {}", kind.network()),
                "it has no IPv4 gateway; remove it, and Loopy makes it anew",
            )
        })?;
        let folder = self.state.join("docker").join(kind.network());
        let what = format!("prepare {}", folder.display());
        make_folder(&folder).map_err(|error| Trouble::new(&what, error))?;
        let listener = listen(ip, &folder.join("port"), &self.project).await.map_err(|error| {
            Trouble::new(
                &format!("listen on {ip}, this machine's address on the network {}", kind.network()),
                format!("{error}; sandboxes report there, so the engine has to be on this very machine, not in a virtual one; if it is, remove the network, which Loopy makes anew"),
            )
        })?;
        let address = listener
            .local_addr()
            .map_err(|error| Trouble::new("listen", error))?;
        let gate = Gate { address, folder };
        let url = format!("http://{address}{}", self.report.prefix);
        publish(&gate.folder.join("report-url"), &url, 0o644)
            .and_then(|()| {
                publish(
                    &gate.folder.join("port"),
                    &address.port().to_string(),
                    0o600,
                )
            })
            .map_err(|error| Trouble::new(&what, error))?;
        let guests = Roll {
            docker: self.docker.clone(),
            network: kind.network(),
            project: self.project.clone(),
            sandboxes: self.state.join("sandboxes"),
            known: Mutex::default(),
        };
        let egress = Egress::new(
            Arc::new(guests),
            Arc::new(SystemResolver),
            self.report.clone(),
        )
        .with_models(Arc::clone(&self.models));
        let task = tokio::spawn(Arc::new(egress).serve(listener));
        tracing::debug!(%address, "sandboxes on {} are served", kind.network());
        open.insert(kind, (gate.clone(), Listening(task.abort_handle())));
        Ok(gate)
    }

    /// Forgets the gate, so that the next launch finds or makes the network anew.
    pub(super) async fn close(&self, kind: Kind) {
        self.open.lock().await.remove(&kind);
    }
}

/// The network, made where it is missing.
async fn ensure(docker: &Docker, engine: &str, kind: Kind) -> Result<NetworkInspect, Trouble> {
    let name = kind.network();
    let what = format!("make the network {name}");
    // The interface on this machine, of which another engine may have one too.
    let mark = hex::encode(Sha256::digest(format!("{engine} {name}").as_bytes()));
    let bridge = format!("loopy-{}", mark.get(..9).unwrap_or_default());
    let begun = Instant::now();
    loop {
        match docker.inspect_network(name, None).await {
            Ok(network) if kind == Kind::Sealed && network.internal != Some(true) => {
                return Err(Trouble::new(
                    &what,
                    "there is one of this name that is not internal; remove it, and Loopy makes its own",
                ));
            }
            Ok(network) => return Ok(network),
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => return Err(Trouble::new(&what, error)),
        }
        let wanted = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            internal: Some(kind == Kind::Sealed),
            options: Some(
                [("enable_icc", "false"), ("name", bridge.as_str())]
                    .map(|(name, value)| {
                        (
                            format!("com.docker.network.bridge.{name}"),
                            value.to_owned(),
                        )
                    })
                    .into(),
            ),
            labels: Some([(label::LOOPY.to_owned(), "1".to_owned())].into()),
            ..NetworkCreateRequest::default()
        };
        match docker.create_network(wanted).await {
            Ok(_) => tracing::info!("made the network {name}"),
            // Another process was faster: an engine may have two networks of one name,
            // but not of one bridge.
            Err(error)
                if begun.elapsed() < MAKE_TIME
                    && matches!(status(&error), Some(403 | 409 | 500)) =>
            {
                sleep(LOOK).await;
            }
            Err(error) => return Err(Trouble::new(&what, error)),
        }
    }
}

fn gateway(network: &NetworkInspect) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs
        .iter()
        .filter_map(|config| config.gateway.as_ref()?.parse::<IpAddr>().ok())
        .find(IpAddr::is_ipv4)
}

/// Listens where it did before, if it can: what runs in sandboxes was told so once. Else
/// on one of [`PORTS`], of which each project begins with another.
async fn listen(ip: IpAddr, port: &Path, project: &str) -> io::Result<TcpListener> {
    let before = fs::read_to_string(port)
        .ok()
        .and_then(|text| text.trim().parse::<u16>().ok());
    if let Some(port) = before {
        match TcpListener::bind((ip, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                tracing::warn!(%error, "{ip}:{port} is not to be had again; sandboxes that run lose their way out");
            }
        }
    }
    let count = PORTS.end() - PORTS.start() + 1;
    let digest = Sha256::digest(project.as_bytes());
    let first = digest
        .iter()
        .fold(0_u16, |sum, byte| (sum * 31 + u16::from(*byte)) % count);
    let mut outcome = Err(io::Error::from(io::ErrorKind::AddrInUse));
    for number in 0..count {
        let port = PORTS.start() + (first + number) % count;
        outcome = TcpListener::bind((ip, port)).await;
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    outcome
}

/// A folder that users of sandboxes can read. Those above it are for this user only,
/// and a sandbox has no other part of them.
fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

/// Writes a file, whole or not at all.
fn publish(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&part)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&part, path)
}

/// The sandboxes of a project on one network, as the engine knows them at the time:
/// an address is given to another container as soon as its own is gone.
struct Roll {
    docker: Docker,
    network: &'static str,
    project: String,
    sandboxes: PathBuf,
    /// By the containers' ids.
    known: Mutex<BTreeMap<String, Option<Arc<Guest>>>>,
}

#[async_trait]
impl Guests for Roll {
    async fn guest(&self, address: IpAddr) -> Option<Arc<Guest>> {
        match self.look(address).await {
            Ok(guest) => guest,
            Err(error) => {
                tracing::warn!(%error, %address, "it is not known which sandbox asks");
                None
            }
        }
    }
}

impl Roll {
    async fn look(&self, address: IpAddr) -> Result<Option<Arc<Guest>>, bollard::errors::Error> {
        let network = self.docker.inspect_network(self.network, None).await?;
        let has = |endpoint: &EndpointResource| {
            let own = endpoint.ipv4_address.as_deref()?.split('/').next()?;
            Some(own.parse::<IpAddr>().ok()? == address)
        };
        let containers = network.containers.unwrap_or_default();
        let Some((id, _)) = containers.iter().find(|(_, end)| has(end) == Some(true)) else {
            return Ok(None);
        };
        if let Some(guest) = self.known().get(id) {
            return Ok(guest.clone());
        }
        let container = self.docker.inspect_container(id, None).await?;
        let labels = container
            .config
            .and_then(|config| config.labels)
            .unwrap_or_default();
        let guest = self.read(&labels).map(Arc::new);
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(id.clone(), guest.clone());
        Ok(guest)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Guest>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox that these labels are of, if it is one of this project.
    fn read(&self, labels: &HashMap<String, String>) -> Option<Guest> {
        let label = |name: &str| labels.get(name).map(String::as_str);
        if label(label::PROJECT)? != self.project {
            return None;
        }
        let token = label(label::TOKEN)?;
        let hosts: Vec<String> = serde_json::from_str(label(label::NETWORK)?).ok()?;
        let allowed = match hosts.as_slice() {
            [] => None,
            some => Some(Allowed::parse(some.iter().map(String::as_str)).ok()?),
        };
        let models = match label(label::MODELS) {
            None => None,
            Some(terms) => Some(Arc::new(serde_json::from_str(terms).ok()?)),
        };
        Some(Guest {
            name: token.to_owned(),
            allowed,
            folder: self.sandboxes.join(token),
            models,
        })
    }
}
