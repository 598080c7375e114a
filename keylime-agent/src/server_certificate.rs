// SPDX-License-Identifier: Apache-2.0
//! The key and certificate of the agent's HTTPS server. Both are made if missing; what is there is used unchanged.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use keylime_api::AgentId;
use pkcs8::der::Encode as _;
use pkcs8::der::asn1::AnyRef;
use pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfo};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use ring::rand::SecureRandom as _;
use tls::ServerTls;
use tls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::config::{Config, Host, KeyFile};
use crate::payload_key::{password, wrap_pkcs1, write_private_key};
use crate::{files, pem};

/// How long a self-made certificate is valid: as long as the stock agent's.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far a verifier's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// A clock that shows less, 2025-01-01, has not been set yet: hosts without a battery begin in 1970.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_735_689_600);
/// 9999-12-31 23:59:59, which stands for no well-defined end (RFC 5280, section 4.1.2.5).
const NO_END: Duration = Duration::from_secs(253_402_300_799);

/// Object identifiers id-ecPublicKey, secp256r1 and secp384r1 (RFC 5480, section 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why there is no key or certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerCertificateError {
    #[error(transparent)]
    File(#[from] tls::TlsError),
    #[error("cannot look for {}: {source}", path.display())]
    Look { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot make a certificate for the key in {} (option 'server_key'): {source}: supply one (option 'server_cert'), \
         or move the key away to have both made anew",
        path.display()
    )]
    Make { path: PathBuf, source: rcgen::Error },
}

/// The certificate as it is served.
pub(crate) struct ServerCertificate {
    /// PEM of the leaf alone, with a line feed at the end: what the registrar stores, where 2,048 characters are the limit.
    pub(crate) leaf_pem: String,
    /// The same as DER.
    pub(crate) leaf: Vec<u8>,
    /// Whether it was made just now.
    pub(crate) created: bool,
}

/// Settings of the HTTPS server for clients of these authorities.
pub(crate) fn settings(config: &Config, client_cas: &[PathBuf]) -> ServerTls {
    let key = &config.server_key;
    let secret = password(key).map(|text| Zeroizing::new(text.to_owned()));
    ServerTls::new(&config.server_cert, &key.path, secret, client_cas.to_vec())
}

/// Makes what is missing of key and certificate and returns the certificate.
pub(crate) fn load_or_create(
    key_file: &KeyFile,
    certificate: &Path,
    id: &AgentId,
    contact: &Host,
) -> Result<ServerCertificate, ServerCertificateError> {
    let make_error = |source| ServerCertificateError::Make { path: key_file.path.clone(), source };
    let write_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ServerCertificateError::Write { path, source }
    };
    if !exists(&key_file.path)? {
        let key = Zeroizing::new(KeyPair::generate().map_err(make_error)?);
        write_private_key(&key_file.path, key.serialized_der(), password(key_file))?
            .map_err(write_error(&key_file.path))?;
    }
    if exists(certificate)? {
        let chain = tls::load_certificates(certificate, tls::FileKind::Certificate)?;
        let leaf = chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default();
        return Ok(ServerCertificate { leaf_pem: pem::encode("CERTIFICATE", &leaf), leaf, created: false });
    }
    let key = Zeroizing::new(tls::load_private_key(&key_file.path, password(key_file))?);
    let key = Zeroizing::new(key_pair(&key).map_err(make_error)?);
    let leaf = parameters(id, contact).and_then(|parameters| parameters.self_signed(&*key)).map_err(make_error)?;
    let pem = pem::encode("CERTIFICATE", leaf.der());
    files::replace(certificate, pem.as_bytes(), 0o644).map_err(write_error(certificate))?;
    Ok(ServerCertificate { leaf_pem: pem, leaf: leaf.der().to_vec(), created: true })
}

/// The key for rcgen, which takes PKCS#8 only.
fn key_pair(key: &PrivateKeyDer<'_>) -> Result<KeyPair, rcgen::Error> {
    let of = |pkcs8: &[u8]| KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8));
    match key {
        PrivateKeyDer::Pkcs1(rsa) => of(&wrap_pkcs1(rsa.secret_pkcs1_der()).ok_or(rcgen::Error::CouldNotParseKeyPair)?),
        // Which curve it is need not be said in there.
        PrivateKeyDer::Sec1(curve) => {
            let wrapped = [P_256, P_384].map(|oid| wrap_sec1(curve.secret_sec1_der(), oid));
            let made = wrapped.iter().flatten().find_map(|pkcs8| of(pkcs8).ok());
            made.ok_or(rcgen::Error::CouldNotParseKeyPair)
        }
        other => of(other.secret_der()),
    }
}

/// Puts an ECPrivateKey (RFC 5915) into a PrivateKeyInfo (RFC 5208).
fn wrap_sec1(key: &[u8], curve: ObjectIdentifier) -> Option<Zeroizing<Vec<u8>>> {
    let algorithm = AlgorithmIdentifierRef { oid: EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&curve)) };
    PrivateKeyInfo::new(algorithm, key).to_der().ok().map(Zeroizing::new)
}

/// Whether there is a file, or else one is made.
pub(crate) fn exists(path: &Path) -> Result<bool, ServerCertificateError> {
    files::exists(path).map_err(|source| ServerCertificateError::Look { path: path.to_owned(), source })
}

/// Version 3, CN = agent id, the names and addresses the agent is reached under, usable by a TLS server only: a
/// certificate with client authentication would be an administrator's at the verifier.
fn parameters(id: &AgentId, contact: &Host) -> Result<CertificateParams, rcgen::Error> {
    let names = vec!["localhost".to_owned(), "localhost.domain".to_owned()];
    let mut parameters = CertificateParams::new(names)?;
    let mut addresses = vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    match contact {
        Host::Address(address) if !addresses.contains(address) => addresses.push(*address),
        Host::Address(_) => {}
        Host::Name(name) => {
            let name = SanType::DnsName(name.trim_end_matches('.').try_into()?);
            if !parameters.subject_alt_names.contains(&name) {
                parameters.subject_alt_names.push(name);
            }
        }
    }
    let addresses = addresses.into_iter().map(SanType::IpAddress);
    parameters.subject_alt_names.extend(addresses);
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, id.as_str());
    parameters.distinguished_name = subject;
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.serial_number = Some(serial_number()?);
    let (not_before, not_after) = validity(SystemTime::now());
    parameters.not_before = not_before.into();
    parameters.not_after = not_after.into();
    Ok(parameters)
}

/// First and last moment. By a clock that has not been set the certificate would have expired decades ago once it is set,
/// and every verifier would refuse it.
fn validity(now: SystemTime) -> (SystemTime, SystemTime) {
    if now < SystemTime::UNIX_EPOCH + CLOCK_IS_SET {
        tracing::warn!("The clock of this host has not been set: the server certificate is made without an end");
        return (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + NO_END);
    }
    (now - CLOCK_SKEW, now + VALIDITY)
}

/// 127 random bits, positive and not zero (RFC 5280, section 4.1.2.2).
fn serial_number() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use service::Secret;

    use super::*;

    fn openssl(arguments: &[&str]) -> String {
        let output = std::process::Command::new("openssl").args(arguments).output().expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    struct Files {
        _dir: tempfile::TempDir,
        key: KeyFile,
        certificate: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                key: KeyFile { path: dir.path().join("server-private.pem"), password: Secret::default() },
                certificate: dir.path().join("server-cert.crt"),
                _dir: dir,
            }
        }

        fn load(&self, contact: Host) -> Result<ServerCertificate, ServerCertificateError> {
            let id = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001".parse().unwrap();
            load_or_create(&self.key, &self.certificate, &id, &contact)
        }

        fn text(&self) -> String {
            openssl(&["x509", "-in", self.certificate.to_str().unwrap(), "-noout", "-text"])
        }
    }

    #[test]
    fn a_made_certificate_is_correct() {
        let files = Files::new();
        let made = files.load(Host::Name("auth.tower.example.".into())).unwrap();
        assert!(made.created);
        let text = files.text();
        for part in [
            "Version: 3",
            "Issuer: CN = d432fbb3-d2f1-4a97-9ef7-75bd81c00001",
            "Subject: CN = d432fbb3-d2f1-4a97-9ef7-75bd81c00001",
            "NIST CURVE: P-256",
            "DNS:localhost, DNS:localhost.domain, DNS:auth.tower.example, IP Address:127.0.0.1, \
             IP Address:0:0:0:0:0:0:0:1",
            "TLS Web Server Authentication\n",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let path = files.certificate.to_str().unwrap();
        // Verifies the signature of the certificate itself, too.
        openssl(&["verify", "-check_ss_sig", "-CAfile", path, path]);
        assert_eq!(std::fs::read_to_string(path).unwrap(), made.leaf_pem);
        assert!(made.leaf_pem.len() < 2048);

        let other = Files::new();
        let address = Host::Address("192.0.2.7".parse().unwrap());
        other.load(address).unwrap();
        let other = other.text();
        assert!(other.contains("IP Address:192.0.2.7"), "{other}");
        let serial = |text: &str| text.split("Serial Number:").nth(1).map(|t| t[..80].to_owned());
        assert_ne!(serial(&text), serial(&other));
    }

    #[test]
    fn a_clock_that_is_not_set_gives_no_end() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let none = (at(0), at(253_402_300_799));
        for (now, expected) in [
            (0, none),
            (1_735_689_599, none),
            (1_735_689_600, (at(1_735_686_000), at(1_767_225_600))),
            (1_800_000_000, (at(1_799_996_400), at(1_831_536_000))),
        ] {
            assert_eq!(validity(at(now)), expected, "{now}");
        }
    }

    #[test]
    fn what_is_there_is_used_unchanged() {
        let files = Files::new();
        let contact = Host::Address("127.0.0.1".parse().unwrap());
        let first = files.load(contact.clone()).unwrap();
        let key = std::fs::read(&files.key.path).unwrap();
        let second = files.load(contact.clone()).unwrap();
        assert!(!second.created);
        assert_eq!(first.leaf_pem, second.leaf_pem);
        std::fs::remove_file(&files.certificate).unwrap();
        let third = files.load(contact).unwrap();
        assert!(third.created);
        assert_eq!(std::fs::read(&files.key.path).unwrap(), key);
        let path = files.certificate.to_str().unwrap();
        let of_certificate = openssl(&["x509", "-in", path, "-noout", "-pubkey"]);
        let of_key = openssl(&["pkey", "-in", files.key.path.to_str().unwrap(), "-pubout"]);
        assert_eq!(of_certificate, of_key);
    }

    #[test]
    fn a_file_that_cannot_be_looked_for_is_not_taken_for_missing() {
        let mut files = Files::new();
        std::fs::write(&files.key.path, "").unwrap();
        let nowhere = files.key.path.join("server-private.pem");
        files.key.path.clone_from(&nowhere);
        let error = files.load(Host::Name("a.example".into())).err().unwrap().to_string();
        assert_eq!(error, format!("cannot look for {}: Not a directory (os error 20)", nowhere.display()));
    }

    #[test]
    fn an_existing_key_of_any_form_gets_a_certificate() {
        for (make, expected) in [
            (&["genrsa", "2048"][..], "rsaEncryption"),
            (&["genrsa", "-traditional", "3072"], "rsaEncryption"),
            (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "NIST CURVE: P-256"),
            (&["ecparam", "-name", "secp384r1", "-genkey"], "NIST CURVE: P-384"),
            (&["genpkey", "-algorithm", "ed25519"], "ED25519 Public-Key"),
        ] {
            let files = Files::new();
            std::fs::write(&files.key.path, openssl(make)).unwrap();
            let made = files.load(Host::Address("127.0.0.1".parse().unwrap())).unwrap();
            assert!(made.created && files.text().contains(expected), "{make:?}");
            // The column of the registrar's database.
            assert!(made.leaf_pem.len() < 2048);
        }
    }

    #[test]
    fn only_the_leaf_of_a_chain_is_registered() {
        let files = Files::new();
        let contact = Host::Address("127.0.0.1".parse().unwrap());
        let leaf = files.load(contact.clone()).unwrap().leaf_pem;
        let other = Files::new();
        let issuer = other.load(contact.clone()).unwrap().leaf_pem;
        std::fs::write(&files.certificate, format!("{leaf}{issuer}")).unwrap();
        assert_eq!(files.load(contact).unwrap().leaf_pem, leaf);
    }
}
