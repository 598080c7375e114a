// SPDX-License-Identifier: Apache-2.0
//! What both sides agree on beforehand, and the line by which a plugin says where it listens.

use std::{borrow::Cow, fmt};

/// Version of go-plugin's own protocol; there has been no other.
pub(crate) const CORE_VERSION: &str = "1";
/// The wire protocol of this crate, as the fifth field of the line.
pub(crate) const GRPC: &str = "grpc";

/// Application versions that the host accepts, separated by commas.
pub(crate) const ENV_VERSIONS: &str = "PLUGIN_PROTOCOL_VERSIONS";
/// Range of TCP ports; read by plugins on systems without Unix sockets.
pub(crate) const ENV_MIN_PORT: &str = "PLUGIN_MIN_PORT";
/// See [`ENV_MIN_PORT`].
pub(crate) const ENV_MAX_PORT: &str = "PLUGIN_MAX_PORT";
/// Folder of the sockets that the plugin makes.
pub(crate) const ENV_SOCKET_DIR: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// Group, by name or number, that may use the plugin's sockets.
pub(crate) const ENV_SOCKET_GROUP: &str = "PLUGIN_UNIX_SOCKET_GROUP";
/// Present if the host knows of multiplexed broker connections.
pub(crate) const ENV_MULTIPLEX: &str = "PLUGIN_MULTIPLEX_GRPC";
/// Present if the host wants AutoMTLS: its certificate in PEM.
pub(crate) const ENV_CLIENT_CERT: &str = "PLUGIN_CLIENT_CERT";

/// What a host and its plugins agree on: the magic cookie and the version of the application's protocol.
///
/// The cookie is an environment variable by which a plugin notices that it was started by hand. It is no secret and
/// no protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Name of the environment variable.
    pub cookie_key: Cow<'static, str>,
    /// Its value.
    pub cookie_value: Cow<'static, str>,
    /// Version of the application's protocol, which is that of the services the plugin serves.
    pub protocol_version: u32,
}

impl Handshake {
    /// The cookie's name and value, and the application's protocol version.
    pub fn new(
        cookie_key: impl Into<Cow<'static, str>>,
        cookie_value: impl Into<Cow<'static, str>>,
        protocol_version: u32,
    ) -> Self {
        Self { cookie_key: cookie_key.into(), cookie_value: cookie_value.into(), protocol_version }
    }
}

/// The handshake line: `CORE|APP|NETWORK|ADDRESS|PROTOCOL|CERT`, with `|MULTIPLEX` if the host asked for it.
///
/// The fields are kept as text, since their checks are the reader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeLine {
    pub(crate) core: String,
    pub(crate) app: String,
    pub(crate) network: String,
    pub(crate) address: String,
    /// `None` means `netrpc`, as in plugins older than the field.
    pub(crate) protocol: Option<String>,
    /// Base64 of a DER certificate; anything of up to 50 characters is no certificate and is ignored.
    pub(crate) certificate: Option<String>,
    pub(crate) multiplex: Option<String>,
}

impl HandshakeLine {
    /// Splits the line; `None` if it has fewer than four fields.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim().split('|').map(str::to_owned);
        Some(Self {
            core: fields.next()?,
            app: fields.next()?,
            network: fields.next()?,
            address: fields.next()?,
            protocol: fields.next(),
            certificate: fields.next().filter(|text| text.len() > 50),
            multiplex: fields.next(),
        })
    }
}

impl fmt::Display for HandshakeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}|{}|{}|{}|{}|{}",
            self.core,
            self.app,
            self.network,
            self.address,
            self.protocol.as_deref().unwrap_or(GRPC),
            self.certificate.as_deref().unwrap_or_default(),
        )?;
        match &self.multiplex {
            Some(supported) => write!(f, "|{supported}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> HandshakeLine {
        HandshakeLine {
            core: "1".into(),
            app: "1".into(),
            network: "unix".into(),
            address: "/run/plugin7".into(),
            protocol: Some("grpc".into()),
            certificate: None,
            multiplex: None,
        }
    }

    #[test]
    fn the_line_ends_in_a_bar_unless_multiplexing_was_asked_about() {
        assert_eq!(line().to_string(), "1|1|unix|/run/plugin7|grpc|");
        let asked = HandshakeLine { multiplex: Some("false".into()), ..line() };
        assert_eq!(asked.to_string(), "1|1|unix|/run/plugin7|grpc||false");
    }

    #[test]
    fn lines_of_five_six_and_seven_fields_are_read() {
        for text in
            ["1|1|unix|/run/plugin7|grpc", "1|1|unix|/run/plugin7|grpc|", " 1|1|unix|/run/plugin7|grpc|extra\r\n"]
        {
            assert_eq!(HandshakeLine::parse(text), Some(line()), "{text}");
        }
        let seven = HandshakeLine::parse("1|1|unix|/run/plugin7|grpc||true").unwrap();
        assert_eq!(seven.multiplex.as_deref(), Some("true"));
        let four = HandshakeLine::parse("1|1|tcp|127.0.0.1:9").unwrap();
        assert_eq!(four.protocol, None);
    }

    #[test]
    fn fewer_than_four_fields_are_no_handshake() {
        for text in ["", "\n", "hello", "1|1|unix", "||"] {
            assert_eq!(HandshakeLine::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_long_sixth_field_is_a_certificate() {
        let text = format!("1|1|unix|/s|grpc|{}", "M".repeat(51));
        assert!(HandshakeLine::parse(&text).unwrap().certificate.is_some());
    }
}
