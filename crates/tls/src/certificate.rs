// SPDX-License-Identifier: Apache-2.0
//! What a certificate says: subject, issuer, validity, names

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::asn1::OctetString;
use x509_cert::der::{DateTime, Decode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::name::Name;

use crate::{FileKind, TlsError, load_certificates};

/// Extended key usages id-kp-serverAuth and id-kp-clientAuth (RFC 5280 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// Longest subject or issuer text kept, in characters. The text comes from peers and ends in logs.
const MAX_NAME: usize = 256;

/// The bytes are not an X.509 certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER: {0}")]
pub struct InvalidCertificate(#[source] x509_cert::der::Error);

/// From when to when a certificate is valid, as it says of itself (RFC 5280 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

/// The validity of each certificate in a PEM file, in the file's order.
///
/// # Errors
/// The file cannot be read, or holds something that is no certificate.
pub fn load_validity(path: &Path, kind: FileKind) -> Result<Vec<Validity>, TlsError> {
    let certificates = load_certificates(path, kind)?;
    let one = |(index, der): (usize, &CertificateDer<'_>)| match CertificateInfo::from_der(der) {
        Ok(info) => Ok(Validity { not_before: info.not_before, not_after: info.not_after }),
        Err(source) => Err(TlsError::BadCertificate { kind, path: path.to_owned(), number: index + 1, source }),
    };
    certificates.iter().enumerate().map(one).collect()
}

/// The fields of an X.509 certificate (RFC 5280 4.1) that people and checks ask for. Nothing in it
/// is verified: it is what the certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateInfo {
    /// Subject in RFC 4514 text, at most 256 characters, without control characters.
    pub(crate) subject: String,
    /// Issuer in RFC 4514 text, at most 256 characters, without control characters.
    pub(crate) issuer: String,
    /// First moment of validity.
    pub(crate) not_before: SystemTime,
    /// Last moment of validity.
    pub(crate) not_after: SystemTime,
    /// DNS names of the subjectAltName extension.
    pub(crate) dns_names: Vec<String>,
    /// IP addresses of the subjectAltName extension.
    pub(crate) ip_addresses: Vec<IpAddr>,
    /// May issue certificates: basicConstraints with CA:TRUE. One older than X.509 v3 cannot say so,
    /// and would vouch for any name if it were taken for an authority.
    pub(crate) is_ca: bool,
    /// May sign a handshake or agree on keys, as a TLS client's must (RFC 5280 4.2.1.3); so may one without key usage.
    pub(crate) may_sign: bool,
    /// Extended key usage, where there is one.
    pub(crate) purpose: Option<Purpose>,
}

/// What the extended key usage of a certificate has of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purpose {
    pub(crate) server: bool,
    pub(crate) client: bool,
}

impl CertificateInfo {
    /// Parses one certificate in DER.
    ///
    /// # Errors
    /// The bytes are not a certificate, or have bytes behind it.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let certificate = Certificate::from_der(der).map_err(InvalidCertificate)?;
        let tbs = &certificate.tbs_certificate;
        let mut info = Self {
            subject: name_text(&tbs.subject),
            issuer: name_text(&tbs.issuer),
            not_before: tbs.validity.not_before.to_system_time(),
            not_after: tbs.validity.not_after.to_system_time(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            is_ca: false,
            may_sign: true,
            purpose: None,
        };
        if let Some((_, usage)) = tbs.get::<KeyUsage>().map_err(InvalidCertificate)? {
            info.may_sign = usage.0.contains(KeyUsages::DigitalSignature) || usage.0.contains(KeyUsages::KeyAgreement);
        }
        if let Some((_, usage)) = tbs.get::<ExtendedKeyUsage>().map_err(InvalidCertificate)? {
            info.purpose =
                Some(Purpose { server: usage.0.contains(&SERVER_AUTH), client: usage.0.contains(&CLIENT_AUTH) });
        }
        if let Some((_, constraints)) = tbs.get::<BasicConstraints>().map_err(InvalidCertificate)? {
            info.is_ca = constraints.ca;
        }
        if let Some((_, names)) = tbs.get::<SubjectAltName>().map_err(InvalidCertificate)? {
            for name in names.0 {
                match name {
                    GeneralName::DnsName(name) => info.dns_names.push(clean(name.as_str())),
                    GeneralName::IpAddress(bytes) => info.ip_addresses.extend(ip_address(&bytes)),
                    _ => {}
                }
            }
        }
        Ok(info)
    }

    /// All names a client may check, as text: DNS names, then addresses.
    pub(crate) fn names(&self) -> Vec<String> {
        let addresses = self.ip_addresses.iter().map(ToString::to_string);
        self.dns_names.iter().cloned().chain(addresses).collect()
    }

    /// Subject and issuer are the same, as in a root or a self-made certificate.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }
}

fn ip_address(bytes: &OctetString) -> Option<IpAddr> {
    let bytes = bytes.as_bytes();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn name_text(name: &Name) -> String {
    clean(&name.to_string())
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

/// A moment as UTC text such as `2026-08-01T12:00:00Z`.
pub(crate) fn utc(time: SystemTime) -> String {
    DateTime::from_system_time(time).map_or_else(|_| "an impossible date".to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use test_support::ca::{LeafSpec, TestCa};

    #[test]
    fn tells_what_the_certificate_says() {
        let root = TestCa::root("Test, Root").unwrap();
        let mut spec = LeafSpec::new("host");
        spec.ips.push("::1".parse().unwrap());
        let info = CertificateInfo::from_der(&root.issue(&spec).unwrap().cert_der).unwrap();
        assert_eq!(info.subject, "CN=host");
        assert_eq!(info.issuer, r"CN=Test\, Root");
        assert_eq!(info.names(), ["localhost", "127.0.0.1", "::1"]);
        assert!(!info.is_ca && !info.is_self_issued());
    }

    #[test]
    fn refuses_other_bytes() {
        let der = TestCa::root("r").unwrap().issue(&LeafSpec::new("x")).unwrap().cert_der;
        for n in 0..der.len() {
            assert!(CertificateInfo::from_der(&der[..n]).is_err());
        }
        assert!(CertificateInfo::from_der(&[&der[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn validity_is_read_from_every_certificate_of_a_file() {
        let site = crate::testing::Site::new();
        let (cert, key) = &site.client;
        let found = load_validity(cert, FileKind::Certificate).unwrap();
        assert!(!found.is_empty() && found.iter().all(|v| v.not_before < v.not_after), "{found:?}");
        assert!(load_validity(key, FileKind::Certificate).is_err());
    }

    #[test]
    fn shows_times_in_utc() {
        assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(1_728_000_000)), "2024-10-04T00:00:00Z");
    }

    #[test]
    fn names_are_fit_for_a_log() {
        let root = TestCa::root("r").unwrap();
        let evil = LeafSpec::new(&format!("a\nb\x1b[31m{}", "x".repeat(400)));
        let info = CertificateInfo::from_der(&root.issue(&evil).unwrap().cert_der).unwrap();
        assert!(info.subject.len() <= 256 && !info.subject.contains(['\n', '\x1b']), "{}", info.subject);
    }
}
