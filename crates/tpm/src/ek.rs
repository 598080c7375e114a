// SPDX-License-Identifier: Apache-2.0
//! The endorsement key: made from the TCG template or found at a persistent handle.

use crate::codec::Writer;
use crate::command::{Authorization, CREATE_PRIMARY, Command, READ_PUBLIC};
use crate::connection::Connection;
use crate::error::{EkHandleCause, TpmError};
use crate::nv;
use crate::object::{Loaded, read_public, with_size};
use crate::policy::{self, EkAccess, TPM_RH_ENDORSEMENT};
use crate::template;
use std::rc::Rc;
use tpm_wire::hash::{HashAlgorithm, KeyAlgorithm};
use tpm_wire::public::{Curve, ObjectAttributes, Public, PublicKey};

/// Where the EK comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EkSource {
    /// TPM2_CreatePrimary with the default template of the configured key type; the same key each time.
    #[default]
    Template,
    /// The key at this persistent handle, e.g. `0x81010001`. Used as it is, never flushed or evicted. Its type is
    /// its own; it need not be the configured key type, which then is the AK's only.
    Persistent(u32),
}

/// The EK and its certificates.
#[derive(Debug)]
#[non_exhaustive]
pub struct EkInfo {
    /// TPM2B_PUBLIC with the 2-byte size prefix: Keylime's `ek_tpm`.
    pub public_2b: Vec<u8>,
    /// SubjectPublicKeyInfo as PEM, 64 columns, LF, one trailing LF: the text that `hash_ek` is computed over.
    pub spki_pem: String,
    /// The EK certificate from the TPM's NV memory, cut to its DER length; `None` if the TPM has none or it could not
    /// be read (then `certificate_problem` says why).
    pub certificate: Option<Vec<u8>>,
    /// False if `certificate` is not DER; then it holds all bytes of the NV index.
    pub certificate_is_der: bool,
    /// Without a certificate: the NV index of one for the high-range template of the same key type, which is another key.
    /// The EK by template is the one of the low range.
    pub other_certificate: Option<u32>,
    /// Why an EK certificate that exists could not be read.
    pub certificate_problem: Option<TpmError>,
    /// Certificates of the chain indexes 0x01C00100 to 0x01C001FF, DER, in the order in which the TPM stores them.
    pub certificate_chain: Vec<Vec<u8>>,
    /// Why a certificate chain that exists could not be read.
    pub chain_problem: Option<TpmError>,
}

/// An EK ready for use.
pub(crate) struct Ek {
    key: Key,
    pub(crate) public_2b: Vec<u8>,
    public: Public,
    access: EkAccess,
}

enum Key {
    Transient(Loaded),
    Persistent(u32),
}

impl Ek {
    /// Makes or finds the EK.
    pub(crate) fn obtain(
        connection: &Rc<Connection>,
        source: EkSource,
        key: KeyAlgorithm,
        endorsement_auth: &[u8],
    ) -> Result<Self, TpmError> {
        match source {
            EkSource::Template => Self::create(connection, key, endorsement_auth),
            EkSource::Persistent(handle) => Self::find(connection, handle),
        }
    }

    fn create(connection: &Rc<Connection>, key: KeyAlgorithm, endorsement_auth: &[u8]) -> Result<Self, TpmError> {
        let mut command =
            Command::new(CREATE_PRIMARY).authorized(TPM_RH_ENDORSEMENT, Authorization::Password(endorsement_auth));
        create_parameters(&mut command.parameters, &template::ek(key)?);
        let response = command.send(connection).map_err(|error| match error {
            // The template is the only parameter that a TPM can object to.
            TpmError::Command { code, .. } if code.is_about_parameter() => TpmError::EkUnsupported { key, code },
            other => policy::explain_endorsement(other),
        })?;
        let (handle, public_2b) = response
            .read(true, |handle, reader| Ok((handle, reader.sized().map(with_size))))
            .and_then(|(handle, public)| Ok((handle, public.map_err(|_| response.malformed("outPublic"))?)))?;
        let loaded = Loaded::new(connection, handle);
        let public = decode(CREATE_PRIMARY.0, &public_2b)?;
        let access = access(&public).ok_or_else(|| response.malformed("authPolicy of the EK"))?;
        Ok(Ek { key: Key::Transient(loaded), public_2b, public, access })
    }

    fn find(connection: &Connection, handle: u32) -> Result<Self, TpmError> {
        let unusable = |cause| TpmError::EkHandle { handle, cause };
        let found = read_public(connection, handle).map_err(|error| match error {
            TpmError::Command { code, .. } if code.is_bad_handle() => unusable(EkHandleCause::Missing),
            other => other,
        })?;
        let public = decode(READ_PUBLIC.0, &found.public_2b)?;
        let storage = ObjectAttributes(ObjectAttributes::RESTRICTED.0 | ObjectAttributes::DECRYPT.0);
        if !public.object_attributes.contains(storage) {
            return Err(unusable(EkHandleCause::NotStorageKey));
        }
        let access = access(&public).ok_or_else(|| unusable(EkHandleCause::UnknownPolicy))?;
        Ok(Ek { key: Key::Persistent(handle), public_2b: found.public_2b, public, access })
    }

    pub(crate) fn handle(&self) -> u32 {
        match &self.key {
            Key::Transient(loaded) => loaded.handle(),
            Key::Persistent(handle) => *handle,
        }
    }

    /// Runs `use_key` with an authorization for one use of the EK.
    pub(crate) fn authorize<T>(
        &self,
        connection: &Rc<Connection>,
        endorsement_auth: &[u8],
        use_key: impl FnOnce(Authorization<'_>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        policy::authorize(connection, self.access, self.public.name_alg, endorsement_auth, use_key)
    }

    /// Public key and certificates. The password is for an owner hierarchy that has one.
    pub(crate) fn describe(&self, connection: &Connection, password: &[u8]) -> EkInfo {
        let index = certificate_index(&self.public);
        let certificate = match index {
            Some(index) => nv::certificate(connection, index, password),
            None => Ok(None),
        };
        let other_certificate = match (&certificate, index) {
            (Ok(None), Some(low @ (RSA_2048 | ECC_P256))) => {
                let high = if low == RSA_2048 { RSA_2048_HIGH } else { ECC_P256_HIGH };
                // A failure here has shown itself above.
                nv::exists(connection, high).is_ok_and(|exists| exists).then_some(high)
            }
            _ => None,
        };
        let chain = nv::certificate_chain(connection, password);
        let (certificate, certificate_problem) = split(certificate);
        let (chain, chain_problem) = split(chain);
        let certificate = certificate.flatten();
        EkInfo {
            public_2b: self.public_2b.clone(),
            spki_pem: self.public.to_spki_pem(),
            certificate_is_der: certificate.as_ref().is_none_or(|found| found.is_der),
            certificate: certificate.map(|found| found.bytes),
            certificate_problem,
            other_certificate,
            certificate_chain: chain.unwrap_or_default(),
            chain_problem,
        }
    }

    /// Flushes a transient EK; a persistent one stays.
    pub(crate) fn release(self) {
        if let Key::Transient(loaded) = self.key {
            loaded.release(&self.public_2b);
        }
    }
}

/// The parameters that TPM2_CreatePrimary and TPM2_Create share: inSensitive with empty authorization and data,
/// inPublic, no outsideInfo, no creation PCRs.
pub(crate) fn create_parameters(out: &mut Writer, template: &Writer) {
    out.u16(4).sized(&[]).sized(&[]);
    out.sized(template.as_slice());
    out.sized(&[]).u32(0);
}

fn split<T>(result: Result<T, TpmError>) -> (Option<T>, Option<TpmError>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

pub(crate) fn decode(command: &'static str, public_2b: &[u8]) -> Result<Public, TpmError> {
    Public::decode_2b(public_2b).map_err(|source| TpmError::Decode { command, source })
}

fn access(public: &Public) -> Option<EkAccess> {
    let user_with_auth = public.object_attributes.contains(ObjectAttributes::USER_WITH_AUTH);
    EkAccess::of(public.name_alg, &public.auth_policy, user_with_auth)
}

const RSA_2048: u32 = 0x01C0_0002;
const ECC_P256: u32 = 0x01C0_000A;
const RSA_2048_HIGH: u32 = 0x01C0_0012;
const ECC_P256_HIGH: u32 = 0x01C0_0014;

/// NV index of the certificate for an EK (TCG EK Credential Profile, "NV Index for EK Certificate").
fn certificate_index(public: &Public) -> Option<u32> {
    // RSA 2048 and P-256 have two templates each, which differ in nameAlg's policy and in userWithAuth.
    let high_range = public.name_alg == HashAlgorithm::Sha256 && access(public) == Some(EkAccess::PolicyB);
    match &public.key {
        PublicKey::Rsa { modulus, .. } => match modulus.len() * 8 {
            2048 if high_range => Some(RSA_2048_HIGH),
            2048 => Some(RSA_2048),
            3072 => Some(0x01C0_001C),
            4096 => Some(0x01C0_001E),
            _ => None,
        },
        PublicKey::Ecc { curve, .. } => match curve {
            Curve::NistP256 if high_range => Some(ECC_P256_HIGH),
            Curve::NistP256 => Some(ECC_P256),
            Curve::NistP384 => Some(0x01C0_0016),
            Curve::NistP521 => Some(0x01C0_0018),
            Curve::Sm2P256 => Some(0x01C0_001A),
            Curve::NistP192 | Curve::NistP224 => None,
        },
    }
}
