// SPDX-License-Identifier: Apache-2.0
//! IDevID and IAK, the device's keys of IEEE 802.1AR, and the certification of the AK by the IAK.
//!
//! Templates: TCG "TPM 2.0 Keys for Device Identity and Attestation", version 1.0, "IDevID and IAK Templates". The creation
//! PCRs that the document asks for are left out: they show in the creation data, which nobody here keeps, and not in
//! the keys.

use crate::ak::Ak;
use crate::codec::{Reader, Short, Writer};
use crate::command::{Authorization, CERTIFY, CREATE_PRIMARY, Command, READ_PUBLIC};
use crate::connection::Connection;
use crate::ek::{create_parameters, decode};
use crate::error::TpmError;
use crate::object::{Loaded, read_public, with_size};
use crate::policy::{self, TPM_ALG_NULL, TPM_RH_ENDORSEMENT, hex};
use crate::template;
use std::fmt;
use std::rc::Rc;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm, SignatureScheme};
use tpm_wire::public::{ObjectAttributes, Public, PublicKey};
use zeroize::Zeroizing;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, adminWithPolicy, sign.
const IDEVID: u32 = 0x0004_00F2;
/// The same and restricted.
const IAK: u32 = 0x0005_00F2;

const TPM_GENERATED: u32 = 0xFF54_4347;
const TPM_ST_ATTEST_CERTIFY: u16 = 0x8017;
/// TPMS_CLOCK_INFO and firmwareVersion.
const CLOCK_AND_FIRMWARE: usize = 17 + 8;

/// Which of the two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKeyKind {
    /// The initial device identity: names the device.
    IDevId,
    /// The initial attestation key: restricted, signs what the TPM itself has made.
    Iak,
}

impl fmt::Display for DeviceKeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IDevId => "IDevID",
            Self::Iak => "IAK",
        })
    }
}

impl DeviceKeyKind {
    /// What Keylime's options for this key begin with.
    fn option(self) -> &'static str {
        match self {
            Self::IDevId => "idevid",
            Self::Iak => "iak",
        }
    }

    fn attributes(self) -> u32 {
        match self {
            Self::IDevId => IDEVID,
            Self::Iak => IAK,
        }
    }

    /// The content of `unique`, which makes the two keys different ones.
    fn unique(self) -> &'static [u8] {
        match self {
            Self::IDevId => b"IDEVID",
            Self::Iak => b"IAK",
        }
    }

    /// authPolicy of the templates.
    fn policy(self, name_alg: HashAlgorithm) -> Option<&'static [u8]> {
        Some(match (self, name_alg) {
            (Self::IDevId, HashAlgorithm::Sha256) => &IDEVID_SHA256,
            (Self::IDevId, HashAlgorithm::Sha384) => &IDEVID_SHA384,
            (Self::IDevId, HashAlgorithm::Sha512) => &IDEVID_SHA512,
            (Self::Iak, HashAlgorithm::Sha256) => &IAK_SHA256,
            (Self::Iak, HashAlgorithm::Sha384) => &IAK_SHA384,
            (Self::Iak, HashAlgorithm::Sha512) => &IAK_SHA512,
            (_, HashAlgorithm::Sha1 | HashAlgorithm::Sm3_256) => return None,
        })
    }
}

static IDEVID_SHA256: [u8; 32] = hex("ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea");
static IDEVID_SHA384: [u8; 48] =
    hex("4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33");
static IDEVID_SHA512: [u8; 64] = hex(
    "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f",
);
static IAK_SHA256: [u8; 32] = hex("5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07");
static IAK_SHA384: [u8; 48] =
    hex("129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312");
static IAK_SHA512: [u8; 64] = hex(
    "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44af94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586",
);

/// Where an IDevID or IAK comes from.
#[derive(Clone)]
pub enum DeviceKeySource {
    /// TPM2_CreatePrimary in the endorsement hierarchy with the template of this key type; the same key each time.
    Template {
        /// Type and size.
        key: KeyAlgorithm,
        /// nameAlg, and hash of the scheme.
        name_alg: HashAlgorithm,
    },
    /// The key at this persistent handle, used as it is.
    Persistent {
        /// E.g. `0x81020000`.
        handle: u32,
        /// The key's authorization value. Not needed for an IDevID, of which only the public part is read.
        auth: Zeroizing<Vec<u8>>,
    },
}

impl fmt::Debug for DeviceKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template { key, name_alg } => write!(f, "Template({key}, {name_alg})"),
            Self::Persistent { handle, .. } => write!(f, "Persistent({handle:#010x})"),
        }
    }
}

/// Why the key at a persistent handle cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceKeyCause {
    /// Nothing is stored there.
    #[error("the handle is empty")]
    Missing,
    /// The key does not sign, or also decrypts.
    #[error("the key there is not a signing key")]
    NotSigningKey,
    /// Quotes and certifications by it could be forged.
    #[error("the key there is not restricted, so what it signs need not come from the TPM")]
    NotRestricted,
}

/// One TPM2_Certify of the AK.
#[derive(Clone, PartialEq, Eq)]
pub struct Certification {
    /// TPMS_ATTEST as the TPM returned it: Keylime's `iak_attest`.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE as the TPM returned it: Keylime's `iak_sign`.
    pub signature: Vec<u8>,
}

impl fmt::Debug for Certification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certification({} + {} bytes)", self.attest.len(), self.signature.len())
    }
}

/// The IAK and what it says of the AK.
#[derive(Debug)]
#[non_exhaustive]
pub struct CertifiedAk {
    /// The IAK's TPM2B_PUBLIC with the 2-byte size prefix: Keylime's `iak_tpm`.
    pub iak_public_2b: Vec<u8>,
    /// A certification for each of the qualifying data, in their order; `None` for one that is longer than this TPM takes.
    pub certifications: Vec<Option<Certification>>,
}

/// Whether there is a template for this type and nameAlg.
///
/// # Errors
/// [`TpmError::DeviceKeyTemplate`].
pub fn check_device_key(key: KeyAlgorithm, name_alg: HashAlgorithm) -> Result<(), TpmError> {
    public_template(DeviceKeyKind::Iak, key, name_alg).map(drop)
}

/// The TPMT_PUBLIC of the template.
fn public_template(kind: DeviceKeyKind, key: KeyAlgorithm, name_alg: HashAlgorithm) -> Result<Writer, TpmError> {
    let policy = kind.policy(name_alg).ok_or(TpmError::DeviceKeyTemplate { key, name_alg })?;
    let scheme = match (key.is_rsa(), kind) {
        (true, DeviceKeyKind::IDevId) => None,
        (true, DeviceKeyKind::Iak) => Some(SignatureScheme::RsaPss),
        (false, _) => Some(SignatureScheme::EcDsa),
    };
    let template = template::signing(key, name_alg, kind.attributes(), policy, scheme, kind.unique());
    template.map_err(|_| TpmError::DeviceKeyTemplate { key, name_alg })
}

/// A key in the TPM.
struct DeviceKey {
    handle: u32,
    /// Flushes a created key when dropped.
    _created: Option<Loaded>,
    public_2b: Vec<u8>,
    public: Public,
    auth: Zeroizing<Vec<u8>>,
}

impl DeviceKey {
    fn obtain(
        connection: &Rc<Connection>,
        kind: DeviceKeyKind,
        source: &DeviceKeySource,
        endorsement_auth: &[u8],
    ) -> Result<Self, TpmError> {
        match source {
            DeviceKeySource::Template { key, name_alg } => {
                Self::create(connection, kind, *key, *name_alg, endorsement_auth)
            }
            DeviceKeySource::Persistent { handle, auth } => Self::find(connection, kind, *handle, auth),
        }
    }

    fn create(
        connection: &Rc<Connection>,
        kind: DeviceKeyKind,
        key: KeyAlgorithm,
        name_alg: HashAlgorithm,
        endorsement_auth: &[u8],
    ) -> Result<Self, TpmError> {
        let mut command =
            Command::new(CREATE_PRIMARY).authorized(TPM_RH_ENDORSEMENT, Authorization::Password(endorsement_auth));
        create_parameters(&mut command.parameters, &public_template(kind, key, name_alg)?);
        let response = command.send(connection).map_err(|error| match error {
            TpmError::Command { code, .. } if code.is_about_parameter() => {
                TpmError::DeviceKeyUnsupported { kind, key, name_alg, code }
            }
            other => policy::explain_endorsement(other),
        })?;
        let (loaded, public_2b) = response.read(true, |handle, reader| {
            // Guarded before anything else can fail.
            let loaded = Loaded::new(connection, handle);
            Ok((loaded, with_size(reader.sized()?)))
        })?;
        let public = decode(CREATE_PRIMARY.0, &public_2b)?;
        Ok(DeviceKey { handle: loaded.handle(), _created: Some(loaded), public_2b, public, auth: Zeroizing::default() })
    }

    fn find(connection: &Connection, kind: DeviceKeyKind, handle: u32, auth: &[u8]) -> Result<Self, TpmError> {
        let unusable = |cause| TpmError::DeviceKeyHandle { kind, option: kind.option(), handle, cause };
        let found = read_public(connection, handle).map_err(|error| match error {
            TpmError::Command { code, .. } if code.is_bad_handle() => unusable(DeviceKeyCause::Missing),
            other => other,
        })?;
        let public = decode(READ_PUBLIC.0, &found.public_2b)?;
        let attributes = public.object_attributes;
        if !attributes.contains(ObjectAttributes::SIGN) || attributes.contains(ObjectAttributes::DECRYPT) {
            return Err(unusable(DeviceKeyCause::NotSigningKey));
        }
        if kind == DeviceKeyKind::Iak && !attributes.contains(ObjectAttributes::RESTRICTED) {
            return Err(unusable(DeviceKeyCause::NotRestricted));
        }
        let auth = Zeroizing::new(auth.to_vec());
        Ok(DeviceKey { handle, _created: None, public_2b: found.public_2b, public, auth })
    }
}

/// The public part of the key, as TPM2B_PUBLIC. Nothing stays loaded.
pub(crate) fn public(
    connection: &Rc<Connection>,
    kind: DeviceKeyKind,
    source: &DeviceKeySource,
    endorsement_auth: &[u8],
) -> Result<Vec<u8>, TpmError> {
    DeviceKey::obtain(connection, kind, source, endorsement_auth).map(|key| key.public_2b.clone())
}

/// Certifies the AK with the IAK, once for each of the qualifying data. The IAK does not stay loaded.
pub(crate) fn certify(
    connection: &Rc<Connection>,
    iak: &DeviceKeySource,
    endorsement_auth: &[u8],
    ak: &Ak,
    qualifying_data: &[Vec<u8>],
) -> Result<CertifiedAk, TpmError> {
    let iak = DeviceKey::obtain(connection, DeviceKeyKind::Iak, iak, endorsement_auth)?;
    let certifications = qualifying_data.iter().map(|data| certify_once(connection, &iak, ak, data));
    let certifications = certifications.collect::<Result<_, _>>()?;
    Ok(CertifiedAk { iak_public_2b: iak.public_2b.clone(), certifications })
}

fn certify_once(
    connection: &Connection,
    iak: &DeviceKey,
    ak: &Ak,
    qualifying_data: &[u8],
) -> Result<Option<Certification>, TpmError> {
    let mut command = Command::new(CERTIFY)
        .authorized(ak.handle(), Authorization::Password(&[]))
        .authorized(iak.handle, Authorization::Password(&iak.auth));
    command.parameters.sized(qualifying_data);
    match (&iak.public.scheme, &iak.public.key) {
        (Some(_), _) => command.parameters.u16(TPM_ALG_NULL),
        // A key without a scheme of its own signs nothing unless it is told how.
        (None, PublicKey::Rsa { .. }) => {
            command.parameters.u16(SignatureScheme::RsaPss.tpm_id()).u16(iak.public.name_alg.tpm_id())
        }
        (None, PublicKey::Ecc { .. }) => {
            command.parameters.u16(SignatureScheme::EcDsa.tpm_id()).u16(iak.public.name_alg.tpm_id())
        }
    };
    let response = match command.send(connection) {
        // TPM2B_DATA holds as much as a TPMT_HA of the TPM's longest hash.
        Err(TpmError::Command { code, .. }) if code.is_size_of_parameter(1) => return Ok(None),
        Err(TpmError::Command { code, .. }) if code.is_bad_auth_of(2) => return Err(TpmError::IakAuth { code }),
        other => other?,
    };
    let (attest, signature) = response.parameters(|reader| Ok((reader.sized()?.to_vec(), reader.rest().to_vec())))?;
    let (extra_data, name) = certified(&attest).map_err(|Short| response.malformed("TPMS_ATTEST"))?;
    if extra_data != qualifying_data {
        return Err(response.malformed("the qualifying data"));
    }
    let ak = decode(CERTIFY.0, &with_size(&ak.saved.public))?;
    if ak.name().ok().as_deref() != Some(name) {
        return Err(TpmError::ForeignKey);
    }
    Ok(Some(Certification { attest, signature }))
}

/// extraData and the certified Name of a TPMS_ATTEST of TPM2_Certify (TPM 2.0 Library Part 2, "TPMS_ATTEST" and
/// "TPMS_CERTIFY_INFO").
fn certified(attest: &[u8]) -> Result<(&[u8], &[u8]), Short> {
    let mut reader = Reader::new(attest);
    if (reader.u32()?, reader.u16()?) != (TPM_GENERATED, TPM_ST_ATTEST_CERTIFY) {
        return Err(Short);
    }
    let _qualified_signer = reader.sized()?;
    let extra_data = reader.sized()?;
    let _clock_and_firmware = reader.bytes(CLOCK_AND_FIRMWARE)?;
    Ok((extra_data, reader.sized()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex_of(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn templates_are_those_of_the_document() {
        use {DeviceKeyKind as D, HashAlgorithm as H, KeyAlgorithm as K};
        // type, nameAlg, attributes, policy's begin; then symmetric, scheme and the rest.
        let rows = [
            (D::IDevId, K::Rsa2048, H::Sha256, "0001000b000400f20020ad6b3a22", "001000100800000000000006494445564944"),
            (D::Iak, K::Rsa2048, H::Sha256, "0001000b000500f2002054371823", "00100016000b0800000000000003"),
            (D::IDevId, K::Ecc256, H::Sha256, "0023000b000400f20020ad6b3a22", "00100018000b000300100006494445564944"),
            (D::Iak, K::Ecc384, H::Sha384, "0023000c000500f20030129d94eb", "00100018000c00040010000349414b000349414b"),
            (D::Iak, K::Ecc521, H::Sha512, "0023000d000500f200408060d1fb", "00100018000d00050010000349414b000349414b"),
        ];
        for (kind, key, hash, start, rest) in rows {
            let template = public_template(kind, key, hash).map(|out| hex_of(out.as_slice())).unwrap_or_default();
            assert!(template.starts_with(start), "{kind} {key}: {template}");
            assert!(template.contains(rest), "{kind} {key}: {template}");
        }
        for (key, hash) in [(K::Rsa2048, H::Sha1), (K::EccSm2, H::Sm3_256), (K::Rsa1024, H::Sha256)] {
            assert_eq!(
                check_device_key(key, hash).map_err(|error| error.to_string()),
                Err(format!(
                    "there is no template for IDevID and IAK of type {key} with nameAlg {hash} here: use rsa2048, rsa3072, \
                     rsa4096, ecc256, ecc384 or ecc521 with sha256, sha384 or sha512"
                ))
            );
        }
    }

    #[test]
    fn every_prefix_of_a_certification_is_refused() {
        let mut whole = vec![0xFF, 0x54, 0x43, 0x47, 0x80, 0x17, 0, 1, 9, 0, 2, 7, 8];
        whole.extend([0; CLOCK_AND_FIRMWARE]);
        whole.extend([0, 3, 1, 2, 3]);
        assert_eq!(certified(&whole), Ok((&[7, 8][..], &[1, 2, 3][..])));
        for end in 0..whole.len() {
            assert_eq!(certified(&whole[..end]), Err(Short), "{end}");
        }
        // A quote.
        whole[5] = 0x18;
        assert_eq!(certified(&whole), Err(Short));
    }

    #[test]
    fn debug_shows_no_authorization_value() {
        let source = DeviceKeySource::Persistent { handle: 0x8102_0000, auth: Zeroizing::new(b"hunter2".to_vec()) };
        assert_eq!(format!("{source:?}"), "Persistent(0x81020000)");
    }
}
