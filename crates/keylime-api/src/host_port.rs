// SPDX-License-Identifier: Apache-2.0
//! Where a service listens: host name or address, and port

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A host name or IP address with a port from 1 to 65535.
///
/// Parses `name:port`, `1.2.3.4:port` and `[::1]:port`; [`HostPort::new`] takes the host apart
/// from the port and accepts an IPv6 address with or without brackets. Shown with brackets around
/// an IPv6 address, as it stands in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// The text names no host and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHostPort {
    /// Neither a host name nor an address.
    #[error("{0:?} is neither a host name nor an IP address (it goes without https:// and port)")]
    Host(String),
    /// No port, zero, or more than 65535.
    #[error("{0:?} is not a port from 1 to 65535")]
    Port(String),
    /// There is no colon between host and port.
    #[error("{0:?} has no port: expected host:port, or [address]:port for IPv6")]
    NoPort(String),
}

impl HostPort {
    /// Joins host and port.
    ///
    /// # Errors
    /// The host is neither a name (letters, digits, `-`, `_`, `.`) nor an address, or the port is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidHostPort> {
        if port == 0 {
            return Err(InvalidHostPort::Port(port.to_string()));
        }
        Ok(Self { host: parse_host(host)?, port })
    }

    /// The host as text, an IPv6 address without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// True for a loopback address and the name `localhost`, which no other host answers for.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
            Host::Address(address) => address.to_canonical().is_loopback(),
        }
    }
}

fn parse_host(host: &str) -> Result<Host, InvalidHostPort> {
    let invalid = || InvalidHostPort::Host(host.to_owned());
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(invalid)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| invalid())?;
        return Ok(Host::Address(address.into()));
    }
    if let Ok(address) = host.parse() {
        return Ok(Host::Address(address));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // A last label of digits only is a mistyped address, not a name.
    let numeric = name.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > 253 || numeric || !name.split('.').all(label) {
        return Err(invalid());
    }
    Ok(Host::Name(host.to_owned()))
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_port = || InvalidHostPort::NoPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
        if host.contains(':') && !host.starts_with('[') || text.ends_with(']') {
            // A bare IPv6 address: which colon begins the port cannot be told.
            return Err(no_port());
        }
        let bad_port = || InvalidHostPort::Port(port.to_owned());
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad_port());
        }
        let number = port.parse::<u16>().map_err(|_| bad_port())?;
        Self::new(host, number).map_err(|e| match e {
            InvalidHostPort::Port(_) => bad_port(),
            other => other,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_belongs_into_a_url() {
        for (host, shown) in [
            ("127.0.0.1", "127.0.0.1:9002"),
            ("::1", "[::1]:9002"),
            ("[::1]", "[::1]:9002"),
            ("fe80::1", "[fe80::1]:9002"),
            ("verifier.example", "verifier.example:9002"),
            ("verifier.example.", "verifier.example.:9002"),
            ("my_host-1", "my_host-1:9002"),
        ] {
            assert_eq!(HostPort::new(host, 9002).unwrap().to_string(), shown);
            assert_eq!(shown.parse::<HostPort>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn refuses_the_rest_with_the_reason() {
        for (text, message) in [
            ("", "\"\" has no port: expected host:port, or [address]:port for IPv6"),
            ("host", "\"host\" has no port: expected host:port, or [address]:port for IPv6"),
            ("::1", "\"::1\" has no port: expected host:port, or [address]:port for IPv6"),
            ("[::1]", "\"[::1]\" has no port: expected host:port, or [address]:port for IPv6"),
            ("host:", "\"\" is not a port from 1 to 65535"),
            ("host:0", "\"0\" is not a port from 1 to 65535"),
            ("host:65536", "\"65536\" is not a port from 1 to 65535"),
            ("host:+1", "\"+1\" is not a port from 1 to 65535"),
            (":80", "\"\" is neither a host name nor an IP address (it goes without https:// and port)"),
            ("a b:80", "\"a b\" is neither a host name nor an IP address (it goes without https:// and port)"),
            (
                "user@host:80",
                "\"user@host\" is neither a host name nor an IP address (it goes without https:// and port)",
            ),
            (
                "host/path:80",
                "\"host/path\" is neither a host name nor an IP address (it goes without https:// and port)",
            ),
            ("a..b:80", "\"a..b\" is neither a host name nor an IP address (it goes without https:// and port)"),
            (
                "1.2.3.256:80",
                "\"1.2.3.256\" is neither a host name nor an IP address (it goes without https:// and port)",
            ),
            (
                "[1.2.3.4]:80",
                "\"[1.2.3.4]\" is neither a host name nor an IP address (it goes without https:// and port)",
            ),
            ("[::1:80", "\"[::1\" is neither a host name nor an IP address (it goes without https:// and port)"),
        ] {
            assert_eq!(text.parse::<HostPort>().unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(HostPort::new("host", 0).unwrap_err().to_string(), "\"0\" is not a port from 1 to 65535");
    }

    #[test]
    fn knows_loopback() {
        for (host, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("LocalHost", true),
            ("10.0.0.1", false),
            ("localhost.example", false),
        ] {
            assert_eq!(HostPort::new(host, 1).unwrap().is_loopback(), loopback, "{host}");
        }
    }
}
