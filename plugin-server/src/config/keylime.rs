// SPDX-License-Identifier: Apache-2.0
//! The options about Keylime's servers: where they are, and the TLS files for all of them.

use std::path::PathBuf;
use std::sync::Arc;

use keylime_api::pool::{MAX_MEMBERS, RegistrarPool, VerifierPool};
use keylime_api::registrar::RegistrarClient;
use keylime_api::verifier::VerifierClient;
use keylime_api::{HostPort, HttpSettings};
use spire_plugin::{LoadedCertificate, Options, TlsFiles, TlsOptions};
use tls::rustls::ClientConfig;
use tls::{ClientTls, Identity, Trust};

/// The options that TLS is built from.
const TLS: TlsOptions = TlsOptions {
    ca: "keylime_tls_ca_cert_file",
    certificate: "keylime_tls_cert_file",
    key: "keylime_tls_key_file",
    // There is no option for another name.
    server_name: "keylime_tls_ca_cert_file",
};

/// Clients of the servers, and what is to be known of the files they were made from.
pub(super) struct Keylime {
    pub(super) verifiers: VerifierPool,
    pub(super) registrars: RegistrarPool,
    pub(super) files: Vec<PathBuf>,
    pub(super) certificates: Vec<LoadedCertificate>,
    pub(super) warnings: Vec<String>,
}

impl Keylime {
    /// Reads the options; `None` after a problem.
    pub(super) fn read(options: &mut Options, http: HttpSettings) -> Option<Self> {
        let servers = Servers::read(options);
        // Where the verifier leaves what it makes at its first start; the Go plugin's defaults too.
        let ca = PathBuf::from(options.string(TLS.ca, "/var/lib/keylime/cv_ca/cacert.crt"));
        let cert = PathBuf::from(options.string(TLS.certificate, "/var/lib/keylime/cv_ca/server-cert.crt"));
        let key = PathBuf::from(options.string(TLS.key, "/var/lib/keylime/cv_ca/server-private.pem"));
        let tls = ClientTls {
            ca: Trust::Files(vec![ca]),
            identity: Some(Identity { cert, key, password: None }),
            server_name: None,
        };
        let tls = TLS.load(&tls, options);
        let (servers, TlsFiles { client, files, certificates, warnings }) = (servers?, tls?);
        let (verifiers, registrars) = servers.clients(&client, http).map_err(|error| options.problem(error)).ok()?;
        Some(Self { verifiers, registrars, files, certificates, warnings })
    }
}

/// Where the servers are.
struct Servers {
    verifiers: Vec<HostPort>,
    registrars: Vec<HostPort>,
}

impl Servers {
    fn read(options: &mut Options) -> Option<Self> {
        let verifiers = list(options, "keylime_verifiers");
        let registrars = list(options, "keylime_registrars");
        let verifier_host = options.optional_string("keylime_verifier_host");
        let verifier_port = options.optional_port("keylime_verifier_port");
        let registrar_host = options.optional_string("keylime_registrar_host");
        let registrar_port = options.optional_port("keylime_registrar_port");
        for (list, single) in [
            ("keylime_verifiers", "keylime_verifier_host"),
            ("keylime_verifiers", "keylime_verifier_port"),
            ("keylime_registrars", "keylime_registrar_host"),
            ("keylime_registrars", "keylime_registrar_port"),
        ] {
            options.exclude(single, list, "name every server in the list, as host:port");
        }
        let first_verifier = verifiers.as_ref().and_then(|list| list.as_ref().ok()?.first().map(HostPort::host));
        let verifier_host = verifier_host.unwrap_or_else(|| "127.0.0.1".to_owned());
        let default_host = first_verifier.unwrap_or_else(|| verifier_host.clone());
        let verifiers = verifiers.unwrap_or_else(|| {
            single(options, "keylime_verifier_host", &verifier_host, verifier_port.unwrap_or(8881), true)
        });
        let registrars = registrars.unwrap_or_else(|| {
            // One mistyped host is one problem, also where the registrar's is taken from the verifier's.
            let own = registrar_host.as_ref().is_some_and(|host| *host != default_host);
            let host = registrar_host.unwrap_or(default_host);
            single(options, "keylime_registrar_host", &host, registrar_port.unwrap_or(8891), own)
        });
        Some(Self { verifiers: verifiers.ok()?, registrars: registrars.ok()? })
    }

    fn clients(self, tls: &Arc<ClientConfig>, http: HttpSettings) -> Result<(VerifierPool, RegistrarPool), String> {
        let verifier = |at| VerifierClient::new(at, Arc::clone(tls), http).map_err(|error| error.to_string());
        let registrar = |at| RegistrarClient::new(at, Arc::clone(tls), http).map_err(|error| error.to_string());
        let verifiers = self.verifiers.into_iter().map(verifier).collect::<Result<_, _>>()?;
        let registrars = self.registrars.into_iter().map(registrar).collect::<Result<_, _>>()?;
        let verifiers = VerifierPool::new(verifiers).map_err(|error| error.to_string())?;
        let registrars = RegistrarPool::new(registrars).map_err(|error| error.to_string())?;
        Ok((verifiers, registrars))
    }
}

/// A problem has been noted.
struct Noted;

fn single(options: &mut Options, key: &str, host: &str, port: u16, report: bool) -> Result<Vec<HostPort>, Noted> {
    HostPort::new(host, port).map(|at| vec![at]).map_err(|error| {
        if report {
            options.problem(format!("`{key}`: {error}"));
        }
        Noted
    })
}

/// A list of servers, `None` if it is not given.
fn list(options: &mut Options, key: &'static str) -> Option<Result<Vec<HostPort>, Noted>> {
    let texts = options.strings(key)?;
    let mut servers: Vec<HostPort> = Vec::new();
    let mut sound = true;
    for text in &texts {
        match text.parse() {
            Ok(server) if servers.contains(&server) => {
                options.problem(format!("`{key}`: {server} is given twice"));
                sound = false;
            }
            Ok(server) => servers.push(server),
            Err(error) => {
                options.problem(format!("`{key}`: {error}"));
                sound = false;
            }
        }
    }
    if texts.is_empty() || texts.len() > MAX_MEMBERS {
        options.problem(format!("`{key}`: found {} servers, allowed are 1 to {MAX_MEMBERS}", texts.len()));
        sound = false;
    }
    Some(if sound { Ok(servers) } else { Err(Noted) })
}
