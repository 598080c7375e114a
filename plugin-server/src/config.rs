// SPDX-License-Identifier: Apache-2.0
//! The options in the plugin's HCL block, and the clients built from them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keylime_api::registrar::RegistrarClient;
use keylime_api::verifier::VerifierClient;
use keylime_api::{HostPort, HttpSettings};
use spire_plugin::{CoreConfig, Options, PluginConfig, TrustDomain};
use tls::{ClientTls, Identity, Subject, TlsWarning, Trust};
use tracing::{info, warn};

/// Bounds of every call to the verifier and the registrar.
const HTTP: HttpSettings = HttpSettings {
    connect_timeout: Duration::from_secs(3),
    total_timeout: Duration::from_secs(10),
    // A verifier's record of a host carries its whole TPM policy.
    max_body: 1 << 20,
};

/// What `maximum_attestation_interval` may be: shorter than a quote interval would refuse every
/// host now and then, longer than a day would be no check.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// One accepted configuration. An attestation keeps the one it started with.
#[derive(Debug)]
pub struct ServerConfig {
    /// The trust domain that identities are made in.
    pub trust_domain: TrustDomain,
    /// The verifier that vouches for hosts.
    pub verifier: VerifierClient,
    /// The registrar that knows their AKs.
    pub registrar: RegistrarClient,
    /// How old the verifier's last success may be; without it, what the verifier itself says.
    pub maximum_attestation_interval: Option<Duration>,
    warnings: Vec<TlsWarning>,
}

impl PluginConfig for ServerConfig {
    fn build(core: &CoreConfig, options: &mut Options) -> Option<Self> {
        let verifier_host = options.string("keylime_verifier_host", "127.0.0.1");
        let verifier = HostPort::new(&verifier_host, options.port("keylime_verifier_port", 8881));
        let registrar_host = options.string("keylime_registrar_host", &verifier_host);
        let registrar = HostPort::new(&registrar_host, options.port("keylime_registrar_port", 8891));
        // Where the verifier leaves what it makes at its first start; the Go plugin's defaults too.
        let ca = options.string("keylime_tls_ca_cert_file", "/var/lib/keylime/cv_ca/cacert.crt");
        let cert = options.string("keylime_tls_cert_file", "/var/lib/keylime/cv_ca/server-cert.crt");
        let key = options.string("keylime_tls_key_file", "/var/lib/keylime/cv_ca/server-private.pem");
        let maximum_attestation_interval = options.optional_duration("maximum_attestation_interval", INTERVALS);

        let tls = ClientTls {
            ca: Trust::Files(vec![PathBuf::from(ca)]),
            identity: Some(Identity { cert: cert.into(), key: key.into(), password: None }),
            server_name: None,
        };
        let client = tls.try_build().map_err(|problems| {
            for problem in problems {
                let option = match problem.subject() {
                    Subject::Certificate => "keylime_tls_cert_file",
                    Subject::Key => "keylime_tls_key_file",
                    _ => "keylime_tls_ca_cert_file",
                };
                options.problem(format!("`{option}`: {problem}"));
            }
        });
        let verifier = verifier.map_err(|error| options.problem(format!("`keylime_verifier_host`: {error}"))).ok();
        // One mistyped host is one problem, also where the registrar's is taken from the verifier's.
        let registrar = match registrar {
            Err(error) if registrar_host != verifier_host => {
                options.problem(format!("`keylime_registrar_host`: {error}"));
                None
            }
            registrar => registrar.ok(),
        };
        if !options.ok() {
            return None;
        }
        let (client, verifier, registrar) = (client.ok()?, verifier?, registrar?);
        let verifier = VerifierClient::new(verifier, Arc::clone(&client), HTTP);
        let registrar = RegistrarClient::new(registrar, client, HTTP);
        match (verifier, registrar) {
            (Ok(verifier), Ok(registrar)) => Some(Self {
                trust_domain: core.trust_domain.clone(),
                verifier,
                registrar,
                maximum_attestation_interval,
                warnings: tls.warnings(),
            }),
            (verifier, registrar) => {
                for error in [verifier.err(), registrar.err()].into_iter().flatten() {
                    options.problem(error.to_string());
                }
                None
            }
        }
    }

    /// Connects to both neighbours, so that the first attestation finds the connections open and
    /// an operator finds a wrong address in the log before a node does.
    async fn configured(self: Arc<Self>) {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        let (verifier, registrar) = tokio::join!(self.verifier.warm_up(), self.registrar.warm_up());
        for (neighbour, outcome) in [("verifier", verifier), ("registrar", registrar)] {
            match outcome {
                Ok(version) => info!(neighbour, api_version = %version, "Connected to Keylime"),
                Err(error) => warn!(neighbour, %error, "Keylime cannot be reached yet; each attestation tries again"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
