//! The proxy over real connections, with names that a table resolves.
#![expect(clippy::unwrap_used, reason = "tests")]

use async_trait::async_trait;
use loopy_sandbox::egress::{Allowed, Egress, Guest, Guests, ReportTo, Resolver};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Everybody is this sandbox.
struct Everybody(Option<Arc<Guest>>);

#[async_trait]
impl Guests for Everybody {
    async fn guest(&self, _: IpAddr) -> Option<Arc<Guest>> {
        self.0.clone()
    }
}

/// Every name leads here.
struct Table(Vec<IpAddr>);

#[async_trait]
impl Resolver for Table {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(self.0.iter().map(|&ip| SocketAddr::new(ip, port)).collect())
    }
}

/// A server that answers with what it was sent, up to an empty line, and what it is.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut got).await.unwrap() == 0 {
                        break;
                    }
                }
                let text = String::from_utf8(got).unwrap();
                // A body that ends with the connection.
                let answer = format!("HTTP/1.1 200 OK\r\n\r\n{name} got: {text}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

struct Proxy {
    address: SocketAddr,
    folder: TempDir,
}

impl Proxy {
    async fn new(network: Option<&[&str]>, leads_to: &[&str], report: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        let guest = Guest {
            name: "box".to_owned(),
            allowed: network.map(|hosts| Allowed::parse(hosts.iter().copied()).unwrap()),
            folder: folder.path().to_owned(),
            models: None,
        };
        Self::of(Everybody(Some(Arc::new(guest))), leads_to, report, folder).await
    }

    async fn of(guests: Everybody, leads_to: &[&str], report: SocketAddr, folder: TempDir) -> Self {
        let table = leads_to.iter().map(|ip| ip.parse().unwrap()).collect();
        let report = ReportTo {
            address: report,
            prefix: "/_loopy".to_owned(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let egress = Egress::new(Arc::new(guests), Arc::new(Table(table)), report);
        tokio::spawn(Arc::new(egress).serve(listener));
        Self { address, folder }
    }

    /// All that comes back for these bytes.
    async fn ask(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes with bytes unread resets the connection.
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn refused(&self) -> Vec<String> {
        std::fs::read_to_string(self.folder.path().join("refused.log"))
            .unwrap_or_default()
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_tunnel_leads_to_a_listed_host_and_no_other() {
    let server = echo("server").await;
    let (host, address) = (format!("in.test:{}", server.port()), server.to_string());
    let proxy = Proxy::new(Some(&[&host, &address]), &["127.0.0.1"], server).await;
    let said = proxy
        .ask(&format!(
            "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nbytes\r\n\r\n"
        ))
        .await;
    let tunnel = "HTTP/1.1 200 Connection established\r\n\r\n";
    let through = said.strip_prefix(tunnel).unwrap();
    assert!(through.ends_with("server got: bytes\r\n\r\n"), "{said}");

    let port = server.port();
    for target in [
        format!("out.test:{port}"),
        "in.test:1".to_owned(),
        format!("in.test.evil.test:{port}"),
        format!("127.1:{port}"),
        format!("[::ffff:127.0.0.2]:{port}"),
    ] {
        let said = proxy
            .ask(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"))
            .await;
        assert!(
            said.starts_with("HTTP/1.1 403 Forbidden"),
            "{target}: {said}"
        );
        assert!(said.contains("is not in the sandbox's `network`"), "{said}");
    }
    assert_eq!(proxy.refused().len(), 5);
    assert!(proxy.refused()[0].starts_with(&format!("CONNECT out.test:{port}: ")));
}

#[tokio::test]
async fn a_listed_name_that_leads_inside_is_refused() {
    let server = echo("server").await;
    let host = format!("in.test:{}", server.port());
    let proxy = Proxy::new(Some(&[&host]), &["127.0.0.1", "169.254.169.254"], server).await;
    let said = proxy.ask(&format!("CONNECT {host} HTTP/1.1\r\n\r\n")).await;
    assert!(said.starts_with("HTTP/1.1 403 Forbidden"), "{said}");
    assert!(said.contains("not on the public internet"), "{said}");
    assert_eq!(proxy.refused().len(), 1);
}

#[tokio::test]
async fn a_plain_request_goes_to_the_host_of_its_url() {
    let server = echo("server").await;
    let (host, address) = (format!("in.test:{}", server.port()), server.to_string());
    let proxy = Proxy::new(Some(&[&host, &address]), &["127.0.0.1"], server).await;
    let said = proxy
        .ask(&format!(
            "GET http://{host}/a?b=c HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Basic x\r\n\
             Connection: keep-alive\r\nX-Own: y\r\n\r\nGET http://out.test/ HTTP/1.1\r\n\r\n"
        ))
        .await;
    let head = format!(
        "server got: GET /a?b=c HTTP/1.1\r\nHost: {host}\r\nX-Own: y\r\nConnection: close\r\n\r\n"
    );
    assert!(said.contains(&head), "{said}");

    for (target, why) in [
        ("http://out.test/", "403 Forbidden"),
        ("http://in.test@out.test/", "403 Forbidden"),
        ("ftp://in.test/", "400 Bad Request"),
        ("/", "403 Forbidden"),
        ("/etc", "403 Forbidden"),
    ] {
        let said = proxy.ask(&format!("GET {target} HTTP/1.1\r\n\r\n")).await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {why}")),
            "{target}: {said}"
        );
    }
}

#[tokio::test]
async fn reports_reach_the_engine_and_nothing_else_of_it_does() {
    let engine = echo("engine").await;
    for network in [None, Some(["in.test"].as_slice())] {
        let proxy = Proxy::new(network, &["127.0.0.1"], engine).await;
        let said = proxy
            .ask("POST /_loopy/v1/x HTTP/1.1\r\nAuthorization: Bearer t\r\n\r\n")
            .await;
        assert!(
            said.contains("engine got: POST /_loopy/v1/x HTTP/1.1\r\n"),
            "{said}"
        );
        assert!(said.contains("Authorization: Bearer t\r\n"), "{said}");
        for path in ["/hooks/github", "/_loopyx", "/healthz"] {
            let said = proxy.ask(&format!("POST {path} HTTP/1.1\r\n\r\n")).await;
            assert!(said.starts_with("HTTP/1.1 403 Forbidden"), "{path}: {said}");
        }
    }
    // A sandbox with a way of its own gets none here.
    let proxy = Proxy::new(None, &["127.0.0.1"], engine).await;
    let said = proxy.ask("CONNECT in.test:443 HTTP/1.1\r\n\r\n").await;
    assert!(said.contains("needs no proxy"), "{said}");
}

#[tokio::test]
async fn strangers_and_nonsense_are_refused() {
    let engine = echo("engine").await;
    let folder = TempDir::new().unwrap();
    let proxy = Proxy::of(Everybody(None), &["127.0.0.1"], engine, folder).await;
    let said = proxy.ask("POST /_loopy/v1/x HTTP/1.1\r\n\r\n").await;
    assert!(said.contains("not a sandbox of this project"), "{said}");

    let proxy = Proxy::new(Some(&["in.test"]), &["127.0.0.1"], engine).await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (bytes, status) in [
        ("\u{16}\u{3}\u{1}\r\n\r\n", "400"),
        ("GET /_loopy/x HTTP/1.1\n\nX: y\r\n\r\n", "400"),
        ("CONNECT in.test:x HTTP/1.1\r\n\r\n", "400"),
        (&long, "431"),
    ] {
        let said = proxy.ask(bytes).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
    }
}
