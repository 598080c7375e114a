// SPDX-License-Identifier: Apache-2.0
//! TLS settings of a server that requires client certificates

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, HandshakeKind, ServerConfig, ServerConnection};
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
    pub fn build(&self) -> Result<TlsServer, TlsError> {
        self.try_build().map_err(first)
    }

    /// As [`ServerTls::build`], for reports that name everything that has to be put right.
    ///
    /// # Errors
    /// Each file that cannot be used; never an empty list.
    pub fn try_build(&self) -> Result<TlsServer, Vec<TlsError>> {
        let mut problems = Vec::new();
        let verifier = client_verifier(&self.client_cas, &mut problems);
        let certified = load_identity(&self.identity, &mut problems);
        let (Some(verifier), Some(certified)) = (verifier, certified) else {
            return Err(problems);
        };
        Self::with(verifier, certified).map_err(|problem| vec![problem])
    }

    fn with(verifier: ClientVerifier, certified: Arc<CertifiedKey>) -> Result<TlsServer, TlsError> {
        let verifier = Arc::new(verifier);
        let settings = |source| TlsError::Settings { source };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(settings)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(settings)?;
        Ok(TlsServer { config: Arc::new(config), verifier })
    }

    /// What should be changed although it works: the caller logs these once, at start.
    pub fn warnings(&self) -> Vec<TlsWarning> {
        let mut warnings = identity_warnings(&self.identity.cert, &self.identity.key);
        warnings.extend(server_usage_warnings(&self.identity.cert));
        warnings
    }
}

/// What a server needs for its connections.
#[derive(Debug, Clone)]
pub struct TlsServer {
    /// The settings of each connection.
    pub config: Arc<ServerConfig>,
    verifier: Arc<ClientVerifier>,
}

impl TlsServer {
    /// Checks the client of a resumed session as in a first handshake, by the certificates that it has shown there; the
    /// TLS library does not ask the verifier again. To be called after each handshake.
    ///
    /// # Errors
    /// The client's certificate, or that of its authority, has ended meanwhile, or is not valid yet by a clock that has been
    /// set back.
    pub fn check_resumed(&self, connection: &ServerConnection) -> Result<(), Error> {
        self.check_resumed_at(connection, UnixTime::now())
    }

    fn check_resumed_at(&self, connection: &ServerConnection, now: UnixTime) -> Result<(), Error> {
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            return Ok(());
        }
        let Some((end_entity, intermediates)) = connection.peer_certificates().and_then(|chain| chain.split_first())
        else {
            return Err(Error::NoCertificatesPresented);
        };
        self.verifier.verify_client_cert(end_entity, intermediates, now).map(drop)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::testing::{Site, handshake, identity};
    use crate::{ClientTls, explain};
    use test_support::ca::{LeafSpec, TestCa, self_signed};

    const HOUR: u64 = 3600;

    fn hours_from_now(hours: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + hours * HOUR))
    }

    /// What the check says of a resumed session so many hours from now, of a client that shows `shown`.
    fn resumed_says(site: &Site, shown: &(PathBuf, PathBuf), listed: PathBuf, hours: u64) -> Option<String> {
        let client = ClientTls { identity: Some(identity(shown)), ..site.client_tls() }.build().unwrap();
        let server = ServerTls { client_cas: vec![listed], ..site.server_tls() }.build().unwrap();
        let connect = || handshake(client.clone(), server.config.clone(), "localhost").unwrap().1;
        // The verifier has just seen to the first.
        assert_eq!(server.check_resumed_at(&connect(), hours_from_now(1 << 20)), Ok(()));
        let resumed = connect();
        assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(server.check_resumed(&resumed), Ok(()));
        server.check_resumed_at(&resumed, hours_from_now(hours)).err().map(|error| explain(&error))
    }

    #[test]
    fn a_resumed_session_ends_with_its_certificate() {
        let site = Site::new();
        let says = |hours| resumed_says(&site, &site.client, site.ca_file.clone(), hours);
        assert_eq!(says(23), None);
        let late = says(25).unwrap();
        assert!(late.starts_with("the peer's certificate expired on "), "{late}");
    }

    #[test]
    fn a_resumed_session_ends_with_its_authority() {
        let site = Site::new();
        let now = SystemTime::now();
        let root = TestCa::root_within("Short Root", now..now + Duration::from_secs(12 * HOUR)).unwrap();
        let shown = site.issue(&root, &LeafSpec::new("client").client_only(), "long");
        let listed = root.write(site.scratch.path(), "short").unwrap();
        let says = |hours| resumed_says(&site, &shown, listed.clone(), hours);
        assert_eq!(says(11), None);
        let late = says(13).unwrap();
        let begin = "the certificate \"CN=client\" was issued by \"CN=Short Root\", whose certificate in the CA file ";
        assert!(late.starts_with(begin), "{late}");
    }

    #[test]
    fn what_a_client_sends_beside_its_chain_does_not_count_when_it_resumes() {
        let site = Site::new();
        let issued = site.ca.issue(&LeafSpec::new("client").client_only()).unwrap();
        let ended = TestCa::expired_root("Ended").unwrap();
        let shown = issued.write(site.scratch.path(), "more").unwrap();
        std::fs::write(&shown.0, format!("{}{}", issued.chain_pem, ended.pem())).unwrap();
        assert_eq!(resumed_says(&site, &shown, site.ca_file.clone(), 0), None);
    }

    #[test]
    fn a_listed_client_that_resumes_is_checked_too() {
        let site = Site::new();
        let itself = self_signed(&LeafSpec::new("itself").client_only()).unwrap();
        let itself = itself.write(site.scratch.path(), "itself").unwrap();
        assert_eq!(resumed_says(&site, &itself, itself.0.clone(), 23), None);
        let late = resumed_says(&site, &itself, itself.0.clone(), 25).unwrap();
        assert!(late.starts_with("the peer's certificate expired on "), "{late}");
    }
}
