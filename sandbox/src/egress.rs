//! The way out of a sandbox whose `network` is limited: a proxy in this process
//! that lets through what is listed, and the reports to the engine.
//!
//! One listener serves four kinds of requests. Which sandbox asks is told by the
//! address it asks from ([`Guests`]), as it has no other way to be known that a
//! program in it could not give away.
//!
//! * `CONNECT host:port` (what HTTPS goes through) and `GET http://host/…`: for a
//!   listed host, a connection to an address that the host may lead to. The name is
//!   looked up once, so that what was checked is what is connected to. All else is
//!   refused and noted.
//! * `POST /_loopy/…`: the report protocol, handed on to the engine's listener. No
//!   other path of the engine can be reached.
//! * `POST /_models/…`: model APIs, for sandboxes that have no keys of their own.
//!
//! A connection serves one request: a second one on it could name another host.

mod allow;
mod models;
mod refusals;

pub use allow::Allowed;
pub use models::{Models, SetupError, Terms};
pub use refusals::MOST_BYTES;

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 32 * 1024;
/// The most headers of a request.
const MOST_HEADERS: usize = 128;
/// How long a client may take over the head of its request.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long looking up a name and connecting may take.
const DIAL_TIME: Duration = Duration::from_secs(20);
/// The most connections of one sandbox at a time.
const MOST_CONNECTIONS: usize = 256;
/// Bytes of a host's name in a message.
const LONGEST_NAME: usize = 260;

/// A sandbox that asks.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name in messages.
    pub name: String,
    /// What it may reach beside the engine; nothing when there is no list, as it has
    /// a way of its own.
    pub allowed: Option<Allowed>,
    /// The folder with what is noted of it.
    pub folder: PathBuf,
    /// How it is served model APIs, when it has no keys for them itself.
    pub models: Option<Arc<Terms>>,
}

impl Guest {
    /// Where its refused connections are noted.
    pub fn refused_log(&self) -> PathBuf {
        self.folder.join("refused.log")
    }
}

/// Knows the sandboxes by their addresses.
#[async_trait]
pub trait Guests: Send + Sync {
    /// The sandbox that has this address now; `None` when none has.
    async fn guest(&self, address: IpAddr) -> Option<Arc<Guest>>;
}

/// Looks up names.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The addresses of a host; an address in letters is its own.
    ///
    /// # Errors
    /// When there is no answer.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// The engine's listener, for reports.
#[derive(Clone, Debug)]
pub struct ReportTo {
    /// Where it listens.
    pub address: SocketAddr,
    /// What the path of a report begins with; nothing else is handed on.
    pub prefix: String,
}

/// The proxy.
pub struct Egress {
    guests: Arc<dyn Guests>,
    resolver: Arc<dyn Resolver>,
    report: ReportTo,
    models: Option<Arc<Models>>,
    /// Connections by address.
    open: Mutex<BTreeMap<IpAddr, usize>>,
}

/// Why a request is not served: the status and a sentence.
struct Refusal {
    status: &'static str,
    why: String,
    /// Whether it is one of those that the sandbox's file lists.
    noted: Option<String>,
}

impl Refusal {
    fn new(status: &'static str, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
            noted: None,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(BAD_GATEWAY, error.to_string())
    }
}

const BAD_REQUEST: &str = "400 Bad Request";
const FORBIDDEN: &str = "403 Forbidden";
const TOO_LARGE: &str = "431 Request Header Fields Too Large";
const BAD_GATEWAY: &str = "502 Bad Gateway";
const GATEWAY_TIMEOUT: &str = "504 Gateway Timeout";

/// A request's head, understood.
enum Asked {
    /// A tunnel.
    Tunnel { host: String, port: u16 },
    /// A plain request, with its head as it is to be sent.
    Plain {
        host: String,
        port: u16,
        head: Vec<u8>,
    },
    /// A report, with its head as it is to be sent.
    Report { head: Vec<u8> },
    /// A model.
    Model,
}

/// What becomes of a connection.
enum Next {
    /// What comes is passed on, both ways.
    Server(TcpStream),
    /// A call of a model, of which these bytes came already.
    Models(Arc<Models>, Vec<u8>),
    /// The client is gone.
    Nothing,
}

impl Egress {
    /// A proxy for these sandboxes.
    pub fn new(guests: Arc<dyn Guests>, resolver: Arc<dyn Resolver>, report: ReportTo) -> Self {
        Self {
            guests,
            resolver,
            report,
            models: None,
            open: Mutex::default(),
        }
    }

    /// With the way to model APIs.
    #[must_use]
    pub fn with_models(mut self, models: Arc<Models>) -> Self {
        self.models = Some(models);
        self
    }

    /// Serves until dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let ip = from.ip().to_canonical();
                    let Some(place) = Place::take(&self, ip) else {
                        tracing::warn!(%ip, "a sandbox has {MOST_CONNECTIONS} connections; another one is refused");
                        continue;
                    };
                    let this = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _place = place;
                        this.connection(stream, ip).await;
                    });
                }
                Err(error) => {
                    // Out of file handles, most likely.
                    tracing::warn!(%error, "the sandboxes' proxy cannot take a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, mut client: TcpStream, from: IpAddr) {
        let Some(guest) = self.guests.guest(from).await else {
            tracing::warn!(%from, "who is no sandbox of this project asked the sandboxes' proxy");
            answer(
                &mut client,
                &Refusal::new(FORBIDDEN, "not a sandbox of this project"),
            )
            .await;
            return;
        };
        match self.request(&mut client, &guest).await {
            Ok(Next::Server(mut server)) => {
                // Either side may hang up at any time; there is nothing to tell.
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            }
            Ok(Next::Models(models, read)) => models.serve(client, read, guest).await,
            Ok(Next::Nothing) => {}
            Err(refusal) => {
                if let Some(what) = &refusal.noted {
                    refusals::warn_and_note(&guest, what, &refusal.why).await;
                }
                answer(&mut client, &refusal).await;
            }
        }
    }

    /// Reads a request, and connects it.
    async fn request(&self, client: &mut TcpStream, guest: &Guest) -> Result<Next, Refusal> {
        let read = timeout(HEAD_TIME, read_head(client)).await;
        let read = read.map_err(|_| Refusal::new("408 Request Timeout", "no request came"))??;
        let Some((bytes, length)) = read else {
            return Ok(Next::Nothing);
        };
        let (head, rest) = bytes.split_at(length);
        let (mut server, first) = match self.understand(head)? {
            Asked::Model => {
                let models = self
                    .models
                    .clone()
                    .ok_or_else(|| Refusal::new(FORBIDDEN, "there is no way to model APIs here"))?;
                client.set_nodelay(true)?;
                return Ok(Next::Models(models, bytes));
            }
            Asked::Report { head } => (TcpStream::connect(self.report.address).await?, head),
            Asked::Tunnel { host, port } => {
                let server = self.dial(guest, "CONNECT", &host, port).await?;
                client
                    .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    .await?;
                (server, Vec::new())
            }
            Asked::Plain { host, port, head } => {
                (self.dial(guest, "HTTP", &host, port).await?, head)
            }
        };
        // Small messages go to and fro; neither side should wait for more.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        server.write_all(&first).await?;
        server.write_all(rest).await?;
        Ok(Next::Server(server))
    }

    fn understand(&self, head: &[u8]) -> Result<Asked, Refusal> {
        let bad = || Refusal::new(BAD_REQUEST, "this is not an HTTP/1 request");
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            _ => return Err(bad()),
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(bad());
        };
        if method.eq_ignore_ascii_case("CONNECT") {
            let (host, port) = allow::split_port(target).ok_or_else(bad)?;
            return Ok(Asked::Tunnel {
                host: host.to_owned(),
                port: port.unwrap_or(443),
            });
        }
        if Models::serves(target) {
            return Ok(Asked::Model);
        }
        if target.starts_with('/') {
            let report = target
                .strip_prefix(self.report.prefix.as_str())
                .is_some_and(|rest| rest.starts_with('/'));
            if !report {
                return Err(Refusal::new(
                    FORBIDDEN,
                    "this is a proxy; ask it for a whole URL",
                ));
            }
            let host = self.report.address.to_string();
            return Ok(Asked::Report {
                head: rewrite(method, target, &host, request.headers),
            });
        }
        let Some(rest) = strip_http(target) else {
            return Err(Refusal::new(
                BAD_REQUEST,
                "this proxy takes http:// URLs, and CONNECT for all else",
            ));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // A name or password before the host is not for us to pass on.
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, after)| after);
        let (host, port) = allow::split_port(authority).ok_or_else(bad)?;
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Asked::Plain {
            host: host.to_owned(),
            port: port.unwrap_or(80),
            head: rewrite(method, &path, authority, request.headers),
        })
    }

    /// Connects to a host that the sandbox may reach.
    async fn dial(
        &self,
        guest: &Guest,
        how: &str,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, Refusal> {
        let shown: String = host.chars().take(LONGEST_NAME).collect();
        let what = format!("{how} {shown}:{port}");
        let refused = |why: String| Refusal {
            status: FORBIDDEN,
            why,
            noted: Some(what.clone()),
        };
        let Some(allowed) = &guest.allowed else {
            return Err(refused(
                "this sandbox has no `network` list and needs no proxy".to_owned(),
            ));
        };
        if !allowed.host(host, port) {
            return Err(refused(format!(
                "{shown}:{port} is not in the sandbox's `network`"
            )));
        }
        let dial = async {
            let found = self.resolver.resolve(host, port).await?;
            let (reachable, inside): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|address| allowed.leads_to(address.ip(), port));
            if reachable.is_empty()
                && let Some(address) = inside.first()
            {
                return Err(refused(format!(
                    "{shown} leads to {}, which is not on the public internet; list the address in `network` too",
                    address.ip()
                )));
            }
            Ok(TcpStream::connect(reachable.as_slice()).await?)
        };
        match timeout(DIAL_TIME, dial).await {
            Ok(Ok(server)) => Ok(server),
            Ok(Err(Refusal {
                status: BAD_GATEWAY,
                why,
                ..
            })) => Err(Refusal::new(
                BAD_GATEWAY,
                format!("{shown}:{port} cannot be reached: {why}"),
            )),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::new(
                GATEWAY_TIMEOUT,
                format!("{shown}:{port} does not answer"),
            )),
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the connections that an address may have; given back when dropped.
struct Place {
    egress: Arc<Egress>,
    ip: IpAddr,
}

impl Place {
    fn take(egress: &Arc<Egress>, ip: IpAddr) -> Option<Self> {
        let mut open = egress.open();
        let count = open.entry(ip).or_default();
        if *count >= MOST_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self {
            egress: Arc::clone(egress),
            ip,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.egress.open();
        match open.get_mut(&self.ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.ip);
            }
        }
    }
}

/// Reads until the head is there: all bytes so far, and the head's length. `None`
/// when the client hung up before it sent anything.
async fn read_head(client: &mut TcpStream) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        let seen = bytes.len();
        if client.read_buf(&mut bytes).await? == 0 {
            if bytes.is_empty() {
                return Ok(None);
            }
            return Err(Refusal::new(BAD_REQUEST, "the request broke off"));
        }
        // The end may lie across two reads.
        let from = seen.saturating_sub(3);
        let end = bytes
            .get(from..)
            .and_then(|new| new.windows(4).position(|four| four == b"\r\n\r\n"));
        let length = end.map(|end| from + end + 4);
        if length.unwrap_or(bytes.len()) > LONGEST_HEAD {
            return Err(Refusal::new(TOO_LARGE, "the request's head is too long"));
        }
        if let Some(length) = length {
            return Ok(Some((bytes, length)));
        }
    }
}

fn strip_http(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_at_checked("http://".len())?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

/// The head that the server gets: for this host, and for one request only.
fn rewrite(method: &str, path: &str, host: &str, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    const OURS: [&str; 5] = [
        "host",
        "connection",
        "proxy-connection",
        "proxy-authorization",
        "keep-alive",
    ];
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    for header in headers {
        if OURS.iter().any(|own| header.name.eq_ignore_ascii_case(own)) {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

async fn answer(client: &mut TcpStream, refusal: &Refusal) {
    let body = format!("loopy: {}\n", refusal.why);
    let text = format!(
        "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        refusal.status,
        body.len()
    );
    // The client may be gone, and then needs no answer.
    if client.write_all(text.as_bytes()).await.is_ok() {
        let _gone = client.shutdown().await;
    }
}
