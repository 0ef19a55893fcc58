//! The connections of the HTTP server: how many there may be, how long a head may take,
//! how many bytes bodies may hold together, and who makes way when that is used up: the
//! one that has kept the server waiting longest. So a stranger who opens many and says
//! nothing shuts nobody out, and takes a bounded amount of memory.

use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// The most bytes of a head, and of what is read ahead of a body.
const READ_AHEAD: usize = 96 * 1024;

/// How long to wait when no connection can be taken, as when files are used up.
const PAUSE: Duration = Duration::from_secs(1);

/// What all connections together may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) open: usize,
    /// Connections at once of one address. This machine's own is excepted: a tunnel or a
    /// proxy in front of the server brings everyone's.
    pub(crate) of_one: usize,
    /// Bytes of bodies at once.
    pub(crate) bytes: usize,
    /// How long a head may take, and a connection may be idle.
    pub(crate) head: Duration,
    /// How long senders may go on once the server is told to stop.
    pub(crate) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open: 512,
            of_one: 128,
            bytes: 64 * 1024 * 1024,
            head: Duration::from_secs(30),
            linger: Duration::from_secs(2),
        }
    }
}

/// Answers HTTP with `answer` until told to stop, then finishes what has begun.
pub(crate) async fn serve<A, F>(
    listener: TcpListener,
    limits: Limits,
    answer: A,
    mut stop: watch::Receiver<bool>,
) where
    A: Fn(Turn, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let all = Arc::new(Connections {
        limits,
        state: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Some(connection) = all.admit(peer.ip()) {
                    tasks.spawn(converse(stream, connection, answer.clone(), stop.clone()));
                }
            }
            // The sender's own affair.
            Err(why)
                if matches!(
                    why.kind(),
                    ErrorKind::ConnectionAborted
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::ConnectionReset
                ) => {}
            Err(why) => {
                tracing::error!(%why, "no connection can be taken now");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    let mut ended = pin!(ended);
    if tokio::time::timeout(limits.linger, &mut ended)
        .await
        .is_err()
    {
        all.cut_waiting();
        ended.await;
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn converse<A, F>(
    stream: TcpStream,
    connection: Arc<Connection>,
    answer: A,
    mut stop: watch::Receiver<bool>,
) where
    A: Fn(Turn, Request<Incoming>) -> F,
    F: Future<Output = Response>,
{
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answered = answer(Connection::turn(&connection), request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(connection.all.limits.head)
        .max_buf_size(READ_AHEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    // What goes wrong with a connection is its sender's to see.
    tokio::select! {
        _ = served.as_mut() => return,
        () = connection.cut.notified() => return,
        () = stopped(&mut stop) => {}
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        _ = served => {}
        () = connection.cut.notified() => {}
    }
}

/// All connections that are open.
#[derive(Debug)]
struct Connections {
    limits: Limits,
    state: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// What bodies hold together.
    bytes: usize,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    /// Since when its sender has to say something; nothing while it is served.
    waiting: Option<Instant>,
    bytes: usize,
    cut: Arc<Notify>,
}

impl Open {
    /// Cuts the one of `among` that has kept the server waiting longest; whether there
    /// was one.
    fn make_way(&mut self, among: impl Fn(u64, &Entry) -> bool) -> bool {
        let waiting = self.entries.iter().filter(|(id, entry)| among(**id, entry));
        let longest = waiting
            .filter_map(|(id, entry)| Some((entry.waiting?, *id)))
            .min();
        longest.is_some_and(|(_, id)| self.cut(id))
    }

    fn cut(&mut self, id: u64) -> bool {
        let Some(entry) = self.entries.remove(&id) else {
            return false;
        };
        self.bytes -= entry.bytes;
        entry.cut.notify_one();
        true
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a connection; `None` when there are too many and all are being served.
    fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Arc<Connection>> {
        let peer = one_party(peer);
        let mut open = self.open();
        let of_peer = |entry: &Entry| entry.peer == peer;
        let count = open.entries.values().filter(|entry| of_peer(entry)).count();
        if !peer.is_loopback()
            && count >= self.limits.of_one
            && !open.make_way(|_, entry| of_peer(entry))
        {
            tracing::warn!(%peer, "too many connections from one address");
            return None;
        }
        if open.entries.len() >= self.limits.open && !open.make_way(|_, _| true) {
            tracing::warn!("too many connections");
            return None;
        }
        let id = open.next;
        open.next += 1;
        let cut = Arc::new(Notify::new());
        let entry = Entry {
            peer,
            waiting: Some(Instant::now()),
            bytes: 0,
            cut: Arc::clone(&cut),
        };
        open.entries.insert(id, entry);
        drop(open);
        Some(Arc::new(Connection {
            all: Arc::clone(self),
            id,
            cut,
        }))
    }

    fn cut_waiting(&self) {
        let mut open = self.open();
        while open.make_way(|_, _| true) {}
    }
}

/// Whom an address stands for: with IPv6 everyone has a network of 2^64 of them.
fn one_party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

/// One connection; it makes room for another when it is dropped.
#[derive(Debug)]
struct Connection {
    all: Arc<Connections>,
    id: u64,
    cut: Arc<Notify>,
}

impl Connection {
    fn turn(this: &Arc<Self>) -> Turn {
        let turn = Turn(Arc::clone(this));
        turn.wait();
        turn
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.open().cut(self.id);
    }
}

/// One request of a connection, from its head to its answer.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Connection>);

impl Turn {
    fn with<T>(&self, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.0.all.open().entries.get_mut(&self.0.id).map(change)
    }

    fn wait(&self) {
        self.with(|entry| entry.waiting = Some(Instant::now()));
    }

    /// It has said all that it has to say, and is not cut from now on.
    pub(crate) fn served(&self) {
        self.with(|entry| entry.waiting = None);
    }

    /// Its body has become longer by as many bytes; false when there is no room, even
    /// though those made way that have kept the server waiting longest.
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        let (all, id) = (&self.0.all, self.0.id);
        let mut open = all.open();
        while open.bytes + bytes > all.limits.bytes {
            if !open.make_way(|other, entry| other != id && entry.bytes > 0) {
                return false;
            }
        }
        let Some(entry) = open.entries.get_mut(&id) else {
            return false;
        };
        entry.bytes += bytes;
        open.bytes += bytes;
        true
    }

    /// Its body was thrown away.
    pub(crate) fn release(&self) {
        let mut open = self.0.all.open();
        let held = open.entries.get_mut(&self.0.id);
        let held = held.map(|entry| std::mem::take(&mut entry.bytes));
        open.bytes -= held.unwrap_or_default();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.release();
        self.wait();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use axum::response::IntoResponse;
    use futures::StreamExt;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch::Sender;
    use tokio::task::JoinHandle;

    const SHORT: Limits = Limits {
        open: 8,
        of_one: 4,
        bytes: 4096,
        head: Duration::from_millis(300),
        linger: Duration::from_millis(100),
    };
    const LONG: Duration = Duration::from_secs(20);

    /// Reads the body and says how long it is; a request to /slow is served for a second.
    async fn measured(turn: Turn, request: Request<Incoming>) -> Response {
        let slow = request.uri().path() == "/slow";
        let mut parts = axum::body::Body::new(request.into_body()).into_data_stream();
        let mut length = 0;
        while let Some(Ok(part)) = parts.next().await {
            if !turn.hold(part.len()) {
                return "no room".into_response();
            }
            length += part.len();
        }
        turn.served();
        if slow {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        length.to_string().into_response()
    }

    async fn start(limits: Limits) -> (SocketAddr, Sender<bool>, JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, limits, measured, stopped));
        (address, stop, task)
    }

    async fn said(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the server hangs up.
    async fn heard(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let read = tokio::time::timeout(LONG, stream.read_to_end(&mut text));
        // It may be reset as well as closed.
        let _ = read.await.unwrap();
        String::from_utf8(text).unwrap()
    }

    async fn post(address: SocketAddr, path: &str, body: &str) -> String {
        let length = body.len();
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        heard(said(address, &text).await).await
    }

    #[tokio::test]
    async fn a_head_that_is_never_ended_is_cut() {
        let (address, stop, task) = start(SHORT).await;
        let begun = Instant::now();
        assert_eq!(
            heard(said(address, "POST / HTTP/1.1\r\nHo").await).await,
            ""
        );
        assert_eq!(heard(said(address, "").await).await, "");
        assert!(begun.elapsed() < LONG / 2);
        stop.send_replace(true);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn those_who_say_nothing_make_way_for_those_who_do() {
        let limits = Limits {
            head: LONG,
            ..SHORT
        };
        let (address, stop, task) = start(limits).await;
        let mut silent = Vec::new();
        for text in [
            "",
            "POST / HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        ] {
            for _ in 0..20 {
                silent.push(said(address, text).await);
            }
        }
        for _ in 0..20 {
            let answer = post(address, "/", "abc").await;
            assert!(answer.ends_with("\r\n\r\n3"), "{answer}");
        }
        // One that is being served is not cut for others.
        let slow = tokio::spawn(async move { post(address, "/slow", "abcd").await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..20 {
            silent.push(said(address, "POST").await);
        }
        assert!(slow.await.unwrap().ends_with("\r\n\r\n4"));
        stop.send_replace(true);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn bodies_that_are_never_ended_make_way_when_bytes_run_out() {
        let limits = Limits {
            head: LONG,
            ..SHORT
        };
        let (address, stop, task) = start(limits).await;
        let part = "x".repeat(1000);
        let begun = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n{part}");
        let mut left = Vec::new();
        for _ in 0..6 {
            left.push(said(address, &begun).await);
        }
        let answer = post(address, "/", &"y".repeat(3000)).await;
        assert!(answer.ends_with("\r\n\r\n3000"), "{answer}");
        // More than all may hold together is refused.
        let answer = post(address, "/", &"y".repeat(5000)).await;
        assert!(answer.ends_with("no room"), "{answer}");
        let answer = post(address, "/", &"y".repeat(4000)).await;
        assert!(answer.ends_with("\r\n\r\n4000"), "{answer}");
        stop.send_replace(true);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_is_served_and_not_for_who_is_silent() {
        let limits = Limits {
            head: LONG,
            ..SHORT
        };
        let (address, stop, task) = start(limits).await;
        let _silent = said(address, "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n").await;
        let slow = tokio::spawn(async move { post(address, "/slow", "abcd").await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        stop.send_replace(true);
        task.await.unwrap();
        assert!(begun.elapsed() < LONG / 2);
        assert!(slow.await.unwrap().ends_with("\r\n\r\n4"));
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[test]
    fn one_party_has_its_share_and_no_more() {
        let all = Arc::new(Connections {
            limits: SHORT,
            state: Mutex::default(),
        });
        let admit = |address: &str| all.admit(address.parse().unwrap()).unwrap();
        let of = |address: &str| {
            let peer = one_party(address.parse().unwrap());
            let open = all.open();
            open.entries
                .values()
                .filter(|entry| entry.peer == peer)
                .count()
        };
        let mut kept = vec![admit("192.0.2.1"), admit("2001:db8::1")];
        for host in 0..9 {
            kept.push(admit(&format!("2001:db8::{host:x}:2")));
        }
        assert_eq!((of("192.0.2.1"), of("2001:db8::ffff")), (1, 4));
        // A party whose connections are all served gets no further one; others do.
        let turns: Vec<Turn> = kept.iter().map(Connection::turn).collect();
        turns.iter().for_each(Turn::served);
        assert!(all.admit("2001:db8::3".parse().unwrap()).is_none());
        assert!(all.admit("2001:db9::3".parse().unwrap()).is_some());
        // A tunnel on this machine brings everyone's.
        drop((turns, kept));
        let mut kept = Vec::new();
        for _ in 0..8 {
            kept.push(admit("127.0.0.1"));
        }
        assert_eq!(of("::ffff:127.0.0.1"), 8);
    }
}
