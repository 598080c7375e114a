// SPDX-License-Identifier: Apache-2.0
//! Private keys in PEM files, plain or encrypted

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use pkcs8::LineEnding;
use pkcs8::pkcs5::pbes2;
use ring::rand::SecureRandom;
use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use zeroize::Zeroizing;

use crate::certificate::{CertificateInfo, Purpose};
use crate::client::Identity;
use crate::pem::{bad_pem, contains, find, found, load_certificates, read_file};
use crate::{FileKind, TlsError, TlsWarning, provider};

const ENCRYPTED_BEGIN: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &[u8] = b"-----END ENCRYPTED PRIVATE KEY-----";

/// PBKDF2 rounds of keys we encrypt: some tens of milliseconds at each start.
const PBKDF2_ITERATIONS: u32 = 100_000;

/// Loads the private key of a PEM file: PKCS#8, PKCS#1 or SEC1, or PKCS#8 encrypted with PBES2
/// (RFC 8018, what OpenSSL writes with AES-CBC). The password is used for an encrypted key only.
///
/// # Errors
/// The file cannot be read, holds no key, is damaged, or cannot be decrypted.
pub fn load_private_key(path: &Path, password: Option<&str>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read_file(path, FileKind::Key)?;
    if let Some(start) = find(&bytes, ENCRYPTED_BEGIN) {
        let section = bytes.get(start..).unwrap_or_default();
        return decrypt(path, section, password);
    }
    if contains(&bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::UnsupportedEncryption { path: path.to_owned() });
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            Err(TlsError::NoKey { path: path.to_owned(), found: found(&bytes) })
        }
        Err(e) => Err(bad_pem(path, FileKind::Key, &e)),
    }
}

fn decrypt(path: &Path, section: &[u8], password: Option<&str>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let damaged =
        |detail: &str| TlsError::BadPem { kind: FileKind::Key, path: path.to_owned(), detail: detail.to_owned() };
    let end = find(section, ENCRYPTED_END)
        .ok_or_else(|| damaged("the line -----END ENCRYPTED PRIVATE KEY----- is missing"))?;
    let section = section.get(..end + ENCRYPTED_END.len()).unwrap_or_default();
    let text = std::str::from_utf8(section).map_err(|_| damaged("it is not text"))?;
    // Not strict about CRLF and trailing blanks, which people's editors add.
    let text = Zeroizing::new(text.lines().map(str::trim).collect::<Vec<_>>().join("\n") + "\n");
    let (_, der) = pkcs8::SecretDocument::from_pem(&text).map_err(|_| damaged("its base64 text is broken"))?;
    let encrypted = pkcs8::EncryptedPrivateKeyInfo::try_from(der.as_bytes())
        .map_err(|_| TlsError::UnsupportedEncryption { path: path.to_owned() })?;
    let password =
        password.filter(|p| !p.is_empty()).ok_or_else(|| TlsError::PasswordMissing { path: path.to_owned() })?;
    let plain = encrypted.decrypt(password).map_err(|e| match e {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
            TlsError::UnsupportedEncryption { path: path.to_owned() }
        }
        // A wrong password shows as bad padding, or now and then as a garbled structure.
        _ => TlsError::WrongPassword { path: path.to_owned() },
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec())))
}

/// PEM text of an unencrypted PKCS#8 key (`-----BEGIN PRIVATE KEY-----`).
///
/// # Errors
/// `pkcs8_der` is not a PKCS#8 PrivateKeyInfo.
pub fn private_key_pem(pkcs8_der: &[u8]) -> Result<Zeroizing<String>, TlsError> {
    let info = private_key_info(pkcs8_der)?;
    let document = pkcs8::SecretDocument::encode_msg(&info).map_err(encoding)?;
    document.to_pem("PRIVATE KEY", LineEnding::LF).map_err(encoding)
}

/// PEM text of a PKCS#8 key encrypted with PBES2: PBKDF2-HMAC-SHA256 and AES-256-CBC
/// (`-----BEGIN ENCRYPTED PRIVATE KEY-----`), which OpenSSL reads as well.
///
/// # Errors
/// `pkcs8_der` is not a PKCS#8 PrivateKeyInfo, or the system gives no random bytes.
pub fn encrypt_private_key(pkcs8_der: &[u8], password: &str) -> Result<Zeroizing<String>, TlsError> {
    let info = private_key_info(pkcs8_der)?;
    let mut salt = [0; 16];
    let mut iv = [0; 16];
    let random = ring::rand::SystemRandom::new();
    random
        .fill(&mut salt)
        .and_then(|()| random.fill(&mut iv))
        .map_err(|_| TlsError::KeyEncoding { detail: "no random bytes from the system".into() })?;
    let parameters = pbes2::Parameters::pbkdf2_sha256_aes256cbc(PBKDF2_ITERATIONS, &salt, &iv).map_err(encoding)?;
    let document = info.encrypt_with_params(parameters, password).map_err(encoding)?;
    document.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).map_err(encoding)
}

fn private_key_info(der: &[u8]) -> Result<pkcs8::PrivateKeyInfo<'_>, TlsError> {
    pkcs8::PrivateKeyInfo::try_from(der).map_err(encoding)
}

fn encoding(error: impl std::fmt::Display) -> TlsError {
    TlsError::KeyEncoding { detail: error.to_string() }
}

/// Loads a certificate chain (leaf first) with its key, and checks that they belong together. What
/// is wrong with either is a problem, and then there is no identity.
pub(crate) fn load_identity(identity: &Identity, problems: &mut Vec<TlsError>) -> Option<Arc<CertifiedKey>> {
    let Identity { cert, key, password } = identity;
    let mut noted = |problem| problems.push(problem);
    let chain = load_chain(cert).map_err(&mut noted).ok();
    let signing = load_signing_key(key, password.as_ref().map(|p| p.as_str())).map_err(&mut noted).ok();
    let certified = CertifiedKey::new(chain?, signing?);
    match certified.keys_match() {
        // Unknown is for keys that cannot tell their public part; ring's all can.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => return Some(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            noted(TlsError::KeyMismatch { key: key.clone(), cert: cert.clone() });
        }
        Err(source) => noted(TlsError::UnusableCertificate { path: cert.clone(), source }),
    }
    None
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = load_certificates(path, FileKind::Certificate)?;
    for (i, der) in chain.iter().enumerate() {
        CertificateInfo::from_der(der).map_err(|source| TlsError::BadCertificate {
            kind: FileKind::Certificate,
            path: path.to_owned(),
            number: i + 1,
            source,
        })?;
    }
    Ok(chain)
}

/// Checks that a private key can be used for TLS, for a server that has no certificate of its own yet.
///
/// # Errors
/// The file cannot be read, holds no key, cannot be decrypted, or the key's type or size is not supported.
pub fn check_private_key(path: &Path, password: Option<&str>) -> Result<(), TlsError> {
    load_signing_key(path, password).map(drop)
}

fn load_signing_key(path: &Path, password: Option<&str>) -> Result<Arc<dyn SigningKey>, TlsError> {
    let der = load_private_key(path, password)?;
    let unsupported = |e| TlsError::UnsupportedKey { path: path.to_owned(), detail: explain_key(&e) };
    provider().key_provider.load_private_key(der).map_err(unsupported)
}

fn explain_key(error: &rustls::Error) -> String {
    match error {
        rustls::Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What should be changed about a certificate and key that do work. Files that cannot be read give
/// no warning: loading them reports that.
pub(crate) fn identity_warnings(cert: &Path, key: &Path) -> Vec<TlsWarning> {
    let mut warnings = Vec::new();
    if let Ok(metadata) = std::fs::metadata(key) {
        let mode = metadata.mode() & 0o7777;
        if mode & 0o007 != 0 {
            warnings.push(TlsWarning::KeyOpenToAll { path: key.to_owned(), mode });
        }
    }
    if let Some(leaf) = leaf(cert) {
        let now = std::time::SystemTime::now();
        if now > leaf.not_after {
            warnings.push(TlsWarning::Expired {
                path: cert.to_owned(),
                not_after: crate::certificate::utc(leaf.not_after),
            });
        } else if now < leaf.not_before {
            warnings.push(TlsWarning::NotValidYet {
                path: cert.to_owned(),
                not_before: crate::certificate::utc(leaf.not_before),
            });
        }
    }
    warnings
}

/// What should be changed about the usages of a server's certificate.
pub(crate) fn server_usage_warnings(cert: &Path) -> Vec<TlsWarning> {
    let path = cert.to_owned();
    match leaf(cert) {
        Some(CertificateInfo { purpose: Some(Purpose { server: false, .. }), .. }) => {
            vec![TlsWarning::NotForServers { path }]
        }
        // A self-made one is nobody's client unless it is listed itself.
        Some(leaf) if !leaf.is_self_issued() && leaf.purpose.is_none_or(|purpose| purpose.client) => {
            vec![TlsWarning::ForClientsToo { path }]
        }
        _ => Vec::new(),
    }
}

/// The first certificate of a file, if there is one that can be parsed.
fn leaf(cert: &Path) -> Option<CertificateInfo> {
    let chain = load_certificates(cert, FileKind::Certificate).ok()?;
    CertificateInfo::from_der(chain.first()?).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{Site, identity, not_yet_valid, testdata, text};
    use test_support::ca::LeafSpec;

    fn load(cert: &Path, key: &Path, password: Option<&str>) -> Result<(), Vec<TlsError>> {
        let password = password.map(|text| Zeroizing::new(text.to_owned()));
        let identity = Identity { cert: cert.to_owned(), key: key.to_owned(), password };
        let mut problems = Vec::new();
        load_identity(&identity, &mut problems).map(drop).ok_or(problems)
    }

    fn failure(path: &Path, password: Option<&str>) -> String {
        text(&load_private_key(path, password).unwrap_err(), path)
    }

    #[test]
    fn reads_every_form_of_key() {
        let pkcs1 = load_private_key(&testdata("rsa-pkcs1.pem"), None).unwrap();
        assert!(matches!(pkcs1, PrivateKeyDer::Pkcs1(_)));
        let sec1 = load_private_key(&testdata("ec-sec1.pem"), None).unwrap();
        assert!(matches!(sec1, PrivateKeyDer::Sec1(_)));
        let pkcs8 = load_private_key(&testdata("encrypted-aes.pem"), Some("correct")).unwrap();
        assert!(matches!(pkcs8, PrivateKeyDer::Pkcs8(_)));
        for key in [pkcs1, sec1, pkcs8] {
            provider().key_provider.load_private_key(key).unwrap();
        }
    }

    #[test]
    fn an_encrypted_key_survives_an_editor() {
        let site = Site::new();
        let pem = fs::read_to_string(testdata("encrypted-aes.pem")).unwrap();
        let path = site.file("key.pem", format!("Bag Attributes\r\n{}\n", pem.replace('\n', " \r\n")));
        load_private_key(&path, Some("correct")).unwrap();
    }

    #[test]
    fn a_password_for_a_plain_key_is_ignored() {
        load_private_key(&testdata("rsa-pkcs1.pem"), Some("any")).unwrap();
    }

    #[test]
    fn says_what_is_wrong_with_a_key() {
        let site = Site::new();
        let encrypted = testdata("encrypted-aes.pem");
        let missing = "the private key in FILE is encrypted and no password is configured: store it unencrypted with \
                       mode 0600, or configure its password where there is an option for it";
        assert_eq!(failure(&encrypted, None), missing);
        assert_eq!(failure(&encrypted, Some("")), missing);
        assert_eq!(
            failure(&encrypted, Some("wrong")),
            "the private key in FILE cannot be decrypted with the configured password: configure the one that it was \
             encrypted with"
        );
        for name in ["encrypted-des3.pem", "encrypted-legacy.pem"] {
            assert_eq!(
                failure(&testdata(name), Some("correct")),
                "the private key in FILE is encrypted in a way that is not supported: convert it with: openssl pkcs8 \
                 -topk8 -v2 aes-256-cbc"
            );
        }
        assert_eq!(
            failure(&site.ca_file, None),
            "the private key file FILE holds no private key: expected PEM text with a line -----BEGIN PRIVATE \
             KEY-----, found a certificate"
        );
        let pem = fs::read_to_string(&encrypted).unwrap();
        let cut = site.file("cut.pem", pem.replace("-----END", ""));
        assert_eq!(
            failure(&cut, Some("correct")),
            "the private key file FILE is damaged PEM text: the line -----END ENCRYPTED PRIVATE KEY----- is missing: \
             write it anew from its source"
        );
        let garbled = site.file("garbled.pem", pem.replace("MII", "M*I"));
        assert_eq!(
            failure(&garbled, Some("correct")),
            "the private key file FILE is damaged PEM text: its base64 text is broken: write it anew from its source"
        );
    }

    #[test]
    fn writes_what_it_reads() {
        let site = Site::new();
        let key = load_private_key(&site.server.1, None).unwrap();
        let plain = site.file("plain.pem", private_key_pem(key.secret_der()).unwrap().as_bytes());
        assert_eq!(load_private_key(&plain, None).unwrap().secret_der(), key.secret_der());
        let pem = encrypt_private_key(key.secret_der(), "päss").unwrap();
        let encrypted = site.file("encrypted.pem", pem.as_bytes());
        assert_eq!(load_private_key(&encrypted, Some("päss")).unwrap().secret_der(), key.secret_der());
        assert!(failure(&encrypted, Some("pass")).contains("cannot be decrypted with the configured password: "));
        assert!(matches!(private_key_pem(b"no key"), Err(TlsError::KeyEncoding { .. })));
    }

    #[test]
    fn key_and_certificate_must_belong_together() {
        let site = Site::new();
        load(&site.server.0, &site.server.1, None).unwrap();
        load(&testdata("rsa.crt"), &testdata("encrypted-aes.pem"), Some("correct")).unwrap();
        let error = load(&site.server.0, &site.client.1, None).unwrap_err()[0].to_string();
        assert_eq!(
            error,
            format!(
                "the private key in {} does not belong to the certificate in {}: after a renewal both files must be \
                 replaced together",
                site.client.1.display(),
                site.server.0.display()
            )
        );
    }

    #[test]
    fn unusable_keys_and_certificates_are_named() {
        let site = Site::new();
        let p521 = testdata("ec-p521.pem");
        let error = load(&site.server.0, &p521, None).unwrap_err().remove(0);
        assert_eq!(
            text(&error, &p521),
            "the private key in FILE cannot be used for TLS: failed to parse private key as RSA, ECDSA, or EdDSA: use \
             RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519"
        );
        let garbage = site.file("bad.crt", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
        let error = load(&garbage, &site.server.1, None).unwrap_err().remove(0);
        assert!(
            text(&error, &garbage).starts_with(
                "certificate 1 in the certificate file FILE cannot be parsed: not an X.509 certificate in DER: "
            ),
            "{error}"
        );
    }

    #[test]
    fn warns_of_usages() {
        let site = Site::new();
        let made = |spec: LeafSpec| server_usage_warnings(&site.issue(&site.ca, &spec, "made").0);
        assert_eq!(made(LeafSpec::new("a").server_only()), []);
        assert_eq!(
            made(LeafSpec::new("a"))[0].to_string(),
            format!(
                "our certificate in {} can be used by a client, too, and whoever trusts its issuer may take this host \
                 for one: have it issued with the extended key usage server authentication only",
                site.scratch.join("made.crt").display()
            )
        );
        let any = LeafSpec { server: false, client: false, ..LeafSpec::new("a") };
        assert!(matches!(made(any)[..], [TlsWarning::ForClientsToo { .. }]));
        assert_eq!(
            made(LeafSpec::new("a").client_only())[0].to_string(),
            format!(
                "our certificate in {} is not for servers (extended key usage): have it issued with server \
                 authentication, peers refuse it",
                site.scratch.join("made.crt").display()
            )
        );
    }

    #[test]
    fn warns_of_open_keys_and_of_dates() {
        let site = Site::new();
        let (cert, key) = &site.server;
        assert_eq!(identity_warnings(cert, key), []);
        fs::set_permissions(key, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(identity_warnings(cert, key), []);
        fs::set_permissions(key, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            identity_warnings(cert, key)[0].to_string(),
            format!(
                "the private key file {} is open to every user of this host (mode 0644): set its mode to 0600",
                key.display()
            )
        );
        for (spec, begin) in
            [(LeafSpec::new("old").expired(), "expired on "), (not_yet_valid("new"), "is not valid before ")]
        {
            let dated = identity(&site.issue(&site.ca, &spec, "dated"));
            let warning = identity_warnings(&dated.cert, &dated.key)[0].to_string();
            assert!(warning.starts_with(&format!("our certificate in {} {begin}2", dated.cert.display())));
        }
    }
}
