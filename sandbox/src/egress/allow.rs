//! What a sandbox may reach: the entries of `network` in the registry.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The ports of an entry that names none.
const PORTS: [u16; 2] = [443, 80];

/// A list of hosts, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    host: Host,
    /// Any of [`PORTS`] when there is none.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// This very name, in lower case.
    Name(String),
    /// The names below this one, in lower case and with the dot before it.
    Below(String),
    Address(IpAddr),
}

impl Allowed {
    /// Reads entries: `github.com`, `*.example.com`, `10.0.0.7`, `[fd00::7]`, each
    /// with a port behind a colon or without one.
    ///
    /// # Errors
    /// A sentence that names the entry which is none of these.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let entries = entries
            .into_iter()
            .map(|text| {
                Entry::parse(text).ok_or_else(|| {
                    format!(
                        "`network` has `{text}`; it takes host names and addresses, each with a port or \
                         without (`github.com`, `*.example.com`, `10.0.0.7:8080`)"
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// Whether this host, as a client names it, may be reached on this port.
    pub fn host(&self, host: &str, port: u16) -> bool {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let address = address(&name);
        self.entries.iter().any(|entry| {
            entry.fits(port)
                && match (&entry.host, address) {
                    (Host::Name(own), None) => *own == name,
                    (Host::Below(parent), None) => {
                        name.len() > parent.len() && name.ends_with(parent.as_str())
                    }
                    (Host::Address(own), Some(asked)) => *own == asked,
                    _ => false,
                }
        })
    }

    /// The addresses and ports that a filter has to let through which knows no names:
    /// an entry with a name may be anywhere, so it has no address.
    pub fn for_a_filter(&self) -> BTreeSet<(Option<IpAddr>, u16)> {
        let of = |entry: &Entry| {
            let address = match entry.host {
                Host::Address(address) => Some(address),
                Host::Name(_) | Host::Below(_) => None,
            };
            let ports = entry.port.map_or_else(|| PORTS.to_vec(), |port| vec![port]);
            ports.into_iter().map(move |port| (address, port))
        };
        self.entries.iter().flat_map(of).collect()
    }

    /// Whether an allowed name may lead to this address. Those that are not on the
    /// public internet have to be listed themselves, or the owner of a listed name
    /// could point it at what is near this machine.
    pub fn leads_to(&self, address: IpAddr, port: u16) -> bool {
        is_public(address)
            || self.entries.iter().any(|entry| {
                entry.host == Host::Address(address.to_canonical()) && entry.fits(port)
            })
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = split_port(text)?;
        let host = host.to_ascii_lowercase();
        let host = match (address(&host), host.strip_prefix("*.")) {
            (Some(address), _) => Host::Address(address),
            (None, Some(parent)) if is_name(parent) => Host::Below(format!(".{parent}")),
            (None, None) if is_name(&host) => Host::Name(host),
            _ => return None,
        };
        Some(Self { host, port })
    }

    fn fits(&self, port: u16) -> bool {
        match self.port {
            Some(own) => own == port,
            None => PORTS.contains(&port),
        }
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, taken apart. Without brackets what
/// has several colons is an IPv6 address.
pub(super) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let number = |port: &str| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .then(|| port.parse::<u16>().ok())
            .flatten()
            .filter(|port| *port > 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(number(port)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some(_) if text.parse::<Ipv6Addr>().is_ok() => Some((text, None)),
        Some((host, port)) => Some((host, Some(number(port)?))),
    }
}

/// An address in any of the spellings that a resolver would take for one: those with
/// fewer dots, in octal or hexadecimal, must not pass for a name.
fn address(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    // A name whose last part is a number is one of the odd spellings of an address.
    let numeric = text.rsplit('.').next().is_some_and(|last| {
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x")
    });
    text.len() <= 253 && text.split('.').all(label) && !numeric
}

/// Whether an address is on the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let [.., a, b, c, d] = v6.octets();
            let inner = Ipv4Addr::new(a, b, c, d);
            let embedded = match (first, second) {
                // Translated (64:ff9b::/96) and IPv4-compatible (::/96).
                (0x64, 0xff9b) | (0, 0) => Some(inner),
                // 6to4 has its address further up.
                (0x2002, _) => {
                    let [_, _, a, b, c, d, ..] = v6.octets();
                    Some(Ipv4Addr::new(a, b, c, d))
                }
                _ => None,
            };
            // 2000::/3 is what is given out, and 2001::/32 is a tunnel in it.
            let given_out = first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0);
            embedded.map_or(given_out, is_public_v4)
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let own = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_multicast()
        // This network, carriers' own, protocol assignments, benchmarks, reserved.
        || a == 0
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18)
        || a >= 240;
    !own
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn allowed(entries: &[&str]) -> Allowed {
        Allowed::parse(entries.iter().copied()).unwrap()
    }

    #[test]
    fn a_name_is_meant_exactly_and_a_star_means_what_is_below() {
        let list = allowed(&["GitHub.com", "*.example.com", "api.test:8443"]);
        for (host, port) in [
            ("github.com", 443),
            ("github.com.", 80),
            ("GITHUB.COM", 443),
            ("a.example.com", 443),
            ("a.b.example.com", 80),
            ("api.test", 8443),
        ] {
            assert!(list.host(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("github.com", 22),
            ("x.github.com", 443),
            ("github.com.evil.test", 443),
            ("example.com", 443),
            (".example.com", 443),
            ("badexample.com", 443),
            ("api.test", 443),
            ("", 443),
            ("140.82.121.4", 443),
        ] {
            assert!(!list.host(host, port), "{host}:{port}");
        }
    }

    #[test]
    fn an_address_has_to_be_listed() {
        let list = allowed(&["10.0.0.7:8080", "[fd00::7]", "fd00::8"]);
        assert!(list.host("10.0.0.7", 8080));
        assert!(list.host("::ffff:10.0.0.7", 8080));
        assert!(!list.host("10.0.0.7", 443));
        assert!(list.host("fd00::7", 443));
        assert!(list.host("fd00::8", 80));
        assert!(!list.host("fd00::9", 443));
    }

    #[test]
    fn an_allowed_name_cannot_lead_inside() {
        let list = allowed(&["inside.test", "10.0.0.7", "127.0.0.1:81"]);
        let leads = |address: &str, port| list.leads_to(address.parse().unwrap(), port);
        assert!(leads("140.82.121.4", 443));
        assert!(leads("2606:4700::1111", 443));
        assert!(leads("10.0.0.7", 443));
        assert!(leads("::ffff:10.0.0.7", 443));
        assert!(leads("127.0.0.1", 81));
        for inside in [
            "10.0.0.8",
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "172.17.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:0:1::",
        ] {
            assert!(!leads(inside, 443), "{inside}");
        }
    }

    #[test]
    fn what_is_neither_name_nor_address_is_refused() {
        for bad in [
            "",
            "*",
            "*.",
            "a..b",
            "https://github.com",
            "github.com/x",
            "10.0.0.0/8",
            "a b",
            "github.com:",
            "github.com:0",
            "github.com:70000",
            "github.com:+1",
            "*.*.com",
            "127.1",
            "0x7f000001",
            "2130706433",
            "[10.0.0.1]",
            "[::1",
        ] {
            assert!(Allowed::parse([bad]).is_err(), "{bad}");
        }
    }
}
