// SPDX-License-Identifier: Apache-2.0
//! TLS settings of a server that requires client certificates

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use zeroize::Zeroizing;

use crate::client::{Identity, first};
use crate::key::{identity_warnings, load_identity, server_usage_warnings};
use crate::trust::TrustSet;
use crate::verify::ClientVerifier;
use crate::{TlsError, TlsWarning, provider};

/// TLS settings of a server: TLS 1.2 and 1.3, session tickets on, and every client must show a
/// certificate for client authentication that chains to one of `client_cas`, or is a self-made one among them.
///
/// Build again to take in renewed files: the tickets given out before are not accepted then, so
/// a client whose authority was taken away cannot resume.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Our certificate and key.
    pub identity: Identity,
    /// PEM files with the authorities of the clients' certificates; several in a file are fine.
    pub client_cas: Vec<PathBuf>,
}

impl ServerTls {
    /// Settings from the single values.
    pub fn new(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        password: Option<Zeroizing<String>>,
        client_cas: Vec<PathBuf>,
    ) -> Self {
        let identity = Identity { cert: cert.into(), key: key.into(), password };
        Self { identity, client_cas }
    }

    /// Reads the files and checks them.
    ///
    /// # Errors
    /// A file cannot be used; the text names it and what to do. There may be more than this one,
    /// see [`ServerTls::try_build`].
    pub fn build(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.try_build().map_err(first)
    }

    /// As [`ServerTls::build`], for reports that name everything that has to be put right.
    ///
    /// # Errors
    /// Each file that cannot be used; never an empty list.
    pub fn try_build(&self) -> Result<Arc<ServerConfig>, Vec<TlsError>> {
        let mut problems = Vec::new();
        let verifier = client_verifier(&self.client_cas, &mut problems);
        let certified = load_identity(&self.identity, &mut problems);
        let (Some(verifier), Some(certified)) = (verifier, certified) else {
            return Err(problems);
        };
        Self::with(verifier, certified).map_err(|problem| vec![problem])
    }

    fn with(verifier: ClientVerifier, certified: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, TlsError> {
        let settings = |source| TlsError::Settings { source };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(settings)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(settings)?;
        Ok(Arc::new(config))
    }

    /// What should be changed although it works: the caller logs these once, at start.
    pub fn warnings(&self) -> Vec<TlsWarning> {
        let mut warnings = identity_warnings(&self.identity.cert, &self.identity.key);
        warnings.extend(server_usage_warnings(&self.identity.cert));
        warnings
    }
}

/// Checks files with the authorities of clients' certificates, for a server that has no certificate
/// of its own yet.
///
/// # Errors
/// Each file that cannot be used; never an empty list.
pub fn check_client_cas(files: &[PathBuf]) -> Result<(), Vec<TlsError>> {
    let mut problems = Vec::new();
    client_verifier(files, &mut problems).map(drop).ok_or(problems)
}

fn client_verifier(files: &[PathBuf], problems: &mut Vec<TlsError>) -> Option<ClientVerifier> {
    let trust = TrustSet::from_files(files, problems)?;
    ClientVerifier::new(trust, provider()).map_err(|problem| problems.push(problem)).ok()
}
