// SPDX-License-Identifier: Apache-2.0
//! The options in the plugin's HCL block, and the client built from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keylime_api::agent::{AgentClient, Transport};
use keylime_api::{HostPort, HttpSettings};
use spire_plugin::options::plugins;
use spire_plugin::{CoreConfig, LoadedCertificate, Options, PluginConfig, TlsFiles, TlsOptions, TrustDomain};
use tls::{ClientTls, Identity, Trust};
use tracing::{info, warn};

/// Bounds of every call to the Keylime agent. A quote waits for its turn at the TPM.
const HTTP: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(3),
    total_timeout: Duration::from_secs(20),
    // An identity quote is about 3 KiB; integrity quotes have a bound of their own.
    max_body: 256 << 10,
};

/// The options that TLS is built from.
const TLS: TlsOptions = TlsOptions {
    ca: "keylime_agent_ca_cert",
    certificate: "keylime_agent_client_cert",
    key: "keylime_agent_client_key",
    server_name: "keylime_agent_server_name",
};

/// One accepted configuration. An attestation keeps the one it started with.
#[derive(Debug)]
pub struct AgentConfig {
    /// The Keylime agent of this host.
    pub client: AgentClient,
    /// The trust domain of the SPIRE agent, which the nonce is bound to.
    pub trust_domain: TrustDomain,
    /// No quote over a nonce that the SPIRE server chose alone.
    pub require_agent_nonce: bool,
    files: Files,
}

/// What is to be known of the files, and of the options, besides the client built from them.
#[derive(Debug, Default)]
struct Files {
    watched: Vec<PathBuf>,
    certificates: Vec<LoadedCertificate>,
    warnings: Vec<String>,
}

impl AgentConfig {
    /// As [`PluginConfig::build`], with bounds of the calls to the Keylime agent other than the usual ones.
    pub fn build_within(core: &CoreConfig, options: &mut Options, http: HttpSettings) -> Option<Self> {
        options.tell_from(&plugins::SERVER);
        let require_agent_nonce = options.boolean("require_agent_nonce", false);
        let unix_socket = options.optional_string("keylime_agent_unix_socket");
        let network = Network::read(options);
        let mut files = Files::default();
        let transport = match unix_socket {
            Some(path) => {
                for given in network.given() {
                    options.problem(format!(
                        "`{given}` and `keylime_agent_unix_socket` exclude each other: the socket is reached without network and TLS"
                    ));
                }
                if !path.starts_with('/') {
                    options.refuse("keylime_agent_unix_socket", &path, "an absolute path");
                }
                Some(Transport::UnixSocket(path.into()))
            }
            None => network.transport(options, &mut files),
        };
        if !options.ok() {
            return None;
        }
        match AgentClient::new(&transport?, http) {
            Ok(client) => Some(Self { client, trust_domain: core.trust_domain.clone(), require_agent_nonce, files }),
            Err(error) => {
                options.problem(error.to_string());
                None
            }
        }
    }
}

impl PluginConfig for AgentConfig {
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self> {
        Self::build_within(core, options, HTTP)
    }

    fn watched_files(&self) -> Vec<PathBuf> {
        self.files.watched.clone()
    }

    fn certificates(&self) -> Vec<LoadedCertificate> {
        self.files.certificates.clone()
    }

    /// Connects, so that the first attestation finds the connection open and an operator finds a
    /// wrong address in the log.
    async fn configured(self: Arc<Self>) {
        for warning in &self.files.warnings {
            warn!("{warning}");
        }
        match self.client.version().await {
            Ok(version) => info!(api_version = %version, "Connected to the Keylime agent"),
            Err(error) => warn!(%error, "The Keylime agent cannot be reached yet; each attestation tries again"),
        }
    }
}

/// `keylime_agent_use_tls`. One that cannot be read has had its problem, and was not meant to switch TLS off.
fn use_tls(options: &mut Options) -> bool {
    let sound = options.ok();
    let read = options.boolean("keylime_agent_use_tls", false);
    read || sound && !options.ok()
}

/// The options of a Keylime agent that is reached over the network.
struct Network {
    host: Option<String>,
    port: Option<u16>,
    use_tls: bool,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    server_name: Option<String>,
    insecure_plain_http: bool,
}

impl Network {
    fn read(options: &mut Options) -> Self {
        Self {
            host: options.optional_string("keylime_agent_host"),
            port: options.optional_port("keylime_agent_port"),
            use_tls: use_tls(options),
            ca: options.optional_string(TLS.ca),
            cert: options.optional_string(TLS.certificate),
            key: options.optional_string(TLS.key),
            server_name: options.optional_string(TLS.server_name),
            insecure_plain_http: options.boolean("insecure_plain_http", false),
        }
    }

    /// The options that were set, by name.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("keylime_agent_host", self.host.is_some()),
            ("keylime_agent_port", self.port.is_some()),
            ("keylime_agent_use_tls", self.use_tls),
            ("insecure_plain_http", self.insecure_plain_http),
        ]
        .into_iter()
        .chain(self.tls_files())
        .filter_map(|(name, given)| given.then_some(name))
    }

    /// The options that mean nothing without TLS, and whether each was set.
    fn tls_files(&self) -> [(&'static str, bool); 4] {
        [
            (TLS.ca, self.ca.is_some()),
            (TLS.certificate, self.cert.is_some()),
            (TLS.key, self.key.is_some()),
            (TLS.server_name, self.server_name.is_some()),
        ]
    }

    fn transport(self, options: &mut Options, told: &mut Files) -> Option<Transport> {
        let host = self.host.as_deref().unwrap_or("127.0.0.1");
        let at = HostPort::new(host, self.port.unwrap_or(9002))
            .map_err(|error| options.problem(format!("`keylime_agent_host`: {error}")))
            .ok();
        if self.use_tls { self.tls(at, options, told) } else { self.plain(at, options, told) }
    }

    fn plain(self, at: Option<HostPort>, options: &mut Options, told: &mut Files) -> Option<Transport> {
        for (name, given) in self.tls_files() {
            if given {
                options.problem(format!(
                    "`{name}` is set but `keylime_agent_use_tls` is not `true`: set it, or remove `{name}`"
                ));
            }
        }
        let at = at?;
        if !at.is_loopback() && !self.insecure_plain_http {
            options.problem(format!(
                "`keylime_agent_use_tls`: plain HTTP to {at}, which is not this host, lets anybody on the way attest as it: \
                 set it to `true`, or accept that with `insecure_plain_http = true`"
            ));
        }
        told.warnings.push(format!(
            "The Keylime agent at {at} is reached over plain HTTP: whoever can reach that port, or stands on the way, \
             can attest as this host. Use keylime_agent_use_tls or keylime_agent_unix_socket."
        ));
        Some(Transport::PlainHttp(at))
    }

    fn tls(self, at: Option<HostPort>, options: &mut Options, told: &mut Files) -> Option<Transport> {
        if self.insecure_plain_http {
            options.problem("`insecure_plain_http` contradicts `keylime_agent_use_tls = true`: remove it");
        }
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some(Identity { cert: cert.into(), key: key.into(), password: None }),
            (None, None) => None,
            _ => {
                options.problem(
                    "`keylime_agent_client_cert` and `keylime_agent_client_key` go together: set both or neither",
                );
                None
            }
        };
        if identity.is_none() {
            told.warnings.push(
                "No keylime_agent_client_cert is set: a Keylime agent with mTLS, which is the default, refuses the \
                 connection."
                    .to_owned(),
            );
        }
        let ca = self.ca.map_or(Trust::SystemRoots, |ca| Trust::Files(vec![PathBuf::from(ca)]));
        let tls = ClientTls { ca, identity, server_name: self.server_name };
        let TlsFiles { client, files, certificates, warnings } = TLS.load(&tls, options)?;
        told.watched = files;
        told.certificates = certificates;
        told.warnings.extend(warnings);
        Some(Transport::Tls(at?, client))
    }
}

#[cfg(test)]
mod tests;
