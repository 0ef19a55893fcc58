//! One HTTP request to a server on this machine. Plain HTTP/1.0 over std, because
//! this crate is built before everything else and stays small.

use crate::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a server answered.
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Status line and headers.
    head: String,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header; `name` in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Sends one request to `http://address/path` and reads the answer to its end.
///
/// # Errors
/// When the connection fails, a read takes over a minute, or the answer is not HTTP.
pub(crate) fn request(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response, Error> {
    let failed = |problem: String| Error::Http {
        url: format!("http://{address}{path}"),
        problem,
    };
    let io = |error: std::io::Error| failed(error.to_string());
    let mut stream = TcpStream::connect(address).map_err(io)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .map_err(io)?;
    let mut message = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        message.push_str(&format!("{name}: {value}\r\n"));
    }
    message.push_str("\r\n");
    let mut message = message.into_bytes();
    message.extend_from_slice(body);
    stream.write_all(&message).map_err(io)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(io)?;
    parse(&answer).ok_or_else(|| failed("the answer is not HTTP".to_owned()))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    Some(Response {
        status,
        head: head.to_owned(),
        body: answer[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sends_a_request_and_reads_the_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"\r\n\r\nbody") {
                stream.read_exact(&mut byte).unwrap();
                seen.push(byte[0]);
            }
            stream
                .write_all(b"HTTP/1.1 201 Created\r\nX: y\r\n\r\nmade\r\n\r\nit")
                .unwrap();
            String::from_utf8(seen).unwrap()
        });
        let response = request("PUT", &address, "/a?b=c", &[("X-Key", "v")], b"body").unwrap();
        assert_eq!(response.status, 201);
        assert_eq!(response.header("x"), Some("y"));
        assert_eq!(response.header("z"), None);
        assert_eq!(response.body, b"made\r\n\r\nit");
        let seen = server.join().unwrap();
        assert!(seen.starts_with("PUT /a?b=c HTTP/1.0\r\n"), "{seen}");
        assert!(seen.contains("\r\nContent-Length: 4\r\n"), "{seen}");
        assert!(seen.contains("\r\nX-Key: v\r\n"), "{seen}");
    }

    #[test]
    fn an_answer_that_is_no_http_is_an_error() {
        assert!(parse(b"hello").is_none());
        assert!(parse(b"HTTP/1.1 abc\r\n\r\n").is_none());
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let error = request("GET", &address, "/x", &[], b"")
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with(&format!("http://{address}/x: ")),
            "{error}"
        );
    }
}
