// SPDX-License-Identifier: Apache-2.0
//! Certificates for tests: root, intermediates, leaves, all with P-256 keys and made in memory.

use std::fs;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, string::Ia5String,
};

/// A CA: the root or an intermediate.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    /// The certificates above this one, issuer first, without the root.
    above: String,
}

/// What a leaf certificate is for.
#[derive(Debug, Clone)]
pub struct LeafSpec {
    /// Common name.
    pub name: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Whether the extended key usage holds server authentication.
    pub server: bool,
    /// Whether the extended key usage holds client authentication.
    pub client: bool,
    /// Start of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
}

impl LeafSpec {
    /// A certificate for both roles, for `localhost` and 127.0.0.1, valid from an hour ago for a day.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let now = SystemTime::now();
        Self {
            name: name.to_owned(),
            dns: vec!["localhost".to_owned()],
            ips: vec![IpAddr::from([127, 0, 0, 1])],
            server: true,
            client: true,
            not_before: now - Duration::from_secs(3600),
            not_after: now + Duration::from_secs(24 * 3600),
        }
    }

    /// For servers only.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.client = false;
        self
    }

    /// For clients only.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.server = false;
        self
    }

    /// Ended an hour ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        let now = SystemTime::now();
        self.not_before = now - Duration::from_secs(48 * 3600);
        self.not_after = now - Duration::from_secs(3600);
        self
    }

    /// For these DNS names and no address.
    #[must_use]
    pub fn only_dns(mut self, names: &[&str]) -> Self {
        self.dns = names.iter().map(|name| (*name).to_owned()).collect();
        self.ips.clear();
        self
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, self.name.clone());
        for name in &self.dns {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        if self.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if self.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// A leaf certificate with its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf alone.
    pub cert_pem: String,
    /// The leaf followed by the intermediates, without the root.
    pub chain_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
    /// The leaf in DER.
    pub cert_der: Vec<u8>,
}

impl Issued {
    /// Writes `<name>.crt` (leaf and intermediates) and `<name>.pem` (key, mode 0600) into a folder; answers both
    /// paths.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let cert = folder.join(format!("{name}.crt"));
        let key = folder.join(format!("{name}.pem"));
        fs::write(&cert, &self.chain_pem).with_context(|| format!("cannot write {}", cert.display()))?;
        fs::write(&key, &self.key_pem).with_context(|| format!("cannot write {}", key.display()))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        Ok((cert, key))
    }
}

impl TestCa {
    /// A root with the given common name.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn root(name: &str) -> Result<Self> {
        let (params, key) = ca_params(name)?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, above: String::new() })
    }

    /// A root that has ended an hour ago.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn expired_root(name: &str) -> Result<Self> {
        let now = SystemTime::now();
        Self::root_within(name, now - Duration::from_secs(48 * 3600)..now - Duration::from_secs(3600))
    }

    /// A root that is valid in this time only.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn root_within(name: &str, time: Range<SystemTime>) -> Result<Self> {
        let (mut params, key) = ca_params(name)?;
        (params.not_before, params.not_after) = (time.start.into(), time.end.into());
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, above: String::new() })
    }

    /// An intermediate below this CA.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn intermediate(&self, name: &str) -> Result<Self> {
        self.sign(ca_params(name)?)
    }

    /// An intermediate below this CA that is valid in this time only.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn intermediate_within(&self, name: &str, time: Range<SystemTime>) -> Result<Self> {
        let (mut params, key) = ca_params(name)?;
        (params.not_before, params.not_after) = (time.start.into(), time.end.into());
        self.sign((params, key))
    }

    fn sign(&self, (params, key): (CertificateParams, KeyPair)) -> Result<Self> {
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        let above = format!("{pem}{}", self.above);
        Ok(Self { issuer: Issuer::new(params, key), pem, above })
    }

    /// The certificate of this CA in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate of this CA as `<name>.crt` into a folder; answers the path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(format!("{name}.crt"));
        fs::write(&path, &self.pem).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Issues a leaf certificate.
    ///
    /// # Errors
    /// When a name cannot be put into a certificate.
    pub fn issue(&self, spec: &LeafSpec) -> Result<Issued> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let cert = spec.params()?.signed_by(&key, &self.issuer)?;
        let cert_pem = cert.pem();
        let chain_pem = format!("{cert_pem}{}", self.above);
        Ok(Issued { chain_pem, cert_pem, key_pem: key.serialize_pem(), cert_der: cert.der().to_vec() })
    }
}

/// A certificate signed by its own key, as a stock Keylime agent makes for itself: no CA flag, no key usage beyond
/// those of `spec`.
///
/// # Errors
/// When a name cannot be put into a certificate.
pub fn self_signed(spec: &LeafSpec) -> Result<Issued> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = spec.params()?.self_signed(&key)?;
    let cert_pem = cert.pem();
    Ok(Issued { chain_pem: cert_pem.clone(), cert_pem, key_pem: key.serialize_pem(), cert_der: cert.der().to_vec() })
}

fn ca_params(name: &str) -> Result<(CertificateParams, KeyPair)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok((params, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Program, success};
    use crate::require;
    use crate::scratch::Scratch;

    #[test]
    fn openssl_accepts_a_chain_with_an_intermediate() {
        let Some(openssl) = require::program("openssl") else { return };
        let scratch = Scratch::new("ca").unwrap();
        let root = TestCa::root("Test Root").unwrap();
        let issuing = root.intermediate("Test Issuing").unwrap();
        let (leaf, _) =
            issuing.issue(&LeafSpec::new("host").server_only()).unwrap().write(scratch.path(), "leaf").unwrap();
        let root_file = root.write(scratch.path(), "root").unwrap();
        let verify = |purpose: &str| {
            Program::new(&openssl)
                .args(["verify", "-purpose", purpose, "-CAfile"])
                .args([&root_file])
                .args(["-untrusted".as_ref(), leaf.as_os_str(), leaf.as_os_str()])
                .run(Duration::from_secs(10))
                .unwrap()
        };
        success("verify", verify("sslserver")).unwrap();
        assert!(success("verify", verify("sslclient")).is_err());
    }

    #[test]
    fn a_chain_holds_the_intermediates_and_not_the_root() {
        let root = TestCa::root("Test Root").unwrap();
        let issuing = root.intermediate("Test Issuing").unwrap();
        let leaf = issuing.issue(&LeafSpec::new("old").expired()).unwrap();
        assert_eq!(leaf.chain_pem, format!("{}{}", leaf.cert_pem, issuing.pem()));
        let alone = self_signed(&LeafSpec::new("agent")).unwrap();
        assert_eq!(alone.chain_pem, alone.cert_pem);
    }
}
