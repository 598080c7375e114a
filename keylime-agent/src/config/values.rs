// SPDX-License-Identifier: Apache-2.0
//! How single values are written: hosts, handles, passwords, paths, modes and users.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use keylime_api::HostPort;
use service::Secret;

/// A host as configured: an IP address or a host name. IPv6 addresses are taken with and without brackets and held
/// without them, which is how the registrar's other clients send them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A DNS name.
    Name(String),
}

impl Host {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // One rule for all that is connected to; the port is any.
        let host = HostPort::new(text, 1)
            .map_err(|_| format!("expected an IP address or a host name, found '{text}'"))?
            .host();
        Ok(host.parse().map_or_else(|_| Self::Name(host), Self::Address))
    }

    /// The host and a port, as in a URL: IPv6 addresses in brackets.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        match self {
            Self::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            other => format!("{other}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The user and group to run as: names or numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// User name or number.
    pub user: String,
    /// Group name or number; without it the user's own group.
    pub group: Option<String>,
}

impl RunAs {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user.trim(), Some(group.trim().to_owned())),
            None => (text.trim(), None),
        };
        if user.is_empty() || group.as_deref().is_some_and(str::is_empty) {
            return Err(format!("expected 'user:group', found '{text}'"));
        }
        Ok(Self { user: user.to_owned(), group })
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// A persistent TPM handle in hexadecimal, `0x` optional; `generate` or nothing means none.
pub(super) fn persistent_handle(text: &str) -> Result<Option<u32>, String> {
    let text = text.trim();
    if text.is_empty() || text == "generate" {
        return Ok(None);
    }
    let digits = text.trim_start_matches("0x").trim_start_matches("0X");
    match u32::from_str_radix(digits, 16) {
        Ok(handle @ 0x8100_0000..=0x81ff_ffff) => Ok(Some(handle)),
        _ => Err(format!("expected 'generate' or a persistent handle from 0x81000000 to 0x81ffffff, found '{text}'")),
    }
}

/// As [`persistent_handle`], where there is nothing to generate.
pub(super) fn optional_handle(text: &str) -> Result<Option<u32>, String> {
    let wrong = || format!("expected nothing or a persistent handle from 0x81000000 to 0x81ffffff, found '{text}'");
    if text.trim().is_empty() {
        Ok(None)
    } else {
        persistent_handle(text).map_err(|_| wrong())?.map(Some).ok_or_else(wrong)
    }
}

/// A handle as [`persistent_handle`] takes it.
pub(super) fn show_handle(handle: &Option<u32>) -> String {
    handle.map_or_else(|| "generate".to_owned(), |handle| format!("{handle:#010x}"))
}

/// A TPM authorization value: text, or bytes written as `hex:00a1…`.
pub(super) fn authorization(secret: Secret) -> Result<Secret, &'static str> {
    match secret.expose_str().and_then(|text| text.strip_prefix("hex:")) {
        None => Ok(secret),
        Some(digits) => {
            hex::decode(digits).map(Secret::from).map_err(|_| "what follows 'hex:' must be pairs of hexadecimal digits")
        }
    }
}

/// File permission bits in octal, as chmod takes them.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.trim().trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err(format!("expected permission bits in octal from 0 to 0777, found '{text}'")),
    }
}

/// The name of a file inside a folder of ours: relative, and downwards only.
pub(super) fn name_inside(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let is_inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if text.is_empty() || !is_inside || text.ends_with('/') {
        return Err(format!("expected the name of a file inside the payload's folder, found '{text}'"));
    }
    Ok(text.to_owned())
}

/// A size as tmpfs takes it: bytes, with k, m or g for units of 1024, or with % of the memory.
pub(super) fn tmpfs_size(text: &str) -> Result<String, String> {
    let text = text.trim();
    let digits = text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', '%']).unwrap_or(text);
    // Of zero, tmpfs takes no limit.
    match digits.parse::<u64>() {
        Ok(1..) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(text.to_owned()),
        _ => Err(format!("expected a size such as 1m, 512k or 1048576, found '{text}'")),
    }
}

/// A file option: `default` is the default name, a relative path lies in `base`, an absolute one is taken as it is.
pub(super) fn path_in(base: &Path, text: &str, default: &str) -> PathBuf {
    if text == "default" || text.is_empty() { base.join(default) } else { base.join(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, shown, with_port) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1:1"),
            ("::1", "::1", "[::1]:1"),
            ("[::1]", "::1", "[::1]:1"),
            (" registrar.tower.example ", "registrar.tower.example", "registrar.tower.example:1"),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!(host.to_string(), shown);
            assert_eq!(host.with_port(1), with_port);
        }
        for text in ["", "a b", "http://a", "a..b", "[a]", "10.0.0.300", &"a".repeat(254)] {
            assert_eq!(
                Host::parse(text).unwrap_err(),
                format!("expected an IP address or a host name, found '{text}'")
            );
        }
    }

    #[test]
    fn users() {
        assert_eq!(RunAs::parse("keylime:tss").unwrap().to_string(), "keylime:tss");
        assert_eq!(RunAs::parse("keylime").unwrap().group, None);
        for text in ["", ":tss", "keylime:"] {
            assert_eq!(RunAs::parse(text).unwrap_err(), format!("expected 'user:group', found '{text}'"));
        }
    }

    #[test]
    fn handles() {
        assert_eq!(persistent_handle("generate"), Ok(None));
        assert_eq!(persistent_handle(""), Ok(None));
        assert_eq!(persistent_handle("0x81010001"), Ok(Some(0x8101_0001)));
        assert_eq!(persistent_handle("81010001"), Ok(Some(0x8101_0001)));
        for text in ["0x80000001", "x", "0x181010001"] {
            assert_eq!(
                persistent_handle(text).unwrap_err(),
                format!("expected 'generate' or a persistent handle from 0x81000000 to 0x81ffffff, found '{text}'")
            );
        }
    }

    #[test]
    fn authorizations() {
        let of = |text: &str| authorization(Secret::from(text));
        assert_eq!(of("owner").unwrap().expose(), b"owner");
        assert_eq!(of("hex:00a1").unwrap().expose(), [0, 0xa1]);
        assert_eq!(of("hex:0").unwrap_err(), "what follows 'hex:' must be pairs of hexadecimal digits");
    }

    #[test]
    fn modes() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("0o600"), Ok(0o600));
        for text in ["", "rw", "1777", "8"] {
            assert_eq!(
                mode(text).unwrap_err(),
                format!("expected permission bits in octal from 0 to 0777, found '{text}'")
            );
        }
    }

    #[test]
    fn names_inside() {
        for text in ["autorun.sh", "scripts/run", ".hidden"] {
            assert_eq!(name_inside(text).as_deref(), Ok(text));
        }
        for text in ["", "/bin/sh", "../x", "a/../../x", "./x", "a/"] {
            assert_eq!(
                name_inside(text).unwrap_err(),
                format!("expected the name of a file inside the payload's folder, found '{text}'")
            );
        }
    }

    #[test]
    fn sizes() {
        for text in ["1m", "512k", "1048576", "2G", "10%"] {
            assert_eq!(tmpfs_size(text).as_deref(), Ok(text));
        }
        for text in ["", "m", "0", "0m", "1m,mode=0777", "-1", "+1", "1 m", "1t"] {
            assert_eq!(
                tmpfs_size(text).unwrap_err(),
                format!("expected a size such as 1m, 512k or 1048576, found '{text}'")
            );
        }
    }

    #[test]
    fn paths() {
        let of = |text| path_in(Path::new("/var/lib/keylime"), text, "x.pem");
        assert_eq!(of("default"), Path::new("/var/lib/keylime/x.pem"));
        assert_eq!(of(""), Path::new("/var/lib/keylime/x.pem"));
        assert_eq!(of("y.pem"), Path::new("/var/lib/keylime/y.pem"));
        assert_eq!(of("/etc/y.pem"), Path::new("/etc/y.pem"));
    }
}
