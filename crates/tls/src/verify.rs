// SPDX-License-Identifier: Apache-2.0
//! Verifying peers: WebPKI or a pinned certificate, and saying exactly what is missing

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::TlsError;
use crate::certificate::{CertificateInfo, utc};
use crate::trust::{Pin, TrustSet};

/// Longest chain followed when looking for the issuer that is missing.
const MAX_CHAIN: usize = 16;

/// Why a peer's certificate is refused, where the TLS library alone would not say it in full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerCertificateError {
    /// The chain ends at an issuer that is neither sent nor configured.
    #[error(
        "the certificate \"{subject}\" was issued by \"{issuer}\", which is not in {place} and was not sent by the peer: add the certificate of that issuer to one of the two"
    )]
    MissingIssuer {
        /// The last certificate of the chain that could be followed.
        subject: String,
        /// The issuer to add.
        issuer: String,
        /// Where it was looked for.
        place: String,
    },
    /// An issuer of that name is configured, but with another key.
    #[error(
        "the certificate \"{subject}\" does not carry the signature of the \"{issuer}\" in {place}: that authority was probably made anew under the same name; replace the older certificate"
    )]
    IssuerDiffers {
        /// The certificate that does not verify.
        subject: String,
        /// The issuer both agree on by name.
        issuer: String,
        /// Where the issuer was found.
        place: String,
    },
    /// The issuer is configured, but its certificate does not say that it may issue any.
    #[error(
        "the certificate \"{subject}\" was issued by \"{issuer}\", whose certificate in {place} is not one of an authority (X.509 version 3 with CA:TRUE): add one that is"
    )]
    IssuerIsNoAuthority {
        /// The certificate that was issued.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// Where the issuer was found.
        place: String,
    },
    /// The issuer is configured, but its own certificate is not valid at this time.
    #[error(
        "the certificate \"{subject}\" was issued by \"{issuer}\", whose certificate in {place} is valid from {not_before} to {not_after} only: replace it by its successor, or correct the clock of this host"
    )]
    IssuerNotValid {
        /// The certificate that was issued.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// Where the issuer was found.
        place: String,
        /// First moment of the issuer, UTC.
        not_before: String,
        /// Its last moment, UTC.
        not_after: String,
    },
    /// An intermediate that the peer sends is not valid at this time.
    #[error(
        "the certificate \"{subject}\" of an authority, which the peer sent with its own, is valid from {not_before} to {not_after} only: have it replaced by its successor there, or correct the clock of this host"
    )]
    SentIssuerNotValid {
        /// Its subject.
        subject: String,
        /// Its first moment, UTC.
        not_before: String,
        /// Its last moment, UTC.
        not_after: String,
    },
    /// A client's certificate that is not made to sign with.
    #[error("the peer's certificate \"{subject}\" is not made for clients: its {extension} lacks {missing}")]
    NotForClients {
        /// Its subject.
        subject: String,
        /// The extension that says so.
        extension: &'static str,
        /// What it lacks.
        missing: &'static str,
    },
    /// The peer made its certificate itself.
    #[error(
        "the peer's certificate \"{subject}\" was made by the peer itself and is not in {place}: add exactly that certificate to trust it"
    )]
    SelfMade {
        /// Its subject.
        subject: String,
        /// Where it was looked for.
        place: String,
    },
    /// The certificate is for other hosts.
    #[error("the peer's certificate is for {}, not for {expected}", list(names))]
    WrongName {
        /// The name that was asked for.
        expected: String,
        /// The names the certificate has.
        names: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

/// Accepts a server whose certificate is pinned, else by WebPKI chain and name. The handshake
/// signature is verified in both cases.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    webpki: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    pins: Vec<Pin>,
    place: String,
    name: Option<ServerName<'static>>,
}

impl ServerVerifier {
    /// `name` replaces the name of the URL in the check of the certificate.
    pub(crate) fn new(
        trust: TrustSet,
        provider: Arc<CryptoProvider>,
        name: Option<ServerName<'static>>,
    ) -> Result<Self, TlsError> {
        // Without any authority only pins are left.
        let webpki = if trust.roots.is_empty() {
            None
        } else {
            let roots = Arc::new(trust.roots);
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            let built = builder.build();
            Some(built.map_err(|e| TlsError::Settings { source: Error::General(e.to_string()) })?)
        };
        Ok(Self { webpki, provider, pins: trust.pins, place: trust.place, name })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.webpki {
            Some(w) => w.verify_server_cert(end_entity, intermediates, name, ocsp_response, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(pin) = self.pins.iter().find(|pin| pin.der == *end_entity) {
            within_validity(&pin.info, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let name = self.name.as_ref().unwrap_or(server_name);
        self.verify_chain(end_entity, intermediates, name, ocsp_response, now)
            .map_err(|error| detailed(error, end_entity, intermediates, Some(name), &self.pins, &self.place, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts a client whose certificate chains to an authority that is valid itself, or is a self-made one that is
/// configured. Says what is missing when it refuses one.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    pins: Vec<Pin>,
    /// The subjects of `pins`, which clients may choose their certificate by.
    hints: Vec<DistinguishedName>,
    place: String,
}

impl ClientVerifier {
    pub(crate) fn new(trust: TrustSet, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        // Of one older than X.509 v3 no signature can be verified.
        let is_client = |pin: &Pin| pin.info.is_self_issued() && ParsedCertificate::try_from(&pin.der).is_ok();
        if trust.roots.is_empty() && !trust.pins.iter().any(is_client) {
            return Err(TlsError::NoAuthority { place: trust.place });
        }
        let mut named = RootCertStore::empty();
        named.add_parsable_certificates(trust.pins.iter().map(|pin| pin.der.clone()));
        Ok(Self { provider, pins: trust.pins, hints: named.subjects(), place: trust.place })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // WebPKI does not look at the dates of an anchor.
        let valid = self.pins.iter().filter(|pin| pin.info.is_ca && within_validity(&pin.info, now).is_ok());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(valid.map(|pin| pin.der.clone()));
        if roots.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let webpki = builder.build().map_err(|e| Error::General(e.to_string()))?;
        webpki.verify_client_cert(end_entity, intermediates, now)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let listed = self.pins.iter().find(|pin| pin.der == *end_entity && pin.info.is_self_issued());
        let verified = match listed {
            Some(pin) => within_validity(&pin.info, now).map(|()| ClientCertVerified::assertion()),
            None => self
                .verify_chain(end_entity, intermediates, now)
                .map_err(|error| detailed(error, end_entity, intermediates, None, &self.pins, &self.place, now)),
        }?;
        made_for_clients(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the usages of a client's certificate; WebPKI knows the extended ones only.
fn made_for_clients(end_entity: &CertificateDer<'_>) -> Result<(), Error> {
    let info = CertificateInfo::from_der(end_entity).map_err(|_| CertificateError::BadEncoding)?;
    let (extension, missing) = if !info.may_sign {
        ("key usage", "digital signature")
    } else if info.purpose.is_some_and(|purpose| !purpose.client) {
        ("extended key usage", "client authentication")
    } else {
        return Ok(());
    };
    let refusal = PeerCertificateError::NotForClients { subject: info.subject, extension, missing };
    Err(CertificateError::Other(OtherError(Arc::new(refusal))).into())
}

/// A pinned certificate is known, but its end still counts: the peer's other clients refuse it too.
fn within_validity(info: &CertificateInfo, now: UnixTime) -> Result<(), Error> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if time > info.not_after {
        let not_after = unix_time(info.not_after);
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if time < info.not_before {
        let not_before = unix_time(info.not_before);
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    Ok(())
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// Adds to the library's verdict what only the certificates can tell. The dates of the peer's own certificate need no
/// addition: the library's errors carry them.
fn detailed(
    error: Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: Option<&ServerName<'_>>,
    pins: &[Pin],
    place: &str,
    now: UnixTime,
) -> Error {
    let Error::InvalidCertificate(verdict) = &error else {
        return error;
    };
    let Ok(leaf) = CertificateInfo::from_der(end_entity) else {
        return error;
    };
    let detail = match (verdict, name) {
        (CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }, Some(name)) => {
            PeerCertificateError::WrongName { expected: name.to_str().into_owned(), names: leaf.names() }
        }
        // `Other` is what a CA certificate used as a leaf comes as.
        (CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_), _) => {
            missing_issuer(leaf, intermediates, pins, place, now)
        }
        (CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }, _)
            if within_validity(&leaf, now).is_ok() =>
        {
            let sent = intermediates.iter().filter_map(|der| CertificateInfo::from_der(der).ok());
            let Some(ended) = sent.into_iter().find(|info| info.is_ca && within_validity(info, now).is_err()) else {
                return error;
            };
            let (not_before, not_after) = (utc(ended.not_before), utc(ended.not_after));
            PeerCertificateError::SentIssuerNotValid { subject: ended.subject, not_before, not_after }
        }
        _ => return error,
    };
    CertificateError::Other(OtherError(Arc::new(detail))).into()
}

fn missing_issuer(
    leaf: CertificateInfo,
    intermediates: &[CertificateDer<'_>],
    pins: &[Pin],
    place: &str,
    now: UnixTime,
) -> PeerCertificateError {
    let place = place.to_owned();
    if leaf.is_self_issued() {
        return PeerCertificateError::SelfMade { subject: leaf.subject, place };
    }
    let sent: Vec<_> =
        intermediates.iter().take(MAX_CHAIN).filter_map(|der| CertificateInfo::from_der(der).ok()).collect();
    let mut last = leaf;
    for _ in 0..MAX_CHAIN {
        let configured: Vec<_> = pins.iter().filter(|pin| pin.info.subject == last.issuer).collect();
        if !configured.is_empty() {
            let (subject, issuer) = (last.subject, last.issuer);
            let mut authorities = configured.iter().map(|pin| &pin.info).filter(|info| info.is_ca).peekable();
            return match authorities.peek().copied() {
                None => PeerCertificateError::IssuerIsNoAuthority { subject, issuer, place },
                Some(first) if authorities.all(|info| within_validity(info, now).is_err()) => {
                    let (not_before, not_after) = (utc(first.not_before), utc(first.not_after));
                    PeerCertificateError::IssuerNotValid { subject, issuer, place, not_before, not_after }
                }
                Some(_) => PeerCertificateError::IssuerDiffers { subject, issuer, place },
            };
        }
        match sent.iter().find(|c| c.subject == last.issuer && !c.is_self_issued()) {
            Some(next) => last = next.clone(),
            None => break,
        }
    }
    let (subject, issuer) = (last.subject, last.issuer);
    PeerCertificateError::MissingIssuer { subject, issuer, place }
}

#[cfg(test)]
mod tests;
