// SPDX-License-Identifier: Apache-2.0
//! TLS settings of a client

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::key::{identity_warnings, load_identity};
use crate::trust::TrustSet;
use crate::verify::ServerVerifier;
use crate::{TlsError, TlsWarning, provider};

/// What servers are trusted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The trusted certificates of the operating system.
    SystemRoots,
    /// PEM files, each with one or more certificates. One that is an authority vouches for what it
    /// issued; and every one, authority or not, is accepted itself when a server presents exactly
    /// it (pinned), whatever its names and its signature. Must not be empty.
    Files(Vec<PathBuf>),
}

/// The certificate and key that we present to peers.
#[derive(Clone)]
pub struct Identity {
    /// PEM file with our certificate, then the intermediates to send along.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Password of the key; needed if, and used only if, the key is encrypted.
    pub password: Option<Zeroizing<String>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .finish()
    }
}

/// TLS settings of a client: TLS 1.2 and 1.3, session resumption on.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// What servers are trusted by.
    pub ca: Trust,
    /// Our certificate, if the server asks for one.
    pub identity: Option<Identity>,
    /// Check the server's certificate against this host name or IP address instead of the one in
    /// the URL. The name sent in the handshake stays that of the URL.
    pub server_name: Option<String>,
}

/// What the files and the name of a [`ClientTls`] come to.
struct Parts {
    trust: TrustSet,
    name: Option<ServerName<'static>>,
    identity: Option<Arc<CertifiedKey>>,
}

impl ClientTls {
    /// Reads the files and checks them.
    ///
    /// # Errors
    /// A file cannot be used; the text names it and what to do. There may be more than this one,
    /// see [`ClientTls::try_build`].
    pub fn build(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.try_build().map_err(first)
    }

    /// As [`ClientTls::build`], for reports that name everything that has to be put right.
    ///
    /// # Errors
    /// Each file that cannot be used; never an empty list.
    pub fn try_build(&self) -> Result<Arc<ClientConfig>, Vec<TlsError>> {
        self.load()?.build().map_err(|error| vec![error])
    }

    /// The error is never empty.
    fn load(&self) -> Result<Parts, Vec<TlsError>> {
        let mut problems = Vec::new();
        let trust = match &self.ca {
            Trust::SystemRoots => TrustSet::from_system().map_err(|problem| problems.push(problem)).ok(),
            Trust::Files(files) => TrustSet::from_files(files, &mut problems),
        };
        let name = self.server_name.as_ref().and_then(|name| match ServerName::try_from(name.as_str()) {
            Ok(valid) => Some(valid.to_owned()),
            Err(_) => {
                problems.push(TlsError::BadServerName { name: name.clone() });
                None
            }
        });
        let identity = self.identity.as_ref().and_then(|id| load_identity(id, &mut problems));
        match trust {
            Some(trust) if problems.is_empty() => Ok(Parts { trust, name, identity }),
            _ => Err(problems),
        }
    }

    /// What should be changed although it works: the caller logs these once, at start.
    pub fn warnings(&self) -> Vec<TlsWarning> {
        self.identity.as_ref().map_or_else(Vec::new, |id| identity_warnings(&id.cert, &id.key))
    }
}

impl Parts {
    fn build(self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = provider();
        let verifier = ServerVerifier::new(self.trust, provider.clone(), self.name)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Settings { source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Arc::new(match self.identity {
            None => builder.with_no_client_auth(),
            Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
        }))
    }
}

/// The problem to report where only one can be.
pub(crate) fn first(problems: Vec<TlsError>) -> TlsError {
    problems.into_iter().next().expect("what cannot be loaded comes with a problem")
}

/// Settings that accept no server at all, for clients that speak plain HTTP but whose HTTP library
/// wants to be given something.
pub fn trust_nobody() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;
    use crate::testing::{Site, testdata};

    #[test]
    fn all_problems_are_reported_each_with_its_subject() {
        let site = Site::new();
        let garbage = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let bad_certificate = Identity {
            cert: site.file("bad.crt", garbage),
            key: testdata("encrypted-aes.pem"),
            password: Some(Zeroizing::new("wrong".to_owned())),
        };
        let foreign_key = Identity { cert: site.client.0.clone(), key: site.server.1.clone(), password: None };
        let missing_ca = site.scratch.join("none.crt");
        let bad_ca = site.file("ca-garbage.crt", garbage);
        for (tls, subjects) in [
            (site.client_tls(), vec![]),
            (
                ClientTls {
                    ca: Trust::Files(vec![missing_ca, site.ca_file.clone(), bad_ca]),
                    identity: Some(bad_certificate),
                    server_name: Some("a b".to_owned()),
                },
                vec![Subject::Ca, Subject::Ca, Subject::ServerName, Subject::Certificate, Subject::Key],
            ),
            (
                ClientTls { ca: Trust::Files(Vec::new()), identity: Some(foreign_key), server_name: None },
                vec![Subject::Ca, Subject::Key],
            ),
        ] {
            let problems = tls.try_build().err().unwrap_or_default();
            assert_eq!(problems.iter().map(TlsError::subject).collect::<Vec<_>>(), subjects, "{problems:?}");
            assert_eq!(tls.build().err().map(|e| e.to_string()), problems.first().map(ToString::to_string));
        }
    }

    #[test]
    fn the_mismatch_of_certificate_and_key_is_reported_last() {
        let site = Site::new();
        let identity = Some(Identity { cert: site.client.0.clone(), key: site.server.1.clone(), password: None });
        let tls = ClientTls { identity, server_name: Some(String::new()), ..site.client_tls() };
        let texts: Vec<_> = tls.try_build().err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert_eq!(
            texts[0],
            "\"\" is neither a host name nor an IP address (it goes without https:// and port) that a certificate could be checked against"
        );
        assert!(texts[1].contains("does not belong to the certificate"), "{}", texts[1]);
    }
}
