// SPDX-License-Identifier: Apache-2.0
//! TLS settings of a client

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
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

impl ClientTls {
    /// Reads the files and checks them.
    ///
    /// # Errors
    /// A file cannot be used; the text names it and what to do.
    pub fn build(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let trust = match &self.ca {
            Trust::SystemRoots => TrustSet::from_system()?,
            Trust::Files(files) => TrustSet::from_files(files)?,
        };
        let bad_name = |name: &String| TlsError::BadServerName { name: name.clone() };
        let name = self
            .server_name
            .as_ref()
            .map(|name| ServerName::try_from(name.as_str()).map(|n| n.to_owned()).map_err(|_| bad_name(name)));
        let provider = provider();
        let verifier = ServerVerifier::new(trust, provider.clone(), name.transpose()?)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Settings { source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Arc::new(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(id) => {
                let password = id.password.as_ref().map(|p| p.as_str());
                let certified = load_identity(&id.cert, &id.key, password)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        }))
    }

    /// What should be changed although it works: the caller logs these once, at start.
    pub fn warnings(&self) -> Vec<TlsWarning> {
        self.identity.as_ref().map_or_else(Vec::new, |id| identity_warnings(&id.cert, &id.key))
    }
}

/// Settings that accept no server at all, for clients that speak plain HTTP but whose HTTP library
/// wants to be given something.
pub fn trust_nobody() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}
