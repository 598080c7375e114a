// SPDX-License-Identifier: Apache-2.0
//! IAK and IDevID with their certificates, and the AK certified by the IAK, for the registration.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use keylime_api::AgentId;
use keylime_api::registration;
use tls::FileKind;
use tpm::{Certification, DeviceKeyKind, DeviceKeySource, Tpm, TpmError};
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, UnsupportedHash};
use tpm_wire::public::Public;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use zeroize::Zeroizing;

use crate::config::device_identity::{DeviceIdentity, DeviceKey, Template};

/// Longest certificate file, in bytes.
const MAX_FILE: u64 = 64 << 10;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// Why the host has no device identity to register with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceIdentityError {
    #[error("cannot read the {kind} certificate {} (option '{option}'): {source}", path.display())]
    Read { kind: DeviceKeyKind, option: &'static str, path: PathBuf, source: io::Error },
    #[error("option '{option}': {source}")]
    Pem { option: &'static str, source: tls::TlsError },
    #[error("the {kind} certificate {} (option '{option}') is larger than {MAX_FILE} bytes", path.display())]
    TooLarge { kind: DeviceKeyKind, option: &'static str, path: PathBuf },
    #[error("the {kind} certificate {} (option '{option}') is no X.509 certificate: {source}", path.display())]
    Parse { kind: DeviceKeyKind, option: &'static str, path: PathBuf, source: x509_cert::der::Error },
    #[error(
        "no template makes a key like that of the {kind} certificate {}: set 'iak_idevid_template', or '{option}_handle' if \
         the key is stored in the TPM",
        path.display()
    )]
    NoTemplate { kind: DeviceKeyKind, option: &'static str, path: PathBuf },
    #[error(
        "the {kind} certificate {} is for another key than the TPM's {kind}: check 'iak_idevid_template' and \
         '{option}_handle', and whether the certificate is this host's",
        path.display()
    )]
    OtherKey { kind: DeviceKeyKind, option: &'static str, path: PathBuf },
    #[error("the TPM's {kind} cannot be read: {source}")]
    Public { kind: DeviceKeyKind, source: tpm_wire::error::DecodeError },
    #[error(transparent)]
    Hash(#[from] UnsupportedHash),
    #[error(transparent)]
    Tpm(#[from] TpmError),
    #[error("the TPM takes no qualifying data of 32 bytes")]
    NoCertification,
}

/// The certificates that are configured.
pub(crate) struct Certificates {
    iak: Option<Loaded>,
    idevid: Option<Loaded>,
}

struct Loaded {
    path: PathBuf,
    der: Vec<u8>,
    certificate: Certificate,
}

impl Certificates {
    /// Reads both files, PEM or DER.
    pub(crate) fn load(config: &DeviceIdentity) -> Result<Self, DeviceIdentityError> {
        Ok(Self {
            iak: Loaded::configured(DeviceKeyKind::Iak, "iak_cert", &config.iak)?,
            idevid: Loaded::configured(DeviceKeyKind::IDevId, "idevid_cert", &config.idevid)?,
        })
    }

    /// What is wrong with each of them.
    pub(crate) fn problems(config: &DeviceIdentity) -> Vec<DeviceIdentityError> {
        let iak = Loaded::configured(DeviceKeyKind::Iak, "iak_cert", &config.iak);
        let idevid = Loaded::configured(DeviceKeyKind::IDevId, "idevid_cert", &config.idevid);
        [iak.err(), idevid.err()].into_iter().flatten().collect()
    }
}

impl Loaded {
    fn configured(
        kind: DeviceKeyKind,
        option: &'static str,
        key: &DeviceKey,
    ) -> Result<Option<Self>, DeviceIdentityError> {
        key.certificate.as_ref().map(|path| Self::read(kind, option, path)).transpose()
    }

    fn read(kind: DeviceKeyKind, option: &'static str, path: &Path) -> Result<Self, DeviceIdentityError> {
        let failed = |source| DeviceIdentityError::Read { kind, option, path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(DeviceIdentityError::TooLarge { kind, option, path: path.to_owned() });
        }
        // The first byte of a DER SEQUENCE; in PEM it would be the digit 0.
        let der = if bytes.starts_with(&[0x30]) {
            bytes
        } else {
            let pem = tls::load_certificates(path, FileKind::Certificate);
            let found = pem.map_err(|source| DeviceIdentityError::Pem { option, source })?;
            found.first().map(|first| first.to_vec()).unwrap_or_default()
        };
        let certificate = Certificate::from_der(&der).map_err(|source| DeviceIdentityError::Parse {
            kind,
            option,
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { path: path.to_owned(), der, certificate })
    }

    /// The template that makes keys of this kind.
    fn template(&self) -> Option<(KeyAlgorithm, HashAlgorithm)> {
        let key = &self.certificate.tbs_certificate.subject_public_key_info;
        if [RSA, RSA_PSS].contains(&key.algorithm.oid) {
            // A SEQUENCE of modulus and exponent: 270 bytes for 2048 bits and the usual exponent.
            let length = key.subject_public_key.raw_bytes().len();
            return (260..=272).contains(&length).then_some((KeyAlgorithm::Rsa2048, HashAlgorithm::Sha256));
        }
        let curve = key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok())?;
        [
            (P256, KeyAlgorithm::Ecc256, HashAlgorithm::Sha256),
            (P384, KeyAlgorithm::Ecc384, HashAlgorithm::Sha384),
            (P521, KeyAlgorithm::Ecc521, HashAlgorithm::Sha512),
        ]
        .into_iter()
        .find_map(|(oid, key, hash)| (oid == curve).then_some((key, hash)))
    }

    /// Whether the certificate is for this key. The algorithm identifier may be one for RSA-PSS only, so that the key's
    /// bits decide.
    fn is_for(&self, public: &Public) -> bool {
        use x509_cert::spki::SubjectPublicKeyInfoRef;
        let spki = public.to_spki_der();
        let bits = SubjectPublicKeyInfoRef::from_der(&spki).map(|spki| spki.subject_public_key.raw_bytes());
        let ours = self.certificate.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
        bits.is_ok_and(|bits| bits == ours)
    }
}

/// Makes or finds both keys and has the AK certified. Neither key stays loaded.
pub(crate) async fn obtain(
    tpm: &Tpm,
    config: &DeviceIdentity,
    certificates: &Certificates,
    id: &AgentId,
) -> Result<registration::DeviceIdentity, DeviceIdentityError> {
    let (iak, idevid) = (&certificates.iak, &certificates.idevid);
    let source = source(DeviceKeyKind::IDevId, "idevid", config, &config.idevid, [idevid, iak])?;
    let idevid_tpm = tpm.device_key(DeviceKeyKind::IDevId, source).await?;
    check(DeviceKeyKind::IDevId, "idevid", &idevid_tpm, idevid.as_ref())?;

    let source = self::source(DeviceKeyKind::Iak, "iak", config, &config.iak, [iak, idevid])?;
    let digest = HashAlgorithm::Sha256.digest(id.as_str().as_bytes())?;
    let certified = tpm.certify_ak(source, vec![digest, id.as_str().as_bytes().to_vec()]).await?;
    check(DeviceKeyKind::Iak, "iak", &certified.iak_public_2b, iak.as_ref())?;
    let mut certifications = certified.certifications.into_iter();
    let mut next = || certifications.next().flatten().map(to_register);
    let by_id_digest = next().ok_or(DeviceIdentityError::NoCertification)?;
    let by_id = next();
    if by_id.is_none() {
        tracing::debug!(
            "The agent id is too long for this TPM's TPM2_Certify: registrars before API 2.6 get its digest"
        );
    }
    tracing::info!("AK certified with IAK.");
    Ok(registration::DeviceIdentity {
        iak_tpm: certified.iak_public_2b,
        idevid_tpm,
        iak_cert: iak.as_ref().map(|loaded| loaded.der.clone()),
        idevid_cert: idevid.as_ref().map(|loaded| loaded.der.clone()),
        by_id_digest,
        by_id,
    })
}

fn to_register(certification: Certification) -> registration::Certification {
    registration::Certification { attest: certification.attest, signature: certification.signature }
}

/// Where the key comes from. Without a template in the configuration its certificate tells, or else that of the other key.
fn source(
    kind: DeviceKeyKind,
    option: &'static str,
    config: &DeviceIdentity,
    key: &DeviceKey,
    certificates: [&Option<Loaded>; 2],
) -> Result<DeviceKeySource, DeviceIdentityError> {
    if let Some(handle) = key.handle {
        tracing::info!("Collecting persisted {kind}.");
        return Ok(DeviceKeySource::Persistent { handle, auth: Zeroizing::new(key.auth.expose().to_vec()) });
    }
    tracing::info!("Recreating {kind}.");
    let (key, name_alg) = match (config.template, certificates.into_iter().flatten().next()) {
        (Template::Given(key, name_alg), _) => (key, name_alg),
        (Template::Detect, None) => (KeyAlgorithm::Rsa2048, HashAlgorithm::Sha256),
        (Template::Detect, Some(certificate)) => certificate
            .template()
            .ok_or_else(|| DeviceIdentityError::NoTemplate { kind, option, path: certificate.path.clone() })?,
    };
    tracing::debug!("{kind} by template: {key} with {name_alg}");
    Ok(DeviceKeySource::Template { key, name_alg })
}

/// Checks that the certificate is for the TPM's key.
fn check(
    kind: DeviceKeyKind,
    option: &'static str,
    public_2b: &[u8],
    certificate: Option<&Loaded>,
) -> Result<(), DeviceIdentityError> {
    let public = Public::decode_2b(public_2b).map_err(|source| DeviceIdentityError::Public { kind, source })?;
    let Some(certificate) = certificate else { return Ok(()) };
    if !certificate.is_for(&public) {
        return Err(DeviceIdentityError::OtherKey { kind, option, path: certificate.path.clone() });
    }
    tracing::info!("{kind} public key matches certificate.");
    Ok(())
}
