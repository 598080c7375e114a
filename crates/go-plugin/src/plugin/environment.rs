// SPDX-License-Identifier: Apache-2.0
//! What the host tells the plugin through environment variables.

use std::{ffi::OsString, path::PathBuf};

use crate::handshake::{ENV_CLIENT_CERT, ENV_MULTIPLEX, ENV_SOCKET_DIR, ENV_SOCKET_GROUP, ENV_VERSIONS};

/// The variables that concern a gRPC plugin on a Unix socket. An empty variable counts as absent, as in Go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) socket_dir: Option<PathBuf>,
    pub(crate) socket_group: Option<String>,
    /// The host wants to know whether broker connections may be multiplexed.
    pub(crate) asks_for_multiplexing: bool,
    /// The host wants AutoMTLS.
    pub(crate) client_certificate: bool,
    /// Application versions that the host accepts, `None` from a host too old to say.
    versions: Option<String>,
}

impl Environment {
    /// Reads the variables through `lookup`.
    pub(crate) fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = |name| lookup(name).filter(|value| !value.is_empty());
        let text = |name| value(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            socket_dir: value(ENV_SOCKET_DIR).map(PathBuf::from),
            socket_group: text(ENV_SOCKET_GROUP),
            asks_for_multiplexing: value(ENV_MULTIPLEX).is_some(),
            client_certificate: value(ENV_CLIENT_CERT).is_some(),
            versions: text(ENV_VERSIONS),
        }
    }

    /// Whether the host accepts `version`, and the parts of its list that are no numbers.
    ///
    /// A plugin picks the highest common version, and answers with its lowest if there is none. This one has a
    /// single version, so it answers with that in either case and leaves it to the host to refuse.
    fn accepts(&self, version: u32) -> (bool, Vec<&str>) {
        let Some(versions) = &self.versions else {
            return (true, Vec::new());
        };
        let mut accepted = false;
        let mut rejected = Vec::new();
        for part in versions.split(',') {
            match part.parse::<i64>() {
                Ok(offered) => accepted |= offered == i64::from(version),
                Err(_) => rejected.push(part),
            }
        }
        (accepted, rejected)
    }

    /// Says in the log why the host is about to refuse this plugin, if it is.
    pub(crate) fn warn_of_version(&self, version: u32) {
        let (accepted, rejected) = self.accepts(version);
        for part in rejected {
            tracing::warn!(part, "{ENV_VERSIONS} has a part that is no number");
        }
        if !accepted {
            tracing::error!(
                version,
                accepted = self.versions,
                "the host does not accept this plugin's protocol version"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        Environment::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn empty_variables_count_as_absent() {
        let empty = read(&[
            ("PLUGIN_UNIX_SOCKET_DIR", ""),
            ("PLUGIN_UNIX_SOCKET_GROUP", ""),
            ("PLUGIN_MULTIPLEX_GRPC", ""),
            ("PLUGIN_CLIENT_CERT", ""),
            ("PLUGIN_PROTOCOL_VERSIONS", ""),
        ]);
        assert_eq!(empty, Environment::default());
    }

    #[test]
    fn variables_are_read() {
        let environment = read(&[
            ("PLUGIN_UNIX_SOCKET_DIR", "/run/kv"),
            ("PLUGIN_UNIX_SOCKET_GROUP", "kv"),
            ("PLUGIN_MULTIPLEX_GRPC", "false"),
            ("PLUGIN_CLIENT_CERT", "-----BEGIN"),
        ]);
        assert_eq!(environment.socket_dir, Some("/run/kv".into()));
        assert_eq!(environment.socket_group.as_deref(), Some("kv"));
        assert!(environment.asks_for_multiplexing, "set at all is enough");
        assert!(environment.client_certificate);
    }

    #[test]
    fn versions_are_a_list_in_any_order() {
        for (versions, accepted, rejected) in [
            ("1", true, vec![]),
            ("3,1,2", true, vec![]),
            ("2,3", false, vec![]),
            ("x,1,", true, vec!["x", ""]),
            ("-1", false, vec![]),
        ] {
            let environment = read(&[("PLUGIN_PROTOCOL_VERSIONS", versions)]);
            assert_eq!(environment.accepts(1), (accepted, rejected), "{versions}");
        }
        assert_eq!(Environment::default().accepts(1), (true, vec![]));
    }
}
